"""The files of the disk log: an SQLite database, and beside it the mapped head that every process can compare.

Implementation notes.
    Two connections: one for reads of the tail, which never wait for a writer (WAL), so that
    they may be done on an event loop; one for transactions, under a lock of its own.
    The head is two unsigned 64-bit words. [0] is raised inside a writer's transaction, *before*
    its commit; readers compare it for inequality and believe only rows. So a writer that dies
    in between leaves a head that is ahead, which costs looks into the table until the next
    transaction sets it right. [1] is a position that certainly was committed: a table that has
    less has lost rows (a deleted WAL, an older copy), and a new epoch begins.
    A word is 24 bits of the epoch and 40 of the position: another epoch at the same position differs.
    The head file's lock (flock) is held shared by writers and exclusively by whoever makes the
    database or moves a broken one aside; so nobody commits into a database that was moved.
    Whether it was is seen by the inode, before every use.
    Nothing of SQLite may cross a fork: its own table of locks would tell the child that it
    holds what only the parent holds. So a fork waits for both locks and closes both connections.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import sqlite3
import threading
import time
import weakref
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from .log import LogUnavailable

T = TypeVar("T")

POSITION_BITS = 40
MAX_POSITION = (1 << POSITION_BITS) - 1
SCHEMA_VERSION = 2
SCHEMA = """
CREATE TABLE head (one INTEGER PRIMARY KEY CHECK (one = 1), epoch TEXT, boot TEXT, carried INTEGER, floor INTEGER, folded INTEGER);
CREATE TABLE records (position INTEGER PRIMARY KEY, body BLOB);
CREATE TABLE stamps (
    kind TEXT, region BLOB, target BLOB, soft INTEGER, position INTEGER,
    PRIMARY KEY (kind, region, target, soft)
) WITHOUT ROWID;
CREATE TABLE members (name TEXT PRIMARY KEY, epoch TEXT, applied INTEGER, began REAL, ends REAL, digest TEXT);
CREATE TABLE leases (name BLOB PRIMARY KEY, token TEXT, began REAL, ends REAL);
CREATE TABLE lives (life TEXT PRIMARY KEY, position INTEGER);
"""
"""Times are seconds of the boot clock. What began in the future was written before the machine restarted."""
_BROKEN = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def boot_id() -> str:
    """Return the id of this run of the machine; "" where the system does not tell."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


@lru_cache(maxsize=4)
def _word_of(epoch: str) -> int:
    return (int.from_bytes(epoch.encode(), "big") % 0xFFFFFD + 1) << POSITION_BITS


def word_of(epoch: str, position: int) -> int:
    """Return the head word of a place in the log."""
    return _word_of(epoch) + position


def _is_broken(exc: sqlite3.Error) -> bool:
    # The statements fit the tables of this version, or these are not its tables.
    misfit = str(exc).startswith(("no such table", "no such column")) or " columns but " in str(exc)
    return misfit or getattr(exc, "sqlite_errorcode", 0) & 0xFF in _BROKEN


