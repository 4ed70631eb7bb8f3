"""How fast federated rounds are: ours beside the peers, on the same work, taking turns.

Every contestant is a process of its own that waits to be asked for a round; the rounds of all are
interleaved, so that a busy machine is busy for everyone, and ratios are paired. Who waits for a
turn is stopped, with all that it does in the background. The peers live in environments that this
benchmark makes under --peers (`pip install`, once).

    python benchmarks/engine.py --quick                  # ours against a plain loop; recorded peers
    python benchmarks/engine.py --peers DIRECTORY --write benchmarks/results/engine.jsonl
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
import venv
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import psutil
import torch
from bars import bar, interval, show, write
from resume import told

HERE = Path(__file__).parent
CONTEST = HERE / "contest"
RESULTS = HERE / "results" / "engine.jsonl"
PACKAGES = {
    "flower": ["torch==2.13.0", "flwr[simulation]==1.41.0"],
    "pfl": ["torch==2.13.0", "pfl==0.6.0"],
}
COHORTS = {"leaf": 20, "pfl": 20, "mlp": 100, "logistic": 100}
TURN, ENOUGH = 20, 5.0
"""Rounds of a turn, for everyone, unless it has lasted so many seconds, without peers one: a
single round after seconds of rest would measure the waking."""
TARGETS = {  # model -> (flower, pfl in one process, pfl at its best)
    "leaf": (2.0, 1.8, 1.0),
    "pfl": (2.0, 1.7, 1.0),
    "mlp": (18.0, 3.5, 2.0),
    "logistic": (100.0, 10.0, 2.0),
}
PROTOTYPE = {  # (peer, model): its rounds over the plain loop's, on another two-core machine
    ("flower", "leaf"): 16.5 / 18.2,
    ("flower", "pfl"): 10.4 / 12.6,
    ("flower", "mlp"): 34 / 295,
    ("pfl", "leaf"): 16.9 / 18.2,
    ("pfl", "pfl"): 11.9 / 12.6,
    ("pfl", "mlp"): 173 / 295,
}
MACS = 12_273_152
"""Multiply-accumulates of one example in the forward pass of McMahan's CNN."""


