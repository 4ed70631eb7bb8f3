"""Milliseconds of one ask and tell at a thousand trials, six choices of five; Optuna beside us.

    python benchmarks/ask_tell.py --write benchmarks/results/ask_tell.jsonl \
        --optuna /path/to/venv/bin/python

Optuna is measured in its own environment (`pip install optuna` there), by this same file.

The last bar is of a whole search: what the recurrent controller takes in loop one, where it used to
be learned again twice a generation, over what it takes in a replay of the same trials. Both are
seconds of this thread within `ask`, which learns; the journal's own work is shown beside them.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

TRIALS, REPEATS = 1000, 50
SLOTS, OPTIONS = 6, 5
SEARCHED, OVER = 160, 1.2
BARS = {
    "tpe": 1.0,
    "tpe:model=choices": 1.0,
    "regularized-evolution": 0.1,
    "gaussian-process": 30.0,
}


def score(values: list[int]) -> float:
    return float(sum((value - 2) ** 2 * (i + 1) for i, value in enumerate(values)))


def our_times(name: str, trials: int, repeats: int) -> list[float]:
    from random import Random as Generator

    from archipelago.core.seeds import Seed
    from archipelago.core.trial import Outcome
    from archipelago.space.dims import Choice
    from archipelago.space.space import Space
    from archipelago.strategy.base import Memory
    from archipelago.study.analysing.bench import parse

    space = Space({f"x{i}": Choice(tuple(range(OPTIONS))) for i in range(SLOTS)})
    strategy, draw = parse(name).strategy, Generator(0)
    state = Memory(space=space, seed=Seed(0))
    while state.asks < trials:
        arch = state.fresh(space.sample, None)
        assert arch is not None
        number, state = state.asks, state.add(arch)
        outcome = Outcome(number=number, arch=arch, score=score([*arch.values()]) + draw.random())
        state = state.hear([outcome])
    times = []
    # The first ask of a resumed search builds what later ones grow by a row: not counted.
    for turn in range(repeats + 1):
        began = time.perf_counter()
        state, (proposal,) = strategy.ask(state, 1)
        outcome = Outcome(
            number=proposal.number, arch=proposal.arch, score=score([*proposal.arch.values()])
        )
        state = state.hear([outcome])
        if turn:
            times.append(1e3 * (time.perf_counter() - began))
    return times


class Timed:
    """A strategy that counts the seconds of its thread."""

    def __init__(self, strategy: Any) -> None:
        self.strategy, self.seconds = strategy, 0.0

    def ask(self, state: Any, n: int, allowed: Any = None) -> Any:
        began = time.thread_time()
        answer = self.strategy.ask(state, n, allowed)
        self.seconds += time.thread_time() - began
        return answer


def controller_times(trials: int) -> dict[str, float]:
    """Return seconds of the controller in a journaled search and in its replay, paired."""
    import torch

    from archipelago.core.seeds import Seed
    from archipelago.driver.budget import Budget
    from archipelago.driver.loop import Position, Stage, explore
    from archipelago.driver.record import Recorder
    from archipelago.driver.replay import replay
    from archipelago.estimate.mb432 import mb432
    from archipelago.estimate.tabular import Tabular
    from archipelago.journal.journal import Journal
    from archipelago.strategy.controller import Controller

    torch.set_num_threads(1)
    table, seed = mb432(), Seed(0)
    replay(Controller(), table, budget=2, seed=seed)  # what torch sets up once
    alone, within = Timed(Controller()), Timed(Controller())
    replay(alone, table, budget=trials, seed=seed)
    estimator = Tabular(table)
    stage = Stage(
        name="search",
        space=table.space,
        strategy=within,
        estimator=estimator,
        context=estimator.context(seed),
        budget=Budget(trials=trials),
        seed=seed,
    )
    began = time.thread_time()
    with TemporaryDirectory() as folder, Journal.create(Path(folder) / "run", meta={}) as journal:
        for _ in explore(stage, Recorder(journal), Position(), Position.to_json):
            pass
    whole = time.thread_time() - began
    return {"replay": alone.seconds, "search": within.seconds, "with_journal": whole}


def optuna_times(trials: int, repeats: int) -> dict[str, Any]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    found: dict[str, Any] = {"version": optuna.__version__}
    names = [f"x{i}" for i in range(SLOTS)]
    space = {n: optuna.distributions.CategoricalDistribution([*range(OPTIONS)]) for n in names}
    draw = __import__("random").Random(0)
    samplers = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
    if hasattr(optuna.samplers, "NSGAIISampler"):
        samplers["nsga2"] = optuna.samplers.NSGAIISampler
    for name, sampler in samplers.items():
        study = optuna.create_study(direction="maximize", sampler=sampler(seed=0))
        for _ in range(trials):
            values = {n: draw.randrange(OPTIONS) for n in names}
            study.add_trial(
                optuna.trial.create_trial(
                    params=values, distributions=space, value=score([*values.values()])
                )
            )
        times = []
        for _ in range(repeats):
            began = time.perf_counter()
            trial = study.ask()
            values = [trial.suggest_categorical(n, [*range(OPTIONS)]) for n in names]
            study.tell(trial, score(values))
            times.append(1e3 * (time.perf_counter() - began))
        found[name] = median(times)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", type=Path)
    parser.add_argument("--quick", action="store_true", help="a hundred trials")
    parser.add_argument("--optuna", type=Path, help="a Python that has Optuna")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    trials, repeats = (100, 10) if options.quick else (TRIALS, REPEATS)
    if options.inside:
        print(json.dumps(optuna_times(trials, repeats)))
        return
    from bars import bar, show, write

    facts = []
    for name, most in BARS.items():
        times = our_times(name, trials, repeats)
        what = f"{name}: ask + tell at {trials} trials, ms"
        facts.append(show(bar(what, median(times), most, most=True, least=round(min(times), 4))))
    times = controller_times(SEARCHED)
    what = f"controller: seconds in a search of {SEARCHED} trials over its replay's"
    beside = {name: round(seconds, 3) for name, seconds in times.items()}
    ratio = times["search"] / times["replay"]
    facts.append(show(bar(what, ratio, OVER, most=True, **beside)))
    if options.optuna is not None:
        command = [str(options.optuna), __file__, "--inside", *(["--quick"] * options.quick)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        theirs = json.loads(done.stdout.splitlines()[-1])
        facts.append(show({"optuna": theirs.pop("version"), "trials": trials, "ms": theirs}))
    write(options.write, facts)


if __name__ == "__main__":
    sys.exit(main())
