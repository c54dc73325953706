"""The disk tier (L2): envelopes in a diskcache directory that the processes of a host share."""

from __future__ import annotations

import math
import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

from diskcache.core import MODE_RAW

from ..clock import Clock, SystemClock
from ..keys import parse_storage_key, storage_key
from ..monitoring.counter import Counter
from ..plans import Blocking, Plan, done
from .base import Guard, Keeps, Put, Reading
from .disk_bytes import RefusedRow
from .disk_store import POSITION, READ_HEAD, SET_POSITION, Row, StoreFailed, shared_store
from .entry import STALE, TOMBSTONE, Address, Envelope
from .envelope import BORN_AT, FENCE_AT, MAGIC, EnvelopeError, pack, unpack

LATER = 256
"""Entries that wait to be written together; whoever brings another writes them."""
DEFAULT_LIMIT = 1024 * 1024 * 1024
SMALLEST_LIMIT = 1024 * 1024
"""An empty database alone takes some tens of kilobytes."""
ROW = "SELECT key, mode, filename, value FROM Cache WHERE key = ? AND raw = 1"
COUNTS = "SELECT value FROM Settings WHERE key IN ('count', 'size') ORDER BY key"

Execute = Callable[..., sqlite3.Cursor]
KeyRecord = tuple[str, str, str, int] | tuple[str, str, str, int, bool]
"""(region, scope, key, position) of a key record, with `soft` behind it where it only makes stale."""


