"""Milliseconds of one ask and tell at a thousand trials, six choices of five; Optuna beside us.

    python benchmarks/ask_tell.py --write benchmarks/results/ask_tell.jsonl \
        --optuna /path/to/venv/bin/python

Optuna is measured in its own environment (`pip install optuna` there), by this same file.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

TRIALS, REPEATS = 1000, 50
SLOTS, OPTIONS = 6, 5
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
    if options.optuna is not None:
        command = [str(options.optuna), __file__, "--inside", *(["--quick"] * options.quick)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        theirs = json.loads(done.stdout.splitlines()[-1])
        facts.append(show({"optuna": theirs.pop("version"), "trials": trials, "ms": theirs}))
    write(options.write, facts)


if __name__ == "__main__":
    sys.exit(main())
