import pickle
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from archipelago.core.errors import ArchipelagoError, DataError
from archipelago.core.seeds import Seed
from archipelago.data.key import TestKey
from archipelago.data.partition import Dirichlet, Iid
from archipelago.data.preparation import Preparation
from archipelago.data.prepare import prepare
from archipelago.data.sources.bundled import BreastCancer, Diabetes, Digits
from archipelago.data.split import Split
from archipelago.data.tasks import Classification, Regression


def digits(tmp_path, seed=0, **split):
    return prepare(
        Digits(),
        Dirichlet(alpha=0.3, clients=20),
        Split(**split),
        Classification(),
        seed=Seed(seed),
        directory=tmp_path,
    )


def test_digits_are_those_of_scikit_learn():
    raw = Digits().load()
    x, y = load_digits(return_X_y=True)
    assert (raw.x.reshape(-1, 64) == x).all()
    assert (raw.y == y).all()


def test_every_row_of_digits_has_one_owner_and_one_part(tmp_path):
    made = digits(tmp_path)
    shards = made.shards
    tests = shards.sealed.open(TestKey(purpose="a test")).test_rows
    assert (shards.train_rows + shards.validation_rows + tests).sum() == 1797
    assert min(shards.train_rows.min(), shards.validation_rows.min(), tests.min()) >= 1
    assert shards.signature.shape == (1, 8, 8)
    assert shards.signature.task.classes == tuple("0123456789")
    assert [s.train for s in made.summaries] == shards.train_rows.tolist()
    assert sum(made.summaries[0].labels) == made.summaries[0].train


def test_train_rows_have_mean_0_and_deviation_1_over_all_clients(tmp_path):
    shards = digits(tmp_path).shards
    x = np.concatenate([shards.train(c)[0].numpy() for c in range(shards.clients)])
    assert abs(x.mean()) < 1e-5
    assert abs(x.std() - 1) < 1e-5


def test_the_statistics_round_is_metered_by_client(tmp_path):
    made = digits(tmp_path)
    assert {row.client for row in made.rows} == set(range(20))
    assert {(row.phase, row.kind) for row in made.rows} == {("statistics", "statistics")}
    assert all(row.bytes_up > 0 and row.bytes_down > 0 for row in made.rows)


def test_equal_seeds_give_equal_fingerprints(tmp_path):
    first = digits(tmp_path / "a").shards.fingerprint
    assert first == digits(tmp_path / "b").shards.fingerprint
    assert first != digits(tmp_path / "c", seed=1).shards.fingerprint


def test_shards_travel_by_path(tmp_path):
    shards = digits(tmp_path).shards
    sent = pickle.dumps(shards)
    assert len(sent) < 400
    there = pickle.loads(sent)
    assert all((a == b).all() for a, b in zip(there.train(3), shards.train(3), strict=True))
    assert there.names == shards.names


def test_test_rows_stay_sealed_without_the_key(tmp_path):
    with pytest.raises(ArchipelagoError, match="test rows are sealed"):
        digits(tmp_path).shards.sealed.open("please")


def test_held_out_clients_have_test_rows_only(tmp_path):
    made = digits(tmp_path, held_out=3)
    shards = made.shards
    assert len(shards.held_out) == 3
    assert all(shards.train_rows[c] == shards.validation_rows[c] == 0 for c in shards.held_out)
    assert set(shards.training) == set(range(20)) - set(shards.held_out)
    # Who never trains is asked one thing: which classes its test rows have.
    last = max(row.round for row in made.rows)
    assert {row.client for row in made.rows if row.round < last} == set(shards.training)
    assert sorted(row.client for row in made.rows if row.round == last) == list(range(20))


def test_a_table_is_prepared_from_train_rows_only(tmp_path):
    made = prepare(
        BreastCancer(),
        Iid(clients=5),
        Split(),
        Classification(),
        seed=Seed(0),
        directory=tmp_path,
    )
    x = np.concatenate([made.shards.train(c)[0].numpy() for c in range(5)])
    assert np.abs(x.mean(0)).max() < 0.02  # clipping at 10 units moves it a little
    assert made.preparation.features[0] == "mean radius"
    again = Preparation.from_json(made.preparation.to_json())
    assert again == made.preparation
    raw = BreastCancer().load()
    assert again.apply(raw.x).shape == (569, 30)


def test_a_regression_learns_in_standard_units(tmp_path):
    made = prepare(
        Diabetes(), Iid(clients=4), Split(), Regression(), seed=Seed(0), directory=tmp_path
    )
    task = made.shards.signature.task
    y = np.concatenate([made.shards.train(c)[1].numpy() for c in range(4)])
    assert task.mean == pytest.approx(y.mean(), rel=1e-5)
    assert task.scale == pytest.approx(y.std(), rel=1e-5)
    assert made.summaries[0].labels == ()


def test_prepared_rows_that_are_gone_are_named(tmp_path):
    shards = digits(tmp_path).shards
    (tmp_path / "shards.json").unlink()
    with pytest.raises(DataError, match="prepared rows cannot be read"):
        _ = pickle.loads(pickle.dumps(shards)).names


def test_importing_the_folder_loads_neither_torch_nor_scikit_learn():
    code = (
        "import archipelago.data.prepare, archipelago.data.sources.bundled, sys;"
        "print([m for m in ('torch', 'sklearn', 'PIL', 'pyarrow') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
