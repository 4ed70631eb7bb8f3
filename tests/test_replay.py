import json
import subprocess
import sys

import numpy as np
import pytest
from tables import toy

from archipelago.core.errors import ConfigError, DataError
from archipelago.core.seeds import Seed
from archipelago.core.trial import Outcome, Proposal
from archipelago.driver.replay import replay
from archipelago.estimate.table import Table
from archipelago.strategy.base import Memory, load, save
from archipelago.strategy.grid import Grid
from archipelago.strategy.random import Random


def test_a_grid_reads_the_whole_table_and_stops():
    trace = replay(Grid(), toy(), budget=1000, seed=Seed(0))
    assert len(trace.scores) == 64
    assert trace.incumbents[-1] == toy().best == 9.0
    assert trace.reported[-1] == toy().ceiling == 81.0
    assert trace.at(1) == 0.0
    assert trace.found(64) == 9.0
    assert trace.explored[0] == 1.0
    assert trace.explored[1:] == pytest.approx(1 / 3)


def test_random_search_matches_the_exact_order_statistic():
    # Without repetition: E[best of n] = sum over sorted scores of s_i C(i, n-1) / C(N, n).
    from math import comb

    scores = np.sort(toy().scores[1.0])
    exact = sum(s * comb(i, 9) for i, s in enumerate(scores)) / comb(64, 10)
    found = [replay(Random(), toy(), budget=10, seed=Seed(s)).incumbents[-1] for s in range(400)]
    assert abs(np.mean(found) - exact) < 3 * np.std(found) / 20


def test_rows_that_were_not_measured_come_back_failed():
    table = toy(missing=(63, 5))
    trace = replay(Random(), table, budget=64, seed=Seed(1))
    assert np.isneginf(trace.scores).sum() == 2
    assert trace.incumbents[-1] == 8.0
    fewer = Table(
        name="few",
        space=table.space,
        rows={p: r for p, r in table.rows.items() if r < 60},
        scores=table.scores,
        report=table.report,
    )
    assert np.isneginf(replay(Grid(), fewer, budget=64, seed=Seed(1)).scores).sum() == 5


def test_a_higher_fidelity_of_the_same_network_pays_the_difference():
    class Twice:
        def ask(self, state, n, allowed=None):
            before, point = state.asks, state.asks // 2
            if point == 3:
                return state, ()
            arch = state.space.at((point, 0, 0))
            state = state.add(arch, fidelity=1.0 if before % 2 else 0.25)
            return state, state.asked[before:]

    trace = replay(Twice(), toy(fidelities=(0.25, 1.0)), budget=50, seed=Seed(0))
    assert trace.spent == pytest.approx([0.25, 1, 1.25, 2, 2.25, 3])
    assert np.isneginf(trace.found(0.5))
    with pytest.raises(ConfigError, match="no scores at this fidelity"):
        toy().outcome(Proposal(number=0, arch={"a": 1, "b": 1, "c": 1}, fidelity=0.5))


def test_a_table_reads_back_and_refuses_what_it_is_not(tmp_path):
    table = toy(fidelities=(0.25, 1.0))
    table.write(tmp_path / "toy.npz")
    again = Table.read(tmp_path / "toy.npz")
    assert again.space == table.space
    assert again.rows == table.rows
    assert again.scores.keys() == table.scores.keys()
    assert (again.scores[0.25] == table.scores[0.25]).all()
    assert (again.costs["params"] == table.costs["params"]).all()
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(DataError, match="not a table"):
        Table.read(tmp_path / "other.npz")
    with pytest.raises(DataError, match="no such table"):
        Table.read(tmp_path / "none.npz")
    with pytest.raises(ConfigError, match="full fidelity"):
        Table(name="x", space=table.space, rows={}, scores={0.5: np.zeros(1)}, report=np.zeros(1))


def outcome(proposal, score=1.0):
    return Outcome(number=proposal.number, arch=proposal.arch, score=score)


def test_an_older_state_stays_valid_when_a_newer_one_goes_on():
    strategy, space = Random(), toy().space
    first, (a,) = strategy.ask(Memory(space=space, seed=Seed(0)), 1)
    one, (b,) = strategy.ask(first.hear([outcome(a)]), 1)
    one = one.hear([outcome(b)])
    # From `first` again, another way: nothing of `one` shows, and `one` does not change.
    other, more = strategy.ask(first, 3)
    other = other.hear([outcome(more[2], 7.0)])
    assert (first.asks, first.tells) == (1, 0)
    assert not first.seen(b.arch)
    assert first.heard(0) is None
    assert [o.score for o in one.told] == [1.0, 1.0]
    assert [o.number for o in other.told] == [3]
    assert [p.number for p in other.pending()] == [0, 1, 2]
    assert one.asked[1] == b
    for state in (first, one, other):
        text = json.dumps(save(state))
        assert json.dumps(save(load(space, json.loads(text)))) == text


def test_replaying_loads_no_torch():
    code = (
        "import sys, archipelago.driver.replay, archipelago.estimate.nasbench201;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
