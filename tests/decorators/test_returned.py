"""Values that come back from disk and Redis have the type that the function's return annotation declares."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, Optional, TypedDict, TypeVar, Union

import attrs
import pydantic
import pytest

from stacks import config_of
from tiercast import CacheManager, SerializationError

T = TypeVar("T")


@dataclasses.dataclass
class Node:
    name: str
    tags: list[str] = dataclasses.field(default_factory=list)
    parent: Optional[Node] = None  # noqa: UP045  as older code writes it


@attrs.define
class Circle:
    radius: float
    centre: Point | None = None


class Point(NamedTuple):
    x: int
    y: int = 0


class User(pydantic.BaseModel):
    id: int
    friends: dict[str, int] = {}


class Box(pydantic.BaseModel, Generic[T]):
    content: T


class Row(TypedDict):
    id: int
    note: NotRequired[str]


class Colour(enum.Enum):
    RED = "red"
    BLUE = 2


class Right(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()


NODE = Node("leaf", ["a"], Node("root"))
VALUES: dict[str, tuple[Any, Any]] = {
    "dataclass": (Node, NODE),
    "dataclass | None": (Node | None, NODE),
    "Optional, and nothing": (Optional[Node], None),  # noqa: UP045
    "list of dataclasses": (list[Node], [NODE, Node("x")]),
    "dict of lists of dataclasses": (dict[str, list[Node]], {"a": [NODE]}),
    "tuple of two classes": (tuple[Node, Circle], (NODE, Circle(1.0))),
    "tuple of any length": (tuple[Node, ...], (NODE, NODE)),
    "Sequence": (Sequence[Circle], [Circle(1.5, Point(1, 2))]),
    "Mapping": (Mapping[str, User], {"a": User(id=1)}),
    "attrs": (Circle, Circle(2.0, Point(3))),
    "pydantic": (User, User(id=1, friends={"b": 2})),
    "list of pydantic": (list[User], [User(id=1), User(id=2)]),
    "generic pydantic": (Box[int], Box[int](content=1)),
    "TypedDict": (Row, {"id": 1, "note": "n"}),
    "list of TypedDict": (list[Row], [{"id": 1}, {"id": 2, "note": "n"}]),
    "NamedTuple": (Point, Point(1)),
    "Enum": (Colour, Colour.BLUE),
    "Enum in a set": (set[Colour], {Colour.RED, Colour.BLUE}),
    "Enum as a key": (dict[Colour, int], {Colour.RED: 1}),
    "Flag": (Right, Right.READ | Right.WRITE),
    "Union": (Union[User, list[User]], [User(id=1)]),  # noqa: UP007
    "one of two classes": (Node | Circle, Circle(1.0)),
    "class or str": (Node | str, "none"),
    "Annotated": (Annotated[Node, "of the tree"], NODE),
    "Literal": (Literal["a", "b"], "a"),
    "Any": (Any, {"plain": [1, None]}),
}


def shape(value: Any) -> Any:
    """The types of a value and of what is in it."""
    if isinstance(value, dict):
        return dict, [(shape(key), shape(each)) for key, each in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [shape(each) for each in value]
    return type(value)


@pytest.fixture(params=["memory+disk", "memory+redis"])
def managers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[CacheManager, CacheManager]]:
    """Two managers of one fleet, the second of which finds what the first stored only below memory."""
    stack = str(request.param)
    url = request.getfixturevalue("redis_url") if "redis" in stack else None
    config = config_of(stack, tmp_path, url)
    with CacheManager(config) as one, CacheManager(config) as other:
        yield one, other


def twice(managers: tuple[CacheManager, CacheManager], function: Callable[[], Any]) -> tuple[Any, Any]:
    """What a function's first call answers, and what another process finds."""
    one, other = managers

    def never() -> Any:
        raise AssertionError("it is there")

    never.__annotations__ = function.__annotations__
    first = one.cached(key="k")(function)()
    return first, other.cached(key="k")(never)()


@pytest.mark.parametrize("name", VALUES)
def test_it_comes_back_as_declared(managers: tuple[CacheManager, CacheManager], name: str) -> None:
    """Equal, and of the same type at every depth, whatever class of the user's it is."""
    annotation, value = VALUES[name]

    def load() -> Any:
        return value

    load.__annotations__ = {"return": annotation}
    first, found = twice(managers, load)
    assert first is value
    assert found == value
    assert shape(found) == shape(value)


def test_annotations_may_be_text(managers: tuple[CacheManager, CacheManager]) -> None:
    """Under `from __future__ import annotations`, also where the class is defined later or in the function around."""

    calls: list[str] = []

    @dataclasses.dataclass
    class Local:
        n: int

    def of_the_module() -> list[Later]:
        calls.append("module")
        return [Later(1)]

    def of_the_function() -> Local:
        calls.append("function")
        return Local(2)

    for load, wanted in ((of_the_module, [Later(1)]), (of_the_function, Local(2))):
        assert isinstance(load.__annotations__["return"], str)
        assert [cache.cached(key=load.__name__)(load)() for cache in managers] == [wanted, wanted]
    assert calls == ["module", "function"]


@dataclasses.dataclass
class Later:
    n: int


class Repository:
    """Methods of every kind, sync and async."""

    loads = 0

    @classmethod
    def found(cls, node_id: int) -> Node:
        cls.loads += 1
        return Node(str(node_id))

    def plain(self, node_id: int) -> Node:
        return self.found(node_id)

    async def later(self, node_id: int) -> Node | None:
        return self.found(node_id)


@pytest.mark.parametrize("kind", ["plain", "later"])
def test_methods_and_coroutines_too(managers: tuple[CacheManager, CacheManager], kind: str) -> None:
    """What a method or a coroutine function declares holds as well; in async functions it is what is awaited."""

    def ask(cache: CacheManager) -> Any:
        repository = Repository()
        value = cache.cached(key="node:{node_id}")(getattr(repository, kind))(node_id=7)
        return asyncio.run(value) if asyncio.iscoroutine(value) else value

    Repository.loads = 0
    assert [ask(cache) for cache in managers] == [Node("7"), Node("7")]
    assert Repository.loads == 1


def test_what_is_not_declared_is_refused(managers: tuple[CacheManager, CacheManager]) -> None:
    """Without an annotation a class of the user's would come back as something else: the error says what to do."""

    def load():  # type: ignore[no-untyped-def]
        return Node("x")

    with pytest.raises(SerializationError, match="declare a type or use another serializer"):
        managers[0].cached(load)()
