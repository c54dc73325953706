"""The disk log: the log of all processes of a host, without a server.

Implementation notes.
    Positions come from rows only: `max(position)` of the records, under the write lock. The
    epoch stands in the `head` row with the machine's boot id, because a power cut may take
    commits back; where the row is missing, of another boot, or behind what was certainly
    committed or applied, the next transaction begins a new epoch.
    `Tail.word` is the head word of the rows that were read, never the head that was seen:
    whoever read while a writer was about to commit goes on seeing that the head has moved.
    Records alone are written by an append; their stamps are folded into the table of stamps by
    heartbeats, and a snapshot folds what is left.
    See `disk_files.py` for the files.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

from ..clock import Clock, SystemClock
from ..plans import Blocking, Plan
from .disk_files import MAX_POSITION, DiskFiles, word_of
from .log import Appended, Beat, Head, LogUnavailable, Member, Pulse, Snapshot, Tail, Write
from .memory_log import FORGET_AFTER, StampName, stamp_names, stamp_record
from .records import Draft, Kind, decode_logged, encode_draft, placed, stamp

T = TypeVar("T")

MOST_READ_BACK = 10_000
"""Records that a tail brings at most; who is further behind begins anew from a snapshot."""
_FOLD_AT_BEAT = 256
_FOLD_AT_APPEND = 1024
"""Records after which whoever beats, or where nobody does, whoever appends, folds and trims."""
_KEYS = b'{"kind":"key",'
"""How `encode_draft` begins a key record."""
_STATE = "SELECT epoch, boot, carried, floor, folded, (SELECT max(position) FROM records) FROM head WHERE one = 1"
_RECORDS = "SELECT position, body FROM records WHERE position > ? ORDER BY position"
_STAMP = (
    "INSERT INTO stamps VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT (kind, region, target, soft) DO UPDATE SET position = excluded.position"
)
_LEASE = (
    "INSERT INTO leases VALUES (:name, :token, :now, :now + :ttl)"
    " ON CONFLICT (name) DO UPDATE SET token = :token, began = :now, ends = :now + :ttl"
    " WHERE token = :token OR NOT :now BETWEEN began AND ends"
)


def boot_time() -> float:
    """Return seconds since the machine started, the same in all its processes; it runs on while the machine sleeps."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.clock_gettime(clock) if clock is not None else time.monotonic()


class _State(NamedTuple):
    epoch: str
    carried: int
    floor: int
    folded: int
    position: int
    word: int


def _raw(text: str) -> bytes:
    """Any str as SQLite keeps it: lone surrogates are no valid TEXT."""
    return text.encode("utf-8", "surrogatepass")


