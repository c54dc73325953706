"""The envelope: golden bytes, rounding, and that no bytes whatever raise anything but EnvelopeError."""

from __future__ import annotations

import dataclasses
import math
import struct
from binascii import crc32

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tiercast.tiers.entry import STALE, TOMBSTONE, Envelope
from tiercast.tiers.envelope import (
    BORN_AT,
    FENCE_AT,
    FLAGS_AT,
    FRESH_AT,
    HEADER_SIZE,
    KEEP_AT,
    NEVER,
    EnvelopeError,
    Head,
    pack,
    peek,
    tombstone,
    unpack,
)

GOLDEN = Envelope(
    epoch="e1",
    born=258,
    created=1_700_000_000.25,
    fresh_until=1_700_000_300.5,
    keep_until=math.inf,
    ttl=300.25,
    cost=0.5,
    scope="organization:1",
    tags=("a", "bü"),
    codec=1,
    compressed=False,
    flags=STALE,
    version="v",
    key="\ud800k",
    payload=b'{"a":1}',
)
GOLDEN_BYTES = b"".join([
    b"TC11",  # magic, version, flags
    b"0000000000000102",  # born
    b"0000000000000007",  # end of the fence
    b"ffffffffffffffff",  # keep_until: none
    b"0000018bcfe9fdd4",  # fresh_until
    bytes.fromhex("908ed235"),  # checksum
    bytes.fromhex("41d954fc40100000 4072c40000000000 3fe0000000000000"),  # created, ttl, cost
    bytes.fromhex("0001 00"),  # codec, compressed
    bytes.fromhex("00000002 00000001 0000000e 00000002"),  # characters of epoch, version, scope, key
    bytes.fromhex("00000002 00000019 00000001 00000002"),  # tags, bytes of texts, characters of each tag
    "e1vorganization:1\ud800kabü".encode("utf-8", "surrogatepass"),
    b'{"a":1}',
])  # fmt: skip

whole = st.integers(0, 2**64 - 1)
moments = st.one_of(st.floats(0, 1e11), st.just(math.inf), st.integers(0, 10**14).map(lambda ms: ms / 1000.0))
texts = st.text(st.characters(), max_size=6)
envelopes = st.builds(
    Envelope,
    epoch=texts,
    born=whole,
    created=st.floats(-1e11, 1e11),
    fresh_until=moments,
    keep_until=moments,
    ttl=st.one_of(st.floats(0, 1e11), st.just(math.inf)),
    cost=st.floats(0, 1e6),
    scope=texts,
    tags=st.lists(texts, max_size=4).map(tuple),
    codec=st.integers(0, 65_535),
    compressed=st.booleans(),
    flags=st.integers(0, 7),
    version=texts,
    key=texts,
    payload=st.binary(max_size=40),
)


def test_the_bytes_are_what_they_always_were():
    """The format is a promise to other releases, to scripts and to other languages; it changes with the magic only."""
    assert pack(GOLDEN, fence=7) == GOLDEN_BYTES
    assert unpack(GOLDEN_BYTES) == GOLDEN


def test_the_header_lies_where_the_scripts_look():
    """Offsets are constants, numbers are lower-case hexadecimal text of fixed width."""
    assert (FLAGS_AT, BORN_AT, FENCE_AT, KEEP_AT, FRESH_AT, HEADER_SIZE) == (3, 4, 20, 36, 52, 68)
    data = pack(dataclasses.replace(GOLDEN, born=0xABC), fence=0xDEF)
    fields = [data[at : at + 16] for at in (BORN_AT, FENCE_AT, KEEP_AT, FRESH_AT)]
    assert [b"0000000000000abc", b"0000000000000def", b"f" * 16, b"0000018bcfe9fdd4"] == fields


