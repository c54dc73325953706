"""What would not survive is refused, and the message says where it is."""

from __future__ import annotations

import array
import collections
import dataclasses
import datetime as dt
import enum
import io
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

import pytest

from tiercast.errors import SerializationError
from tiercast.serialization import Serializer, UnreadableValue


class Colour(enum.Enum):
    RED = 1


class Number(enum.IntEnum):
    ONE = 1


class Word(enum.StrEnum):
    A = "a"


class MyInt(int):
    pass


class MyFloat(float):
    pass


class MyStr(str):
    __slots__ = ()


class MyBytes(bytes):
    pass


class MyList(list):
    pass


class MyDict(dict):
    pass


class MyTuple(tuple):
    __slots__ = ()


class MyDate(dt.date):
    pass


class MyMoment(dt.datetime):
    pass


class Point(NamedTuple):
    x: int


class Zone(dt.tzinfo):
    def utcoffset(self, moment):
        return dt.timedelta(hours=1)

    def dst(self, moment):
        return None

    def __repr__(self):
        return "Zone()"


@dataclasses.dataclass
class User:
    born: object


STRANGERS = [
    Colour.RED, Number.ONE, Word.A, MyInt(1), MyFloat(1.0), MyStr("a"), MyBytes(b"a"), MyList([1]), MyDict(a=1),
    MyTuple((1,)), MyDate(2024, 1, 1), MyMoment(2024, 1, 1), Point(1), User(1), object(), len, int, ...,
    collections.OrderedDict(a=1), collections.defaultdict(int, a=1), collections.Counter("a"), collections.deque([1]),
    memoryview(b"a"), array.array("i", [1]), range(3), Path("a"), iter([1]), {}.keys(),
    dt.datetime(2024, 1, 1, tzinfo=Zone()), dt.time(1, tzinfo=Zone()), ValueError("x"),
]  # fmt: skip


@pytest.mark.parametrize("codec", ["json", "msgpack"])
@pytest.mark.parametrize("stranger", STRANGERS, ids=lambda thing: type(thing).__name__)
def test_subclasses_and_unknown_classes_are_refused_wherever_they_stand(codec, stranger):
    """A lone value, in a list, in a dict, in a tuple: the path is named each time."""
    serializer = Serializer(codec)
    cases = [
        (stranger, "value:"),
        ([0, stranger], "value[1]:"),
        ({"a": {"b c": stranger}}, "value['a']['b c']:"),
        ((0, [stranger]), "value[1][0]:"),
        ({1: [stranger]}, "value[1][0]:"),
    ]
    for value, path in cases:
        with pytest.raises(SerializationError) as caught:
            serializer.dump(value)
        assert str(caught.value).startswith(f"{path} cannot be kept by {codec}: "), str(caught.value)
        with pytest.raises(SerializationError) as caught:
            serializer.check(value)


@pytest.mark.parametrize("codec", ["json", "msgpack"])
@pytest.mark.parametrize(
    "key", [Number.ONE, Word.A, MyStr("a"), MyInt(1), Point(1), memoryview(b"a"), (1, MyInt(2)), Colour.RED]
)
def test_keys_are_judged_like_values(codec, key):
    """A dict key of a subclass would come back as its base, so it is refused too."""
    with pytest.raises(SerializationError, match=r"^value\[0\]\.keys\(\)<"):
        Serializer(codec).dump([{key: 1}])


@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_members_of_sets_are_judged(codec):
    """The message shows the member, for a set has no index."""
    with pytest.raises(SerializationError, match=r"^value\['s'\]<\(1, Point\(x=1\)\)>\[1\]: .*Point"):
        Serializer(codec).dump({"s": {(1, Point(1))}})


def test_the_message_says_what_to_do():
    """It names the path, the codec, the class and the way out."""
    with pytest.raises(SerializationError) as caught:
        Serializer().dump({"user": [1, 2, 3, {"born": User(1)}]})
    assert str(caught.value) == (
        f"value['user'][3]['born']: cannot be kept by json: lone type {__name__}.User; "
        "declare a type or use another serializer"
    )


@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_a_value_that_contains_itself_is_refused(codec):
    """Lists, dicts and tuples of lists; the message is short although the path is not."""
    looped, ring, pair = [], {}, ([],)
    looped.append(looped)
    ring["again"] = ring
    pair[0].append(pair)
    for value in (looped, ring, pair, {"x": [ring, (1,)]}):
        with pytest.raises(SerializationError, match="inside itself") as caught:
            Serializer(codec).dump(value)
        assert len(str(caught.value)) < 600


