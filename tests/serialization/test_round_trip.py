"""G7: what `dump` takes, `load` returns, equal and of the same type."""

from __future__ import annotations

import datetime as dt
import math
import struct
import sys
import threading
from decimal import Decimal
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiercast.errors import SerializationError
from tiercast.serialization import Serializer
from tiercast.serialization.tagged import ATOMS, MAX_DEPTH, is_plain

CODECS = ["json", "msgpack"]


def identical(one, other):
    """Equal and of the same type all the way down, to the bit where `==` is generous."""
    if type(one) is not type(other):
        return False
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(identical, one, other))
    if isinstance(one, dict):
        pairs = zip(one.items(), other.items(), strict=False)
        return len(one) == len(other) and all(identical(a, b) for a, b in pairs)
    if isinstance(one, (set, frozenset)):
        return sorted(map(described, one)) == sorted(map(described, other))
    return described(one) == described(other)


def described(leaf):
    """Text that tells leaves apart that `==` does not, and calls NaN equal to NaN."""
    if isinstance(leaf, float):
        return f"float {math.copysign(1, leaf)} {leaf!r}"
    if isinstance(leaf, complex):
        return f"complex {described(leaf.real)} {described(leaf.imag)}"
    if isinstance(leaf, (dt.datetime, dt.time)):
        zone = leaf.tzinfo
        name = zone.key if isinstance(zone, ZoneInfo) else repr(zone)
        return f"{type(leaf).__name__} {leaf.replace(tzinfo=None)!r} {leaf.fold} {type(zone)} {name}"
    if isinstance(leaf, (tuple, frozenset)):
        parts = map(described, leaf)
        return f"{type(leaf).__name__} {list(parts) if isinstance(leaf, tuple) else sorted(parts)}"
    if type(leaf) is int:
        return f"int {leaf:x}"
    return f"{type(leaf).__name__} {leaf!r}"


offsets = st.timedeltas(min_value=dt.timedelta(hours=-23), max_value=dt.timedelta(hours=23))
zones = st.one_of(
    st.none(),
    st.just(dt.UTC),
    offsets.map(dt.timezone),
    st.builds(dt.timezone, offsets, st.text(max_size=4)),
    st.sampled_from(["Europe/Berlin", "America/New_York", "UTC", "Asia/Kathmandu"]).map(ZoneInfo),
)
texts = st.one_of(
    st.text(max_size=8),
    st.text(st.characters(categories=["Cs"]), max_size=3),
    st.sampled_from(["~tuple", "~dict", "~", "~str", ""]),
)
hashable = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(min_value=-(2**70), max_value=2**70),
        st.floats(),
        texts,
        st.binary(max_size=8),
        st.complex_numbers(allow_nan=True),
        st.decimals().filter(lambda number: not number.is_snan()),  # which cannot be hashed
        st.sampled_from([Decimal("-NaN"), Decimal("NaN7"), Decimal("-0.00"), Decimal("1E+999999")]),
        st.uuids(),
        st.dates(),
        st.datetimes(timezones=zones, allow_imaginary=True),
        st.times(timezones=zones),
        st.datetimes(timezones=zones).map(lambda moment: moment.replace(fold=1)),
        st.timedeltas(),
    ),
    lambda inner: st.one_of(st.tuples(inner, inner), st.frozensets(inner, max_size=3), st.tuples()),
    max_leaves=4,
)
values = st.recursive(
    st.one_of(hashable, st.binary(max_size=8).map(bytearray), st.just(Decimal("sNaN12"))),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(texts, inner, max_size=4),
        st.dictionaries(hashable, inner, max_size=3),
        st.tuples(inner, inner),
        st.sets(hashable, max_size=3),
    ),
    max_leaves=12,
)
plain = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False, allow_infinity=False),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), inner, max_size=4),
    ),
    max_leaves=15,
)  # fmt: skip


@pytest.mark.parametrize("codec", CODECS)
@settings(max_examples=300, deadline=None)
@given(value=values)
def test_nested_values_of_every_kept_type_come_back_the_same(codec, value):
    """Dates, decimals, UUIDs, bytes, tuples, sets, NaN, huge integers, lone surrogates, odd keys: none is changed."""
    serializer = Serializer(codec)
    loaded = serializer.load(*serializer.dump(value))
    assert identical(value, loaded), (value, loaded)


@settings(max_examples=150, deadline=None)
@given(value=plain)
def test_plain_json_stays_plain_json(value):
    """What JSON itself can say is stored as JSON that any service can read, without tags."""
    import json

    payload = Serializer(compress_above=None).dump(value).payload
    assert payload[:1] != b" "
    assert json.loads(payload) == value


