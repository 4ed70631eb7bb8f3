"""Loop one on a table: journal, resume and budget as in a real search, outcomes as in a replay."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from tables import toy

from archipelago.core.errors import ConfigError
from archipelago.core.failpoint import VARIABLE
from archipelago.core.seeds import Seed
from archipelago.driver.budget import Budget
from archipelago.driver.loop import Position, Stage, explore
from archipelago.driver.record import Recorder
from archipelago.driver.replay import replay
from archipelago.estimate.context import Estimator
from archipelago.estimate.mb432 import LENGTHS, mb432
from archipelago.estimate.tabular import Tabular
from archipelago.journal.journal import Journal
from archipelago.space.graph import Graph, Node
from archipelago.strategy.base import Memory, load
from archipelago.strategy.evolution import RegularizedEvolution
from archipelago.strategy.grid import Grid
from archipelago.strategy.halving import SuccessiveHalving
from archipelago.strategy.hyperband import Hyperband
from archipelago.strategy.random import Random

RUNGS = tuple(length / 12 for length in LENGTHS)
STRATEGIES = [
    Random(),
    RegularizedEvolution(population=10, sample=5),
    SuccessiveHalving(rungs=RUNGS, sizes=(27, 9, 4, 2)),
    Hyperband(rungs=RUNGS),
]
TRIALS = 45
SEED = Seed(7)
MICRO = mb432()
CHOOSING = Path(__file__).parents[1] / "docs" / "choosing-a-strategy.md"


def stage(strategy, trials=TRIALS, table=MICRO, **options):
    estimator = Tabular(table, **options)
    return Stage(
        name="search",
        space=table.space,
        strategy=strategy,
        estimator=estimator,
        context=estimator.context(SEED),
        budget=Budget(trials=trials),
        seed=SEED,
    )


def steps(journal, stage):
    """Go on from the journal's last commit."""
    last, position = journal.last(full=True), Position()
    if last:
        tensors = {name: journal.get(digest) for name, digest in last.blobs.items()}
        position = Position.from_json(last.state, tensors)
    return explore(stage, Recorder(journal), position, Position.to_json)


