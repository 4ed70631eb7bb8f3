"""What a strategy and an estimator keep of their own, and what else an outcome may carry."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from tables import toy

from archipelago import PartState, Search
from archipelago.core.errors import ConfigError, JournalError, RunFailed
from archipelago.core.failpoint import VARIABLE
from archipelago.core.seeds import Seed
from archipelago.core.trial import Outcome
from archipelago.driver.budget import Budget
from archipelago.driver.loop import Position, Stage, explore
from archipelago.driver.record import Recorder
from archipelago.driver.replay import replay
from archipelago.estimate.tabular import Tabular
from archipelago.journal.journal import Journal
from archipelago.space.dims import Choice
from archipelago.space.space import Space
from archipelago.strategy.base import load, save
from archipelago.strategy.controller import Controller
from archipelago.strategy.random import Random

SPACE = toy().space
SEED = Seed(3)


@dataclass(frozen=True)
class Bandit:
    """Prefers the options that paid. What it was asked for counts too: no outcome tells that."""

    def ask(self, state, n, allowed=None):
        own = state.learned or PartState(data={"asks": 0, "heard": 0}, tensors=self._start(state))
        worth, before = {k: t.clone() for k, t in own.tensors.items()}, state.asks
        for outcome in state.told[own.data["heard"] :]:
            for slot, place in zip(
                state.space.slots, state.space.places(outcome.arch), strict=True
            ):
                worth[slot.name][place] += outcome.score / 7
        turn = own.data["asks"]
        state = state.learn(PartState(data={"asks": turn + n, "heard": state.tells}, tensors=worth))

        def draw(rng):
            return {
                slot.name: rng.choices(slot.options, torch.softmax(worth[slot.name], 0).tolist())[0]
                for slot in state.space.slots
            }

        for _ in range(n):
            state = state.add(state.fresh(draw, allowed), fidelity=1.0)
        return state, state.asked[before:]

    def _start(self, state):
        return {slot.name: torch.zeros(len(slot.options)) for slot in state.space.slots}


@dataclass(frozen=True, slots=True)
class Counting(Tabular):
    """Two rounds a generation; counts them in a tensor that outlives it, and scores by it."""

    def run(self, generation, context):
        while not generation.outcomes:
            own = generation.state or PartState(tensors={"rounds": torch.zeros(1)})
            rounds = own.tensors["rounds"] + 1
            state = PartState(data={"generation": generation.index}, tensors={"rounds": rounds})
            generation = replace(generation, state=state)
            (step,) = Tabular.run(self, generation, context)
            if rounds.item() % 2:
                step = replace(step, generation=generation)
            else:
                told = tuple(self._told(o, rounds) for o in step.generation.outcomes)
                step = replace(step, generation=replace(step.generation, outcomes=told))
            generation = step.generation
            yield step

    def _told(self, outcome, rounds):
        score = outcome.score + rounds.item() / 3
        return replace(outcome, score=score, leaves={"alpha": rounds * 1.5, "why": ["x", 1]})


def stage(strategy, estimator):
    context = estimator.context(SEED)
    return Stage(
        name="search",
        space=SPACE,
        strategy=strategy,
        estimator=estimator,
        context=context,
        budget=Budget(trials=12),
        seed=SEED,
    )


def both():
    return stage(Bandit(), Counting(toy(), candidates=3))


class Eager(Recorder):
    """Writes tensors after every round."""

    def round(self, *args, **more):
        self._due = 0.0
        super().round(*args, **more)


def steps(journal, stage):
    last, position = journal.last(full=True), Position()
    recorder = Eager(journal)
    if last:
        journal.rollback(last.number)
        tensors = {name: recorder.get(digest) for name, digest in last.blobs.items()}
        position = Position.from_json(last.state, tensors)
    return explore(stage, recorder, position, Position.to_json)


def found(position, journal):
    """Return everything that a run leaves, as text."""
    tensors = {name: tensor.tolist() for name, tensor in position.tensors().items()}
    pins = {name: digest for name, digest in journal.pins().items() if name.startswith("leaf/")}
    outcomes = [outcome.to_json() for outcome in journal.outcomes()]
    return json.dumps([position.to_json(), tensors, pins, outcomes])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    with Journal.create(tmp_path_factory.mktemp("whole") / "run", meta={}) as journal:
        *_, (position, _) = steps(journal, both())
        yield position, journal, found(position, journal)


def test_own_states_outlive_generations_and_are_committed(whole):
    position, journal, _ = whole
    assert position.trials == 12
    assert position.estimator.tensors["rounds"].tolist() == [8.0]
    assert position.estimator.data == {"generation": 3}
    assert position.strategy["version"] == 2
    assert position.strategy["learned"]["data"] == {"asks": 12, "heard": 9}
    assert set(journal.last(full=True).blobs) == {
        "estimator/rounds",
        *(f"strategy/{slot.name}" for slot in SPACE.slots),
    }


def test_a_run_left_after_any_round_goes_on_to_the_same_bits(whole, tmp_path):
    for rounds in range(1, 8):
        with Journal.create(tmp_path / str(rounds), meta={}) as journal:
            for _ in islice(steps(journal, both()), rounds):
                pass
        with Journal.open(tmp_path / str(rounds), write=True) as journal:
            *_, (position, _) = steps(journal, both())
            assert found(position, journal) == whole[2], rounds


KILLED = """
import sys
sys.path.insert(0, {tests!r})
from test_part_state import *
with Journal.create(Path({directory!r}), meta={{}}) as journal:
    list(steps(journal, both()))
