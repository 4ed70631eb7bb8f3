"""Three real federations, each by its preset, over several seeds, beside their reference lines.

    python benchmarks/federations.py [--quick] [--start N] [--seeds N] [--only NAME] [--write FILE]

Reads the public sets from `ARCHIPELAGO_DATA`. Prints one JSON line a run and one a bar. A
difference is ours minus the reference at equal client cost, in points of the preset's metric on
test rows, with the two-sided 95 % t interval over seeds; a bar holds unless the hand-made network
is better beyond that interval. At the hospitals, logistic regression from scikit-learn stands
beside: on everybody's rows in one place, and on each hospital's own. It sees the same prepared
columns and may also learn from the validation rows, which ours only chooses by.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping
from math import isnan, nan
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from bars import bar, interval, show, write
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from archipelago.config.load import loads, preset
from archipelago.config.run import Run
from archipelago.data.key import TestKey
from archipelago.data.tasks import task_from_json
from archipelago.journal.journal import Journal
from archipelago.study.analysing.verdict import Tested
from archipelago.study.running.rows import prepared_for
from archipelago.study.running.search import search

PRESETS = ("heart_disease", "har_subjects", "fashion_mnist")
QUICK = ("budget.trials=4", "final.rounds=3")


def measured(name: str, seed: int, sets: tuple[str, ...]) -> dict[str, Any]:
    """Run a preset once."""
    run = loads(preset(name), [f"seed={seed}", *sets])
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "run"
        result = search(run, directory).result
        seconds = time.perf_counter() - began
        with Journal.open(directory, write=False) as journal:
            last = journal.last(full=True)
            facts = next(data for _, data, _ in journal.events("facts"))
            giga = {p: journal.cost(p)["macs"] / 1e9 for p in ("search", "final", "hand-made")}
        assert last is not None
    task = task_from_json(facts["task"])
    tested = {n: Tested.from_json(t) for n, t in last.state["tested"].items()}
    row: dict[str, Any] = {
        "federation": name,
        "seed": seed,
        "metric": task.metric,
        **{line: rounded(found.metrics[task.metric]) for line, found in tested.items()},
        "accuracy": rounded(result.metrics["accuracy"]),
        "points": {line: rounded(100 * gap) for line, (gap, _, _) in result.differences.items()},
        "gigamacs": {phase: round(cost, 2) for phase, cost in giga.items()},
        "params": result.best.costs["params"],
        "seconds": round(seconds, 1),
    }
    if name == "heart_disease":
        row["hospitals"] = {
            "this search": by_hospital(task, tested["final"], facts["names"]),
            "hand-made network": by_hospital(task, tested["hand-made"], facts["names"]),
            **logistic(run),
        }
    return row


def by_hospital(task: Any, tested: Tested, names: list[str]) -> dict[str, Any]:
    """Return pooled AUROC, and balanced accuracy of each hospital."""
    each = {
        names[client]: rounded(task.metrics(vector)["balanced_accuracy"])
        for client, vector in sorted(tested.vectors.items())
    }
    return {"pooled_auroc": rounded(tested.metrics["auroc"]), "balanced_accuracy": each}


def logistic(run: Run) -> dict[str, Any]:
    """Return the same of logistic regression, pooled and local only, on the run's own rows."""
    with tempfile.TemporaryDirectory() as folder:
        shards = prepared_for(run, folder).shards
        opened = shards.sealed.open(TestKey(purpose="logistic regression beside ours"))
        clients = range(shards.clients)
        known = [joined(shards.train(c), shards.validation(c)) for c in clients]
        asked = [tuple(part.numpy() for part in opened.test(c)) for c in clients]
    pooled = fitted(*(np.concatenate(parts) for parts in zip(*known, strict=True)))
    local = [fitted(x, y) for x, y in known]
    return {
        "logistic regression, pooled rows": judged([pooled] * len(local), asked, shards.names),
        "logistic regression, local only": judged(local, asked, shards.names),
    }


