"""What a hostile client can send: frames and statistics changed at random, read as by a run.

Each is refused or lies within what its client declared; nothing else may come of it. Every draw is
a function of the seed and the case's number.

    python benchmarks/hostile.py --quick                 # 5,000 cases
    python benchmarks/hostile.py --write benchmarks/results/hostile.jsonl
"""

import argparse
import json
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from bars import bar, show, write

from archipelago.core.buffers import join
from archipelago.core.errors import UpdateRefused
from archipelago.data.bounds import check, finite
from archipelago.data.scores import BINS
from archipelago.data.tasks import Classification, MultiLabel, Regression
from archipelago.federation.check import parted, scored, summed, updated
from archipelago.federation.counts import Counts
from archipelago.wire.frame import bundle, pack, unbundle, unpack

CASES, QUICK = 100_000, 5_000
ASKED = {"client": 1, "branch": 2, "round": 3}
ROWS, SIZE, SCORED = 40, 6, 30
COUNTS = Counts(rows=ROWS, passes=2, epochs=2, batch=16)
NASTY: tuple[Any, ...] = (
    *(True, False, None, 0, -1, 1, 2, 1.0, 1.5, 1e15, 1e300, -1e300, 10**18, 10**40, 2**39, 2**63),
    *(-(2**63), float("nan"), float("inf"), -float("inf"), "", "1", "\ud800", "\0", [], {}, [1]),
    *([[[]]], {"a": 1}, [True, True, True], [1] * 65, [0, 2**39, 2**39], 10**399, "x" * 500),
)
FLOATS = (
    0.0,
    -0.0,
    -1.0,
    0.5,
    1e15,
    -1e15,
    1e30,
    1e38,
    1e300,
    math.nan,
    math.inf,
    -math.inf,
    2.0**62,
)
TASKS = (
    Classification(classes=("a", "b", "c")),
    Classification(classes=("a", "b"), metric="auroc"),
    Classification(classes=tuple("abcdefg"), metric="top5"),
    MultiLabel(classes=("a", "b", "c")),
    MultiLabel(classes=("a", "b"), metric="auroc"),
    Regression(mean=3.0, scale=2.0),
)


