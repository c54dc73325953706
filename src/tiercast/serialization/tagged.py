"""Tagged forms: how json and msgpack keep what their formats cannot say.

A payload is *plain* where the format itself keeps the value, equal and of the same
type; then it is stored as it is. Else the value is *lowered*: what the format would
change becomes a dict of one entry whose key begins with "~", and the codec marks the
payload, so that only marked payloads are walked when they are read.

    {"~tuple": [...]}  {"~set": [...]}  {"~frozenset": [...]}  {"~dict": [[key, value], ...]}
    {"~bytes": "base64"}  {"~bytearray": "base64"}  {"~str": "base64"}     lone surrogates (UTF-8, surrogatepass)
    {"~int": "-1f"}      beyond 64 bits, hexadecimal: Python bounds the digits of decimal ones
    {"~float": "nan"}    nan, -nan, inf, -inf
    {"~complex": [re, im]}  {"~decimal": "1.10"}  {"~uuid": "32 hex digits"}
    {"~date": "2024-02-29"}  {"~timedelta": [days, seconds, microseconds]}
    {"~datetime": "2024-02-29T12:00:00+01:00"}  {"~time": "12:00:00"}      without tzinfo, or a fixed offset without a name
    {"~datetime": ["2024-02-29T12:00:00", fold, zone]}                     zone: null, "Europe/Berlin", or [microseconds, name]

A dict that has other keys than text, or that looks like a tagged form, becomes a
``~dict``, so that no user's value is mistaken for a tag. Exact types only: a subclass
would come back as its base and is refused.
"""

from __future__ import annotations

import base64
import datetime as dt
import math
from collections.abc import Callable
from decimal import Decimal
from types import NoneType
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

from .base import DECLARE, Refusal, type_name

MAX_DEPTH: Final = 250
"""Levels of containers in a lowered value; orjson stops at 254, and Python's own stack has to bear the way back."""

SMALLEST_INT: Final = -(2**63)
LARGEST_INT: Final = 2**64 - 1
"""What both formats hold as integers."""

ATOMS: Final[frozenset[type]] = frozenset({str, int, bool, NoneType})
"""Types whose values, as far as a format takes them at all, come back the same."""

_CONTAINERS: Final = (list, dict)


def is_plain(value: Any, atoms: frozenset[type], finite: bool, keys: frozenset[type] | None) -> bool:
    """Return whether the format keeps the value as it is, as far as its encoder does not see to that.

    The encoder refuses text and integers out of its range; what it would change without a
    word, and what it should not be shown at all (orjson 3.13 overflows the stack on deep
    tuples), is looked for here.

    Args:
        value: the value.
        atoms: the exact types that need no closer look.
        finite: whether floats may be only finite ones.
        keys: the exact types that keys may have; None where the encoder refuses all but text.
    """
    kind = type(value)
    if kind in atoms:
        return True
    if kind is dict or kind is list:
        return _holds_plain(value, atoms, finite, keys, MAX_DEPTH - 1)
    return kind is float and not (finite and value - value != 0.0)


def _holds_plain(
    container: Any, atoms: frozenset[type], finite: bool, keys: frozenset[type] | None, depth: int
) -> bool:
    """Walk a dict or list. This is the hot path of every `dump`: about 35 ns a value."""
    if type(container) is dict:
        if keys is not None and not keys.issuperset(map(type, container)):
            return False
        container = container.values()
    for child in container:
        kind = type(child)
        if kind in atoms:
            continue
        if kind is dict or kind is list:
            # By recursion and not by a list of what is still to do: in a ring, that would grow for ever.
            if depth == 0 or not _holds_plain(child, atoms, finite, keys, depth - 1):
                return False
        elif kind is not float or (finite and child - child != 0.0):  # NaN and the infinities minus themselves: NaN
            return False
    return True


