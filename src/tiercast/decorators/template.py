"""Key and tag templates: `user:{user_id}` over a function's parameters, compiled when the decorator runs.

Implementation notes.
    What a field renders to holds no separator, glob character or whitespace (`keys.encode_part`),
    and the template's own text stays as it is: so no argument can pass for the template's text,
    and no other arguments make the same key. Where the text between two fields holds no
    separator ("{year}-{month}"), its first character is encoded in the field before it
    as well; two fields with nothing between them are refused.
    A template becomes one f-string in generated code. `render` interprets the same fields
    where there is no function to compile for.
"""

from __future__ import annotations

import datetime as dt
import difflib
import enum
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from string import Formatter
from typing import Any

from ..errors import KeyTemplateError
from ..keys import encode_part, encode_part_until, escape_glob, part_end
from .default_key import UnkeyableError, class_name, text
from .parameters import Parameters

_field_name = re.compile(r"(?P<root>[^\W\d]\w*|\d+)(?P<path>(?:\.[^\W\d]\w*|\[[^\[\]]+\])*)").fullmatch
_steps = re.compile(r"\.([^\W\d]\w*)|\[([^\[\]]+)\]").finditer
_CONVERSIONS: Mapping[str, Callable[[Any], str]] = {"s": str, "r": repr, "a": ascii}


