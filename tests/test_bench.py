"""`archipelago bench`, and the published bands on NAS-Bench-201 at 100 evaluations."""

import json
from functools import cache

import numpy as np
import pytest
from tables import cells, need_bench, toy

from archipelago.cli.app import main
from archipelago.core.errors import ConfigError
from archipelago.core.seeds import Seed
from archipelago.report.bench_figure import draw
from archipelago.strategy.local_search import LocalSearch
from archipelago.study.analysing.bench import LINE_UP, TABLES, bench, entry, lines, parse, table_of

# name: (mean, deviation) of the prototypes' runs: at least 200 of each, which sets their error.
BANDS = {
    "random:again=true": (93.74, 0.36),
    "regularized-evolution:again=true": (93.93, 0.42),
    "random": (93.79, 0.33),
    "regularized-evolution": (94.04, 0.30),
    "regularized-evolution:population=20,sample=5,retire=worst": (94.20, 0.24),
    "local-search": (94.17, 0.26),
}
MODELS = {
    "tpe:model=choices": 94.17,
    "tpe": 94.24,
    "bananas": 94.19,
    "random-forest": 94.37,
    "gaussian-process": 94.371,
}


@cache
def searched(name, runs, last=100):
    return entry(cells(), parse(name), runs=runs, budgets=(30, 60, last), batch=1, seed=Seed(0))


@pytest.mark.parametrize("name", BANDS)
def test_cheap_strategies_lie_in_their_bands(name):
    mean, deviation = BANDS[name]
    row = searched(name, 500)
    error = np.sqrt(deviation**2 / 200 + row.deviations[-1] ** 2 / 500)
    assert abs(row.means[-1] - mean) <= 3 * error


@pytest.mark.parametrize("name", MODELS)
def test_models_reach_the_prototypes(name):
    row = searched(name, 20)
    assert row.means[-1] >= MODELS[name] - 0.03 - 3 * row.deviations[-1] / np.sqrt(20)


def test_reinforce_reaches_its_bar_at_the_published_rate_and_as_shipped():
    for name in ("reinforce:optimizer=adam,rate=0.01", "reinforce"):
        row = searched(name, 200)
        assert row.means[-1] >= 93.79 - 3 * row.deviations[-1] / np.sqrt(200)


def test_random_reinforcement_and_evolution_are_within_a_point():
    # The lectures' claim.
    means = [searched("random", 500).means[-1], searched("reinforce", 200).means[-1]]
    means.append(searched("regularized-evolution", 500).means[-1])
    assert max(means) - min(means) < 1.0


def test_our_best_needs_sixty_evaluations():
    row = searched("gaussian-process", 20)
    for bar, mean, deviation in zip((93.95, 94.34, 94.36), row.means, row.deviations, strict=True):
        assert mean >= bar - 3 * deviation / np.sqrt(20)


def test_what_was_evaluated_is_not_evaluated_again():
    row = searched("random", 500)
    again = searched("random:again=true", 500)
    assert row.regret[-1] < again.regret[-1] + 0.05
    assert row.exploited < 0.2 < searched("local-search", 500).exploited


def test_the_verb_prints_both_tables_and_writes_results_and_a_figure(tmp_path, capsys):
    toy().write(tmp_path / "toy.npz")
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "bench",
                str(tmp_path / "toy.npz"),
                *("--strategy", "random", "--strategy", "local-search:step=best"),
                *("--runs", "6", "--budget", "5,20"),
                *("--write", str(tmp_path / "rows.jsonl")),
                *("--figure", str(tmp_path / "curves.svg")),
            ]
        )
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "toy: best score 9.000" in out
    assert "p(random)" in out
    assert "local search" in out
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["strategy"] for row in rows] == ["random", "local-search:step=best"]
    assert rows[0]["p_random"] is None
    assert rows[1]["p_random"] <= 1
    assert len(rows[0]["curve"]) == 20
    assert "<svg" in (tmp_path / "curves.svg").read_text()


def test_results_do_not_depend_on_what_else_is_compared():
    alone = bench(toy(), [parse("tpe")], runs=3, budgets=(40,), seed=Seed(1))
    beside = bench(toy(), [parse("random"), parse("tpe")], runs=3, budgets=(40,), seed=Seed(1))
    assert alone[0].reported == beside[1].reported
    assert any("tpe" in line for line in lines(alone, toy()))


def test_names_of_strategies_and_tables_are_checked():
    assert parse("local-search:step=best,starts=3").strategy == LocalSearch(step="best", starts=3)
    assert all(parse(text) for text in LINE_UP)
    for text, match in (
        ("random-serch", "did you mean 'random-forest'|did you mean"),
        ("tpe:goood=root", "no such option"),
        ("random:again=maybe", "takes a bool"),
        ("tpe:startup=x", "takes a int"),
    ):
        with pytest.raises(ConfigError, match=match):
            parse(text)
    with pytest.raises(ConfigError, match="did you mean 'nasbench201-cifar10"):
        table_of("nasbench201-cifar")
    with pytest.raises(ConfigError, match="budgets ascend"):
        bench(toy(), [parse("random")], runs=2, budgets=(20, 5), seed=Seed(0))


def test_a_figure_has_a_known_suffix(tmp_path):
    with pytest.raises(ConfigError, match="svg or html"):
        draw((), tmp_path / "figure.png")


def test_every_published_table_is_read():
    need_bench()
    for name in TABLES:
        assert table_of(name).name == name
