"""Declared types: what a codec alone would refuse or change comes back as it was."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import enum
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    Optional,
    TypedDict,
    TypeVar,
    Union,
)
from uuid import UUID

import attrs
import pydantic
import pytest

from tiercast.errors import ConfigError, SerializationError
from tiercast.serialization import Restorer, Serializer, UnreadableValue

T = TypeVar("T")


class Colour(enum.Enum):
    RED = (1, 2)
    BLUE = object()
    ALSO_RED = RED


class Number(enum.IntEnum):
    ONE = 1


class Word(enum.StrEnum):
    A = "a"


class Right(enum.Flag):
    READ = 1
    WRITE = 2


class UserId(int):
    pass


class Name(str):
    __slots__ = ()


class Point(NamedTuple):
    x: int
    at: dt.datetime


Loose = collections.namedtuple("Loose", "a b")  # noqa: PYI024  the untyped kind


class Movie(TypedDict):
    title: str
    year: NotRequired[int]
    colour: NotRequired[Colour]


@dataclasses.dataclass
class Address:
    street: str
    tags: set[Colour]


@dataclasses.dataclass(frozen=True, slots=True)
class User:
    id: UserId
    born: dt.date | None
    address: Address
    friends: list[User]
    extra: Any = None
    count: int = dataclasses.field(default=0, init=False, compare=False)


@dataclasses.dataclass
class Box(Generic[T]):
    inside: T
    more: list[T]


@dataclasses.dataclass(eq=False)
class NoEquality:
    a: int


@dataclasses.dataclass
class Doubling:
    a: int

    def __post_init__(self):
        self.a *= 2


@dataclasses.dataclass
class Derived:
    a: int

    def __post_init__(self):
        self.twice = self.a * 2


@dataclasses.dataclass
class Cat:
    name: str


@dataclasses.dataclass
class Dog:
    name: str


@attrs.frozen
class Account:
    _secret: str
    owner: Optional[Cat]  # noqa: UP045  the older spelling is a type of its own
    balance: Decimal = attrs.field(converter=Decimal)
    opened: dt.datetime = attrs.field(factory=lambda: dt.datetime(2024, 1, 1, tzinfo=dt.UTC))
    calls: int = attrs.field(default=0, init=False)


class Model(pydantic.BaseModel):
    id: int
    when: dt.datetime
    price: Decimal
    colour: Word
    data: bytes = b""
    pair: tuple[int, str] = (1, "a")
    ratio: float = 0.0
    parent: Model | None = None
    alias: str = pydantic.Field(default="x", alias="theAlias")
    _private: int = pydantic.PrivateAttr(default=0)


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, frozen=True)
    day: dt.date
    id: UUID


class Shouting(pydantic.BaseModel):
    text: str

    @pydantic.field_validator("text")
    @classmethod
    def louder(cls, text):
        return text + "!"


class Open(pydantic.BaseModel):
    anything: Any = None


class SubModel(Model):
    pass


@pydantic.dataclasses.dataclass
class Checked:
    n: int


cat, dog = Cat("Tom"), Dog("Rex")
street = Address("High Street", {Colour.RED, Colour.BLUE})
user = User(UserId(1), dt.date(2000, 1, 1), street, [User(UserId(2), None, street, [])], extra={"t": (1, 2)})
object.__setattr__(user, "count", 5)
moment = dt.datetime(2024, 2, 29, 12, tzinfo=dt.UTC)
model = Model(id=1, when=moment, price=Decimal("1.10"), colour=Word.A, theAlias="y")

KEPT = [
    (User, user),
    (list[User], [user, user]),
    (dict[str, User], {"a": user}),
    (dict[UserId, Colour], {UserId(1): Colour.RED}),
    (dict[Colour, int], {Colour.BLUE: 1}),
    (dict[Point, int], {Point(1, moment): 2}),
    (Mapping[str, Cat], {"a": cat}),
    (Sequence[Cat], (cat,)),
    (Sequence[Cat], [cat]),
    (set[Colour], {Colour.RED, Colour.BLUE}),
    (frozenset[Point], frozenset({Point(1, moment)})),
    (tuple[Cat, ...], (cat, cat)),
    (tuple[Cat, int, Colour | None], (cat, 1, None)),
    (tuple[()], ()),
    (Colour, Colour.RED),
    (Colour, Colour.ALSO_RED),
    (Number, Number.ONE),
    (Word, Word.A),
    (Right, Right.READ | Right.WRITE),
    (Right, Right(0)),
    (UserId, UserId(2**80)),
    (Name, Name("n")),
    (Point, Point(1, moment)),
    (Loose, Loose(1, (2, {3}))),
    (Movie, {"title": "M"}),
    (Movie, {"year": 1931, "title": "M", "colour": Colour.RED}),
    (Box[int], Box(1, [2])),
    (Box[Cat], Box(cat, [cat])),
    (Box, Box((1,), [{2}])),
    (Derived, Derived(3)),
    (Account, Account("s", cat, "1.50")),
    (Account, Account("s", None, Decimal(2))),
    (Cat | Dog, cat),
    (Cat | Dog, dog),
    (list[Cat | Dog | None], [cat, None, dog]),
    (Union[int, str, Cat, None], cat),  # noqa: UP007  the older spelling is a type of its own
    (int | str | Cat | None, "text"),
    (int | float, 1),
    (int | float, 1.0),
    (Word | str, Word.A),
    (Word | str, "a"),
    (dict[str, int] | Cat, {"Cat": 1}),
    (dict[str, int] | Cat, cat),
    (list[int] | list[str], ["a"]),
    (float, 3),
    (float, math.inf),
    (Literal["a", 1], 1),
    (Literal[Word.A], Word.A),
    (Annotated[Cat, "meta"], cat),
    (NewType("Id", int), 5),
    (Any, {"x": (1, {2})}),
    (dict, {1: (2,)}),
    (list, [(1,)]),
    (collections.OrderedDict[str, Cat], collections.OrderedDict(b=cat, a=dog and cat)),
    (collections.Counter, collections.Counter("aab")),
    (collections.deque[Cat], collections.deque([cat])),
    (UUID, UUID(int=5)),
    (Model, model),
    (Model, model.model_copy(update={"parent": model, "ratio": math.inf})),
    (list[Model], [model]),
    (Model | Cat, model),
    (Strict, Strict(day=dt.date(2024, 2, 29), id=UUID(int=1))),
    (Open, Open(anything=[1, {"a": None}])),
    (pydantic.RootModel[list[int]], pydantic.RootModel[list[int]]([1])),
    (Checked, Checked(1)),
]


@pytest.mark.parametrize("codec", ["json", "msgpack"])
@pytest.mark.parametrize(("declared", "value"), KEPT, ids=lambda part: str(part)[:40])
def test_declared_types_restore_their_values(codec, declared, value):
    """Equal and of the same type, whether the serializer or the caller names the type."""
    serializer = Serializer(codec, restore_type=declared)
    loaded = serializer.load(*serializer.dump(value))
    assert (type(value), value) == (type(loaded), loaded)
    if isinstance(value, (list, tuple, dict)) and value:
        first, other = (next(iter(v.values() if isinstance(v, dict) else v)) for v in (value, loaded))
        assert type(first) is type(other)
    untyped = Serializer(codec)
    assert value == untyped.load(*untyped.dump(value, as_type=declared), as_type=declared)


def test_fields_that_comparison_ignores_are_kept():
    """`count` is neither compared nor an argument of the constructor."""
    serializer = Serializer(restore_type=User)
    assert serializer.load(*serializer.dump(user)).count == 5


def test_objects_without_equality_keep_their_fields():
    """Sameness is judged by the fields, not by `==`."""
    serializer = Serializer(restore_type=NoEquality)
    assert serializer.load(*serializer.dump(NoEquality(7))).a == 7


class Sub(Cat):
    pass


@dataclasses.dataclass
class SubDecorated(Cat):
    age: int = 0


tagged_id = UserId(1)
tagged_id.note = "x"

REFUSED = [
    (User, {"id": 1}, "dict where .*User is declared"),
    (Cat, Sub("x"), "Sub where .*Cat is declared"),
    (Cat, SubDecorated("x"), "SubDecorated where .*Cat is declared"),
    (list[int], [1, "a"], r"^value\[1\]: .*str where int is declared"),
    (list[int], [True], "bool where int is declared"),
    (list[int], (1,), "tuple where"),
    (dict[str, list[Cat]], {"a": [cat, 5]}, r"^value\['a'\]\[1\]: .*int where"),
    (User, dataclasses.replace(user, friends=[dataclasses.replace(user, born="x")]), r"^value\.friends\[0\]\.born: "),
    (User, dataclasses.replace(user, extra={"f": [print]}), r"^value\.extra\['f'\]\[0\]: .*lone type"),
    (Point, Point(1, 2), r"^value\.at: "),
    (Movie, {"title": "M", "other": 1}, "not declared"),
    (Movie, {"year": 1}, "lacks"),
    (Movie, {"title": "M", "year": "x"}, r"^value\['year'\]"),
    (Doubling, Doubling(2), "its constructor changes the fields"),
    (Shouting, Shouting(text="a"), "does not come back equal"),
    (Open, Open(anything=(1, 2)), "does not come back equal"),
    (Open, Open(anything=dt.date(2024, 1, 1)), "does not come back equal"),
    (Model, SubModel(**model.model_dump(by_alias=True)), "SubModel where"),
    (
        Model,
        model.model_copy(update={"parent": SubModel(**model.model_dump(by_alias=True))}),
        "does not come back equal",
    ),
    (Model, model.model_copy(update={"id": "no number"}), "does not take its own JSON"),
    (pydantic.RootModel[int | None], pydantic.RootModel[int | None](None), "does not come back equal"),
    (list[Cat] | list[Dog], [cat], "ambiguous"),
    (Movie | Cat | dict[str, int], {"title": "M"}, "ambiguous"),
    (int | str, 1.0, "float where"),
    (Literal["a", 1], True, "where Literal"),
    (UserId, tagged_id, "attributes beside"),
    (collections.deque[int], collections.deque([1], maxlen=3), "maximum length"),
    (collections.defaultdict, collections.defaultdict(int), "lone type"),
    (object, object(), "lone type"),
    (Sub, Sub("x"), "lone type"),
]


@pytest.mark.parametrize(("declared", "value", "message"), REFUSED, ids=lambda part: str(part)[:40])
def test_what_a_type_would_not_restore_is_refused_with_its_path(declared, value, message):
    """Wrong types, subclasses, ambiguous unions, constructors and validators that change the value."""
    with pytest.raises(SerializationError, match=message):
        Serializer(restore_type=declared).dump(value)


def test_private_attributes_that_would_be_lost_are_refused():
    """pydantic's JSON does not hold them."""
    private = model.model_copy()
    private._private = 5
    with pytest.raises(SerializationError, match="does not come back equal"):
        Serializer(restore_type=Model).dump(private)


