"""What an invalidation says, as records that have no place in the log yet. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..coherence.records import Draft, Kind
from ..errors import ScopeError
from ..keys import compile_glob, encode_pattern_target, encode_tag, encode_target, validate_key
from .targets import Target

TARGETS = 250
"""Targets under one record, so that no message grows past what the bus takes; all records travel in one round trip."""


def confined_to(path: str, tags: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of tags inside a scope; the tags themselves for the root."""
    return tuple(encode_tag(tag, path) for tag in tags) if path else tags


def inside(scope: str, path: str) -> bool:
    """Whether a scope is `path` or lies below it."""
    return not path or scope == path or scope.startswith(path + "/")


def pattern_draft(region: str, path: str, glob: str, *, soft: bool = False) -> Draft:
    """Return the record of a glob; a glob without wildcards is the key that it spells."""
    compiled = compile_glob(validate_key(glob, "a pattern"))
    if compiled.kind == "literal":
        return Draft(Kind.KEY, region, (encode_target(path, compiled.text),), soft)
    return Draft(Kind.PATTERN, region, (encode_pattern_target(path, glob),), soft)


def target_drafts(
    targets: Iterable[Target], region: str, regions: Sequence[str], within: str, *, soft: bool = False
) -> list[Draft]:
    """Return the records of what an event or an entity names.

    Args:
        targets: parsed. region: the one that is meant; "" for every one.
        regions: the names that keys and patterns are written down for: those belong to a region each.
        within: the scope path to which a view confines them; "" for the root.
        soft: marks stale instead of dead.

    Raises:
        ScopeError: a target names a scope that the view does not hold.
    """
    keys: list[str] = []
    tags: list[str] = []
    drafts: list[Draft] = []
    for target in targets:
        if target.kind == "key":
            keys.append(encode_target(within, target.text))
        elif target.kind == "pattern":
            drafts.extend(
                Draft(Kind.PATTERN, name, (encode_pattern_target(within, target.text),), soft) for name in regions
            )
        elif target.kind == "tag":
            tags += confined_to(within, (encode_tag(target.text),))
        elif inside(target.text, within):
            drafts.append(Draft(Kind.SCOPE, region, (target.text,), soft))
        else:
            raise ScopeError(f"this view is confined to {within!r}; {target.text or 'global'!r} lies outside of it")
    for start in range(0, len(keys), TARGETS):
        drafts.extend(Draft(Kind.KEY, name, tuple(keys[start : start + TARGETS]), soft) for name in regions)
    drafts.extend(
        Draft(Kind.TAG, region, tuple(tags[start : start + TARGETS]), soft) for start in range(0, len(tags), TARGETS)
    )
    return drafts
