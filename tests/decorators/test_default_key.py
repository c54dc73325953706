"""Default keys: different arguments never make the same key, equal ones always do."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import enum
import itertools
import uuid
import zoneinfo
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePosixPath
from typing import NamedTuple

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiercast.decorators import cached
from tiercast.decorators.default_key import UnkeyableError, text

pytestmark = pytest.mark.usefixtures("manager")


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Level(enum.IntEnum):
    ONE = 1


class Right(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()


@dataclasses.dataclass
class Point:
    x: object
    y: object


@attrs.frozen
class Circle:
    x: object
    y: object


class Pair(NamedTuple):
    x: object
    y: object


class Name(str):
    __slots__ = ()


UTC = dt.UTC
NAIVE = dt.datetime.fromisoformat("2024-10-27T02:30")
DIFFERENT = [
    1, "1", True, 1.0, None, "None", "True", b"1", Decimal(1), Fraction(1), 1j, -1, 0, False, 0.0, -0.0, "",
    float("nan"), float("inf"), Level.ONE, Color.RED, Color.BLUE, "Color.RED", Right.READ, Right.READ | Right.WRITE,
    (), [], {}, set(), frozenset(), (1,), [1], {1}, frozenset({1}), {1: 1}, {"1": 1}, {1: "1"}, ((1,),), [[1]],
    [1, 2], [2, 1], [12], ["1,2"], ["1", "2"], "1','2", (1, (2,)), ((1,), 2), {"a": {"b": 1}}, {"a": 1, "b": 2},
    {"a": 1, "b=2": 1}, bytearray(b"1"), range(3), range(0, 3, 2), slice(3), ..., collections.OrderedDict(a=1, b=2),
    collections.OrderedDict(b=2, a=1), collections.deque([1]), collections.Counter("a"), Point(1, 2), Point("1", 2),
    Circle(1, 2), Pair(1, 2), Name("1"), (1, 2), int, Point, uuid.UUID(int=1), PurePosixPath("1"),
    dt.date(2024, 1, 1), dt.datetime.fromisoformat("2024-01-01"), dt.datetime(2024, 1, 1, tzinfo=UTC), dt.time(1), dt.timedelta(1),
    NAIVE, NAIVE.replace(fold=1),
    dt.datetime(2024, 1, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
    dt.datetime(2024, 1, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Paris")),
]  # fmt: skip


def test_every_two_of_many_different_values_make_different_keys():
    for one, other in itertools.combinations(DIFFERENT, 2):
        assert text(one) != text(other), (one, other)


def test_equal_values_make_equal_keys_whatever_their_order():
    assert text({"a": 1, "b": [1, {2, 3}]}) == text({"b": [1, {3, 2}], "a": 1})
    assert text({"x", "y", "z", 1, None}) == text({None, 1, "z", "y", "x"})
    assert text(Point({1, 2}, {"b": 1, "a": 2})) == text(Point({2, 1}, {"a": 2, "b": 1}))


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=4)
    | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text("ab',=()", max_size=2), inner, max_size=2)
    ),
    max_leaves=6,
)


def same(one, other):
    """Equal, and of the same types all the way down; -0.0 is not 0.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return one == other and str(one) == str(other)


@given(VALUES, VALUES)
def test_the_text_of_a_value_is_injective(one, other):
    assert (text(one) == text(other)) == same(one, other)


def test_the_key_names_the_function_and_every_parameter():
    @cached
    def search(term, /, page=1, *rest, lang="en", **options): ...

    key = search.cache_key("a b", 2, 3, lang="de", z=1, a=2)
    assert key.endswith(".search:term='a%20b',page=2,lang='de',rest=tuple(3),options=dict('a'=2,'z'=1)")
    assert key.startswith("test_default_key") or "test_default_key." in key
    assert search.cache_key("x") == search.cache_key("x", 1, lang="en")


def test_functions_and_lambdas_do_not_share_keys():
    def one(x): ...

    def other(x): ...

    lambdas = [lambda x: x + 1, lambda x: x + 2, lambda x: sorted(x, key=lambda y: y + 1), lambda x: x in {1, 2}]
    keys = {cached(function).cache_key(1) for function in (one, other, *lambdas)}
    assert len(keys) == 6


