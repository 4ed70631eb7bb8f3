"""From a run's journal to what its report shows. Reads; changes nothing."""

import platform
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from math import isfinite
from typing import Any

from archipelago.config.load import loads
from archipelago.config.run import Run
from archipelago.core.errors import JournalError
from archipelago.core.seeds import Seed
from archipelago.core.trial import Outcome
from archipelago.data.coverage import Cover
from archipelago.data.quality import ASKED, Finding
from archipelago.data.releases import Withheld, withheld_lines
from archipelago.data.scores import BINS
from archipelago.data.tasks import task_from_json
from archipelago.driver.loop import Champion
from archipelago.journal.journal import Journal
from archipelago.report import findings as page
from archipelago.space.graph import Graph
from archipelago.study.analysing.verdict import Tested, compared, interval
from archipelago.study.planning.scorable import covered, why
from archipelago.study.running.lost_workers import LOST
from archipelago.study.running.stages import FINALISTS
from archipelago.study.running.stages import OURS as TRAINED

__all__ = ["gather", "ranked", "searched"]

OURS = ("statistics", "search", "tune", "final", "test")
"""Phases of the run itself; the others are reference lines."""


def searched(journal: Journal) -> list[Outcome]:
    """Return the outcomes of the search, without those of final training and references."""
    found = list(journal.outcomes())
    # Numbers begin anew with each stage, and the search is the first.
    ends = [index for index, outcome in enumerate(found) if outcome.number == 0]
    return found[: ends[1]] if len(ends) > 1 else found


def ranked(outcomes: list[Outcome]) -> list[Outcome]:
    """Return them best first: finished (full trainings first), dropped, without a score."""
    order = {"done": 0, "dropped": 1, "failed": 2, "undefined": 2}
    return sorted(outcomes, key=lambda o: (order[o.status], -o.fidelity, -o.score, o.number))


_AGAIN = "its task ran again"
_LISTED = 100
"""Clients up to which each one's messages are shown; of more, their sum."""


def gather(journal: Journal, run: Run | None = None) -> page.Findings:
    """Return everything that the report shows.

    Args:
        journal: of the run.
        run: as it was composed, where it was in Python; None reads it from the journal.

    Raises:
        JournalError: the run has not come as far as its data.
    """
    last = journal.last(full=True)
    facts = next((data for _, data, _ in journal.events("facts")), None)
    if last is None or last.state is None or facts is None:
        raise JournalError(
            "the run stopped before its first commit: there is nothing to report",
            where=str(journal.directory),
            fix=f"archipelago resume {journal.directory}",
        )
    run = run or loads(journal.meta["run"], source="run.toml")
    task = task_from_json(facts["task"])
    sign = task.direction(task.metric)
    outcomes = searched(journal)
    tested = {n: Tested.from_json(t) for n, t in (last.state["tested"] or {}).items()}
    champions = {n: Champion.from_json(c) for n, c in last.state["champions"].items()}
    seed = Seed(run.seed).child("verdict")
    ours = tested.get("final")
    best = champions.get("search")
    shipped = list(journal.events("shipped"))
    return page.Findings(
        name=run.name,
        about=run.about,
        metric=task.metric,
        seed=run.seed,
        task=_task(facts),
        higher_is_better=sign > 0,
        percent=task.metric not in ("log_loss", "rmse", "mae", "r2", "auroc"),
        candidates=tuple(_candidates(run, outcomes, sign)),
        test=_interval(task, ours, seed) if ours else None,
        covers=covered(task, ours) if ours else "",
        undefined=why(task, ours) if ours else "",
        test_rows=int(sum(vector[0] for vector in ours.vectors.values())) if ours else 0,
        references=tuple(_references(journal, task, tested, seed)),
        cost=_sum(journal, TRAINED, "virtual_seconds"),
        macs=_sum(journal, TRAINED, "macs"),
        winner=best.outcome.number if best else None,
        network=_network("found by this search", best.graph) if best else None,
        baseline=_network("hand-made baseline", Graph.from_json(facts["baseline"])),
        classes=tuple(facts["classes"]),
        curves=tuple(_curves(journal, outcomes, sign)),
        client_test=tuple(_clients(task, ours, tested.get("shared"), _names(journal, ours.vectors)))
        if ours
        else (),
        label_counts=page.LabelCounts(
            clients=tuple(facts["names"]),
            labels=tuple(facts["classes"]),
            counts=tuple(tuple(row) for row in facts["labels"]),
        )
        if facts["classes"] and any(facts["labels"])
        else None,
        rounds=tuple(_rounds(journal)),
        progress=tuple(_progress(outcomes, sign)),
        releases=tuple(_releases(journal, facts, task)),
        metric_note=f"read from histograms of scores in {BINS} bins, summed over silos: scores in "
        "one bin count as ties"
        if task.metric in task.binned
        else "",
        pooled="pooled" in champions,
        shipped=page.Shipped(**shipped[-1][1]) if shipped else None,
        events=tuple(_events(journal)),
        profile=tuple(_spent(journal)),
        config=journal.meta["run"],
        versions=_versions(),
        fingerprints={"data": last.state["fingerprint"]},
        limits=(
            *_of_windows(facts),
            *_withheld(facts),
            *_of_scores(facts),
            *_limits(journal, task),
        ),
        protection=_protection(run),
        silos=tuple(
            page.Silo(name=name, train=train, validation=check, test=test, held_out=held)
            for name, (train, check, test, held) in zip(facts["names"], facts["rows"], strict=True)
            if train or check or test
        ),
        quality=_quality(facts),
        inputs=tuple(
            page.Input(
                name=name, kind=kind, dropped=dropped, unit=run.preprocess.units.get(name, "")
            )
            for name, kind, dropped in facts["columns"]
        ),
        safeguards=tuple(_safeguards(run)),
    )


