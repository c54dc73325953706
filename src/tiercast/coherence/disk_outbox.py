"""The outbox on disk, which the processes of a host share and which survives them.

Implementation notes.
    One of the processes replays at a time: whoever holds the lease, whose end is told by the
    boot clock, which all of them share and nobody can set; after a crash it lapses and a
    sibling goes on.
    A file that is not a database is moved aside under the eyes of siblings that have it
    open; each looks at the inode before it trusts its handle, and once more after it wrote.
    Nothing of SQLite may cross a fork: the child would believe itself in possession of locks
    that only the parent has. So a fork waits until no thread of ours is inside it, and finds
    the file closed.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from .outbox import (
    BATCH,
    EVERYTHING,
    LEASE,
    MOST_BYTES,
    MOST_ROWS,
    SPILLED,
    MemoryOutbox,
    Queued,
    boot_time,
    decoded_draft,
    encoded_drafts,
    register,
)
from .records import Draft, encode_draft

logger = logging.getLogger("tiercast.coherence")

T = TypeVar("T")

PATIENCE: Final = 5.0
"""Seconds to wait for a sibling that is writing."""

_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS waiting (id INTEGER PRIMARY KEY AUTOINCREMENT, draft BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS lease (one INTEGER PRIMARY KEY CHECK (one = 1), boot TEXT, token TEXT, ends REAL)",
)


def boot_id() -> str:
    """Return a name for this life of the machine ("" where the system has none)."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