class Lowering:
    """Lowers values for one format; stateless but for its settings, so threads share it.

    Args:
        native: exact types, beside those of JSON, that the format keeps as they are.
    """

    __slots__ = ("_native",)

    def __init__(self, native: frozenset[type] = frozenset()) -> None:
        self._native = frozenset({bool, NoneType}) | native

    def lower(self, value: Any, depth: int = 1) -> Any:
        """Return the value in tagged forms.

        Args:
            value: the value, or a part of it.
            depth: levels of containers of the lowered form, this one included.

        Raises:
            Refusal: some part would not come back equal and of the same type.
        """
        kind = type(value)
        if kind in self._native:
            return value
        lowerer = _LOWERERS.get(kind)
        if lowerer is None:
            raise Refusal(f"lone type {type_name(kind)}", DECLARE)
        if depth > MAX_DEPTH:
            raise Refusal(f"nested deeper than {MAX_DEPTH} levels, or inside itself")
        return lowerer(self, value, depth)

    def items(self, values: Any, depth: int, step: str = "item") -> list[Any]:
        """Lower the items of a sequence or set."""
        lower, lowered = self.lower, []
        for index, item in enumerate(values):
            try:
                lowered.append(lower(item, depth + 1))
            except Refusal as refusal:
                raise refusal.within(step, item if step == "member" else index) from None
        return lowered


def _dict(lowering: Lowering, value: dict[Any, Any], depth: int) -> dict[str, Any]:
    lower, lowered = lowering.lower, {}
    for key, child in value.items():
        # Whether the key is writable as it is; a lone surrogate, a number, a str subclass is not.
        if type(key) is not str or not _encodable(key):
            return _pairs(lowering, value, depth)
        try:
            lowered[key] = lower(child, depth + 1)
        except Refusal as refusal:
            raise refusal.within("item", key) from None
    if len(value) == 1 and next(iter(value)).startswith("~"):
        return _pairs(lowering, value, depth)
    return lowered


def _pairs(lowering: Lowering, value: dict[Any, Any], depth: int) -> dict[str, Any]:
    lower, pairs = lowering.lower, []
    for key, child in value.items():
        try:
            lowered_key = lower(key, depth + 3)
        except Refusal as refusal:
            raise refusal.within("key", key) from None
        try:
            pairs.append([lowered_key, lower(child, depth + 3)])
        except Refusal as refusal:
            raise refusal.within("item", key) from None
    return {"~dict": pairs}


def _str(_: Lowering, value: str, __: int) -> Any:
    return value if _encodable(value) else {"~str": _base64(value.encode("utf-8", "surrogatepass"))}


def _int(_: Lowering, value: int, __: int) -> Any:
    return value if SMALLEST_INT <= value <= LARGEST_INT else {"~int": f"{value:x}"}


def _float(_: Lowering, value: float, __: int) -> Any:
    if math.isfinite(value):
        return value
    sign = "-" if math.copysign(1.0, value) < 0.0 else ""
    return {"~float": f"{sign}{abs(value)}"}


def _datetime(_: Lowering, value: dt.datetime, __: int) -> Any:
    zone = value.tzinfo
    if not value.fold and _in_iso(zone):
        return {"~datetime": value.isoformat()}
    spelled = _spelled(zone)
    if isinstance(zone, ZoneInfo) and value.replace(tzinfo=ZoneInfo(zone.key)) != value:
        # Made by no_cache or from_file: equal to the one of that name only where the offset is beyond doubt.
        raise Refusal(f"time zone {zone!r} is not the one that goes by its name")
    return {"~datetime": [value.replace(tzinfo=None, fold=0).isoformat(), value.fold, spelled]}


def _time(_: Lowering, value: dt.time, __: int) -> Any:
    if not value.fold and _in_iso(value.tzinfo):
        return {"~time": value.isoformat()}
    return {"~time": [value.replace(tzinfo=None, fold=0).isoformat(), value.fold, _spelled(value.tzinfo)]}


def _in_iso(zone: dt.tzinfo | None) -> bool:
    """Return whether ISO 8601 text holds the whole of a time zone: none, or a fixed offset without a name."""
    if zone is None:
        return True
    if type(zone) is not dt.timezone:
        return False
    offset, *name = _arguments(zone)
    # CPython's fromisoformat takes +00:00:00.000001 for UTC, so parts of a second are spelled out.
    return not name and not offset.microseconds