def _quality(facts: Mapping[str, Any]) -> tuple[page.Remark, ...] | None:
    """Return the verdict on the silos' data; None of a run that began without one."""
    if facts.get("quality") is None:
        return None
    found = [Finding(**one) for one in facts["quality"]]
    return tuple(
        page.Remark(silo=f.silo, column=f.column, what=f.what, amount=f.size, advice=f.advice)
        for f in found
    )


def _spent(journal: Journal) -> Iterator[page.Spent]:
    """Yield where the time of every session went that was asked to tell, summed."""
    spent: Counter[tuple[str, str]] = Counter()
    for _, data, _ in journal.events("profile"):
        workers = {f"worker {worker}": times for worker, times in data["workers"].items()}
        for who, times in {"coordinator": data["coordinator"], **workers}.items():
            for what, seconds in times.items():
                spent[who, what] += seconds
    for (who, what), seconds in sorted(spent.items()):
        yield page.Spent(who=who, what=what, seconds=seconds)


def _task(facts: Mapping[str, Any]) -> str:
    kind = facts["task"]["kind"]
    of = f" of {len(facts['classes'])} classes" if facts["classes"] else ""
    rows = "windows" if facts.get("windows") else "rows"
    return f"{kind}{of} from {facts['modality']} {rows} of shape {facts['shape']}"


def _interval(task: Any, tested: Tested, seed: Seed) -> page.Interval:
    bounds, value = interval(task, tested, seed), tested.metrics[task.metric]
    return page.Interval(value=value, low=bounds.low, high=bounds.high, note=bounds.note)


def _candidates(run: Run, outcomes: list[Outcome], sign: int) -> Iterator[page.Candidate]:
    wide = run.estimator.candidates
    for index, outcome in enumerate(outcomes):
        dropped = outcome.status == "dropped"
        yield page.Candidate(
            outcome=outcome,
            generation=index // wide,
            dropped_round=int(outcome.costs["rounds"]) if dropped else None,
            display=sign * outcome.score if isfinite(outcome.score) else None,
        )


def _references(
    journal: Journal, task: Any, tested: Mapping[str, Tested], seed: Seed
) -> Iterator[page.Reference]:
    if "final" not in tested:
        return
    sign = task.direction(task.metric)
    notes = {
        "hand-made": "rounds worth the search and final training, at most five times the latter's",
        "random-final": "random search with the client work of ours, then training with the rest, "
        "at most five times the rounds of our final training",
        "pooled": "all rows in one place, as much work in all as ours, but at most five times the "
        "rounds of our final training: simulation only",
        "shared": "the same training; for clients without a model of their own. Under FedPer its"
        " head is as it was initialised",
    }
    phases = {"random-final": ("random", "random-final"), "shared": TRAINED}
    for name, theirs in tested.items():
        if name == "final" or name not in FINALISTS:
            continue
        gap = compared(task, tested["final"], theirs, seed).turned(sign)
        alone = _interval(task, theirs, seed)
        spent = phases.get(name, (name,))
        yield page.Reference(
            name=FINALISTS[name],
            score=alone.value,
            low=alone.low,
            high=alone.high,
            interval_note=alone.note,
            difference=gap.value,
            difference_low=gap.bounds.low,
            difference_high=gap.bounds.high,
            difference_note=gap.bounds.note,
            cost=_sum(journal, spent, "virtual_seconds"),
            macs=_sum(journal, spent, "macs"),
            note=notes[name],
        )


