"""Shapes: what each kind of declared type becomes in a codec's hands, and how it comes back.

`types` turns a type into a shape. A shape lowers a value to what every codec keeps
(text, numbers, lists, dicts, the tagged leaves) and restores it. Shapes are made once,
never change after that, and are shared by threads.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import NoneType
from typing import Any, Final

from .base import Refusal, shown, type_name


class Shape:
    """What a declared type takes, lowers and restores; this one takes anything and leaves it to the codec.

    Attributes:
        label: the type's name, for messages and to tell the members of a union apart.
        kinds: the exact types of the values it takes; empty: any.
        wire: the exact types of what it lowers to; empty: any.
        natural: whether lowering changes nothing; both directions then only check.
        proven: whether `restore` brings back what was lowered without running users' code.
    """

    label = "Any"
    kinds: frozenset[type] = frozenset()
    wire: frozenset[type] = frozenset()
    natural = True
    proven = True

    def lower(self, value: Any) -> Any:
        """Return what the codec gets; raises Refusal where the value is not of this shape."""
        return value

    def restore(self, lowered: Any) -> Any:
        """Return the value; raises whatever it likes where it is not of this shape."""
        return self.lower(lowered)

    def refuse(self, value: Any) -> Refusal:
        """Return the refusal of a value that is not of this shape."""
        return Refusal(f"{type_name(type(value))} where {self.label} is declared")


class Atom(Shape):
    """A type whose values the codecs keep by themselves: numbers, text, dates; int passes for float."""

    def __init__(self, kind: type) -> None:
        self.label = type_name(kind)
        self.kinds = self.wire = frozenset({float, int} if kind is float else {kind})

    def lower(self, value: Any) -> Any:
        if type(value) not in self.kinds:
            raise self.refuse(value)
        return value


class Opaque(Shape):
    """A class that only codecs with types of their own can keep."""

    natural = False

    def __init__(self, label: str, kind: type | None = None) -> None:
        self.label = label
        self.kinds = self.wire = frozenset() if kind is None else frozenset({kind})

    def lower(self, value: Any) -> Any:
        raise Refusal(f"lone type {type_name(type(value))}", "use another serializer")


class Choice(Shape):
    """A Literal of plain values."""

    def __init__(self, values: Sequence[Any]) -> None:
        self.label = f"Literal{list(values)}"
        self.kinds = self.wire = frozenset(map(type, values))
        self._values = frozenset((type(value), value) for value in values)

    def lower(self, value: Any) -> Any:
        if type(value) not in self.kinds or (type(value), value) not in self._values:
            raise Refusal(f"{shown(value)} where {self.label} is declared")
        return value


class Member(Shape):
    """An enum: by its member's name; a flag: by its number."""

    natural = False

    def __init__(self, cls: type[enum.Enum]) -> None:
        self.label = type_name(cls)
        self.kinds = frozenset({cls})
        self._cls = cls
        self._by_number = issubclass(cls, enum.Flag)
        self.wire = frozenset({int if self._by_number else str})

    def lower(self, value: Any) -> Any:
        if type(value) is not self._cls:
            raise self.refuse(value)
        if self._by_number:
            return value._value_
        if self._cls._member_map_.get(value._name_) is not value:
            raise Refusal(f"{shown(value)} is no named member of {self.label}")
        return value._name_

    def restore(self, lowered: Any) -> Any:
        return self._cls(lowered) if self._by_number else self._cls[lowered]


class Derived(Shape):
    """A subclass of int, float or str, by the plain value in it."""

    natural = False
    proven = False

    def __init__(self, cls: type, base: type) -> None:
        self.label = type_name(cls)
        self.kinds = frozenset({cls})
        self.wire = frozenset({base})
        self._cls = cls
        # The base's own methods: a subclass may override int() and str().
        plain: Mapping[type, Callable[[Any], Any]] = {int: int.__pos__, float: float.__pos__, str: str.__str__}
        self._plain = plain[base]
        self._base = base

    def lower(self, value: Any) -> Any:
        if type(value) is not self._cls:
            raise self.refuse(value)
        if getattr(value, "__dict__", None):
            raise Refusal(f"{self.label} has attributes beside its {self._base.__name__}")
        return self._plain(value)

    def restore(self, lowered: Any) -> Any:
        if type(lowered) is not self._base:
            raise self.refuse(lowered)
        return self._cls(lowered)


