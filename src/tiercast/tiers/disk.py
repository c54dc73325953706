"""The disk tier (L2): envelopes in a diskcache directory that the processes of a host share."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Protocol

from diskcache.core import MODE_RAW

from ..clock import Clock, SystemClock
from ..keys import storage_key
from ..plans import Blocking, Plan, done
from .base import Guard, Keeps, Put, Reading
from .disk_bytes import RefusedRow
from .disk_rows import LATER, DiskCounters, DiskRows, DiskUsage, Execute, KeyRecord
from .disk_store import POSITION, SET_POSITION, Row, StoreFailed, shared_store
from .entry import TOMBSTONE, Address, Envelope
from .envelope import EnvelopeError, pack, unpack

DEFAULT_LIMIT = 1024 * 1024 * 1024
SMALLEST_LIMIT = 1024 * 1024
"""An empty database alone takes some tens of kilobytes."""


class DiskSettings(Protocol):
    """What the tier wants of its settings; a `LocalCacheConfig` has it."""

    @property
    def byte_limit(self) -> int | None: ...


class DiskTier(DiskRows):
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
        self._later = {}
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
        waiting = self._later.get(address)
        if waiting is None or waiting[0].epoch != envelope.epoch or waiting[0].born <= envelope.born:
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
