"""Values made read-only, for regions that hand one object to every reader."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any


def frozen(value: Any) -> Any:
    """Return a value whose containers cannot be changed: dict, list, set and bytearray, however deep.

    A dict comes back as a read-only view of a copy, a list as a tuple, a set as a frozenset,
    a bytearray as bytes. Objects of other classes are returned as they are.
    """
    kind = type(value)
    if kind is dict:
        return MappingProxyType({key: frozen(part) for key, part in value.items()})
    if kind is list or kind is tuple:
        return tuple(frozen(part) for part in value)
    if kind is set:
        return frozenset(value)
    if kind is bytearray:
        return bytes(value)
    return value