def run(stage, directory):
    with Journal.create(directory, meta={}) as journal:
        *_, (position, _) = steps(journal, stage)
        return position, list(journal.outcomes())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Searches that nobody interrupted, one a strategy."""
    place = tmp_path_factory.mktemp("whole")
    return {s.kind: run(stage(s), place / s.kind) for s in STRATEGIES}


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: s.kind)
@pytest.mark.parametrize("batch", [1, 4])
def test_outcomes_equal_those_of_a_replay(strategy, batch, whole, tmp_path):
    trace = replay(strategy, MICRO, budget=60, seed=SEED, batch=batch)
    position, outcomes = whole[strategy.kind]
    if batch > 1:
        position, outcomes = run(stage(strategy, candidates=batch), tmp_path / "run")
    assert position.trials == len(outcomes) == TRIALS
    assert outcomes == list(trace.state.told)[:TRIALS]
    assert load(MICRO.space, position.strategy).asked[:] == trace.state.asked[:TRIALS]
    full = [o for o in outcomes if o.fidelity == 1.0]
    assert position.champion.outcome == max(full, key=lambda o: o.score)
    assert {o.fidelity for o in outcomes} <= set(RUNGS)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: s.kind)
def test_a_search_that_was_left_goes_on_to_the_same_outcomes(strategy, whole, tmp_path):
    with Journal.create(tmp_path / "parts", meta={}) as journal:
        for _ in islice(steps(journal, stage(strategy)), 28):
            pass
    with Journal.open(tmp_path / "parts", write=True) as journal:
        *_, (position, _) = steps(journal, stage(strategy))
        assert list(journal.outcomes()) == whole[strategy.kind][1]
    assert position.to_json() == whole[strategy.kind][0].to_json()


def test_a_generation_under_way_goes_on_from_its_json():
    search = stage(RegularizedEvolution(), trials=4, candidates=4)
    _, proposals = search.strategy.ask(Memory(space=search.space, seed=SEED), 4)
    generation = search.estimator.start(proposals, 0, search.context)
    generation = type(generation).from_json(generation.to_json(), generation.tensors())
    (step,) = search.estimator.run(generation, search.context)
    assert step.generation.outcomes == tuple(MICRO.outcome(p) for p in proposals)
    assert list(search.estimator.run(step.generation, search.context)) == []
    assert isinstance(search.estimator, Estimator)


KILLED = """
import sys
sys.path.insert(0, {tests!r})
from test_tabular import *
run(stage(STRATEGIES[2]), Path({directory!r}))
"""


def test_a_killed_search_ends_with_the_same_outcomes(whole, tmp_path):
    directory = tmp_path / "killed"
    code = KILLED.format(tests=str(Path(__file__).parent), directory=str(directory))
    killed = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, VARIABLE: "row-uncommitted:30"}
    )
    assert killed.returncode == -9
    with Journal.open(directory, write=True) as journal:
        assert 0 < len(list(journal.outcomes())) < TRIALS
        assert list(steps(journal, stage(STRATEGIES[2])))
        assert list(journal.outcomes()) == whole["successive-halving"][1]


def test_a_missing_row_is_a_failed_outcome_with_its_reason(tmp_path):
    position, outcomes = run(
        stage(Grid(), 64, toy(missing=(63, 5)), candidates=8), tmp_path / "run"
    )
    failed = [o for o in outcomes if o.status == "failed"]
    assert [o.number for o in failed] == [5, 63]
    assert {o.reason for o in failed} == {"toy has no measurement of it"}
    assert (position.trials, position.champion.outcome.score) == (64, 8.0)


def test_a_fidelity_that_was_not_measured_stops_the_search(tmp_path):
    with pytest.raises(ConfigError, match="no scores at this fidelity"):
        run(stage(Hyperband()), tmp_path / "run")


def test_a_budget_counts_full_trainings(tmp_path):
    counted = Budget(trials=500, macs=5 * 1200)
    search = replace(stage(STRATEGIES[2], macs=1200), budget=counted)
    position, outcomes = run(search, tmp_path / "run")
    spent = [1200 * o.fidelity for o in outcomes]
    assert sum(spent) >= 6000 > sum(spent[:-1])
    with Journal.open(tmp_path / "run", write=False) as journal:
        assert journal.cost("search")["macs"] == pytest.approx(sum(spent))
    assert position.trials == len(outcomes)


def test_an_arena_of_networks_gives_the_best_one_to_train(tmp_path):
    def graph(arch):
        return Graph((4,), (Node("out", "linear", ("input",), (("features", arch["a"]),)),))

    search = stage(Grid(), 64, toy(), candidates=8)
    search = replace(search, context=replace(search.context, graph=graph))
    position, _ = run(search, tmp_path / "run")
    assert position.champion.graph == graph(position.champion.outcome.arch)
    with Journal.open(tmp_path / "run", write=False) as journal:
        weights = Recorder(journal).get(position.champion.digest)
    assert weights.numel() == position.champion.graph.layout.size


@pytest.mark.parametrize(
    ("options", "text"), [({"candidates": 0}, "candidates"), ({"macs": -1}, "macs")]
)
def test_bad_options_are_refused(options, text):
    with pytest.raises(ConfigError, match=f"estimator.{text}"):
        Tabular(MICRO, **options)


def test_the_example_in_the_documentation_runs(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", CHOOSING.read_text("utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    assert names["position"].trials == 60
    assert capsys.readouterr().out == f"{names['position'].champion.outcome.score}\n"
    with Journal.open(tmp_path / "mb432-search", write=False) as journal:
        assert len(list(journal.outcomes())) == 60
