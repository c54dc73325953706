"""Invalidation by entity: which keys, tags and scopes hold something about an entity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

import attrs

from ..config.checks import refuse_unknown
from ..errors import InvalidationError
from ..monitoring.counter import Counter
from .targets import Templates, compile_templates, render_all, scope_levels


def _copied(value: Mapping[str, Sequence[str] | str]) -> Mapping[str, Sequence[str] | str]:
    return dict(value) if isinstance(value, Mapping) else value  # what is no mapping is refused by compile_templates


@refuse_unknown
@attrs.frozen
class PatternBasedInvalidation:
    """Says for each kind of entity what a change of one invalidates. Thread-safe; does no I/O.

    "user:{id}*" with the id 12 also matches user:123; "user:{id}" with "user:{id}:*" does not.

    Attributes:
        patterns: from an entity's name to its targets (see `targets`), in which {id} is the entity's id:
            {"user": ["user:{id}", "user:{id}:*"]}.
        ignored: counts the entities that were unknown.
    """

    patterns: Mapping[str, Sequence[str] | str] = attrs.field(converter=_copied)
    ignored: Counter = attrs.field(init=False, factory=Counter, eq=False, repr=False)
    _templates: Templates = attrs.field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        templates = compile_templates(self.patterns, "entity")
        for entity, targets in templates.items():
            for template in targets:
                for field in template.fields:
                    if field != "id":
                        problem = f"{{{field}}} is not known; only {{id}} is"
                        raise InvalidationError(f"entity {entity!r}: target {template.text!r}: {problem}")
        object.__setattr__(self, "_templates", templates)

    def __reduce__(self) -> tuple[type[PatternBasedInvalidation], tuple[Mapping[str, Sequence[str] | str]]]:
        return PatternBasedInvalidation, (self.patterns,)

    @property
    def scope_levels(self) -> tuple[tuple[str, ...], ...]:
        """The ways from the root, by level names, that scope targets name."""
        return scope_levels(self._templates)

    def invalidate_entity(self, entity: str, id: str | int | UUID) -> list[str]:
        """Return the targets of an entity, its id in them escaped; none for an unknown entity.

        Raises:
            InvalidationError: the id is no str, int or UUID, or empty.
        """
        templates = self._templates.get(entity)
        if templates is None:
            self.ignored.add()
            return []
        return render_all(templates, lambda field: id, f"entity {entity!r}")