class DiskFiles:
    """The database and the mapped head of one directory. Thread-safe; a fork closes it and each side opens anew.

    Nothing is opened before it is used.

    Args:
        directory: where the files are; made if it is not there. On a file system of this host.
        timeout: seconds to wait for other writers before `LogUnavailable`.

    Attributes:
        heads: the mapped head; the object changes when the file was replaced, and then the old one never
            again equals what was read from it.
    """

    def __init__(self, directory: str | os.PathLike[str], timeout: float) -> None:
        self.directory = Path(directory)
        self.path = self.directory / "tiercast-log.db"
        self._name = str(self.path)
        self.head_path = self.directory / "tiercast-log.head"
        self.timeout = timeout
        self.boot = boot_id()
        self.view = memoryview(array("Q", (0, 0)))
        self.heads: Sequence[int] = self.view
        self.moved_aside = 0
        self._head_inode = -1
        self._head_fd = -1
        self._inode = -1
        self._reader: sqlite3.Connection | None = None
        self._writer: sqlite3.Connection | None = None
        self._pid = os.getpid()
        self._make_locks()
        _open_files.add(self)

    def _make_locks(self) -> None:
        self._read_lock = threading.Lock()
        self._write_lock = threading.Lock()

    # -- using ----------------------------------------------------------------------------------

    def peek(self, work: Callable[[sqlite3.Connection], T | None]) -> T | None:
        """Read without ever waiting for a writer; None where that cannot be done (not open, moved, broken).

        Then `write` has to set things right.
        """
        if not self._read_lock.acquire(timeout=0.05):
            return None
        try:
            reader = self._reader
            try:
                if reader is None or self._pid != os.getpid() or self._moved():
                    return None
                reader.execute("BEGIN")
                try:
                    return work(reader)
                finally:
                    reader.execute("COMMIT")
            except (sqlite3.Error, OSError):
                # Not lost: `write`, which the caller turns to, meets the same error and deals with it.
                return None
        finally:
            self._read_lock.release()

    def write(self, work: Callable[[sqlite3.Connection], T], begin: str = "BEGIN IMMEDIATE") -> T:
        """Do some work in a transaction; a broken database is moved aside once.

        Raises:
            LogUnavailable: it cannot be done within the timeout, or at all.
        """
        if not self._write_lock.acquire(timeout=self.timeout):
            raise LogUnavailable(f"another thread has been writing to {self.path} for {self.timeout} s")
        try:
            try:
                return self._transaction(work, begin)
            except sqlite3.DatabaseError as exc:
                if not _is_broken(exc):
                    raise
                self._move_aside()
                return self._transaction(work, begin)
        except (sqlite3.Error, OSError) as exc:
            raise LogUnavailable(f"{self.path}: {exc}") from exc
        finally:
            self._write_lock.release()

    def commit(self, writer: sqlite3.Connection) -> None:
        """Commit; a method of its own so that tests can die right before it."""
        writer.execute("COMMIT")

    def close(self) -> None:
        """Close the database; the map stays, and the next use opens anew."""
        with self._write_lock, self._read_lock:
            self._close()

    # -- the two locks are handled above; below, the write lock is held -----------------------------

    def _transaction(self, work: Callable[[sqlite3.Connection], T], begin: str) -> T:
        for _ in range(3):
            if self._writer is None or self._pid != os.getpid():
                self._open()
            writer = self._writer
            self._lock_head(fcntl.LOCK_SH)
            try:
                if writer is not None and not self._moved():
                    return self._run(writer, work, begin)
            finally:
                fcntl.flock(self._head_fd, fcntl.LOCK_UN)
            self._close_writer()
        raise LogUnavailable(f"{self.path} is being replaced again and again")

    def _run(self, writer: sqlite3.Connection, work: Callable[[sqlite3.Connection], T], begin: str) -> T:
        writer.execute(begin)
        try:
            answer = work(writer)
            self.commit(writer)
        except BaseException:
            with suppress(sqlite3.Error):
                writer.execute("ROLLBACK")
            if writer.in_transaction:
                self._close_writer()
            raise
        return answer

    def _moved(self) -> bool:
        try:
            return os.stat(self._name).st_ino != self._inode  # noqa: PTH116  half the time of Path.stat, on each append
        except FileNotFoundError:
            return True

    def _lock_head(self, how: int) -> None:
        deadline = None
        while True:
            try:
                return fcntl.flock(self._head_fd, how | fcntl.LOCK_NB)
            except BlockingIOError:
                now = time.monotonic()
                deadline = deadline or now + self.timeout
                if now > deadline:
                    raise LogUnavailable(f"{self.head_path} has been locked for {self.timeout} s") from None
                time.sleep(0.002)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._lock_head(fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._head_fd, fcntl.LOCK_UN)

    def _open(self) -> None:
        with self._read_lock:
            if self._pid != os.getpid():
                # Forked by something that told nobody: what the parent opened must not even be closed here.
                _leaked.extend((self._reader, self._writer))
                self._reader = self._writer = None
                self._pid = os.getpid()
            self._close()
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._map_head()
            with self._alone():
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
                self._inode = self.path.stat().st_ino
                try:
                    self._writer = self._connect(self.timeout)
                    self._prepare(self._writer)
                    self._reader = self._connect(0.05)
                except BaseException:
                    self._close_connections()
                    raise

    def _map_head(self) -> None:
        self._head_fd = os.open(self.head_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        status = os.fstat(self._head_fd)
        if status.st_size < 16:
            # Written, not only made longer: a hole that cannot be filled later kills the process that stores into it.
            os.pwrite(self._head_fd, bytes(16 - status.st_size), status.st_size)
        if status.st_ino == self._head_inode:
            return
        old = self.view
        self._head_inode = status.st_ino
        self.view = memoryview(mmap.mmap(self._head_fd, 16)).cast("Q")
        self.heads = self.view
        # Whoever still maps the old file has to notice.
        old[0] = old[0] ^ (1 << POSITION_BITS - 1)

    def head_file_moved(self) -> bool:
        """Whether the head file is no longer the one that is mapped."""
        try:
            return self.head_path.stat().st_ino != self._head_inode
        except OSError:
            return True

    def reopen(self) -> None:
        """Close, so that the next use opens whatever files are there by then."""
        self.close()

    def _connect(self, timeout: float) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=timeout, isolation_level=None, check_same_thread=False)

    def _prepare(self, writer: sqlite3.Connection) -> None:
        version = writer.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, SCHEMA_VERSION):
            raise LogUnavailable(f"{self.path} is of version {version}, this tiercast writes {SCHEMA_VERSION}")
        writer.execute("PRAGMA journal_mode = WAL")
        # A power cut may take back commits; the boot id in the epoch makes that harmless. Without one, none may go.
        writer.execute(f"PRAGMA synchronous = {'NORMAL' if self.boot else 'FULL'}")
        writer.execute("PRAGMA journal_size_limit = 16777216")
        if version == 0:
            # Others wait for the exclusive lock of the head file; one that died half-way left no version.
            writer.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")

    def _move_aside(self) -> None:
        """Put a broken database out of the way, unless somebody else did; what was in it is a new epoch's business."""
        with self._read_lock:
            if self._head_fd < 0:
                self._map_head()
            with self._alone():
                if not self._moved():
                    for suffix in ("", "-wal", "-shm"):
                        with suppress(FileNotFoundError):
                            Path(f"{self.path}{suffix}").replace(f"{self.path}.broken{suffix}")
                    self.moved_aside += 1
            # Closed after it was renamed: SQLite sees that, and leaves the new files of those names alone.
            self._close()

    def __del__(self) -> None:
        # Nobody else holds it, so the locks are not needed; a process that only forgot it leaks nothing.
        if self._pid == os.getpid():
            self._close()

    def _close(self) -> None:
        self._close_connections()
        if self._head_fd >= 0:
            os.close(self._head_fd)
            self._head_fd = -1

    def _close_connections(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            with suppress(sqlite3.Error):
                reader.close()
        self._close_writer()

    def _close_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            with suppress(sqlite3.Error):
                writer.close()

    # -- forks --------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Wait until no thread is inside SQLite, and close it; the locks stay taken across the fork."""
        self._write_lock.acquire()
        self._read_lock.acquire()
        self._close()

    def after_fork_in_parent(self) -> None:
        """Let the other threads go on."""
        self._read_lock.release()
        self._write_lock.release()

    def after_fork_in_child(self) -> None:
        """Begin with locks that no thread of the parent can hold."""
        self._pid = os.getpid()
        self._make_locks()


_open_files: weakref.WeakSet[DiskFiles] = weakref.WeakSet()
_across: list[DiskFiles] = []
_leaked: list[sqlite3.Connection | None] = []


def _before_fork() -> None:
    _across.extend(_open_files)
    for files in _across:
        files.before_fork()


def _after_fork(step: Callable[[DiskFiles], None]) -> None:
    files = list(_across)
    _across.clear()
    for each in files:
        step(each)


os.register_at_fork(
    before=_before_fork,
    after_in_parent=lambda: _after_fork(DiskFiles.after_fork_in_parent),
    after_in_child=lambda: _after_fork(DiskFiles.after_fork_in_child),
)
