"""The contract of every strategy, and evolution's own rules."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from tables import toy

from archipelago.config.catalog import CATALOG, kinds, part
from archipelago.core.errors import ConfigError, JournalError
from archipelago.core.seeds import Seed
from archipelago.core.trial import Outcome
from archipelago.driver.live import Search
from archipelago.driver.replay import replay
from archipelago.estimate.table import Table
from archipelago.space.dims import Choice, Range, Repeat
from archipelago.space.space import Space
from archipelago.strategy.base import Memory, load, save
from archipelago.strategy.evolution import RegularizedEvolution
from archipelago.strategy.random import Random

SPACE = Space(
    {
        "layer": Repeat({"width": Choice((8, 16, 32)), "skip": Choice((False, True))}, Range(1, 3)),
        "act": Choice(("relu", "gelu", "tanh")),
    }
)
SMALL = Space({"a": Choice((1, 2, 3)), "b": Choice((False, True))})
LARGE = Space(
    {
        "op": Repeat({"name": Choice(("a", "b", "c", "d")), "size": Range(1, 9)}, Range(1, 5)),
        "width": Choice((8, 16, 32)),
    }
)
BARE = {"grid", "random"}
"""Strategies that learn nothing."""
LADDERS = {"successive-halving", "hyperband", "asha", "bohb"}
"""Strategies that ask for one network at several fidelities; their own tests are elsewhere."""
OTHERS = {"progressive-shrinking"}
"""Have a space of their own: their contract is kept in test_fednas.py."""
in_full = pytest.mark.parametrize("kind", sorted({*kinds("strategy")} - LADDERS - OTHERS))


@pytest.fixture(params=[kind for kind in kinds("strategy") if kind not in OTHERS])
def strategy(request):
    return part("strategy", request.param)


def scored(proposal):
    score = sum(v for k, v in proposal.arch.items() if k.endswith("width"))
    return Outcome(
        number=proposal.number,
        arch=proposal.arch,
        score=float(score),
        costs={"params": float(len(proposal.arch))},
        fidelity=proposal.fidelity,
    )


def failed(proposal):
    return Outcome(
        number=proposal.number,
        arch=proposal.arch,
        score=float("-inf"),
        status="failed",
        reason="out of memory",
        fidelity=proposal.fidelity,
    )


def run(strategy, batches, *, through_json=False, space=SPACE):
    search, seen = Search(strategy, space, Seed(3)), []
    for _ in range(batches):
        proposals = search.ask(4)
        if through_json:
            saved = json.loads(json.dumps(search.save()))
            search = Search.load(strategy, space, saved, search.tensors())
        seen += proposals
        search.tell(scored(p) for p in proposals)
    return seen


@pytest.mark.parametrize("space", [SPACE, LARGE], ids=["small", "large"])
def test_a_search_can_be_stopped_and_resumed_anywhere(strategy, space):
    assert run(strategy, 7, space=space) == run(strategy, 7, through_json=True, space=space)


def test_an_older_state_goes_on_as_if_nothing_had_come_after_it(strategy):
    state, proposals = strategy.ask(Memory(space=SPACE, seed=Seed(5)), 24)
    old = state.hear([scored(p) for p in proposals])
    expected = strategy.ask(old, 2)[1]
    new = old
    for _ in range(3):
        new, more = strategy.ask(new, 2)
        new = new.hear([scored(p) for p in more])
    assert strategy.ask(old, 2)[1] == expected


def test_what_arrives_late_and_in_another_order_resumes_alike(strategy):
    def go(through_json):
        state, waiting, seen = Memory(space=LARGE, seed=Seed(4)), [], []
        for turn in range(8):
            state, proposals = strategy.ask(state, 3)
            if through_json:
                state = load(LARGE, json.loads(json.dumps(save(state))))
            seen += proposals
            waiting = [*proposals, *waiting]
            told, waiting = waiting[turn % 2 :: 2], waiting[1 - turn % 2 :: 2]
            state = state.hear([failed(p) if p.number % 5 == 0 else scored(p) for p in told])
        return seen

    assert go(False) == go(True)


@in_full
def test_a_search_in_which_everything_fails_still_proposes_new_points(kind):
    strategy = part("strategy", kind)
    state, numbers = Memory(space=SPACE, seed=Seed(6)), []
    for _ in range(14):
        state, proposals = strategy.ask(state, 2)
        numbers += [p.number for p in proposals]
        state = state.hear([failed(p) for p in proposals])
    assert numbers == list(range(28))
    assert len(state.keys()) == 28


@in_full
def test_a_search_with_equal_scores_still_proposes_new_points(kind):
    strategy = part("strategy", kind)
    state = Memory(space=LARGE, seed=Seed(6))
    for _ in range(14):
        state, proposals = strategy.ask(state, 2)
        state = state.hear([replace(scored(p), score=1.0) for p in proposals])
    assert len(state.keys()) == 28


@in_full
def test_rows_missing_from_a_table_do_not_stop_a_search(kind):
    strategy = part("strategy", kind)
    trace = replay(strategy, toy(missing=range(0, 64, 3)), budget=64, seed=Seed(0), batch=3)
    assert len(trace.scores) == 64
    assert trace.incumbents[-1] == 8.0


@pytest.mark.parametrize("kind", sorted({*kinds("strategy")} - BARE - LADDERS - OTHERS))
def test_learning_strategies_beat_random_draws_on_a_smooth_table(kind):
    strategy = part("strategy", kind)
    space = Space({name: Choice((1, 2, 3, 4)) for name in "abcde"})
    rows = {space.places(arch): row for row, arch in enumerate(space.enumerate())}
    scores = np.array([float(sum(places)) for places in rows])
    params = np.array([float(places[0]) for places in rows])
    smooth = Table(
        name="smooth",
        space=space,
        rows=rows,
        scores={1.0: scores},
        report=scores,
        costs={"params": params},
    )
    if "objectives" in strategy.__slots__:
        strategy = replace(strategy, objectives=("score",))

    def best(which):
        return [replay(which, smooth, budget=60, seed=Seed(s)).incumbents[-1] for s in range(8)]

    assert np.mean(best(strategy)) > np.mean(best(Random()))


def test_proposals_are_numbered_members_and_never_repeat(strategy):
    seen = run(strategy, 12)
    assert [p.number for p in seen] == list(range(len(seen)))
    assert all(p.arch in SPACE for p in seen)
    # A point comes again only to be trained for longer.
    assert len({(SPACE.canonical(p.arch), p.fidelity) for p in seen}) == len(seen)
    assert all(p.parent is None or p.parent < p.number for p in seen)


def test_asking_for_more_than_the_space_holds_gives_what_there_is(strategy):
    state, proposals = strategy.ask(Memory(space=SMALL, seed=Seed(0)), 50)
    assert len(proposals) == 6
    for _ in range(9):
        state = state.hear([scored(p) for p in proposals])
        state, proposals = strategy.ask(state, 50)
        assert all(p.parent is not None for p in proposals), "only promotions are left"
    assert proposals == ()


def test_constraints_hold_before_anything_is_trained(strategy):
    state = Memory(space=SPACE, seed=Seed(1))
    _, proposals = strategy.ask(state, 5, lambda arch: arch["act"] == "gelu")
    assert {p.arch["act"] for p in proposals} == {"gelu"}
    assert strategy.ask(state, 5, lambda _: False)[1] == ()


def test_outcomes_that_make_no_sense_are_refused(strategy):
    state, (proposal, *_) = strategy.ask(Memory(space=SPACE, seed=Seed(2)), 2)
    with pytest.raises(ConfigError, match="never made"):
        state.hear([Outcome(number=99, arch=proposal.arch, score=1.0)])
    with pytest.raises(ConfigError, match="NaN"):
        state.hear([Outcome(number=0, arch=proposal.arch, score=float("nan"))])
    with pytest.raises(ConfigError, match="told twice"):
        state.hear([scored(proposal), scored(proposal)])
    with pytest.raises(ConfigError, match=r"not a Python number(.|\n)*str(.|\n)*float\("):
        state.hear([replace(scored(proposal), score="0.9")])
    other = next(arch for arch in SPACE.enumerate() if arch != proposal.arch)
    with pytest.raises(ConfigError, match="another architecture than proposal 0"):
        state.hear([replace(scored(proposal), arch=other)])
    with pytest.raises(ConfigError, match=r"another fidelity(.|\n)*proposal.fidelity"):
        state.hear([replace(scored(proposal), fidelity=0.9876)])
    assert state.tells == 0, "nothing of what was refused is taken"
    assert state.hear([scored(proposal)]).tells == 1


def test_a_state_of_another_space_or_version_is_refused(strategy):
    data = save(Memory(space=SPACE, seed=Seed(0)))
    with pytest.raises(JournalError, match="another space"):
        load(SMALL, data)
    with pytest.raises(JournalError, match="another version"):
        load(SPACE, {**data, "version": 99})


def test_children_differ_from_their_parent_in_one_choice():
    seen = run(RegularizedEvolution(population=4, sample=2), 8)
    children = [p for p in seen if p.parent is not None]
    assert children
    for child in children:
        parent = seen[child.parent].arch
        shared = child.arch.keys() & parent.keys()
        assert sum(child.arch[name] != parent[name] for name in shared) <= 1


def test_evolution_finds_better_networks_than_random():
    wins = 0
    for seed in range(10):
        best = []
        for strategy in (RegularizedEvolution(population=6, sample=3), Random()):
            state, scores = Memory(space=SPACE, seed=Seed(seed)), []
            for _ in range(12):
                state, proposals = strategy.ask(state, 2)
                told = [scored(p) for p in proposals]
                scores += [o.score for o in told]
                state = state.hear(told)
            best.append(max(scores))
        wins += best[0] > best[1] - (best[0] == best[1])
    assert wins >= 6


def test_comparing_more_parents_than_are_alive_says_how_to_mend_it():
    with pytest.raises(ConfigError, match=r"got: \(9, 5\)\n  fix: lower sample to 5"):
        RegularizedEvolution(population=5, sample=9)


def test_importing_strategies_loads_no_torch():
    modules = {path.partition(":")[0] for path in CATALOG["strategy"].values()}
    code = f"import sys, {', '.join(modules)}; assert not {{'torch', 'sklearn'}} & {{*sys.modules}}"
    subprocess.run([sys.executable, "-c", code], check=True)
