"""What an estimator forecasts is what the meter then counts."""

from dataclasses import replace

import pytest

from archipelago.client.training import LocalTraining
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
from archipelago.estimate.forecast import Forecast, Outlook
from archipelago.estimate.race import Race
from archipelago.estimate.rounds import Rounds
from archipelago.estimate.tabular import Tabular
from archipelago.estimate.zero_cost import ZeroCost
from archipelago.federation.buffer import Synchronous
from archipelago.federation.cohort import Cohort
from archipelago.federation.federation import Federation
from archipelago.space.table_mlp import TableMlp

CLIENTS, SEED = 12, Seed(2)
"""As many as 2, 3, 4 and 6 groups share out evenly: a forecast counts equal groups."""
STILL = {"growth": "constant", "first": 4, "last": 4}


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    parts = Wine(), Iid(clients=CLIENTS), Split(), Classification()
    shards = prepare(*parts, seed=SEED, directory=tmp_path_factory.mktemp("rows")).shards
    signature, engine = shards.signature, Serial().start()
    engine.open(WorkerContext(shards=shards, task=signature.task))
    federation = Federation(
        engine=engine,
        task=signature.task,
        train_rows=shards.train_rows,
        validation_rows=shards.validation_rows,
        seed=SEED,
        training=LocalTraining(learning_rate=0.01, epochs=2),
        cohort=Cohort(clients=2, fraction=1.0, minimum=1),
    )
    yield EvaluationContext(
        federation=federation,
        graph=lambda arch: TableMlp().graph(arch, signature.shape, signature.outputs),
        clients=shards.training,
        scorers=shards.scoring,
        parent=lambda number: None,
    )
    engine.close()


def outlook(context):
    federation, cohort = context.federation, context.federation.cohort
    return Outlook(
        clients=len(context.clients),
        scorers=len(context.scorers),
        replies=lambda group, asked: Synchronous().replies(
            replace(cohort, clients=asked) if asked else cohort, group
        ),
        examples=float(federation.train_rows.mean()) * federation.training.epochs,
        validated=float(federation.validation_rows[list(context.scorers)].mean()),
    )


def asked(count, parent=None, fidelity=1.0):
    """Return proposals of one network, so that a visit costs the same whoever is dropped.

    A large one: a forecast counts its weights, not the some hundred bytes of a frame around them.
    """
    space, rng = TableMlp().space((13,), 3), SEED.rng()
    drawn = (space.sample(rng) for _ in range(30))
    arch = max(drawn, key=lambda arch: TableMlp().graph(arch, (13,), 3).params)
    return [Proposal(number=n, arch=arch, parent=parent, fidelity=fidelity) for n in range(count)]


PLANS = {
    "rounds": (Rounds(rounds=3, every=2), asked(2)),
    "rounds, scored once by some": (Rounds(rounds=3, validators=2), asked(2)),
    "rounds, a third": (Rounds(rounds=9), asked(3, fidelity=1 / 3)),
    "rounds, a third of the clients": (Rounds(rounds=3, spend="clients"), asked(3, fidelity=1 / 3)),
    "race": (Race(candidates=3, **STILL), asked(3)),
    "race of six, checked every second round": (Race(checkpoint=2, **STILL), asked(6)),
    "race by fractions": (Race(drop="fraction", **STILL), asked(6)),
    "race without drop": (Race(drop="none", **STILL), asked(3)),
    "race in turns": (Race(drop="none", groups=2, **STILL), asked(5)),
    "race in turns, halved": (Race(groups=2, **STILL), asked(6)),
    "race of few": (Race(drop="none", sample=1, **STILL), asked(3)),
    "race of groups of one": (Race(drop="none", group=1, **STILL), asked(4)),
    "screened": (Race(inherit=True, screen=2, drop="none", **STILL), asked(4, parent=0)),
    "screened to one": (Race(inherit=True, screen=1, **STILL), asked(4, parent=0)),
    "dropped before training": (Race(inherit=True, checkpoint=0, **STILL), asked(4, parent=0)),
    "warm": (Race(inherit=True, warm=3), asked(1)),
    "growing": (Race(drop="none", first=1, last=5, generations=5), asked(2)),
    "growing after a warm start": (
        Race(drop="none", first=1, last=5, generations=5, inherit=True, warm=3),
        asked(2, parent=0),
    ),
    "zero-cost": (ZeroCost(proxy="params", validators=4), asked(3)),
    "zero-cost on the server": (ZeroCost(where="server", proxy="naswot"), asked(3)),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_forecast_is_what_the_meter_counts(name, context):
    estimator, proposals = PLANS[name]
    networks = [context.graph(p.arch) for p in proposals]
    told = estimator.forecast(proposals, networks, 2, outlook(context))
    steps = list(estimator.run(estimator.start(proposals, 2, context), context))
    rows = [row for step in steps for row in step.rows]
    fits = [row for row in rows if row.kind == "fit"]
    assert told.fits == len(fits)
    assert told.evaluations == len(rows) - len(fits)
    idle = sum(not step.losses for step in steps) if len(steps) > 1 else 0
    assert told.rounds == len(steps) - idle
    if estimator.kind != "zero-cost":  # a proxy has costs of its own
        moved = sum(row.bytes_up + row.bytes_down for row in rows)
        assert told.bytes == pytest.approx(moved, rel=0.1)
        assert told.macs == pytest.approx(sum(row.macs for row in rows), rel=0.1)


def test_a_table_forecasts_what_its_meter_will_count():
    from tables import toy

    table = Tabular(toy(), macs=100)
    told = table.forecast(asked(3, fidelity=0.5), [], 0, None)
    assert (told.rounds, told.fits, told.macs, told.bytes) == (1, 0, 150, 0)


def test_forecasts_add_up_and_keep_the_largest_risk():
    small, large = Forecast(rounds=2, fits=3, risk=0.1), Forecast(rounds=1, macs=5.0, risk=0.3)
    assert small + large == Forecast(rounds=3, fits=3, macs=5.0, risk=0.3)
    assert (small + large + Forecast(risk=None) + small).risk is None
