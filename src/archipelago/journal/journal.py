"""The journal of a run: a commit is all or nothing, and nothing else is ever seen."""

import json
import shutil
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, Self, TypeVar

from archipelago.core.atomic import private_folder, sweep
from archipelago.core.errors import JournalError
from archipelago.core.failpoint import failpoint
from archipelago.core.meter import COLUMNS, MeterRow
from archipelago.core.trial import Outcome
from archipelago.journal import queries
from archipelago.journal.background import Background
from archipelago.journal.best import replace_best, swept_best
from archipelago.journal.blobs import Blobs
from archipelago.journal.files import Buffer, guarded, write_atomic
from archipelago.journal.identity import identity
from archipelago.journal.lock import Lock
from archipelago.journal.occupied import refuse_occupied
from archipelago.journal.queries import Point, PointLike
from archipelago.journal.recovery import opened, put_in_place, salvaged
from archipelago.journal.registry import Client, Registry
from archipelago.journal.schema import DATABASE, HISTORY, build, connect, pack
from archipelago.journal.seals import SEALED, digest, put_seal, seal_clients, seal_of, state_seal

__all__ = ["Commit", "Journal"]

_METER_ROW = attrgetter(*COLUMNS)
_INSERT_METER = f"INSERT INTO meter VALUES ({', '.join('?' * (len(COLUMNS) + 1))})"  # noqa: S608
_LEVEL = 1
"""Of zlib: 500 silos' test statistics, mostly empty bins, shrink to an eightieth."""
_Row = TypeVar("_Row")


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """One transaction of the past.

    Attributes:
        number: counts up from 1.
        kind: the caller's word for it.
        state: what to resume from; None for a light commit, or a full one that was collected.
        blobs: digests by name; empty where there is no state.
    """

    number: int
    kind: str
    state: Any = None
    blobs: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def full(self) -> bool:
        """Whether the run can be resumed from here."""
        return self.state is not None


