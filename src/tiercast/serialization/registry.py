"""Codecs by name, by id, and from outside."""

from __future__ import annotations

import difflib
import functools
import importlib
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from ..errors import ConfigError
from .base import Codec, type_name

BUILT_IN: Final[Mapping[str, tuple[int, str]]] = {
    "json": (1, "json_codec:JsonCodec"),
    "msgpack": (2, "msgpack_codec:MsgpackCodec"),
    "pickle": (3, "pickle_codec:PickleCodec"),
    "protobuf": (4, "protobuf_codec:ProtobufCodec"),
}
"""Names, ids and places of the codecs that come with tiercast; each is imported when first asked for."""

FIRST_USER_ID: Final = 64
LAST_USER_ID: Final = 65_535
ENTRY_POINTS: Final = "tiercast.codecs"
"""The entry point group in which packages offer codecs, whose names then serve as settings."""

_PICKLE: Final = "pickle"


def codec_of(spec: object, secret: str | bytes | None = None) -> Codec:
    """Return the codec that a setting asks for.

    Args:
        spec: a name ("json"), "package.module:Class", the name of an entry point, a class, or a codec.
        secret: what pickles are signed with.

    Raises:
        ConfigError: nothing of that name, an extra that is missing, or a thing that is no codec.
    """
    if isinstance(spec, str):
        return _named(spec, secret)
    return _judged(spec, repr(spec), secret)


def codec_by_id(identifier: int, secret: str | bytes | None = None) -> Codec | None:
    """Return the codec whose id stands in a stored entry; None where this process does not know it."""
    for name, (known, _) in BUILT_IN.items():
        if known == identifier:
            try:
                return _pickle(secret) if name == _PICKLE else _built_in(name)
            except ConfigError:
                return None
    return _offered_by_id().get(identifier)


def _named(name: str, secret: str | bytes | None) -> Codec:
    if name == _PICKLE:
        return _pickle(secret)
    if name in BUILT_IN:
        return _built_in(name)
    if ":" in name:
        return _judged(_imported(name), name, secret)
    offered = {point.name: point for point in _offered()}
    if name in offered:
        return _judged(_loaded(offered[name]), name, secret)
    near = difflib.get_close_matches(name, [*BUILT_IN, *offered], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    known = ", ".join([*BUILT_IN, *sorted(offered)])
    raise ConfigError(f"unknown serializer {name!r}{hint} (known: {known}, or 'package.module:Class')")


@functools.cache
def _built_in(name: str) -> Codec:
    made: Codec = _class(name)()
    return made


def _pickle(secret: str | bytes | None) -> Codec:
    made: Codec = _class(_PICKLE)(secret)
    return made


def _class(name: str) -> Any:
    module, _, cls = BUILT_IN[name][1].partition(":")
    return getattr(importlib.import_module(f".{module}", __package__), cls)


def _imported(path: str) -> object:
    module, _, attribute = path.partition(":")
    try:
        found: object = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as exc:
        raise ConfigError(f"serializer {path!r} cannot be imported: {exc}") from exc
    return found


def _judged(thing: object, said: str, secret: str | bytes | None) -> Codec:
    """Return a user's codec, made if it is a class, or say what is wrong with it."""
    if isinstance(thing, type):
        for name, (_, place) in BUILT_IN.items():
            if thing.__module__.startswith(f"{__package__}.") and thing.__name__ == place.partition(":")[2]:
                return _named(name, secret)
        try:
            thing = thing()
        except ConfigError:
            raise
        except Exception as exc:  # the user's constructor may raise anything
            raise ConfigError(f"serializer {said}: {type_name(type(exc))} while it was made: {exc}") from exc
    if not isinstance(thing, Codec) or not callable(thing.encode) or not callable(thing.decode):
        raise ConfigError(f"serializer {said} is no codec: it needs id, name, encode(value) and decode(data)")
    identifier: object = thing.id
    if type(identifier) is not int or not isinstance(thing.name, str):
        raise ConfigError(f"serializer {said}: id must be an int and name a str, not {identifier!r} and {thing.name!r}")
    own = type(thing).__module__.startswith(f"{__package__}.")
    if not own and not FIRST_USER_ID <= identifier <= LAST_USER_ID:
        raise ConfigError(f"serializer {said}: id must be {FIRST_USER_ID} to {LAST_USER_ID}, not {identifier}")
    return thing


@functools.cache
def _offered() -> tuple[EntryPoint, ...]:
    return tuple(sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name))


def _loaded(point: EntryPoint) -> object:
    try:
        found: object = point.load()
    except Exception as exc:  # importing runs the package's own code
        raise ConfigError(f"serializer {point.name!r} ({point.value}) cannot be imported: {exc}") from exc
    return found


@functools.cache
def _offered_by_id() -> dict[int, Codec]:
    """Return the codecs that packages offer; one that cannot be made is as good as unknown."""
    found: dict[int, Codec] = {}
    for point in _offered():
        try:
            codec = _judged(_loaded(point), point.name, None)
        except ConfigError:
            continue
        found.setdefault(codec.id, codec)
    return found