class DiskOutbox:
    """An outbox in an SQLite file that the processes of this host share.

    Args:
        directory: made where it is missing.
        fleet: the fleet's name; each has a file of its own.
        most, most_bytes: bounds of what waits.
        now: the boot clock, in seconds.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        fleet: str,
        *,
        most: int = MOST_ROWS,
        most_bytes: int = MOST_BYTES,
        now: Callable[[], float] = boot_time,
    ) -> None:
        digest = hashlib.blake2b(fleet.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
        readable = "".join(
            letter for letter in fleet[:60] if letter.isascii() and (letter.isalnum() or letter in "-_.")
        )
        self.path = Path(directory) / f"outbox-1-{readable}-{digest}.sqlite3"
        self._most = most
        self._most_bytes = most_bytes
        self._now = now
        self._boot = boot_id()
        self._database: sqlite3.Connection | None = None
        self._inode = 0
        self._spill = MemoryOutbox(most=most, most_bytes=most_bytes, now=now)
        """What the disk would not take."""
        self._told: dict[str, str] = {}
        """What cannot be done at present, and was logged, with the reason."""
        self._lock = threading.RLock()
        register(self)

    def put(self, drafts: Sequence[Draft]) -> tuple[int, ...]:
        encoded = list(encoded_drafts(drafts))

        def write(database: sqlite3.Connection) -> tuple[int, ...]:
            rows, size = database.execute("SELECT count(*), coalesce(sum(length(draft)), 0) FROM waiting").fetchone()
            added = encoded
            if rows + len(added) > self._most or size + sum(map(len, added)) > self._most_bytes:
                logger.warning(
                    "the outbox is full: it replays as an invalidation of everything", extra={"path": str(self.path)}
                )
                database.execute("DELETE FROM waiting")
                added = [encode_draft(EVERYTHING)]
            return tuple(_insert(database, data) for data in added)

        try:
            return self._tried("written, its records wait in memory", write)
        except (sqlite3.Error, OSError):
            self._spill.put(drafts)
            return ()

    def waiting(self) -> bool:
        if self._spill.waiting():
            return True
        if not self._may_exist():
            return False
        try:
            return bool(self._tried("read", _any, immediate=False))
        except (sqlite3.Error, OSError):
            return True  # not knowing counts as waiting: nothing is proven until it is known

    def claim(self) -> list[Queued]:
        if not self._may_exist():
            return self._spill.claim()
        token = secrets.token_hex(8)

        def take(database: sqlite3.Connection) -> list[tuple[int, Any]] | None:
            now = self._now()
            lease = database.execute("SELECT boot, ends FROM lease WHERE token != ''").fetchone()
            if lease is not None and lease[0] == self._boot and now < lease[1] <= now + LEASE:
                return None
            rows = database.execute("SELECT id, draft FROM waiting ORDER BY id LIMIT ?", (BATCH,)).fetchall()
            if rows:
                database.execute("REPLACE INTO lease VALUES (1, ?, ?, ?)", (self._boot, token, now + LEASE))
            return rows

        try:
            rows = self._tried("claimed", take)
        except (sqlite3.Error, OSError):
            rows = None
        if rows:
            return [Queued(row, decoded_draft(data), token) for row, data in rows]
        return self._spill.claim()

    def done(self, batch: Sequence[Queued]) -> None:
        self._spill.done(batch) if self._spilled(batch) else self._finish(batch, remove=True)

    def release(self, batch: Sequence[Queued]) -> None:
        self._spill.release(batch) if self._spilled(batch) else self._finish(batch, remove=False)

    @property
    def trouble(self) -> str:
        return "; ".join(f"the outbox cannot be {what}: {reason}" for what, reason in list(self._told.items()))

    def close(self) -> None:
        with self._lock:
            if self._database is not None:
                self._database.close()
                self._database = None

    def __del__(self) -> None:
        # Nobody else holds it, so the lock is not needed.
        if self._database is not None:
            self._database.close()

    def before_fork(self) -> None:
        self._lock.acquire()
        self.close()

    def after_fork(self, *, child: bool) -> None:
        """Go on; in the child with a new lock."""
        if child:
            self._lock = threading.RLock()
        else:
            self._lock.release()

    def _may_exist(self) -> bool:
        """Whether this process or a sibling has made the file; also where that cannot be seen."""
        try:
            return self._database is not None or self.path.exists()
        except OSError:  # the directory's permissions were changed
            return True

    def _spilled(self, batch: Sequence[Queued]) -> bool:
        return bool(batch) and batch[0].token.startswith(SPILLED)

    def _finish(self, batch: Sequence[Queued], *, remove: bool) -> None:
        def finish(database: sqlite3.Connection) -> None:
            if remove:
                database.executemany("DELETE FROM waiting WHERE id = ?", [(item.id,) for item in batch])
            if batch:
                database.execute("DELETE FROM lease WHERE token = ?", (batch[0].token,))

        with suppress(sqlite3.Error, OSError):  # they will be replayed once more, which is harmless
            self._tried("tidied", finish)

    def _tried(self, what: str, work: Callable[[sqlite3.Connection], T], *, immediate: bool = True) -> T:
        """Do `work` in a transaction; what cannot be done is logged once, until it can be done again."""
        try:
            done = self._transaction(work, immediate=immediate)
        except (sqlite3.Error, OSError) as exc:
            if what not in self._told:
                self._told[what] = str(exc)
                extra = {"path": str(self.path)}
                logger.error("the outbox cannot be %s: %s", what, exc, extra=extra)  # noqa: TRY400  the reason says it all
            raise
        self._told.pop(what, None)
        return done

    def _transaction(self, work: Callable[[sqlite3.Connection], T], *, immediate: bool = True) -> T:
        """Do `work` in a transaction on the file that lies at the path now; start anew where it is no database."""
        with self._lock:
            for last in (False, False, True):
                try:
                    with self._begun(immediate=immediate) as database:
                        result = work(database)
                except sqlite3.DatabaseError as exc:
                    # Its subclasses mean a lock, a full disk or the like; itself: malformed, or no database.
                    if last or type(exc) is not sqlite3.DatabaseError:
                        raise
                    self._move_aside(exc)
                    continue
                if self._current():
                    return result
            raise OSError(f"{self.path} is being replaced")

    @contextmanager
    def _begun(self, *, immediate: bool) -> Iterator[sqlite3.Connection]:
        database = self._opened()
        _begin(database, "BEGIN IMMEDIATE" if immediate else "BEGIN")
        try:
            yield database
            database.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                database.execute("ROLLBACK")
            raise

    def _opened(self) -> sqlite3.Connection:
        if self._database is not None and self._current():
            return self._database
        self.close()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._inode = self._inode_there()
        database = sqlite3.connect(self.path, timeout=0.01, isolation_level=None, check_same_thread=False)
        try:
            # An outage of Redis may well be a power cut: what `put` took must survive one, hence FULL.
            _begin(database, "PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", *_SCHEMA)
        except BaseException:
            database.close()
            raise
        self._inode = self._inode_there()
        self._database = database
        return database

    def _inode_there(self) -> int:
        try:
            return self.path.stat().st_ino
        except FileNotFoundError:
            return 0

    def _current(self) -> bool:
        return self._inode_there() == self._inode

    def _move_aside(self, reason: Exception) -> None:
        """Put a file that is no database out of the way; what it held is unknown, so "everything" waits instead."""
        corrupt = self._inode
        self.close()
        with _alone(self.path.with_name(self.path.name + ".lock")):
            if not corrupt or self._inode_there() != corrupt:
                return  # a sibling has done it
            aside = self.path.with_name(f"{self.path.name}.corrupt-{secrets.token_hex(4)}")
            for suffix in ("-wal", "-shm", ""):
                with suppress(FileNotFoundError):
                    self.path.with_name(self.path.name + suffix).rename(f"{aside}{suffix}")
            logger.error(
                "the outbox was corrupt (%s) and lies now at %s; everything will be invalidated in its place",
                reason,
                aside,
                extra={"path": str(self.path)},
            )
            with self._begun(immediate=True) as database:
                _insert(database, encode_draft(EVERYTHING))


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock among the processes of this host (where the system has flock)."""
    try:
        import fcntl  # not everywhere
    except ImportError:
        yield
        return
    with path.open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _begin(database: sqlite3.Connection, *statements: str) -> None:
    """Execute statements that may meet a sibling's lock; SQLite's own way of waiting can starve, or not wait at all."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            for statement in statements:
                database.execute(statement)
        except sqlite3.OperationalError as exc:
            if time.monotonic() > deadline or not ("locked" in str(exc) or "busy" in str(exc)):
                raise
            time.sleep(0.001)
        else:
            return


def _insert(database: sqlite3.Connection, data: bytes) -> int:
    return database.execute("INSERT INTO waiting (draft) VALUES (?)", (data,)).lastrowid or 0


def _any(database: sqlite3.Connection) -> bool:
    return bool(database.execute("SELECT EXISTS (SELECT 1 FROM waiting)").fetchone()[0])
