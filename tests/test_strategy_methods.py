"""Each method's own rules: values computed by hand, and the simpler case it degenerates to."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tables import toy

from archipelago.core.errors import ConfigError, JournalError
from archipelago.core.seeds import Seed
from archipelago.core.trial import Outcome
from archipelago.driver.replay import replay
from archipelago.space.dims import Choice, Range, When
from archipelago.space.space import Space
from archipelago.strategy.base import Memory, load, save
from archipelago.strategy.columns import rank_normal
from archipelago.strategy.controller import Controller
from archipelago.strategy.evolution import RegularizedEvolution
from archipelago.strategy.gaussian_process import GaussianProcess, expected_improvement
from archipelago.strategy.local_search import LocalSearch
from archipelago.strategy.nsga2 import Nsga2
from archipelago.strategy.pareto import (
    Archive,
    crowding,
    fronts,
    hypervolume,
    nondominated,
)
from archipelago.strategy.pareto_gp import ParEgo, chebyshev
from archipelago.strategy.reinforce import Reinforce, gradient, probabilities
from archipelago.strategy.tpe import Tpe, improvement

GRID = Space({"a": Choice((1, 2, 3, 4)), "b": Choice((1, 2, 3, 4)), "c": Choice((1, 2, 3, 4))})


def outcome(proposal, score, **costs):
    return Outcome(number=proposal.number, arch=proposal.arch, score=score, costs=costs)


def told(strategy, scores, space=GRID, **costs):
    state, proposals = strategy.ask(Memory(space=space, seed=Seed(0)), len(scores))
    return state.hear([outcome(p, s, **costs) for p, s in zip(proposals, scores, strict=True)])


# Evolution


def test_an_individual_lives_exactly_p_births_and_the_worst_die_first():
    state = told(RegularizedEvolution(population=4, sample=2), [9, 1, 2, 3, 4, 5])
    alive = [state.told[i].score for i in RegularizedEvolution(population=4)._alive(state)]
    assert alive == [2, 3, 4, 5]
    drop = RegularizedEvolution(population=4, retire="worst")
    assert sorted(state.told[i].score for i in drop._alive(state)) == [3, 4, 5, 9]


def test_a_network_may_be_paid_for_twice_only_when_asked_for():
    tiny = Space({"a": Choice((1, 2, 3))})
    state, seen = RegularizedEvolution(again=True, population=2, sample=1).ask(
        Memory(space=tiny, seed=Seed(0)), 9
    )
    assert len(seen) == 9
    assert len(state.keys()) <= 3


# Local search


@pytest.mark.parametrize("step", ["first", "best"])
def test_a_climb_goes_to_the_summit_and_starts_again(step):
    trace = replay(LocalSearch(step=step, starts=1), toy(), budget=60, seed=Seed(3))
    asked = list(trace.state.asked)
    assert trace.incumbents[-1] == 9.0
    for proposal in asked[1:]:
        if proposal.parent is not None:
            parent = asked[proposal.parent].arch
            assert sum(parent[name] != proposal.arch[name] for name in parent) == 1
    assert sum(p.parent is None for p in asked) > 1
    # Once the summit is found, all of its neighbours are tried before the next start.
    summit = int(trace.scores.argmax())
    after = asked[summit + 1 :]
    first_start = next(i for i, p in enumerate(after) if p.parent is None)
    near = {trace.state.space.canonical(a) for a in GRID.neighbours(asked[summit].arch)}
    assert near <= {trace.state.log.keys[p.number] for p in asked[: summit + 1 + first_start]}


def test_best_improvement_tries_every_neighbour_before_it_moves():
    trace = replay(LocalSearch(step="best", starts=1), toy(), budget=10, seed=Seed(1))
    assert {p.parent for p in list(trace.state.asked)[1:]} == {0}


# Policy gradients


def test_the_score_function_estimates_the_exact_gradient():
    # J = sum_a p(a) R(a) over 3 choices of 4: METHODS B2 test (a), cosine above 0.99.
    rng = np.random.default_rng(0)
    logits, rewards = rng.normal(size=(3, 4)), rng.random((4, 4, 4))
    p = [np.array(probabilities(row.tolist())) for row in logits]
    exact = []
    for slot in range(3):
        others = [i for i in range(3) if i != slot]
        marginal = np.moveaxis(rewards, slot, 0)
        value = np.einsum("aij,i,j->a", marginal, p[others[0]], p[others[1]])
        exact += (p[slot] * (value - p[slot] @ value)).tolist()
    draws = np.stack([rng.choice(4, 20_000, p=row) for row in p], axis=1)
    combos, counts = np.unique(draws, axis=0, return_counts=True)
    total = np.zeros(12)
    for combo, count in zip(combos.tolist(), counts, strict=True):
        advantage = rewards[tuple(combo)] - 0.5
        slopes = [gradient(logits[i].tolist(), combo[i], advantage, 0.0) for i in range(3)]
        total += count * np.concatenate(slopes)
    cosine = total @ exact / np.linalg.norm(total) / np.linalg.norm(exact)
    assert cosine > 0.99


def test_the_gradient_of_the_entropy_is_its_finite_difference():
    row = [0.3, -0.2, 0.9]

    def entropy(values):
        p = np.array(probabilities(values))
        return -(p * np.log(p)).sum()

    for i, slope in enumerate(gradient(row, 0, 0.0, 1.0)):
        nudged = [v + 1e-6 * (j == i) for j, v in enumerate(row)]
        assert slope == pytest.approx((entropy(nudged) - entropy(row)) / 1e-6, abs=1e-5)


def test_reinforce_one_step_by_hand():
    strategy = Reinforce(rate=0.5, scaled=False, entropy=0.0)
    one = Space({"a": Choice(("x", "y"))})
    state, (first, second) = strategy.ask(Memory(space=one, seed=Seed(0)), 2)
    # The first reward only sets the average; the second is 0.4 above it.
    state = state.hear([outcome(first, 0.5), outcome(second, 0.9)])
    place = one.places(second.arch)[0]
    logits = strategy.policy(state)[0]
    assert logits[place] == pytest.approx(0.5 * 0.4 * 0.5)
    assert logits[1 - place] == pytest.approx(-0.5 * 0.4 * 0.5)


def test_a_moving_average_lowers_the_variance_of_the_gradient():
    rng = np.random.default_rng(1)
    rewards = 0.9 + 0.02 * rng.standard_normal(2000)
    places = rng.integers(0, 4, 2000)
    plain = [gradient([0.0] * 4, int(a), r, 0.0)[0] for a, r in zip(places, rewards, strict=True)]
    less = [
        gradient([0.0] * 4, int(a), r - 0.9, 0.0)[0] for a, r in zip(places, rewards, strict=True)
    ]
    assert np.var(less) < 0.01 * np.var(plain)


def test_entropy_and_a_small_step_keep_the_policy_from_collapsing():
    def sharpest(strategy):
        trace = replay(strategy, toy(), budget=60, seed=Seed(0))
        return max(max(probabilities(row)) for row in strategy.policy(trace.state))

    assert sharpest(Reinforce()) < 0.9
    assert sharpest(Reinforce(rate=5.0, entropy=0.0)) > 0.99


def test_the_controller_learns_which_choice_pays():
    strategy = Controller(entropy=0.0)
    space = Space({f"x{i}": Choice((0, 1)) for i in range(12)})
    state, wins = Memory(space=space, seed=Seed(0)), []
    for _ in range(80):
        state, (proposal,) = strategy.ask(state, 1)
        state = state.hear([outcome(proposal, float(sum(proposal.arch.values())))])
        wins.append(sum(proposal.arch.values()))
    assert np.mean(wins[-20:]) > np.mean(wins[:20]) + 1.5


# Parzen estimators


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=20), st.floats(0.01, 0.99))
def test_ranking_by_improvement_is_ranking_by_density_ratio(ratios, share):
    ratios = np.array(ratios)
    order = np.argsort(ratios)
    assert (np.diff(improvement(ratios, share)[order]) >= 0).all()


@pytest.mark.parametrize(
    ("rule", "counts"), [("root", (2, 3, 8)), ("share", (4, 10, 25)), ("quarter", (10, 25, 250))]
)
def test_how_many_are_good(rule, counts):
    assert tuple(Tpe(good=rule).count_good(n) for n in (40, 100, 1000)) == counts


@pytest.mark.parametrize("candidates", [0, 24])
@pytest.mark.parametrize("model", ["choices", "pairs"])
def test_parzen_models_propose_what_is_common_among_the_good(model, candidates):
    strategy = Tpe(model=model, candidates=candidates, startup=30, good="quarter")
    state, proposals = strategy.ask(Memory(space=GRID, seed=Seed(1)), 30)
    state = state.hear([outcome(p, float(p.arch["a"] == 3)) for p in proposals])
    more = strategy.ask(state, 4)[1]
    assert [p.arch["a"] for p in more].count(3) >= 3


def test_a_choice_that_is_absent_says_nothing():
    space = Space({"head": Choice(("gru", "mean")), "hidden": When("head", ("gru",), Range(1, 9))})
    strategy = Tpe(startup=4)
    state, proposals = strategy.ask(Memory(space=space, seed=Seed(0)), 5)
    state = state.hear([outcome(p, float(p.arch["head"] == "gru")) for p in proposals])
    assert strategy.ask(state, 2)[1][0].arch["head"] == "gru"


# Gaussian process


def test_expected_improvement_is_the_mean_over_draws():
    rng = np.random.default_rng(0)
    for mean, deviation, best in ((0.0, 1.0, 0.5), (1.0, 0.3, 0.9), (-1.0, 2.0, 1.0)):
        drawn = np.maximum(mean + deviation * rng.standard_normal(2_000_000) - best, 0).mean()
        closed = expected_improvement(np.array([mean]), np.array([deviation]), best)[0]
        assert closed == pytest.approx(drawn, abs=2e-3)


def test_the_posterior_interpolates_without_noise_and_equals_the_textbook():
    strategy = GaussianProcess(noise=1e-8, startup=6)
    scores = [0.3, -1.0, 0.7, 2.0, 0.1, -0.4, 1.1]
    state = told(strategy, scores)
    targets = np.array(scores)
    archs, mean, variance = strategy.predict(state, Seed(0).rng(), targets)
    index = [archs.index(p.arch) for p in state.asked]
    assert mean[index] == pytest.approx(targets, abs=1e-3)
    assert variance[index] == pytest.approx(0, abs=1e-3)
    # The obvious way: one inverse. Distance is the share of choices that differ.
    places = np.array([GRID.places(arch) for arch in archs])
    kernel = np.exp(-3 * (places[:, None] != places[None]).mean(axis=2))
    inverse = np.linalg.inv(kernel[np.ix_(index, index)] + 1e-8 * np.eye(len(index)))
    cross = kernel[index]
    assert mean == pytest.approx(cross.T @ inverse @ targets, abs=1e-3)
    expected = 1 - np.einsum("tc,tu,uc->c", cross, inverse, cross)
    assert variance == pytest.approx(expected, abs=1e-3)


def test_a_pending_proposal_is_believed_and_not_proposed_again():
    strategy = GaussianProcess(startup=5)
    state = told(strategy, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    alone = strategy.ask(state, 1)[0]
    _, _, before = strategy.predict(state, Seed(0).rng(), rank_normal(np.arange(6.0)))
    archs, _, after = strategy.predict(alone, Seed(0).rng(), rank_normal(np.arange(6.0)))
    late = archs.index(alone.asked[6].arch)
    assert after[late] < 0.1 < before[late]


def test_ranks_survive_any_growing_transformation():
    scores = np.array([3.0, -np.inf, 1.0, 2.0, 2.0])
    ranks = rank_normal(scores)
    assert ranks == pytest.approx(rank_normal(np.exp(scores)))
    assert ranks[3] == ranks[4]
    assert ranks.argmin() == 1
    assert np.isfinite(ranks).all()


# Several objectives


def test_dominance_fronts_and_crowding_by_hand():
    points = np.array([[1, 4], [2, 2], [4, 1], [3, 3], [4, 4], [2, 2]], float)
    assert nondominated(points).tolist() == [True, True, True, False, False, True]
    assert fronts(points).tolist() == [0, 0, 0, 1, 2, 0]
    assert crowding(np.array([[0, 4], [1, 2], [4, 0]], float)).tolist() == [np.inf, 2.0, np.inf]


def test_hypervolume_by_hand_and_against_drawn_points():
    assert hypervolume(np.array([[1.0]]), (3.0,)) == 2.0
    assert hypervolume(np.array([[1, 2], [2, 1], [5, 0]], float), (3.0, 3.0)) == 3.0
    # A cube without a smaller one.
    assert hypervolume(np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]], float), (2, 2, 2)) == 7.0
    rng = np.random.default_rng(0)
    for size in (2, 3, 4):
        points = rng.random((12, size))
        drawn = rng.random((200_000, size)) * 1.1
        inside = (points[:, None] <= drawn[None]).all(axis=2).any(axis=0).mean() * 1.1**size
        assert hypervolume(points, [1.1] * size) == pytest.approx(inside, rel=0.01)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_an_archive_grows_in_volume_and_ignores_the_dominated(pairs):
    archive, volume = Archive(objectives=("score", "params")), 0.0
    best = None
    for number, (score, params) in enumerate(pairs):
        new = Outcome(number=number, arch={}, score=float(score), costs={"params": float(params)})
        archive = archive.add([new])
        after = archive.hypervolume({"score": -1.0, "params": 10.0})
        assert after >= volume
        volume, best = after, score if best is None else max(best, score)
    worst = Outcome(number=99, arch={}, score=-0.5, costs={"params": 9.5})
    assert archive.add([worst]).hypervolume({"score": -1.0, "params": 10.0}) == volume
    assert max(o.score for o in archive.outcomes) == best


def test_one_objective_is_the_one_dimensional_case():
    outcomes = [Outcome(number=i, arch={}, score=float(s)) for i, s in enumerate((3, 7, 5))]
    failed = Outcome(number=3, arch={}, score=float("-inf"), status="failed")
    archive = Archive().add([*outcomes, failed])
    assert [o.number for o in archive.outcomes] == [1]
    assert archive.hypervolume({"score": 0.0}) == 7.0


def test_parego_with_one_objective_is_the_gaussian_process():
    one = replay(ParEgo(objectives=("score",)), toy(), budget=30, seed=Seed(2))
    other = replay(GaussianProcess(inputs="choices", length=1.0), toy(), budget=30, seed=Seed(2))
    assert one.scores.tolist() == other.scores.tolist()


def test_chebyshev_by_hand():
    points = np.array([[0.2, 0.8], [0.5, 0.5]])
    value = chebyshev(points, np.array([0.5, 0.5]))
    assert value == pytest.approx([0.4 + 0.05 * 0.5, 0.25 + 0.05 * 0.5])


@pytest.mark.parametrize("shape", ["convex", "concave"])
def test_nsga2_fills_the_front_of_zdt(shape):
    # ZDT1 and ZDT2 on a grid of 21 values a variable: 99 % of the best volume (METHODS C5).
    space = Space({f"x{i}": Range(0.0, 1.0, 0.05) for i in range(5)})
    strategy = Nsga2(objectives=("f1", "f2"), population=24, every=24)
    state = Memory(space=space, seed=Seed(0))

    def objectives(x):
        f1, g = x[0], 1 + 9 * np.mean(x[1:])
        return f1, g * (1 - (f1 / g) ** (0.5 if shape == "convex" else 2))

    archive = Archive(objectives=("f1", "f2"))
    for _ in range(60):
        state, proposals = strategy.ask(state, 24)
        fresh = []
        for proposal in proposals:
            f1, f2 = objectives(list(proposal.arch.values()))
            fresh.append(outcome(proposal, 0.0, f1=f1, f2=f2))
        state, archive = state.hear(fresh), archive.add(fresh)
    xs = np.arange(21) * 0.05
    power = 0.5 if shape == "convex" else 2
    best = hypervolume(np.stack([xs, 1 - xs**power], axis=1), (1.1, 1.1))
    assert archive.hypervolume({"f1": 1.1, "f2": 1.1}) >= 0.99 * best


def test_an_objective_that_nobody_reports_is_named():
    state = told(Nsga2(objectives=("score", "energy"), population=2), [1.0, 2.0], params=3.0)
    with pytest.raises(ConfigError, match=r"got: 'energy'[\s\S]*score or one of \['params'\]"):
        Nsga2(objectives=("score", "energy"), population=2).ask(state, 1)
    with pytest.raises(ConfigError, match="each objective once"):
        Nsga2(objectives=("score", "score"))


# Bad input


def test_spaces_without_a_choice_are_refused():
    with pytest.raises(ConfigError, match="a single architecture"):
        Space({"a": Choice((1,))})
    with pytest.raises(ConfigError, match="contradictory conditions"):
        Space(
            {
                "a": Choice((1, 2)),
                "b": When("a", (1,), When("a", (2,), Choice((1, 2)))),
            }
        )


def test_a_state_of_another_space_is_refused_by_the_models_too():
    data = save(told(GaussianProcess(), [1.0] * 12))
    assert load(GRID, data).tells == 12
    with pytest.raises(JournalError, match="another space"):
        load(Space({"a": Choice((1, 2))}), data)
    assert dataclasses.replace(GaussianProcess(), noise=0.1).noise == 0.1
