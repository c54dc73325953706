"""Golden bytes: what is stored today must be readable by every later release."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from tiercast.serialization import Serializer

SECRET = "correct horse battery staple"
PLAIN = {"id": 7, "name": "Zürich", "ok": True, "none": None, "list": [1, -2.5]}
TAGGED = [
    (1, "a"),
    {1: b"\0\xff"},
    {2},
    frozenset({"x"}),
    bytearray(b"ab"),
    "\ud800",
    2**64,
    -(2**70),
    1 + 2j,
    Decimal("1.10"),
    UUID("12345678123456781234567812345678"),
    dt.date(2024, 2, 29),
    dt.timedelta(days=-1, microseconds=5),
    dt.datetime(2024, 2, 29, 12, tzinfo=dt.UTC),
    dt.datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")),
    dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1), "X")),
    dt.time(1, 2, 3),
    {"~tuple": []},
]

PLAIN_JSON = '{"id":7,"name":"Zürich","ok":true,"none":null,"list":[1,-2.5]}'
TAGGED_JSON = (
    ' [{"~tuple":[1,"a"]},{"~dict":[[1,{"~bytes":"AP8="}]]},{"~set":[2]},{"~frozenset":["x"]},{"~bytearray":"YWI="},'
    '{"~str":"7aCA"},{"~int":"10000000000000000"},{"~int":"-400000000000000000"},{"~complex":[1.0,2.0]},'
    '{"~decimal":"1.10"},{"~uuid":"12345678123456781234567812345678"},{"~date":"2024-02-29"},{"~timedelta":[-1,0,5]},'
    '{"~datetime":"2024-02-29T12:00:00+00:00"},{"~datetime":["2024-10-27T02:30:00",1,"Europe/Berlin"]},'
    '{"~datetime":["2024-01-01T00:00:00",0,[3600000000,"X"]]},{"~time":"01:02:03"},{"~dict":[["~tuple",[]]]}]'
)


@pytest.mark.parametrize(
    ("codec", "value", "text"),
    [("json", PLAIN, PLAIN_JSON), ("json", TAGGED, TAGGED_JSON)],
    ids=["plain", "tagged"],
)
def test_json_is_stored_as_ever(codec, value, text):
    """Both directions: the bytes that are made, and the value that is read from them."""
    serializer = Serializer(codec, compress_above=None)
    assert serializer.dump(value) == (1, False, text.encode())
    assert serializer.load(1, False, text.encode()) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (PLAIN, "85a2696407a46e616d65a75ac3bc72696368a26f6bc3a46e6f6e65c0a46c6973749201cbc004000000000000"),
        ([b"\0\xff", {1: 2.0}], "92c40200ff8101cb4000000000000000"),
        ([(1, "a")], "c19181a67e7475706c659201a161"),
    ],
)
def test_msgpack_is_stored_as_ever(value, text):
    """Plain values by MessagePack alone, others behind the byte c1."""
    serializer = Serializer("msgpack", compress_above=None)
    assert serializer.dump(value) == (2, False, bytes.fromhex(text))
    assert serializer.load(2, False, bytes.fromhex(text)) == value


def test_pickle_is_signed_as_ever():
    """HMAC-SHA256 with a key made from the secret, then the pickle."""
    stored = bytes.fromhex(
        "f00ae2c1fa3167be04dbee6b0ffd0ee508fcfb536b3cae52e8a9e6fa469b6d538005950a000000000000007d948c0161944b01732e"
    )
    serializer = Serializer("pickle", secret=SECRET)
    assert serializer.dump({"a": 1}) == (3, False, stored)
    assert serializer.load(3, False, stored) == {"a": 1}


def test_protobuf_is_stored_as_ever():
    """The type's full name, a zero byte, the message."""
    from google.protobuf.wrappers_pb2 import StringValue

    stored = b"google.protobuf.StringValue\0\n\x02hi"
    serializer = Serializer("protobuf")
    assert serializer.dump(StringValue(value="hi")) == (4, False, stored)
    assert serializer.load(4, False, stored) == StringValue(value="hi")


def test_a_compressed_payload_of_old_can_be_read():
    """One zstd frame; how well later releases of zstd compress is their own affair."""
    stored = bytes.fromhex("28b52ffd60ba0a550000182261220100b4f30116")
    assert Serializer().load(1, True, stored) == "a" * 3000
