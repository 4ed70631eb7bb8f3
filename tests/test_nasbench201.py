from random import Random

import numpy as np
import pytest
from tables import cells, need_bench

from archipelago.core.errors import ConfigError, DataError
from archipelago.estimate.nasbench201 import nasbench201, proxy
from archipelago.space.nasbench201 import (
    OPS,
    arch_of,
    cell_features,
    cell_key,
    cell_space,
    cell_string,
)

SPACE = cell_space()
ALL = [dict(arch) for arch in SPACE.enumerate()]


def test_counts_of_the_published_space():
    # METHODS A5: all cells, those whose skips are collapsed, and those without nothing either.
    assert SPACE.size == len(ALL) == 15_625
    assert len({cell_key(arch, zero=False) for arch in ALL}) == 12_751
    assert len({SPACE.canonical(arch) for arch in ALL}) == 6_466


def test_the_published_spelling_reads_back():
    # Row 0 of the published index.
    last = "|nor_conv_1x1~0|skip_connect~1|skip_connect~2|"
    text = "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+" + last
    assert cell_string(arch_of(text)) == text
    assert len({cell_string(arch) for arch in ALL}) == 15_625
    with pytest.raises(ConfigError, match="not a cell"):
        arch_of("|conv~0|+|none~0|none~1|+|none~0|none~1|none~2|")


def test_features_of_cells_counted_by_hand():
    # Only 0 -> 3 carries: one pruned operation, one path with a single 3x3 convolution.
    arch = arch_of(
        "|none~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|avg_pool_3x3~1|none~2|"
    )
    pruned, paths = map(np.array, cell_features(arch))
    assert [OPS[i] for i in pruned.reshape(6, 5).argmax(1)] == [
        *["none"] * 3,
        "nor_conv_3x3",
        *["none"] * 2,
    ]
    assert pruned.sum() == pytest.approx(1)
    assert paths.sum() == 0.25
    _, every = cell_features(dict.fromkeys(ALL[0], "skip_connect"))
    assert every == [1.0] + [0.0] * 19


def test_a_mutation_changes_one_edge():
    rng = Random(0)
    arch = SPACE.sample(rng)
    child = SPACE.mutate(arch, rng)
    assert sum(arch[edge] != child[edge] for edge in arch) == 1


def test_our_classes_are_the_published_ones():
    need_bench()
    import os

    with np.load(os.path.join(os.environ["ARCHIPELAGO_BENCH"], "nb201.npz")) as file:
        iso, ops = file["iso"], file["ops"]
    ours = [SPACE.canonical(SPACE.at(row)) for row in ops.tolist()]
    assert len(set(zip(ours, iso.tolist(), strict=True))) == 6_466


def test_the_published_optima_are_in_the_table():
    for dataset, best in (("cifar10", 94.3733), ("cifar100", 73.5133), ("imagenet16", 47.3111)):
        assert cells(dataset).ceiling == pytest.approx(best, abs=1e-3)
    table = cells()
    skips = dict.fromkeys(ALL[0], "skip_connect")
    assert table.reported(skips) == pytest.approx(54.30, abs=0.01)
    assert table.costs["energy"].min() > 0
    assert np.isfinite(proxy("naswot")).mean() > 0.9


def test_rank_correlation_of_twelve_epochs_and_of_parameters():
    from scipy.stats import spearmanr

    table = cells()
    assert spearmanr(table.scores[1.0], table.report).statistic == pytest.approx(0.772, abs=2e-3)
    assert spearmanr(table.costs["macs"], table.report).statistic == pytest.approx(0.749, abs=5e-3)
    assert spearmanr(proxy("naswot"), table.report).statistic == pytest.approx(0.792, abs=5e-3)


def test_without_the_table_the_error_says_where_it_comes_from(monkeypatch):
    monkeypatch.delenv("ARCHIPELAGO_BENCH", raising=False)
    with pytest.raises(DataError, match="set ARCHIPELAGO_BENCH"):
        nasbench201()