class DiskLog:
    """The log of one host. Thread-safe, loop-safe and fork-safe; nothing is opened before it is used.

    Args:
        directory: where the files are (mode 0600), on a file system of this host.
        retention: how many records can be read back.
        stamps: how many stamps are kept; the oldest beyond become the floor.
        carries: whether some process carries key records to an L3; otherwise all count as carried. What has
            not been carried is not trimmed.
        timeout: seconds to wait for other writers.
        clock: where the wall time comes from. leases: seconds by a clock that all processes of the host share.

    Attributes:
        heads: `heads[0]` is the mapped head, compared with `Tail.word` for inequality. Take the attribute
            anew after it has been found unequal: another object stands there when the file was replaced.
    """

    kind = "disk"
    atomic_writes = False

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        retention: int = 100_000,
        stamps: int = 1_000_000,
        carries: bool = False,
        timeout: float = 2.0,
        clock: Clock | None = None,
        leases: Callable[[], float] = boot_time,
    ) -> None:
        self.files = DiskFiles(directory, timeout)
        self.retention = max(1, retention)
        self.stamp_bound = stamps
        self.carries = carries
        self.clock = clock or SystemClock()
        self._now = leases

    @property
    def heads(self) -> Sequence[int]:
        """The mapped head."""
        return self.files.heads

    def head_word(self) -> int:
        """Return the mapped head: one look into memory."""
        return self.heads[0]

    # -- the log's operations ----------------------------------------------------------------------

    def append(self, drafts: Sequence[Draft], since: tuple[str, int], writes: Sequence[Write] = ()) -> Plan[Appended]:
        """Append records; see `Log.append`. Writes are not done here.

        Raises:
            ValueError: a draft cannot be, or is too long (see `records.split`).
            LogUnavailable: the files cannot be used now.
        """
        bodies = [encode_draft(draft) for draft in drafts]
        raised = False

        def work(database: sqlite3.Connection) -> Appended:
            nonlocal raised
            state = self._settled(database, since)
            epoch, position = state.epoch, state.position
            for body in bodies:
                position += 1
                database.execute("INSERT INTO records VALUES (?, ?)", (position, stamp(body, epoch, position)))
            word = self.files.view[0] = state.word + len(bodies)
            raised = True
            if position - state.folded >= _FOLD_AT_APPEND:
                self._fold(database, state)
            if since == (epoch, state.position):
                head = self._head(state, position)
                return Appended(position, Tail(head, placed(drafts, epoch, state.position), word))
            return Appended(position, self._tail(database, state._replace(position=position, word=word), since))

        try:
            appended: Appended = yield Blocking(self.files.write, work)
        except LogUnavailable:
            if raised:  # on a full disk nobody else's transaction would come to set the head right
                with suppress(LogUnavailable):
                    yield from self._transaction(lambda database: self._settled(database, None))
            raise
        return appended

    def read(self, since: tuple[str, int]) -> Plan[Tail]:
        """Read what came after a position; done in place, as it never waits for a writer."""

        def look(database: sqlite3.Connection) -> Tail | None:
            state = self._sound(database, since)
            return None if state is None else self._tail(database, state, since)

        tail = self.files.peek(look)
        if tail is None:
            tail = yield from self._transaction(lambda database: self._tail_settled(database, since))
        return tail

    def snapshot(self) -> Plan[Snapshot]:
        """Read the head and every stamp in one transaction."""
        yield from self._transaction(lambda database: self._settled(database, None))

        def look(database: sqlite3.Connection) -> tuple[_State, list[Any], list[Any]] | None:
            state = self._sound(database, None)
            if state is None:
                return None
            stamps = database.execute("SELECT kind, region, target, soft, position FROM stamps ORDER BY position")
            return state, stamps.fetchall(), database.execute(_RECORDS, (state.folded,)).fetchall()

        found = yield Blocking(self.files.write, look, "BEGIN")
        if found is None:  # replaced in between
            return (yield from self.snapshot())
        state, rows, unfolded = found
        stamps = dict(_read_stamp(*row) for row in rows)
        for position, body in unfolded:
            stamps.update(dict.fromkeys(stamp_names(decode_logged(body, state.epoch, position)), position))
        records = tuple(stamp_record(name, state.epoch, position) for name, position in stamps.items())
        return Snapshot(self._head(state, state.position), records, state.floor, state.word)

    def beat(self, beat: Beat) -> Plan[Pulse]:
        """Register or renew a member, set the mapped head right, and read the tail."""
        if self.files.head_file_moved():
            yield Blocking(self.files.reopen)

        def work(database: sqlite3.Connection) -> Pulse:
            state = self._settled(database, (beat.epoch, beat.applied))
            if state.position - state.folded >= _FOLD_AT_BEAT:
                self._fold(database, state)
            tail = self._tail(database, state, (beat.epoch, beat.applied))
            now = self._now()
            row = (beat.member, beat.epoch, beat.applied, now, now + beat.lease, beat.digest)
            database.execute("REPLACE INTO members VALUES (?, ?, ?, ?, ?, ?)", row)
            database.execute("DELETE FROM members WHERE ends < ? OR began > ?", (now - FORGET_AFTER, now))
            return Pulse(tail, self._listed(database))

        return (yield from self._transaction(work))

    def leave(self, member: str) -> Plan[None]:
        """Forget a member that closes."""
        yield from self._transaction(lambda database: database.execute("DELETE FROM members WHERE name = ?", (member,)))

    def members(self) -> Plan[tuple[Member, ...]]:
        """All members, lapsed ones included until they are forgotten."""
        members = self.files.peek(self._listed)
        return members if members is not None else (yield from self._transaction(self._listed))

    def carry(self, epoch: str, position: int) -> Plan[None]:
        """Publish up to where key records have been carried to L3; it never goes back."""
        statement = "UPDATE head SET carried = max(carried, ?) WHERE epoch = ?"
        yield from self._transaction(lambda database: database.execute(statement, (position, epoch)))

    def first_seen(self, epoch: str, lives: Sequence[str]) -> Plan[int | None]:
        """See `Log.first_seen`."""

        def work(database: sqlite3.Connection) -> int | None:
            state = self._settled(database, None)
            database.executemany(
                "INSERT OR IGNORE INTO lives VALUES (?, ?)", [(life, state.position) for life in lives]
            )
            seen = dict(database.execute("SELECT life, position FROM lives"))
            return max((seen[life] for life in lives), default=0) if state.epoch == epoch else None

        return (yield from self._transaction(work))

    def forget_stamps(self, epoch: str, before: int) -> Plan[int]:
        """Forget the stamps set before a position, on proof that nothing older is left; returns how many."""

        def work(database: sqlite3.Connection) -> int:
            state = self._settled(database, None)
            if state.epoch != epoch:
                return 0
            self._fold(database, state)
            return database.execute("DELETE FROM stamps WHERE position < ?", (before,)).rowcount

        return (yield from self._transaction(work))

    def take(self, name: str, token: str, ttl: float) -> Plan[bool]:
        """Take or renew the lease of a load for `ttl` seconds; False where somebody else holds it."""
        said = {"name": _raw(name), "token": token, "ttl": ttl}
        wanted = True

        def work(database: sqlite3.Connection) -> bool:
            return wanted and database.execute(_LEASE, {**said, "now": self._now()}).rowcount > 0

        try:
            return (yield from self._transaction(work))
        except BaseException:
            wanted = False  # a thread that has yet to do it may come after the one that gives the lease back
            raise

    def holder(self, name: str) -> Plan[str | None]:
        """Answer the token that has a lease; a look, done in place. None where that cannot be seen."""
        statement = "SELECT token FROM leases WHERE name = ? AND ? BETWEEN began AND ends"
        row = (_raw(name), self._now())
        found = self.files.peek(lambda database: database.execute(statement, row).fetchone())
        return None if found is None else str(found[0])
        yield  # a plan

    def give(self, name: str, token: str) -> Plan[bool]:
        """Give a lease back; False where it was not held any more."""
        statement, row = "DELETE FROM leases WHERE name = ? AND token = ?", (_raw(name), token)
        return (yield from self._transaction(lambda database: database.execute(statement, row).rowcount > 0))

    def close(self) -> Plan[None]:
        """Give back the files; the log opens again when used."""
        yield Blocking(self.files.close)

    def check(self) -> None:
        """Audit that positions are dense, no stamp is ahead, and the head is not behind the rows."""

        def look(database: sqlite3.Connection) -> None:
            state = self._settled(database, None)
            first, count = database.execute("SELECT min(position), count(*) FROM records").fetchone()
            if count and (first + count - 1 != state.position):
                raise AssertionError("positions are not dense")
            if (database.execute("SELECT max(position) FROM stamps").fetchone()[0] or 0) > state.position:
                raise AssertionError("a stamp is ahead of the head")
            if self.files.heads[0] != state.word:
                raise AssertionError("a transaction did not set the mapped head right")

        self.files.write(look)

    # -- inside a transaction ------------------------------------------------------------------------

    def _transaction(self, work: Callable[[sqlite3.Connection], T]) -> Plan[T]:
        answer: T = yield Blocking(self.files.write, work)
        return answer

    def _sound(self, database: sqlite3.Connection, since: tuple[str, int] | None) -> _State | None:
        """Read where the log stands; None where a new epoch has to begin."""
        row = database.execute(_STATE).fetchone()
        if row is None or row[1] != self.files.boot or type(row[0]) is not str:
            return None
        epoch, _, carried, floor, folded, position = row
        position = position or 0
        word = word_of(epoch, position)
        lost = word < self.files.view[1] <= word | MAX_POSITION
        if lost or (since is not None and since[1] > position and since[0] == epoch):
            return None
        return _State(epoch, carried, floor, folded, position, word)

    def _settled(self, database: sqlite3.Connection, since: tuple[str, int] | None) -> _State:
        """Read where the log stands in a write transaction, begin a new epoch where need be, and set the head right."""
        state = self._sound(database, since)
        view = self.files.view
        if state is None:
            epoch = secrets.token_hex(8)
            state = _State(epoch, 0, 0, 0, 0, word_of(epoch, 0))
            database.execute("DELETE FROM records")
            database.execute("DELETE FROM stamps")
            database.execute("DELETE FROM lives")
            database.execute("REPLACE INTO head VALUES (1, ?, ?, 0, 0, 0)", (state.epoch, self.files.boot))
        else:
            # What stands in the table when a transaction begins was committed for certain.
            view[1] = state.word
        view[0] = state.word
        return state

    def _tail_settled(self, database: sqlite3.Connection, since: tuple[str, int]) -> Tail:
        return self._tail(database, self._settled(database, since), since)

    def _tail(self, database: sqlite3.Connection, state: _State, since: tuple[str, int]) -> Tail:
        head, word = self._head(state, state.position), state.word
        missing = state.position - since[1]
        if since[0] != state.epoch or not 0 <= missing <= MOST_READ_BACK:
            return Tail(head, None, word)
        rows = database.execute(_RECORDS, (since[1],)) if missing else ()
        records = tuple(decode_logged(body, state.epoch, position) for position, body in rows)
        dense = len(records) == missing and (not records or records[0].position == since[1] + 1)
        return Tail(head, records if dense else None, word)

    def _head(self, state: _State, position: int) -> Head:
        carried = min(state.carried, position) if self.carries else position
        return Head(state.epoch, position, carried, self.clock.wall())

    def _fold(self, database: sqlite3.Connection, state: _State) -> None:
        """Move the stamps of records into their table, and trim what is over the bounds."""
        folded = state.folded
        for position, body in database.execute(_RECORDS, (state.folded,)).fetchall():
            folded = position
            if body.startswith(stamp(_KEYS, state.epoch, position)):
                continue  # key records set no stamps, and most are such: to decode them costs as much as to append them
            for kind, region, target, soft in stamp_names(decode_logged(body, state.epoch, position)):
                database.execute(_STAMP, (kind.value, _raw(region), _raw(target), soft, position))
        floor = state.floor
        surplus = database.execute("SELECT count(*) FROM stamps").fetchone()[0] - self.stamp_bound
        if surplus > 0:
            oldest = database.execute("SELECT position FROM stamps ORDER BY position LIMIT 1 OFFSET ?", (surplus - 1,))
            floor = max(floor, oldest.fetchone()[0])
            database.execute("DELETE FROM stamps WHERE position <= ?", (floor,))
        database.execute("UPDATE head SET floor = ?, folded = ?", (floor, folded))
        last = state.position - self.retention
        database.execute(
            "DELETE FROM records WHERE position <= ?", (min(last, state.carried) if self.carries else last,)
        )
        database.execute("DELETE FROM leases WHERE NOT ? BETWEEN began AND ends", (self._now(),))

    def _listed(self, database: sqlite3.Connection) -> tuple[Member, ...]:
        now = self._now()
        rows = database.execute("SELECT name, epoch, applied, ends, digest FROM members")
        return tuple(Member(name, epoch, applied, now - ends, digest) for name, epoch, applied, ends, digest in rows)


def _read_stamp(kind: str, region: bytes, target: bytes, soft: int, position: int) -> tuple[StampName, int]:
    try:
        texts = region.decode("utf-8", "surrogatepass"), target.decode("utf-8", "surrogatepass")
        return (Kind(kind), *texts, bool(soft)), position
    except (ValueError, AttributeError):
        # Nothing that this version wrote: "everything" covers it.
        return (Kind.ALL, "", "", False), position