class Items(Shape):
    """list, set, frozenset, deque, or a tuple of any length; a Sequence is a list or a tuple."""

    def __init__(self, label: str, kinds: Sequence[type], item: Shape) -> None:
        self.label = label
        self.kinds = frozenset(kinds)
        self.natural = item.natural and not self.kinds - _NATURAL
        self.proven = item.proven
        self.wire = self.kinds if self.natural else frozenset({list, tuple} & self.kinds or {list})
        self._kind = kinds[0]
        self._item = item
        if not self.natural and not self.kinds & _ORDERED:
            self.kinds = frozenset({self._kind})  # a list does not say whether it was a set or a frozenset

    def lower(self, value: Any) -> Any:
        kind = type(value)
        if kind not in self.kinds:
            raise self.refuse(value)
        if getattr(value, "maxlen", None) is not None:
            raise Refusal("a deque with a maximum length")
        if type(self._item) is Shape:
            return value if self.natural else list(value)
        lowered = _each(self._item.lower, value, "item" if kind in _ORDERED else "member")
        if self.natural:
            return value
        return tuple(lowered) if kind is tuple else lowered

    def restore(self, lowered: Any) -> Any:
        if type(lowered) not in self.wire:
            raise self.refuse(lowered)
        if self.natural:
            return self.lower(lowered)
        restored = map(self._item.restore, lowered)
        return tuple(restored) if type(lowered) is tuple else self._kind(restored)


class Fixed(Shape):
    """A tuple of so many items, each of its own type."""

    def __init__(self, label: str, items: Sequence[Shape]) -> None:
        self.label = label
        self.kinds = self.wire = frozenset({tuple})
        self.natural = all(item.natural for item in items)
        self.proven = all(item.proven for item in items)
        self._items = tuple(items)

    def lower(self, value: Any) -> Any:
        if type(value) is not tuple or len(value) != len(self._items):
            raise self.refuse(value)
        lowered = []
        for index, (shape, item) in enumerate(zip(self._items, value, strict=True)):
            try:
                lowered.append(shape.lower(item))
            except Refusal as refusal:
                raise refusal.within("item", index) from None
        return value if self.natural else tuple(lowered)

    def restore(self, lowered: Any) -> Any:
        if type(lowered) is not tuple or len(lowered) != len(self._items):
            raise self.refuse(lowered)
        return tuple(shape.restore(item) for shape, item in zip(self._items, lowered, strict=True))


class Table(Shape):
    """dict, OrderedDict or Counter; with keys that are no longer hashable when lowered, by pairs."""

    def __init__(self, label: str, kind: type, key: Shape, value: Shape) -> None:
        self.label = label
        self.kinds = frozenset({kind})
        self.natural = key.natural and value.natural and kind is dict
        self.proven = key.proven and value.proven
        self._hashable = key.natural or (bool(key.wire) and key.wire <= {str, int, float})
        self.wire = frozenset({dict if self._hashable else list})
        self._kind, self._key, self._value = kind, key, value

    def lower(self, value: Any) -> Any:
        if type(value) is not self._kind or not isinstance(value, dict):
            raise self.refuse(value)
        lower_key, lower_value = self._key.lower, self._value.lower
        pairs: list[Any] = []
        for key, child in value.items():
            try:
                lowered = lower_key(key)
            except Refusal as refusal:
                raise refusal.within("key", key) from None
            try:
                pairs.append([lowered, lower_value(child)])
            except Refusal as refusal:
                raise refusal.within("item", key) from None
        if self.natural:
            return value
        return dict(pairs) if self._hashable else pairs

    def restore(self, lowered: Any) -> Any:
        if type(lowered) not in self.wire:
            raise self.refuse(lowered)
        pairs: Iterable[Any] = lowered.items() if self._hashable else lowered
        key, value = self._key.restore, self._value.restore
        return self._kind({key(k): value(v) for k, v in pairs})


