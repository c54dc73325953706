"""Compression: above a size, bounded when unpacked, and off where the extra is missing."""

from __future__ import annotations

import sys

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tiercast.errors import ConfigError
from tiercast.serialization import Serializer, UnreadableValue
from tiercast.serialization.compression import Zstd


def test_large_payloads_are_compressed_and_small_ones_are_not():
    """The threshold is exclusive; None never compresses."""
    at_the_limit, above = "x" * 98, "x" * 99  # JSON adds two quotes
    serializer = Serializer(compress_above=100)
    assert [False, True] == [serializer.dump(value).compressed for value in (at_the_limit, above)]
    assert not Serializer(compress_above=None).dump("x" * 5000).compressed
    for value in (at_the_limit, above):
        assert serializer.load(*serializer.dump(value)) == value


def test_what_does_not_get_smaller_is_not_compressed():
    """Random bytes stay as they are."""
    import random

    noise = random.Random(1).randbytes(5000)
    dumped = Serializer("msgpack", compress_above=100).dump(noise)
    assert not dumped.compressed


def test_a_bomb_is_not_unpacked():
    """A frame that states, or hides, more than max_value_bytes is unreadable before anything is allocated."""
    import tracemalloc

    bomb = zstandard.ZstdCompressor().compress(b"a" * 50_000_000)
    stream = zstandard.ZstdCompressor().compressobj()
    hidden = stream.compress(b"a" * 50_000_000) + stream.flush()
    serializer = Serializer(max_value_bytes=1_000_000)
    tracemalloc.start()
    for frame in (bomb, hidden):
        with pytest.raises(UnreadableValue, match="max_value_bytes"):
            serializer.load(1, True, frame)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_unreadable(data):
    """Whatever stands in the store."""
    try:
        Serializer().load(1, True, data)
    except UnreadableValue:
        pass


@given(st.integers(0, 10**6), st.integers(0, 255))
def test_a_damaged_frame_is_a_value_or_unreadable(at, byte):
    """A valid frame with one byte changed."""
    frame = bytearray(Serializer().dump(list(range(1000))).payload)
    frame[at % len(frame)] = byte
    try:
        Serializer().load(1, True, bytes(frame))
    except UnreadableValue:
        pass


@pytest.fixture
def without_zstd(monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setattr(sys, "version_info", (3, 13, 0, "final", 0))


def test_without_the_extra_compression_is_off(without_zstd):
    """Values are stored uncompressed; compressed ones of others are misses that say what to install."""
    serializer = Serializer(compress_above=10)
    assert not serializer.dump("x" * 5000).compressed
    with pytest.raises(UnreadableValue, match=r"tiercast\[zstd\]"):
        serializer.load(1, True, b"anything")


def test_asking_for_compression_without_the_extra_is_a_configuration_error(without_zstd):
    """It names the extra."""
    for ask in (Zstd, lambda: Serializer(require_compression=True)):
        with pytest.raises(ConfigError, match=r"pip install 'tiercast\[zstd\]'"):
            ask()