class DiskSettings(Protocol):
    """What the tier wants of its settings; a `LocalCacheConfig` has it."""

    @property
    def byte_limit(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """How full the disk tier is: entries (expired ones included), and bytes of database and files together."""

    entries: int
    bytes: int


class DiskCounters:
    """What a disk tier counted: rows that were no envelopes, writes refused as behind, values too large."""

    __slots__ = ("behind", "corrupt", "too_large")

    def __init__(self) -> None:
        self.behind = Counter()
        self.corrupt = Counter()
        self.too_large = Counter()


class DiskTier:
    """Envelopes on this host's disk, with a log position of their own. Thread-safe, loop-safe, fork-safe.

    Implementation notes.
        *Order.* Each write is one BEGIN IMMEDIATE transaction that compares the tier's (epoch,
        position), asks the guard and compares `born`. A process that is behind the tier, or of
        another epoch, writes nothing; therefore no tombstones are needed, and `Guard.fence` and
        `Guard.begun` are not looked at.
        *Reads* are done inline, position and rows in one snapshot; whatever may wait is a `Blocking`.
        *Behind.* `put_later` leaves the writing to `flush`, which puts many in one transaction, under the same
        rules at that later moment. For what the remote tier has already: until then it is found there.
        *A new tier* is at no epoch: it takes nothing until `drop` has put it at a position.
        *Expiry* is judged by the envelope's own `keep_until`; diskcache removes the expired, and
        the longest stored where room is short, as it writes.

    Args:
        directory: the directory; made, for this user alone, when first used. Tiers of one process
            that name the same directory share its handles, its room and its position.
        settings: `byte_limit`; None: 1 GiB.
        clock: where the time comes from. keeps: how long an entry is kept; None: to its end.

    Raises:
        ConfigError: the directory must not be used; see `check_directory`.
    """

    name = "disk"

    def __init__(
        self,
        directory: str | os.PathLike[str],
        settings: DiskSettings | None = None,
        clock: Clock | None = None,
        keeps: Keeps | None = None,
    ) -> None:
        limit = settings.byte_limit if settings is not None else None
        self.clock: Clock = clock or SystemClock()
        self._keeps = keeps
        self.counters = DiskCounters()
        self._epoch = ""
        """The epoch in which something was stored last."""
        self._later: dict[Address, tuple[Envelope, Guard]] = {}
        self.store = shared_store(directory, max(SMALLEST_LIMIT, limit or DEFAULT_LIMIT), self.clock)

    # -- reading ----------------------------------------------------------------------------

    def get_many(self, addresses: Sequence[Address], epoch: str) -> Plan[Reading]:
        reading = self.get_now(addresses[0], epoch) if len(addresses) == 1 else None
        return self._get(addresses, epoch) if reading is None else done(reading)

    def get_now(self, address: Address, epoch: str) -> Reading | None:
        """`get_many` of one address without a plan; None where that takes one: it might wait, or is broken."""
        store = self.store
        if not store.ready or address in self._later:
            return None
        try:
            at_epoch, position, key, mode, filename, value = store.read_one(storage_key(*address))
        except StoreFailed:
            return Reading({}, failed=True)
        reading = Reading({}, (at_epoch, position))
        if key is None or at_epoch != epoch:
            return reading
        if filename is not None or mode != MODE_RAW or type(value) is not bytes:
            return None
        try:
            envelope = unpack(value)
        except EnvelopeError:
            return None
        if self._serves(envelope, address, epoch, self.clock.wall()):
            reading.found[address] = envelope
        return reading

    def _get(self, addresses: Sequence[Address], epoch: str) -> Plan[Reading]:
        if not self.store.ready and not (yield from self.prepare()):
            return Reading(failed=True)
        if any(address in self._later for address in addresses):
            yield from self.flush()
        by_key = {storage_key(*address): address for address in addresses}
        try:
            vouched, rows = self.store.read(list(by_key))
        except StoreFailed:
            return Reading(failed=True)
        reading = Reading({}, vouched)
        if vouched[0] != epoch:
            return reading
        now = self.clock.wall()
        broken = []
        for row in rows:
            try:
                envelope = self._read(row) if row.filename is None else (yield Blocking(self._read, row))
                if envelope is None:
                    continue
            except (EnvelopeError, RefusedRow):
                broken.append(row.key)
                continue
            if self._serves(envelope, by_key[row.key], epoch, now):
                reading.found[by_key[row.key]] = envelope
        if broken:
            reading.corrupt = len(broken)
            yield Blocking(self._remove_broken, broken)
        return reading

    def _read(self, row: Row) -> Envelope | None:
        """Return a row's envelope, None where its file is gone; what lies in a file is large, so not on an event loop."""
        data = self.store.fetch(row)
        return None if data is None else unpack(data)

    @staticmethod
    def _serves(envelope: Envelope, address: Address, epoch: str, now: float) -> bool:
        # A hashed name may, in theory, be shared; the envelope knows whose it is.
        return (
            now < envelope.keep_until
            and envelope.epoch == epoch
            and envelope.key == address.key
            and envelope.scope == address.scope
            and not envelope.flags & TOMBSTONE
        )

    def applied(self) -> tuple[str, int]:
        """Return the tier's (epoch, position), read inline; ("", 0) where it has none or cannot be read.

        The first call opens the directory (milliseconds); `prepare` does so off the loop.
        """
        store = self.store
        if not store.ready and not (store.may_open() and store.open()):
            return "", 0
        try:
            return store.read(())[0]
        except StoreFailed:
            return "", 0

    def prepare(self) -> Plan[bool]:
        """Open the directory now, off the loop; False where it cannot be used at present."""
        store = self.store
        return store.ready or bool(store.may_open() and (yield Blocking(store.open)))

    def scan(self, epoch: str, cursor: int = 0, count: int = 500) -> Plan[tuple[int, list[tuple[Address, Envelope]]]]:
        if not (yield from self.prepare()):
            return -1, []
        if cursor == 0:
            yield from self.flush()
        found: tuple[int, list[tuple[Address, Envelope]]] = yield Blocking(self._scan, epoch, cursor, count)
        return found

    def usage(self) -> Plan[DiskUsage | None]:
        """Say how full the tier is; None where it cannot be asked."""
        if not (yield from self.prepare()):
            return None
        usage: DiskUsage | None = yield Blocking(self._usage)
        return usage

    # -- writing ----------------------------------------------------------------------------

    def put_if_newer(self, address: Address, envelope: Envelope, guard: Guard) -> Plan[Put]:
        put: Put = yield Blocking(self._put, address, envelope, guard)
        return put

    def put_later(self, address: Address, envelope: Envelope, guard: Guard) -> bool:
        """Have `flush` put an entry; False where the tier is not known to be of its epoch, or many wait already."""
        if envelope.epoch != self._epoch or len(self._later) >= LATER:
            return False
        self._later[address] = self._kept(address, envelope), guard
        return True

    def flush(self) -> Plan[None]:
        """Put what waits. What is refused then is left out: it has been invalidated, or this process is behind."""
        while self._later:
            yield Blocking(self._flush)

    def bury(self, address: Address, epoch: str, position: int, fence: float) -> Plan[bool]:
        """Remove what was born before `position`; False where the tier failed. No fence is needed: see the class."""
        record = (address.region, address.scope, address.key, position, False)
        return bool((yield Blocking(self._change, epoch, lambda execute: self._apply_records(execute, [record]))))

    def renew(self, address: Address, seen: Envelope, renewed: Envelope) -> Plan[bool]:
        key = storage_key(*address)

        def renew(execute: Execute) -> bool:
            if self._standing(execute, key) != seen:
                return False
            kept = self._kept(address, renewed)
            self._write(key, pack(kept), kept)
            return True

        return (yield Blocking(self._change, seen.epoch, renew)) is True

    def remove(self, addresses: Sequence[Address], epoch: str) -> Plan[int]:
        keys = [storage_key(*address) for address in addresses]
        yield from self.flush()

        def remove(execute: Execute) -> int:
            return sum(self.store.cache.delete(key) for key in keys)

        return (yield Blocking(self._change, epoch, remove)) or 0

    def expire(self) -> Plan[int]:
        """Remove what is past its end; returns how many entries. (Writes do so too, ten at a time.)"""
        removed: int = yield Blocking(self._expire)
        return removed

    # -- following the log --------------------------------------------------------------------

    def apply(self, epoch: str, after: int, keys: Iterable[KeyRecord], upto: int) -> Plan[bool]:
        """Remove what key records killed and move on to `upto`, in one transaction.

        Args:
            epoch: the epoch of the records.
            after: all key records behind this position, up to `upto`, are in `keys`.
            keys: (region, scope, key, position) or, with soft, (region, scope, key, position, True).
            upto: the position to reach.

        Returns:
            False where the tier is of another epoch or not yet at `after`, and so has missed some, or where it failed.
        """
        records = list(keys)

        def apply(execute: Execute) -> bool:
            position = execute(POSITION).fetchone()[1]
            if position < after:
                return False
            if position < upto:
                self._apply_records(execute, [record for record in records if record[3] > position])
                execute(SET_POSITION, (epoch, upto))
            return True

        return (yield Blocking(self._change, epoch, apply)) is True

    def drop(self, epoch: str, position: int, seen: tuple[str, int] | None = None) -> Plan[None]:
        """Clear the tier and put it at a position, in one transaction, unless it is already there or beyond.

        `seen`: where the tier stood when that was decided; where it has moved since, it is left alone.
        """
        yield Blocking(self._drop, epoch, position, seen)

    def close(self) -> Plan[None]:
        yield from self.flush()
        yield Blocking(self.store.close)

    # -- inside: everything below may wait and runs in a thread -----------------------------------

    def _put(self, address: Address, envelope: Envelope, guard: Guard) -> Put:
        envelope = self._kept(address, envelope)
        data = pack(envelope)
        if len(data) > self.store.size_limit:
            self.counters.too_large.add()
            return Put.FAILED
        if len(self._later) >= LATER:
            self._flush()
        try:
            return self.store.transaction(lambda execute: self._put_in(execute, address, envelope, guard, data))
        except StoreFailed:
            return Put.FAILED

    def _put_in(self, execute: Execute, address: Address, envelope: Envelope, guard: Guard, data: bytes) -> Put:
        key = storage_key(*address)
        epoch, position, *standing = execute(READ_HEAD, (key,)).fetchone()
        if epoch != envelope.epoch or (guard.admit is not None and not guard.admit((epoch, position))):
            self.counters.behind.add()
            return Put.BEHIND
        # Whatever stands here is of the tier's own epoch: a change of epoch clears the tier.
        if standing[0] is not None and born_of(self.store.head(Row(*standing))) > envelope.born:
            return Put.NEWER
        self._write(key, data, envelope)
        self._epoch = epoch
        return Put.STORED

    def _flush(self) -> None:
        # Taken out only once they are written, so that whoever flushes at the same time waits for that, and writes again
        # what is there. (One that comes for the same address in the moment of its taking out is lost: a miss.)
        waiting = list(self._later.items())[:LATER]

        def put(execute: Execute) -> None:
            for address, (envelope, guard) in waiting:
                self._put_in(execute, address, envelope, guard, pack(envelope))

        with suppress(StoreFailed):  # counted there
            self.store.transaction(put)
        for address, item in waiting:
            if self._later.get(address) is item:
                self._later.pop(address, None)

    def _kept(self, address: Address, envelope: Envelope) -> Envelope:
        """Return an envelope with its end as this tier's own TTL has it."""
        if self._keeps is None:
            return envelope
        now = self.clock.wall()
        end = now + self._keeps(address.region, envelope.keep_until - now)
        if end >= envelope.keep_until:
            return envelope
        return replace(envelope, keep_until=end, fresh_until=min(envelope.fresh_until, end))

    def _change(self, epoch: str, work: Callable[[Execute], Any]) -> Any:
        """Run `work` in a transaction if the tier is of `epoch`; None where not, or where the tier failed."""

        def change(execute: Execute) -> Any:
            return work(execute) if execute(POSITION).fetchone()[0] == epoch else None

        try:
            return self.store.transaction(change)
        except StoreFailed:
            return None

    def _standing(self, execute: Execute, key: str) -> Envelope | None:
        """Return what stands under a key, expired or not; None where that is nothing or broken."""
        row = execute(ROW, (key,)).fetchone()
        if row is None:
            return None
        try:
            data = self.store.fetch(Row(*row))
            return None if data is None else unpack(data)
        except (EnvelopeError, RefusedRow):
            return None

    def _write(self, key: str, data: bytes, envelope: Envelope) -> None:
        keep = envelope.keep_until - self.clock.wall()
        self.store.cache.set(key, data, expire=None if keep == math.inf else keep)

    def _apply_records(self, execute: Execute, records: Iterable[KeyRecord]) -> bool:
        for region, scope, key, position, *soft in records:
            name = storage_key(region, scope, key)
            standing = self._standing(execute, name)
            if standing is not None and standing.born >= position:
                continue
            if standing is not None and soft and soft[0]:
                marked = replace(standing, flags=standing.flags | STALE)
                self._write(name, pack(marked), marked)
            else:
                self.store.cache.delete(name)
        return True

    def _drop(self, epoch: str, position: int, seen: tuple[str, int] | None) -> None:
        def drop(execute: Execute) -> list[str]:
            at_epoch, at = execute(POSITION).fetchone()
            if (at_epoch == epoch and at >= position) or (seen is not None and (at_epoch, at) != seen):
                return []
            files = self.store.clear(execute)
            execute(SET_POSITION, (epoch, position))
            return files

        try:
            for name in self.store.transaction(drop):
                self.store.cache.disk.remove(name)
        except StoreFailed:
            return  # it stays where it was: behind, so that nothing of it is served or stored

    def _scan(self, epoch: str, cursor: int, count: int) -> tuple[int, list[tuple[Address, Envelope]]]:
        try:
            rows = self.store.scan(cursor, count)
        except StoreFailed:
            return 0, []
        now = self.clock.wall()
        found, broken = [], []
        for _, row in rows:
            try:
                data = self.store.fetch(row)
                if data is None:
                    continue
                envelope = unpack(data)
                region = parse_storage_key(row.key).region
            except (EnvelopeError, RefusedRow, ValueError, AttributeError):
                broken.append(row.key)
                continue
            if envelope.epoch == epoch and now < envelope.keep_until:
                found.append((Address(region, envelope.scope, envelope.key), envelope))
        if broken:
            self._remove_broken(broken)
        return (rows[-1][0] if len(rows) == count else 0), found

    def _remove_broken(self, keys: Sequence[Any]) -> None:
        """Delete rows that are still no envelopes of ours."""

        def remove(execute: Execute) -> int:
            removed = 0
            for key in keys:
                if self._standing(execute, key) is None:
                    removed += execute("DELETE FROM Cache WHERE key = ?", (key,)).rowcount
            return removed

        for _ in keys:
            self.counters.corrupt.add()
        try:
            self.store.transaction(remove)
        except StoreFailed:
            return  # counted there; they are misses all the same

    def _expire(self) -> int:
        try:
            return self.store.transaction(lambda _: int(self.store.cache.expire()))
        except StoreFailed:
            return 0

    def _usage(self) -> DiskUsage | None:
        def usage(execute: Execute) -> DiskUsage:
            (count,), (size,) = execute(COUNTS).fetchall()
            (pages,), (page,) = (execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size"))
            return DiskUsage(count, size + pages * page)

        try:
            return self.store.transaction(usage)
        except StoreFailed:
            return None


def born_of(head: bytes) -> int:
    """Return `born` from the first bytes of an envelope; -1 where they are none, so that anything may replace it."""
    try:
        return int(head[BORN_AT:FENCE_AT], 16) if head.startswith(MAGIC) else -1
    except ValueError:
        return -1