def _sum(journal: Journal, phases: Iterable[str], what: str) -> float:
    return sum(journal.cost(phase)[what] for phase in phases)


def _network(name: str, graph: Graph) -> page.Network:
    return page.Network(
        name=name,
        input_shape=_shape(graph.input_shape),
        nodes=tuple(
            page.NetworkNode(
                name=node.name,
                op=node.op,
                inputs=node.inputs,
                attrs=", ".join(f"{key} {value}" for key, value in node.attrs if key != "bias"),
                shape=_shape(graph.shapes[node.name]),
                params=graph.node_costs[node.name][0],
                macs=graph.node_costs[node.name][1],
            )
            for node in graph.nodes
        ),
        params=graph.params,
        macs=graph.macs,
    )


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(str(size) for size in shape)


def _curves(journal: Journal, outcomes: list[Outcome], sign: int) -> Iterator[page.Curve]:
    status = {outcome.number: outcome.status for outcome in outcomes}
    for phase in ("search", "final"):
        lines: dict[int, list[tuple[int, float]]] = {}
        for point in journal.curves(phase):
            if point.metric == "score" and isfinite(point.value):
                lines.setdefault(point.branch, []).append((point.round, sign * point.value))
        for branch, points in sorted(lines.items()):
            yield page.Curve(
                label="final" if phase == "final" else f"#{branch}",
                points=tuple(points),
                status=status.get(branch, "done") if phase == "search" else "done",
                phase=phase,
            )


def _names(journal: Journal, clients: Iterable[int]) -> Mapping[int, str]:
    return {client.id: client.name for client in journal.registry.get(sorted(clients))}


def _clients(
    task: Any, ours: Tested, shared: Tested | None, names: Mapping[int, str]
) -> Iterator[page.ClientScore]:
    for client, vector in sorted(ours.vectors.items()):
        score, cover = task.metrics(vector)[task.metric], task.cover(task.truth(vector))
        yield page.ClientScore(
            name=names[client],
            rows=int(vector[0]),
            score=score,
            shared=task.metrics(shared.vectors[client])[task.metric] if shared else None,
            reason="" if isfinite(score) else _undefined(cover),
            covers=cover.counted,
        )


def _undefined(cover: Cover) -> str:
    """Return why a score has no value on the rows of one site."""
    return "the scores are not finite" if cover.defined else f"its test rows {cover.short}"


def _rounds(journal: Journal) -> Iterator[page.RoundCost]:
    refused = Counter((row.phase, row.round) for row in journal.meter(kind="refused"))
    costs = journal.cost_per_round()
    turn = 0
    for phase in OURS:
        for key in sorted(key for key in costs if key[0] == phase):
            cost = costs[key]
            yield page.RoundCost(
                round=turn,
                phase=phase,
                bytes_up=int(cost["bytes_up"]),
                bytes_down=int(cost["bytes_down"]),
                client_seconds=cost["virtual_seconds"],
                refused=refused[key],
            )
            turn += 1


def _progress(outcomes: list[Outcome], sign: int) -> Iterator[page.Progress]:
    cost, best = 0.0, float("-inf")
    for outcome in outcomes:
        cost += outcome.costs.get("spent_virtual_seconds", 0.0)
        if outcome.status == "done" and outcome.score > best:
            best = outcome.score
        if isfinite(best):
            yield page.Progress(cost=cost, best=sign * best)