def test_functions_without_a_name_do_not_share_keys():
    """Whoever registers functions (routes, types, fixtures) calls them `_`, several in a module."""

    @cached
    def _():
        return 1

    one = _

    @cached
    def _():
        return 2

    assert (one(), _()) == (1, 2)


@pytest.mark.parametrize("value", [object(), lambda: 1, [object()], {"a": {1: object()}}, (i for i in ())])
def test_what_has_no_text_is_refused_with_the_parameter(value, origin):
    @cached
    def get(user_id, filters=()):
        return origin(user_id)

    with pytest.raises(TypeError, match=r"parameter 'filters' of .*get cannot be part of a key"):
        get(1, value)
    with pytest.raises(TypeError, match="parameter 'filters'"):
        get.invalidate(1, filters=value)
    assert origin.calls == []


def test_what_contains_itself_is_refused():
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(UnkeyableError, match="contains itself"):
        text(loop)


def test_a_str_that_carries_attributes_is_refused():
    class Tagged(str):  # noqa: SLOT000
        language = ""

    tagged = Tagged("x")
    tagged.language = "de"
    with pytest.raises(UnkeyableError, match="carries attributes"):
        text(tagged)


def test_a_default_without_a_text_stands_for_itself():
    missing = object()

    @cached
    def get(name, default=missing): ...

    assert get.cache_key("a") == get.cache_key("a", missing)
    assert get.cache_key("a").endswith("name='a',default=default")
    assert get.cache_key("a", "default").endswith("default='default'")


class TestFactories:
    """Functions that one factory makes have one name, and so the same default keys."""

    @staticmethod
    def times(factor: int, key: str | None = None, helper: object = None) -> object:
        @cached(key=key)
        def times(x: int) -> int:
            return factor * x if helper is None else 0

        return times

    def test_it_is_said_once(self, caplog):
        """The log names the function, and the variable over which the two differ."""
        first = self.times(2)
        second = self.times(3)
        self.times(4)
        (record,) = caplog.records
        assert record.levelname == "WARNING"
        assert "TestFactories.times.<locals>.times" in record.getMessage()
        assert "another factor;" in record.getMessage()
        assert (first(5), second(5)) == (10, 10), "what the warning is about"

    def test_functions_of_one_name_and_other_code(self, caplog):
        """Nothing but the name says which function it is: it is said where two share one."""

        @cached
        def get(x):
            return x

        first = get

        @cached
        def get(x):
            return -x

        (record,) = caplog.records
        assert "get was decorated again with other code;" in record.getMessage()
        assert first.cache_key(1) == get.cache_key(1)

    def test_not_where_they_are_alike(self, caplog):
        """Equal data, functions that were made anew, and keys of the user's own are nothing to warn of."""
        made = [self.times(7, helper=lambda: 1), self.times(7, helper=lambda: 1), self.times(8, key="times:{x}")]
        assert len(made) == 3
        assert caplog.records == []


class TestLongArguments:
    """Documents and prompts are arguments like any other."""

    def test_a_digest_stands_for_them(self):
        """Different ones never share an entry, and each can be invalidated: a key of 100 kB fits into no record."""
        calls = []

        @cached
        def length(document: str, times: int = 1) -> int:
            calls.append(1)
            return times * len(document)

        documents = ["a" * 100_000, "a" * 100_001, "b" * 100_000]
        assert [length(each) for each in documents * 2] == [100_000, 100_001, 100_000] * 2
        assert len(calls) == 3
        keys = {length.cache_key(each) for each in documents}
        assert len(keys) == 3
        assert all(len(key) < 200 for key in keys)
        assert length(documents[0], 2) == 200_000
        length.invalidate(documents[0])
        assert length.refresh(documents[1]) == 100_001
        assert length(documents[0]) == 100_000
        assert len(calls) == 6
        length.clear()
        length(documents[2])
        assert len(calls) == 7

    def test_they_are_not_remembered(self):
        """What a wrapper remembers to make a key quickly is short."""

        @cached(key="document:{document}")
        def length(document: str) -> int:
            return len(document)

        for size in (10, 100_000):
            length("a" * size)
            length("a" * size)
        source = length._tiercast_site._source
        assert [len(key) for key in source.keys] == [10]
