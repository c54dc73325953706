"""Everything that says "this is no longer true", on a manager or on a view of it, sync and async."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .coherence.log import LogUnavailable
from .coherence.records import Draft, Kind
from .coherence.result import InvalidationResult
from .errors import BarrierTimeout, ScopeError
from .events import checked_name
from .invalidation.drafts import confined_to, pattern_draft, target_drafts
from .keys import decode_target
from .loading.writing import bury
from .plans import Pause, Plan, drive, drive_async
from .purging import Purging
from .region import Duration, Region, tags_of
from .standing import BATCH, several
from .tiers.entry import Address

if TYPE_CHECKING:
    from .coherence.coherence import Delivery
    from .invalidation.targets import Target

__all__ = ["Invalidations", "pattern_draft"]


class Invalidations(Purging):
    """The invalidations. None touches an entry: each appends records, whatever the number of entries.

    Besides what every operation takes: `soft` marks stale instead of dead, so that the next
    read may serve the value while one process refreshes it; `count` asks for the number of
    entries really dropped here (a walk over this process's memory and this host's disk).
    """

    # -- keys and patterns: the current region --------------------------------------------------

    def invalidate_keys(
        self,
        keys: Iterable[str],
        *,
        soft: bool = False,
        count: bool = False,
        barrier: Duration | None = None,
        require_delivery: bool = False,
        region: str | None = None,
        scope: str | None = None,
        **scope_params: Any,
    ) -> InvalidationResult:
        """Invalidate keys of the current region and scope."""
        current, path = self._locate(region, scope, scope_params)
        return drive(self._invalidate_keys(current, path, several(keys), soft, count, barrier, require_delivery))

    async def invalidate_keys_async(
        self,
        keys: Iterable[str],
        *,
        soft: bool = False,
        count: bool = False,
        barrier: Duration | None = None,
        require_delivery: bool = False,
        region: str | None = None,
        scope: str | None = None,
        **scope_params: Any,
    ) -> InvalidationResult:
        """As `invalidate_keys`."""
        current, path = self._locate(region, scope, scope_params)
        return await drive_async(
            self._invalidate_keys(current, path, several(keys), soft, count, barrier, require_delivery)
        )

    def _invalidate_keys(
        self,
        region: Region,
        path: str,
        keys: list[str],
        soft: bool,
        count: bool,
        barrier: Duration | None,
        require: bool,
    ) -> Plan[InvalidationResult]:
        addresses = yield from self._addresses(region, path, keys)
        self._appending(barrier)
        if not addresses:
            return self._nothing(count)
        before = (yield from self._before(() if soft else addresses)) if count else None
        for start in range(0, len(addresses), BATCH):
            if start:
                yield Pause(0.0)
            delivery = yield from bury(region, addresses[start : start + BATCH], soft=soft, require=require)
        removed = yield from self._removed_since(before, delivery)
        return (yield from self._settled(delivery, barrier, removed))

    def invalidate_pattern(
        self,
        glob: str,
        *,
        soft: bool = False,
        count: bool = False,
        barrier: Duration | None = None,
        require_delivery: bool = False,
        region: str | None = None,
        scope: str | None = None,
        **scope_params: Any,
    ) -> InvalidationResult:
        """Invalidate the keys of the current region and scope that a glob matches: ``*``, ``?``, ``[a-z]``, ``[!x]``."""
        current, path = self._locate(region, scope, scope_params)
        drafts = [pattern_draft(current.name, path, glob, soft=soft)]
        return drive(self._invalidate(drafts, count, barrier, require_delivery))

    async def invalidate_pattern_async(
        self,
        glob: str,
        *,
        soft: bool = False,
        count: bool = False,
        barrier: Duration | None = None,
        require_delivery: bool = False,
        region: str | None = None,
        scope: str | None = None,
        **scope_params: Any,
    ) -> InvalidationResult:
        """As `invalidate_pattern`."""
        current, path = self._locate(region, scope, scope_params)
        drafts = [pattern_draft(current.name, path, glob, soft=soft)]
        return await drive_async(self._invalidate(drafts, count, barrier, require_delivery))

    # -- tags, scopes, everything: every region unless one is named -------------------------------

    def invalidate_tags(
        self,
        tags: Iterable[str],
        *,
        soft: bool = False,
        count: bool = False,
        barrier: Duration | None = None,
        require_delivery: bool = False,
        region: str | None = None,
        scope: str | None = None,
        **scope_params: Any,
    ) -> InvalidationResult:
        """Invalidate every entry that carries one of the tags, in every region unless one is named.

        A scope confines that to entries in it and below it.
        """
        drafts = self._tag_drafts(tags, self._reach(region, scope, scope_params), soft=soft)
        return drive(self._invalidate(drafts, count, barrier, require_delivery))

    async def invalidate_tags_async(
        self,
        tags: Iterable[str],
        *,
        soft: bool = False,
        count: bool = False,
        barrier: Duration | None = None,
        require_delivery: bool = False,
        region: str | None = None,
        scope: str | None = None,
        **scope_params: Any,
    ) -> InvalidationResult:
        """As `invalidate_tags`."""
        drafts = self._tag_drafts(tags, self._reach(region, scope, scope_params), soft=soft)
        return await drive_async(self._invalidate(drafts, count, barrier, require_delivery))

    @staticmethod
    def _tag_drafts(tags: Iterable[str], reach: tuple[str, str], *, soft: bool) -> list[Draft]:
        name, path = reach
        names = confined_to(path, tags_of(tags))
        return [Draft(Kind.TAG, name, names[start : start + BATCH], soft) for start in range(0, len(names), BATCH)]

    def _reach(self, region: str | None, scope: str | None, params: Mapping[str, Any]) -> tuple[str, str]:
        """Return the region ("" for every one) and the scope path inside which something is invalidated."""
        found, path = self._locate(region, scope, params)
        return (found.name if region is not None else ""), path

    def evict_by_scope(
        self,
        scope: str | None = None,
        *,
        soft: bool = False,
        count: bool = False,
        barrier: Duration | None = None,
        require_delivery: bool = False,
        region: str | None = None,
        **scope_params: Any,
    ) -> InvalidationResult:
        """Invalidate a scope and all below it, in every region unless one is named.

        Raises:
            ScopeError: nothing says which scope ("global" is everything), or a parameter is missing, surplus,
                empty or None.
        """
        drafts = [self._scope_draft(scope, region, scope_params, soft=soft)]
        return drive(self._invalidate(drafts, count, barrier, require_delivery))

    async def evict_by_scope_async(
        self,
        scope: str | None = None,
        *,
        soft: bool = False,
        count: bool = False,
        barrier: Duration | None = None,
        require_delivery: bool = False,
        region: str | None = None,
        **scope_params: Any,
    ) -> InvalidationResult:
        """As `evict_by_scope`."""
        drafts = [self._scope_draft(scope, region, scope_params, soft=soft)]
        return await drive_async(self._invalidate(drafts, count, barrier, require_delivery))

    def _scope_draft(self, scope: str | None, region: str | None, params: Mapping[str, Any], *, soft: bool) -> Draft:
        name, path = self._reach(region, scope, params)
        if scope is None and not path:
            raise ScopeError('which scope? evict_by_scope("user", user_id=…), or "global" for everything')
        return Draft(Kind.SCOPE, name, (path,), soft)

    def clear(
        self,
        region: str | None = None,
        *,
        count: bool = False,
        barrier: Duration | None = None,
        require_delivery: bool = False,
        scope: str | None = None,
        **scope_params: Any,
    ) -> InvalidationResult:
        """Invalidate everything, or everything of one region, of one scope and all below it, or of both."""
        drafts = [self._clear_draft(*self._reach(region, scope, scope_params))]
        return drive(self._invalidate(drafts, count, barrier, require_delivery))

    async def clear_async(
        self,
        region: str | None = None,
        *,
        count: bool = False,
        barrier: Duration | None = None,
        require_delivery: bool = False,
        scope: str | None = None,
        **scope_params: Any,
    ) -> InvalidationResult:
        """As `clear`."""
        drafts = [self._clear_draft(*self._reach(region, scope, scope_params))]
        return await drive_async(self._invalidate(drafts, count, barrier, require_delivery))

    @staticmethod
    def _clear_draft(name: str, path: str) -> Draft:
        if path:
            return Draft(Kind.SCOPE, name, (path,))
        return Draft(Kind.REGION, name, (name,)) if name else Draft(Kind.ALL, "", ())

    # -- events -----------------------------------------------------------------------------------

    def handle_event(
        self,
        event: str,
        payload: Mapping[str, Any] | None = None,
        *,
        broadcast: bool = False,
        soft: bool = False,
        count: bool = False,
        barrier: Duration | None = None,
        require_delivery: bool = False,
        region: str | None = None,
        scope: str | None = None,
        **scope_params: Any,
    ) -> InvalidationResult:
        """Invalidate what the configured strategies say an event means, and tell the handlers of `CacheManager.on`.

        An event that no strategy knows invalidates nothing and is counted (`EventBasedInvalidation.ignored`).
        Targets that are keys or patterns reach every region that is configured or was used here. A scope
        confines all targets to it.

        Args:
            event: its name. payload: what its targets' fields are filled from.
            broadcast: tell the handlers of the other processes too, by the bus, at most once. (The
                invalidations reach them in any case, by the log.)

        Raises:
            InvalidationError: the payload lacks a field, or cannot travel; nothing has happened then.
            ScopeError: a target lies outside the scope that is named, or the scope cannot be.
        """
        reach = self._reach(region, scope, scope_params)
        drafts, message = self._event(event, payload, broadcast, reach, soft=soft)
        return drive(self._handle_event(event, payload, drafts, message, count, barrier, require_delivery))

    async def handle_event_async(
        self,
        event: str,
        payload: Mapping[str, Any] | None = None,
        *,
        broadcast: bool = False,
        soft: bool = False,
        count: bool = False,
        barrier: Duration | None = None,
        require_delivery: bool = False,
        region: str | None = None,
        scope: str | None = None,
        **scope_params: Any,
    ) -> InvalidationResult:
        """As `handle_event`; sync handlers run in a worker thread."""
        reach = self._reach(region, scope, scope_params)
        drafts, message = self._event(event, payload, broadcast, reach, soft=soft)
        return await drive_async(self._handle_event(event, payload, drafts, message, count, barrier, require_delivery))

    def _event(
        self, event: str, payload: Mapping[str, Any] | None, broadcast: bool, reach: tuple[str, str], *, soft: bool
    ) -> tuple[list[Draft], bytes | None]:
        """Return what an event invalidates, and the message by which it travels."""
        message = self._runtime.events.message(checked_name(event), payload) if broadcast else None
        targets = self._runtime.event_targets(checked_name(event), payload)
        return self._target_drafts(targets, reach, soft=soft), message

    def _handle_event(
        self,
        event: str,
        payload: Mapping[str, Any] | None,
        drafts: list[Draft],
        message: bytes | None,
        count: bool,
        barrier: Duration | None,
        require: bool,
    ) -> Plan[InvalidationResult]:
        events = self._runtime.events
        late: BarrierTimeout | None = None
        try:
            result = yield from self._invalidate(drafts, count, barrier, require)
        except BarrierTimeout as exc:  # it has happened, and is told, all the same
            late = exc
        yield from events.happened(event, payload)
        if message is not None:
            yield from events.broadcast(event, message)
        if late is not None:
            raise late
        return result

    def invalidate_entity(
        self,
        entity: str,
        id: Any,
        *,
        soft: bool = False,
        count: bool = False,
        barrier: Duration | None = None,
        require_delivery: bool = False,
        region: str | None = None,
        scope: str | None = None,
        **scope_params: Any,
    ) -> InvalidationResult:
        """Invalidate what the configured patterns say belongs to an entity."""
        reach = self._reach(region, scope, scope_params)
        drafts = self._target_drafts(self._runtime.entity_targets(entity, id), reach, soft=soft)
        return drive(self._invalidate(drafts, count, barrier, require_delivery))

    async def invalidate_entity_async(
        self,
        entity: str,
        id: Any,
        *,
        soft: bool = False,
        count: bool = False,
        barrier: Duration | None = None,
        require_delivery: bool = False,
        region: str | None = None,
        scope: str | None = None,
        **scope_params: Any,
    ) -> InvalidationResult:
        """As `invalidate_entity`."""
        reach = self._reach(region, scope, scope_params)
        drafts = self._target_drafts(self._runtime.entity_targets(entity, id), reach, soft=soft)
        return await drive_async(self._invalidate(drafts, count, barrier, require_delivery))

    def _target_drafts(self, targets: Iterable[Target], reach: tuple[str, str], *, soft: bool) -> list[Draft]:
        """Return the records of parsed targets."""
        name, path = reach
        names = [name] if name else self._runtime.region_names()
        for target in targets:
            if target.kind == "scope":
                self._runtime.scope_path(target)
        return target_drafts(targets, name, names, path, soft=soft)

    # -- appending --------------------------------------------------------------------------------

    def _invalidate(
        self,
        drafts: list[Draft],
        count: bool,
        barrier: Duration | None,
        require: bool,
    ) -> Plan[InvalidationResult]:
        self._appending(barrier)
        if not drafts:
            return self._nothing(count)
        keys = [draft for draft in drafts if draft.kind is Kind.KEY and not draft.soft]
        before = None
        if count:
            before = yield from self._before(
                [Address(draft.region, *decode_target(target)) for draft in keys for target in draft.targets]
            )
        writes = self._runtime.burials(keys) if keys else ()
        delivery = yield from self._runtime.coherence.append(drafts, writes, require=require)
        removed = yield from self._removed_since(before, delivery)
        return (yield from self._settled(delivery, barrier, removed))

    def _before(self, keys: Sequence[Address]) -> Plan[tuple[int, int]]:
        """Remove what is dead already, before `keys` are invalidated, and count what will be dropped by itself.

        Returns:
            How many entries memory has dropped so far, and of how many of the keys this host's disk holds one.
        """
        dropped, _ = yield from self._runtime.drop_dead()
        return dropped, (yield from self._runtime.on_disk(keys))

    def _removed_since(self, before: tuple[int, int] | None, delivery: Delivery) -> Plan[int | None]:
        """Return how many entries were dropped here since what was dead already had gone; None: nobody asked."""
        if before is None:
            return None
        dropped, held = before
        try:
            yield from self._runtime.coherence.follow_stores()  # which removes the keys: none of them is counted twice
        except LogUnavailable:
            held = 0
        now, on_disk = yield from self._runtime.drop_dead()
        return now - dropped + on_disk + (held if delivery.delivered else 0)

    def _nothing(self, count: bool) -> InvalidationResult:
        """Return the result of an invalidation that names nothing."""
        return InvalidationResult(self._runtime.coherence.position()[1], delivered=True, removed=0 if count else None)
