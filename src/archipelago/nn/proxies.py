"""Zero-cost proxies: a network's promise from one minibatch, before it is trained.

Every function leaves the network as it was: it works on a copy. Weights are those of convolutions,
linear and recurrent layers; biases and norms do not count. Higher is better.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor, nn

from archipelago.nn.build import BatchNorm, Function

__all__ = ["LABELLED", "PROXIES", "Loss", "proxy"]

Loss = Callable[[Tensor, Tensor], Tensor]
"""Logits and targets -> a scalar."""

_NORMS = (BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.modules.batchnorm._NormBase)
_ACTIVATIONS = (nn.ReLU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Tanh, nn.Sigmoid)
_K = 1e-5


def proxy(name: str, module: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> float:
    """Return one proxy of `module`; minus infinity where it is not defined.

    Args:
        name: one of `PROXIES`.
        module: with its initial weights; unchanged afterwards.
        x: rows, shape `[examples, ...]`.
        y: targets, shape `[examples, ...]`; only the proxies of `LABELLED` look at them.
        loss: of the task.
    """
    value = PROXIES[name](module, x, y, loss)
    return value if np.isfinite(value) else float("-inf")


def params(module: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> float:
    """Return the number of trained scalars: what every proxy must beat to be of use."""
    del x, y, loss
    return float(sum(parameter.numel() for parameter in module.parameters()))


def grad_norm(module: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> float:
    r"""Return $\sum_l \lVert \partial L / \partial W_l \rVert_2$ over the layers.

    References:
        Abdelfattah et al. 2021, arXiv:2101.08134, section 3.2.
    """
    weights = _differentiated(module, x, y, loss)
    return sum(_gradient(w).norm().item() for w in weights)


def snip(module: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> float:
    r"""Return $\sum |W \odot \partial L / \partial W|$: the loss's change without a weight.

    References:
        Lee et al. 2019, arXiv:1810.02340, equation 4, summed over the network.
    """
    weights = _differentiated(module, x, y, loss)
    return sum((w.detach() * _gradient(w)).abs().sum().item() for w in weights)


def synflow(module: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> float:
    r"""Return $\sum |W \odot \partial R / \partial W|$, $R$ the output for ones under $|W|$.

    Needs no data: of `x` only the shape counts. Norms are passed by; computed in float64.

    References:
        Tanaka et al. 2020, arXiv:2006.05467, equation 2; as in Abdelfattah et al. 2021.
    """
    del y, loss
    network = deepcopy(module).double().eval()
    for part in network.modules():
        if isinstance(part, _NORMS):
            part.forward = _same  # pyright: ignore[reportAttributeAccessIssue]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.grad = None
            parameter.abs_()
    network(torch.ones(1, *x.shape[1:], dtype=torch.float64)).sum().backward()
    return sum((w.detach() * _gradient(w)).abs().sum().item() for w in _weights(network))


def jacobian(module: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> float:
    r"""Return $-\sum_i \log(v_i + k) + 1 / (v_i + k)$ of the correlations of input gradients.

    $v$ are the eigenvalues of the correlation matrix of $\partial (\sum_k f_k) / \partial x_i$ over
    the examples, $k = 10^{-5}$: networks that see examples differently have larger values.

    References:
        Mellor et al. 2021, arXiv:2006.04647v1, equation 5.
    """
    del y, loss
    if len(x) < 2:
        return float("-inf")
    network, inputs = _trainable(module), x.clone().requires_grad_(True)
    network(inputs).sum().backward()
    rows = _gradient(inputs).flatten(1).double().numpy()
    if not np.isfinite(rows).all() or (rows.std(axis=1) == 0).any():
        return float("-inf")
    values = np.maximum(np.linalg.eigvalsh(np.corrcoef(rows)), 0)
    return float(-np.sum(np.log(values + _K) + 1 / (values + _K)))


def naswot(module: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> float:
    r"""Return $\log |\det K|$, $K_{ij}$ the activations on which examples i and j agree.

    References:
        Mellor et al. 2021, arXiv:2006.04647, section 3 (code c: whether an activation's input is
        positive; $K = \sum c c^T + (1 - c)(1 - c)^T$).
    """
    del y, loss
    network = _trainable(module)
    kernel = torch.zeros(len(x), len(x), dtype=torch.float64)

    def count(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        code = (inputs[0].detach().flatten(1) > 0).double()
        kernel.add_(code @ code.T).add_((1 - code) @ (1 - code).T)

    for part in network.modules():
        if isinstance(part, _ACTIVATIONS) or (isinstance(part, Function) and part.op == "act"):
            part.register_forward_pre_hook(count)
    with torch.no_grad():
        network(x)
    sign, value = np.linalg.slogdet(kernel.numpy())
    return float(value) if sign else float("-inf")


PROXIES: Mapping[str, Callable[[nn.Module, Tensor, Tensor, Loss], float]] = {
    "synflow": synflow,
    "naswot": naswot,
    "jacobian": jacobian,
    "snip": snip,
    "grad-norm": grad_norm,
    "params": params,
}
LABELLED = ("snip", "grad-norm")
"""Proxies that need targets."""


def _same(x: Tensor) -> Tensor:
    return x


def _weights(module: nn.Module) -> list[Tensor]:
    return [parameter for parameter in module.parameters() if parameter.ndim >= 2]


def _gradient(tensor: Tensor) -> Tensor:
    # A layer that the output does not depend on has none.
    return tensor.grad if tensor.grad is not None else torch.zeros_like(tensor)


def _trainable(module: nn.Module) -> nn.Module:
    """Return a copy that normalises by batch and drops nothing: chance plays no part."""
    network = deepcopy(module).train()
    for part in network.modules():
        if isinstance(part, nn.Dropout):
            part.eval()
    for parameter in network.parameters():
        parameter.grad = None
    return network


def _differentiated(module: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> list[Tensor]:
    network = _trainable(module)
    loss(network(x), y).backward()
    return _weights(network)