@dataclass(frozen=True, slots=True)
class Field:
    """One `{…}` of a template.

    Attributes:
        root: a parameter's name, or a position as digits.
        path: attributes (".id") and items ("[id]") after it, each as (is it an attribute, name).
        conversion, spec: as in `str.format`; "" where there is none.
        stop: the character that ends the field in the key, where it needs encoding inside the field; else "".
        source: the field as it was written.
    """

    root: str
    path: tuple[tuple[bool, str], ...]
    conversion: str
    spec: str
    stop: str
    source: str

    def read(self, value: Any) -> str:
        """Render the field, given the value of its root."""
        for attribute, name in self.path:
            value = getattr(value, name) if attribute else value[int(name) if name.isdecimal() else name]
        if self.conversion:
            value = _CONVERSIONS[self.conversion](value)
        if self.spec:
            value = format(value, self.spec)
        return part_until(value, self.stop) if self.stop else part(value)


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template: its own text and its fields, in order."""

    source: str
    pieces: tuple[str | Field, ...]

    @property
    def fields(self) -> tuple[Field, ...]:
        return tuple(piece for piece in self.pieces if isinstance(piece, Field))

    @property
    def glob(self) -> str:
        """The pattern that matches every key the template makes, and nothing shorter."""
        return "".join("*" if isinstance(piece, Field) else escape_glob(piece) for piece in self.pieces)

    def expression(self, parameters: Parameters, namespace: dict[str, Any]) -> str:
        """Return the template as source text over a function's parameters; what that needs goes into `namespace`.

        Raises:
            KeyTemplateError: it names what the function does not have.
        """
        namespace.update(_tc_type=type, _tc_int=int, _tc_part=part)
        pieces = []
        for piece in self.pieces:
            if isinstance(piece, str):
                pieces.append(literal(piece))
            else:
                pieces.append(f"{{{self._field(piece, parameters, namespace)}}}")
        return f'f"{"".join(pieces)}"'

    def _field(self, field: Field, parameters: Parameters, namespace: dict[str, Any]) -> str:
        root = self._root(field, parameters, namespace)
        if root.isidentifier() and not (field.path or field.conversion or field.spec or field.stop):
            # An int needs no encoding; saying so here saves the commonest argument a call.
            return f"{root} if _tc_type({root}) is _tc_int else _tc_part({root})"
        return f"{named(namespace, field.read)}({root})"

    def _root(self, field: Field, parameters: Parameters, namespace: dict[str, Any]) -> str:
        """Return the source text of the value that a field begins with."""
        root = field.root
        if root.isdecimal():
            position = int(root)
            if position < len(parameters.passed):
                return parameters.passed[position]
            if parameters.variadic is not None:
                index = position - len(parameters.passed)
                return f"{named(namespace, partial(_given, self.source, root, index))}({parameters.variadic})"
            message = (
                f"key template {self.source!r} of {parameters.function} names position {position}, "
                f"but the function takes {len(parameters.passed)} by position"
            )
            raise KeyTemplateError(message)
        if root in parameters.names:
            return root
        if parameters.keywords is not None:
            return f"{named(namespace, partial(_given, self.source, root, root))}({parameters.keywords})"
        message = (
            f"key template {self.source!r} of {parameters.function} names {root!r}, "
            f"which is no parameter of the function{_nearest(root, parameters.names)}"
        )
        raise KeyTemplateError(message)

    def render(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """Render the template from arguments where there is no function.

        Raises:
            KeyTemplateError: it names an argument that is not there.
            TypeError: an argument has no text that could stand in a key.
        """
        pieces = []
        for piece in self.pieces:
            if isinstance(piece, str):
                pieces.append(piece)
                continue
            given: Any = args if piece.root.isdecimal() else kwargs
            index = int(piece.root) if piece.root.isdecimal() else piece.root
            value = _given(self.source, piece.root, index, given)
            try:
                pieces.append(piece.read(value))
            except UnkeyableError as exc:
                raise TypeError(f"argument {piece.root!r} cannot be part of a key: {exc}") from None
        return "".join(pieces)


def parse(source: str) -> Template:
    """Parse a template.

    Raises:
        KeyTemplateError: it is empty, or its braces, names or conversions are not as in `str.format`,
            or two fields have nothing between them.
        TypeError: it is no str.
    """
    if not isinstance(source, str):
        raise TypeError(f"a key or tag template must be a str, not {source!r}")
    return _parse(source)


@lru_cache(maxsize=1024)
def _parse(source: str) -> Template:
    try:
        parsed = list(Formatter().parse(source))
    except ValueError as exc:
        raise KeyTemplateError(f"key template {source!r}: {exc}") from None
    if not source:
        raise KeyTemplateError("a key or tag template must not be empty")
    pieces: list[str | Field] = []
    for index, (before, name, spec, conversion) in enumerate(parsed):
        if before:
            pieces.append(before)
        if name is None:
            continue
        if index and not before and parsed[index - 1][1] is not None:
            message = (
                f"key template {source!r}: nothing stands between two fields, so that different arguments "
                f"would make the same key; put a separator such as ':' there"
            )
            raise KeyTemplateError(message)
        following = parsed[index + 1] if index + 1 < len(parsed) else None
        between = following[0] if following is not None and following[1] is not None else ""
        pieces.append(_parse_field(source, name, spec or "", conversion or "", between))
    return Template(source, tuple(pieces))


def _parse_field(source: str, name: str, spec: str, conversion: str, between: str) -> Field:
    match = _field_name(name)
    if match is None or "{" in spec or conversion not in {"", *_CONVERSIONS}:
        shown = "{" + name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "") + "}"
        message = (
            f"key template {source!r}: {shown} is no parameter's name, position or attribute "
            f"such as {{user_id}}, {{0}} or {{user.id}}"
        )
        raise KeyTemplateError(message)
    path = tuple((step[1] is not None, step[1] or step[2]) for step in _steps(match["path"]))
    return Field(match["root"], path, conversion, spec, _stop(source, between), name)


def _stop(source: str, between: str) -> str:
    """Return the character at which a field ends before the text `between`, where it is no separator anyway."""
    end = part_end(between)
    if end and end in "0123456789ABCDEF%":  # what encoded characters are written with
        message = (
            f"key template {source!r}: {between!r} does not part two fields, so that different arguments "
            f"could make the same key; put a separator such as ':' there"
        )
        raise KeyTemplateError(message)
    return end


def part(value: Any) -> str:
    """Render a value as a part of a key: 123 and "123" alike.

    Raises:
        UnkeyableError: it has no text that identifies it.
    """
    if type(value) is str:
        return value if value.isalnum() else encode_part(value)
    return encode_part(plain(value))


def part_until(value: Any, stop: str) -> str:
    """Render a value as a part of a key that ends before `stop`, encoding that character as well."""
    return encode_part_until(plain(value), stop)


def plain(value: Any) -> str:
    """Return the text by which people call a value.

    Raises:
        UnkeyableError: it has none that identifies it.
    """
    if value is None or isinstance(value, bool):
        return str(value)
    if isinstance(value, enum.Enum):
        return plain(value.value) if isinstance(value.value, str | int) else value.name
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    kind = type(value)
    if isinstance(value, int | float) or (_has_own_str(kind) and not isinstance(value, type)):
        return str(value)
    try:
        return text(value)
    except UnkeyableError:
        message = (
            f"an object of type {class_name(kind)} has no text that identifies it; "
            f"name an attribute that does, such as {{parameter.id}}"
        )
        raise UnkeyableError(message) from None


def _has_own_str(kind: type) -> bool:
    own: object = kind.__str__
    return own is not object.__str__


def literal(fixed: str) -> str:
    """Write fixed text as it stands inside a double-quoted f-string."""
    return "".join(_literal(each) for each in fixed)


def _literal(character: str) -> str:
    if character in "{}":
        return character * 2
    if character.isascii() and character.isprintable() and character not in '"\\':
        return character
    return f"\\U{ord(character):08x}"


def named(namespace: dict[str, Any], thing: Any) -> str:
    """Give something a name of its own in generated code."""
    name = f"_tc_{len(namespace)}"
    namespace[name] = thing
    return name


def _given(source: str, name: str, index: int | str, given: Any) -> Any:
    """Return one of the arguments that came by `*args` or `**kwargs`."""
    try:
        return given[index]
    except (KeyError, IndexError):
        what = f"position {name}" if isinstance(index, int) else repr(name)
        known = "" if isinstance(index, int) else _nearest(name, given)
        message = f"key template {source!r} names {what}, which the call does not give{known}"
        raise KeyTemplateError(message) from None


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    listed = ", ".join(known)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f" ({listed})" if listed else ""


def build_cache_key(
    template: str, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, prefix: str = ""
) -> str:
    """Make the key that a decorator with this template makes of these arguments.

    Args:
        template: as the `key` of a decorator: `user:{user_id}`, `{user.id}`, `{0}`.
        args: what positions such as `{0}` mean.
        kwargs: what names such as `{user_id}` mean.
        prefix: fixed text before the key, parted from it by a colon.

    Raises:
        KeyTemplateError: the template names an argument that is not there, or cannot be read.
        TypeError: the template or the prefix is no str, or an argument has no text that could stand in a key.
    """
    if prefix and not isinstance(prefix, str):
        raise TypeError(f"the prefix of a key must be a str, not {prefix!r}")
    key = parse(template).render(args, kwargs or {})
    return f"{prefix}{'' if prefix.endswith((':', '/', '|')) else ':'}{key}" if prefix else key
