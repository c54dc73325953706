"""Default keys: any arguments as text, so that different arguments never make the same text.

Implementation notes.
    The text is a small prefix-free language. A str stands in quotes with the quote and every
    separator encoded; numbers begin with a digit or a sign; what is built in has a name
    without a dot, classes of users have "module.Name". Composites are `name(item,item)`. So
    1, "1", True, 1.0 and None differ, whatever they are nested in. Sets and dicts are sorted
    by the text of their items, and therefore do not depend on their order.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import enum
import functools
import hashlib
import types
import uuid
from collections.abc import Callable, Iterable
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePath
from typing import Any

from ..keys import encode_part


class UnkeyableError(TypeError):
    """A value that has no text of its own to stand in a key; `explain` says which parameter it came by."""


def text(value: Any) -> str:
    """Return the text of a value: equal for equal values of one type, different for all others.

    Raises:
        UnkeyableError: a value of a type that this does not know, or one that contains itself.
    """
    kind = type(value)
    if kind is int:
        return str(value)
    if kind is str:
        return f"'{value}'" if value.isalnum() else _quoted(value)
    try:
        return _text(value)
    except RecursionError:
        message = "it is nested too deeply, or contains itself"
        raise UnkeyableError(message) from None


def _text(value: Any) -> str:
    kind = type(value)
    known = WRITERS.get(kind)
    if known is not None:
        return known(value)
    if isinstance(value, enum.Enum):
        return _member(value)
    fields = _fields(value)
    if fields is not None:
        return f"{class_name(kind)}({','.join(f'{name}={_text(each)}' for name, each in fields)})"
    if isinstance(value, type):
        return f"type({class_name(value)})"
    if isinstance(value, PurePath | dt.tzinfo):
        return f"{class_name(kind)}({_quoted(str(value))})"
    for base in kind.__mro__:
        if base in WRITERS and base is not object:
            return _derived(value, base)
    message = (
        f"a value of type {class_name(kind)} has no text that identifies it; "
        f"name what does in a template (key='…{{parameter.id}}') or pass key= a function"
    )
    raise UnkeyableError(message)


def _derived(value: Any, base: type) -> str:
    """Write an instance of a subclass of a built-in type, unless it carries more than the built-in value."""
    if getattr(value, "__dict__", None):
        message = f"a value of type {class_name(type(value))} carries attributes beside its {base.__name__}"
        raise UnkeyableError(message)
    return f"{class_name(type(value))}({WRITERS[base](value)})"


def _quoted(value: str) -> str:
    return f"""'{encode_part(value).replace("'", "%27")}'"""


def _member(value: enum.Enum) -> str:
    if isinstance(value, enum.Flag):  # combinations of flags have no name of their own
        return f"{class_name(type(value))}({int(value.value)})"
    return f"{class_name(type(value))}.{_quoted(value.name)}"


def _fields(value: Any) -> Iterable[tuple[str, Any]] | None:
    """Return the fields of a dataclass, attrs, pydantic or named-tuple instance; None for other values."""
    kind = type(value)
    if dataclasses.is_dataclass(kind):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(kind)]
    if hasattr(kind, "__attrs_attrs__"):
        return [(field.name, getattr(value, field.name)) for field in kind.__attrs_attrs__]
    if hasattr(kind, "__pydantic_fields__"):
        extra = getattr(value, "__pydantic_extra__", None) or {}
        return [(name, getattr(value, name)) for name in (*kind.__pydantic_fields__, *sorted(extra))]
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        return list(zip(kind._fields, value, strict=True))
    return None


def _items(name: str, values: Iterable[Any]) -> str:
    return f"{name}({','.join(map(_text, values))})"


def _unordered(name: str, values: Iterable[Any]) -> str:
    return f"{name}({','.join(sorted(map(_text, values)))})"


def _pairs(name: str, value: dict[Any, Any]) -> str:
    return f"{name}({','.join(sorted(f'{_text(key)}={_text(each)}' for key, each in value.items()))})"


def _moment(name: str, value: dt.datetime | dt.time) -> str:
    """Write a date and time with its fold and, where there is one, its zone's name: two zones may agree today."""
    zone = "" if value.tzinfo is None else f",{_quoted(str(value.tzinfo))}"
    fold = ",fold" if value.fold else ""
    return f"{name}({_quoted(value.isoformat())}{zone}{fold})"


WRITERS: dict[type, Callable[[Any], str]] = {
    type(None): lambda _: "None",
    bool: lambda value: "True" if value else "False",
    int: int.__repr__,
    float: float.__repr__,
    complex: lambda value: f"complex({value.real!r},{value.imag!r})",
    str: _quoted,
    bytes: lambda value: f"bytes({value.hex()})",
    bytearray: lambda value: f"bytearray({value.hex()})",
    tuple: functools.partial(_items, "tuple"),
    list: functools.partial(_items, "list"),
    range: lambda value: f"range({value.start},{value.stop},{value.step})",
    slice: lambda value: _items("slice", (value.start, value.stop, value.step)),
    set: functools.partial(_unordered, "set"),
    frozenset: functools.partial(_unordered, "frozenset"),
    dict: functools.partial(_pairs, "dict"),
    collections.OrderedDict: lambda value: _items("OrderedDict", value.items()),  # where order is part of the value
    collections.deque: functools.partial(_items, "deque"),
    types.MappingProxyType: lambda value: _pairs("mappingproxy", value),
    types.EllipsisType: lambda _: "Ellipsis",
    uuid.UUID: lambda value: f"UUID({value.hex})",
    Decimal: lambda value: f"Decimal({value})",
    Fraction: lambda value: f"Fraction({value.numerator},{value.denominator})",
    dt.datetime: functools.partial(_moment, "datetime"),
    dt.date: lambda value: f"date({value.isoformat()})",
    dt.time: functools.partial(_moment, "time"),
    dt.timedelta: lambda value: f"timedelta({value.days},{value.seconds},{value.microseconds})",
}
"""How each built-in type is written: the one table."""


def class_name(kind: type) -> str:
    """Return "module.Name" of a class, encoded to stand in a key."""
    return encode_part(f"{kind.__module__}.{kind.__qualname__}")


def function_prefix(name: str, function: Callable[..., Any]) -> str:
    """Return what every default key of a function begins with, without the closing colon.

    Lambdas of one place share a name, as do the functions of a module that are called `_` because whoever
    registers them asks for no name; so theirs carries a digest of their code.
    """
    code = getattr(function, "__code__", None)
    if code is None or not ("<lambda>" in name or name.endswith("._")):
        return encode_part(name)
    return f"{encode_part(name)}:{hashlib.blake2b(code_text(code).encode(), digest_size=8).hexdigest()}"


def code_text(code: types.CodeType) -> str:
    """Return the text of what a function does, wherever it stands: its lines are not part of it."""
    constants = [code_text(each) if isinstance(each, types.CodeType) else _text(each) for each in code.co_consts]
    return _text([code.co_code, constants, code.co_names, code.co_varnames, code.co_freevars])
