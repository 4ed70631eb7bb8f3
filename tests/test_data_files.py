import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from archipelago.core.errors import ConfigError, DataError, MissingExtra
from archipelago.core.seeds import Seed
from archipelago.data.partition import Iid, Natural
from archipelago.data.prepare import prepare
from archipelago.data.sources.arrays import Arrays
from archipelago.data.sources.files import Files
from archipelago.data.split import Split
from archipelago.data.tasks import Classification


def csv_text(rows=30, *, header="age,sex,y", shift=0):
    lines = [f"{20 + i + shift},{'MF'[i % 2]},{['no', 'yes'][i % 3 == 0]}" for i in range(rows)]
    return "\n".join([header, *lines]) + "\n"


def silos(tmp_path, **texts):
    for name, text in texts.items():
        (tmp_path / f"{name}.csv").write_text(text)
    return Files(paths=(str(tmp_path / "*.csv"),), label="y")


def made(source, tmp_path, partition=None):
    return prepare(
        source,
        partition or Natural(),
        Split(),
        Classification(),
        seed=Seed(0),
        directory=tmp_path / "out",
    )


def test_three_files_are_three_silos(tmp_path):
    source = silos(tmp_path, north=csv_text(), south=csv_text(40), west=csv_text(20))
    shards = made(source, tmp_path).shards
    assert shards.names == ("north", "south", "west")
    assert shards.train_rows.tolist() == [21, 28, 14]
    assert shards.signature.task.classes == ("no", "yes")


def test_one_file_with_a_client_column_may_be_gzipped(tmp_path):
    body = "who,age,y\n" + "".join(f"{'ab'[i % 2]},{i},{i % 3}\n" for i in range(40))
    (tmp_path / "all.csv.gz").write_bytes(gzip.compress(body.encode()))
    source = Files(paths=(str(tmp_path / "all.csv.gz"),), label="y", client="who")
    shards = made(source, tmp_path).shards
    assert shards.names == ("a", "b")
    assert shards.signature.shape == (1,)


def test_semicolons_and_column_order_do_not_matter(tmp_path):
    swapped = "y;sex;age\n" + "".join(f"{'no' if i % 2 else 'yes'};M;{i}\n" for i in range(20))
    source = silos(tmp_path, a=csv_text(), b=swapped)
    assert made(source, tmp_path).shards.clients == 2


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ({"a": ""}, ["a.csv: the file is empty"]),
        ({"a": "age,y\n"}, ["has a header and no rows"]),
        ({"a": "age,y\n1,2,3\n"}, ["a row has 3 fields, the header 2", "row 2"]),
        (
            {"a": "age,age,y\n1,2,3\n"},
            ["the header needs one name", "in fields 2"],
        ),
        ({"a": csv_text(header="age,sex,label")}, ["no such column", "'y'", "silo 'a'"]),
        (
            {"a": csv_text(), "b": csv_text(), "c": csv_text(header="age,gender,y")},
            ["silo 'c': the columns differ", "absent: sex; extra: gender"],
        ),
        (
            {"a": csv_text(), "b": csv_text(), "c": csv_text().replace("\n2", "\nold ")},
            ["silo 'c', column 'age'", "numbers at a, b; text at c"],
        ),
        ({"a": csv_text().replace("yes", "no")}, ["one class only", "['no']"]),
        ({"a": csv_text().replace(",yes", ",")}, ["labels are missing", "10 of 30 rows"]),
        (
            {"a": csv_text(), "b": csv_text().replace(",yes", ",nan")},
            ["labels are missing", "10 of 60 rows", "10 of 'b'"],
        ),
        ({"a": csv_text(4), "b": csv_text(2)}, ["no silo has 5 train rows", "2 silos, a, b"]),
        (
            {"a": "when,y\n" + "".join(f"0{1 + i % 9}/03/2024,{i % 2}\n" for i in range(30))},
            ["day first or month first", "column 'when'"],
        ),
        (
            {"a": "cost,y\n" + "".join(f'"{i},5",{i % 2}\n' for i in range(30))},
            ["decimal comma", "column 'cost'", "3.14"],
        ),
        (
            {"a": "cost,y\n" + "".join(f'"0,{411 + i}",{i % 2}\n' for i in range(30))},
            ["decimal comma", "column 'cost'"],
        ),
        (
            {
                "a": "cost,y\n" + "".join(f"{i}.5,{i % 2}\n" for i in range(30)),
                "b": "cost,y\n" + "".join(f'"{i},5",{i % 2}\n' for i in range(30)),
            },
            ["decimal comma", "silo 'b', column 'cost'"],
        ),
        (
            {
                "a": "cost,y\n" + "".join(f"1.{100 + i},{i % 2}\n" for i in range(30)),
                "b": "cost,y\n" + "".join(f'"1,{100 + i}",{i % 2}\n' for i in range(30)),
            },
            ["commas may be decimal commas", "silo 'b', column 'cost'", "decimal points at a"],
        ),
        (
            {"a": "cost,y\n" + "".join(f"{i if i % 5 else 'dear'},{i % 2}\n" for i in range(30))},
            ["numbers are mixed with text", "column 'cost'", "a few of 21"],
        ),
    ],
)
def test_a_bad_file_is_named_with_its_remedy(tmp_path, texts, expected):
    source = silos(tmp_path, **texts)
    with pytest.raises(DataError) as caught:
        made(source, tmp_path, Natural() if len(texts) > 1 else Iid(clients=1, least=3))
    for text in expected:
        assert text in str(caught.value)
    assert "fix: " in str(caught.value)