@pytest.mark.parametrize(
    ("written", "read", "value"),
    [
        (Any, User, {"id": 1}),
        (Cat, Address | int, cat),
        (Cat, list[Cat], cat),
        (list[int], list[str], [1]),
        (Cat, Address, cat),
        (Any, Movie, {"title": 5}),
        (Any, Movie, {"titel": "M"}),
        (Any, Colour, "GREEN"),
        (Any, Right, 64),
        (Any, Number, "x"),
        (Any, set[Colour], [["RED"]]),
        (Any, Model, {"id": "x"}),
        (Any, Model, 5),
        (Any, Literal["a"], "b"),
        (Any, tuple[int, int], (1,)),
        (Any, dict[Point, int], [1]),
        (Any, Cat | Dog, {"Bird": {}}),
        (Any, Cat | Dog, [1]),
        (Any, Sub, {"name": "x"}),
    ],
    ids=str,
)
def test_a_stored_value_that_the_type_no_longer_accepts_is_unreadable(written, read, value):
    """The reader counts a miss and loads anew."""
    serializer = Serializer()
    dumped = serializer.dump(value, as_type=written)
    with pytest.raises(UnreadableValue):
        serializer.load(*dumped, as_type=read)


@pytest.mark.parametrize("declared", [User, list[Cat], Model, int, Cat | Dog])
def test_nothing_is_a_value_of_every_type(declared):
    """`None` ("the origin has no such thing") is cached too, whatever is declared."""
    serializer = Serializer(restore_type=declared)
    assert serializer.load(*serializer.dump(None)) is None


