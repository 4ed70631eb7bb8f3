"""A metric without a value is neither diverged nor perfect: known beforehand, said in words."""

import csv
import re
from collections.abc import Callable
from dataclasses import replace
from math import isnan, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from test_cli_run import status

from archipelago.cli.progress import line as told
from archipelago.config.load import loads
from archipelago.core.errors import DataError, RunFailed
from archipelago.core.meter import MeterRow
from archipelago.core.seeds import Seed
from archipelago.core.trial import Outcome
from archipelago.data.coverage import UNDEFINED
from archipelago.data.fleet import Fleet
from archipelago.data.prepare import prepare
from archipelago.data.presence import Labels, Presence, answered, ask
from archipelago.data.sources.bundled import Digits
from archipelago.data.split import Split
from archipelago.data.tasks import Classification, MultiLabel, Regression
from archipelago.journal.journal import Journal
from archipelago.report.comparison import Comparison, Group, Pair, lines
from archipelago.report.findings import Candidate, Curve, Reference
from archipelago.report.html import render
from archipelago.report.verdict import verdict
from archipelago.study.analysing.gather import gather, ranked
from archipelago.study.analysing.verdict import SHARE, compared, interval
from archipelago.study.analysing.verdict import Tested as Scored
from archipelago.study.planning.scorable import covered, scorable, sites, why
from archipelago.study.running.search import search

Capture = pytest.CaptureFixture[str]

TWO = Classification(classes=("well", "ill"), metric="auroc")
SIX = Classification(classes=tuple("abcdef"), metric="auroc")
LABELS = MultiLabel(classes=("p", "q", "r"), metric="auroc")
TARGET = Regression(mean=3.0, scale=2.0)
TASKS = (TWO, SIX, LABELS, TARGET)
COMPARING = ("balanced_accuracy", "macro_f1", "auroc", "average_precision")


def labels(*rows: str) -> np.ndarray:
    have = [[float(name in row) for name in "pqr"] for row in rows]
    return np.array(have, np.float32).reshape(-1, 3)


ROWS: dict[str, dict[str, np.ndarray]] = {
    "classification": {
        "usual": np.arange(24) % 2,
        "one class": np.zeros(24, np.int64),
        "zero rows": np.zeros(0, np.int64),
        "one row": np.ones(1, np.int64),
    },
    "multi-label": {
        "usual": labels("p", "q", "pr", ""),
        "no positive": labels("", "", ""),
        "one label everywhere": labels("p", "p", "p"),
        "a label missing": labels("p", "q", ""),
        "zero rows": labels(),
    },
    "regression": {
        "usual": np.array([1.0, 2.0, 4.0], np.float32),
        "constant": np.full(700, 3.3, np.float32),  # rounding leaves a spread of some 1e-13
        "one row": np.array([7.5], np.float32),
        "zero rows": np.zeros(0, np.float32),
    },
}
LOST = {
    ("classification", "one class"): COMPARING,
    ("classification", "one row"): COMPARING,
    ("multi-label", "no positive"): ("macro_f1", "micro_f1", "auroc", "average_precision"),
    ("multi-label", "one label everywhere"): ("auroc", "average_precision"),
    ("regression", "constant"): ("r2",),
    ("regression", "one row"): ("r2",),
}
"""Metrics that have no value there, beside all of them on no row."""


