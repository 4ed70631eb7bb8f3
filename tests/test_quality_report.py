"""The verdict on each silo's data, on its way from the statistics round to the report."""

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from archipelago.config.load import loads
from archipelago.core.meter import MeterRow
from archipelago.core.seeds import Seed
from archipelago.data import answers
from archipelago.data import prepare as data_prepare
from archipelago.data.inspection import inspect
from archipelago.data.partition import Iid
from archipelago.data.sources.arrays import Arrays
from archipelago.data.split import Split
from archipelago.data.tasks import Classification
from archipelago.journal.journal import Journal
from archipelago.report.findings import Candidate, Findings, Remark, Silo
from archipelago.report.html import render
from archipelago.study.running.extend import extend
from archipelago.study.running.reproduce import differences
from archipelago.study.running.search import resume, search

HEADING = "The state of each silo's data"
TEXT = """
name = "silos"
[data]
kind = "files"
paths = ["{folder}/*.csv"]
label = "y"
[partition]
kind = "natural"
[space]
kind = "table-mlp"
[estimator]
kind = "rounds"
rounds = 1
candidates = 2
[budget]
trials = 2
[final]
rounds = 2
references = false
[engine]
kind = "serial"
"""


def silo(path: Path, seed: int, *, flat: bool = False, gaps: bool = False) -> None:
    """Write 120 rows; with `flat` a constant column, with `gaps` empty fields and doubled rows."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, 120)).round(4)
    y = np.where(a + rng.normal(size=120) > 0, "ill", "well")
    width = np.full(120, "3.5") if flat else rng.normal(3.5, 1, 120).round(4).astype(str)
    rows = list(zip(a.tolist(), b.tolist(), width.tolist(), y.tolist(), strict=True))
    if gaps:
        rows = [(a, "" if i % 5 < 3 else b, w, y) for i, (a, b, w, y) in enumerate(rows[:80])]
        rows += rows[:40]
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([("a", "b", "width", "y"), *rows])


def run_of(folder: Path) -> Any:
    return loads(TEXT.replace("{folder}", str(folder)))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("silos")
    silo(folder / "north.csv", 1, flat=True)
    silo(folder / "south.csv", 2, gaps=True)
    silo(folder / "west.csv", 3)
    search(run_of(folder), folder / "run").result  # noqa: B018 - asking runs the study
    return folder


def section(page: str) -> str:
    before = page.split("<script>", maxsplit=1)[0]
    return before[before.index(HEADING) :].split("<h2>")[0]


def rows_of(html: str) -> list[list[str]]:
    found = re.findall(r"<tr>(.*?)</tr>", html.split("<tbody>")[1])
    return [re.findall(r"<td>(.*?)</td>", row) for row in found]


def asked(directory: Path) -> list[MeterRow]:
    with Journal.open(directory, write=False) as journal:
        return list(journal.meter(phase="statistics"))


def test_the_report_says_what_is_wrong_at_which_silo_and_what_it_means(whole: Path) -> None:
    said = rows_of(section((whole / "run" / "report.html").read_text()))
    by_silo = {name: {row[1]: row[2:] for row in said if row[0] == name} for name, *_ in said}
    assert set(by_silo) == {"north", "south", "west"}
    assert by_silo["north"]["constant"] == [
        "width",
        "100%",
        "at this silo nothing can be learned from the column",
        "it says nothing at this silo",
    ]
    column, amount, means, _ = by_silo["south"]["missing"]
    assert (column, means) == ("b", "of these rows the model knows only that the value is missing")
    assert 50 <= int(amount.rstrip("%")) <= 70
    column, amount, means, _ = by_silo["south"]["duplicates"]
    assert column == "(rows)"
    assert 10 <= int(amount.rstrip("%")) <= 34
    assert "equal rows may stand in train and test at once" in means
    assert by_silo["west"] == {"nothing suspicious": ["", "", "", ""]}


def test_the_verdict_is_that_of_check_and_left_the_silos_metered(whole: Path) -> None:
    run = run_of(whole)
    root = Seed(run.seed).child("data")
    seen = inspect(run.data, run.partition, run.split, run.task, seed=root)
    said = rows_of(section((whole / "run" / "report.html").read_text()))
    told = [(f.silo, f.what, f.column or "(rows)", f.size) for f in seen.findings]
    assert sorted(told) == sorted(tuple(row[:4]) for row in said if row[3])
    meter = asked(whole / "run")
    # every silo answers four times: of its columns, their moments, its rows, and its classes
    assert [(row.round, row.client) for row in meter] == [
        (r, c) for r in (0, 1, 2, 3) for c in (0, 1, 2)
    ]
    assert all(row.bytes_up > 0 for row in meter)
    page = (whole / "run" / "report.html").read_text()
    assert "for the verdict on its data counts of doubled rows, and of each column how well" in page
    assert "Label counts by silo and the state of each silo&#x27;s data, shown above" in page


def test_a_run_that_goes_on_keeps_its_verdict_and_asks_nobody_again(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[str] = []
    real = answers.quality_answer
    monkeypatch.setattr(
        answers, "quality_answer", lambda rows, ask: judged.append(rows.name) or real(rows, ask)
    )
    study = search(run_of(whole), tmp_path / "run")
    for event in study.events():
        if event.kind == "prepared":
            study.stop()
    assert judged == ["north", "south", "west"]
    resume(tmp_path / "run").result  # noqa: B018 - asking runs the study
    assert differences(whole / "run", tmp_path / "run").same
    assert len(asked(tmp_path / "run")) == 12
    pages = [(folder / "run" / "report.html").read_text() for folder in (whole, tmp_path)]
    assert section(pages[0]) == section(pages[1])
    extend(tmp_path / "run", 1).result  # noqa: B018 - asking runs the study
    assert len(asked(tmp_path / "run")) == 12
    assert section((tmp_path / "run" / "report.html").read_text()) == section(pages[0])
    assert len(judged) == 3


def test_a_published_set_is_not_judged(tmp_path: Path) -> None:
    text = TEXT.replace('kind = "files"\npaths = ["{folder}/*.csv"]\nlabel = "y"', 'kind = "wine"')
    run = loads(text.replace('kind = "natural"', 'kind = "iid"\nclients = 3'))
    search(run, tmp_path / "run").result  # noqa: B018 - asking runs the study
    page = (tmp_path / "run" / "report.html").read_text().split("<script>")[0]
    assert HEADING not in page
    assert "verdict on its data" not in page
    assert {row.round for row in asked(tmp_path / "run")} == {0, 1, 2}


def test_more_clients_than_anybody_reads_about_are_not_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = np.random.default_rng(0).normal(size=(60, 3)), np.arange(60) % 2

    def found(limit: int) -> Any:
        monkeypatch.setattr(data_prepare, "SILOS", limit)
        given = (Arrays(x=x, y=y), Iid(clients=3), Split(), Classification())
        folder = tmp_path / str(limit)
        return data_prepare.prepare(*given, seed=Seed(0), directory=folder, judged=True).findings

    assert found(3) is not None
    assert found(2) is None


def page_of(quality: tuple[Remark, ...] | None, silos: int) -> str:
    held = silos - 1
    rows = [
        Silo(name=f"s{i}", train=9, validation=1, test=1, held_out=i == held) for i in range(silos)
    ]
    none: tuple[Candidate, ...] = ()
    found = Findings(
        name="x", metric="accuracy", seed=1, candidates=none, silos=tuple(rows), quality=quality
    )
    return render(found)


def test_a_remark_on_all_silos_leaves_none_without_suspicion() -> None:
    remark = Remark(silo="all silos", column="late", what="leak", amount="100%", advice="when?")
    page = page_of((remark,), 3)
    assert "nothing suspicious" not in page
    assert page.count("nothing of its own") == 2


def test_many_silos_are_counted_and_names_cannot_break_the_page() -> None:
    remark = Remark(silo="s7", column="<b>", what="drift", amount="+2.0 sd", advice="units?")
    said = rows_of(section(page_of((remark,), 30)))
    assert said[0][:4] == ["s7", "drift", "&lt;b&gt;", "+2.0 sd"]
    assert "the model may do worse here than elsewhere" in said[0][4]
    assert [row[:2] for row in said[1:]] == [
        ["28 further silos", "nothing suspicious"],
        ["s29", "not asked: it never trained"],
    ]
    assert HEADING not in page_of(None, 3)
    many = rows_of(section(page_of((remark,) * 205, 8)))
    assert many[200][:2] == ["...", "5 further remarks"]
