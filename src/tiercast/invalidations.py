"""Everything that says "this is no longer true", on a manager or on a view of it, sync and async."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .coherence.records import Draft, Kind
from .errors import InvalidationError
from .invalidation.result import InvalidationResult
from .keys import compile_glob, encode_pattern_target, encode_tag, encode_target, validate_key
from .loading.writing import bury
from .operations import BATCH, Operations, several
from .plans import Plan, drive, drive_async
from .region import Region, tags_of
from .tiers.entry import Address

if TYPE_CHECKING:
    from .invalidation.targets import Target

Match = Callable[[Address, "tuple[str, ...]"], bool]


class Invalidations(Operations):
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
        addresses = [Address(region.name, path, validate_key(key)) for key in keys]
        self._runtime.ready()
        if not addresses:
            return self._nothing(count)
        before = self._runtime.dropped() if count else 0
        for start in range(0, len(addresses), BATCH):
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
        """Invalidate a scope and all below it, in every region unless one is named."""
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
        payload: Mapping[str, Any],
        *,
        soft: bool = False,
        count: bool = False,
        barrier: float | None = None,
        require_delivery: bool = False,
        region: str | None = None,
    ) -> InvalidationResult:
        """Invalidate what the configured strategies say an event means; an unknown event is ignored and counted."""
        targets = self._runtime.event_targets(event, payload)
        return drive(
            self._invalidate(self._target_drafts(targets, region, soft=soft), count, barrier, require_delivery)
        )

    async def handle_event_async(
        self,
        event: str,
        payload: Mapping[str, Any],
        *,
        soft: bool = False,
        count: bool = False,
        barrier: float | None = None,
        require_delivery: bool = False,
        region: str | None = None,
    ) -> InvalidationResult:
        """As `handle_event`."""
        targets = self._runtime.event_targets(event, payload)
        return await drive_async(
            self._invalidate(self._target_drafts(targets, region, soft=soft), count, barrier, require_delivery)
        )

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
        targets = self._runtime.entity_targets(entity, id)
        return drive(
            self._invalidate(self._target_drafts(targets, region, soft=soft), count, barrier, require_delivery)
        )

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
        targets = self._runtime.entity_targets(entity, id)
        return await drive_async(
            self._invalidate(self._target_drafts(targets, region, soft=soft), count, barrier, require_delivery)
        )

    def _target_drafts(self, targets: Iterable[Target], region: str | None, *, soft: bool) -> list[Draft]:
        """Return the records of parsed targets: keys and patterns once for each region that is meant."""
        names = [self._runtime.region(region).name] if region is not None else self._runtime.region_names()
        within = self._within()
        drafts: list[Draft] = []
        for target in targets:
            if target.kind == "tag":
                drafts.append(Draft(Kind.TAG, region or "", confined_to(within, tags_of((target.text,))), soft))
            elif target.kind == "scope":
                drafts.append(Draft(Kind.SCOPE, region or "", (self._runtime.scope_path(target),), soft))
            else:
                drafts.extend(pattern_draft(name, within, target.text, soft=soft) for name in names)
        return drafts

    # -- purge --------------------------------------------------------------------------------------

    def purge(
        self,
        *,
        tags: Iterable[str] = (),
        pattern: str | None = None,
        region: str | None = None,
        scope: str | None = None,
        **scope_params: Any,
    ) -> dict[str, int]:
        """Invalidate, and remove physically now, in every tier, what matches all that is given.

        Returns:
            The entries removed per tier: "local" (this process's memory; other processes drop
            theirs as they apply the record), "disk" (this host's) and "remote".

        Raises:
            InvalidationError: nothing says what to purge.
        """
        return drive(self._purge(tags, pattern, region, scope, scope_params))

    async def purge_async(
        self,
        *,
        tags: Iterable[str] = (),
        pattern: str | None = None,
        region: str | None = None,
        scope: str | None = None,
        **scope_params: Any,
    ) -> dict[str, int]:
        """As `purge`."""
        return await drive_async(self._purge(tags, pattern, region, scope, scope_params))

    def _purge(
        self,
        tags: Iterable[str],
        pattern: str | None,
        region: str | None,
        scope: str | None,
        params: Mapping[str, Any],
    ) -> Plan[dict[str, int]]:
        current, path = self._locate(region, scope, params)
        wanted = tags_of(tags)
        if not (wanted or pattern or region or path):
            message = "purge needs tags=, pattern=, scope= or region=; clear() invalidates everything"
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
        self._runtime.ready()
        yield from self._runtime.coherence.append(drafts)
        glob = compile_glob(pattern) if pattern is not None else None

        def matches(address: Address, carried: tuple[str, ...]) -> bool:
            return (
                (not name or address.region == name)
                and (address.scope == path if glob else inside(address.scope, path))
                and (not wanted or not set(wanted).isdisjoint(carried))
                and (glob is None or glob.match(address.key))
            )

        return (yield from self._runtime.remove_matching(matches))

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
        before = self._runtime.dropped() if count else 0
        keys = [draft for draft in drafts if draft.kind is Kind.KEY and not draft.soft]
        writes = self._runtime.burials(keys) if keys else ()
        delivery = yield from self._runtime.coherence.append(drafts, writes, require=require)
        removed = (yield from self._runtime.drop_dead(before)) if count else None
        return (yield from self._settled(delivery, barrier, removed))

    def _nothing(self, count: bool) -> InvalidationResult:
        """Return the result of an invalidation that names nothing."""
        return InvalidationResult(self._runtime.coherence.position()[1], delivered=True, removed=0 if count else None)


def confined_to(path: str, tags: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of tags inside a scope; the tags themselves for the root."""
    return tuple(encode_tag(tag, path) for tag in tags) if path else tags


def inside(scope: str, path: str) -> bool:
    """Whether a scope is `path` or lies below it."""
    return not path or scope == path or scope.startswith(path + "/")


def pattern_draft(region: str, path: str, glob: str, *, soft: bool = False) -> Draft:
    """Return the record of a glob; a glob without wildcards is the key that it spells."""
    compiled = compile_glob(validate_key(glob))
    if compiled.kind == "literal":
        return Draft(Kind.KEY, region, (encode_target(path, compiled.text),), soft)
    return Draft(Kind.PATTERN, region, (encode_pattern_target(path, glob),), soft)
