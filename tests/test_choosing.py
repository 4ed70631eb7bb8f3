"""After a run: choose another candidate, go on, set side by side, repeat."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from test_cli_run import status
from test_study import TEXT

from archipelago.config.catalog import CATALOG
from archipelago.config.load import dumps, loads
from archipelago.core.errors import ConfigError, DataError, JournalError
from archipelago.core.part_state import PartState
from archipelago.core.trial import Outcome
from archipelago.data.tasks import Classification
from archipelago.deploy.session import Session
from archipelago.driver.front import pareto
from archipelago.estimate.context import EvaluationContext, Step
from archipelago.estimate.rounds import Rounds
from archipelago.federation.branch import Generation
from archipelago.journal.journal import Journal
from archipelago.report.comparison import lines
from archipelago.report.comparison import render as compared
from archipelago.report.html import render
from archipelago.study.analysing.compare import compare
from archipelago.study.analysing.gather import _clients, gather, searched
from archipelago.study.analysing.verdict import Tested as Scored
from archipelago.study.running.export import export, export_front
from archipelago.study.running.extend import extend
from archipelago.study.running.reproduce import differences, reproduce
from archipelago.study.running.search import search

Capture = pytest.CaptureFixture[str]


def run_of(*sets: str) -> Any:
    fast = ['estimator={kind="rounds", rounds=2, candidates=3}', "final.rounds=3"]
    fast += ['governance.entitlement="annex B"', 'governance.silos={client-0="vote 12 <b>"}']
    return loads(TEXT.replace("{references}", "false"), [*fast, *sets])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("choose") / "run"
    search(run_of(), directory).result  # noqa: B018 - asking for the result runs the study
    return directory


def outcomes(directory: Path) -> list[Outcome]:
    with Journal.open(directory, write=False) as journal:
        return searched(journal)


def about(path: Path) -> Any:
    return Session.open(path).manifest.about


def outcome(number: int, score: float, macs: int, params: int, status: Any = "done") -> Outcome:
    costs = {"macs": macs, "params": params}
    return Outcome(number=number, arch={}, score=score, status=status, costs=costs)


def test_a_front_holds_whom_nobody_beats() -> None:
    rivals = [
        outcome(0, 0.9, 100, 10),
        outcome(1, 0.8, 100, 10),  # worse at the same cost
        outcome(2, 0.7, 50, 20),  # cheaper in MACs
        outcome(3, 0.6, 60, 5),  # cheaper in parameters
        outcome(4, 0.95, 10, 1, status="dropped"),  # scored after fewer rounds
        outcome(5, 0.9, 100, 10),  # equal to 0
        outcome(6, 0.5, 70, 30),
    ]
    assert [o.number for o in pareto(rivals)] == [0, 2, 3]
    assert pareto([]) == ()


def test_a_candidate_is_chosen_by_number_or_by_size(whole: Path, tmp_path: Path) -> None:
    found = outcomes(whole)
    winner = max(found, key=lambda o: (o.score, -o.number))
    other = next(o for o in pareto(found) if o.number != winner.number)
    path = tmp_path / "other.onnx"
    said = export(whole, path, number=other.number)
    assert said == f"candidate #{other.number}, searched, not finally trained, not tested"
    assert about(path)["candidate"] == other.number
    assert about(path)["tested"] is False
    assert export(whole, path, number=winner.number).endswith("the tested network of this run")
    limit = sorted(o.costs["macs"] for o in found)[2]
    best = max((o for o in found if o.costs["macs"] <= limit), key=lambda o: (o.score, -o.number))
    assert export(whole, path, max_macs=limit).startswith(f"candidate #{best.number}, ")
    small = tmp_path / "small.onnx"
    size = path.stat().st_size
    export(whole, small, max_bytes=size)
    assert small.stat().st_size <= size


def test_the_front_is_exported_whole(whole: Path, tmp_path: Path, capsys: Capture) -> None:
    assert status("export", whole, "--onnx", tmp_path / "front", "--front") == 0
    printed = capsys.readouterr().out.splitlines()
    index = json.loads((tmp_path / "front" / "front.json").read_text())
    assert [entry["number"] for entry in index] == [o.number for o in pareto(outcomes(whole))]
    assert len(printed) == len(index) >= 2
    for entry in index:
        file = tmp_path / "front" / entry["file"]
        assert file.stat().st_size == entry["bytes"]
        assert np.isfinite(Session.open(file).run(np.zeros((1, 13), np.float32))[0]).all()


def test_a_candidate_is_trained_to_the_end_on_demand(whole: Path, tmp_path: Path) -> None:
    found = outcomes(whole)
    winner = max(found, key=lambda o: (o.score, -o.number))
    gone = next(o for o in found if o not in pareto(found))
    with pytest.raises(JournalError, match="only the Pareto front's are kept"):
        export(whole, tmp_path / "x.onnx", number=gone.number)
    said = export(whole, tmp_path / "x.onnx", number=gone.number, train=True)
    assert said == f"candidate #{gone.number}, trained to the end, not tested"
    with Journal.open(whole / "candidates" / str(gone.number), write=False) as journal:
        assert {row.phase for row in journal.meter()} == {"final"}  # no test row was opened
        rounds = {row.round for row in journal.meter()}
        digest = journal.pins()["champion/final"]
    assert max(rounds) == 3
    export(whole, tmp_path / "y.onnx", number=gone.number, train=True)  # read, not trained again
    assert (tmp_path / "y.onnx").read_bytes() == (tmp_path / "x.onnx").read_bytes()
    assert digest != winner


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--number", 99], "there is no such candidate\n  got: 99\n  fix: choose one of 0 to 5"),
        (["--max-macs", "3"], "no candidate is that small"),
        (["--max-bytes", "lots"], "--max-bytes: cannot be read as an amount"),
        (["--number", 1, "--front"], "these choices exclude each other"),
    ],
)
def test_a_choice_that_is_none_is_refused(
    whole: Path, tmp_path: Path, capsys: Capture, words: list[object], expected: str
) -> None:
    assert status("export", whole, "--onnx", tmp_path / "x.onnx", *words) == 2
    assert expected in capsys.readouterr().err


def test_a_file_that_is_too_large_names_the_lightest_file(
    whole: Path, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "x.onnx"
    lightest = min(outcomes(whole), key=lambda o: o.costs["params"]).number
    export(whole, path, number=lightest)
    size = path.stat().st_size
    for limit in (10, size - 1):
        assert status("export", whole, "--onnx", path, "--max-bytes", limit) == 2
        assert f"the lightest file has {size} bytes" in capsys.readouterr().err
    assert not path.exists()


def test_a_continued_run_is_the_run_with_more_trials(whole: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    shutil.copytree(whole, directory, symlinks=True)
    study = extend(directory, 3)
    assert study.result.metrics["accuracy"] > 0.5
    search(run_of("budget.trials=9"), tmp_path / "long").result  # noqa: B018
    verdict = differences(tmp_path / "long", directory)
    assert verdict.same, verdict.differences
    assert verdict.counts["outcome"] == 10
    assert loads((directory / "run.toml").read_text()).budget.trials == 9
    # The old run is whole inside the new one, and the report says that it was tested before.
    assert (directory / "before" / "model.onnx").read_bytes() == (whole / "model.onnx").read_bytes()
    assert "opened once before, after 6 candidates" in (directory / "report.html").read_text()
    again = extend(directory, 3)
    assert len(list(again)) == 3
    assert (directory / "before" / "before" / "journal.sqlite").is_file()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wandering:
    """A strategy whose draws follow from a tensor of its own, which no outcome tells."""

    kind: Literal["wandering"] = "wandering"

    def ask(self, state: Any, n: int, allowed: Any = None) -> Any:
        own = state.learned or PartState(tensors={"way": torch.zeros(1)})
        way, before = own.tensors["way"] / 2 + len(state.told) + 1, state.asks
        for _ in range(n):
            rng = state.rng(str(way.item()))
            state = state.add(state.fresh(lambda _: state.space.sample(rng), allowed))  # noqa: B023
        return state.learn(PartState(tensors={"way": way})), state.asked[before:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tallied(Rounds):
    """Counts generations in a tensor, and scores by it."""

    kind: Literal["tallied"] = "tallied"  # type: ignore[assignment]

    def run(self, generation: Generation, context: EvaluationContext) -> Iterator[Step]:
        for step in Rounds.run(self, generation, context):
            ended = step.generation
            if not ended.outcomes:
                yield step
                continue
            own = ended.state or PartState(tensors={"tally": torch.zeros(1)})
            tally = own.tensors["tally"] + 1
            told = tuple(
                replace(o, score=o.score + tally.item(), leaves={"alpha": tally / 3})
                for o in ended.outcomes
            )
            state = PartState(tensors={"tally": tally})
            yield replace(step, generation=replace(ended, outcomes=told, state=state))


def test_a_continued_run_goes_on_with_what_its_parts_keep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CATALOG["strategy"], "wandering", f"{__name__}:Wandering")  # type: ignore
    monkeypatch.setitem(CATALOG["estimator"], "tallied", f"{__name__}:Tallied")  # type: ignore
    own = ("strategy.kind=wandering", 'estimator={kind="tallied", rounds=1, candidates=2}')
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    search(run_of(*own, "budget.trials=4"), ours).result  # noqa: B018
    extend(ours, 2).result  # noqa: B018
    search(run_of(*own, "budget.trials=6"), theirs).result  # noqa: B018
    verdict = differences(theirs, ours)
    assert verdict.same, verdict.differences
    assert [int(o.score) for o in outcomes(ours)] == [1, 1, 2, 2, 3, 3]
    with Journal.open(ours, write=False) as journal:
        pins = journal.pins()
        assert {"searched/estimator/tally", "searched/strategy/way"} <= set(pins)
        digests = [o.leaves["alpha"]["digest"] for o in outcomes(ours)]
        assert [pins[f"leaf/search/{n}/alpha"] for n in range(6)] == digests
        kept = [journal.get(digest).cast("f")[0] for digest in digests]
    assert kept == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3, 1, 1])


def test_going_on_needs_a_finished_run_and_the_same_data(tmp_path: Path, capsys: Capture) -> None:
    rows = "\n".join(["a,y", *(f"{n % 9},{'uv'[n % 2]}" for n in range(60))])
    for silo in ("north", "south"):
        (tmp_path / f"{silo}.csv").write_text(rows)
    run = run_of(
        f'data={{kind="files", paths=["{tmp_path}/*.csv"], label="y"}}',
        "partition.kind=natural",
        "constraints=[]",
    )
    study = search(run, tmp_path / "run")
    for event in study.events():
        if event.kind == "round" and event.data["phase"] == "final":
            study.stop()
    with pytest.raises(JournalError, match=r"has not come to its end\n  fix: archipelago resume"):
        extend(tmp_path / "run", 2)
    assert status("resume", tmp_path / "run") == 0
    (tmp_path / "south.csv").write_text(rows.replace("0,u", "5,u"))
    for verb in (
        ("search", "--continue", tmp_path / "run", "--trials", "+2"),
        ("reproduce", tmp_path / "run"),
        ("export", tmp_path / "run", "--front", "--onnx", tmp_path / "front"),
    ):
        assert status(*verb) == 2
        assert "the data have changed since this run" in capsys.readouterr().err
    assert status("search", "--continue", tmp_path / "run", "--trials", "many") == 2
    assert "--trials: must be a whole number" in capsys.readouterr().err
    assert status("search", "--trials", "+2") == 2
    assert "goes with --continue only" in capsys.readouterr().err


def test_a_repetition_agrees_and_a_change_is_found(
    whole: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert status("reproduce", whole, "--out", tmp_path / "again") == 0
    assert re.search(r"the bits agree: 7 outcomes, \d+ curve points, ", capsys.readouterr().out)
    verdict = differences(whole, tmp_path / "again")
    assert verdict.same
    search(run_of("client.learning_rate=0.11"), tmp_path / "other").result  # noqa: B018
    verdict = differences(whole, tmp_path / "other")
    assert not verdict.same
    assert verdict.differences[0].startswith("outcome 0: {")
    last = list(reproduce(whole))[-1]
    assert getattr(last, "same", False)


def test_runs_are_compared_over_seeds(whole: Path, tmp_path: Path, capsys: Capture) -> None:
    places = [whole]
    for seed in (6, 7):
        places.append(tmp_path / f"a{seed}")
        search(run_of(f"seed={seed}"), places[-1]).result  # noqa: B018
    for seed in (5, 6, 7):
        places.append(tmp_path / f"b{seed}")
        search(run_of(f"seed={seed}", "client.epochs=2"), places[-1]).result  # noqa: B018
    found = compare(places)
    assert [group.seeds for group in found.groups] == [(5, 6, 7), (5, 6, 7)]
    assert found.groups[1].settings == ("client.epochs=2",)
    assert found.groups[1].client_seconds > found.groups[0].client_seconds
    (pair,) = found.pairs
    assert (pair.paired, pair.units) == ("seeds", 3)
    scores = np.array([[_score(place) for place in places[i : i + 3]] for i in (0, 3)])
    np.testing.assert_allclose(pair.difference, (scores[0] - scores[1]).mean())
    np.testing.assert_allclose(found.groups[0].deviation or 0, scores[0].std(ddof=1))
    assert pair.low <= pair.difference <= pair.high
    page = tmp_path / "compare.html"
    assert status("compare", whole, places[3], "--html", page) == 0
    out = capsys.readouterr().out
    assert "client.epochs=2" in out
    assert "6 clients" in out
    assert [line[:8] for line in out.splitlines() if line.startswith("wine")] == [
        *("wine (1)", "wine (2)"),
        "wine (1)",
    ]
    assert "<td>wine (2)</td><td>5</td>" in page.read_text()
    assert "client.epochs=2" in page.read_text()
    assert compare([whole, places[4]]).pairs[0].verdict == "not compared"
    assert found.notes == ()
    shutil.copytree(whole, tmp_path / "copy", symlinks=True)
    twice = compare([whole, tmp_path / "copy", whole / ".", places[1]])
    assert [group.seeds for group in twice.groups] == [(5, 6)]
    assert twice.notes[0] == "a run that was given more than once counts once"
    assert re.search(r"copy repeats .* \(seed 5\): left out", twice.notes[1])
    assert list(lines(twice))[-2:] == list(twice.notes)
    assert "(seed 5): left out" in compared(twice)
    with pytest.raises(DataError, match="give at least two runs"):
        compare([whole, whole / "."])


def _score(directory: Path) -> float:
    with Journal.open(directory, write=False) as journal:
        last = journal.last(full=True)
    assert last is not None
    return last.state["tested"]["final"]["metrics"]["accuracy"]


def test_runs_on_different_data_are_refused_with_what_differs(
    whole: Path, tmp_path: Path, capsys: Capture
) -> None:
    search(run_of("partition.clients=5"), tmp_path / "five").result  # noqa: B018
    assert status("compare", whole, tmp_path / "five") == 2
    err = capsys.readouterr().err
    assert "these runs are of different data or tasks" in err
    assert "partition.clients: 6 and 5" in err
    with pytest.raises(DataError, match="give at least two runs"):
        compare([whole, whole])
    (tmp_path / "void").mkdir()
    assert status("compare", whole, tmp_path / "void") == 2
    assert "not a run" in capsys.readouterr().err


def test_no_trials_are_no_continuation(whole: Path) -> None:
    with pytest.raises(ConfigError, match="--trials: must be at least 1"):
        extend(whole, 0)


def test_a_kill_between_the_renames_loses_nothing(whole: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    shutil.copytree(whole, directory, symlinks=True)
    extend(directory, 3)
    directory.rename(tmp_path / ".run.continued")
    study = extend(directory, 3)
    assert study.directory == directory
    assert study.run == replace(run_of(), budget=replace(run_of().budget, trials=9))


def test_export_front_needs_a_candidate(tmp_path: Path) -> None:
    with Journal.create(tmp_path / "run", meta={"run": dumps(run_of()), "name": "x"}):
        pass
    with pytest.raises(JournalError, match="there is nothing to export"):
        export_front(tmp_path / "run", tmp_path / "front")


def test_a_site_without_a_score_is_listed_with_the_reason(whole: Path) -> None:
    task = Classification(metric="auroc", classes=("a", "b"))
    logits = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    vectors = {c: task.statistics(logits, torch.tensor([0, c])) for c in (0, 1)}
    ours = Scored(vectors, task.metrics(vectors[0] + vectors[1]))
    sites = tuple(_clients(task, ours, None, {0: "north", 1: "south"}))
    assert [site.reason for site in sites] == ["its test rows have one label only", ""]
    with Journal.open(whole, write=False) as journal:
        found = replace(gather(journal), client_test=sites, metric_note="binned <b>")
    page = render(found).split("<script>")[0]
    assert "<td>undefined: its test rows have one label only</td>" in page
    assert "At 1 site it is undefined" in page
    assert "The worst is south" in page
    assert "binned &lt;b&gt;" in page
    assert "1 histogram of scores (1024 bins by label)" in task.leaves


def test_the_report_is_a_document_for_a_committee(whole: Path) -> None:
    page = (whole / "report.html").read_text().split("<script>")[0]
    for piece in (
        "Whose data, under which entitlement",
        "<td>annex B</td>",
        "<td>vote 12 &lt;b&gt;</td>",
        "What the model does, and what it does not",
        "No purpose is stated.",
        "How it does at each site",
        "The worst is client-",
        "its standard deviation is",
        "What left the silos",
        "statistics round: counts and sums of train rows",
        "<td>legal basis</td><td>not stated</td>",
        "test: counts by true and answered class, summed log loss<",
        "Rows stayed with their silos: what left them is the table above, and nothing else.",
        "not a repetition of the search. The weakest client,",
        "The silos are simulated",
        "Test rows were opened once, after every choice had been made.",
        "@media print",
    ):
        assert piece in page, piece
