"""One directory's diskcache as this process uses it: bytes only, safe across forks, off while it fails."""

from __future__ import annotations

import logging
import os
import re
import shutil
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import diskcache
from diskcache.core import DBNAME, DEFAULT_SETTINGS, MODE_BINARY, MODE_RAW

from ..clock import Clock
from ..connections.breaker import Breaker
from ..databases import Database
from ..errors import ConfigError
from ..monitoring.counter import Counter
from .disk_bytes import FILENAME, TIMEOUT, BytesCache
from .disk_directory import check_directory, make_directory

logger = logging.getLogger("tiercast.tiers")

T = TypeVar("T")

RESET = 1.0
"""Seconds after which a disk that failed is tried again; doubled up to four times that."""
CHUNK = 500
"""Keys of one SELECT: below SQLite's limit of 999 variables."""
SETTINGS: dict[str, Any] = {
    **DEFAULT_SETTINGS,
    "eviction_policy": "least-recently-stored",  # anything that notes reads makes a read a transaction
    "statistics": 0,  # as above
    "sqlite_mmap_size": 0,  # a file cut short by somebody else would be a SIGBUS, not an error
    "sqlite_cache_size": 2**11,  # pages of 4 KiB, for each thread that reads
}
"""All of diskcache's settings, so that none is taken from the file."""

READ_ONE = (
    "SELECT p.epoch, p.position, c.key, c.mode, c.filename, c.value FROM TiercastPosition p"
    " LEFT JOIN Cache c ON c.key = ? AND c.raw = 1 WHERE p.id = 1"
)
HEAD = 20
"""The bytes of an envelope that say what it is and when it was born."""
READ_HEAD = (
    "SELECT p.epoch, p.position, c.key, c.mode, c.filename, substr(c.value, 1, 20) FROM TiercastPosition p"
    " LEFT JOIN Cache c ON c.key = ? AND c.raw = 1 WHERE p.id = 1"
)
READ_SOME = "SELECT key, mode, filename, value FROM Cache WHERE raw = 1 AND key IN ({})"
SCAN = "SELECT rowid, key, mode, filename, value FROM Cache WHERE rowid > ? ORDER BY rowid LIMIT ?"
POSITION = "SELECT epoch, position FROM TiercastPosition WHERE id = 1"
SET_POSITION = "UPDATE TiercastPosition SET epoch = ?, position = ? WHERE id = 1"


class StoreFailed(Exception):  # noqa: N818  internal
    """The disk could not do it; counted, logged once, and to be reported as a failed operation."""


class Row(NamedTuple):
    """One row as it lies there. `value` is None where the bytes are in a file."""

    key: str
    mode: int
    filename: str | None
    value: Any