@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_a_time_zone_that_its_name_would_not_bring_back_is_refused(codec, tmp_path):
    """A zone read from a file of one's own, or without a name, has no other way back."""
    tzdata = ZoneInfo("Europe/Berlin")
    try:
        source = Path("/usr/share/zoneinfo/Asia/Tokyo").read_bytes()
    except OSError:
        from importlib.resources import files

        source = files("tzdata").joinpath("zoneinfo/Asia/Tokyo").read_bytes()
    false, nameless, unknown = (
        ZoneInfo.from_file(io.BytesIO(source), key=key) for key in ("Europe/Berlin", None, "Nowhere/Atall")
    )
    serializer = Serializer(codec)
    serializer.dump(dt.datetime(2024, 7, 1, tzinfo=tzdata))
    for zone in (false, nameless, unknown):
        with pytest.raises(SerializationError, match="time zone"):
            serializer.dump(dt.datetime(2024, 7, 1, tzinfo=zone))
    for zone in (nameless, unknown):
        with pytest.raises(SerializationError, match="time zone"):
            serializer.dump(dt.time(1, tzinfo=zone))


def test_a_repr_that_raises_does_not_hide_the_reason():
    """The message is made even where the value cannot be shown."""

    class Shy:
        def __repr__(self):
            raise RuntimeError("no")

        def __hash__(self):
            return 1

    with pytest.raises(SerializationError, match=r"value\.keys\(\)<.*Shy"):
        Serializer().dump({Shy(): 1})


@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_too_large_a_value_is_refused(codec):
    """`max_value_bytes` holds for the bytes before compression, so that they can be unpacked again."""
    serializer = Serializer(codec, max_value_bytes=100, compress_above=10)
    assert serializer.load(*serializer.dump("x" * 90)) == "x" * 90
    for refuse in (serializer.dump, serializer.check):
        with pytest.raises(SerializationError, match="over max_value_bytes"):
            refuse("x" * 200)


def test_check_takes_what_dump_takes_and_returns_nothing():
    """`strict_values` uses it in regions that store objects by reference."""
    assert Serializer().check({"a": (1, {2})}) is None


BROKEN = [
    b"", b"{", b"nul", b'"\xff"', b'{"a":1', b"[" * 2000 + b"]" * 2000,
    b' {"~unknown":1}', b' {"~tuple":1}', b' {"~set":[[1]]}', b' {"~dict":[1]}', b' {"~dict":[[[],1]]}',
    b' {"~int":"zz"}', b' {"~int":5}', b' {"~float":"1.0"}', b' {"~decimal":"x"}', b' {"~uuid":"x"}', b' {"~bytes":"*"}',
    b' {"~datetime":"x"}', b' {"~datetime":["2024-01-01T00:00:00",0,"../../etc/passwd"]}',
    b' {"~datetime":["2024-01-01T00:00:00",0,"/etc/passwd"]}', b' {"~datetime":["2024-01-01T00:00:00",0,"No/Where"]}',
    b' {"~datetime":["2024-01-01T00:00:00",7,null]}', b' {"~datetime":[1]}', b' {"~time":1}', b' {"~date":null}',
    b' {"~timedelta":["x"]}', b' {"~timedelta":[999999999999,0,0]}', b' {"~complex":[1,2,3]}', b' {"~str":"/w=="}',
]  # fmt: skip


@pytest.mark.parametrize("payload", BROKEN)
def test_broken_json_is_unreadable_and_nothing_else(payload):
    """Whatever stands in the store, a reader meets one internal error, which is counted as a miss."""
    with pytest.raises(UnreadableValue):
        Serializer().load(1, False, payload)


BROKEN_MSGPACK = [
    b"", b"\xc1", b"\xc1\xc1", b"\x81\xa1", b"\xd4\x01\x00", b"\xa1\xff", b"\xc1\x81\xa6~tuple\x01", b"\x01\x01",
    b"\xdd\xff\xff\xff\xff", b"\x91" * 3000,
]  # fmt: skip


@pytest.mark.parametrize("payload", BROKEN_MSGPACK)
def test_broken_msgpack_is_unreadable_and_nothing_else(payload):
    """As for JSON; a length that lies does not allocate."""
    with pytest.raises(UnreadableValue):
        Serializer("msgpack").load(2, False, payload)


@pytest.mark.parametrize("codec", [0, 5, 63, 64, 65535, -1])
def test_an_unknown_codec_is_unreadable(codec):
    """An entry of a newer release, or of a codec that this process lacks, is a miss."""
    with pytest.raises(UnreadableValue, match="unknown codec"):
        Serializer().load(codec, False, b"1")