class Journal:
    """One run's directory: `journal.sqlite`, `blobs/`, `best/`. Made by `create` or `open`.

    A *full* commit carries a state and names the blobs that it needs; a *light* one only adds
    rows. To resume: `journal.rollback(journal.last(full=True).number)`, then compute the same
    rounds again; they get the same numbers and the same rows.

    Example:
        >>> import tempfile
        >>> with Journal.create(Path(tempfile.mkdtemp()) / "run", meta={"name": "x"}) as journal:
        ...     weights = journal.put(b"1234")
        ...     number = journal.commit("round", {"round": 1}, blobs={"weights": weights})
        ...     bytes(journal.get(journal.last().blobs["weights"]))
        b'1234'
    """

    def __init__(
        self,
        directory: Path,
        connection: sqlite3.Connection,
        lock: Lock | None,
        *,
        made: bool = False,
        salvaged: bool = False,
    ) -> None:
        self.directory = directory
        self._salvaged = salvaged  # the database is in memory: what of a damaged one is whole
        self._place = _place(directory / DATABASE)
        self._made = made  # whether `create` made the directory
        self._database = connection
        self._lock = lock
        self._files = Blobs(directory)
        self._writer = Background()
        self._fresh: set[str] = set()  # put, not yet named by a commit: collection spares them

    @classmethod
    def create(cls, directory: str | Path, *, meta: Mapping[str, Any]) -> Self:
        """Start a run in `directory`, which is made where it is missing.

        Raises:
            JournalError: a run or anything else is there already, or another process is starting
                a run there.
        """
        directory = Path(directory)
        with guarded(directory, directory):
            made = not directory.exists()
            # Whoever else could write here could put a folder of their own where rows will lie.
            directory.mkdir(0o755, parents=True, exist_ok=True)
            if not (directory / DATABASE).exists():
                refuse_occupied(directory)
            lock = None if (directory / DATABASE).exists() else Lock(directory / "lock")
            if lock is None or (directory / DATABASE).exists():
                if lock is not None:
                    lock.release()
                raise JournalError(
                    "there is a run in this directory already",
                    where=str(directory),
                    fix=f"`archipelago resume {directory}` goes on with it; "
                    "or choose another directory",
                )
            try:
                private_folder(directory / "blobs")
                _born(directory, meta)
                return cls(directory, connect(directory, write=True), lock, made=made)
            except BaseException:
                lock.release()
                raise

    @classmethod
    def open(cls, directory: str | Path, *, write: bool, damaged: bool = False) -> Self:
        """Open a run: to go on with it, under its lock, or to read, even while it is running.

        Every row is read and compared with its digest. A journal of an older version is brought
        up to date: in place for a writer, in memory for a reader.

        Args:
            directory: of the run.
            write: take the lock.
            damaged: for a writer who calls `go_back` next: of a damaged journal, open what is
                whole. Until then nothing on the disk is changed.

        Raises:
            JournalError: no run, a damaged one, a newer version's, or one locked by a live run.
        """
        directory = Path(directory)
        path = directory / DATABASE
        with guarded(directory, path):
            lock = Lock(directory / "lock") if write and path.is_file() else None
            try:
                try:
                    return cls(directory, opened(directory, write=write), lock)
                except JournalError:
                    whole = salvaged(directory) if damaged and lock else None
                    if whole is None:
                        raise
                    return cls(directory, whole[0], lock, salvaged=True)
            except BaseException:
                if lock is not None:
                    lock.release()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database and let the next writer in. Twice is once.

        Raises:
            JournalError: what was still being written `later` could not be.
        """
        try:
            self._writer.close()
        finally:
            self._database.close()
            if self._lock is not None:
                self._lock.release()

    def discard(self) -> None:
        """Remove the run, and the directory if `create` made it and it is empty; closes it."""
        with suppress(JournalError):  # of what is removed
            self._writer.close()
        self._database.close()
        if _place(self._path) != self._place:  # removed or replaced: what lies there is not ours
            if self._lock is not None:
                self._lock.release()
            return
        with guarded(self.directory, self._path):
            for path in (*self.directory.glob(f"{DATABASE}*"), self.directory / "run.toml"):
                path.unlink(missing_ok=True)
            shutil.rmtree(self.directory / "blobs")
            if self._lock is not None:
                (self.directory / "lock").unlink(missing_ok=True)
                self._lock.release()
            if self._made and not any(self.directory.iterdir()):
                self.directory.rmdir()

    # -- writing -------------------------------------------------------------------------------

    def later(self, work: Callable[[], object]) -> None:
        """Do `work`, which writes to this journal, beside the caller; one at a time.

        Whoever uses the journal next waits until it is done, and gets its error; an iterator that
        was taken before does not wait. A run that is killed before then goes on from the commit
        before. A journal is for one thread of the caller's.
        """
        self._writer.do(work)

    def tidy(self) -> None:
        """Remove what a killed writer of this run left half made.

        Raises:
            JournalError: opened for reading only, or the disk refuses.
        """
        if self._lock is None:
            raise self._read_only()
        with guarded(self.directory, self.directory):
            for folder in (self.directory, self.directory / "clients", self.directory / "budgets"):
                sweep(folder)
            swept_best(self.directory)
            self._blobs.tidy()

    def settle(self) -> None:
        """Return when everything is written.

        Raises:
            JournalError: what was being written `later` could not be.
        """
        self._writer.wait()

    def write_text(self, name: str, text: str) -> Path:
        """Replace the file `name` of the run's directory in one rename."""
        path = self.directory / name
        self._check_there()
        with guarded(self.directory, path):
            write_atomic(path, [text.encode()])
        return path

    def put(self, *buffers: Buffer) -> str:
        """Store the concatenation of `buffers` (C-contiguous); return the digest that names it.

        It may be deleted again unless the next commit names or pins it.
        """
        blobs = self._blobs  # after what is under way
        self._check_there()
        name = blobs.put(*buffers)
        self._fresh.add(name)
        return name

    def get(self, digest: str) -> memoryview:
        """Return a blob, verified, in memory of its own that may be written to.

        Raises:
            JournalError: the file is missing or corrupt; the text names it and the way back.
        """
        return self._blobs.get(digest)

    def commit(
        self,
        kind: str,
        state: Any = None,
        *,
        blobs: Mapping[str, str] | None = None,
        pins: Mapping[str, str | None] | None = None,
        meter: Iterable[MeterRow] = (),
        outcomes: Iterable[Outcome] = (),
        curves: Iterable[PointLike] = (),
        events: Iterable[tuple[str, Any]] = (),
    ) -> int:
        """Add everything given in one transaction, durable on return.

        Args:
            kind: the caller's word for this step.
            state: JSON data to resume from; None makes a light commit.
            blobs: what the state needs, by name; old digests may be named again.
            pins: blobs to keep for good, by name (finished networks); None lets one go.
            meter: the costs since the last commit.
            outcomes: proposals whose score is now known.
            curves: `(branch, round, metric, value)`, and a phase where it is not `search`.
            events: `(kind, JSON data)`.

        Returns:
            The commit's number; the first is 1.

        Raises:
            JournalError: the disk is full or a blob is missing; nothing was added.
        """
        blobs, pins = blobs or {}, pins or {}
        if blobs and state is None:
            raise JournalError("a commit without a state cannot name blobs", got=sorted(blobs))
        self._check_stored([*blobs.values(), *(d for d in pins.values() if d is not None)])
        self._blobs.settle()
        failpoint("blob-without-row")
        now = time.time()
        with self._transaction() as run:
            last = "SELECT number, seal FROM commits ORDER BY number DESC LIMIT 1"
            before, seal = run.execute(last).fetchone() or (0, b"")
            number, places = before + 1, _places(run)
            rows = [(number, *item) for item in sorted(blobs.items())]
            run.executemany("INSERT INTO commit_blobs VALUES (?, ?, ?)", rows)
            if state is not None:
                packed = zlib.compress(pack(state).encode(), _LEVEL)
                row = (number, packed, state_seal(number, packed, rows))
                run.execute("INSERT INTO states VALUES (?, ?, ?)", row)
            rows = [(number, *item) for item in pins.items()]
            run.executemany("INSERT INTO pins VALUES (?, ?, ?)", rows)
            run.executemany(_INSERT_METER, ((number, *_METER_ROW(row)) for row in meter))
            run.executemany(
                "INSERT INTO outcomes VALUES (?, ?, ?, ?, ?)",
                ((number, o.number, o.status, o.score, pack(o.to_json())) for o in outcomes),
            )
            points = (
                (number, *point, "search")[:6] for point in curves
            )  # the phase, where left out
            run.executemany("INSERT INTO curves VALUES (?, ?, ?, ?, ?, ?)", points)
            rows = [(number, name, pack(data), now) for name, data in events]
            run.executemany("INSERT INTO events VALUES (?, ?, ?, ?)", rows)
            row = (number, kind, int(state is not None), now)
            seal = digest(seal, row, *_added(run, number, places))
            run.execute("INSERT INTO commits VALUES (?, ?, ?, ?, ?)", (*row, seal))
            failpoint("row-uncommitted")
        failpoint("after-row")
        self._fresh.clear()
        return number

    def note(self, kind: str, data: Any = None) -> None:
        """Add an event of the process, not of the search (started, resumed, stopped).

        It survives `rollback` and is no part of the run's identity.
        """
        with self._transaction() as run:
            row = [kind, pack(data), time.time()]
            seal = digest(seal_of(run, "notes") or b"", row)
            run.execute("INSERT INTO notes VALUES (?, ?, ?, ?)", (*row, seal))
            put_seal(run, "notes", seal)

    def rollback(self, number: int) -> None:
        """Forget every commit after `number`, with all its rows.

        Args:
            number: a full commit, or 0 for the very beginning.

        Raises:
            JournalError: `number` holds no state to resume from.
        """
        with self._transaction() as run:
            query = "SELECT number FROM states ORDER BY number"
            full = [row[0] for row in run.execute(query)]
            if number not in (0, *full):
                raise JournalError(
                    "this commit cannot be gone back to: its state was not kept",
                    got=number,
                    where=str(self.directory),
                    fix=f"choose one of {', '.join(map(str, full)) or 0}",
                )
            for table in HISTORY:
                run.execute(f"DELETE FROM {table} WHERE number > ?", (number,))  # noqa: S608

    def go_back(self) -> int:
        """Return to the full commit before the last; of a damaged journal, before the damage.

        What a damaged database was is kept beside it, as `journal.sqlite.damaged`.

        Returns:
            The commit's number.

        Raises:
            JournalError: there is none.
        """
        if self._salvaged:
            with guarded(self.directory, self._path):
                put_in_place(self.directory, self._connection, keep=True)
                self._database.close()
                self._database = connect(self.directory, write=True)
                self._place, self._salvaged = _place(self._path), False
            last = self.last(full=True)
            return last.number if last else 0
        commit = self.previous()
        if commit is None:
            raise JournalError(
                "there is no commit before the last to go back to",
                where=str(self.directory),
                fix=f"`archipelago resume {self.directory}`, or start again in a new directory",
            )
        self.rollback(commit.number)
        return commit.number

    def collect(self, keep: Iterable[str] = ()) -> int:
        """Forget the states before the last two full commits; delete blobs nobody needs.

        Kept: what the last two full commits name, what is pinned now or was at the earlier of
        the two, what was put since the last commit, and `keep`.

        Returns:
            Bytes freed.
        """
        with self._transaction() as run:
            full = "SELECT number FROM states ORDER BY number DESC LIMIT 2"
            oldest = min((row[0] for row in run.execute(full)), default=0)
            run.execute("DELETE FROM states WHERE number < ?", (oldest,))
            run.execute("DELETE FROM commit_blobs WHERE number < ?", (oldest,))
        named = self._connection.execute("SELECT digest FROM commit_blobs")
        pinned = self._connection.execute(
            "SELECT digest FROM pins AS p WHERE digest IS NOT NULL AND NOT EXISTS "
            "(SELECT 1 FROM pins WHERE name = p.name AND number > p.number AND number <= ?)",
            (oldest,),
        )
        needed = {row[0] for row in (*named, *pinned)}
        return self._blobs.sweep(needed | self._fresh | set(keep))

    def best(self, files: Mapping[str, Buffer]) -> Path:
        """Replace the folder `best/` by one that holds `files`, in one rename.

        See `journal.best`. Call it after the commit that found them.
        """
        self._writer.wait()
        self._check_there()
        return replace_best(self.directory, files)

    def register(self, clients: Iterable[Client]) -> None:
        """Replace the registry of clients, all or nothing, reading them one by one."""
        with self._transaction() as run:
            run.execute("DELETE FROM clients")
            run.executemany("INSERT INTO clients VALUES (?, ?, ?, ?)", clients)
            seal_clients(run)

    # -- reading -------------------------------------------------------------------------------

    @property
    def meta(self) -> dict[str, Any]:
        """What `create` was given."""
        rows = self._all("SELECT key, value FROM meta ORDER BY key")
        return {key: json.loads(value) for key, value in rows}

    @property
    def registry(self) -> Registry:
        """The clients of the run; `register` fills it."""
        return Registry(self._connection)

    def last(self, *, full: bool = False) -> Commit | None:
        """Return the newest commit (with a state, where `full`), or None."""
        return self._nth("JOIN" if full else "LEFT JOIN", 0)

    def previous(self) -> Commit | None:
        """Return the full commit before `last(full=True)`, or None."""
        return self._nth("JOIN", 1)

    def commits(self) -> list[Commit]:
        """Return every commit, oldest first, without states and blobs."""
        return [
            Commit(number=n, kind=k)
            for n, k in self._all("SELECT number, kind FROM commits ORDER BY number")
        ]

    def pins(self) -> dict[str, str]:
        """Return the digests that are pinned now, by name."""
        rows = self._all("SELECT name, digest FROM pins ORDER BY number")
        return {name: digest for name, digest in dict(rows).items() if digest is not None}

    def outcomes(self) -> Iterator[Outcome]:
        """Yield the outcomes in the order in which they were committed."""
        return self._guard(queries.outcomes(self._connection))

    def meter(
        self,
        *,
        phase: str | None = None,
        round: int | None = None,
        branch: int | None = None,
        client: int | None = None,
        kind: str | None = None,
    ) -> Iterator[MeterRow]:
        """Yield the meter's rows that match, in the order in which they were committed."""
        rows = queries.meter(
            self._connection, phase=phase, round=round, branch=branch, client=client, kind=kind
        )
        return self._guard(rows)

    def curves(self, phase: str | None = None) -> Iterator[Point]:
        """Yield the points of the learning curves in the order in which they were committed."""
        return self._guard(queries.curves(self._connection, phase))

    def events(self, kind: str | None = None) -> Iterator[tuple[str, Any, float]]:
        """Yield `(kind, data, unix time)` of events and notes, oldest first."""
        return self._guard(queries.events(self._connection, kind))

    def standing(self) -> tuple[float | None, int]:
        """Return the search's best score (higher is better; None without one) and its outcomes."""
        with guarded(self.directory, self._path):
            return queries.standing(self._connection)

    def cost(self, phase: str | None = None, *, branch: int | None = None) -> dict[str, float]:
        """Return the sums of the meter's additive columns, refused work included."""
        with guarded(self.directory, self._path):
            return queries.cost(self._connection, phase=phase, branch=branch)

    def parallel_seconds(self, phase: str) -> float:
        """Return the virtual wall-clock of a phase whose clients all run beside each other."""
        with guarded(self.directory, self._path):
            return queries.parallel_seconds(self._connection, phase)

    def cost_per_client(self, phase: str | None = None) -> dict[int, dict[str, float]]:
        """Return the sums for every client that worked."""
        rows = self._guard(queries.cost_per(self._connection, "client", phase=phase))
        return {client: sums for (client,), sums in rows}

    def cost_per_round(self, phase: str | None = None) -> dict[tuple[str, int], dict[str, float]]:
        """Return the sums for every `(phase, round)`."""
        rows = self._guard(queries.cost_per(self._connection, "phase, round", phase=phase))
        return {(name, turn): sums for (name, turn), sums in rows}

    def digest(self) -> str:
        """Return the run's identity: equal for a resumed and an uninterrupted run.

        See `journal.identity` for what it leaves out. It covers the tensors of the last full
        commit: end a run with one.
        """
        with guarded(self.directory, self._path):
            return identity(self._connection)

    # -- inside --------------------------------------------------------------------------------

    @property
    def _path(self) -> Path:
        return self.directory / DATABASE

    @property
    def _connection(self) -> sqlite3.Connection:
        self._writer.wait()
        return self._database

    @property
    def _blobs(self) -> Blobs:
        self._writer.wait()
        return self._files

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything inside is written, or nothing."""
        if self._lock is None:
            raise self._read_only()
        with guarded(self.directory, self._path):
            self._check_there()
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
                self._check_there()  # what was removed meanwhile was written to nowhere
            except BaseException:
                if self._connection.in_transaction:  # SQLite has rolled back where the disk failed
                    self._connection.execute("ROLLBACK")
                raise

    def _read_only(self) -> JournalError:
        where, fix = str(self.directory), "open with write=True"
        return JournalError("opened for reading only", where=where, fix=fix)

    def _check_there(self) -> None:
        """Refuse to write where nobody would find it: a file that is open outlives its name."""
        if self._salvaged or _place(self._path) == self._place:
            return
        home = self.directory
        raise JournalError(
            f"{DATABASE} was removed, renamed or replaced while the run was going on"
            if home.is_dir()
            else "the run's directory was removed or renamed while the run was going on",
            where=str(self._path if home.is_dir() else home),
            fix=f"put it back, then `archipelago resume {home}`; without it, start the run again",
        )

    def _guard(self, rows: Iterator[_Row]) -> Iterator[_Row]:
        with guarded(self.directory, self._path):
            yield from rows

    def _all(self, query: str) -> Sequence[Any]:
        with guarded(self.directory, self._path):
            return self._connection.execute(query).fetchall()

    def _nth(self, join: str, skip: int) -> Commit | None:
        query = (
            f"SELECT commits.number, kind, state FROM commits {join} states USING (number) "  # noqa: S608
            f"ORDER BY commits.number DESC LIMIT 1 OFFSET {skip}"
        )
        rows = self._all(query)
        if not rows:
            return None
        number, kind, state = rows[0]
        blobs = self._all(f"SELECT name, digest FROM commit_blobs WHERE number = {number}")  # noqa: S608
        return Commit(
            number=number,
            kind=kind,
            state=None if state is None else json.loads(zlib.decompress(state)),
            blobs=dict(blobs),
        )

    def _check_stored(self, digests: Iterable[str]) -> None:
        for name in digests:
            if not self._blobs.path(name).is_file():
                raise JournalError(
                    "a commit names a blob that was never put, or was collected",
                    got=name,
                    where=str(self.directory),
                )


def _born(directory: Path, meta: Mapping[str, Any]) -> None:
    """Make the database; where it cannot be made, no run is there to go on with."""
    try:
        with guarded(directory, directory):
            build(directory, meta)
    except JournalError as error:
        raise JournalError(
            f"no run was begun: {error.what.removesuffix('; nothing committed so far is lost')}",
            where=str(directory),
            fix="make room on this disk or choose another, then give the same command again",
        ) from error


def _place(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another of the same name; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _places(run: sqlite3.Connection) -> dict[str, int]:
    """Return the last row of every table of a commit's that has row numbers."""
    query = "SELECT coalesce(max(rowid), 0) FROM {}"
    return {
        table: run.execute(query.format(table)).fetchone()[0] for table in SEALED if table != "pins"
    }


def _added(run: sqlite3.Connection, number: int, places: Mapping[str, int]) -> Iterator[list[Any]]:
    """Yield a commit's rows as they will be read, table by table."""
    for table, query in SEALED.items():
        select, order = query.split(" ORDER BY ")
        of, value = ("rowid > ?", places[table]) if table in places else ("number = ?", number)
        yield run.execute(f"{select} WHERE {of} ORDER BY {order}", (value,)).fetchall()
