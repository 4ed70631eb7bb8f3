"""The contract of every strategy, and evolution's own rules."""

import json
import subprocess
import sys

import pytest

from archipelago.config.catalog import kinds, part
from archipelago.core.errors import ConfigError, JournalError
from archipelago.core.seeds import Seed
from archipelago.core.trial import Outcome
from archipelago.space.dims import Choice, Range, Repeat
from archipelago.space.space import Space
from archipelago.strategy.base import load, save
from archipelago.strategy.evolution import RegularizedEvolution
from archipelago.strategy.random import Random

SPACE = Space(
    {
        "layer": Repeat({"width": Choice((8, 16, 32)), "skip": Choice((False, True))}, Range(1, 3)),
        "act": Choice(("relu", "gelu", "tanh")),
    }
)
SMALL = Space({"a": Choice((1, 2, 3)), "b": Choice((False, True))})


@pytest.fixture(params=kinds("strategy"))
def strategy(request):
    return part("strategy", request.param)


def scored(proposal):
    score = sum(v for k, v in proposal.arch.items() if k.endswith("width"))
    return Outcome(
        number=proposal.number,
        arch=proposal.arch,
        score=float(score),
        fidelity=proposal.fidelity,
    )


def run(strategy, batches, *, through_json=False, space=SPACE):
    state, seen = strategy.init(space, Seed(3)), []
    for _ in range(batches):
        state, proposals = strategy.ask(state, 4)
        if through_json:
            state = load(space, json.loads(json.dumps(save(state))))
        seen += proposals
        state = strategy.tell(state, [scored(p) for p in proposals])
    return seen


def test_a_search_can_be_stopped_and_resumed_anywhere(strategy):
    assert run(strategy, 10) == run(strategy, 10, through_json=True)


def test_proposals_are_numbered_members_and_never_repeat(strategy):
    seen = run(strategy, 12)
    assert [p.number for p in seen] == list(range(len(seen)))
    assert all(p.arch in SPACE for p in seen)
    # A point comes again only to be trained for longer.
    assert len({(SPACE.canonical(p.arch), p.fidelity) for p in seen}) == len(seen)
    assert all(p.parent is None or p.parent < p.number for p in seen)


def test_asking_for_more_than_the_space_holds_gives_what_there_is(strategy):
    state, proposals = strategy.ask(strategy.init(SMALL, Seed(0)), 50)
    assert len(proposals) == 6
    for _ in range(9):
        state = strategy.tell(state, [scored(p) for p in proposals])
        state, proposals = strategy.ask(state, 50)
        assert all(p.parent is not None for p in proposals), "only promotions are left"
    assert proposals == ()


def test_constraints_hold_before_anything_is_trained(strategy):
    state = strategy.init(SPACE, Seed(1))
    _, proposals = strategy.ask(state, 5, lambda arch: arch["act"] == "gelu")
    assert {p.arch["act"] for p in proposals} == {"gelu"}
    assert strategy.ask(state, 5, lambda _: False)[1] == ()


def test_outcomes_may_come_late_out_of_order_in_part_and_failed(strategy):
    state, first = strategy.ask(strategy.init(SPACE, Seed(2)), 6)
    state = strategy.tell(state, [scored(first[4]), scored(first[1])])
    state, second = strategy.ask(state, 6)
    failed = Outcome(
        number=second[0].number, arch=second[0].arch, score=float("-inf"), status="failed"
    )
    state = strategy.tell(state, [failed, scored(first[0])])
    assert len(strategy.ask(state, 3)[1]) == 3


def test_outcomes_that_make_no_sense_are_refused(strategy):
    state, (proposal, *_) = strategy.ask(strategy.init(SPACE, Seed(2)), 2)
    with pytest.raises(ConfigError, match="never made"):
        strategy.tell(state, [Outcome(number=99, arch=proposal.arch, score=1.0)])
    with pytest.raises(ConfigError, match="NaN"):
        strategy.tell(state, [Outcome(number=0, arch=proposal.arch, score=float("nan"))])
    with pytest.raises(ConfigError, match="told twice"):
        strategy.tell(state, [scored(proposal), scored(proposal)])


def test_a_state_of_another_space_or_version_is_refused(strategy):
    data = save(strategy.init(SPACE, Seed(0)))
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
            state, scores = strategy.init(SPACE, Seed(seed)), []
            for _ in range(12):
                state, proposals = strategy.ask(state, 2)
                told = [scored(p) for p in proposals]
                scores += [o.score for o in told]
                state = strategy.tell(state, told)
            best.append(max(scores))
        wins += best[0] > best[1] - (best[0] == best[1])
    assert wins >= 6


def test_comparing_more_parents_than_are_alive_says_how_to_mend_it():
    with pytest.raises(ConfigError, match=r"got: \(9, 5\)\n  fix: lower sample to 5"):
        RegularizedEvolution(population=5, sample=9)


def test_importing_strategies_loads_no_torch():
    modules = "archipelago.strategy.evolution, archipelago.strategy.grid"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
