"""Whether two values are the same: equal, and of the same types all the way down."""

from __future__ import annotations

import collections
from decimal import Decimal
from typing import Any


def alike(one: Any, other: Any) -> bool:
    """Return whether two values are equal and of the same types all the way down.

    `==` is too generous (1, 1.0 and True; fields that comparison ignores) and too strict
    (NaN; classes without equality). So containers are compared item by item, and
    dataclasses, attrs classes and pydantic models field by field.
    """
    if one is other:
        return True
    kind = type(one)
    if kind is not type(other):
        return False
    if isinstance(one, dict):
        return len(one) == len(other) and all(map(alike, one, other)) and all(map(alike, one.values(), other.values()))
    if isinstance(one, (list, tuple, collections.deque)):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, (set, frozenset)):
        return bool(one == other) and collections.Counter(map(type, one)) == collections.Counter(map(type, other))
    if isinstance(one, (float, complex, Decimal)):
        return repr(one) == repr(other)
    names = _field_names(kind)
    if names is None:
        return bool(one == other)
    return all(alike(getattr(one, name, None), getattr(other, name, None)) for name in names)


def _field_names(cls: Any) -> list[str] | None:
    """Return what an object of the class consists of; None where only the class knows."""
    if hasattr(cls, "__pydantic_validator__") and hasattr(cls, "model_fields"):
        return [*cls.model_fields, "__pydantic_extra__", "__pydantic_private__"]
    if "__attrs_attrs__" in vars(cls):
        return [field.name for field in cls.__attrs_attrs__]
    if "__dataclass_fields__" in vars(cls):
        return list(cls.__dataclass_fields__)
    return None
