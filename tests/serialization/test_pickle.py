"""Pickle: only what is signed with the fleet's secret is ever unpickled."""

from __future__ import annotations

import hmac
import os
import pickle
import threading

import pytest

from tiercast.errors import ConfigError, SerializationError
from tiercast.serialization import Serializer, UnreadableValue

SECRET = "0123456789abcdef"


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


class Thing:
    def __init__(self, a):
        self.a = a

    def __eq__(self, other):
        return type(other) is Thing and self.a == other.a

    __hash__ = None


class Gone:
    def __reduce__(self):
        return (_fail, ())


def _fail():
    raise RuntimeError("the class has changed")


def test_any_object_comes_back():
    """What the class's own pickling can do."""
    serializer = Serializer("pickle", secret=SECRET)
    value = {"a": [Thing((1, {2})), Thing(None)], 3: b"x"}
    assert serializer.load(*serializer.dump(value)) == value


def test_a_malicious_pickle_never_runs(tmp_path):
    """Unsigned, signed with another secret, signed without the derived key, or with the signature's bytes missing."""
    target = tmp_path / "ran"
    evil = pickle.dumps(Bomb(target))
    other = Serializer("pickle", secret="another secret of a fleet").dump(Bomb(target)).payload
    serializer = Serializer("pickle", secret=SECRET)
    for payload in (
        evil,
        b"\0" * 32 + evil,
        other,
        hmac.digest(SECRET.encode(), evil, "sha256") + evil,
        hmac.digest(b"", evil, "sha256") + evil,
        b"",
        evil[:31],
    ):
        with pytest.raises(UnreadableValue):
            serializer.load(3, False, payload)
        with pytest.raises(UnreadableValue):
            Serializer("json", secret=SECRET).load(3, False, payload)
    assert not target.exists()


def test_every_flipped_bit_of_a_signed_pickle_is_refused(monkeypatch):
    """pickle.loads is not even called."""
    serializer = Serializer("pickle", secret=SECRET)
    payload = serializer.dump({"a": 1}).payload
    monkeypatch.setattr(pickle, "loads", lambda data: pytest.fail("unpickled"))
    for at in range(len(payload)):
        for bit in range(8):
            changed = bytearray(payload)
            changed[at] ^= 1 << bit
            with pytest.raises(UnreadableValue):
                serializer.load(3, False, bytes(changed))


def test_without_a_secret_pickles_are_neither_written_nor_read():
    """A region on json does not start to unpickle because somebody put a pickle there."""
    payload = Serializer("pickle", secret=SECRET).dump(1).payload
    with pytest.raises(UnreadableValue, match="unknown codec 3"):
        Serializer("json").load(3, False, payload)
    assert Serializer("json", secret=SECRET).load(3, False, payload) == 1


@pytest.mark.parametrize("secret", [None, "", b"", "short", 5])
def test_a_missing_or_short_secret_is_a_configuration_error(secret):
    """Said when the region is made, not when the first value is stored."""
    with pytest.raises(ConfigError, match="secret"):
        Serializer("pickle", secret=secret)


def test_the_secret_is_in_no_repr():
    """Neither of the serializer nor of the codec."""
    serializer = Serializer("pickle", secret=SECRET)
    assert SECRET not in repr(serializer) + repr(serializer.codec)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (lambda: 1, "value:"),
        ({"a": [1, lambda: 1]}, "value['a'][1]:"),
        ((threading.Lock(),), "value[0]:"),
        ([{"k": (0, open)}, {"x": threading.Lock()}], "value[1]['x']:"),
    ],
)
def test_what_cannot_be_pickled_is_refused_with_its_path(value, path):
    """As for the other codecs."""
    with pytest.raises(SerializationError) as caught:
        Serializer("pickle", secret=SECRET).dump(value)
    assert str(caught.value).startswith(f"{path} cannot be kept by pickle: ")


def test_a_signed_pickle_that_no_longer_loads_is_unreadable():
    """Its class has changed or is gone: a miss."""
    serializer = Serializer("pickle", secret=SECRET)
    with pytest.raises(UnreadableValue, match="RuntimeError"):
        serializer.load(*serializer.dump(Gone()))