@settings(max_examples=300, deadline=None)
@given(envelopes, st.integers(0, 2**64 - 1))
def test_what_is_packed_comes_back(envelope, fence):
    """All but the deadlines exactly; those in whole milliseconds, never later, and stable from then on."""
    data = pack(envelope, fence)
    back = unpack(data)
    assert dataclasses.replace(back, fresh_until=0.0, keep_until=0.0) == dataclasses.replace(
        envelope, fresh_until=0.0, keep_until=0.0
    )
    for given_, got in ((envelope.fresh_until, back.fresh_until), (envelope.keep_until, back.keep_until)):
        assert got <= given_
        assert given_ == got or given_ - got < 0.0011
    assert pack(back, fence) == data
    assert peek(data) == peek(data[:HEADER_SIZE])
    assert (peek(data).born, peek(data).fence, peek(data).flags) == (envelope.born, fence, envelope.flags)


@given(st.integers(0, 10**14))
@example(1001)
@example(1_700_000_000_123)
def test_a_deadline_in_milliseconds_does_not_shrink(count):
    """1.001 * 1000 is less than 1001 in floating point; a renewal must not take a millisecond each time."""
    assert peek(pack(dataclasses.replace(GOLDEN, keep_until=count / 1000.0))).keep == count


@given(st.integers(1, 10**14))
@example(9)
@example(1_700_000_000_123)
def test_a_deadline_just_before_a_millisecond_is_not_rounded_up_to_it(count):
    """The product rounds up there, and the entry would live a little too long."""
    moment = math.nextafter(count / 1000.0, 0.0)
    assert peek(pack(dataclasses.replace(GOLDEN, keep_until=moment))).keep / 1000.0 <= moment


@pytest.mark.parametrize(
    ("moment", "kept"),
    [
        (1.0009999, 1000),
        (1.001, 1001),
        (0.0, 0),
        (-5.0, 0),
        (-math.inf, 0),
        (math.inf, NEVER),
        (1e300, NEVER - 1),
        (1.8e16, NEVER - 1),
    ],
)
def test_deadlines_are_rounded_down(moment, kept):
    """An entry never lives longer than it was given; only infinity has no end."""
    head = peek(pack(dataclasses.replace(GOLDEN, keep_until=moment, fresh_until=moment)))
    assert (kept, kept) == (head.keep, head.fresh)


@pytest.mark.parametrize(
    "change",
    [
        {"born": -1},
        {"born": 2**64},
        {"codec": 70_000},
        {"keep_until": math.nan},
        {"fresh_until": math.nan},
        {"flags": 8},
    ],
)
def test_numbers_out_of_range_are_refused(change):
    """They are mistakes of the caller, said at once."""
    with pytest.raises(ValueError):
        pack(dataclasses.replace(GOLDEN, **change))


@settings(max_examples=300)
@given(st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(lambda rest: b"TC10" + b"0" * 64 + rest)))
def test_any_bytes_are_an_envelope_or_an_envelope_error(data):
    """Random bytes, with and without a good header."""
    for read in (unpack, peek):
        try:
            read(data)
        except EnvelopeError:
            pass


@settings(max_examples=500, deadline=None)
@given(envelopes, st.data())
def test_a_damaged_envelope_never_yields_another_value(envelope, data):
    """Cut, lengthened, or with bytes changed: outside what scripts may write, the checksum sees it."""
    packed = pack(envelope)
    kind = data.draw(st.sampled_from(["cut", "add", "change"]))
    if kind == "cut":
        damaged = packed[: data.draw(st.integers(0, len(packed) - 1))]
    elif kind == "add":
        damaged = packed + data.draw(st.binary(min_size=1, max_size=5))
    else:
        changed = bytearray(packed)
        changed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
        damaged = bytes(changed)
    try:
        got = unpack(damaged)
    except EnvelopeError:
        return
    if len(damaged) == HEADER_SIZE:
        assert got.flags & TOMBSTONE
        return
    # Only the script's own fields can have changed: flags, born, the end of the fence (or the case of a hex digit).
    original = unpack(packed)
    assert got == dataclasses.replace(original, flags=got.flags, born=got.born)


def test_each_flipped_bit_of_the_body_is_seen():
    """Deadlines, lengths, texts and payload are under the checksum."""
    packed = pack(GOLDEN)
    for at in range(KEEP_AT, len(packed)):
        for bit in range(8):
            changed = bytearray(packed)
            changed[at] ^= 1 << bit
            with pytest.raises(EnvelopeError):
                unpack(bytes(changed))