def test_missing_and_unreadable_files_are_named(tmp_path):
    (tmp_path / "data.csv").write_text(csv_text())
    with pytest.raises(DataError, match=r"no such file[\s\S]*did you mean 'data.csv'"):
        Files(paths=(str(tmp_path / "dta.csv"),)).load()
    with pytest.raises(DataError, match="no file fits this pattern"):
        Files(paths=(str(tmp_path / "*.npz"),)).load()
    (tmp_path / "latin.csv").write_bytes("naïve,y\n1,2\n".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8 text"):
        Files(paths=(str(tmp_path / "latin.csv"),)).load()
    (tmp_path / "bad.npz").write_bytes(b"not a zip")
    with pytest.raises(DataError, match="cannot be read"):
        Files(paths=(str(tmp_path / "bad.npz"),)).load()
    (tmp_path / "notes.doc").write_text("x")
    with pytest.raises(DataError, match="files of this kind are not read"):
        Files(paths=(str(tmp_path / "notes.doc"),)).load()
    with pytest.raises(ConfigError, match=r"data.paths: names no file"):
        Files()


def test_npz_silos_hold_images_or_tables(tmp_path):
    rng = np.random.default_rng(0)
    for name in "ab":
        x = rng.integers(0, 255, (30, 9, 9), dtype=np.uint8)
        np.savez(tmp_path / f"{name}.npz", x=x, y=np.arange(30) % 2)
    shards = made(Files(paths=(str(tmp_path / "*.npz"),)), tmp_path).shards
    assert shards.signature.shape == (1, 9, 9)
    assert shards.signature.modality == "image"


def test_npz_silos_of_another_shape_are_named(tmp_path):
    for name, width in (("a", 4), ("b", 5)):
        np.savez(tmp_path / f"{name}.npz", x=np.zeros((20, width)), y=np.arange(20) % 2)
    with pytest.raises(DataError, match=r"silo 'b', array 'x': rows have another shape"):
        Files(paths=(str(tmp_path / "*.npz"),)).load()


def test_object_arrays_are_refused_and_never_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([{}, []], dtype=object), y=np.arange(2))
    with pytest.raises(DataError, match="object-typed arrays are not read"):
        Files(paths=(str(tmp_path / "a.npz"),)).load()
    with pytest.raises(DataError, match="object-typed arrays are not read"):
        Arrays(x=np.array([{}, []], dtype=object), y=np.arange(2)).load()


