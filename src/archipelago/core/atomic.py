"""Files and folders in the making. Whatever ends their owner, none is left for good.

A name carries its owner's process number, and the owner holds a lock that the kernel drops when it
dies, however. `sweep` removes what nobody holds any more; `atomic_file` and `scratch` sweep before
they make something new.
"""

import fcntl
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO, NamedTuple

__all__ = [
    "AtomicFile",
    "Scratch",
    "atomic_file",
    "private",
    "private_folder",
    "scratch",
    "sweep",
    "sweep_scratch",
]

# Without the eight digits, or with the other ending: of earlier versions, which held no lock.
_FILE = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)(-[0-9a-f]{8})?\.(tmp|partial)")
_FOLDER = re.compile(r"\.?archipelago-(?P<pid>\d+)-\w{8}")
_SLACK = 2.0
"""Seconds by which a clock may disagree on when a process began."""


class AtomicFile(NamedTuple):
    """A file in the making: open to write, and where it lies meanwhile."""

    file: BinaryIO
    path: Path


@contextmanager
def atomic_file(path: Path, *, mode: int = 0o666) -> Iterator[AtomicFile]:
    """Yield a file that takes the place of `path` at the end, flushed, in one rename.

    Where that fails, what was at `path` stays and nothing else is left. The folder's own flush is
    the caller's, see `journal.files`.

    Args:
        path: of the file to come, in a folder that exists.
        mode: of which the umask takes its part.
    """
    sweep(path.parent, path.name)
    place = path.with_name(f".{path.name}.{os.getpid()}-{token_hex(4)}.tmp")
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(place, flags, mode), "w+b") as file:
            _hold(file.fileno())
            yield AtomicFile(file, place)
            file.flush()
            os.fsync(file.fileno())
            place.replace(path)
    except BaseException:
        place.unlink(missing_ok=True)
        raise


def sweep(folder: Path, name: str = "") -> None:
    """Remove files in the making, of `name` or of any, whose owner is gone; others stay."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            found = _FILE.fullmatch(entry.name)
            if found is None or name not in ("", found["name"]):
                continue
            if entry.is_file(follow_symlinks=False) and _left(Path(entry.path), int(found["pid"])):
                Path(entry.path).unlink(missing_ok=True)


@dataclass(slots=True, kw_only=True)
class Scratch:
    """A folder that only its owner may enter, for as long as this process wants it.

    Attributes:
        path: where it lies.
        owner: number of the process that made it.
        handle: open on the folder, and locked; -1 once it is removed.
    """

    path: Path
    owner: int
    handle: int

    @classmethod
    def made(cls, folder: str | Path | None = None) -> "Scratch":
        """Make one in `folder`, by default where the system keeps temporary files."""
        sweep_scratch(folder)
        prefix = f"{'.' if folder else ''}archipelago-{os.getpid()}-"
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=folder))
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        _hold(handle)
        return cls(path=path, owner=os.getpid(), handle=handle)

    def remove(self) -> None:
        """Remove it with everything in it. Twice is once; a forked child leaves its parent's."""
        if self.owner == os.getpid() and self.handle >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self.handle)
            self.handle = -1


@contextmanager
def scratch(folder: str | Path | None = None) -> Iterator[Path]:
    """Yield a new folder that only its owner may enter; it is removed at the end."""
    made = Scratch.made(folder)
    try:
        yield made.path
    finally:
        made.remove()


def sweep_scratch(folder: str | Path | None = None) -> None:
    """Remove this user's scratch folders whose owner is gone."""
    with suppress(OSError), os.scandir(folder or tempfile.gettempdir()) as entries:
        for entry in entries:
            found = _FOLDER.fullmatch(entry.name)
            if found is None or not entry.is_dir(follow_symlinks=False):
                continue
            with suppress(OSError):
                mine = entry.stat(follow_symlinks=False).st_uid == os.geteuid()
                if mine and _left(Path(entry.path), int(found["pid"])):
                    shutil.rmtree(entry.path, ignore_errors=True)


def private(path: Path) -> Path:
    """Make an empty file that only its owner may read or write, whatever the umask; return it.

    Whoever opens it to write keeps the mode: it is never readable by others, not for an instant.
    """
    path.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(path, flags, stat.S_IRUSR | stat.S_IWUSR)
    try:
        os.fchmod(handle, stat.S_IRUSR | stat.S_IWUSR)
    finally:
        os.close(handle)
    return path


def private_folder(path: Path) -> Path:
    """Make a folder that only its owner may enter, whatever the umask; one that is there too."""
    with suppress(FileExistsError):
        os.mkdir(path, stat.S_IRWXU)
    os.chmod(path, stat.S_IRWXU)
    return path


def _hold(handle: int) -> None:
    with suppress(OSError):  # a file system without locks: the process number has to do
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _left(path: Path, pid: int) -> bool:
    """Whether the owner of `path` is gone."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return pid == os.getpid() or not _since(pid) <= os.fstat(handle).st_mtime + _SLACK
    except OSError:
        return False
    finally:
        os.close(handle)


def _since(pid: int) -> float:
    """Return when a process began, in seconds since the epoch; infinity where there is none."""
    try:
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return float("inf")
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return booted + ticks / os.sysconf("SC_CLK_TCK")