def forged(body):
    """A golden header with another body and a checksum that fits."""
    header = GOLDEN_BYTES[:HEADER_SIZE]
    return header + struct.pack(">I", crc32(body, crc32(header[KEEP_AT:]))) + body


@pytest.mark.parametrize(
    ("at", "field"),
    [
        (0, struct.pack(">d", math.nan)),  # created
        (0, struct.pack(">d", math.inf)),
        (8, struct.pack(">d", math.nan)),  # ttl
        (8, struct.pack(">d", -1.0)),
        (16, struct.pack(">d", math.nan)),  # cost
        (26, b"\2"),  # compressed
        (27, struct.pack(">I", 3)),  # characters of epoch
        (43, struct.pack(">I", 2**32 - 1)),  # tags
        (47, struct.pack(">I", 24)),  # bytes of texts
        (47, struct.pack(">I", 2**32 - 1)),
    ],
)
def test_nonsense_with_a_good_checksum_is_an_envelope_error(at, field):
    """Numbers that would make an entry immortal, and lengths that do not fit, are not believed."""
    body = GOLDEN_BYTES[72:]
    assert unpack(forged(body)) == GOLDEN
    with pytest.raises(EnvelopeError):
        unpack(forged(body[:at] + field + body[at + len(field) :]))


def test_texts_that_reach_beyond_the_end_are_an_envelope_error():
    """With an empty payload the texts end where the bytes end, and not one later."""
    body = pack(dataclasses.replace(GOLDEN, payload=b""), 7)[72:]
    assert unpack(forged(body)).payload == b""
    with pytest.raises(EnvelopeError):
        unpack(forged(body[:47] + struct.pack(">I", 26) + body[51:]))


@settings(max_examples=300, deadline=None)
@given(envelopes, st.data())
def test_a_forged_checksum_yields_an_envelope_or_an_envelope_error(envelope, data):
    """A foreign writer may compute the checksum of nonsense; it is still no other exception, and never NaN."""
    body = bytearray(pack(envelope)[72:])
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    header = pack(envelope)[:HEADER_SIZE]
    forged = header + struct.pack(">I", crc32(body, crc32(header[KEEP_AT:]))) + bytes(body)
    try:
        got = unpack(forged)
    except EnvelopeError:
        return
    assert not any(map(math.isnan, (got.created, got.ttl, got.cost, got.fresh_until, got.keep_until)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"TC1",
        b"TC2" + GOLDEN_BYTES[3:],
        b"TC1g" + GOLDEN_BYTES[4:],
        b"TC18" + GOLDEN_BYTES[4:],
        b"TC10" + b"0" * 64,
        GOLDEN_BYTES[:4] + b"+" + GOLDEN_BYTES[5:],
        GOLDEN_BYTES[:4] + b"_" + GOLDEN_BYTES[5:],
        GOLDEN_BYTES[:4] + b" " + GOLDEN_BYTES[5:],
        GOLDEN_BYTES[:4] + b"-000000000000001" + GOLDEN_BYTES[20:],
        b"\x80\x05K\x01.",
    ],
)
def test_foreign_newer_and_malformed_data_is_an_envelope_error(data):
    """What Python's int() would take for a number is not one here."""
    with pytest.raises(EnvelopeError):
        unpack(data)


def test_scripts_may_write_flags_born_and_fence():
    """The three stand outside the checksum: the log's script fills in born, a soft invalidation marks."""
    data = pack(dataclasses.replace(GOLDEN, born=0, flags=0))
    written = data[:3] + b"1" + b"%016x" % 99 + b"%016x" % 12345 + data[36:]
    assert unpack(written) == dataclasses.replace(GOLDEN, born=99, flags=STALE)
    assert peek(written).fence == 12345


def test_a_tombstone_is_a_header():
    """68 bytes, the same that the log's script makes; read as an envelope of nothing."""
    data = tombstone(258, 7)
    assert data == b"TC12" + b"0000000000000102" + b"0000000000000007" + b"0" * 32
    assert peek(data) == Head(TOMBSTONE, 258, 7, 0, 0)
    assert (unpack(data).flags, unpack(data).born, unpack(data).payload) == (TOMBSTONE, 258, b"")
