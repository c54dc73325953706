"""Everything that a user does with values, on a manager or on a view of it, sync and async.

Each operation is one plan and two short methods that run it, so no logic stands twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

from .coherence.result import InvalidationResult
from .config import DEFAULT
from .keys import validate_key
from .loading.context import current_as_of
from .loading.finding import find_many
from .loading.loads import is_async, refuse_async
from .loading.reading import Want, read
from .loading.storing import handed_out
from .loading.writing import Position, put_many, restore, since_of
from .plans import Pause, Plan, drive, drive_async
from .region import MISS, Duration, Region, Ttl, seconds_of, tags_of
from .standing import BATCH, BURST, Standing, several
from .tiers.entry import Address, address_of


class Operations(Standing):
    """The operations on values. Thread-safe, loop-safe and fork-safe.

    Every operation takes `region` (a name; without it the current region), and either the
    scope parameters of the configuration or `scope`, the level's name, with them. Durations
    are seconds or timedelta. An operation that appends to the log takes `barrier` (seconds
    to wait until every live process has applied it; BarrierTimeout names the rest) and
    `require_delivery` (DeliveryError instead of queueing while the log is away).
    """

    # -- get ------------------------------------------------------------------------------

    def get(
        self, key: str, default: Any = None, *, region: str | None = None, scope: str | None = None, **scope_params: Any
    ) -> Any:
        """Return the value of a key, or `default` where nothing is cached. None is a value like any other."""
        current, path = self._locate(region, scope, scope_params)
        value = current.hit((path, key) if path else key)
        return value if value is not MISS else self._miss(current, path, key, default)

    async def get_async(
        self, key: str, default: Any = None, *, region: str | None = None, scope: str | None = None, **scope_params: Any
    ) -> Any:
        """As `get`."""
        current, path = self._locate(region, scope, scope_params)
        value = current.hit((path, key) if path else key)
        return value if value is not MISS else await self._miss_async(current, path, key, default)

    def _miss(self, region: Region, path: str, key: str, default: Any) -> Any:
        """`get` what the hit path does not serve."""
        value = region.again((path, key) if path else key, path, key)
        return value if value is not MISS else drive(self._get(region, path, key, default))

    async def _miss_async(self, region: Region, path: str, key: str, default: Any) -> Any:
        value = region.again((path, key) if path else key, path, key)
        return value if value is not MISS else await drive_async(self._get(region, path, key, default))

    def _get(self, region: Region, path: str, key: str, default: Any) -> Plan[Any]:
        self._runtime.ready()
        entry = yield from read(region, address_of((region.name, path, validate_key(key))))
        if entry is MISS:
            return default
        return (yield from handed_out(region, entry)) if region.copies else region.hand_out(entry)

    # -- get_or_set -------------------------------------------------------------------------

    def get_or_set(
        self,
        key: str,
        loader: Callable[[], Any],
        ttl: Ttl = DEFAULT,
        *,
        tags: Iterable[str] = (),
        as_type: Any = None,
        lock_ttl: Duration | None = None,
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
        if ttl is not DEFAULT and not (ttl.__class__ is int and ttl > 0):
            seconds_of(ttl)  # refuses what is none, also where there would be a hit
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
        lock_ttl: Duration | None = None,
        refresh: bool = False,
        region: str | None = None,
        scope: str | None = None,
        **scope_params: Any,
    ) -> Any:
        """As `get_or_set`; a sync loader runs in a worker thread with the context copied."""
        current, path = self._locate(region, scope, scope_params)
        if ttl is not DEFAULT and not (ttl.__class__ is int and ttl > 0):
            seconds_of(ttl)  # refuses what is none, also where there would be a hit
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
        return (yield from handed_out(region, entry)) if region.copies else region.hand_out(entry)

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
        barrier: Duration | None = None,
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
        barrier: Duration | None = None,
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
        barrier: Duration | None,
        require: bool,
    ) -> Plan[InvalidationResult]:
        if as_of is None:
            as_of = current_as_of(self._runtime)
        if as_of is None:
            return (yield from self._set_many(region, {address: value}, ttl, tags, barrier, require, as_type))
        since = since_of(as_of)
        lifetime = region.lifetime(ttl)
        self._appending(barrier)
        yield from region.coherence.started_or_away()
        begin = region.begin()
        entry = region.entry(value, lifetime, tags, begin)
        delivery, _ = yield from restore(region, address, entry, since, begin, require=require, as_type=as_type)
        return (yield from self._settled(delivery, barrier))

    def multi_set(
        self,
        mapping: Mapping[str, Any],
        ttl: Ttl = DEFAULT,
        *,
        tags: Iterable[str] = (),
        barrier: Duration | None = None,
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
        barrier: Duration | None = None,
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
        barrier: Duration | None,
        require: bool,
    ) -> Plan[InvalidationResult]:
        if not isinstance(mapping, Mapping):
            message = f"what is set must be a mapping from keys to values, not a {type(mapping).__name__}"
            raise TypeError(message)
        addresses = yield from self._addresses(region, path, mapping)
        values = dict(zip(addresses, mapping.values(), strict=True))
        as_of = current_as_of(self._runtime)
        if as_of is None or not values:
            return (yield from self._set_many(region, values, ttl, tags, barrier, require))
        for address, value in values.items():
            result = yield from self._set(region, address, value, ttl, tags, as_of, None, barrier, require)
        return result

    def _set_many(
        self,
        region: Region,
        values: Mapping[Address, Any],
        ttl: Ttl,
        tags: tuple[str, ...],
        barrier: Duration | None,
        require: bool,
        as_type: Any = None,
    ) -> Plan[InvalidationResult]:
        region.lifetime(ttl)
        self._appending(barrier)
        delivery = yield from put_many(region, values, ttl, tags, require=require, as_type=as_type)
        return (yield from self._settled(delivery, barrier))

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
            addresses = [address_of((region.name, path, validate_key(key))) for key in keys[start : start + BATCH]]
            entries = yield from find_many(region, addresses)
            if region.copies:
                for address, entry in entries.items():
                    values[address.key] = yield from handed_out(region, entry)
            else:
                hand_out = region.hand_out
                for address, entry in entries.items():
                    values[address.key] = hand_out(entry)
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


def lock(lock_ttl: Duration | None) -> float | None:
    """Return `lock_ttl` in seconds, None for the region's."""
    return None if lock_ttl is None else seconds_of(lock_ttl, "lock_ttl")
