"""The decorators inside classes: methods, classmethods, staticmethods, properties, in either order."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
from typing import ClassVar
from unittest import mock

import pytest

from tiercast.decorators import cached, memoize

pytestmark = pytest.mark.usefixtures("manager")


class Repository:
    calls: ClassVar[list[object]] = []

    def __init__(self, name: str = "r") -> None:
        self.name = name

    def load(self, *what: object) -> str:
        type(self).calls.append(what)
        return f"value {len(type(self).calls)}"

    @cached
    def plain(self, user_id: int, part: str = "") -> str:
        """Get it."""
        return self.load(user_id)

    @cached(key="{self.name}:{user_id}")
    def own(self, user_id: int, part: str = "") -> str:
        return self.load(user_id)

    @cached(key="at:{0}")
    def at(self, user_id: int) -> str:
        return self.load(user_id)

    @cached(key="async:{self.name}:{user_id}")
    async def later(self, user_id: int) -> str:
        return self.load(user_id)

    @classmethod
    @cached
    def inside(cls, x: int) -> str:
        cls.calls.append(x)
        return f"{cls.__name__} {len(cls.calls)}"

    @cached
    @classmethod
    def outside(cls, x: int) -> str:
        cls.calls.append(x)
        return f"{cls.__name__} {len(cls.calls)}"

    @staticmethod
    @cached(key="static-inside:{x}")
    def static_inside(x: int) -> int:
        Repository.calls.append(x)
        return len(Repository.calls)

    @cached(key="static-outside:{x}")
    @staticmethod
    def static_outside(x: int) -> int:
        Repository.calls.append(x)
        return len(Repository.calls)

    @property
    @cached(key="property-inside:{self.name}")
    def size_inside(self) -> str:
        return self.load("size")

    @cached(key="property-outside:{self.name}")
    @property
    def size_outside(self) -> str:
        return self.load("size")

    @functools.cached_property
    @cached(key="cached-property:{self.name}")
    def once(self) -> str:
        return self.load("once")

    @memoize()
    def remembered(self, x: int) -> str:
        return self.load(x)


class Special(Repository): ...


@pytest.fixture(autouse=True)
def no_calls():
    Repository.calls = []


def test_self_is_left_out_of_a_default_key_and_the_class_is_not():
    """Two repositories share an entry; a subclass, whose methods may answer otherwise, has its own."""
    one, other, special = Repository(), Repository(), Special()
    assert [one.plain(1), other.plain(1), one.plain(user_id=1)] == ["value 1"] * 3
    assert special.plain(1) == "value 2"
    assert one.plain.cache_key(1) == other.plain.cache_key(1) != special.plain.cache_key(1)


def test_self_is_in_the_key_where_it_is_asked_for():
    one, other = Repository("1"), Repository("2")
    assert [one.own(1), other.own(1), one.own(1)] == ["value 1", "value 2", "value 1"]
    assert [one.own.cache_key(5), other.own.cache_key(5)] == ["1:5", "2:5"]


def test_positions_do_not_count_self():
    assert Repository().at.cache_key(7) == "at:7"


def test_the_attributes_of_a_bound_method_know_the_object():
    """The optional parameter is the trap: without binding, `invalidate(1, "x")` would take 1 for self."""
    one, other = Repository("1"), Repository("2")
    one.own(1, "x"), other.own(1, "x")
    one.own.invalidate(1, "x")
    assert [one.own(1), other.own(1)] == ["value 3", "value 2"]
    assert one.own.refresh(1) == "value 4"
    assert Repository.own.cache_key(one, 1) == "1:1"
    Repository.own.invalidate(other, 1)
    assert other.own(1) == "value 5"
    one.own.clear()
    assert [one.own(1), other.own(1)] == ["value 6", "value 7"]
    assert one.own.stats() == Repository.own.stats()


def test_the_object_may_be_named():
    """A method of the class takes its object by position or by name, as an undecorated one does."""
    assert Repository.own(self=Repository("n"), user_id=1) == Repository("n").own(1) == "value 1"
    assert Repository.own.cache_key(self=Repository("n"), user_id=1) == "n:1"


def test_a_bound_method_looks_like_one():
    one = Repository()
    assert one.plain.__self__ is one
    assert (one.plain.__name__, one.plain.__doc__) == ("plain", "Get it.")
    assert list(inspect.signature(one.plain).parameters) == ["user_id", "part"]
    assert list(inspect.signature(Repository.plain).parameters) == ["self", "user_id", "part"]
    assert one.plain == one.plain != Repository().plain
    assert len({one.plain, one.plain}) == 1
    assert inspect.iscoroutinefunction(one.later)
    assert one.plain.__wrapped__(3) == "value 1"
    assert not hasattr(one.plain, "nothing")


def test_a_class_shows_which_of_its_methods_are_async():
    """Mocks of a class look there, and would answer what cannot be awaited."""
    assert inspect.iscoroutinefunction(Repository.later)
    assert not inspect.iscoroutinefunction(Repository.plain)
    assert isinstance(mock.create_autospec(Repository, instance=True).later, mock.AsyncMock)
    assert not isinstance(mock.create_autospec(Repository, instance=True).plain, mock.AsyncMock)


def test_a_method_can_be_pickled_and_copied_as_functions_are():
    """By name: for a pool of processes, and where an object that refers to it is copied deeply."""
    assert pickle.loads(pickle.dumps(Repository.own)) is Repository.own
    assert copy.deepcopy(Repository.own) is Repository.own


def test_a_bound_method_can_be_pickled():
    assert pickle.loads(pickle.dumps(Repository("p").own)).cache_key(1) == "p:1"


async def test_async_methods():
    one = Repository("1")
    assert [await one.later(1), await one.later(1)] == ["value 1"] * 2
    await one.later.invalidate(1)
    assert await one.later(1) == "value 2"
    assert await one.later.refresh(1) == "value 3"


@pytest.mark.parametrize("name", ["inside", "outside"])
def test_classmethods_in_either_order(name):
    base, special = getattr(Repository, name), getattr(Special, name)
    assert [base(1), base(1), getattr(Repository(), name)(1)] == ["Repository 1"] * 3
    assert special(1) == "Special 2"
    base.invalidate(1)
    assert base(1) == "Repository 3"
    assert special(1) == "Special 2"
    assert base.refresh(1) == "Repository 4"


@pytest.mark.parametrize("name", ["static_inside", "static_outside"])
def test_staticmethods_in_either_order(name):
    function = getattr(Repository, name)
    assert [function(1), getattr(Repository(), name)(1), function(x=1)] == [1, 1, 1]
    function.invalidate(1)
    assert function(1) == 2


def test_properties_in_either_order():
    one, other = Repository("1"), Repository("2")
    assert [one.size_inside, one.size_inside, other.size_inside] == ["value 1", "value 1", "value 2"]
    assert [one.size_outside, one.size_outside, other.size_outside] == ["value 3", "value 3", "value 4"]
    assert [one.once, one.once, Repository("1").once] == ["value 5"] * 3


def test_memoize_on_a_method():
    assert [Repository().remembered(1), Repository().remembered(1)] == ["value 1"] * 2


def test_a_decorated_method_on_a_decorated_one():
    class Stacked:
        @cached(key="outer:{x}")
        @cached(key="inner:{x}")
        def get(self, x):
            Repository.calls.append(x)
            return len(Repository.calls)

    stacked = Stacked()
    assert [stacked.get(1), stacked.get(1)] == [1, 1]
    stacked.get.invalidate(1)
    assert stacked.get(1) == 2