def test_an_object_that_contains_itself_is_refused():
    """Never RecursionError."""
    ring = User(UserId(1), None, street, [])
    ring.friends.append(ring)
    with pytest.raises(SerializationError):
        Serializer(restore_type=User).dump(ring)


def test_pickle_keeps_types_by_itself_and_still_checks_them():
    """A declared type is not lowered for it; what is of another type is a miss."""
    serializer = Serializer("pickle", secret="0123456789abcdef", restore_type=Cat)
    assert serializer.load(*serializer.dump(cat)) == cat
    dumped = Serializer("pickle", secret="0123456789abcdef").dump(dog)
    with pytest.raises(UnreadableValue):
        serializer.load(*dumped)
    with pytest.raises(SerializationError):
        serializer.dump(dog)


def test_a_restorer_knows_whether_it_is_needed():
    """`natural` types need no help; a caller may leave the restorer out for them."""
    assert [True, True, False, False] == [Restorer(t).natural for t in (list[int], dict, Cat, set[Colour])]


def test_annotations_that_cannot_be_resolved_are_a_configuration_error():
    """The message names the class."""

    @dataclasses.dataclass
    class Lost:
        a: Nowhere  # noqa: F821  that is the point

    for declared in (Lost, "Lost", list["Lost"], {}):
        with pytest.raises(ConfigError):
            Serializer(restore_type=declared)