"""


def test_a_killed_run_goes_on_to_the_same_bits(whole, tmp_path):
    directory = tmp_path / "killed"
    code = KILLED.format(tests=str(Path(__file__).parent), directory=str(directory))
    environment = {**os.environ, VARIABLE: "row-uncommitted:8"}
    killed = subprocess.run([sys.executable, "-c", code], env=environment)
    assert killed.returncode == -9
    with Journal.open(directory, write=True) as journal:
        assert 0 < len(list(journal.outcomes())) < 12
        *_, (position, _) = steps(journal, both())
        assert found(position, journal) == whole[2]


def test_leaves_are_journaled_and_tensors_among_them_are_kept_for_good(whole):
    position, journal, _ = whole
    for outcome in journal.outcomes():
        digest = outcome.leaves["alpha"]["digest"]
        turn = 2 * (outcome.number // 3 + 1)
        assert Recorder(journal).get(digest).tolist() == [1.5 * turn]
        assert journal.pins()[f"leaf/search/{outcome.number}/alpha"] == digest
        assert outcome.leaves["why"] == ["x", 1]
    told = load(SPACE, position.strategy, position.learned).told
    assert list(told) == list(journal.outcomes()), "a strategy hears them too"


def test_an_outcome_without_leaves_is_written_as_before():
    outcome = Outcome(number=0, arch={"a": 1}, score=1.0)
    assert "leaves" not in outcome.to_json()
    more = replace(outcome, leaves={"alpha": [0.5, {"b": None}]})
    assert Outcome.from_json(json.loads(json.dumps(more.to_json()))) == more
    assert Outcome.from_json(outcome.to_json()) == outcome


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(2, dtype=torch.int64),
        torch.zeros(2, 2),
        torch.zeros(2, dtype=torch.float64),
        torch.zeros(2, requires_grad=True),
    ],
    ids=["whole numbers", "matrix", "double", "graph"],
)
def test_a_tensor_that_would_come_back_changed_is_refused(tensor, tmp_path, monkeypatch):
    with pytest.raises(RunFailed, match=r"flat float32(.|\n)*fix: keep"):
        PartState(tensors={"mine": tensor})
    monkeypatch.setattr(Counting, "_told", lambda self, o, _: replace(o, leaves={"alpha": tensor}))
    with (
        Journal.create(tmp_path / "run", meta={}) as journal,
        pytest.raises(RunFailed, match="leaf 'alpha' of outcome 0"),
    ):
        list(steps(journal, both()))


@pytest.mark.parametrize("data", [(1, 2), {1: "a"}, {"a": [torch.zeros(1)]}, {"a": {"b": {3}}}])
def test_data_that_would_come_back_changed_is_refused(data, tmp_path, monkeypatch):
    with pytest.raises(RunFailed, match=r"plain JSON data(.|\n)*fix: use text"):
        PartState(data={"mine": data})
    monkeypatch.setattr(Counting, "_told", lambda self, o, _: replace(o, leaves={"why": data}))
    with (
        Journal.create(tmp_path / "run", meta={}) as journal,
        pytest.raises(RunFailed, match="leaf 'why' of outcome 0"),
    ):
        list(steps(journal, both()))


def test_records_without_own_states_stay_as_they_were(tmp_path):
    with Journal.create(tmp_path / "run", meta={}) as journal:
        *_, (position, _) = steps(journal, stage(Random(), Tabular(toy(), candidates=3)))
        record = position.to_json()
        assert journal.last(full=True).blobs == {}
    assert "estimator" not in record
    assert record["strategy"]["version"] == 1
    assert set(record["strategy"]) == {"version", "space", "seed", "asked", "told"}
    assert Position.from_json(record, {}).to_json() == record


def test_an_older_state_keeps_what_the_strategy_knew_then():
    search = Search(Bandit(), SPACE, SEED)
    outcomes = [Outcome(number=p.number, arch=p.arch, score=5.0) for p in search.ask(4)]
    search.tell(outcomes)
    old = search.state
    expected = Bandit().ask(old, 2)[1]
    for _ in range(3):
        search.tell(Outcome(number=p.number, arch=p.arch, score=-9.0) for p in search.ask(2))
    assert Bandit().ask(old, 2)[1] == expected
    assert old.learned.data == {"asks": 4, "heard": 0}


# A live search


def test_a_live_search_refuses_what_makes_no_sense_and_goes_on():
    search = Search(Random(), SPACE, 3)
    assert search.state.seed == SEED
    first, second = search.ask(2)
    good = Outcome(number=0, arch=first.arch, score=1.0)
    cases = {
        "never made": replace(good, number=2),
        "NaN": replace(good, score=float("nan")),
        "another architecture": replace(good, arch=second.arch),
        "another fidelity": replace(good, fidelity=0.5),
        "Python number": replace(good, score=torch.tensor(1.0)),
    }
    for text, bad in cases.items():
        fine = Outcome(number=1, arch=second.arch, score=2.0)
        with pytest.raises(ConfigError, match=text):
            search.tell([fine, bad])
        assert search.state.tells == 0
    with pytest.raises(ConfigError, match=r"not an outcome(.|\n)*tell Outcome"):
        search.tell([0.9])
    search.tell(good)
    with pytest.raises(ConfigError, match="told twice"):
        search.tell(good)
    with pytest.raises(ConfigError, match="n"):
        search.ask(-1)
    assert [o.score for o in search.state.told] == [1.0]
    assert len(search.ask(3)) == 3


def test_a_live_search_goes_on_from_what_it_saved():
    search = Search(Bandit(), SPACE, SEED, allowed=lambda arch: arch["a"] != 1)
    for _ in range(4):
        search.tell(Outcome(number=p.number, arch=p.arch, score=2.0) for p in search.ask(2))
    text, tensors = json.dumps(search.save()), search.tensors()
    again = Search.load(Bandit(), SPACE, json.loads(text), tensors, allowed=search.allowed)
    assert again.ask(3) == search.ask(3)
    with pytest.raises(JournalError, match="another space"):
        Search.load(Bandit(), Space({"z": Choice((1, 2))}), json.loads(text), tensors)
    with pytest.raises(JournalError, match="another version"):
        load(SPACE, {**save(search.state), "version": 3})


def test_a_search_learns_from_each_outcome_once(tmp_path, monkeypatch):
    from archipelago.strategy import controller

    learned, learn = [], controller._Writer._learn
    monkeypatch.setattr(
        controller._Writer, "_learn", lambda self, *args: (learned.append(1), learn(self, *args))
    )
    search = stage(Controller(), Tabular(toy()))
    with Journal.create(tmp_path / "run", meta={}) as journal:
        *_, (position, _) = steps(journal, search)
        assert len(learned) == 11  # what came last teaches nobody: nothing is asked after it
        outcomes = list(journal.outcomes())
    learned.clear()
    trace = replay(Controller(), toy(), budget=12, seed=SEED)
    assert outcomes == list(trace.state.told)
    with Journal.create(tmp_path / "parts", meta={}) as journal:
        for _ in islice(steps(journal, search), 6):
            pass
    learned.clear()
    with Journal.open(tmp_path / "parts", write=True) as journal:
        *_, (again, _) = steps(journal, search)
    assert len(learned) == 11, "after a restart each is learned once more, and no more than once"
    assert again.to_json() == position.to_json()
