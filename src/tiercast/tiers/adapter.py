"""Your own store of bytes as a tier: three plain methods are enough."""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from ..clock import Clock, SystemClock
from ..keys import parse_storage_key, storage_key
from ..monitoring.counter import Counter
from ..plans import Blocking, Plan
from .base import Guard, Put, Reading
from .entry import TOMBSTONE, Address, Envelope
from .envelope import EnvelopeError, pack, peek, tombstone, unpack

logger = logging.getLogger("tiercast.tiers")

T = TypeVar("T")


class SimpleStore(Protocol):
    """What a store of your own must do; all methods may block, and are called from any thread, one at a time.

    A method that raises counts as a failed operation and never reaches a reader. A store
    that also has ``keys() -> Iterable[str]`` can be purged and swept.
    """

    def get(self, key: str) -> bytes | None:
        """Return the bytes stored under a key, or None."""
        ...

    def set(self, key: str, value: bytes, ttl: float | None) -> None:
        """Store bytes for `ttl` seconds; None: for good."""
        ...

    def delete(self, key: str) -> None:
        """Remove a key, if it is there."""
        ...


class SyncTier:
    """A tier made of a `SimpleStore`. Thread-safe, loop-safe and fork-safe if the store is.

    What it promises. Within this process the older `born` never replaces the newer: comparing
    and storing happen under one lock. It vouches for no position, so that every entry is judged by
    the ledger's own records from its `born` on, and one that they do not reach back to is a miss.

    What it cannot promise. `get` and `set` of two *processes* may interleave, and then the older
    value can remain; the ledger, not the store, keeps it from being served. Loads that take
    longer than `max_load_time` are not refused. A store that can compare and store in one step
    should implement `tiers.base.Tier` itself.

    Args:
        store: your store.
        name: "remote" or "disk": whose place it takes.
        clock: where the time comes from.
    """

    def __init__(self, store: SimpleStore, *, name: str = "remote", clock: Clock | None = None) -> None:
        self.name = name
        self.store = store
        self.clock: Clock = clock or SystemClock()
        self.failures = Counter()
        self.corrupt = Counter()
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def get_many(self, addresses: Sequence[Address], epoch: str) -> Plan[Reading]:
        reading: Reading | None = yield Blocking(self._guarded, self._get, addresses, epoch)
        return Reading(failed=True) if reading is None else reading

    def put_if_newer(self, address: Address, envelope: Envelope, guard: Guard) -> Plan[Put]:
        put: Put | None = yield Blocking(self._guarded, self._put, address, envelope, guard)
        return put or Put.FAILED

    def bury(self, address: Address, epoch: str, position: int, fence: float) -> Plan[bool]:
        """Remove what was born before `position` and refuse the older for `fence` seconds; False where it failed."""
        return (yield Blocking(self._guarded, self._bury, address, epoch, position, fence)) is not None

    def renew(self, address: Address, seen: Envelope, renewed: Envelope) -> Plan[bool]:
        return (yield Blocking(self._guarded, self._renew, address, seen, renewed)) is True

    def remove(self, addresses: Sequence[Address], epoch: str) -> Plan[int]:
        return (yield Blocking(self._guarded, self._remove, addresses, epoch)) or 0

    def scan(self, epoch: str, cursor: int = 0, count: int = 500) -> Plan[tuple[int, list[tuple[Address, Envelope]]]]:
        """Return all entries at once; none where the store has no ``keys``."""
        found: list[tuple[Address, Envelope]] | None = yield Blocking(self._guarded, self._scan, epoch)
        return 0, found or []

    def close(self) -> Plan[None]:
        close = getattr(self.store, "close", None)
        if close is not None:
            yield Blocking(self._guarded, close)

    # -- inside: called in a thread, with the lock held -----------------------------------------

    def _guarded(self, work: Callable[..., T], *args: Any) -> T | None:
        """Run `work` under the lock; None, counted and logged, where the store raised."""
        if self._pid != os.getpid():  # a thread of the parent may have held it
            self._lock, self._pid = threading.Lock(), os.getpid()
        try:
            with self._lock:
                return work(*args)
        except Exception as exc:  # noqa: BLE001  a user's store may raise anything
            self.failures.add()
            logger.warning("%s failed: %r", type(self.store).__name__, exc, extra={"tier": self.name})
            return None

    def _standing(self, name: str, epoch: str) -> Envelope | None:
        """Return the entry or tombstone of this epoch that stands under a name and has not run out."""
        data = self.store.get(name)
        if data is None:
            return None
        try:
            envelope = unpack(data)
            fence = peek(data).fence / 1000
        except EnvelopeError:
            self.corrupt.add()
            self.store.delete(name)
            return None
        if envelope.epoch != epoch or self.clock.wall() >= max(envelope.keep_until, fence):
            return None
        return envelope

    def _get(self, addresses: Sequence[Address], epoch: str) -> Reading:
        reading = Reading(vouched=(epoch, 0))
        corrupt = self.corrupt.value
        for address in addresses:
            found = self._standing(storage_key(*address), epoch)
            live = found is not None and not found.flags & TOMBSTONE and self.clock.wall() < found.keep_until
            if found is not None and live and (found.scope, found.key) == (address.scope, address.key):
                reading.found[address] = found
        reading.corrupt = self.corrupt.value - corrupt
        return reading

    def _put(self, address: Address, envelope: Envelope, guard: Guard) -> Put:
        name = storage_key(*address)
        standing = self._standing(name, envelope.epoch)
        if standing is not None and standing.born > envelope.born:
            return Put.NEWER
        self._store(name, envelope, guard.fence)
        return Put.STORED

    def _bury(self, address: Address, epoch: str, position: int, fence: float) -> bool:
        name = storage_key(*address)
        standing = self._standing(name, epoch)
        if standing is None or standing.born < position:
            now = self.clock.wall()
            grave = Envelope(
                epoch, position, now, now, now, 0.0, 0.0, address.scope, (), 0, False, TOMBSTONE, "", address.key, b""
            )
            self._store(name, grave, fence)
        return True

    def _renew(self, address: Address, seen: Envelope, renewed: Envelope) -> bool:
        name = storage_key(*address)
        if self._standing(name, seen.epoch) != seen:
            return False
        data = self.store.get(name) or b""
        self._store(name, renewed, max(0.0, peek(data).fence / 1000 - self.clock.wall()))
        return True

    def _remove(self, addresses: Sequence[Address], epoch: str) -> int:
        removed = 0
        for address in addresses:
            name = storage_key(*address)
            standing = self._standing(name, epoch)
            if standing is not None and not standing.flags & TOMBSTONE:
                fence = peek(self.store.get(name) or tombstone(0, 0)).fence / 1000 - self.clock.wall()
                self.store.delete(name)
                removed += 1
                if fence > 0:
                    self._bury(address, epoch, standing.born, fence)
        return removed

    def _scan(self, epoch: str) -> list[tuple[Address, Envelope]]:
        keys: Callable[[], Iterable[str]] | None = getattr(self.store, "keys", None)
        found = []
        for name in list(keys()) if keys is not None else ():
            envelope = self._standing(name, epoch)
            if envelope is not None and not envelope.flags & TOMBSTONE and self.clock.wall() < envelope.keep_until:
                address = Address(parse_storage_key(name).region, envelope.scope, envelope.key)
                found.append((address, envelope))
        return found

    def _store(self, name: str, envelope: Envelope, fence: float) -> None:
        now = self.clock.wall()
        end = now + fence if fence else 0.0
        until = max(envelope.keep_until, end)
        ttl = None if until == math.inf else until - now
        if ttl is None or ttl > 0:
            self.store.set(name, pack(envelope, int(end * 1000)), ttl)
        else:
            self.store.delete(name)