@pytest.mark.skipif(find_spec("pyarrow") is not None, reason="pyarrow is installed")
def test_parquet_without_its_extra_says_how_to_get_it(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(MissingExtra, match=r"pip install 'archipelago-nas\[parquet\]'"):
        Files(paths=(str(tmp_path / "a.parquet"),)).load()


@pytest.mark.skipif(find_spec("pyarrow") is None, reason="the extra parquet is not installed")
def test_parquet_equals_csv(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"age": [1.0, None, 3.0] * 10, "sex": ["M", None, "F"] * 10, "y": [0, 1] * 15})
    pq.write_table(table, tmp_path / "a.parquet")
    raw = Files(paths=(str(tmp_path / "a.parquet"),), label="y").load()
    assert raw.x["sex"][:3].tolist() == ["M", "", "F"]
    assert np.isnan(raw.x["age"][1])


def test_tensors_from_python(tmp_path):
    import torch

    source = Arrays(
        x=torch.randn(60, 16, 3, generator=torch.Generator().manual_seed(0)),
        y=torch.arange(60) % 3,
        clients=["ann", "bob"] * 30,
    )
    shards = made(source, tmp_path).shards
    assert shards.signature.modality == "series"
    assert shards.signature.shape == (3, 16)
    assert shards.names == ("ann", "bob")


def test_nan_labels_and_lengths_are_checked(tmp_path):
    y = np.array([0.0, 1.0, np.nan] * 10)
    with pytest.raises(DataError, match=r"labels are missing \(empty or NaN\)"):
        made(Arrays(x=np.zeros((30, 2)), y=y), tmp_path, Iid(clients=2))
    with pytest.raises(DataError, match="x and y have different numbers of rows"):
        Arrays(x=np.zeros((30, 2)), y=np.zeros(29)).load()


def test_images_with_missing_values_are_refused(tmp_path):
    x = np.zeros((40, 4, 4, 1), np.float32)
    x[3] = np.nan
    with pytest.raises(DataError, match="values are missing or infinite"):
        made(Arrays(x=x, y=np.arange(40) % 2), tmp_path, Iid(clients=2))


def test_a_file_that_resembles_no_other_is_not_answered_with_a_list(tmp_path):
    for index in range(30):
        (tmp_path / f"{index}.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="no such file") as caught:
        Files(paths=(str(tmp_path / "nothing_here"),), label="b").load()
    assert caught.value.fix == "check the path"


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ((9, 4, 2), (9, 2)),
        ((9, 4, 2), (9, 1)),
        ((9, 4, 2), ()),
        ((), (9,)),
        ((9, 4, 0), (9,)),
    ],
)
def test_arrays_that_are_no_rows_with_a_label_each_are_refused(
    tmp_path: Path, x: tuple[int, ...], y: tuple[int, ...]
) -> None:
    values, labels = np.ones(x, np.float32), np.ones(y, np.int64)
    with pytest.raises(DataError):
        Arrays(x=values, y=labels).load()
    np.savez(tmp_path / "a.npz", x=values, y=labels)
    with pytest.raises(DataError):
        Files(paths=(str(tmp_path / "a.npz"),), label="y").load()


def test_labels_of_one_silo_cannot_make_up_for_another_s(tmp_path: Path) -> None:
    for name, rows, labels in (("a", 9, 8), ("b", 8, 9)):
        np.savez(tmp_path / f"{name}.npz", x=np.ones((rows, 4, 2)), y=np.ones(labels, np.int64))
    with pytest.raises(DataError, match=r"silo 'a', array 'y'") as caught:
        Files(paths=(str(tmp_path / "?.npz"),), label="y").load()
    assert "one value for each row" in caught.value.what


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"x": {"v": np.ones((9, 2))}}, "column 'v': a column must have one value for each row"),
        ({"x": {"v": np.ones(9), "w": np.ones(8)}}, "column 'w': a column must have one value"),
        ({"clients": [None] * 9}, "clients: object-typed"),
    ],
)
def test_columns_and_owners_that_are_no_rows_are_named(change, text):
    fixed = {"x": {"v": np.ones(9)}, "y": np.ones(9, np.int64), "clients": list("ab") * 4 + ["a"]}
    with pytest.raises(DataError, match=text):
        Arrays(**{**fixed, **change}).load()