def _releases(journal: Journal, facts: Mapping[str, Any], task: Any) -> Iterator[page.Release]:
    names: list[str] = facts["names"]
    asked = facts["modality"] == "table" and facts.get("quality") is not None
    judged = f"; for the verdict on its data {ASKED}" if asked else ""
    updates = f"model updates; of validation rows {task.leaves}"
    purposes = {
        "statistics": f"statistics round: counts and sums of train rows{judged}; of train, "
        "validation and test rows whether there are none, few or enough of each class",
        "search": f"search: {updates}",
        "tune": f"settings of the winner: {updates}",
        "final": f"final training: {updates}",
        "hand-made": f"reference line, hand-made network: {updates}",
        "random": f"reference line, random search: {updates}",
        "random-final": f"reference line, its final training: {updates}",
        "test": f"test: {task.leaves}",
    }
    for phase, purpose in purposes.items():
        sent: dict[int, list[int]] = {}
        for row in journal.meter(phase=phase):
            if row.bytes_up:
                entry = sent.setdefault(row.client, [0, 0])
                entry[0] += 1
                entry[1] += row.bytes_up
        if len(sent) > _LISTED:
            messages, size = (sum(entry[part] for entry in sent.values()) for part in (0, 1))
            name = f"{len(sent)} clients"
            yield page.Release(client=name, purpose=purpose, messages=messages, bytes=size)
            continue
        # Homes answer for a fleet's statistics; its devices are found in the registry.
        known = dict(enumerate(names)) if phase == "statistics" else _names(journal, sent)
        for client, (messages, size) in sorted(sent.items()):
            yield page.Release(client=known[client], purpose=purpose, messages=messages, bytes=size)


def _events(journal: Journal) -> Iterator[page.Event]:
    told: set[str] = set()
    for kind in ("refused", "void"):
        seen = Counter(
            (f"candidate #{data['branch']}", str(data["text"]).splitlines()[0])
            for _, data, _ in journal.events(kind)
        )
        told.update(detail for _, detail in seen)
        for (where, detail), count in sorted(seen.items()):
            yield page.Event(kind=kind, where=where, detail=detail, count=count)
    lost: Counter[str] = Counter()
    for _, data, _ in journal.events(LOST):
        then = f"given up after {data['attempts']} attempts" if data["gave_up"] else _AGAIN
        lost[f"{data['reason'] or 'reason not known'}; {then}"] += 1
    for detail, count in sorted(lost.items()):
        yield page.Event(kind=LOST, where="engine", detail=detail, count=count)
    notes = Counter(
        row.note
        for row in journal.meter(kind="refused")
        if row.note and not row.bytes_up and row.note not in told
    )
    for note, count in sorted(notes.items()):
        yield page.Event(kind="absent", where="clients", detail=note, count=count)


def _of_windows(facts: Mapping[str, Any]) -> Iterator[str]:
    if cut := facts.get("windows"):
        yield (
            f"Recordings were cut into windows of {cut['length']} steps, one every "
            f"{cut['stride']}; all windows of one recording are in one split. Every row and score "
            "here is of a window. `predict` answers for a whole recording with the mean of its "
            "windows' scores; that mean was not scored."
        )


def _of_scores(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield what was known of the scores before anything was trained."""
    for said in facts.get("scores") or ():
        yield f"Known of its scores beforehand: {said}."


def _withheld(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield what silos did not tell, and who was left out, by name."""
    found = (Withheld(**one) for one in facts.get("withheld", ()))
    for text in withheld_lines(found, facts.get("floor", 0)):
        yield f"{text[0].upper()}{text[1:]}."


def _limits(journal: Journal, task: Any) -> Iterator[str]:
    before = [data for _, data, _ in journal.events("continued")]
    times = {1: "once", 2: "twice"}.get(len(before), f"{len(before)} times")
    if before:
        score = before[-1]["metrics"][task.metric]
        of = "that was undefined" if score is None else f"of {score:.4g}"
        yield (
            f"This run was continued: its test rows had been opened {times} before, after "
            f"{before[-1]['trials']} candidates, with a {task.metric} {of}. Whoever "
            "went on because of that score has used the test rows to choose."
        )


def _safeguards(run: Run) -> Iterator[str]:
    if getattr(run, "privacy", None) is None:
        yield (
            "Model updates were neither encrypted together nor noised in this run: whoever holds "
            "one silo's update may infer something of its rows."
        )
    if isinstance(run.partition.kind, str) and run.partition.kind != "natural":
        yield "The silos are simulated: the rows were dealt out on one machine."


def _protection(run: Run) -> page.Protection:
    stated = run.governance
    notes = {"purpose": stated.purpose, "retention": stated.retention}
    notes |= {f"entitlement of {silo}": text for silo, text in stated.silos.items()}
    return page.Protection(
        entitlement=stated.entitlement,
        legal_basis=stated.legal_basis,
        contact=stated.contact,
        notes={heading: text for heading, text in notes.items() if text},
    )


def _versions() -> dict[str, str]:
    names = ("archipelago-nas", "torch", "numpy", "onnx", "onnxruntime", "scikit-learn")
    return {"python": platform.python_version()} | {name: version(name) for name in names}
