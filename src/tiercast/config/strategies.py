"""What the configuration asks of an invalidation strategy; those of tiercast, and users' own, have one or more of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable
from uuid import UUID


@runtime_checkable
class TimeRule(Protocol):
    """A strategy that says how long entries live.

    Attributes:
        default_ttl: seconds; None is until invalidated.
        ttl_jitter: the part of it by which lifetimes vary, either way.
        sliding: whether a read renews it.
    """

    @property
    def default_ttl(self) -> float | None: ...
    @property
    def ttl_jitter(self) -> float: ...
    @property
    def sliding(self) -> bool: ...


@runtime_checkable
class EventRule(Protocol):
    """A strategy that turns an event into targets: globs over keys, "tag:…" or "scope:…"."""

    def handle_event(self, event: str, payload: Mapping[str, Any] | None = None) -> Sequence[str]: ...


@runtime_checkable
class EntityRule(Protocol):
    """A strategy that turns a changed entity into targets, as an EventRule does."""

    def invalidate_entity(self, entity: str, id: str | int | UUID) -> Sequence[str]: ...


Strategy: TypeAlias = TimeRule | EventRule | EntityRule