class DiskStore:
    """One directory's cache, shared by every tier of this process that names the directory.

    Implementation notes.
        *Position.* The tier's (epoch, position) is a row of a table of its own in the same
        database, which no eviction touches; a read takes it in the same statement as the row.
        *Failure.* Anything that SQLite or the file system raises turns `ready` off, warns once
        and opens the breaker; a probe that can write turns it on again. A file that is no
        database any more is set aside (one copy is kept) by the first process that notices.
        *Forks.* See `databases`.

    Args:
        directory: the directory, absolute.
        size_limit: bytes; the oldest entries go when database and files exceed it.
        clock: for the breaker.
    """

    def __init__(self, directory: str, size_limit: int, clock: Clock) -> None:
        self.directory = directory
        self.size_limit = size_limit
        self.ready = False
        """Whether reads may go straight to the database."""
        self.failures = Counter()
        self.database = Database(str(Path(directory, DBNAME)), _prepare, TIMEOUT, self._forked)
        self.cache: Any = None
        self._breaker = Breaker(1, RESET, clock, f"the disk cache in {directory}")
        self._opening = threading.Lock()
        self._corrupt = False
        self._inode = 0

    # -- opening ----------------------------------------------------------------------------

    def may_open(self) -> bool:
        """Whether it is time to try; costs no I/O."""
        return self._breaker.admit()

    def open(self) -> bool:
        """Open, or try again what failed, with a transaction that writes. May wait; never raises for I/O."""
        with self._opening:
            if self.ready:
                return True
            try:
                if self._corrupt:
                    self._set_aside()
                make_directory(self.directory)
                self._open_cache()
            except (sqlite3.Error, OSError, ConfigError, diskcache.Timeout) as exc:
                self.failed(exc)
                return False
            self._breaker.succeeded()
            self.ready = True
            return True

    def close(self) -> None:
        """Close every connection; they open again when used."""
        with self._opening:
            self.ready = False
        self.database.close()

    def failed(self, exc: BaseException) -> None:
        """Note that the disk failed: counted, warned of once, and left alone for a while. Call without a seat."""
        self.ready = False
        seat = self.database.seat()
        with seat.lock:  # it may be stuck in a transaction that could not even be rolled back
            seat.close()
        self.database.renew()  # connections of other threads may be on a file that is no longer the directory's
        self.failures.add()
        code = getattr(exc, "sqlite_errorcode", 0) or 0
        # A file that was cut to nothing is an empty database to SQLite; what this process has open keeps it from being laid out.
        if code & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB} or str(exc).startswith("no such table"):
            self._corrupt = True
        reason = exc if exc.__context__ is None or not isinstance(exc, diskcache.Timeout) else exc.__context__
        self._breaker.failed(reason)

    # -- using ------------------------------------------------------------------------------

    def read_one(self, key: str) -> tuple[str, int, str | None, Any, Any, Any]:
        """Read the position and one row in one statement, inline: (epoch, position, key or None, mode, filename, value).

        Raises:
            StoreFailed: the disk failed.
        """
        database = self.database
        seat = database.seat()
        try:
            with seat.lock:
                row: tuple[str, int, str | None, Any, Any, Any] = (
                    database.open(seat).execute(READ_ONE, (key,)).fetchone()
                )
            if row is not None:
                return row
            raise sqlite3.OperationalError("the position's row is gone")
        except (sqlite3.Error, OSError) as exc:
            self.failed(exc)
            raise StoreFailed(str(exc)) from exc

    def read(self, keys: Sequence[str]) -> tuple[tuple[str, int], list[Row]]:
        """Read the position and then rows, inline: microseconds a row, and no lock that a writer holds.

        Raises:
            StoreFailed: the disk failed.
        """
        database = self.database
        seat = database.seat()
        try:
            with seat.lock:
                execute = database.open(seat).execute
                pair = execute(POSITION).fetchone()
                if pair is None:
                    raise sqlite3.OperationalError("the position's row is gone")
                rows: list[Row] = []
                for start in range(0, len(keys), CHUNK):
                    some = keys[start : start + CHUNK]
                    rows.extend(map(Row._make, execute(READ_SOME.format(",".join("?" * len(some))), some)))
                return pair, rows
        except (sqlite3.Error, OSError) as exc:
            self.failed(exc)
            raise StoreFailed(str(exc)) from exc

    def fetch(self, row: Row) -> bytes | None:
        """Return a row's bytes; None where its file is gone, as it is when another process replaced the row.

        Raises:
            RefusedRow: it is not plain bytes.
        """
        try:
            data: bytes = self.cache.disk.fetch(row.mode, row.filename, row.value, False)
        except OSError:
            return None
        return data

    def transaction(self, work: Callable[[Callable[..., sqlite3.Cursor]], T]) -> T:
        """Run `work` with the database's `execute` in one BEGIN IMMEDIATE transaction. May wait.

        Raises:
            StoreFailed: the disk failed; nothing has changed.
        """
        if not self.ready and not (self.may_open() and self.open()):
            raise StoreFailed("the disk failed a moment ago")
        try:
            with self.database.seat().lock, self.cache._transact() as (execute, _):
                return work(execute)
        except (sqlite3.Error, OSError, diskcache.Timeout) as exc:
            self.failed(exc)
            raise StoreFailed(str(exc)) from exc

    def head(self, row: Row) -> bytes:
        """Return at least the first `HEAD` bytes of a row; b"" where there is nothing of the kind."""
        if row.mode == MODE_BINARY and type(row.filename) is str and FILENAME.fullmatch(row.filename):
            with suppress(OSError), Path(self.directory, row.filename).open("rb") as file:
                return file.read(HEAD)
        return row.value if row.mode == MODE_RAW and type(row.value) is bytes else b""

    def scan(self, cursor: int, count: int) -> list[tuple[int, Row]]:
        """Return up to `count` rows after a cursor, in the order of their numbers. May wait.

        Raises:
            StoreFailed: the disk failed.
        """
        try:
            with self._section() as execute:
                return [(number, Row(*row)) for number, *row in execute(SCAN, (cursor, count))]
        except (sqlite3.Error, OSError) as exc:
            self.failed(exc)
            raise StoreFailed(str(exc)) from exc

    def clear(self, execute: Callable[..., sqlite3.Cursor]) -> list[str]:
        """Delete every row, inside a transaction, and return the files to remove after it.

        diskcache's triggers count each row, which makes a million rows seconds of work under
        the write lock; without them SQLite drops the pages as a whole.
        """
        triggers = execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'Settings\\_%\\_delete' ESCAPE '\\'"
        ).fetchall()
        files = [name for (name,) in execute("SELECT filename FROM Cache WHERE filename IS NOT NULL")]
        for name, _ in triggers:
            quoted = name.replace('"', '""')
            execute(f'DROP TRIGGER "{quoted}"')
        execute("DELETE FROM Cache")
        execute("UPDATE Settings SET value = 0 WHERE key IN ('count', 'size')")
        for _, sql in triggers:
            execute(sql)
        return files

    @contextmanager
    def _section(self) -> Iterator[Callable[..., sqlite3.Cursor]]:
        seat = self.database.seat()
        with seat.lock:
            yield self.database.open(seat).execute

    # -- inside -----------------------------------------------------------------------------

    def _open_cache(self) -> None:
        with self._section() as execute:
            # diskcache waits a minute for a lock while it opens; find out beforehand.
            execute("BEGIN IMMEDIATE")
            execute("ROLLBACK")
            _lay_out(execute)
            # It writes its settings, which proves that the disk takes writes.
            self.cache = BytesCache(self.database, self.directory, **{**SETTINGS, "size_limit": self.size_limit})
            execute("BEGIN IMMEDIATE")
            try:
                execute(
                    "CREATE TABLE IF NOT EXISTS TiercastPosition"
                    " (id INTEGER PRIMARY KEY CHECK (id = 1), epoch TEXT NOT NULL, position INTEGER NOT NULL)"
                )
                execute("INSERT OR IGNORE INTO TiercastPosition VALUES (1, '', 0)")
            except BaseException:
                execute("ROLLBACK")
                raise
            execute("COMMIT")
        self._inode = Path(self.database.path).stat().st_ino

    def _set_aside(self) -> None:
        """Move a file that is no database any more out of the way, unless another process has done so."""
        self.database.close()
        path = Path(self.database.path)
        # The file itself must not be opened: closing it again would give up SQLite's locks on it.
        with Path(self.directory, "recovery.lock").open("wb") as lock:
            _lock_file(lock)
            if path.exists() and self._inode in {0, path.stat().st_ino} and _broken(str(path)):
                path.replace(f"{path}.corrupt")
                for suffix in ("-wal", "-shm"):
                    Path(f"{path}{suffix}").unlink(missing_ok=True)
                for part in Path(self.directory).iterdir():
                    if re.fullmatch("[0-9a-f]{2}", part.name) and part.is_dir() and not part.is_symlink():
                        shutil.rmtree(part, ignore_errors=True)
                logger.warning(
                    "the disk cache was corrupt and begins anew; the old file is kept as %s.corrupt",
                    path,
                    extra={"path": str(path)},
                )
        self._corrupt = False
        self._inode = 0

    def _forked(self) -> None:
        self._opening = threading.Lock()
        self._breaker.forget()
        if self.database.unusable:
            self.ready = False


