"""What holds of every estimator, on the wines of three clients."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from archipelago.client.worker import WorkerContext
from archipelago.core.seeds import Seed
from archipelago.core.trial import Proposal
from archipelago.data.partition import Iid
from archipelago.data.prepare import prepare
from archipelago.data.sources.bundled import Wine
from archipelago.data.split import Split
from archipelago.data.tasks import Classification
from archipelago.engine.serial import Serial
from archipelago.estimate.context import EvaluationContext
from archipelago.federation.branch import Generation
from archipelago.federation.federation import Federation
from archipelago.space.table_mlp import TableMlp

__all__ = ["CONTRACTS"]

_FAMILY = TableMlp(layers=2, widths=(4, 8))


@contextmanager
def _world() -> Iterator[tuple[EvaluationContext, Any]]:
    with tempfile.TemporaryDirectory(prefix="archipelago-") as folder:
        shards = prepare(
            Wine(), Iid(clients=6), Split(), Classification(), seed=Seed(7), directory=folder
        ).shards
        signature = shards.signature
        engine = Serial().start()
        engine.open(WorkerContext(shards=shards, task=signature.task))
        federation = Federation(
            engine=engine,
            task=signature.task,
            train_rows=shards.train_rows,
            validation_rows=shards.validation_rows,
            seed=Seed(7),
        )
        context = EvaluationContext(
            federation=federation,
            graph=lambda arch: _FAMILY.graph(arch, signature.shape, signature.outputs),
            clients=shards.training,
            scorers=shards.scoring,
        )
        yield context, _FAMILY.space(signature.shape, signature.outputs)
        engine.close()


def _proposals(space: Any, count: int) -> list[Proposal]:
    dice = Seed(3).rng()
    return [
        Proposal(number=number, arch=space.sample(dice), parent=None, fidelity=1.0)
        for number in range(count)
    ]


def every_proposal_has_an_outcome(part: Any) -> None:
    """The last step has one outcome a proposal, in their order, with its costs and a reason."""
    with _world() as (context, space):
        proposals = _proposals(space, min(2, part.width(len(context.clients))))
        last = list(part.run(part.start(proposals, 0, context), context))[-1].generation
    assert [o.number for o in last.outcomes] == [p.number for p in proposals]
    for outcome in last.outcomes:
        assert outcome.status != "failed" or outcome.reason
        assert {"params", "macs"} <= set(outcome.costs)


def a_generation_goes_on_from_any_step(part: Any) -> None:
    """Handed what was committed after a step, it ends with the same outcomes, bit for bit."""
    with _world() as (context, space):
        proposals = _proposals(space, min(2, part.width(len(context.clients))))
        steps = [step.generation for step in part.run(part.start(proposals, 0, context), context)]
        middle = steps[(len(steps) - 1) // 2]
        if middle.outcomes:
            return  # it has one step only
        text = json.dumps(middle.to_json())
        again = Generation.from_json(json.loads(text), middle.tensors())
        last = list(part.run(again, context))[-1].generation
    assert [o.to_json() for o in last.outcomes] == [o.to_json() for o in steps[-1].outcomes]


CONTRACTS = (every_proposal_has_an_outcome, a_generation_goes_on_from_any_step)