def statistics(task: Any, seed: int) -> np.ndarray:
    """Return what an honest client sends of `SCORED` rows."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(SCORED, task.outputs, generator=generator) * 3
    match task:
        case Classification():
            y = torch.randint(0, task.outputs, (SCORED,), generator=generator)
        case MultiLabel():
            y = (torch.rand(SCORED, task.outputs, generator=generator) < 0.3).float()
        case _:
            y = torch.randn(SCORED, generator=generator) * 2 + 3
    return task.statistics(logits, y)


def honest() -> list[tuple[str, bytes, Callable[[memoryview], bool]]]:
    """Return frames as clients send them, and what reads each: true, if what it gave is allowed."""
    ones = np.ones(SIZE, np.float32)
    said = {"examples": ROWS, "seen": 2 * ROWS, "steps": 6, "metrics": {"loss": 0.5}}
    update = pack("update", {**ASKED, **said}, [ones])
    scaffold = pack("update", {**ASKED, **said, "effort": 6.0}, [ones, ones[:4]])
    columns = {
        "examples": [ROWS, 5],
        "seen": [2 * ROWS, 5],
        "loss": [0.5, 1.0],
        "bytes": [256, 256],
    }
    summing = pack("sum", {"branch": 2, "round": 3, "client": [1, 4], **columns}, [ones])
    answer = {"count": 3, "moments": {"age": [12, 44.5, 120.0]}, "labels": {"yes": 5, "no": 7}}

    def one(data: memoryview) -> bool:
        return _fine(*updated(data, **ASKED, size=SIZE, counts=COUNTS))

    def more(data: memoryview) -> bool:
        return _fine(*updated(data, **ASKED, size=SIZE, extras={"control": 4}, counts=COUNTS))

    def keeping(data: memoryview) -> bool:
        frame, kept = parted(data, 3)
        return bool(np.isfinite(kept.numpy()).all()) and one(frame)

    def together(data: memoryview) -> bool:
        asked = {"branch": 2, "round": 3, "size": SIZE}
        total, each = summed(data, clients=(1, 4), counts=(COUNTS, COUNTS), **asked)
        numbers = [n for row in each for n in (row.examples, row.seen, row.loss, row.nbytes)]
        fine = all(1 <= row.examples <= ROWS and 1 <= row.seen <= 2 * row.examples for row in each)
        return fine and all(map(math.isfinite, numbers)) and bool(np.isfinite(total.numpy()).all())

    def several(data: memoryview) -> bool:
        return all(isinstance(part, str) or one(part) for part in unbundle(data))

    def answered(data: memoryview) -> bool:
        frame = unpack(data, limit=1 << 20)
        json.dumps(frame.fields)
        return all(array.size < 1 << 20 for array in frame.arrays)

    def scores(task: Any) -> Callable[[memoryview], bool]:
        def read(data: memoryview) -> bool:
            vector = scored(data, **ASKED, size=task.length, rows=SCORED)
            check(task, vector, SCORED)
            return possible(task, vector)

        return read

    kept = np.ones(3, np.float32)
    cases = [
        ("update", join(update), one),
        ("update", join(scaffold), more),
        ("update", join([*update, kept]), keeping),
        ("sum", join(summing), together),
        ("bundle", join(bundle([update, "ValueError: no rows", update])), several),
        ("statistics-answer", join(pack("statistics-answer", answer)), answered),
    ]
    for number, task in enumerate(TASKS):
        frame = pack("score", {**ASKED, "examples": SCORED}, [statistics(task, number)])
        cases.append(("score", join(frame), scores(task)))
    return cases


def _fine(update: Any, seen: int) -> bool:
    tensors = (update.delta, *update.extras.values())
    return (
        1 <= update.examples <= ROWS
        and 1 <= seen <= 2 * update.examples
        and 1 <= update.steps <= 2 * -(-update.examples // 16)
        and abs(update.effort - update.steps) < 1e-4
        and 0 <= update.metrics["loss"] < 4e38
        and all(map(math.isfinite, update.metrics.values()))
        and all(bool(np.isfinite(tensor.numpy()).all()) for tensor in tensors)
    )


def possible(task: Any, vector: np.ndarray) -> bool:
    """Whether `SCORED` rows can have given a vector, written without the code that is tried here.

    A loss that is not finite is said by a network that diverged, and counts as such.
    """
    if vector[0] != SCORED:
        return False
    if isinstance(task, Regression):
        _, squared, absolute, total, square = vector.tolist()
        sound = math.isfinite(square) and abs(total) <= math.sqrt(SCORED * square) * 1.001
        if not finite(task, vector):
            return sound
        return sound and squared >= 0 and 0 <= absolute <= math.sqrt(SCORED * squared) * 1.001
    k, counts = task.outputs, vector[2:]
    if not (vector[1] >= -1e-3 or not finite(task, vector)):
        return False
    if not all(math.isfinite(n) and 0 <= n <= SCORED and n == int(n) for n in counts.tolist()):
        return False
    if isinstance(task, Classification):
        cells, rest = vector[3 : 3 + k * k], vector[3 + k * k :]
        if cells.sum() != SCORED or vector[2] < np.trace(cells.reshape(k, k)):
            return False
    else:
        cells, rest = vector[2 : 2 + 3 * k].reshape(3, k), vector[2 + 3 * k :]
        if (cells.sum(0) > SCORED).any():
            return False
    return all(part.sum() == SCORED for part in rest.reshape(-1, 2 * BINS))


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Return a message that somebody tampered with, in one of several ways."""
    way = rng.randrange(8)
    if way == 0:  # bytes
        out = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 8))):
            out[rng.randrange(len(out))] = rng.choice((0, 1, 127, 255, rng.randrange(256)))
        return bytes(out)
    if way == 1:  # cut, or more of it
        place = rng.randrange(len(data) + 1)
        more = rng.randbytes(rng.choice((1, 8, 64)))
        return rng.choice((data[:place], data + more, data[:place] + more + data[place:]))
    if way == 2:  # eight bytes at once: sizes, counts, float64
        start = 8 * rng.randrange(max(1, len(data) // 8))
        number = rng.choice((2**62, -(2**63), -1, 2**63 - 1, rng.getrandbits(62)))
        return data[:start] + number.to_bytes(8, "little", signed=True) + data[start + 8 :]
    if data[:4] != b"ARCH":
        return mutated(data, rng)
    size = 12 + int.from_bytes(data[8:12], "little")
    header, body = json.loads(data[12:size]), data[size:]
    if way == 3 and body:  # values of the arrays
        kind = rng.choice(("<f4", "<f8"))
        out = np.frombuffer(body[: len(body) // 8 * 8], kind).copy()
        for _ in range(rng.choice((1, 1, 3))):
            with np.errstate(over="ignore"):
                out[rng.randrange(len(out))] = rng.choice(FLOATS)
        return data[:size] + out.tobytes() + body[len(out.tobytes()) :]
    if way == 4:  # shapes and types
        for array in header["arrays"]:
            array[rng.randrange(2)] = rng.choice((*NASTY, "f8", "f4", "O", "i8"))
    elif way == 5 and header["fields"]:  # a field, or one inside it
        outer = header["fields"]
        name = rng.choice(sorted(outer))
        if isinstance(outer[name], dict | list) and rng.random() < 0.7:
            outer = outer[name]
            name = rng.choice(sorted(outer) if isinstance(outer, dict) else range(len(outer)))
        outer[name] = rng.choice(NASTY)
    elif way == 6:  # a name more, or less
        part = rng.choice((header, header["fields"]))
        name = rng.choice((*sorted(part), "more"))
        if rng.random() < 0.5:
            part.pop(name, None)
        else:
            part[name] = rng.choice(NASTY)
    text = json.dumps(header)
    if way == 7:  # the text itself
        place = rng.randrange(len(text))
        nest = rng.choice((50, 5_000, 60_000))
        text = rng.choice(
            (
                text[:place] + rng.choice('{}[]",:0e-') + text[place:],
                text.replace('"client":', '"client": 9, "client":', 1),
                text.replace("{", '{"kind": "update", ', 1),
                text.replace('"fields": {', '"fields": {"x": ' + "[" * nest + "]" * nest + ", ", 1),
                " " * 64 + text,
                text + "\t",
            )
        )
    raw = text.encode()
    raw += b" " * (-(12 + len(raw)) % 64)
    return data[:8] + len(raw).to_bytes(4, "little") + raw + body


def bent(vector: np.ndarray, rng: random.Random) -> np.ndarray:
    """Return statistics that somebody tampered with: one value, two against each other, or all."""
    out = vector.copy()
    first, second = rng.randrange(len(out)), rng.randrange(min(len(out), 12))
    with np.errstate(all="ignore"):
        match rng.randrange(4):
            case 0:
                out[second] = rng.choice((*FLOATS, SCORED + 1))
            case 1:
                step = rng.choice((1, 0.5, 7, 2**40))
                out[first] -= step
                out[second] += step
            case 2:
                out *= rng.choice((2, -1, 0, 1e9, math.nan, 1.0001))
            case _:
                out = np.roll(out, rng.randrange(1, len(out)))
    return out


def tried(cases: int, seed: int = 0) -> Iterator[tuple[str, str]]:
    """Yield what became of each message: its kind, and refused, accepted, outside or an error."""
    frames = honest()
    vectors = [(task, statistics(task, 9)) for task in TASKS]
    for number in range(cases):
        rng = random.Random(f"{seed}/{number}")
        if number % 4:
            kind, data, read = rng.choice(frames)
            changed = mutated(data, rng)
            act = lambda: read(memoryview(bytearray(changed)))  # noqa: B023, E731
        else:
            task, vector = rng.choice(vectors)
            kind, other = "vector", bent(vector, rng)

            def act() -> bool:
                check(task, other, SCORED)  # noqa: B023
                return possible(task, other)  # noqa: B023

        try:
            yield kind, "accepted" if act() else "outside"
        except UpdateRefused as refusal:
            str(refusal).encode()  # it is written to the journal
            yield kind, "refused"
        except Exception as error:
            yield kind, f"uncaught {type(error).__name__}: {str(error)[:80]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--cases", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    cases = args.cases or (QUICK if args.quick else CASES)
    for kind, data, read in honest():
        if not read(memoryview(bytearray(data))):
            raise SystemExit(f"an honest {kind} is not accepted: nothing is tried here")
    began = time.perf_counter()
    found = Counter(tried(cases, args.seed))
    seconds = round(time.perf_counter() - began, 1)
    uncaught = {f"{k}: {end}": n for (k, end), n in found.items() if end.startswith("uncaught")}
    ends: Counter[str] = Counter()
    for (_, end), count in found.items():
        ends[end] += count
    wild = sum(uncaught.values())
    more = {"cases": cases, "refused": ends["refused"], "accepted": ends["accepted"]}
    lines = [
        bar("hostile messages: uncaught", wild, 0, most=True, which=uncaught, **more),
        bar("hostile messages: accepted outside bounds", ends["outside"], 0, most=True, **more),
        bar("hostile messages: tried", cases, QUICK if args.quick else CASES, seconds=seconds),
    ]
    write(args.write, [show(line) for line in lines])
    raise SystemExit(0 if all(line["holds"] for line in lines) else 1)


if __name__ == "__main__":
    main()
