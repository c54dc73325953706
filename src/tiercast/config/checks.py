"""How settings are checked: converters, validators, and errors that name the field and the nearest name."""

from __future__ import annotations

import difflib
import errno
import functools
import math
import os
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, TypeVar

import attrs

from ..errors import ConfigError

C = TypeVar("C", bound=type)
Validator = Callable[[Any, "attrs.Attribute[Any]", Any], None]

LARGEST = 2**53
"""No setting is greater, so that JSON, Lua and SQLite hold each of them exactly."""


class FieldError(ConfigError):
    """A ConfigError that knows where it happened, so that whoever reads a mapping can say where that is.

    Attributes:
        path: the names from the outermost settings to the field.
        problem: what is wrong with it.
    """

    def __init__(self, path: tuple[str, ...], problem: str) -> None:
        super().__init__(f"{'.'.join(path)}: {problem}" if path else problem)
        self.path = path
        self.problem = problem

    def below(self, *outer: str) -> FieldError:
        """Return the same error, seen from further out."""
        return FieldError((*outer, *self.path), self.problem)

    def at(self, *outer: str) -> FieldError:
        """Return the same error with `outer` in the place of the class's name, as readers of mappings want it."""
        return FieldError((*outer, *self.path[1:]), self.problem)

    def __reduce__(self) -> tuple[type[FieldError], tuple[tuple[str, ...], str]]:
        return FieldError, (self.path, self.problem)


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """Return the candidate that was probably meant by `name`, or None."""
    names = sorted(set(candidates))
    folded = {candidate.lower(): candidate for candidate in reversed(names)}
    close = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.6)
    if close:
        return folded[close[0]]
    words = set(name.lower().split("_"))
    sharing = [candidate for candidate in names if words & set(candidate.lower().split("_"))]
    return min(sharing, key=len) if sharing else None


def suggestion(name: str, candidates: Iterable[str]) -> str:
    """Return "; did you mean 'x'?", or nothing where no candidate is near."""
    close = nearest(name, candidates)
    return f"; did you mean {close!r}?" if close else ""


def option_names(cls: type) -> tuple[str, ...]:
    """Return the names of a settings class's options."""
    return tuple(field.alias for field in attrs.fields(cls) if field.init)


def refuse_unknown(cls: C) -> C:
    """Decorate an attrs class so that an unknown option is a ConfigError with the nearest name, not a TypeError."""
    init = cls.__init__  # type: ignore[misc]
    names = option_names(cls)

    @functools.wraps(init)
    def __init__(self: Any, /, *args: Any, **options: Any) -> None:  # noqa: N807
        for name in options:
            if name not in names:
                raise FieldError((cls.__name__, name), f"unknown option{suggestion(name, names)}")
        try:
            init(self, *args, **options)
        except FieldError as exc:
            raise exc.below(cls.__name__) from None

    cls.__init__ = __init__  # type: ignore[misc]
    return cls


def shown(value: object) -> str:
    """Show a value in a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# Converters. They pass on what they cannot convert: the validators refuse it, and those know the field's name.


def seconds(value: float | timedelta) -> float:
    """Convert a duration to seconds."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) <= LARGEST else math.inf
    return value


def duration(value: float | timedelta, name: str) -> float:
    """Return what an operation was given as a duration, in seconds; whether it may be 0 or negative, its caller says.

    Raises:
        TypeError: it is no number and no timedelta (a bool is no number).
    """
    length = seconds(value)
    if isinstance(length, bool) or not isinstance(length, (int, float)):
        raise TypeError(f"{name} must be a number of seconds or a timedelta, not {value!r}")
    return length


def optional_seconds(value: float | timedelta | None) -> float | None:
    """Convert a duration to seconds, or leave None."""
    return None if value is None else seconds(value)


