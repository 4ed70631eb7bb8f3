import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archipelago.core.errors import ConfigError, DataError
from archipelago.core.seeds import Seed
from archipelago.data.partition import Classes, Dirichlet, Iid, Natural, Quantity, assign
from archipelago.data.raw import Raw
from archipelago.data.split import TEST, TRAIN, VALIDATION, Split


def raw(rows, *, natural=None, names=(), groups=None):
    return Raw(
        name="some",
        modality="table",
        x={"a": np.zeros(rows)},
        y=np.zeros(rows),
        natural=None if natural is None else np.asarray(natural),
        names=names,
        groups=groups,
    )


PARTS = [
    lambda clients: Iid(clients=clients),
    lambda clients: Dirichlet(alpha=0.05, clients=clients),
    lambda clients: Dirichlet(alpha=1e-3, clients=clients),
    lambda clients: Classes(per_client=2, clients=clients),
    lambda clients: Quantity(skew=3, clients=clients),
]


@pytest.mark.parametrize("part", PARTS)
@given(rows=st.integers(10, 400), clients=st.integers(1, 30), seed=st.integers(0, 99))
@settings(max_examples=25)
def test_nobody_is_empty_and_every_row_has_one_owner(part, rows, clients, seed):
    partition = part(clients)
    labels = np.arange(rows) % 7
    if clients * partition.least > rows:
        with pytest.raises(ConfigError, match="are too few"):
            assign(partition, raw(rows), labels, Seed(seed))
        return
    owner, names = assign(partition, raw(rows), labels, Seed(seed))
    sizes = np.bincount(owner, minlength=clients)
    assert len(names) == clients
    assert sizes.sum() == rows
    assert sizes.min() >= partition.least
    assert (owner == assign(partition, raw(rows), labels, Seed(seed))[0]).all()


def test_dirichlet_skews_and_a_large_alpha_does_not():
    labels = np.arange(5000) % 10

    def main_share(alpha):
        owner, _ = assign(Dirichlet(alpha=alpha, clients=20), raw(5000), labels, Seed(0))
        counts = np.array([np.bincount(labels[owner == c], minlength=10) for c in range(20)])
        return (counts.max(1) / counts.sum(1)).mean()

    assert main_share(0.1) > 0.5
    assert main_share(1000) < 0.15


def test_classes_gives_few_classes_each():
    labels = np.arange(4000) % 10
    owner, _ = assign(Classes(per_client=2, clients=20), raw(4000), labels, Seed(0))
    assert max(len(np.unique(labels[owner == c])) for c in range(20)) <= 4


def test_quantity_follows_its_power():
    owner, _ = assign(Quantity(skew=1, clients=3, least=3), raw(1100), np.zeros(1100), Seed(0))
    assert np.bincount(owner).tolist() == [600, 300, 200]


def test_natural_keeps_owners_or_merges_them():
    data = raw(60, natural=[0] * 30 + [1] * 20 + [2] * 10, names=("a", "b", "c"))
    owner, names = assign(Natural(), data, np.zeros(60), Seed(0))
    assert names == ("a", "b", "c")
    assert np.bincount(owner).tolist() == [30, 20, 10]
    owner, names = assign(Natural(clients=2), data, np.zeros(60), Seed(0))
    assert names == ("a", "b + c")
    assert np.bincount(owner).tolist() == [30, 30]


def test_natural_names_who_is_too_small():
    with pytest.raises(DataError, match="client 'b' has fewer rows"):
        assign(
            Natural(), raw(12, natural=[0] * 10 + [1] * 2, names=("a", "b")), np.zeros(12), Seed(0)
        )
    with pytest.raises(DataError, match="no natural owners"):
        assign(Natural(), raw(12), np.zeros(12), Seed(0))
    with pytest.raises(ConfigError, match="only 1 natural clients"):
        assign(Natural(clients=2), raw(9, natural=[0] * 9, names=("a",)), np.zeros(9), Seed(0))


def test_rows_that_belong_together_get_one_owner():
    groups = np.arange(600) // 6
    labels = groups % 5
    for partition in (Iid(clients=8), Dirichlet(alpha=0.1, clients=8)):
        owner, _ = assign(partition, raw(600, groups=groups), labels, Seed(0))
        assert all(len(np.unique(owner[groups == g])) == 1 for g in range(100))
        assert np.bincount(owner, minlength=8).min() >= 10


def test_groups_that_cannot_be_dealt_are_refused():
    groups = np.arange(40) // 20
    with pytest.raises(ConfigError, match="may not part"):
        assign(Iid(clients=4), raw(40, groups=groups), groups, Seed(0))


@given(rows=st.integers(3, 200), classes=st.integers(1, 9), seed=st.integers(0, 50))
def test_three_parts_none_empty(rows, classes, seed):
    labels = np.arange(rows) % classes
    part = Split().parts(labels, client="a", seed=Seed(seed))
    sizes = [int((part == p).sum()) for p in (TRAIN, VALIDATION, TEST)]
    assert min(sizes) >= 1
    assert sizes[2] == max(1, min(round(rows * 0.15), rows - 2))


@pytest.mark.parametrize("part", PARTS)
@given(share=st.floats(0.15, 0.8), seed=st.integers(0, 99))
@settings(max_examples=25)
def test_every_simulated_client_has_a_published_test_row_and_two_others(part, share, seed):
    rows, clients = 600, 30
    labels = np.arange(rows) % 7
    official = Seed(seed).child("official").numpy().random(rows) < share
    given, _ = assign(part(clients), raw(rows), labels, Seed(seed))
    owner, _ = assign(part(clients), raw(rows), labels, Seed(seed), official=official)
    assert (np.bincount(owner) == np.bincount(given)).all()
    tests = np.bincount(owner[official], minlength=clients)
    others = np.bincount(owner[~official], minlength=clients)
    assert tests.min() >= 1
    assert others.min() >= 2
    before = np.bincount(given[official], minlength=clients)
    if before.min() >= 1 and np.bincount(given[~official], minlength=clients).min() >= 2:
        assert (owner == given).all()


def test_parts_are_stratified():
    labels = np.repeat([0, 1], [160, 40])
    part = Split(validation=0.2, test=0.2).parts(labels, client="a", seed=Seed(3))
    assert np.bincount(labels[part == TEST]).tolist() == [32, 8]
    assert np.bincount(labels[part == VALIDATION]).tolist() == [32, 8]


def test_official_test_rows_are_taken_and_only_they():
    official = np.arange(50) % 5 == 0
    part = Split(official=True).parts(
        np.zeros(50, np.int64), client="a", seed=Seed(0), official=official
    )
    assert ((part == TEST) == official).all()
    with pytest.raises(DataError, match="client 'a' has no row of the published test split"):
        Split(official=True).parts(
            np.zeros(5, np.int64), client="a", seed=Seed(0), official=np.zeros(5, bool)
        )


def test_impossible_splits_are_refused():
    with pytest.raises(DataError, match="client 'x' has fewer rows than splits"):
        Split().parts(np.zeros(2, np.int64), client="x", seed=Seed(0))
    with pytest.raises(ConfigError, match="leave nothing to train on"):
        Split(validation=0.5, test=0.5)
    with pytest.raises(ConfigError, match="nobody would train"):
        Split(held_out=4).held(4, Seed(0))
