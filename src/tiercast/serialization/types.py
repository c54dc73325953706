"""Declared types: from a type to the shape that restores its values."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import enum
import functools
import types
import typing
from collections import abc
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from ..errors import ConfigError
from .base import Refusal, UnreadableValue, type_name
from .records import Field, Keyed, Record
from .sameness import alike
from .shapes import Atom, Choice, Derived, Fixed, Items, Member, Opaque, Optional, Shape, Table, Union

_ATOMS: Final = frozenset({
    types.NoneType, bool, int, float, str, complex, bytes, bytearray,
    Decimal, UUID, dt.datetime, dt.date, dt.time, dt.timedelta,
})  # fmt: skip

_SEQUENCES: Final[Mapping[Any, tuple[type, ...]]] = {
    list: (list,),
    set: (set,),
    frozenset: (frozenset,),
    collections.deque: (collections.deque,),
    abc.Sequence: (list, tuple),
    abc.MutableSequence: (list,),
    abc.Collection: (list, tuple),
    abc.Iterable: (list, tuple),
    abc.Set: (frozenset, set),
    abc.MutableSet: (set,),
}
_MAPPINGS: Final[Mapping[Any, type]] = {
    dict: dict,
    collections.OrderedDict: collections.OrderedDict,
    collections.Counter: collections.Counter,
    abc.Mapping: dict,
    abc.MutableMapping: dict,
}
_TRANSPARENT: Final = (typing.Annotated, typing.Required, typing.NotRequired, typing.Final, typing.ClassVar)
"""Forms that say something about a type which is their first argument."""

_Variables = Mapping[Any, Any]


class Restorer:
    """Lowers values of one declared type for a codec and restores them; immutable and thread-safe.

    Knows dataclasses, attrs classes, pydantic models, TypedDict, NamedTuple, enums,
    Literal, Optional and unions that can be told apart, subclasses of int, float and
    str, and list, dict, tuple, set, … of them. None passes for any type at the top: "there
    is nothing" is cached too.

    Args:
        declared: the type, as an annotation would say it.

    Raises:
        ConfigError: an annotation names what cannot be found.
    """

    __slots__ = ("_kinds", "_shape")

    def __init__(self, declared: Any) -> None:
        try:
            self._shape = _Compiler().shape(declared)
        except TypeError as exc:
            raise ConfigError(f"{declared!r} is no type that values could be of: {exc}") from exc
        self._kinds = tuple(self._shape.kinds)

    @property
    def natural(self) -> bool:
        """Whether the codecs keep such values without help; the restorer then only checks."""
        return self._shape.natural

    def lower(self, value: Any) -> Any:
        """Return the value as codecs take it.

        Raises:
            Refusal: it is not of the type, or the class's constructor would make something else of it.
        """
        if value is None:
            return None
        try:
            lowered = self._shape.lower(value)
            if not self._shape.proven:
                self._prove(value, lowered)
        except RecursionError as exc:
            raise Refusal("nested too deep, or inside itself") from exc
        return lowered

    def restore(self, lowered: Any) -> Any:
        """Return the value that was lowered; containers are made anew where they hold anything to restore.

        Raises:
            UnreadableValue: the type does not accept it (any longer).
        """
        if lowered is None:
            return None
        try:
            return self._shape.restore(lowered)
        except Exception as exc:  # constructors are users' code; the caller counts a miss
            raise UnreadableValue(f"{self._shape.label} does not accept it: {type(exc).__name__}: {exc}") from exc

    def accept(self, value: Any) -> Any:
        """Return a value that a codec restored by itself, if it is of the type.

        Raises:
            UnreadableValue: it is not.
        """
        if value is not None and self._kinds and not isinstance(value, self._kinds):
            raise UnreadableValue(f"{type_name(type(value))} where {self._shape.label} is declared")
        return value

    def _prove(self, value: Any, lowered: Any) -> None:
        """Refuse what a constructor, validator or converter would change on the way back."""
        try:
            restored = self._shape.restore(lowered)
        except RecursionError:
            raise
        except Exception as exc:
            raise Refusal(f"{self._shape.label} does not take its own fields: {type(exc).__name__}: {exc}") from exc
        if not alike(value, restored):
            raise Refusal(f"{self._shape.label} does not come back equal: its constructor changes the fields")

    def __repr__(self) -> str:
        return f"Restorer({self._shape.label})"


def restorer_of(declared: Any) -> Restorer:
    """Return the restorer of a type, made once."""
    try:
        return _kept(declared)
    except TypeError:  # not hashable, like Annotated[int, []]
        return Restorer(declared)


@functools.lru_cache(maxsize=1024)
def _kept(declared: Any) -> Restorer:
    return Restorer(declared)


class _Compiler:
    """Turns one declared type into a shape; classes that it has begun are known to those inside them."""

    def __init__(self) -> None:
        self._begun: dict[Any, Shape] = {}

    def shape(self, declared: Any, variables: _Variables | None = None) -> Shape:
        """Return the shape of a type; `variables` says what the type variables of a generic class stand for."""
        variables = variables or {}
        while True:  # NewType, Annotated and aliases of Python 3.12 are what they stand for
            if isinstance(declared, typing.NewType):
                declared = declared.__supertype__
            elif typing.get_origin(declared) in _TRANSPARENT:
                declared = typing.get_args(declared)[0]
            elif type(declared).__name__ == "TypeAliasType":
                return self._once(declared, lambda alias: self.shape(alias.__value__))
            elif isinstance(declared, typing.TypeVar):
                stands_for = variables.get(declared, declared.__bound__)
                return Shape() if stands_for is None else self.shape(stands_for)
            else:
                break
        if declared is None:
            declared = types.NoneType
        if declared is Any or declared is object:
            return Shape()
        if isinstance(declared, (str, typing.ForwardRef)):
            raise ConfigError(f"type {declared!r} cannot be found: give the class itself, not its name")
        origin = typing.get_origin(declared)
        if origin is None:
            return self._class(declared, variables)
        return self._parametrised(declared, origin, variables)

    def _once(self, alias: Any, make: Any) -> Shape:
        """Return the shape of an alias; inside itself it stands for anything, and the codec judges."""
        if alias in self._begun:
            return self._begun[alias]
        self._begun[alias] = Shape()
        made: Shape = make(alias)
        self._begun[alias] = made
        return made

    def _parametrised(self, declared: Any, origin: Any, variables: _Variables) -> Shape:
        arguments, label = typing.get_args(declared), _label(declared)
        if origin in (typing.Union, types.UnionType):
            return self._union(arguments, variables)
        if origin is typing.Literal:
            return self._literal(arguments)
        if origin is tuple and (len(arguments) != 2 or arguments[1] is not Ellipsis):
            return Fixed(label, [self.shape(argument, variables) for argument in arguments])
        if origin is tuple:
            return Items(label, (tuple,), self.shape(arguments[0], variables))
        if origin in _SEQUENCES:
            return Items(label, _SEQUENCES[origin], self.shape(arguments[0], variables))
        if origin in _MAPPINGS:
            value = self.shape(arguments[1], variables) if len(arguments) > 1 else Atom(int)  # Counter[T]
            return Table(label, _MAPPINGS[origin], self.shape(arguments[0], variables), value)
        parameters = getattr(origin, "__parameters__", ())
        if isinstance(origin, type) and parameters:
            bound = {name: variables.get(given, given) for name, given in zip(parameters, arguments, strict=False)}
            return self._class(origin, bound)
        return Opaque(label)

    def _union(self, arguments: tuple[Any, ...], variables: _Variables) -> Shape:
        members = [self.shape(argument, variables) for argument in arguments if argument is not types.NoneType]
        optional = types.NoneType in arguments
        if any(type(member) is Shape for member in members):
            return Shape()
        return Optional(members[0]) if len(members) == 1 else Union(members, optional=optional)

    def _literal(self, values: tuple[Any, ...]) -> Shape:
        if not any(isinstance(value, enum.Enum) for value in values):
            return Choice(values)
        classes = dict.fromkeys(type(value) for value in values)
        return self._union(tuple(classes), {})

    def _class(self, cls: Any, variables: _Variables) -> Shape:
        if cls in _ATOMS:
            return Atom(cls)
        if cls in _SEQUENCES:
            return Items(_label(cls), _SEQUENCES[cls], Shape())
        if cls is tuple:
            return Items("tuple", (tuple,), Shape())
        if cls in _MAPPINGS:
            value = Atom(int) if cls is collections.Counter else Shape()
            return Table(_label(cls), _MAPPINGS[cls], Shape(), value)
        if not isinstance(cls, type):
            return Opaque(_label(cls))
        key = (cls, tuple(variables.items()))
        if key not in self._begun:
            self._begun[key] = Opaque(type_name(cls), cls)
            self._begun[key] = self._user_class(cls, variables, key)
        return self._begun[key]

    def _user_class(self, cls: type, variables: _Variables, key: Any) -> Shape:
        if issubclass(cls, enum.Enum):
            return Member(cls)
        if issubclass(cls, dict) and hasattr(cls, "__required_keys__"):
            keyed = self._begun[key] = Keyed(type_name(cls))
            hints = _hints(cls)
            keys = {name: self.shape(hint, variables) for name, hint in hints.items()}
            keyed.complete(keys, frozenset(name for name, hint in hints.items() if _is_required(cls, name, hint)))
            return keyed
        if hasattr(cls, "__pydantic_validator__"):
            from .pydantic_types import Model

            return Model(cls)
        names = _field_names(cls)
        if names is not None:
            record = self._begun[key] = Record(cls, runs_code=not _is_plain_tuple(cls))
            hints = _hints(cls)
            fields = {name: Field(self.shape(hints.get(name, Any), variables), at) for name, at in names.items()}
            record.complete(fields)
            return record
        for base in (str, int, float):
            if issubclass(cls, base):
                return Derived(cls, base)
        return Opaque(type_name(cls), cls)


def _field_names(cls: Any) -> dict[str, str | None] | None:
    """Return the fields of a class with their names in its constructor; None where it is no class with fields.

    A subclass that was not decorated itself may hold more than the fields of its base: it is none.
    """
    if "__attrs_attrs__" in vars(cls):
        return {field.name: field.alias if field.init else None for field in cls.__attrs_attrs__}
    if "__dataclass_fields__" in vars(cls):
        return {field.name: field.name if field.init else None for field in dataclasses.fields(cls)}
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        return {name: name for name in cls._fields}
    return None


def _is_plain_tuple(cls: type) -> bool:
    """Return whether the class is a named tuple that makes its instances as named tuples do."""
    return issubclass(cls, tuple) and cls.__init__ is object.__init__ and cls.__base__ is tuple


def _is_required(cls: Any, name: str, hint: Any) -> bool:
    """Return whether a TypedDict must have a key: what the class says was guessed where annotations were text."""
    while typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    origin = typing.get_origin(hint)
    return origin is typing.Required or (origin is not typing.NotRequired and name in cls.__required_keys__)


def _hints(cls: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except Exception as exc:  # annotations are users' code
        raise ConfigError(f"the annotations of {type_name(cls)} cannot be resolved: {exc}") from exc


def _label(declared: Any) -> str:
    return type_name(declared) if isinstance(declared, type) and not typing.get_args(declared) else str(declared)
