"""Everything that says "this is no longer true", on a manager or on a view of it, sync and async."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .coherence.records import Draft, Kind
from .coherence.result import InvalidationResult
from .errors import BarrierTimeout, ScopeError
from .events import checked_name
from .invalidation.drafts import confined_to, pattern_draft, target_drafts
from .loading.writing import bury
from .plans import Pause, Plan, drive, drive_async
from .purging import Purging
from .region import Region, tags_of
from .standing import BATCH, several

if TYPE_CHECKING:
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
        barrier: float | None = None,
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
        barrier: float | None = None,
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
        barrier: float | None,
        require: bool,
    ) -> Plan[InvalidationResult]:
        addresses = yield from self._addresses(region, path, keys)
        self._runtime.ready()
        if not addresses:
            return self._nothing(count)
        before = (yield from self._runtime.dropped()) if count else 0
        for start in range(0, len(addresses), BATCH):
            if start:
                yield Pause(0.0)
            delivery = yield from bury(region, addresses[start : start + BATCH], soft=soft, require=require)
        removed = (yield from self._runtime.drop_dead(before)) if count else None
        return (yield from self._settled(delivery, barrier, removed))

    def invalidate_pattern(
        self,
        glob: str,
        *,
        soft: bool = False,
        count: bool = False,
        barrier: float | None = None,
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
        barrier: float | None = None,
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
        barrier: float | None = None,
        require_delivery: bool = False,
        region: str | None = None,
    ) -> InvalidationResult:
        """Invalidate every entry that carries one of the tags, in every region unless one is named."""
        drafts = self._tag_drafts(tags, region, soft=soft)
        return drive(self._invalidate(drafts, count, barrier, require_delivery))

    async def invalidate_tags_async(
        self,
        tags: Iterable[str],
        *,
        soft: bool = False,
        count: bool = False,
        barrier: float | None = None,
        require_delivery: bool = False,
        region: str | None = None,
    ) -> InvalidationResult:
        """As `invalidate_tags`."""
        drafts = self._tag_drafts(tags, region, soft=soft)
        return await drive_async(self._invalidate(drafts, count, barrier, require_delivery))

    def _tag_drafts(self, tags: Iterable[str], region: str | None, *, soft: bool) -> list[Draft]:
        name = self._runtime.region(region).name if region is not None else ""
        names = confined_to(self._within(), tags_of(tags))
        return [Draft(Kind.TAG, name, names[start : start + BATCH], soft) for start in range(0, len(names), BATCH)]

    def _within(self) -> str:
        """Return the scope path that the tags of this view are confined to; "" for a manager."""
        return ""

    def evict_by_scope(
        self,
        scope: str | None = None,
        *,
        soft: bool = False,
        count: bool = False,
        barrier: float | None = None,
        require_delivery: bool = False,
        region: str | None = None,
        **scope_params: Any,
    ) -> InvalidationResult:
        """Invalidate a scope and all below it, in every region unless one is named.

        Raises:
            ScopeError: nothing says which scope ("global" is everything), or a parameter is missing, surplus,
                empty or None.
        """
        drafts = self._scope_drafts(scope, region, scope_params, soft=soft)
        return drive(self._invalidate(drafts, count, barrier, require_delivery))

    async def evict_by_scope_async(
        self,
        scope: str | None = None,
        *,
        soft: bool = False,
        count: bool = False,
        barrier: float | None = None,
        require_delivery: bool = False,
        region: str | None = None,
        **scope_params: Any,
    ) -> InvalidationResult:
        """As `evict_by_scope`."""
        drafts = self._scope_drafts(scope, region, scope_params, soft=soft)
        return await drive_async(self._invalidate(drafts, count, barrier, require_delivery))

    def _scope_drafts(
        self, scope: str | None, region: str | None, params: Mapping[str, Any], *, soft: bool
    ) -> list[Draft]:
        if scope is None and not params and not self._within():
            raise ScopeError('which scope? evict_by_scope("user", user_id=…), or "global" for everything')
        found, path = self._locate(region, scope, params)
        return [Draft(Kind.SCOPE, found.name if region is not None else "", (path,), soft)]

    def clear(
        self,
        region: str | None = None,
        *,
        count: bool = False,
        barrier: float | None = None,
        require_delivery: bool = False,
    ) -> InvalidationResult:
        """Invalidate everything, or everything of one region."""
        return drive(self._invalidate(self._clear_drafts(region), count, barrier, require_delivery))

    async def clear_async(
        self,
        region: str | None = None,
        *,
        count: bool = False,
        barrier: float | None = None,
        require_delivery: bool = False,
    ) -> InvalidationResult:
        """As `clear`."""
        return await drive_async(self._invalidate(self._clear_drafts(region), count, barrier, require_delivery))

    def _clear_drafts(self, region: str | None) -> list[Draft]:
        name = self._runtime.region(region).name if region is not None else ""
        within = self._within()
        if within:
            return [Draft(Kind.SCOPE, name, (within,))]
        if name:
            return [Draft(Kind.REGION, name, (name,))]
        return [Draft(Kind.ALL, "", ())]

    # -- events -----------------------------------------------------------------------------------

    def handle_event(
        self,
        event: str,
        payload: Mapping[str, Any] | None = None,
        *,
        broadcast: bool = False,
        soft: bool = False,
        count: bool = False,
        barrier: float | None = None,
        require_delivery: bool = False,
        region: str | None = None,
    ) -> InvalidationResult:
        """Invalidate what the configured strategies say an event means, and tell the handlers of `CacheManager.on`.

        An event that no strategy knows invalidates nothing and is counted (`EventBasedInvalidation.ignored`).
        Targets that are keys or patterns reach every region that is configured or was used here.

        Args:
            event: its name. payload: what its targets' fields are filled from.
            broadcast: tell the handlers of the other processes too, by the bus, at most once. (The
                invalidations reach them in any case, by the log.)

        Raises:
            InvalidationError: the payload lacks a field, or cannot travel; nothing has happened then.
        """
        drafts, message = self._event(event, payload, broadcast, region, soft=soft)
        return drive(self._handle_event(event, payload, drafts, message, count, barrier, require_delivery))

    async def handle_event_async(
        self,
        event: str,
        payload: Mapping[str, Any] | None = None,
        *,
        broadcast: bool = False,
        soft: bool = False,
        count: bool = False,
        barrier: float | None = None,
        require_delivery: bool = False,
        region: str | None = None,
    ) -> InvalidationResult:
        """As `handle_event`; sync handlers run in a worker thread."""
        drafts, message = self._event(event, payload, broadcast, region, soft=soft)
        return await drive_async(self._handle_event(event, payload, drafts, message, count, barrier, require_delivery))

    def _event(
        self, event: str, payload: Mapping[str, Any] | None, broadcast: bool, region: str | None, *, soft: bool
    ) -> tuple[list[Draft], bytes | None]:
        """Return what an event invalidates, and the message by which it travels."""
        message = self._runtime.events.message(checked_name(event), payload) if broadcast else None
        targets = self._runtime.event_targets(checked_name(event), payload)
        return self._target_drafts(targets, region, soft=soft), message

    def _handle_event(
        self,
        event: str,
        payload: Mapping[str, Any] | None,
        drafts: list[Draft],
        message: bytes | None,
        count: bool,
        barrier: float | None,
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
        barrier: float | None = None,
        require_delivery: bool = False,
        region: str | None = None,
    ) -> InvalidationResult:
        """Invalidate what the configured patterns say belongs to an entity."""
        drafts = self._target_drafts(self._runtime.entity_targets(entity, id), region, soft=soft)
        return drive(self._invalidate(drafts, count, barrier, require_delivery))

    async def invalidate_entity_async(
        self,
        entity: str,
        id: Any,
        *,
        soft: bool = False,
        count: bool = False,
        barrier: float | None = None,
        require_delivery: bool = False,
        region: str | None = None,
    ) -> InvalidationResult:
        """As `invalidate_entity`."""
        drafts = self._target_drafts(self._runtime.entity_targets(entity, id), region, soft=soft)
        return await drive_async(self._invalidate(drafts, count, barrier, require_delivery))

    def _target_drafts(self, targets: Iterable[Target], region: str | None, *, soft: bool) -> list[Draft]:
        """Return the records of parsed targets."""
        name = self._runtime.region(region).name if region is not None else ""
        names = [name] if name else self._runtime.region_names()
        for target in targets:
            if target.kind == "scope":
                self._runtime.scope_path(target)
        return target_drafts(targets, name, names, self._within(), soft=soft)

    # -- appending --------------------------------------------------------------------------------

    def _invalidate(
        self,
        drafts: list[Draft],
        count: bool,
        barrier: float | None,
        require: bool,
    ) -> Plan[InvalidationResult]:
        self._runtime.ready()
        if not drafts:
            return self._nothing(count)
        before = (yield from self._runtime.dropped()) if count else 0
        keys = [draft for draft in drafts if draft.kind is Kind.KEY and not draft.soft]
        writes = self._runtime.burials(keys) if keys else ()
        delivery = yield from self._runtime.coherence.append(drafts, writes, require=require)
        removed = (yield from self._runtime.drop_dead(before)) if count else None
        return (yield from self._settled(delivery, barrier, removed))

    def _nothing(self, count: bool) -> InvalidationResult:
        """Return the result of an invalidation that names nothing."""
        return InvalidationResult(self._runtime.coherence.position()[1], delivered=True, removed=0 if count else None)
