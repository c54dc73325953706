"""Physical removal, on a manager or on a view of it, sync and async.

An invalidation touches no entry: what is dead is served no more, and lies about until it is
read, swept, evicted or past its end. Here it goes now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from .coherence.records import Draft, Kind
from .coherence.result import InvalidationResult
from .errors import DeliveryError, InvalidationError
from .events import PURGED
from .invalidation.drafts import confined_to, inside, pattern_draft
from .invalidation.travelling import DomainEvent, encode_event
from .keys import compile_glob, decode_target
from .operations import Operations
from .plans import Plan, drive, drive_async
from .region import Duration, Region, tags_of
from .sweeper import Swept
from .tiers.entry import Address


class Purging(Operations):
    """Purge and sweep."""

    def purge(
        self,
        *,
        tags: Iterable[str] = (),
        pattern: str | None = None,
        barrier: Duration | None = None,
        require_delivery: bool = False,
        region: str | None = None,
        scope: str | None = None,
        **scope_params: Any,
    ) -> dict[str, int]:
        """Invalidate, and remove physically now, what matches all that is given: a tenant's right to erasure.

        It walks every entry of every tier: minutes where there are millions. Other processes
        serve nothing of it as with every invalidation, and are told to sweep their memory and
        their hosts' disks at once; who does not hear that (only the redis log has a bus) does
        so within `cleanup_interval`. Redis also gives back what earlier epochs left.

        Args:
            tags: entries with one of these.
            pattern: keys that this glob matches, in the current region and exactly this scope.
            region: only of this region; without it tags and scopes mean every one.
            scope, scope_params: this scope and all below it.

        Returns:
            The entries removed per tier that there is: "local" (this process's memory), "disk" (this host's) and
            "remote". Entries that were dead already count; those that other processes drop do not.

        Raises:
            InvalidationError: nothing says what to purge, or both tags and a pattern do.
            DeliveryError: a tier could not be reached, or not all of it; nothing of it is served any more, but it
                still lies there. With `require_delivery` also where the log could not be reached; nothing has
                happened then.
            BarrierTimeout: all was removed, but not every live process has heard of it.
        """
        return drive(
            self._purge(tags, pattern, self._locate(region, scope, scope_params), region, barrier, require_delivery)
        )

    async def purge_async(
        self,
        *,
        tags: Iterable[str] = (),
        pattern: str | None = None,
        barrier: Duration | None = None,
        require_delivery: bool = False,
        region: str | None = None,
        scope: str | None = None,
        **scope_params: Any,
    ) -> dict[str, int]:
        """As `purge`."""
        return await drive_async(
            self._purge(tags, pattern, self._locate(region, scope, scope_params), region, barrier, require_delivery)
        )

    def _purge(
        self,
        tags: Iterable[str],
        pattern: str | None,
        place: tuple[Region, str],
        region: str | None,
        barrier: Duration | None,
        require: bool,
    ) -> Plan[dict[str, int]]:
        current, path = place
        wanted = tags_of(tags)
        if not (wanted or pattern or region or path):
            message = "purge needs tags=, pattern=, scope= or region=; clear() invalidates everything"
            raise InvalidationError(message)
        if wanted and pattern is not None:
            message = (
                "purge takes tags= or pattern=, not both: no invalidation says both, and either alone says too much"
            )
            raise InvalidationError(message)
        name = current.name if region is not None or pattern is not None else ""
        if pattern is not None:
            drafts = [pattern_draft(name, path, pattern)]
        elif wanted:
            drafts = [Draft(Kind.TAG, name, confined_to(path, wanted))]
        elif path:
            drafts = [Draft(Kind.SCOPE, name, (path,))]
        else:
            drafts = [Draft(Kind.REGION, name, (name,))]
        matches = self._matching(name, path, wanted, pattern)
        self._appending(barrier)
        runtime = self._runtime
        runtime.sweeper.held += 1
        try:
            yield from runtime.flush()  # what is on its way to the disk is removed, and counted, like the rest
            # Of one key every tier drops its entry by itself as soon as the record is known: it is looked for before.
            one = drafts[0].kind is Kind.KEY
            held = (yield from runtime.holding(Address(name, *decode_target(drafts[0].targets[0])))) if one else {}
            delivery = yield from runtime.coherence.append(drafts, require=require)
            counts, missed = yield from runtime.remove_matching(matches)
            counts = {tier: max(count, held.get(tier, 0)) for tier, count in counts.items()}
        finally:
            runtime.sweeper.held -= 1
        told = encode_event(DomainEvent(PURGED, origin=runtime.coherence.fleet.member))
        yield from runtime.events.broadcast(PURGED, told, quietly=True)
        yield from runtime.sweeper.give_back_the_past()
        if missed:
            removed = sum(counts.values())
            message = (
                f"not all could be removed: {' and '.join(missed)} did not answer ({removed} removed); purge again"
            )
            raise DeliveryError(message, result=InvalidationResult(delivery.position, delivery.delivered, removed))
        yield from self._settled(delivery, barrier, sum(counts.values()))
        return counts

    @staticmethod
    def _matching(
        name: str, path: str, wanted: tuple[str, ...], pattern: str | None
    ) -> Callable[[Address, tuple[str, ...]], bool]:
        glob = compile_glob(pattern) if pattern is not None else None

        def matches(address: Address, carried: tuple[str, ...]) -> bool:
            return (
                (not name or address.region == name)
                and (address.scope == path if glob else inside(address.scope, path))
                and (not wanted or not set(wanted).isdisjoint(carried))
                and (glob is None or glob.match(address.key))
            )

        return matches

    def sweep(self) -> Swept:
        """Remove what is dead or past its end from every tier that this process can reach, now.

        It happens by itself, at a bounded rate: memory every `cleanup_interval` seconds, and
        Redis and the disk by one process of the fleet, and of each host, after there was
        something to invalidate. There is no need to call it but to see it done. A view sweeps
        everything too.
        """
        self._runtime.ready()
        return drive(self._runtime.sweeper.sweep())

    async def sweep_async(self) -> Swept:
        """As `sweep`."""
        self._runtime.ready()
        return await drive_async(self._runtime.sweeper.sweep())