class Contestant:
    """A process that does one round each time it is asked."""

    def __init__(self, command: list[str], **environment: str) -> None:
        self._began = time.monotonic()
        self._process = subprocess.Popen(
            command,
            cwd=CONTEST,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        self._read()
        self.first = time.monotonic() - self._began

    def round(self) -> float:
        """Return the seconds of one more round."""
        self._say("go")
        return self._read()

    def cpu(self) -> float:
        """Return the CPU seconds, user and system, of it and all its children so far."""
        total = 0.0
        for process in self._family():
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
        return total

    def rest(self) -> None:
        """Stop it, and all its children: what waits for its turn takes no core from the others."""
        for process in self._family():
            process.suspend()

    def wake(self) -> None:
        """Let it go on."""
        for process in self._family():
            process.resume()

    def end(self) -> None:
        """Let it go."""
        _, *children = self._family()
        self._say("end")
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
        for child in children:
            try:
                child.kill()
            except psutil.NoSuchProcess:
                continue

    def _family(self) -> list[psutil.Process]:
        root = psutil.Process(self._process.pid)
        return [root, *root.children(recursive=True)]

    def _say(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()

    def _read(self) -> float:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("round "):
                return float(line.split()[1])
        raise RuntimeError(f"a contestant ended: status {self._process.wait()}")


def environment(home: Path, name: str) -> Path:
    """Return a peer's Python, made with its packages if it is not there yet."""
    python = home / name / "bin" / "python"
    if not python.exists():
        venv.create(home / name, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES[name]], check=True)
    return python


def commands(model: str, home: Path | None) -> Iterator[tuple[str, list[str], dict[str, str]]]:
    """Yield name, command and environment of every contestant."""
    work = [model, str(COHORTS[model])]
    yield "ours", [sys.executable, "ours.py", *work], {}
    yield "plain", [sys.executable, "plain.py", *work], {}
    if home is not None:
        quiet = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_USAGE_STATS_ENABLED": "0"}
        yield "flower", [str(environment(home, "flower")), "flower.py", *work], quiet
        python = environment(home, "pfl")
        yield "pfl", [str(python), "pfl_research.py", *work], {}
        two = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29713"]
        yield "pfl-best", [str(python), *two, "pfl_research.py", *work], {"OMP_NUM_THREADS": "1"}


@dataclass
class Times:
    """What a contest gave by contestant: wall and CPU seconds a round, the first one's wall."""

    wall: dict[str, list[float]]
    cpu: dict[str, list[float]]
    first: dict[str, float]


def contest(model: str, home: Path | None, repeats: int) -> Times:
    """Let every contestant have `repeats` turns, one after the other."""
    runners: dict[str, Contestant] = {}
    for name, line, env in commands(model, home):
        runners[name] = Contestant(line, **env)
        runners[name].rest()
    wall: dict[str, list[float]] = {name: [] for name in runners}
    cpu: dict[str, list[float]] = {name: [] for name in runners}
    enough = ENOUGH if home else 1.0
    try:
        for turn in range(repeats + 1):
            for name, runner in runners.items():
                runner.wake()
                before = runner.cpu()
                spent: list[float] = []
                while len(spent) < TURN and sum(spent) < enough:
                    spent.append(runner.round())
                if turn:  # the first turn warms caches
                    wall[name].append(mean(spent))
                    cpu[name].append((runner.cpu() - before) / len(spent))
                runner.rest()
    finally:
        for runner in runners.values():
            runner.wake()
            runner.end()
    return Times(wall, cpu, {name: round(runner.first, 1) for name, runner in runners.items()})


def speed(model: str, home: Path | None, repeats: int) -> list[dict[str, Any]]:
    """Measure one model, and compare."""
    times, cohort = contest(model, home, repeats), COHORTS[model]
    seconds = times.wall
    more = {
        "client_rounds_a_second": {n: round(cohort / median(t), 1) for n, t in seconds.items()},
        "cpu_ms_a_client": {n: round(1e3 * median(t) / cohort, 2) for n, t in times.cpu.items()},
        "seconds_to_first_round": times.first,
        "repeats": repeats,
    }
    lines = []
    for peer, target in zip(("flower", "pfl", "pfl-best"), TARGETS[model], strict=True):
        name = f"{model}: client-rounds/s against {peer}"
        if peer in seconds:
            lines.append(_ratio(name, seconds[peer], seconds["ours"], target, more))
        else:
            lines.append(_recorded(name, peer, seconds, target, more))
    plain = _ratio(
        f"{model}: client-rounds/s against a plain loop on one core",
        seconds["plain"],
        seconds["ours"],
        1.0,
        more,
    )
    return [show(line) for line in [*lines, plain]]


def _ratio(
    name: str, theirs: list[float], ours: list[float], target: float, more: dict[str, Any]
) -> dict[str, Any]:
    """A bar holds when the upper 95 % bound of the paired ratio reaches it."""
    pairs = [a / b for a, b in zip(theirs, ours, strict=True)]
    low, high = (float(end) for end in interval(pairs))
    line = bar(name, median(pairs), target, low=low, high=high, source="measured", **more)
    return {**line, "holds": high >= target}


def _recorded(
    name: str, peer: str, seconds: dict[str, list[float]], target: float, more: dict[str, Any]
) -> dict[str, Any]:
    """Multiply our ratio to the plain loop by the peer's recorded one."""
    lines = (
        [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    )
    found = [line for line in lines if line["bar"] == name and line["source"] == "measured"]
    mine = [a / b for a, b in zip(seconds["plain"], seconds["ours"], strict=True)]
    known = (peer, name.partition(":")[0])
    if found:
        rates = found[-1]["client_rounds_a_second"]
        factor, source = rates["plain"] / rates[peer], f"recorded {found[-1]['date']}"
    elif known in PROTOTYPE:
        factor, source = 1 / PROTOTYPE[known], "prototype, another machine"
    else:
        return {"bar": name, "value": None, "target": target, "holds": False, "source": "none"}
    low, high = (float(end) for end in interval(mine))
    line = bar(
        name, median(mine) * factor, target,
        low=low * factor, high=high * factor, source=source, **more,
    )  # fmt: skip
    return {**line, "holds": high * factor >= target}


def _multiply(_: int) -> tuple[float, float]:
    """Return the best rate of one core's matrix product, FLOP/s by the wall and by CPU time."""
    torch.set_num_threads(1)
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    wall = cpu = 1e9
    for _ in range(20):
        began, used = time.perf_counter(), time.process_time()
        torch.mm(a, b)
        wall = min(wall, time.perf_counter() - began)
        cpu = min(cpu, time.process_time() - used)
    return 2 * 1024**3 / wall, 2 * 1024**3 / cpu


def share(repeats: int) -> list[dict[str, Any]]:
    """Measure McMahan's CNN at batch 50 against what both cores multiply at once."""
    cohort = 20
    work = cohort * 50 * 3 * MACS * 2
    ours = Contestant([sys.executable, "ours.py", "leaf", str(cohort), "50"])
    shares, by_cpu, peaks = [], [], []
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(_multiply, range(2), chunksize=1)
        for _ in range(repeats):
            rates = pool.map(_multiply, range(2), chunksize=1)
            before = ours.cpu()
            spent = ours.round()
            peaks.append(sum(wall for wall, _ in rates))
            shares.append(work / spent / peaks[-1])
            by_cpu.append(work / (ours.cpu() - before) / mean(cpu for _, cpu in rates))
    ours.end()
    line = bar(
        "leaf at batch 50: share of the two-core sgemm limit",
        median(shares),
        0.45,
        source="measured",
        by_cpu_time=round(median(by_cpu), 3),
        sgemm_gflops=round(median(peaks) / 1e9, 1),
        repeats=repeats,
    )
    return [show(line)]


def overhead(model: str, rounds: int) -> dict[str, Any]:
    """Measure CPU time a client beyond local training, in one process with a journal.

    For the large model that is everything but the training loop: loading, the difference, moving,
    checking and folding it. For stacked small models it is everything but the block's task, plus
    framing its replies: select, frame, check, combine, meter and journal.
    """
    sys.path.insert(0, str(CONTEST))
    from nets import clients
    from ours import federation, start

    from archipelago.client import tasks
    from archipelago.client.training import LocalTraining
    from archipelago.driver.record import Recorder
    from archipelago.engine.serial import Serial
    from archipelago.estimate.context import settle
    from archipelago.federation.branch import Generation
    from archipelago.federation.rounds import step
    from archipelago.journal.journal import Journal

    spent = [0.0]

    def timed(inner: Callable[..., Any], into: list[float] = spent) -> Callable[..., Any]:
        def run(*given: Any, **named: Any) -> Any:
            began = time.process_time()
            try:
                return inner(*given, **named)
            finally:
                into[0] += time.process_time() - began

        return run

    cohort = COHORTS[model]
    stacked = model != "leaf"
    owner, name = (tasks.FitBlock, "__call__") if stacked else (LocalTraining, "_loop")
    kept, pack = getattr(owner, name), tasks.pack
    setattr(owner, name, timed(kept))
    framing = [0.0]
    if stacked:
        tasks.pack = timed(pack, framing)
    engine, beyond = Serial().start(), []
    with tempfile.TemporaryDirectory() as folder:
        given = federation(model, clients(model, cohort), Path(folder), engine, 10)
        branch = start(model, cohort)
        with Journal.create(Path(folder) / "run", meta={}) as journal:
            recorder = Recorder(journal)
            for _ in range(rounds + 1):
                spent[0], framing[0], began = 0.0, 0.0, time.process_time()
                done = step(given, (branch,), phase="search")
                (branch,) = done.branches
                generation = Generation(index=0, proposals=(), branches=(branch,), validators=())
                recorder.round(settle(generation, done), "search")
                whole = time.process_time() - began
                beyond.append((whole - spent[0] + framing[0]) / cohort * 1e3)
    setattr(owner, name, kept)
    tasks.pack = pack
    target, what = (5.0, "6 MB model") if model == "leaf" else (0.1, "stacked small models")
    return show(
        bar(
            f"{what}: CPU ms a client beyond local training",
            median(beyond[1:]),
            target,
            most=True,
            source="measured",
        )
    )


def memory(rounds: int) -> list[dict[str, Any]]:
    """Measure the PSS of all our processes, cohort 50, 6 MB model, one step on 50 rows a client.

    Sampled while rounds run: the most of the ten rounds up to the 20th and up to the last, and
    of all.
    """
    ours = Contestant([sys.executable, "ours.py", "leaf", "50", "0"])
    root = psutil.Process(ours._process.pid)
    most: list[float] = []

    def sample() -> None:
        tree = [root, *root.children(recursive=True)]
        most[-1] = max(most[-1], sum(p.memory_full_info().pss for p in tree) / 1e9)

    with ThreadPoolExecutor(1) as beside:
        for _ in range(2, rounds + 1):
            most.append(0.0)
            turn = beside.submit(ours.round)
            while not turn.done():
                sample()
                time.sleep(0.02)
            turn.result()
    ours.end()
    growth = max(most[-10:]) / max(most[9:19])
    return [
        show(
            bar(f"PSS of round {rounds} over round 20", growth, 1.05, most=True, source="measured")
        ),
        show(bar("PSS of all processes, GB", max(most), 1.2, most=True, source="measured")),
    ]


def idle(rounds: int) -> dict[str, Any]:
    """Measure how busy workers are in a round of 50 clients of log-normal sizes."""
    sys.path.insert(0, str(CONTEST))
    from nets import SHAPES
    from ours import federation, start

    from archipelago.engine.processes import Processes
    from archipelago.federation.rounds import step

    rng = np.random.default_rng(1)
    sizes = np.maximum(1, rng.lognormal(3.5, 1.0, 50)).astype(int)
    assert sizes.max() <= sizes.sum() / 4
    rows = [
        (rng.standard_normal((n, *SHAPES["leaf"]), dtype=np.float32), rng.integers(0, 10, n))
        for n in sizes
    ]
    engine, busy = Processes(workers=2).start(), []
    with tempfile.TemporaryDirectory() as folder:
        given, branch = federation("leaf", rows, Path(folder), engine, 10), start("leaf", 50)
        for _ in range(rounds + 1):
            began = time.perf_counter()
            done = step(given, (branch,), phase="search")
            wall = time.perf_counter() - began
            (branch,) = done.branches
            busy.append(sum(row.seconds for row in done.rows) / wall / 2)
        engine.close()
    return show(
        bar("share of a round that workers are busy", mean(busy[1:]), 0.9, source="measured")
    )


def stacked(device: str, repeats: int, cohort: int = 100) -> list[dict[str, Any]]:
    """Measure a round of small clients stacked against the plain loop, on the same device."""
    sys.path.insert(0, str(CONTEST))
    from nets import clients
    from ours import federation, start

    from archipelago.engine.serial import Serial
    from archipelago.federation.rounds import step

    lines = []
    for model, target in (("mlp", 10.0), ("leaf", 3.0)):
        spent: dict[str, list[float]] = {"flat": [], "stacked": []}
        with tempfile.TemporaryDirectory() as folder:
            engine = Serial(device=device).start()
            rows = clients(model, cohort)
            given = federation(model, rows, Path(folder), engine, 10, device=device)
            branches = dict.fromkeys(spent, start(model, cohort))
            for turn in range(repeats + 1):
                for path, seconds in spent.items():
                    training = replace(given.training, path=path)
                    began = time.perf_counter()
                    done = step(
                        replace(given, training=training), (branches[path],), phase="search"
                    )
                    (branches[path],) = done.branches
                    if turn:  # the first turn warms up; updates arrive on the CPU, so all is done
                        seconds.append(time.perf_counter() - began)
            engine.close()
        name = f"{model}: {cohort} clients stacked against the plain loop on {device}"
        rates = {path: round(cohort / median(seconds), 1) for path, seconds in spent.items()}
        more = {"client_rounds_a_second": rates, "repeats": repeats}
        lines.append(show(_ratio(name, spent["flat"], spent["stacked"], target, more)))
    return lines


def same(quick: bool) -> dict[str, Any]:
    """Compare the journals of two studies under every engine: all but wall-clock columns."""
    from archipelago.config.load import loads, preset
    from archipelago.journal.journal import Journal
    from archipelago.study.running.search import search

    races = ["estimator.last=3", "budget.trials=10", "final.rounds=5", "final.references=false"]
    fleet = ["partition.clients=5000", "budget.trials=4", "final.rounds=10"]
    engines = ["serial", *(f"processes {workers}" for workers in ((2,) if quick else (1, 2, 5)))]
    engines += ["cluster 2"] if find_spec("ray") and not quick else []
    found: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # five workers may share fewer cores
        for name in engines:
            kind, _, workers = name.partition(" ")
            engine = f'engine={{kind="{kind}"' + (f", workers={workers}}}" if workers else "}")
            for study, sets in (("digits", races), ("phones", fleet)):
                out = Path(folder) / f"{study} {name}"
                search(loads(preset(study), [*sets, engine]), out).result  # noqa: B018
                with Journal.open(out, write=False) as journal:
                    found.setdefault(name, []).append(told(journal))
    equal = sum(digests == found["serial"] for digests in found.values())
    return show(
        bar(
            "engines whose journals are those of serial, of digits and of a fleet of phones",
            equal,
            len(engines),
            engines=engines,
            source="measured",
        )
    )


def first_round() -> dict[str, Any]:
    """Measure `archipelago search` to its first committed round, beyond `import torch`."""
    beyond = []
    for _ in range(3):
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", "import torch"], check=True)
        torch_takes = time.monotonic() - began
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "run.toml"
            verbs = [sys.executable, "-m", "archipelago"]
            subprocess.run([*verbs, "new", "digits", str(file)], check=True, stdout=-3)
            began = time.monotonic()
            run = subprocess.Popen(
                [*verbs, "search", str(file), "--out", folder + "/run", "--json"],
                stdout=subprocess.PIPE,
                text=True,
            )
            assert run.stdout is not None
            for line in run.stdout:
                if '"round"' in line:
                    break
            beyond.append(time.monotonic() - began - torch_takes)
            run.kill()
            run.wait()
    return show(
        bar(
            "first round after `archipelago search`, seconds beyond `import torch`",
            median(beyond),
            1.5,
            most=True,
            source="measured",
        )
    )


def main() -> None:
    """Print one JSON line a bar."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="ours against a plain loop only")
    parser.add_argument("--peers", type=Path, help="where the peers' environments are, or go")
    parser.add_argument(
        "--only", nargs="*", help="models, or: share overhead memory idle first same gpu"
    )
    parser.add_argument("--repeats", type=int, default=0)
    parser.add_argument("--write", type=Path, help="replace this file by the lines")
    given = parser.parse_args()
    gpu = ["gpu"] if torch.cuda.is_available() else []
    wanted = given.only or [*COHORTS, "share", "overhead", "memory", "idle", "first", "same", *gpu]
    if "gpu" in wanted and not gpu:
        parser.error("torch sees no GPU here")
    repeats = given.repeats or (3 if given.quick else 7)
    lines: list[dict[str, Any]] = []
    for name in wanted:
        match name:
            case "share":
                lines += share(repeats)
            case "overhead":
                lines += [overhead("leaf", 3), overhead("logistic", 2 * repeats)]
            case "memory":
                lines += memory(30 if given.quick else 200)
            case "idle":
                lines.append(idle(repeats))
            case "same":
                lines.append(same(given.quick))
            case "gpu":
                lines += stacked("cuda", repeats)
            case "first":
                lines.append(first_round())
            case _:
                lines += speed(name, None if given.quick else given.peers, repeats)
    stamp = {"date": datetime.now(UTC).date().isoformat(), "load": os.getloadavg()[0]}
    old = []
    if given.write and given.write.exists():
        old = [json.loads(line) for line in given.write.read_text().splitlines()]
        new = {line["bar"] for line in lines}
        old = [line for line in old if line["bar"] not in new]
    write(given.write, [*old, *({**line, **stamp} for line in lines)])


if __name__ == "__main__":
    main()