def statistics(task: Any, y: np.ndarray, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    width = () if isinstance(task, Regression) else (task.outputs,)
    z = torch.tensor(rng.normal(size=(len(y), *(width or (1,)))))
    return task.statistics(z, torch.tensor(y))


@pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{task.kind} of {task.outputs}")
def test_a_metric_is_nan_exactly_where_its_cover_says_so(task: Any) -> None:
    for name, y in ROWS[task.kind].items():
        for metric in task.METRICS:
            chosen = replace(task, metric=metric)
            vector = statistics(chosen, y)
            value, cover = chosen.metrics(vector).get(metric), chosen.cover(chosen.truth(vector))
            if value is None:
                continue  # top5 of two classes
            lost = name == "zero rows" or metric in LOST.get((task.kind, name), ())
            assert isnan(value) == lost == (not cover.defined), (name, metric, value)
            assert cover.undefined("test").startswith(f"{metric} {UNDEFINED}")
            # A network's answers decide nothing: all candidates have a score, or none.
            again = chosen.metrics(statistics(chosen, y, seed=1))[metric]
            assert isnan(again) == lost


@pytest.mark.parametrize("metric", COMPARING)
def test_classes_without_a_row_are_left_out_and_named(metric: str) -> None:
    rng = np.random.default_rng(0)
    task = replace(SIX, metric=metric)
    y = rng.integers(0, 4, 900)  # nobody is of class e or f
    z = rng.normal(size=(900, 6)) + 2 * np.eye(6)[y]
    z[:, 4:] -= 20
    vector = task.statistics(torch.tensor(z), torch.tensor(y))
    p, said = torch.tensor(z).softmax(1).numpy(), z.argmax(1)
    exact = {
        "balanced_accuracy": sk.balanced_accuracy_score(y, said),
        "macro_f1": sk.f1_score(y, said, average="macro"),
        "auroc": np.mean([sk.roc_auc_score(y == c, p[:, c]) for c in range(4)]),
        "average_precision": np.mean(
            [sk.average_precision_score(y == c, p[:, c]) for c in range(4)]
        ),
    }
    assert task.metrics(vector)[metric] == pytest.approx(exact[metric], abs=2e-3)
    partly = task.cover(task.truth(vector)).partly("test")
    assert partly.startswith(f"{metric} over 4 of 6 classes: no test row of 'e', 'f'")


def test_labels_that_nobody_has_are_left_out_of_f1_unless_answered() -> None:
    task = replace(LABELS, metric="macro_f1")
    y = torch.tensor(labels("p", "q", "pq", ""))
    z = torch.tensor(np.where(y.numpy() > 0, 1.0, -1.0))
    assert task.metrics(task.statistics(z, y))["macro_f1"] == 1.0
    z[0, 2] = 1.0
    assert task.metrics(task.statistics(z, y))["macro_f1"] == pytest.approx(2 / 3)
    assert task.cover(task.truth(task.statistics(z, y))).partly("test") == (
        "macro_f1 over 2 of 3 labels: no test row of 'r', which counts as 0 where it is answered"
    )
    every = LABELS.cover(LABELS.truth(statistics(LABELS, labels("pq", "p"))))
    said = "auroc over 1 of 3 labels: no test row of 'r'; every test row has 'p'"
    assert (every.defined, every.partly("test")) == (True, said)


def presence(task: Any, *silos: tuple[Any, Any, Any], floor: int = 5) -> Presence:
    """Ask silos that hold these train, validation and test targets."""
    dtype = np.int64 if isinstance(task, Classification) else np.float32
    asked = [
        Labels(client=i, home=i, name=f"s{i}", parts=tuple(np.array(y, dtype) for y in parts))  # pyright: ignore[reportArgumentType]
        for i, parts in enumerate(silos)
    ]
    return ask(task, asked, floor=floor, meter=[], turn=0)


def test_a_silo_answers_none_few_or_enough_and_nothing_else() -> None:
    parts = (np.array([0] * 40 + [1] * 4), np.array([0] * 5), np.array([1] * 400))
    silo = Labels(client=0, home=0, name="s", parts=parts)
    request = {"task": "classification", "classes": ["well", "ill"], "floor": 5}
    said = answered(silo, request)
    assert said == {"train": "21", "validation": "20", "test": "02"}
    # Any other numbers between the same bounds give the same answer: no count can be read from it.
    other = (np.array([0] * 5 + [1]), np.array([0] * 900), np.array([1] * 5))
    assert answered(replace(silo, parts=other), request) == said
    several = replace(silo, parts=(labels("p", "pq"), labels(), labels("r")))
    told_ = answered(several, {"task": "multi-label", "classes": ["p", "q", "r"], "floor": 2})
    assert told_ == {"train": "201102", "validation": "000000", "test": "010110"}
    target = replace(silo, parts=(np.array([1.0, 5.0]), np.full(9, 3.0), np.zeros(0)))
    about = {"task": "regression", "classes": [], "floor": 5, "mean": 2.0}
    assert answered(target, about) == {"train": "111", "validation": "020", "test": "000"}


def test_an_answer_costs_a_meter_row_and_must_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    meter, nine = list[MeterRow](), np.zeros(9, int)
    silo = Labels(client=7, home=3, name="south", parts=(nine, nine, nine))
    ask(TWO, [silo], floor=5, meter=meter, turn=4)
    (row,) = meter
    assert (row.phase, row.round, row.client, row.examples) == ("statistics", 4, 3, 27)
    assert 0 < row.bytes_up < 300 < row.bytes_up + row.bytes_down
    for wrong in ("2", "23", 22, None, "2" * 3):
        monkeypatch.setattr(
            "archipelago.data.presence.answered",
            lambda *_, wrong=wrong: dict.fromkeys(("train", "validation", "test"), wrong),
        )
        with pytest.raises(
            DataError, match="silo 'south'.*: an answer must be a digit from 0 to 2"
        ):
            ask(TWO, [silo], floor=5, meter=[], turn=0)


BOTH, WELL, ILL = [0, 1] * 6, [0] * 9, [1] * 9
DRAWS = 400


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("archipelago.study.analysing.verdict.DRAWS", DRAWS)


CASES: list[tuple[Any, tuple[Any, ...], str]] = [
    *(
        (replace(TWO, metric=metric), silos, f"{metric} is undefined: no {split} row of {name!r}")
        for metric in COMPARING
        for split, silos, name in (
            ("validation", ((BOTH, WELL, BOTH), (BOTH, WELL, WELL)), "ill"),
            ("test", ((BOTH, BOTH, ILL), (BOTH, WELL, ILL)), "well"),
        )
    ),
    (TWO, ((BOTH, BOTH, []), (BOTH, BOTH, [])), "auroc is undefined: there is no test row"),
    (
        replace(TWO, metric="accuracy"),
        ((BOTH, [], BOTH),),
        "accuracy is undefined: there is no validation row",
    ),
    *(
        (
            replace(LABELS, metric=metric),
            ((labels("p", "q", "r"), labels("p", ""), labels("", "")),),
            f"{metric} is undefined: no test row of 'p', 'q', 'r'",
        )
        for metric in ("macro_f1", "micro_f1", "auroc", "average_precision")
    ),
    (
        LABELS,
        ((labels("p", "q", "r"), labels("pqr", "pqr"), labels("p", "")),),
        "auroc is undefined: every validation row has 'p', 'q', 'r'",
    ),
    (
        replace(TARGET, metric="r2"),
        (([1, 2], [1, 2], [4, 4, 4]),),
        "r2 is undefined: the target is the same in all test rows",
    ),
]


@pytest.mark.parametrize(("task", "silos", "text"), CASES, ids=[text for *_, text in CASES])
def test_a_study_that_cannot_be_scored_is_refused(task: Any, silos: Any, text: str) -> None:
    with pytest.raises(DataError, match="the metric has no value") as caught:
        scorable(task, presence(task, *silos))
    assert text in str(caught.value.got)
    assert (caught.value.where, "learning_rate" in str(caught.value)) == ("task.metric", False)
    assert re.search("split|rmse", str(caught.value.fix))


def test_what_the_scores_leave_out_is_said_beforehand() -> None:
    six = replace(SIX, metric="balanced_accuracy")
    some = [0, 1, 2, 3, 4] * 6
    said = scorable(six, presence(six, (some, some, [*some, 5]), (some, some, [0] * 6)))
    assert said == (
        "balanced_accuracy over 5 of 6 classes: no validation row of 'f'",
        "fewer than 5 test rows of 'f' in all, and balanced_accuracy counts each class alike",
        "balanced_accuracy has no value at 1 of 2 silos alone, whose test rows hold too few "
        "classes or values: 's1'",
    )
    assert scorable(TWO, presence(TWO, (BOTH, BOTH, BOTH))) == ()
    # Each silo holds one value, on the same side of the mean: they may or may not be the same.
    r2 = replace(TARGET, metric="r2")
    told_ = scorable(r2, presence(r2, ([1], [1, 5], [4, 4]), ([5], [2], [6, 6])))
    assert "r2 may turn out undefined" in told_[0]
    assert not any(
        "undefined" in one
        for one in scorable(r2, presence(r2, ([1], [1, 5], [4]), ([1], [2], [1])))
    )


def test_validators_are_drawn_on_whose_rows_the_metric_has_a_value() -> None:
    held = presence(TWO, *((BOTH, y, BOTH) for y in (BOTH, WELL, WELL, ILL, WELL)))
    assert held.completed(TWO, [4, 0], [1, 2, 3]) == (0, 4)  # as drawn
    assert held.completed(TWO, [1, 2], [4, 3, 0]) == (1, 3)  # as many as were asked for
    assert held.completed(TWO, [1], [4, 3, 0]) == (1, 3)  # one cannot hold both
    assert held.completed(TWO, [1], [0]) == (0,)
    assert held.completed(replace(TWO, metric="accuracy"), [1], [0]) == (1,)
    alike = presence(TWO, (BOTH, WELL, BOTH), (BOTH, WELL, BOTH))
    assert alike.completed(TWO, [1], [0]) == (1,)  # nobody can help


def test_a_fleets_panel_is_asked_for_the_rows_that_it_draws(tmp_path: Path) -> None:
    fleet = Fleet(clients=300, homes=4, panel=5)
    made = prepare(Digits(), fleet, Split(), Classification(), seed=Seed(3), directory=tmp_path)
    held, shards = made.presence, made.shards
    assert held.clients == shards.scoring
    assert {row.client for row in made.rows} <= set(range(4))  # homes answer
    for client in shards.scoring:
        seen = set(shards.validation(client)[1].tolist())
        there = held.truth(shards.signature.task, "validation", (client,)).present
        assert set(np.flatnonzero(there).tolist()) == seen


def scored(*silos: list[int], seed: int = 0, task: Any = TWO) -> Scored:
    vectors = {c: statistics(task, np.array(y), seed + c) for c, y in enumerate(silos)}
    return Scored(vectors, task.metrics(np.sum(list(vectors.values()), axis=0)))


def test_samples_without_a_value_are_left_out_counted_and_end_the_interval() -> None:
    many = scored(*([BOTH] * 3), *([WELL] * 2))
    bounds = interval(TWO, many, Seed(0))
    (lost,) = re.findall(
        rf"no value on (\d+) of {DRAWS} draws of clients, which are left", bounds.note
    )
    assert bounds.given
    assert 0 < int(lost) < (1 - SHARE) * DRAWS
    assert int(lost) / DRAWS == pytest.approx((2 / 5) ** 5, abs=0.015)
    lone = interval(TWO, scored(BOTH, WELL, WELL, WELL), Seed(0))
    assert not lone.given
    assert "too few clients hold what it needs" in lone.note
    assert interval(TWO, scored(BOTH, BOTH), Seed(0)).note == ""
    one = interval(TWO, scored(BOTH), Seed(0))
    assert not one.given
    assert one.note.startswith("one client has test rows")
    nobody = interval(TWO, scored(WELL, WELL), Seed(0))
    assert not nobody.given
    assert nobody.note == "auroc has no value on all rows together"
    perfect = replace(TWO, metric="balanced_accuracy")
    assert isnan(scored(WELL, WELL, task=perfect).metrics["balanced_accuracy"])


def test_a_difference_is_of_the_same_clients_and_the_same_samples() -> None:
    ours, theirs = (scored(*([BOTH] * 3), *([WELL] * 2), seed=seed) for seed in (0, 50))
    gap = compared(TWO, ours, theirs, Seed(0))
    assert gap.bounds.note == interval(TWO, ours, Seed(0)).note
    back = compared(TWO, theirs, ours, Seed(0))
    assert gap.turned(-1) == back or gap.turned(-1).value == pytest.approx(back.value)
    fewer = Scored({c: theirs.vectors[c] for c in (0, 3)}, {"auroc": 0.0})
    same = compared(TWO, ours, fewer, Seed(0)).value
    both = [TWO.metrics(t.vectors[0] + t.vectors[3])["auroc"] for t in (ours, theirs)]
    assert same == pytest.approx(both[0] - fewer.metrics["auroc"])
    alone = compared(TWO, scored(BOTH), scored(BOTH, seed=9), Seed(0))
    assert not alone.bounds.given
    assert np.isfinite(alone.value)


def test_what_a_test_score_covers_is_said_of_all_rows_and_of_sites() -> None:
    found = scored([0, 1, 2, 3] * 3, [0] * 5, [1] * 5, task=SIX)
    assert covered(SIX, found) == "auroc over 4 of 6 classes: no test row of 'e', 'f'"
    assert sites(SIX, found) == (
        "auroc has no value at 2 of 3 sites, whose test rows have one label only: they count in "
        "all rows together, and in no spread"
    )
    assert why(SIX, found) == ""
    assert why(TWO, scored(ILL, ILL)) == "auroc is undefined: no test row of 'well'"
    assert sites(TWO, scored(BOTH, BOTH)) == covered(TWO, scored(BOTH, BOTH)) == ""


def test_the_last_lines_say_it_in_words() -> None:
    about = {"metric": "auroc", "score": 0.9, "low": nan, "high": nan, "interval": "one client"}
    assert told("tested", about) == "tested once: auroc 0.9000 (no interval: one client)"
    about |= {"covers": "auroc over 2 of 3 classes: no test row of 'x'", "low": 0.8, "high": 1.0}
    assert told("tested", {**about, "interval": ""}) == (
        "tested once: auroc 0.9000 (95 % interval 0.8000 to 1.0000)\n"
        "  auroc over 2 of 3 classes: no test row of 'x'"
    )
    lost = {**about, "score": nan, "undefined": "auroc is undefined: no test row of 'ill'"}
    assert told("tested", lost) == "tested once: auroc is undefined: no test row of 'ill'"
    line = {"name": "hand-made network", "score": 0.5, "difference": 0.1, "low": nan, "high": nan}
    said = "hand-made network: 0.5000; the shipped network differs by +0.1000 (no interval: few)"
    assert told("reference", {**line, "interval": "few"}) == said
    assert "nan" not in str(told("reference", {**line, "difference": nan}))
    outcome = {
        "phase": "search",
        "number": 3,
        "status": "undefined",
        "reason": "why",
        "score": None,
    }
    assert told("outcome", outcome) == "#3 undefined: why"


def test_no_verdict_is_passed_without_an_interval() -> None:
    pair = Pair(first=0, second=1, difference=0.2, paired="clients", units=1, note="one client")
    group = Group(
        name="x",
        settings=(),
        seeds=(1,),
        mean=nan,
        deviation=None,
        params=1,
        macs=1,
        client_seconds=1,
        bytes=1,
    )
    page = "\n".join(
        lines(
            Comparison(
                data="d", metric="auroc", percent=False, groups=(group, group), pairs=(pair,)
            )
        )
    )
    assert (pair.verdict, Pair(first=0, second=1).verdict) == ("not compared", "not compared")
    assert "none: one client" in page
    assert "undefined" in page
    assert not re.search("nan|–  to", page)


def test_an_outcome_without_a_value_is_ranked_last_and_has_no_score() -> None:
    lost = Outcome(number=0, arch={}, score=float("-inf"), status="undefined", reason="why")
    done = Outcome(number=1, arch={}, score=0.1)
    assert [o.number for o in ranked([lost, done])] == [1, 0]
    assert (lost.scored, done.scored) == (False, True)
    assert Outcome.from_json(lost.to_json()) == lost
    assert Candidate(outcome=lost).value is None
    assert Curve(label="#0", points=(), status="undefined").status == "undefined"


TEXT = """
name = "silos"
[data]
kind = "files"
paths = ["{folder}/*.csv"]
label = "y"
[partition]
kind = "natural"
[task]
metric = "auroc"
[space]
kind = "table-mlp"
[estimator]
kind = "rounds"
rounds = 1
candidates = 2
validators = 1
[budget]
trials = 2
[final]
rounds = 2
references = false
[engine]
kind = "serial"
"""


NAMED = 'task.classes=["ill", "well"]'
"""One row is too few to name a class, unless its owner declares it."""


def files(folder: Path, ill: Callable[[int, int], bool], silos: int = 3) -> Path:
    """Write silos of 40 rows, of which those are ill that `ill(silo, row)` says."""
    folder.mkdir(exist_ok=True)
    for silo in range(silos):
        rng = np.random.default_rng(silo)
        rows = [
            (*rng.normal(size=2).round(3).tolist(), "ill" if ill(silo, row) else "well")
            for row in range(40)
        ]
        with (folder / f"s{silo}.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([("a", "b", "y"), *rows])
    (folder / "run.toml").write_text(TEXT.replace("{folder}", str(folder)))
    return folder / "run.toml"


def test_positives_in_train_rows_only_are_refused_by_every_verb(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = files(tmp_path, lambda silo, row: (silo, row) == (0, 5))
    monkeypatch.chdir(tmp_path)
    for verb in ("check", "plan", "search"):
        assert status(verb, file, "--set", "seed=2", "--set", NAMED) == 2
        said = capsys.readouterr()
        assert "no validation row of 'ill'" in said.err
        assert "no test row of 'ill'" in said.err
        assert "fix: give the silos' rows of every class" in said.err
        assert not (tmp_path / "runs" / "silos").exists()


def test_undefined_candidates_are_no_diverged_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = files(tmp_path, lambda silo, row: (silo, row) == (0, 5)).read_text()
    run = loads(text, ["seed=2", NAMED])
    monkeypatch.setattr("archipelago.study.running.start.scorable", lambda *_: ())
    with pytest.raises(RunFailed, match="every candidate failed") as caught:
        search(run, tmp_path / "run").result  # noqa: B018 - asking runs the study
    assert "auroc is undefined: no validation row of 'ill'" in str(caught.value)
    assert "task.metric" in str(caught.value.fix)
    assert not re.search("learning_rate|diverged", str(caught.value))
    with Journal.open(tmp_path / "run", write=False) as journal:
        assert {outcome.status for outcome in journal.outcomes()} == {"undefined"}
        assert journal.standing()[0] is None


@pytest.mark.parametrize(
    "sets",
    [
        ['estimator={kind="rounds", rounds=1, candidates=2, validators=1}'],
        ['estimator={kind="race", candidates=2, first=1, last=1, validators=1}'],
        ['estimator={kind="race", candidates=2, first=1, last=1, rows=1, by="score"}'],
        ['estimator={kind="race", candidates=2, first=1, last=1, scorers="trainers"}'],
        ['estimator={kind="zero-cost", candidates=2, validators=1}'],
        ['topology={kind="buffered", buffer=1}'],
        ['strategy={kind="successive-halving"}'],
    ],
    ids=lambda sets: re.sub("[^a-z0-9=]+", " ", sets[0]),
)
def test_every_estimator_scores_where_the_metric_has_a_value(
    tmp_path: Path, sets: list[str]
) -> None:
    run = loads(files(tmp_path, lambda silo, row: silo == 1 and row % 3 == 0).read_text(), sets)
    study = search(run, tmp_path / "run")
    found = list[Outcome]()
    for outcome in study:
        found.append(outcome)
        study.stop()
    assert found
    assert all(outcome.scored and np.isfinite(outcome.score) for outcome in found), found
    if "zero-cost" in sets[0]:
        return
    assert all(0 <= outcome.metrics["auroc"] <= 1 for outcome in found)
    with Journal.open(tmp_path / "run", write=False) as journal:
        moved = sum(row.bytes_down for row in journal.meter(phase="search"))
    # Who scores again because others could not tell is counted once, and at its candidate.
    assert moved == sum(outcome.costs["spent_bytes_down"] for outcome in found)


def test_positives_at_one_silo_are_scored_there_and_said_everywhere(tmp_path: Path) -> None:
    run = loads(files(tmp_path, lambda silo, row: silo == 0 and row % 2 == 0).read_text())
    events = list(search(run, tmp_path / "run").events())
    (ready,) = [e.data for e in events if e.kind == "prepared"]
    assert any("auroc has no value at 2 of 3 silos alone" in said for said in ready["scores"])
    # One validator was asked for: it is the one whose rows can tell.
    outcomes = [e.data for e in events if e.kind == "outcome" and e.data["phase"] == "search"]
    assert [outcome["status"] for outcome in outcomes] == ["done", "done"]
    (end,) = [e for e in events if e.kind == "tested"]
    said = told(end.kind, end.data) or ""
    assert "no interval: auroc has no value on" in said
    assert "at 2 of 3 sites" in said
    with Journal.open(tmp_path / "run", write=False) as journal:
        found = gather(journal)
    page = render(found).split("<script>")[0]
    assert "(no interval: auroc has no value on" in page
    assert (
        "At 2 sites it is undefined: the table says why, so that 1 of 3 are compared here" in page
    )
    assert "Known of its scores beforehand: auroc has no value at 2 of 3 silos alone" in page
    assert not re.search("interval –|– to –|>nan<", page)
    line = Reference(
        name="hand-made network",
        score=0.5,
        low=nan,
        high=nan,
        difference=0.1,
        difference_low=nan,
        difference_high=nan,
        cost=1.0,
        difference_note="too few",
    )
    told_ = verdict(replace(found, references=(line,), covers="auroc over 2 of 3 classes: x"))
    assert "of which no interval tells more (too few)" in told_[1]
    assert "Not of everything: auroc over 2 of 3 classes: x." in told_[0]
    lost = replace(found, undefined="auroc is undefined: why")
    assert lost.test is not None
    lost = replace(lost, test=replace(lost.test, value=nan, low=nan, high=nan))
    assert "has no test score (auroc is undefined: why)" in verdict(lost)[0]
