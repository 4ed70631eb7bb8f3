"""A run's data, prepared; and read again after the run: the same rows, or a refusal."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from archipelago.config.run import Run
from archipelago.core.atomic import scratch
from archipelago.core.errors import DataError, JournalError
from archipelago.core.seeds import Seed
from archipelago.data.fleet import Population
from archipelago.data.prepare import Prepared, prepare

__all__ = [
    "BEFORE",
    "cleared",
    "continuation",
    "prepared_again",
    "prepared_for",
    "refuse_silence",
    "units_of",
]

BEFORE = "before"
"""Folder of a continued run that holds the run as it was."""
_WRITTEN = ("*.npy", "shards.json", "fleet.json", "preparation.json")
"""Files of prepared rows."""


def prepared_for(run: Run, directory: str | Path, *, judged: bool = False) -> Prepared:
    """Prepare the rows of a run into `directory`; see `prepare`.

    A published set is never judged: its rows are known, and a verdict would cost time.
    """
    return prepare(
        run.data,
        run.partition,
        run.split,
        run.task,
        seed=Seed(run.seed).child("data"),
        directory=directory,
        preprocess=run.preprocess,
        choices=run.tune.choices,
        judged=judged and not getattr(run.data, "PUBLISHED", False),
    )


def refuse_silence(shards: Population) -> None:
    """Refuse a study in which nobody has enough rows to tell a score, of candidates or at the end.

    Raises:
        DataError: no client has `floor` validation rows, or none has `floor` test rows.
    """
    for split, count in (("validation", len(shards.scoring)), ("test", shards.testing)):
        if not count:
            floor = shards.home.floor
            raise DataError(
                f"no silo has {floor} {split} rows: nobody may tell a score",
                where=f"split.{split}",
                fix=f"raise split.{split}, join silos (partition.clients), or lower "
                "preprocess.floor if their owners agree",
            )


def units_of(run: Run) -> dict[str, str]:
    """Return the units that travel with a model: of columns by name, of the target under ""."""
    label = getattr(run.data, "label", "")
    units = getattr(run.preprocess, "units", {})
    return {"" if name == label else name: unit for name, unit in units.items()}


def cleared(directory: Path) -> None:
    """Remove prepared rows, and every folder that is then empty; other files stay."""
    for pattern in _WRITTEN:
        for path in directory.rglob(pattern):
            path.unlink()
    for folder in [*sorted(directory.rglob("*/"), reverse=True), directory]:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def continuation(directory: Path) -> Path:
    """Return where a run that goes on is made, before it takes the place of `directory`."""
    return directory.with_name(f".{directory.name}.continued")


@contextmanager
def prepared_again(run: Run, fingerprint: str, directory: Path) -> Iterator[Prepared]:
    """Yield the prepared rows of a run; they are removed afterwards.

    Args:
        run: as its journal has it.
        fingerprint: that the rows had; empty where it is not known.
        directory: of the run, for messages.

    Raises:
        JournalError: the data changed since.
    """
    with scratch() as folder:
        prepared = prepared_for(run, folder)
        if fingerprint and prepared.shards.fingerprint != fingerprint:
            raise JournalError(
                "the data have changed since this run",
                got=f"fingerprint {prepared.shards.fingerprint}, it was {fingerprint}",
                where=str(directory),
                fix="restore the files that it was trained on, or start a new run",
            )
        yield prepared