class Union(Shape):
    """One of several types: told apart by the values' exact types, or it refuses.

    Where what two members lower to could be mistaken for one another, each lowered
    value stands beside its member's label: ``{"Label": lowered}``.
    """

    def __init__(self, members: Sequence[Shape], *, optional: bool) -> None:
        self.label = " | ".join([member.label for member in members] + ["None"] * optional)
        self.natural = all(member.natural for member in members)
        self.proven = all(member.proven for member in members)
        self._optional = optional
        self._by_kind = _by_type(members, "kinds")
        by_wire = _by_type(members, "wire")
        clear = all(member.wire for member in members) and not any(_ambiguous(found) for found in by_wire.values())
        self._by_wire = by_wire if clear or self.natural else None
        self._by_label = {member.label: member for member in members}
        self._distinct = len(self._by_label) == len(members)
        none = {NoneType} if optional else set()
        if all(member.kinds for member in members):
            self.kinds = frozenset(self._by_kind) | none
        if self._by_wire is None:
            self.wire = frozenset({dict}) | none
        elif all(member.wire for member in members):
            self.wire = frozenset(by_wire) | none

    def lower(self, value: Any) -> Any:
        if value is None and self._optional:
            return None
        found = self._by_kind.get(type(value))
        if found is None:
            raise self.refuse(value)
        if _ambiguous(found):
            raise Refusal(f"{self.label} is ambiguous: {' and '.join(m.label for m in found)} look alike")
        if self._by_wire is not None:
            return _first(found, value, "lower")
        if not self._distinct:
            raise Refusal(f"{self.label} is ambiguous: two members have one name")
        return {found[0].label: _first(found, value, "lower")}

    def restore(self, lowered: Any) -> Any:
        if lowered is None and self._optional:
            return None
        if self._by_wire is not None:
            return _first(self._by_wire[type(lowered)], lowered, "restore")
        if not isinstance(lowered, dict):
            raise self.refuse(lowered)
        ((label, inner),) = lowered.items()
        return self._by_label[label].restore(inner)


class Optional(Shape):
    """One type, or None."""

    def __init__(self, inner: Shape) -> None:
        self.label = f"{inner.label} | None"
        self.natural, self.proven = inner.natural, inner.proven
        self.kinds = inner.kinds and inner.kinds | {NoneType}
        self.wire = inner.wire and inner.wire | {NoneType}
        self._inner = inner

    def lower(self, value: Any) -> Any:
        return None if value is None else self._inner.lower(value)

    def restore(self, lowered: Any) -> Any:
        return None if lowered is None else self._inner.restore(lowered)


_ORDERED: Final = frozenset({list, tuple})
_NATURAL: Final = frozenset({list, tuple, set, frozenset})


def _each(lower: Callable[[Any], Any], values: Iterable[Any], step: str) -> list[Any]:
    lowered = []
    for index, item in enumerate(values):
        try:
            lowered.append(lower(item))
        except Refusal as refusal:
            raise refusal.within(step, item if step == "member" else index) from None
    return lowered


def _by_type(members: Sequence[Shape], attribute: str) -> dict[type, list[Shape]]:
    """Return which members take (or lower to) which type; the int that passes for a float yields to a real int."""
    found: dict[type, list[Shape]] = {}
    for member in members:
        for kind in getattr(member, attribute):
            found.setdefault(kind, []).append(member)
    if len(found.get(int, ())) > 1:
        found[int] = [member for member in found[int] if float not in getattr(member, attribute)] or found[int]
    return found


def _ambiguous(found: Sequence[Shape]) -> bool:
    """Return whether it matters which of the members is taken; natural ones change nothing, so it does not."""
    return len(found) > 1 and not all(member.natural for member in found)


def _first(members: Sequence[Shape], value: Any, direction: str) -> Any:
    """Return what the first member that takes the value makes of it."""
    for member in members[:-1]:
        try:
            return getattr(member, direction)(value)
        except Refusal:
            continue
    return getattr(members[-1], direction)(value)
