"""Shapes of classes with named fields: dataclasses, attrs classes, named tuples, typed dicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from .base import Refusal, type_name
from .shapes import Shape


class Field(NamedTuple):
    """One field of a class.

    Attributes:
        shape: the shape of its values.
        argument: its name in the constructor; None where the constructor does not take it.
    """

    shape: Shape
    argument: str | None


class Record(Shape):
    """A class that is made from its fields: lowered to a dict by field name, restored by its constructor.

    A stored value must have exactly the fields that the class has now: one that an older
    or newer version of the class wrote is no longer accepted.
    """

    natural = False

    def __init__(self, cls: type, *, runs_code: bool = True) -> None:
        self.label = type_name(cls)
        self.kinds = frozenset({cls})
        self.wire = frozenset({dict})
        self.proven = not runs_code
        self._cls = cls
        self._fields: Mapping[str, Field] = {}

    def complete(self, fields: Mapping[str, Field]) -> None:
        """Give the shape its fields; apart from the constructor, so that a class may contain itself."""
        self._fields = dict(fields)
        self.proven = self.proven and all(field.shape.proven for field in fields.values())

    def lower(self, value: Any) -> Any:
        if type(value) is not self._cls:
            raise self.refuse(value)
        lowered = {}
        for name, field in self._fields.items():
            try:
                lowered[name] = field.shape.lower(getattr(value, name))
            except Refusal as refusal:
                raise refusal.within("item", name) from None
            except AttributeError as exc:
                raise Refusal(f"{self.label} has no {name!r} set") from exc
        return lowered

    def restore(self, lowered: Any) -> Any:
        if type(lowered) is not dict or lowered.keys() != self._fields.keys():
            raise Refusal(f"not the fields of {self.label}")
        arguments, rest = {}, {}
        for name, (shape, argument) in self._fields.items():
            if argument is None:
                rest[name] = shape.restore(lowered[name])
            else:
                arguments[argument] = shape.restore(lowered[name])
        made = self._cls(**arguments)
        for name, value in rest.items():
            object.__setattr__(made, name, value)  # the class may be frozen
        return made


class Keyed(Shape):
    """A TypedDict: a dict with known keys; their order is the value's own."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.kinds = self.wire = frozenset({dict})
        self.natural = False
        self._keys: Mapping[str, Shape] = {}
        self._required: frozenset[str] = frozenset()

    def complete(self, keys: Mapping[str, Shape], required: frozenset[str]) -> None:
        """Give the shape its keys; apart from the constructor, so that a type may contain itself."""
        self._keys, self._required = dict(keys), required
        self.natural = all(shape.natural for shape in keys.values())
        self.proven = all(shape.proven for shape in keys.values())

    def lower(self, value: Any) -> Any:
        self._judge(value)
        lowered = {}
        for key, child in value.items():
            try:
                lowered[key] = self._keys[key].lower(child)
            except Refusal as refusal:
                raise refusal.within("item", key) from None
        return value if self.natural else lowered

    def restore(self, lowered: Any) -> Any:
        self._judge(lowered)
        return {key: self._keys[key].restore(child) for key, child in lowered.items()}

    def _judge(self, value: Any) -> None:
        if type(value) is not dict:
            raise self.refuse(value)
        missing, surplus = self._required - value.keys(), value.keys() - self._keys.keys()
        if missing or surplus:
            said = (
                f"lacks {sorted(missing)}" if missing else f"has {sorted(map(repr, surplus))}, which are not declared"
            )
            raise Refusal(f"{self.label} {said}")
