"""Everything that a user does with values, on a manager or on a view of it, sync and async.

Each operation is one plan and two short methods that run it, so no logic stands twice.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from .coherence.result import InvalidationResult
from .config import DEFAULT
from .errors import BarrierTimeout
from .keys import validate_key
from .loading.context import current_as_of
from .loading.finding import find_many, handed_out
from .loading.loads import is_async, refuse_async
from .loading.reading import Want, read
from .loading.writing import Position, bury, newest, put_many, restore, retag, since_of
from .plans import Pause, Plan, drive, drive_async
from .region import MISS, Region, Ttl, seconds_of, tags_of
from .tiers.entry import Address, Entry

if TYPE_CHECKING:
    from .coherence.coherence import Delivery
    from .runtime import Runtime

BATCH = 250
"""Keys under one record: a batch is one round trip, and no message grows past what the bus takes."""
BURST = 2000
"""Keys that are looked at in one go; beyond that an event loop gets its turn in between."""


class Operations:
    """The operations on values. Thread-safe, loop-safe and fork-safe.

    Every operation takes `region` (a name; without it the current region), and either the
    scope parameters of the configuration or `scope`, the level's name, with them. Durations
    are seconds or timedelta. An operation that appends to the log takes `barrier` (seconds
    to wait until every live process has applied it; BarrierTimeout names the rest) and
    `require_delivery` (DeliveryError instead of queueing while the log is away).
    """

    _runtime: Runtime

    def _locate(self, region: str | None, scope: str | None, params: Mapping[str, Any]) -> tuple[Region, str]:
        """Return the region and the scope path that an operation means."""
        raise TypeError  # a manager and a view each say how

    def _address(
        self, key: str, region: str | None, scope: str | None, params: Mapping[str, Any]
    ) -> tuple[Region, Address]:
        found, path = self._locate(region, scope, params)
        return found, Address(found.name, path, validate_key(key))

    # -- get ------------------------------------------------------------------------------

    def get(
        self, key: str, default: Any = None, *, region: str | None = None, scope: str | None = None, **scope_params: Any
    ) -> Any:
        """Return the value of a key, or `default` where nothing is cached. None is a value like any other."""
        current, path = self._locate(region, scope, scope_params)
        local_key: Hashable = (path, key) if path else key
        value = current.hit(local_key)
        if value is not MISS or (value := current.again(local_key, path, key)) is not MISS:
            return value
        return drive(self._get(current, path, key, default))

    async def get_async(
        self, key: str, default: Any = None, *, region: str | None = None, scope: str | None = None, **scope_params: Any
    ) -> Any:
        """As `get`."""
        current, path = self._locate(region, scope, scope_params)
        local_key: Hashable = (path, key) if path else key
        value = current.hit(local_key)
        if value is not MISS or (value := current.again(local_key, path, key)) is not MISS:
            return value
        return await drive_async(self._get(current, path, key, default))

    def _get(self, region: Region, path: str, key: str, default: Any) -> Plan[Any]:
        self._runtime.ready()
        entry = yield from read(region, Address(region.name, path, validate_key(key)))
        return default if entry is MISS else (yield from handed_out(region, entry))

    # -- get_or_set -------------------------------------------------------------------------

    def get_or_set(
        self,
        key: str,
        loader: Callable[[], Any],
        ttl: Ttl = DEFAULT,
        *,
        tags: Iterable[str] = (),
        as_type: Any = None,
        lock_ttl: float | timedelta | None = None,
        refresh: bool = False,
        region: str | None = None,
        scope: str | None = None,
        **scope_params: Any,
    ) -> Any:
        """Return the value of a key, loaded by `loader` where nothing fresh is cached.

        One load at a time runs for a key in this process, and in the fleet where a lease
        can be had; whoever else asks meanwhile waits for it.

        Args:
            key: the key.
            loader: a callable without arguments, sync or async (async only in `get_or_set_async`).
            ttl: how long the value stays fresh.
            tags: the value's tags.
            as_type: the type that a value from the disk or remote tier is restored to.
            lock_ttl: seconds after which another process may load instead of one that hangs.
            refresh: load anew whatever is cached.

        Raises:
            TypeError: the loader is async.
            LoadCycle: the loader asks for the key that it is loading.
            LoadTimeout: the region's `hard_timeout` passed.
        """
        current, path = self._locate(region, scope, scope_params)
        if is_async(loader):
            refuse_async(loader)
        local_key: Hashable = (path, key) if path else key
        if not refresh and (value := current.hit(local_key)) is not MISS:
            return value
        if not refresh and (value := current.again(local_key, path, key)) is not MISS:
            return value
        want = Want(loader, ttl, tags_of(tags), as_type, lock(lock_ttl), refresh)
        return drive(self._get_or_set(current, path, key, want))

    async def get_or_set_async(
        self,
        key: str,
        loader: Callable[[], Any],
        ttl: Ttl = DEFAULT,
        *,
        tags: Iterable[str] = (),
        as_type: Any = None,
        lock_ttl: float | timedelta | None = None,
        refresh: bool = False,
        region: str | None = None,
        scope: str | None = None,
        **scope_params: Any,
    ) -> Any:
        """As `get_or_set`; a sync loader runs in a worker thread with the context copied."""
        current, path = self._locate(region, scope, scope_params)
        local_key: Hashable = (path, key) if path else key
        if not refresh and (value := current.hit(local_key)) is not MISS:
            return value
        if not refresh and (value := current.again(local_key, path, key)) is not MISS:
            return value
        want = Want(loader, ttl, tags_of(tags), as_type, lock(lock_ttl), refresh)
        return await drive_async(self._get_or_set(current, path, key, want))

    def _get_or_set(self, region: Region, path: str, key: str, want: Want) -> Plan[Any]:
        address = Address(region.name, path, validate_key(key))
        if not callable(want.loader):
            message = f"the loader of {address.key!r} must be callable without arguments, not {want.loader!r}"
            raise TypeError(message)
        if want.ttl is not DEFAULT:
            seconds_of(want.ttl)
        self._runtime.ready()
        watch = region.watch
        if watch.hub.span is None:
            entry = yield from read(region, address, want)
        else:
            with watch.span("tiercast.get_or_set", {"tiercast.region": region.name}):
                entry = yield from read(region, address, want)
        if entry is MISS:
            message = f"no entry for {address!r} after loading"
            raise AssertionError(message)
        return (yield from handed_out(region, entry))

    # -- set --------------------------------------------------------------------------------

    def set(
        self,
        key: str,
        value: Any,
        ttl: Ttl = DEFAULT,
        *,
        tags: Iterable[str] = (),
        as_of: Any = None,
        as_type: Any = None,
        barrier: float | None = None,
        require_delivery: bool = False,
        region: str | None = None,
        scope: str | None = None,
        **scope_params: Any,
    ) -> InvalidationResult:
        """Store a value as true now; copies that any process still holds die.

        The last `set` wins, not the last write to what the value was read from: two writers
        that race should pass `as_of`, or use `write_through`.

        Args:
            key: the key.
            value: the value; memory keeps it by reference.
            ttl: how long it stays fresh.
            tags: its tags.
            as_of: what `position()` said before the value was read. It is then stored only where
                nothing invalidated it since; else the key is left empty.
            as_type: the declared type of the value, for the disk and remote tiers.

        Raises:
            SerializationError: the value would not come back equal from a tier below; nothing is stored.
        """
        current, address = self._address(key, region, scope, scope_params)
        return drive(self._set(current, address, value, ttl, tags_of(tags), as_of, as_type, barrier, require_delivery))

    async def set_async(
        self,
        key: str,
        value: Any,
        ttl: Ttl = DEFAULT,
        *,
        tags: Iterable[str] = (),
        as_of: Any = None,
        as_type: Any = None,
        barrier: float | None = None,
        require_delivery: bool = False,
        region: str | None = None,
        scope: str | None = None,
        **scope_params: Any,
    ) -> InvalidationResult:
        """As `set`."""
        current, address = self._address(key, region, scope, scope_params)
        return await drive_async(
            self._set(current, address, value, ttl, tags_of(tags), as_of, as_type, barrier, require_delivery)
        )

    def _set(
        self,
        region: Region,
        address: Address,
        value: Any,
        ttl: Ttl,
        tags: tuple[str, ...],
        as_of: Any,
        as_type: Any,
        barrier: float | None,
        require: bool,
    ) -> Plan[InvalidationResult]:
        if as_of is None:
            as_of = current_as_of.get()
        if as_of is None:
            return (yield from self._set_many(region, {address: value}, ttl, tags, barrier, require, as_type))
        since = since_of(as_of)
        lifetime = region.lifetime(ttl)
        self._runtime.ready()
        yield from region.coherence.started_or_away()
        begin = region.begin()
        entry = region.entry(value, lifetime, tags, begin, address)
        delivery, _ = yield from restore(region, address, entry, since, begin, require=require, as_type=as_type)
        return (yield from self._settled(delivery, barrier))

    def multi_set(
        self,
        mapping: Mapping[str, Any],
        ttl: Ttl = DEFAULT,
        *,
        tags: Iterable[str] = (),
        barrier: float | None = None,
        require_delivery: bool = False,
        region: str | None = None,
        scope: str | None = None,
        **scope_params: Any,
    ) -> InvalidationResult:
        """Store several values, in one round trip per 250. Raises SerializationError before any is stored."""
        current, path = self._locate(region, scope, scope_params)
        return drive(self._multi_set(current, path, mapping, ttl, tags_of(tags), barrier, require_delivery))

    async def multi_set_async(
        self,
        mapping: Mapping[str, Any],
        ttl: Ttl = DEFAULT,
        *,
        tags: Iterable[str] = (),
        barrier: float | None = None,
        require_delivery: bool = False,
        region: str | None = None,
        scope: str | None = None,
        **scope_params: Any,
    ) -> InvalidationResult:
        """As `multi_set`."""
        current, path = self._locate(region, scope, scope_params)
        return await drive_async(self._multi_set(current, path, mapping, ttl, tags_of(tags), barrier, require_delivery))

    def _multi_set(
        self,
        region: Region,
        path: str,
        mapping: Mapping[str, Any],
        ttl: Ttl,
        tags: tuple[str, ...],
        barrier: float | None,
        require: bool,
    ) -> Plan[InvalidationResult]:
        addresses = yield from self._addresses(region, path, mapping)
        values = dict(zip(addresses, mapping.values(), strict=True))
        return (yield from self._set_many(region, values, ttl, tags, barrier, require))

    @staticmethod
    def _addresses(region: Region, path: str, keys: Iterable[str]) -> Plan[list[Address]]:
        """Check keys and return their addresses; very many hold up no loop."""
        addresses = []
        for number, key in enumerate(keys, 1):
            addresses.append(Address(region.name, path, validate_key(key)))
            if number % BURST == 0:
                yield Pause(0.0)
        return addresses

    def _set_many(
        self,
        region: Region,
        values: Mapping[Address, Any],
        ttl: Ttl,
        tags: tuple[str, ...],
        barrier: float | None,
        require: bool,
        as_type: Any = None,
    ) -> Plan[InvalidationResult]:
        region.lifetime(ttl)
        self._runtime.ready()
        delivery = yield from put_many(region, values, ttl, tags, require=require, as_type=as_type)
        return (yield from self._settled(delivery, barrier))

    # -- delete, contains, touch, ttl -------------------------------------------------------

    def delete(
        self,
        key: str,
        *,
        barrier: float | None = None,
        require_delivery: bool = False,
        region: str | None = None,
        scope: str | None = None,
        **scope_params: Any,
    ) -> bool:
        """Delete a key in every tier of every process; returns whether a live entry was found."""
        current, address = self._address(key, region, scope, scope_params)
        return drive(self._delete(current, [address], barrier, require_delivery)) > 0

    async def delete_async(
        self,
        key: str,
        *,
        barrier: float | None = None,
        require_delivery: bool = False,
        region: str | None = None,
        scope: str | None = None,
        **scope_params: Any,
    ) -> bool:
        """As `delete`."""
        current, address = self._address(key, region, scope, scope_params)
        return await drive_async(self._delete(current, [address], barrier, require_delivery)) > 0

    def multi_delete(
        self,
        keys: Iterable[str],
        *,
        barrier: float | None = None,
        require_delivery: bool = False,
        region: str | None = None,
        scope: str | None = None,
        **scope_params: Any,
    ) -> int:
        """Delete several keys; returns how many live entries were found."""
        current, path = self._locate(region, scope, scope_params)
        return drive(self._multi_delete(current, path, several(keys), barrier, require_delivery))

    async def multi_delete_async(
        self,
        keys: Iterable[str],
        *,
        barrier: float | None = None,
        require_delivery: bool = False,
        region: str | None = None,
        scope: str | None = None,
        **scope_params: Any,
    ) -> int:
        """As `multi_delete`."""
        current, path = self._locate(region, scope, scope_params)
        return await drive_async(self._multi_delete(current, path, several(keys), barrier, require_delivery))

    def _multi_delete(
        self, region: Region, path: str, keys: list[str], barrier: float | None, require: bool
    ) -> Plan[int]:
        addresses = yield from self._addresses(region, path, keys)
        return (yield from self._delete(region, addresses, barrier, require))

    def _delete(
        self,
        region: Region,
        addresses: list[Address],
        barrier: float | None,
        require: bool,
    ) -> Plan[int]:
        self._runtime.ready()
        if not addresses:
            return 0
        found = yield from find_many(region, addresses, promote=False)
        for start in range(0, len(addresses), BATCH):
            if start:
                yield Pause(0.0)
            delivery = yield from bury(region, addresses[start : start + BATCH], require=require)
        yield from self._settled(delivery, barrier)
        return len(found)

    def contains(self, key: str, *, region: str | None = None, scope: str | None = None, **scope_params: Any) -> bool:
        """Whether a live entry of the key is cached, in any tier."""
        current, address = self._address(key, region, scope, scope_params)
        return drive(self._newest(current, address)) is not None

    async def contains_async(
        self, key: str, *, region: str | None = None, scope: str | None = None, **scope_params: Any
    ) -> bool:
        """As `contains`."""
        current, address = self._address(key, region, scope, scope_params)
        return await drive_async(self._newest(current, address)) is not None

    def _newest(self, region: Region, address: Address) -> Plan[Entry | None]:
        self._runtime.ready()
        return (yield from newest(region, address)).entry

    def ttl(
        self, key: str, *, region: str | None = None, scope: str | None = None, **scope_params: Any
    ) -> float | None:
        """Return the seconds for which the entry stays fresh; `math.inf`: no end; None: no entry."""
        current, address = self._address(key, region, scope, scope_params)
        return remaining(current, drive(self._newest(current, address)))

    async def ttl_async(
        self, key: str, *, region: str | None = None, scope: str | None = None, **scope_params: Any
    ) -> float | None:
        """As `ttl`."""
        current, address = self._address(key, region, scope, scope_params)
        return remaining(current, await drive_async(self._newest(current, address)))

    def touch(
        self,
        key: str,
        ttl: Ttl,
        *,
        barrier: float | None = None,
        require_delivery: bool = False,
        region: str | None = None,
        scope: str | None = None,
        **scope_params: Any,
    ) -> bool:
        """Give the entry that stands a new TTL from now, in every tier of every process; False where there is none."""
        current, address = self._address(key, region, scope, scope_params)
        return drive(self._retag(current, address, (), current.lifetime(ttl), barrier, require_delivery))

    async def touch_async(
        self,
        key: str,
        ttl: Ttl,
        *,
        barrier: float | None = None,
        require_delivery: bool = False,
        region: str | None = None,
        scope: str | None = None,
        **scope_params: Any,
    ) -> bool:
        """As `touch`."""
        current, address = self._address(key, region, scope, scope_params)
        return await drive_async(self._retag(current, address, (), current.lifetime(ttl), barrier, require_delivery))

    def tag_cache_key(
        self,
        key: str,
        tags: Iterable[str],
        *,
        barrier: float | None = None,
        require_delivery: bool = False,
        region: str | None = None,
        scope: str | None = None,
        **scope_params: Any,
    ) -> bool:
        """Add tags to the entry that stands, in every tier of every process; False where there is none."""
        current, address = self._address(key, region, scope, scope_params)
        return drive(self._retag(current, address, tags_of(tags), None, barrier, require_delivery))

    async def tag_cache_key_async(
        self,
        key: str,
        tags: Iterable[str],
        *,
        barrier: float | None = None,
        require_delivery: bool = False,
        region: str | None = None,
        scope: str | None = None,
        **scope_params: Any,
    ) -> bool:
        """As `tag_cache_key`."""
        current, address = self._address(key, region, scope, scope_params)
        return await drive_async(self._retag(current, address, tags_of(tags), None, barrier, require_delivery))

    def _retag(
        self,
        region: Region,
        address: Address,
        tags: tuple[str, ...],
        lifetime: float | None,
        barrier: float | None,
        require: bool,
    ) -> Plan[bool]:
        self._runtime.ready()
        delivery, stored = yield from retag(region, address, add=tags, lifetime=lifetime, require=require)
        if delivery is not None:
            yield from self._settled(delivery, barrier)
        return stored

    # -- several keys -------------------------------------------------------------------------

    def multi_get(
        self, keys: Iterable[str], *, region: str | None = None, scope: str | None = None, **scope_params: Any
    ) -> dict[str, Any]:
        """Return the values of those keys that are cached, in one round trip per tier."""
        current, path = self._locate(region, scope, scope_params)
        found, missing = self._hits(current, path, several(keys))
        if missing or not found:  # with no key at all, a closed manager says so
            found.update(drive(self._multi_get(current, path, missing)))
        return found

    async def multi_get_async(
        self, keys: Iterable[str], *, region: str | None = None, scope: str | None = None, **scope_params: Any
    ) -> dict[str, Any]:
        """As `multi_get`."""
        current, path = self._locate(region, scope, scope_params)
        wanted = several(keys)
        found, missing = self._hits(current, path, wanted[:BURST])
        for start in range(BURST, len(wanted), BURST):
            await asyncio.sleep(0)
            more, absent = self._hits(current, path, wanted[start : start + BURST])
            found.update(more)
            missing += absent
        if missing or not found:  # with no key at all, a closed manager says so
            found.update(await drive_async(self._multi_get(current, path, missing)))
        return found

    @staticmethod
    def _hits(region: Region, path: str, keys: list[str]) -> tuple[dict[str, Any], list[str]]:
        """The hit path over several keys: what memory serves without looking twice, and the rest."""
        if not region.told:
            found, missing = region.hits(keys, path)
            region.counters.hits.add_many(len(found))
            return found, missing
        found, missing = {}, []
        hit = region.hit
        for key in keys:
            value = hit((path, key) if path else key)
            if value is MISS:
                missing.append(key)
            else:
                found[key] = value
        return found, missing

    def _multi_get(self, region: Region, path: str, keys: list[str]) -> Plan[dict[str, Any]]:
        self._runtime.ready()
        values: dict[str, Any] = {}
        for start in range(0, len(keys), BATCH):
            if start:
                yield Pause(0.0)
            addresses = [Address(region.name, path, validate_key(key)) for key in keys[start : start + BATCH]]
            entries = yield from find_many(region, addresses)
            for address, entry in entries.items():
                values[address.key] = yield from handed_out(region, entry)
        return values

    # -- where this process stands --------------------------------------------------------------

    def position(self) -> Position:
        """Return where this process stands in the log: take it before reading what a `set(as_of=…)` will store."""
        return drive(self._position())

    async def position_async(self) -> Position:
        """As `position`."""
        return await drive_async(self._position())

    def _position(self) -> Plan[Position]:
        self._runtime.ready()
        yield from self._runtime.coherence.prove()
        return Position(*self._runtime.coherence.position())

    # -- what every append ends with --------------------------------------------------------------

    def _settled(
        self, delivery: Delivery, barrier: float | None, removed: int | None = None
    ) -> Plan[InvalidationResult]:
        """Wait for the barrier, if one is asked for, and make the result."""
        result = InvalidationResult(delivery.position, delivery.delivered, removed)
        if barrier is not None:
            try:
                yield from self._runtime.coherence.barrier(delivery, seconds_of(barrier, "barrier"))
            except BarrierTimeout as exc:
                exc.result = result
                raise
        return result


def several(keys: Iterable[str]) -> list[str]:
    """Return keys as a list without doubles, in their order.

    Raises:
        TypeError: one string was given where several were meant.
    """
    if isinstance(keys, str):
        message = f"keys must be several str, not the one string {keys!r}; write [{keys!r}]"
        raise TypeError(message)
    return list(dict.fromkeys(keys))


def lock(lock_ttl: float | timedelta | None) -> float | None:
    """Return `lock_ttl` in seconds, None for the region's."""
    return None if lock_ttl is None else seconds_of(lock_ttl, "lock_ttl")


def remaining(region: Region, entry: Entry | None) -> float | None:
    """Return how long an entry stays fresh; one that lives until it is invalidated has no end that a user set."""
    if entry is None:
        return None
    if entry.ttl == math.inf:
        return math.inf
    return max(0.0, entry.expires - region.clock.monotonic())