@settings(max_examples=100, deadline=None)
@given(value=values)
def test_tagged_json_is_still_json(value):
    """Other languages can parse every payload of the json codec."""
    import json

    json.loads(Serializer(compress_above=None).dump(value).payload)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    "value",
    [
        {"~tuple": [1, 2]},
        [{"~tuple": [1, 2]}, (1, 2)],
        {"~dict": [[1, 2]]},
        {"~": 1, "x": (1,)},
        {"~unknown": {"~unknown": (1,)}},
        {"a": {"~bytes": "AA=="}, "b": b"\0"},
        {1: {"~int": "ff"}},
        {(1, ("a", frozenset({2}))): [None]},
        {"\ud800": {"\udfff": "\ud83d\ude00 as two halves".replace("two", "\ud83d")}},
    ],
)
def test_a_value_that_looks_like_a_tagged_form_is_not_taken_for_one(codec, value):
    """A user's dict survives whatever its keys are."""
    serializer = Serializer(codec)
    assert identical(value, serializer.load(*serializer.dump(value)))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    "value",
    [0.0, -0.0, math.nan, -math.nan, math.inf, -math.inf, 5e-324, sys.float_info.max, 1.0, 1, True,
     2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**5000, -(10**5000)],
    ids=lambda number: f"{number:.3g}" if isinstance(number, float) else f"{number:x}"[:20],
)  # fmt: skip
@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [v], lambda v: {"a": {"b": v}}, lambda v: (v,)])
def test_numbers_at_the_edges(codec, value, wrap):
    """Negative zero, the infinities, NaN and integers beyond 64 bits and 4,300 digits stay what they are."""
    serializer = Serializer(codec)
    assert identical(wrap(value), serializer.load(*serializer.dump(wrap(value))))


@pytest.mark.parametrize("codec", CODECS)
def test_the_sign_of_nan_is_kept(codec):
    """Even what no comparison shows."""
    serializer = Serializer(codec)
    for value in (math.nan, -math.nan):
        assert struct.pack(">d", value) == struct.pack(">d", serializer.load(*serializer.dump([value]))[0])


@pytest.mark.parametrize("codec", CODECS)
def test_the_order_of_keys_is_kept(codec):
    """A dict is given back in the order in which it was made, in plain and in tagged form."""
    serializer = Serializer(codec)
    for value in ({"b": 1, "a": 2, "c": 3}, {"b": (1,), "a": 2}, {3: 1, 1: 2, "x": 3}):
        assert list(value) == list(serializer.load(*serializer.dump(value)))


@pytest.mark.parametrize("codec", CODECS)
def test_both_hours_of_a_clock_change_are_told_apart(codec):
    """`fold` and the zone's rules are kept, not only the offset of the moment."""
    serializer, berlin = Serializer(codec), ZoneInfo("Europe/Berlin")
    for fold in (0, 1):
        value = dt.datetime(2024, 10, 27, 2, 30, tzinfo=berlin, fold=fold)
        loaded = serializer.load(*serializer.dump(value))
        assert loaded.tzinfo is berlin
        assert (loaded, loaded.fold, loaded.utcoffset()) == (value, fold, value.utcoffset())


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("microseconds", [1, -1, 999_999, 3_600_000_001])
def test_an_offset_of_parts_of_a_second_is_kept(codec, microseconds):
    """CPython's fromisoformat reads an offset of one microsecond as UTC."""
    serializer, zone = Serializer(codec), dt.timezone(dt.timedelta(microseconds=microseconds))
    for value in (dt.datetime(2000, 1, 1, tzinfo=zone), dt.time(1, tzinfo=zone)):
        assert identical(value, serializer.load(*serializer.dump(value)))


@pytest.mark.parametrize("codec", CODECS)
def test_a_value_is_not_touched_by_dump(codec):
    """Lowering makes new containers; the caller's value is the caller's."""
    inner = {"t": (1, [2]), "k": {1: {2}}}
    value, copy = [inner, {"x": inner}], [dict(inner), {"x": dict(inner)}]
    Serializer(codec).dump(value)
    assert identical(copy, value)
    assert value[0] is inner


def nested(levels, make):
    value = 1
    for _ in range(levels):
        value = make(value)
    return value


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("make", [lambda v: [v], lambda v: {"k": v}, lambda v: (v,), lambda v: {1: v}])
def test_depth_is_either_kept_or_refused(codec, make):
    """80 levels survive; 100,000 are refused in words, never by RecursionError."""
    serializer = Serializer(codec)
    value = nested(80, make)
    assert value == serializer.load(*serializer.dump(value))
    deep = nested(100_000, make)
    with pytest.raises(SerializationError, match="nested deeper"):
        serializer.dump(deep)


@pytest.mark.parametrize("codec", CODECS)
def test_every_depth_that_dump_takes_can_be_loaded(codec):
    """The writer's limit lies within the reader's."""
    serializer = Serializer(codec)
    for make in (lambda v: [v], lambda v: (v,), lambda v: {1: v}):
        for levels in range(60, 270, 7):
            value = nested(levels, make)
            try:
                dumped = serializer.dump(value)
            except SerializationError:
                continue
            assert value == serializer.load(*dumped)


def test_the_walk_stops_by_itself():
    """Not by Python's own limit, which a service may have raised: in a ring it would walk until the stack is gone."""
    for make in (lambda v: [v], lambda v: {"k": v}):
        assert is_plain(nested(MAX_DEPTH, make), ATOMS, True, None)
        assert not is_plain(nested(MAX_DEPTH + 1, make), ATOMS, True, None)


def test_threads_share_a_serializer():
    """One serializer serves many threads at once, compression included."""
    serializer = Serializer(compress_above=10)
    wrong = []

    def work(number):
        value = {"n": number, "t": (number,) * 50}
        for _ in range(200):
            loaded = serializer.load(*serializer.dump(value))
            if not identical(value, loaded):
                wrong.append(loaded)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_uuid_is_a_uuid_again():
    """Not text, which is what orjson alone would make of it."""
    serializer, value = Serializer(), UUID("12345678123456781234567812345678")
    assert identical([value], serializer.load(*serializer.dump([value])))
