"""Every error a user can meet, in one page.

* ArchipelagoError
  - ConfigError        a value the user wrote cannot work
    - ConfigFaults     several of them, reported together
    - IncompatibleParts  two parts are fine alone, wrong together
  - DataError          a file, silo or column cannot be used as it is
  - MissingExtra       an optional package is needed and absent
  - JournalError       a run directory cannot be opened, read or written
  - UpdateRefused      a client's update failed a check; the round goes on without it
  - TaskFailed         work given to an engine raised, died or ran out of time
    - MachineFailed    a worker, memory or a disk gave out; the run goes on from its last commit
  - RunFailed          the run as a whole cannot go on
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from archipelago.core.display import clipped, listed, shown

__all__ = [
    "ArchipelagoError",
    "ConfigError",
    "ConfigFaults",
    "DataError",
    "IncompatibleParts",
    "JournalError",
    "MachineFailed",
    "MissingExtra",
    "RunFailed",
    "TaskFailed",
    "UpdateRefused",
    "did_you_mean",
]


_LONGEST = 2000
"""Characters of a sentence or an advice, a place in a fifth of it."""
_FAULTS = 50
"""Faults of one file that a message shows; `faults` holds them all."""
_WORD = 80
"""Characters of a word that is compared with the known ones: the comparison is quadratic."""


class ArchipelagoError(Exception):
    """What went wrong, what we saw, where, how to mend it.

    The message stays short whatever the value: long ones are clipped in the middle.

    Args:
        what: one sentence without a value in it ("must lie in (0, 1]").
        got: the offending value, shown with `repr`.
        where: dotted place in the run file, a path, or a column.
        fix: an imperative that the reader can follow at once.
    """

    def __init__(
        self, what: str, *, got: object = None, where: str | None = None, fix: str | None = None
    ) -> None:
        sentence = clipped(what, _LONGEST)
        lines = [f"{clipped(where)}: {sentence}" if where else sentence]
        if got is not None:
            lines.append(f"  got: {shown(got)}")
        if fix is not None:
            lines.append(f"  fix: {clipped(fix, _LONGEST)}")
        super().__init__("\n".join(lines))
        self.what, self.got, self.where, self.fix = what, got, where, fix


class ConfigError(ArchipelagoError, ValueError):
    """A value the user wrote cannot work."""


class ConfigFaults(ConfigError):
    """Every fault of one run file, so that it is mended in one go."""

    def __init__(self, source: str, faults: Sequence[str]) -> None:
        plural = "fault" if len(faults) == 1 else "faults"
        lines = [f"{len(faults)} {plural} in {clipped(source)}"]
        lines += [f"  {clipped(fault, _LONGEST)}" for fault in faults[:_FAULTS]]
        if len(faults) > _FAULTS:
            lines.append(f"  ... and {len(faults) - _FAULTS} more")
        super().__init__(lines[0])
        # Each fault is clipped, not the whole of them.
        self.what = "\n".join(lines)
        self.args = (self.what,)
        self.faults = tuple(faults)


class IncompatibleParts(ConfigError):
    """Two parts are fine alone, wrong together."""


class DataError(ArchipelagoError, ValueError):
    """A file, silo or column cannot be used as it is."""


class MissingExtra(ArchipelagoError, ImportError):
    """An optional package is needed and absent."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed",
            fix=f"pip install 'archipelago-nas[{extra}]'",
        )


class JournalError(ArchipelagoError, RuntimeError):
    """A run directory cannot be opened, read or written."""


class UpdateRefused(ArchipelagoError, ValueError):
    """A client's update failed a check; it is recorded and the round goes on without it.

    Attributes:
        kind: of the failure that the engine reports instead of a reply, see `core.failure`; empty
            where there was a reply.
    """

    kind = ""


class TaskFailed(ArchipelagoError, RuntimeError):
    """Work given to an engine raised, died or ran out of time."""


class MachineFailed(TaskFailed):
    """A worker, memory or a disk gave out: nobody's refusal. What was committed is kept."""


class RunFailed(ArchipelagoError, RuntimeError):
    """The run as a whole cannot go on."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return advice naming the closest known word, or all of them.

    Example:
        >>> did_you_mean("stratgy", ["space", "strategy"])
        "did you mean 'strategy'?"
    """
    names = sorted(known)
    close = get_close_matches(word, names, n=1) if len(word) <= _WORD else []
    return f"did you mean {close[0]!r}?" if close else f"choose one of {listed(names, 60)}"