def _spelled(zone: dt.tzinfo | None) -> Any:
    """Return a time zone in a form of its own."""
    if zone is None:
        return None
    if type(zone) is dt.timezone:
        offset, *name = _arguments(zone)
        return [offset // dt.timedelta(microseconds=1), *name]
    if type(zone) is ZoneInfo and zone.key is not None and _is_zone(zone.key):
        return zone.key
    raise Refusal(f"time zone {zone!r} is neither UTC, nor a fixed offset, nor a zoneinfo by name")


def _arguments(zone: dt.timezone) -> tuple[Any, ...]:
    """Return what the time zone was made with: the offset and, where it has one, the name."""
    return zone.__getinitargs__()  # type: ignore[attr-defined,no-any-return]


def _is_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (LookupError, ValueError, OSError):
        return False
    return True


def _encodable(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _base64(data: bytes | bytearray) -> str:
    return base64.b64encode(data).decode("ascii")


_LOWERERS: Final[dict[type, Callable[[Lowering, Any, int], Any]]] = {
    dict: _dict,
    list: Lowering.items,
    str: _str,
    int: _int,
    float: _float,
    tuple: lambda lowering, value, depth: {"~tuple": lowering.items(value, depth + 1)},
    set: lambda lowering, value, depth: {"~set": lowering.items(value, depth + 1, "member")},
    frozenset: lambda lowering, value, depth: {"~frozenset": lowering.items(value, depth + 1, "member")},
    bytes: lambda _, value, __: {"~bytes": _base64(value)},
    bytearray: lambda _, value, __: {"~bytearray": _base64(value)},
    complex: lambda lowering, value, depth: {"~complex": lowering.items((value.real, value.imag), depth + 1)},
    Decimal: lambda _, value, __: {"~decimal": str(value)},
    UUID: lambda _, value, __: {"~uuid": value.hex},
    dt.datetime: _datetime,
    dt.date: lambda _, value, __: {"~date": value.isoformat()},
    dt.time: _time,
    dt.timedelta: lambda _, value, __: {"~timedelta": [value.days, value.seconds, value.microseconds]},
}


def heighten(node: Any) -> Any:
    """Return the value of a lowered form; containers of the form are used up.

    Raises:
        Exception: of whatever kind, where the form is not one that `Lowering.lower` makes.
    """
    kind = type(node)
    if kind is list:
        for index, child in enumerate(node):
            if type(child) in _CONTAINERS:
                node[index] = heighten(child)
    elif kind is dict:
        if len(node) == 1:
            ((tag, inner),) = node.items()
            if tag[:1] == "~":
                return _HEIGHTENERS[tag](inner)
        for key, child in node.items():
            if type(child) in _CONTAINERS:
                node[key] = heighten(child)
    return node


def _listed(inner: Any) -> list[Any]:
    if type(inner) is not list:
        raise TypeError("a list is expected here")
    heighten(inner)
    return inner


def _text(inner: Any) -> str:
    if type(inner) is not str:
        raise TypeError("text is expected here")
    return inner


def _as_float(inner: Any) -> float:
    return {"nan": math.nan, "-nan": -math.nan, "inf": math.inf, "-inf": -math.inf}[inner]


def _as_datetime(inner: Any) -> dt.datetime:
    if type(inner) is str:
        return dt.datetime.fromisoformat(inner)
    text, fold, zone = inner
    return dt.datetime.fromisoformat(text).replace(tzinfo=_as_zone(zone), fold=fold)


def _as_time(inner: Any) -> dt.time:
    if type(inner) is str:
        return dt.time.fromisoformat(inner)
    text, fold, zone = inner
    return dt.time.fromisoformat(text).replace(tzinfo=_as_zone(zone), fold=fold)


def _as_zone(zone: Any) -> dt.tzinfo | None:
    if zone is None:
        return None
    if type(zone) is str:
        return ZoneInfo(zone)
    offset, *name = zone
    return dt.timezone(dt.timedelta(microseconds=offset), *name)


_HEIGHTENERS: Final[dict[str, Callable[[Any], Any]]] = {
    "~dict": lambda inner: dict(_listed(inner)),
    "~tuple": lambda inner: tuple(_listed(inner)),
    "~set": lambda inner: set(_listed(inner)),
    "~frozenset": lambda inner: frozenset(_listed(inner)),
    "~str": lambda inner: base64.b64decode(_text(inner), validate=True).decode("utf-8", "surrogatepass"),
    "~bytes": lambda inner: base64.b64decode(_text(inner), validate=True),
    "~bytearray": lambda inner: bytearray(base64.b64decode(_text(inner), validate=True)),
    "~int": lambda inner: int(_text(inner), 16),
    "~float": _as_float,
    "~complex": lambda inner: complex(*_listed(inner)),
    "~decimal": lambda inner: Decimal(_text(inner)),
    "~uuid": lambda inner: UUID(hex=_text(inner)),
    "~date": lambda inner: dt.date.fromisoformat(_text(inner)),
    "~datetime": _as_datetime,
    "~time": _as_time,
    "~timedelta": lambda inner: dt.timedelta(*inner),
}
