"""Codecs by name, class, instance, import path and entry point."""

from __future__ import annotations

import subprocess
import sys
import types
from importlib.metadata import EntryPoint

import pytest

from tiercast.errors import ConfigError, SerializationError
from tiercast.serialization import Serializer, UnreadableValue, registry
from tiercast.serialization.json_codec import JsonCodec
from tiercast.serialization.pickle_codec import PickleCodec
from tiercast.serialization.registry import codec_by_id, codec_of


class Reversed:
    """A user's codec: text, backwards."""

    id = 64
    name = "reversed"

    def encode(self, value):
        return value[::-1].encode()

    def decode(self, data):
        return data.decode()[::-1]


@pytest.fixture
def module(monkeypatch):
    """A module that can be imported by name and holds the codec."""
    made = types.ModuleType("users_codecs")
    made.Reversed, made.ready, made.number = Reversed, Reversed(), 5
    monkeypatch.setitem(sys.modules, "users_codecs", made)


@pytest.fixture
def entry_point(module, monkeypatch):
    """An installed package that offers the codec, and one that is broken."""
    points = (
        EntryPoint("backwards", "users_codecs:Reversed", registry.ENTRY_POINTS),
        EntryPoint("broken", "users_codecs:Missing", registry.ENTRY_POINTS),
    )
    monkeypatch.setattr(registry, "_offered", lambda: points)
    registry._offered_by_id.cache_clear()
    yield
    registry._offered_by_id.cache_clear()


@pytest.mark.parametrize("spec", [Reversed, Reversed(), "users_codecs:Reversed", "users_codecs:ready", "backwards"])
def test_a_users_codec_plugs_in_however_it_is_given(entry_point, spec):
    """Class, instance, import path, entry point."""
    serializer = Serializer(spec)
    dumped = serializer.dump("abc")
    assert (64, False, b"cba") == dumped
    assert serializer.load(*dumped) == "abc"


def test_an_offered_codec_is_found_by_its_id(entry_point):
    """A region that now uses json still reads what that codec wrote; the broken offer harms nobody."""
    assert Serializer("json").load(64, False, b"cba") == "abc"
    assert codec_by_id(65) is None


def test_what_a_users_codec_raises_becomes_our_errors():
    """Nothing else reaches a reader or a writer."""
    serializer = Serializer(Reversed)
    with pytest.raises(SerializationError, match="value: cannot be kept by reversed: TypeError"):
        serializer.dump(5)
    with pytest.raises(UnreadableValue):
        serializer.load(64, False, b"\xff")

    class Text(Reversed):
        def encode(self, value):
            return value

    with pytest.raises(SerializationError, match="made str, not bytes"):
        Serializer(Text).dump("abc")


@pytest.mark.parametrize(("name", "place"), [("json", JsonCodec), ("json", JsonCodec())])
def test_our_own_codecs_can_be_given_like_a_users(name, place):
    """As a class or as an instance."""
    assert (codec_of(place).name, codec_of(place).id) == (name, 1)


def test_pickle_as_a_class_still_needs_the_secret():
    """There is no way around it."""
    with pytest.raises(ConfigError, match="secret"):
        codec_of(PickleCodec)
    assert codec_of(PickleCodec, "0123456789abcdef").name == "pickle"


class Without:
    id = 64


class Low(Reversed):
    id = 63


class High(Reversed):
    id = 65_536


class Truth(Reversed):
    id = True


class Nameless(Reversed):
    name = None


class Failing(Reversed):
    def __init__(self):
        raise OSError("no")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("jsn", r"unknown serializer 'jsn'; did you mean 'json'\?"),
        ("msgpak", "did you mean 'msgpack'"),
        ("zzzzzz", r"known: json, msgpack, pickle, protobuf"),
        ("", "unknown serializer"),
        ("no_such_module:Codec", "cannot be imported"),
        ("users_codecs:Missing", "cannot be imported"),
        ("users_codecs:number", "is no codec"),
        (":", "cannot be imported"),
        (5, "is no codec"),
        (None, "is no codec"),
        (Without, "is no codec"),
        (Low, "id must be 64 to 65535"),
        (High, "id must be 64 to 65535"),
        (Truth, "id must be an int"),
        (Nameless, "name a str"),
        (Failing, "OSError while it was made: no"),
        ("broken", "cannot be imported"),
    ],
)
def test_what_is_no_codec_is_a_configuration_error(entry_point, spec, message):
    """The message says what was given and what is wrong with it."""
    with pytest.raises(ConfigError, match=message):
        codec_of(spec)


@pytest.mark.parametrize(("name", "package"), [("msgpack", "msgpack"), ("protobuf", "google.protobuf")])
def test_a_missing_extra_is_named(name, package, monkeypatch):
    """With the command that installs it; and such entries are misses."""
    registry._built_in.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"pip install 'tiercast\[{name}\]'"):
        Serializer(name)
    with pytest.raises(UnreadableValue, match="unknown codec"):
        Serializer("json").load(registry.BUILT_IN[name][0], False, b"")


def test_nothing_optional_is_imported_before_it_is_used():
    """A json region needs no extra and does not pay for one."""
    script = (
        "import sys, tiercast.serialization as s\n"
        "s.Serializer().dump({'a': (1,)})\n"
        "found = {'msgpack', 'google.protobuf', 'pydantic', 'cattrs', 'pickle_codec', 'redis', 'diskcache'} & set(sys.modules)\n"
        "assert not found, found\n"
        "assert not any(name.endswith(('pickle_codec', 'msgpack_codec', 'pydantic_types')) for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
