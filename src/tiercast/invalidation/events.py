"""Invalidation by events: what happened in the domain, and what that makes untrue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ..config.checks import refuse_unknown
from ..errors import InvalidationError
from ..monitoring.counter import Counter
from .targets import Templates, compile_templates, render_all, scope_levels


def _copied(value: Mapping[str, Sequence[str] | str]) -> Mapping[str, Sequence[str] | str]:
    return dict(value) if isinstance(value, Mapping) else value  # what is no mapping is refused by compile_templates


@refuse_unknown
@attrs.frozen
class EventBasedInvalidation:
    """Says for each event of the domain what it invalidates. Thread-safe; does no I/O.

    Attributes:
        targets: from an event's name to its targets (see `targets`): {"user.updated": ["user:{id}", "user:{id}:*"]}.
            Fields are taken from the event's payload; {user.id} looks into a mapping or an object in it.
        ignored: counts the events that were unknown.
    """

    targets: Mapping[str, Sequence[str] | str] = attrs.field(converter=_copied)
    ignored: Counter = attrs.field(init=False, factory=Counter, eq=False, repr=False)
    _templates: Templates = attrs.field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_templates", compile_templates(self.targets, "event"))

    def __reduce__(self) -> tuple[type[EventBasedInvalidation], tuple[Mapping[str, Sequence[str] | str]]]:
        return EventBasedInvalidation, (self.targets,)

    @property
    def scope_levels(self) -> tuple[tuple[str, ...], ...]:
        """The ways from the root, by level names, that scope targets name."""
        return scope_levels(self._templates)

    def handle_event(self, event: str, payload: Mapping[str, Any] | None = None) -> list[str]:
        """Return the targets of an event, the payload's values in them escaped; none for an unknown event.

        Raises:
            InvalidationError: the payload lacks a field, or the field is no str, int or UUID, or empty.
        """
        templates = self._templates.get(event)
        if templates is None:
            self.ignored.add()
            return []
        if payload is not None and not isinstance(payload, Mapping):
            raise InvalidationError(f"event {event!r}: its payload must be a mapping, not {type(payload).__name__}")
        found = payload or {}

        def find(field: str) -> object:
            value: Any = found
            for name in field.split("."):
                value = value[name] if isinstance(value, Mapping) else getattr(value, name)
            return value

        return render_all(templates, find, f"event {event!r}")