def _prepare(connection: sqlite3.Connection) -> None:
    for pragma in ("synchronous", "mmap_size", "cache_size"):
        connection.execute(f"PRAGMA {pragma} = {SETTINGS[f'sqlite_{pragma}']}").close()


def _lay_out(execute: Callable[..., sqlite3.Cursor]) -> None:
    """Set, in this order, what only a database without tables takes, and only while nobody else has it open."""
    until = time.monotonic() + TIMEOUT
    for name in ("auto_vacuum", "journal_mode"):
        wanted = SETTINGS[f"sqlite_{name}"]
        while True:
            try:
                if execute(f"PRAGMA {name}").fetchone()[0] != wanted:
                    execute(f"PRAGMA {name} = {wanted}").close()
                break
            except sqlite3.OperationalError as exc:
                if (exc.sqlite_errorcode or 0) & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
                time.sleep(0.001)


def _lock_file(file: IO[bytes]) -> None:
    """Wait until this process alone holds the file; let go by closing it."""
    try:
        import fcntl
    except ImportError:  # Windows: a file that another process has open cannot be renamed there anyway
        return
    fcntl.flock(file, fcntl.LOCK_EX)


def _broken(path: str) -> bool:
    """Whether SQLite itself says that the file is none of its own, or damaged."""
    connection = sqlite3.connect(path, timeout=TIMEOUT)
    try:
        answer = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as exc:
        return bool((exc.sqlite_errorcode or 0) & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
    finally:
        with suppress(sqlite3.Error):
            connection.close()
    return bool(answer != ("ok",))


_stores: weakref.WeakValueDictionary[str, DiskStore] = weakref.WeakValueDictionary()
_sharing = threading.Lock()


def _after_fork() -> None:
    global _sharing  # noqa: PLW0603  a lock that another thread held does not survive a fork
    _sharing = threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_after_fork)


def shared_store(directory: str | os.PathLike[str], size_limit: int, clock: Clock) -> DiskStore:
    """Return this process's one store of a directory. Looks at the directory; opens and makes nothing.

    Raises:
        ConfigError: the directory must not be used, or serves another tier with another size.
    """
    check_directory(directory)
    path = os.path.realpath(directory)
    with _sharing:
        store = _stores.get(path)
        if store is None:
            store = _stores[path] = DiskStore(path, size_limit, clock)
    if store.size_limit != size_limit:
        raise ConfigError(
            f"max_size: {directory} is used with {store.size_limit} bytes already and cannot have {size_limit} as well: "
            "tiers of one directory share its room"
        )
    return store
