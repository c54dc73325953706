"""What codecs, declared types and the serializer agree on."""

from __future__ import annotations

import contextlib
import reprlib
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

from ..errors import SerializationError


@runtime_checkable
class Codec(Protocol):
    """Turns values into bytes and back; thread-safe, and equal for equal settings in every process of a fleet.

    A codec refuses by raising: `encode` what it would not give back equal and of the
    same type, `decode` what it cannot read. Which exception does not matter.

    Attributes:
        id: the number that stands in stored entries: 1 to 63 are tiercast's, 64 to 65535 are users'.
        name: what error messages call it.

    A codec may have a third attribute, ``keeps_types``: True where it gives back
    objects of classes by itself (pickle), so that declared types are not lowered for it.
    """

    @property
    def id(self) -> int: ...

    @property
    def name(self) -> str: ...

    def encode(self, value: Any) -> bytes:
        """Return the value as bytes."""
        ...

    def decode(self, data: bytes) -> Any:
        """Return the value that `encode` took."""
        ...


class Dumped(NamedTuple):
    """A value as the tiers below the process hold it.

    Attributes:
        codec: the id of the codec that made the payload.
        compressed: whether the payload is compressed (zstd).
        payload: the bytes.
    """

    codec: int
    compressed: bool
    payload: bytes


class UnreadableValue(Exception):  # noqa: N818  not an error to users: callers count a miss
    """Stored bytes cannot be turned into a value: unknown codec, bad data, or the type accepts it no longer."""


DECLARE: Final = "declare a type or use another serializer"
"""What to do about a value of a class that a codec does not know."""


class Step(NamedTuple):
    """One step of the path from a value to something inside it.

    Attributes:
        kind: "item" (an index or key), "key" (a dict's key itself), "member" (of a set).
        at: the index, the key, the field's name, or the member.
    """

    kind: str
    at: Any


class Refusal(SerializationError):  # noqa: N818  what it is called inside; users meet SerializationError
    """A part of a value that would not survive; containers add their step while it passes them.

    Attributes:
        reason: what is wrong, in a few words. advice: what to do about it, where that can be said.
        steps: the path, innermost step first.
    """

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.advice = advice
        self.steps: list[Step] = []

    def within(self, kind: str, at: Any) -> Refusal:
        """Add the step that leads to where it was raised, and return the same refusal."""
        self.steps.append(Step(kind, at))
        return self

    def described(self, value: Any, codec: str) -> str:
        """Return the message for users; `value` is the whole value, `codec` the name of who refuses."""
        advice = f"; {self.advice}" if self.advice else ""
        return f"{render_path(value, self.steps[::-1])}: cannot be kept by {codec}: {self.reason}{advice}"

    def __str__(self) -> str:
        return f"{render_path(None, self.steps[::-1])}: {self.reason}"


_LONGEST_PATH: Final = 20


def render_path(value: Any, steps: list[Step]) -> str:
    """Return a path as Python writes it: ``value['user'][3].born``.

    The steps were taken in a lowered form, in which a dataclass is a dict; the value
    itself tells fields from keys.
    """
    text, here = "value", value
    for kind, at in steps[:_LONGEST_PATH]:
        if kind == "key":
            text += f".keys()<{shown(at)}>"
            here = at
        elif kind == "member":
            text += f"<{shown(at)}>"
            here = at
        elif _is_field(here, at):
            text += f".{at}"
            here = getattr(here, at) if isinstance(here, tuple) else vars_of(here).get(at)
        else:
            text += f"[{shown(at)}]"
            here = _item(here, at)
    return text if len(steps) <= _LONGEST_PATH else f"{text}... ({len(steps)} levels down)"


def shown(thing: Any) -> str:
    """Return a short ``repr`` that never raises."""
    try:
        return _short.repr(thing)
    except Exception:  # noqa: BLE001  a repr is the user's code; the message matters more
        return f"<{type(thing).__name__}>"


def type_name(cls: type) -> str:
    """Return a class's name for error messages: ``decimal.Decimal``, ``int``."""
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def vars_of(thing: Any) -> dict[str, Any]:
    """Return an object's attributes without running its code: from ``__dict__`` and ``__slots__``."""
    found = dict(getattr(thing, "__dict__", None) or {})
    for cls in type(thing).__mro__:
        names = cls.__dict__.get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            with contextlib.suppress(AttributeError):
                found.setdefault(name, object.__getattribute__(thing, name))
    return found


def _is_field(here: Any, at: Any) -> bool:
    if not isinstance(at, str) or isinstance(here, (dict, list, set, frozenset)) or here is None:
        return False
    if isinstance(here, tuple):
        return at in getattr(here, "_fields", ())
    return at in vars_of(here)


def _item(here: Any, at: Any) -> Any:
    if isinstance(here, (dict, list, tuple)):
        with contextlib.suppress(LookupError, TypeError):
            return here[at]
    return None


_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60
_short.maxlevel = 2
