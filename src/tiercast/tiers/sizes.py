"""How many bytes a value takes, roughly, for a memory tier that is bounded by bytes."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

MOST_OBJECTS = 500
"""No more objects than this are looked at, so that sizing a value costs tens of microseconds at most."""
SAMPLE = 50
"""Of a larger container this many members are looked at and taken for typical."""
ENTRY_OVERHEAD = 360
"""Bytes that an entry costs beyond its key and value: the entry, its numbers, its place in the order."""
CONTAINERS = (dict, list, tuple, set, frozenset, deque)
LEAVES = (str, bytes, bytearray, int, float, complex, bool, type(None), type)


def size_of(value: Any) -> int:
    """Estimate the bytes that a value keeps alive, in bounded work.

    Exact for text, bytes and numbers; for containers and objects of up to 500 parts, what
    `sys.getsizeof` says of each part, a shared one counted once. Beyond that members are
    sampled and multiplied. An object that counts itself (``__sizeof__``: numpy arrays, …) is believed.
    """
    if type(value) in LEAVES:
        return sys.getsizeof(value)
    seen: set[int] = set()
    total = 0.0
    left = MOST_OBJECTS
    waiting: deque[tuple[Any, float]] = deque([(value, 1.0)])
    while waiting and left:
        part, weight = waiting.popleft()
        if id(part) in seen:
            continue
        seen.add(id(part))
        left -= 1
        total += sys.getsizeof(part, 64) * weight
        if not isinstance(part, LEAVES):
            count, members = _members(part)
            share = weight * max(1.0, count / SAMPLE)
            waiting.extend((member, share) for member in islice(members, SAMPLE))
    # What was not looked at is taken for the average of what was.
    looked = max(1, MOST_OBJECTS - left)
    return int(total + total / looked * len(waiting))


def _members(part: Any) -> tuple[int, Iterator[Any]]:
    """Return how many members an object has, and the members."""
    if isinstance(part, Mapping):
        return 2 * len(part), _pairs(part.items())
    if isinstance(part, CONTAINERS):
        return len(part), iter(part)
    names = [name for kind in type(part).__mro__ for name in _slots(kind)]
    attributes = [getattr(part, name) for name in names if hasattr(part, name)]
    instance = getattr(part, "__dict__", None)
    return len(attributes) + (instance is not None), iter([*attributes, *([] if instance is None else [instance])])


def _pairs(items: Iterable[tuple[Any, Any]]) -> Iterator[Any]:
    for key, value in items:
        yield key
        yield value


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in names if name not in {"__dict__", "__weakref__"})
