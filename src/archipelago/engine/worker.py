"""The inside of a worker process."""

import gc
import mmap
import os
import pickle
import select
import signal
import sys
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch

from archipelago.core.buffers import as_bytes, length
from archipelago.core.failure import Kind, kind_of, words_of
from archipelago.core.memory import keep

__all__ = ["DEPTH", "Answer", "Shared", "Slot", "map_file", "work"]

DEPTH = 2
"""Tasks that a worker holds: one runs, one waits, so that it never idles between two."""


Answer = tuple[int, str | None, Kind | None, float]
"""Bytes of the reply, why there is none, what failed, and wall-clock seconds."""


@dataclass(frozen=True, slots=True)
class Shared:
    """Where shared bytes lie: an unnamed file of the coordinator, so nothing outlives it.

    Attributes:
        number: never used twice.
        path: how another process of the same user opens it.
        size: bytes.
    """

    number: int
    path: str
    size: int


class Slot:
    """An unnamed shared file that grows; the worker writes replies, the coordinator reads."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR)
        self._map: mmap.mmap | None = None

    def write(self, pieces: Any) -> int:
        """Write the pieces; return their length."""
        size = length(pieces)
        if self._map is None or len(self._map) < size:
            os.ftruncate(self._fd, max(size, 1 << 16))
            self._map = mmap.mmap(self._fd, 0)
        place = 0
        for piece in pieces:
            raw = as_bytes(piece)
            self._map[place : place + raw.nbytes] = raw
            place += raw.nbytes
        return size


class _Memory:
    def __init__(self) -> None:
        self._open: OrderedDict[int, mmap.mmap] = OrderedDict()

    def view(self, handle: Shared) -> memoryview:
        found = self._open.pop(handle.number, None)
        if found is None:
            found = map_file(handle.path, handle.size)
        self._open[handle.number] = found
        # Older maps go when their last view does: a dropped name is enough.
        while len(self._open) > 64:
            self._open.popitem(last=False)
        return memoryview(found)[: handle.size]

    def forget(self, alive: int) -> None:
        for number in [n for n in self._open if n < alive]:
            del self._open[number]


def map_file(path: str, size: int) -> mmap.mmap:
    """Map an unnamed file of another process read-only."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return mmap.mmap(fd, size, prot=mmap.PROT_READ)
    finally:
        os.close(fd)


def work(calls: Connection, life: Connection, context: bytes, slots: tuple[str, ...]) -> None:
    """Serve tasks until told to stop, or until the coordinator is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()  # a collection would write to every page that the fork server shares with us
    threading.Thread(target=_watch, args=(life,), daemon=True).start()
    torch.set_num_threads(1)
    keep()
    try:
        replies = [Slot(path) for path in slots]
    except OSError:  # the coordinator died while this one started
        return
    memory = _Memory()
    entered = _enter(context)
    calls.send(None)  # ready
    while True:
        try:
            message = calls.recv_bytes()
        except (EOFError, OSError):
            return
        if not message:
            return
        word, *rest = pickle.loads(message)  # noqa: S301 - from our own coordinator
        if word == "enter":
            entered = _enter(*rest)
            calls.send(None)
            continue
        alive, slot, task = rest
        memory.forget(alive)
        began = time.perf_counter()
        try:
            if isinstance(entered, Exception):
                raise entered
            size = replies[slot].write(task(entered, memory))
            answer: Answer = (size, None, None, time.perf_counter() - began)
        except Exception as error:  # a failed task is a value with a reason
            answer = (0, words_of(error), kind_of(error), time.perf_counter() - began)
        del task
        try:
            calls.send(answer)
        except OSError:
            return


def _enter(context: bytes) -> Any:
    try:
        return pickle.loads(context).enter()  # noqa: S301 - from our own coordinator
    except Exception as error:  # every task then fails with this reason
        return error


def _watch(life: Connection) -> None:
    # The coordinator holds the other end; it closes however the coordinator dies.
    poll = select.poll()
    poll.register(life.fileno(), select.POLLIN | select.POLLHUP)
    poll.poll()
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - the terminal is no longer ours
    os._exit(1)
