"""What a run needs of the machine, tried here."""

import os
import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

from archipelago.journal.filesystem import Finding, tried_filesystem

__all__ = ["examine"]

_NEEDED: Final = ("torch", "numpy", "scikit-learn", "pydantic", "onnx", "onnxruntime")
_EXTRAS: Final = {"pyarrow": "parquet", "ray": "cluster"}
_LEAST_MEMORY: Final = 2 * 2**30
"""Bytes: torch, a worker a core and the demo together stay below."""


def examine(directory: Path) -> Iterator[Finding]:
    """Yield one finding after another; `good` is whether a run can do with it."""
    version = metadata.version("archipelago-nas")
    python = f"{platform.python_version()} on {platform.platform(terse=True)}"
    yield _fine("archipelago", f"{version}, Python {python}")
    for package in _NEEDED:
        found = _version(package)
        cure = "pip install archipelago-nas"
        yield Finding(name=package, good=found is not None, detail=found or f"missing; {cure}")
    yield _torch()
    for package, extra in _EXTRAS.items():
        absent = f"absent (optional); pip install 'archipelago-nas[{extra}]'"
        yield _fine(package, _version(package) or absent)
    yield _fine("cores", f"{len(os.sched_getaffinity(0))} usable of {os.cpu_count()}")
    memory = _memory()
    yield Finding(
        name="memory", good=memory >= _LEAST_MEMORY, detail=f"{memory / 2**30:.1f} GiB available"
    )
    yield _data()
    yield from tried_filesystem(directory)


def _fine(name: str, detail: str) -> Finding:
    return Finding(name=name, good=True, detail=detail)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _torch() -> Finding:
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding(name="torch build", good=False, detail=str(error).partition("\n")[0])
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    devices = f", {here} GPU(s) found" if torch.version.cuda else ""
    return _fine("torch build", f"{build}{devices}, {torch.backends.cpu.get_cpu_capability()}")


def _memory() -> int:
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        lines = meminfo.read_text().splitlines()
        limits += [int(text.split()[1]) * 1024 for text in lines if text.startswith("MemAvail")]
    # A container's own limit, if it has one, is the one that kills.
    group = Path("/sys/fs/cgroup/memory.max")
    if group.is_file() and (text := group.read_text().strip()).isdigit():
        limits.append(int(text))
    return min(limits)


def _data() -> Finding:
    place = os.environ.get("ARCHIPELAGO_DATA")
    if place is None:
        return _fine("ARCHIPELAGO_DATA", "not set; only named data sets need it")
    good = Path(place).is_dir()
    return Finding(
        name="ARCHIPELAGO_DATA", good=good, detail=place if good else f"{place}: no such directory"
    )
