"""Targets: what an event or a changed entity invalidates, written as text with fields. Pure.

    user:{id}                       the key (a target without wildcards)
    user:{id}:*                     every key that the glob matches
    tag:user:{id}                   the tag "user:…", exactly
    scope:organization:{org_id}     the scope, with all below it ("scope:global": everything)

A template is split into its kind and its fields before any value is put in, and
each value is escaped for its place. So no value can turn a key into a tag, reach
another scope, or widen a glob (guarantee G8). What a template renders to is text
that `parse_target` reads back to exactly one target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from string import Formatter
from typing import Any, Literal
from uuid import UUID

from ..config import GLOBAL, EntityRule, EventRule
from ..errors import InvalidationError
from ..keys import (
    ROOT,
    compile_glob,
    encode_part,
    encode_part_until,
    ends_open,
    escape_glob,
    identity,
    part_end,
    split_path,
)

TAG = "tag:"
SCOPE = "scope:"


@dataclass(frozen=True, slots=True)
class Target:
    """One thing to invalidate.

    Attributes:
        kind: what `text` is.
        text: "key": a key, unescaped. "pattern": a glob. "tag": a tag. "scope": a canonical scope path.
        region: the region; None: what the operation says.
    """

    kind: Literal["key", "pattern", "tag", "scope"]
    text: str
    region: str | None = None


def parse_target(text: str) -> Target:
    """Read a target without fields.

    Raises:
        InvalidationError: it is not text, is empty, or names no canonical scope path.
    """
    if not isinstance(text, str):
        raise InvalidationError(f"a target must be text, not {text!r}")
    if text.startswith(TAG):
        tag = text[len(TAG) :]
        if not tag:
            raise InvalidationError(f"target {text!r} names no tag")
        return Target("tag", tag)
    if text.startswith(SCOPE):
        path = text[len(SCOPE) :]
        return Target("scope", ROOT if path == GLOBAL else _checked_path(path, text))
    glob = compile_glob(text)
    if glob.kind != "literal":
        return Target("pattern", text)
    if not glob.text:
        raise InvalidationError("a target must not be empty")
    return Target("key", glob.text)


def _checked_path(path: str, target: str) -> str:
    try:
        if not split_path(path):
            raise ValueError("it names no scope")
    except ValueError as exc:
        raise InvalidationError(f"target {target!r}: {exc}") from None
    return path


@dataclass(frozen=True, slots=True)
class TargetTemplate:
    """A target with fields such as {id} or {user.id}, checked when it is made.

    Attributes:
        text: as it was written.
        kind: "glob", "tag" or "scope".
        pieces: pairs (literal text, the field after it or None).
        levels: for a scope that is not the root, the names of its levels, outermost first.
    """

    text: str
    kind: Literal["glob", "tag", "scope"]
    pieces: tuple[tuple[str, str | None], ...]
    levels: tuple[str, ...] = ()

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields, in order."""
        return tuple(field for _, field in self.pieces if field is not None)

    def render(self, value_of: Callable[[str], str]) -> list[str]:
        """Put values, escaped for their place, into the template; each outcome is text for `parse_target`.

        A value with a separator in it is spelled in two ways: as it is, which is how one
        writes a key or tag by hand, and percent-encoded, as the decorators' templates write it.

        Args:
            value_of: answers the text (not empty) of a field.
        """
        values = [(literal, "" if field is None else value_of(field)) for literal, field in self.pieces]
        ends = [*(part_end(literal) if field is not None else "" for literal, field in self.pieces[1:]), ""]
        if self.kind == "scope":
            return ["".join(literal + encode_part(value) for literal, value in values)]
        escape = escape_glob if self.kind == "glob" else str.__str__
        spelled: tuple[str, ...] = (
            "".join(literal + escape(value) for literal, value in values),
            "".join(
                literal + encode_part_until(value, end) for (literal, value), end in zip(values, ends, strict=True)
            ),
        )
        if self.kind == "glob":
            # Where a value wrote that, it is only the beginning of a key, escaped.
            spelled = tuple(f"\\{text}" if text.startswith((TAG, SCOPE)) else text for text in spelled)
        return list(dict.fromkeys(spelled))


def parse_template(text: object) -> TargetTemplate:
    """Read a target with fields.

    Raises:
        InvalidationError: it is no text, a field is malformed or stands where its value could not be escaped.
    """
    if not isinstance(text, str) or not text:
        raise InvalidationError(f"a target must be text and not empty, not {text!r}")
    try:
        pieces = _pieces(text)
    except ValueError as exc:
        raise InvalidationError(f"target {text!r}: {exc}") from None
    plain = "".join(literal + ("x" if field is not None else "") for literal, field in pieces)
    if text.startswith(SCOPE):
        return TargetTemplate(text, "scope", pieces, _levels(text, pieces))
    parse_target(plain)
    if text.startswith(TAG):
        if any(char in literal for literal, _ in pieces for char in "*?"):
            raise InvalidationError(f"target {text!r}: a tag is matched exactly; wildcards are for keys")
        return TargetTemplate(text, "tag", pieces)
    before = ""
    for literal, field in pieces:
        before += literal
        if field is not None and ends_open(before):
            raise InvalidationError(f"target {text!r}: {{{field}}} must not stand in [...] or after a backslash")
        before += "x"
    return TargetTemplate(text, "glob", pieces)


