"""Whose fault it is that work given to an engine has no reply: a closed list, decided once."""

import errno
from typing import Final, Literal

from archipelago.core.errors import DataError

__all__ = ["MACHINES", "Kind", "kind_of", "read_reason", "reason_of", "words_of"]

Kind = Literal["data", "work", "deadline", "worker", "machine"]
"""What failed.

  - data      a client's rows cannot be read
  - work      the client's computation raised
  - deadline  it took longer than `engine.deadline`
  - worker    its worker died, each time it was tried
  - machine   memory, shared memory, disk or open files gave out, each time it was tried
"""

MACHINES: Final[frozenset[Kind]] = frozenset({"worker", "machine"})
"""Nobody's refusal: tried again on a fresh worker, and then the run stops and keeps its commit."""

_SCARCE = frozenset(
    {
        errno.ENOMEM,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EMFILE,
        errno.ENFILE,
        errno.EAGAIN,
        errno.EIO,
        errno.ESTALE,
        errno.ENODEV,
    }
)
# torch has no type of its own for memory that the system refuses: these are its allocators' words.
_REFUSED = ("DefaultCPUAllocator:", "CUDA out of memory", "CUDA error: out of memory")


def kind_of(error: BaseException) -> Kind:
    """Return what an exception says about whose fault it is.

    Example:
        >>> kind_of(MemoryError()), kind_of(FileNotFoundError(2, "gone")), kind_of(ValueError("x"))
        ('machine', 'data', 'work')
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "machine"
    if isinstance(error, OSError):
        return "machine" if error.errno in _SCARCE else "data"
    if isinstance(error, RuntimeError) and any(word in str(error) for word in _REFUSED):
        return "machine"
    return "data" if isinstance(error, DataError) else "work"


def words_of(error: BaseException) -> str:
    """Return the type and the text of an exception."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def reason_of(error: BaseException) -> str:
    """Return the kind and the words of an exception, which `read_reason` parts again."""
    return f"{kind_of(error)}: {words_of(error)}"


def read_reason(text: str) -> tuple[Kind, str]:
    """Return the kind and the words of a client's own reason.

    A client speaks of its rows and its work; that the server's machine failed it cannot say.
    """
    kind, _, words = text.partition(": ")
    return ("data", words) if kind == "data" else ("work", words if kind == "work" else text)
