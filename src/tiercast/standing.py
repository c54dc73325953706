"""What a user does with entries that stand: deletes them, looks at them, gives them another TTL or more tags.

Each operation is one plan and two short methods that run it, so no logic stands twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .coherence.result import InvalidationResult
from .errors import BarrierTimeout
from .keys import validate_key
from .loading.finding import find_many
from .loading.writing import bury, newest, retag
from .plans import Pause, Plan, drive, drive_async
from .region import Duration, Region, Ttl, seconds_of, tags_of
from .tiers.entry import Address, Entry

if TYPE_CHECKING:
    from .coherence.coherence import Delivery
    from .runtime import Runtime

BATCH = 250
"""Keys under one record: a batch is one round trip, and no message grows past what the bus takes."""
BURST = 2000
"""Keys that are looked at in one go; beyond that an event loop gets its turn in between."""


class Standing:
    """The operations on entries that stand, and what all operations are made with; see `Operations`."""

    _runtime: Runtime

    def _locate(self, region: str | None, scope: str | None, params: Mapping[str, Any]) -> tuple[Region, str]:
        """Return the region and the scope path that an operation means."""
        raise TypeError  # a manager and a view each say how

    def _address(
        self, key: str, region: str | None, scope: str | None, params: Mapping[str, Any]
    ) -> tuple[Region, Address]:
        found, path = self._locate(region, scope, params)
        return found, Address(found.name, path, validate_key(key))

    @staticmethod
    def _addresses(region: Region, path: str, keys: Iterable[str]) -> Plan[list[Address]]:
        """Check keys and return their addresses; very many hold up no loop."""
        addresses = []
        for number, key in enumerate(keys, 1):
            addresses.append(Address(region.name, path, validate_key(key)))
            if number % BURST == 0:
                yield Pause(0.0)
        return addresses

    # -- delete, contains, touch, ttl -------------------------------------------------------

    def delete(
        self,
        key: str,
        *,
        barrier: Duration | None = None,
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
        barrier: Duration | None = None,
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
        barrier: Duration | None = None,
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
        barrier: Duration | None = None,
        require_delivery: bool = False,
        region: str | None = None,
        scope: str | None = None,
        **scope_params: Any,
    ) -> int:
        """As `multi_delete`."""
        current, path = self._locate(region, scope, scope_params)
        return await drive_async(self._multi_delete(current, path, several(keys), barrier, require_delivery))

    def _multi_delete(
        self, region: Region, path: str, keys: list[str], barrier: Duration | None, require: bool
    ) -> Plan[int]:
        addresses = yield from self._addresses(region, path, keys)
        return (yield from self._delete(region, addresses, barrier, require))

    def _delete(
        self,
        region: Region,
        addresses: list[Address],
        barrier: Duration | None,
        require: bool,
    ) -> Plan[int]:
        self._appending(barrier)
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
        barrier: Duration | None = None,
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
        barrier: Duration | None = None,
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
        barrier: Duration | None = None,
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
        barrier: Duration | None = None,
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
        barrier: Duration | None,
        require: bool,
    ) -> Plan[bool]:
        self._appending(barrier)
        delivery, stored = yield from retag(region, address, add=tags, lifetime=lifetime, require=require)
        if delivery is not None:
            yield from self._settled(delivery, barrier)
        return stored

    # -- what every append begins and ends with ---------------------------------------------------

    def _appending(self, barrier: Duration | None) -> None:
        """Refuse, before anything is done, what would be refused when it is done."""
        self._runtime.ready()
        if barrier is not None:
            seconds_of(barrier, "barrier")

    def _settled(
        self, delivery: Delivery, barrier: Duration | None, removed: int | None = None
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
        TypeError: one string, or what is no collection, was given where several were meant.
    """
    if isinstance(keys, str) or not hasattr(type(keys), "__iter__"):  # isinstance(…, Iterable) takes five times as long
        instead = f"the one string {keys!r}; write [{keys!r}]" if isinstance(keys, str) else repr(keys)
        message = f"keys must be several str, not {instead}"
        raise TypeError(message)
    return list(dict.fromkeys(keys))


def remaining(region: Region, entry: Entry | None) -> float | None:
    """Return how long an entry stays fresh; one that lives until it is invalidated has no end that a user set."""
    if entry is None:
        return None
    if entry.ttl == math.inf and (region.below or region.cap is None):
        return math.inf
    return max(0.0, entry.expires - region.clock.monotonic())