def optional_path(value: str | os.PathLike[str] | None) -> str | None:
    """Convert a directory to an absolute path, "~" expanded."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str) or not value or "\0" in value:
        return value
    return os.path.abspath(os.path.expanduser(value))  # noqa: PTH100,PTH111  the setting is text


# Validators


def _refuse(attribute: attrs.Attribute[Any], problem: str, value: object, hint: str = "") -> FieldError:
    return FieldError((attribute.alias or attribute.name,), f"{problem}, not {shown(value)}{hint}")


def _number(attribute: attrs.Attribute[Any], value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= LARGEST:
        raise _refuse(attribute, f"must be {what}", value)
    return value


def positive(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    """Accept a finite duration or number above 0."""
    if _number(attribute, value, "a positive number") <= 0:
        raise _refuse(attribute, "must be a positive number", value)


def not_negative(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    """Accept a finite duration or number from 0 up."""
    if _number(attribute, value, "a number from 0 up") < 0:
        raise _refuse(attribute, "must be a number from 0 up", value)


def fraction(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    """Accept a number from 0 to 1."""
    if not 0 <= _number(attribute, value, "a number from 0 to 1") <= 1:
        raise _refuse(attribute, "must be a number from 0 to 1", value)


def jitter(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    """Accept a number from 0 to below 1: a whole TTL of jitter would make entries that are born dead."""
    if not 0 <= _number(attribute, value, "a number from 0 to below 1") < 1:
        raise _refuse(attribute, "must be a number from 0 to below 1", value)


def count(least: int = 1) -> Validator:
    """Accept an int from `least` up."""

    def check(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= LARGEST:
            raise _refuse(attribute, f"must be a whole number from {least} up", value)

    return check


def flag(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    """Accept True and False and nothing that is merely true."""
    if not isinstance(value, bool):
        raise _refuse(attribute, "must be True or False", value)


def text(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    """Accept a str that is not empty."""
    if not isinstance(value, str) or not value:
        raise _refuse(attribute, "must be text and not empty", value)


def choice(names: Iterable[str]) -> Validator:
    """Accept one of the names."""
    known = tuple(names)

    def check(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
        if not isinstance(value, str) or value not in known:
            hint = suggestion(value, known) if isinstance(value, str) else ""
            raise _refuse(attribute, f"must be one of {', '.join(known)}", value, hint)

    return check


def plugin(names: Iterable[str]) -> Validator:
    """Accept one of the names, "package.module:Name", or a ready object or class."""
    known = tuple(names)

    def check(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
        if isinstance(value, str):
            module, colon, name = value.partition(":")
            if value in known or (colon and name.isidentifier() and all(p.isidentifier() for p in module.split("."))):
                return
            problem = f'must be one of {", ".join(known)}, "package.module:Name" or an object'
            raise _refuse(attribute, problem, value, suggestion(value, known))
        if value is None or isinstance(value, (bool, int, float, bytes, list, tuple, dict, set)):
            raise _refuse(attribute, "must be a name or an object", value)

    return check


def instance_of(*types: type) -> Validator:
    """Accept an instance of one of the types."""
    names = " or ".join(kind.__name__ for kind in types)

    def check(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
        if not isinstance(value, types):
            hint = "; CacheConfig.from_dict reads mappings" if isinstance(value, dict) else ""
            raise _refuse(attribute, f"must be {names}", value, hint)

    return check


def writable_directory(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    """Accept a directory that can be written, or one that can be made."""
    text(_, attribute, value)
    assert isinstance(value, str)
    name = attribute.alias or attribute.name
    if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
        raise FieldError((name,), f"is no path: {shown(value)}")
    existing = value
    while not os.path.lexists(existing):
        existing = os.path.dirname(existing)  # noqa: PTH120
    if not os.path.isdir(existing):  # noqa: PTH112
        raise FieldError((name,), f"{shown(existing)} is not a directory")
    if not (os.access(existing, os.W_OK | os.X_OK) and _takes_files(existing)):
        what = "cannot be written" if existing == value else f"cannot be made: {shown(existing)} cannot be written"
        raise FieldError((name,), f"{shown(value)} {what}")


def _takes_files(directory: str) -> bool:
    """Whether files can be made in a directory, of which `access` tells root that they can: it says so of /proc too."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return True
    from tempfile import TemporaryFile  # only where a directory is named

    try:
        with TemporaryFile(dir=directory):
            return True
    except OSError as exc:  # a full disk is none of them: it may have room again when the tier is used
        return exc.errno not in {errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS}


optional: Callable[[Validator], Validator] = attrs.validators.optional