def joined(*parts: Any) -> tuple[np.ndarray, np.ndarray]:
    """Stack the rows and labels of several parts."""
    return (
        np.concatenate([x.numpy() for x, _ in parts]),
        np.concatenate([y.numpy() for _, y in parts]),
    )


def fitted(x: np.ndarray, y: np.ndarray) -> LogisticRegression:
    """Fit scikit-learn's logistic regression with its default penalty."""
    return LogisticRegression(max_iter=5000).fit(x, y)


def judged(models: Any, asked: Any, names: Any) -> dict[str, Any]:
    """Score one model a hospital on that hospital's test rows."""
    scores = [model.predict_proba(x)[:, 1] for model, (x, _) in zip(models, asked, strict=True)]
    truth = [y for _, y in asked]
    each = {
        # Of one class only there is no balanced accuracy; scikit-learn gives that class's recall.
        name: rounded(balanced_accuracy_score(y, score > 0.5)) if len(np.unique(y)) > 1 else nan
        for name, y, score in zip(names, truth, scores, strict=True)
    }
    pooled = roc_auc_score(np.concatenate(truth), np.concatenate(scores))
    return {"pooled_auroc": rounded(pooled), "balanced_accuracy": each}


def summary(name: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return mean and deviation over seeds, and the bar against the hand-made network."""
    # A reference that diverged in some run has no champion there, and no line here.
    lines = [
        line
        for line in ("final", "hand-made", "random-final", "pooled")
        if all(line in row for row in rows)
    ]
    means: dict[str, Any] = {
        "federation": name,
        "metric": rows[0]["metric"],
        "seeds": len(rows),
        **{line: spread([row[line] for row in rows]) for line in lines},
        "accuracy": spread([row["accuracy"] for row in rows]),
        "points": {
            line: spread([row["points"][line] for row in rows])
            | {"interval": [rounded(v) for v in interval([row["points"][line] for row in rows])]}
            for line in lines[1:]
        },
        "slowest_seconds": max(row["seconds"] for row in rows),
    }
    if "hospitals" in rows[0]:
        means["hospitals"] = {
            line: averaged([row["hospitals"][line] for row in rows])
            for line in rows[0]["hospitals"]
        }
    hand = [row["points"]["hand-made"] for row in rows]
    low, high = interval(hand)
    return [
        means,
        bar(
            f"{name}: against the hand-made network at equal client cost, upper bound, points",
            high,
            0.0,
            mean=rounded(mean(hand)),
            low=rounded(low),
            seeds=len(rows),
        ),
    ]


def averaged(found: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Average the hospitals' figures over seeds."""
    return {
        "pooled_auroc": spread([one["pooled_auroc"] for one in found]),
        "balanced_accuracy": {
            name: spread([one["balanced_accuracy"][name] for one in found])
            for name in found[0]["balanced_accuracy"]
        },
    }


def spread(values: list[float]) -> dict[str, float]:
    """Return mean and standard deviation, and of how many seeds they leave out as undefined."""
    fine = [value for value in values if not isnan(value)]
    lost = {"undefined": len(values) - len(fine)} if len(fine) < len(values) else {}
    if len(fine) < 2:
        return lost
    return {"mean": rounded(mean(fine)), "sd": rounded(stdev(fine)), **lost}


def rounded(value: float) -> float:
    """Return four decimals, as plain Python."""
    return round(float(value), 4)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="two seeds of a small search")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", choices=PRESETS)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    seeds = range(options.start, options.start + (2 if options.quick else options.seeds))
    lines: list[dict[str, Any]] = []
    for name in [options.only] if options.only else PRESETS:
        sets = QUICK if options.quick else ()
        rows: list[dict[str, Any]] = []
        for seed in seeds:
            rows.append(show(measured(name, seed, sets)))
            write(options.write, [*lines, *rows])
        lines += [*rows, *map(show, summary(name, rows))]
        write(options.write, lines)


if __name__ == "__main__":
    main()
