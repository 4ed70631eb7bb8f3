"""The straightforward federated search: every client trains every candidate, every round.

Written apart from the library's plans, so that its cost is nobody's switches turned off. It shares
the candidates (the same strategy), the inheritance (the same slices), the client's training and
the seeds; test_fednas.py holds it against a race without drop and with one group, to the bit.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from archipelago.client.training import Assignment
from archipelago.core.buffers import join
from archipelago.core.trial import Outcome
from archipelago.nn.inherit import inherited
from archipelago.nn.model import Model
from archipelago.wire.frame import pack


def naive(
    *, shards: Any, task: Any, training: Any, seed: Any, strategy: Any, state: Any, narrower: Any,
    kept: dict[int, Any], rounds: int, validators: tuple[int, ...], phase: str = "search",
    seen: Callable[..., None] = lambda *_: None,
) -> Iterator[dict[str, float]]:  # fmt: skip
    """Yield the cost of each candidate; fill `kept`, number -> (graph, flat), in place."""
    clients = sorted(shards.training, key=lambda c: (-int(shards.train_rows[c]), c))
    while True:
        state, proposals = strategy.ask(state, 10_000)
        if not proposals:
            return
        outcomes: list[Outcome] = []
        for proposal in proposals:
            graph = narrower.graph(proposal.arch)
            flat = inherited(*kept[proposal.parent], graph)
            model = Model.of_graph(graph)
            frame = len(join(pack("model", {"graph": graph.to_json()}, [flat.numpy()])))
            cost = {"train_macs": 0, "macs": 0, "train_bytes": 0, "bytes": 0, "fits": 0}
            for turn in range(rounds):
                total, weight = torch.zeros(graph.layout.size), 0.0
                for client in clients:
                    model.load(flat)
                    x, y = shards.train(client)
                    stream = seed.child(phase, proposal.number, "round", turn, "client", client)
                    asked = Assignment(x=x, y=y, seed=stream, progress=turn / rounds,
                                       epochs=training.epochs)  # fmt: skip
                    done = training.fit(model, task, asked)
                    total.add_(model.flat.detach() - flat, alpha=float(len(y)))
                    weight += float(len(y))
                    cost["train_macs"] += 3 * graph.macs * done.examples
                    cost["train_bytes"] += 2 * frame
                    cost["fits"] += 1
                flat = flat + total.div_(weight)
            model.load(flat)
            model.eval()
            with torch.no_grad():
                rows = [shards.validation(c) for c in validators]
                vector = sum(task.statistics(model(x), y) for x, y in rows)
            cost["macs"] = cost["train_macs"] + graph.macs * sum(len(y) for _, y in rows)
            cost["bytes"] = cost["train_bytes"] + len(rows) * (frame + 8 * task.length)
            kept[proposal.number] = (graph, flat)
            metrics = {**task.metrics(vector), "loss": float(vector[1] / vector[0])}
            outcomes.append(Outcome(number=proposal.number, arch=proposal.arch,
                                    score=metrics["accuracy"], metrics=metrics))  # fmt: skip
            yield cost
        seen(proposals, outcomes)
        state = state.hear(outcomes)
