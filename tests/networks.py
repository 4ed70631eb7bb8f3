"""What every network that a space builds must do."""

import torch

from archipelago.core.seeds import Seed
from archipelago.nn.model import Model


def agrees(graph, shape, outputs):
    """Build, run and differentiate a graph; torch must count what the graph said."""
    model = Model.of_graph(graph, Seed(0)).train()
    assert sum(p.numel() for p in model.module.parameters()) == graph.params
    state = {name: tuple(tensor.shape) for name, tensor in model.module.state_dict().items()}
    assert state == {leaf.name: leaf.shape for leaf in graph.layout.leaves}
    counted = []
    for name, child in model.module.named_children():
        child.register_forward_hook(
            lambda m, args, out, name=name: counted.append(_macs(name, m, args[0], out))
        )
    out = model(torch.randn(2, *shape))
    assert out.shape == (2, outputs)
    assert out.isfinite().all()
    assert sum(counted) == graph.macs
    out.square().mean().backward()
    assert model.grad.isfinite().all()
    assert model.grad.abs().sum() > 0


def _macs(name, module, x, out):
    """Count from what torch computed: weights times the places where they are used."""
    if isinstance(module, torch.nn.GRU):
        return sum(p.numel() for n, p in module.named_parameters() if "weight" in n) * x.shape[1]
    if isinstance(module, torch.nn.Linear):
        return module.weight.numel()
    if isinstance(module, torch.nn.Conv1d | torch.nn.Conv2d):
        return module.weight.numel() * out[0, 0].numel()
    return 0