def _pieces(text: str) -> tuple[tuple[str, str | None], ...]:
    """Split a template into pairs (literal, field); "{{" and "}}" stand for braces. Raises: ValueError."""
    pieces: list[tuple[str, str | None]] = []
    for literal, field, form, conversion in Formatter().parse(text):
        if field is not None:
            if form or conversion:
                raise ValueError(f"{{{field}}} takes no format and no conversion")
            if not all(part.isidentifier() and not part.startswith("_") for part in field.split(".")):
                raise ValueError(f"{{{field}}} is not the name of a field")
        pieces.append((literal, field))
    return tuple(pieces)


def _levels(text: str, pieces: tuple[tuple[str, str | None], ...]) -> tuple[str, ...]:
    """Return the levels of a scope template; their names must not depend on fields."""
    found = []
    for value in "xy":
        try:
            target = parse_target("".join(literal + (value if field is not None else "") for literal, field in pieces))
        except InvalidationError:
            shape = "scope:level:{id}/level:{id}, from the root down"
            raise InvalidationError(f"target {text!r}: a scope is written {shape}") from None
        found.append(tuple(level for level, _ in split_path(target.text)))
    if found[0] != found[1]:
        raise InvalidationError(f"target {text!r}: a field must not stand in the name of a scope's level")
    return found[0]


Templates = Mapping[str, tuple[TargetTemplate, ...]]


def compile_templates(mapping: object, what: str) -> dict[str, tuple[TargetTemplate, ...]]:
    """Read a mapping from names to one target or several.

    Args:
        mapping: what a user wrote.
        what: what its names are, for errors.

    Raises:
        InvalidationError: it is no such mapping, or a target cannot be read.
    """
    if not isinstance(mapping, Mapping):
        raise InvalidationError(f"targets must be a mapping from each {what} to a list of targets, not {mapping!r}")
    templates = {}
    for name, targets in mapping.items():
        if not isinstance(name, str) or not name:
            raise InvalidationError(f"the name of an {what} must be text and not empty, not {name!r}")
        written = [targets] if isinstance(targets, str) else targets
        if not isinstance(written, (list, tuple)):
            raise InvalidationError(f"{what} {name!r}: its targets must be a list, not {targets!r}")
        try:
            templates[name] = tuple(parse_template(target) for target in written)
        except InvalidationError as exc:
            raise InvalidationError(f"{what} {name!r}: {exc}") from None
    return templates


def scope_levels(templates: Templates) -> tuple[tuple[str, ...], ...]:
    """Return the ways from the root, by level names, that scope targets name; the configuration checks them."""
    found = (template.levels for targets in templates.values() for template in targets if template.levels)
    return tuple(dict.fromkeys(found))


def render_all(templates: Iterable[TargetTemplate], find: Callable[[str], object], what: str) -> list[str]:
    """Render templates.

    Args:
        templates: in order.
        find: answers the value of a field; raises LookupError or AttributeError where there is none.
        what: what happened, for errors.

    Raises:
        InvalidationError: naming `what`, the template and the field that is missing, or no str, int or UUID, or empty.
    """
    return [text for template in templates for text in template.render(partial(_value_of, find, what, template.text))]


def _value_of(find: Callable[[str], object], what: str, target: str, field: str) -> str:
    try:
        return identity(find(field))
    except (LookupError, AttributeError):
        raise InvalidationError(f"{what}: {target!r} needs {field!r}, which is missing") from None
    except (TypeError, ValueError) as exc:
        raise InvalidationError(f"{what}: {target!r}, field {field!r}: {exc}") from None


def event_targets(strategies: Iterable[object], event: str, payload: Mapping[str, Any] | None) -> list[Target]:
    """Return what an event invalidates by all strategies, without repetitions.

    Raises:
        InvalidationError: the payload lacks a field, or a strategy of the user's answers no targets.
    """
    texts = [text for rule in strategies if isinstance(rule, EventRule) for text in rule.handle_event(event, payload)]
    return list(dict.fromkeys(parse_target(text) for text in texts))


def entity_targets(strategies: Iterable[object], entity: str, id: str | int | UUID) -> list[Target]:
    """Return what a changed entity invalidates by all strategies, without repetitions.

    Raises:
        InvalidationError: the id is no id, or a strategy of the user's answers no targets.
    """
    rules = [rule for rule in strategies if isinstance(rule, EntityRule)]
    texts = [text for rule in rules for text in rule.invalidate_entity(entity, id)]
    return list(dict.fromkeys(parse_target(text) for text in texts))
