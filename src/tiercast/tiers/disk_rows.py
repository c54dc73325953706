"""The transactions of the disk tier: what is written, removed and walked, under the tier's own position."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from ..clock import Clock
from ..keys import parse_storage_key, storage_key
from ..monitoring.counter import Counter
from .base import Guard, Keeps, Put
from .disk_bytes import RefusedRow
from .disk_store import POSITION, READ_HEAD, SET_POSITION, DiskStore, Row, StoreFailed
from .entry import STALE, Address, Envelope
from .envelope import BORN_AT, FENCE_AT, MAGIC, EnvelopeError, pack, unpack

LATER = 256
"""Entries that wait to be written together; whoever brings another writes them."""
ROW = "SELECT key, mode, filename, value FROM Cache WHERE key = ? AND raw = 1"
COUNTS = "SELECT value FROM Settings WHERE key IN ('count', 'size') ORDER BY key"

Execute = Callable[..., sqlite3.Cursor]
KeyRecord = tuple[str, str, str, int] | tuple[str, str, str, int, bool]
"""(region, scope, key, position) of a key record, with `soft` behind it where it only makes stale."""


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


class DiskRows:
    """The part of `DiskTier` that may wait for a lock or the disk, and runs in a thread."""

    clock: Clock
    counters: DiskCounters
    store: DiskStore
    _keeps: Keeps | None
    _epoch: str
    """The epoch in which something was stored last."""
    _later: dict[Address, tuple[Envelope, Guard]]

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
        # Copied first, in one step: a walk through the dict itself may be interrupted by who leaves another there.
        waiting = list(self._later.copy().items())[:LATER]

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
