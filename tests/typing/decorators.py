"""What type checkers say of decorated functions; checked by mypy and basedpyright, never run."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, assert_type

from tiercast.coherence.result import InvalidationResult
from tiercast.decorators import (
    DecoratorMethods,
    FunctionStats,
    async_cached,
    cache_aside,
    cached,
    memoize,
    stampede_protect,
    write_through,
)


def get_from_cache(user_id: int) -> str | None:
    return None


def save_to_cache(user_id: int, value: str) -> None: ...


@cached
def bare(user_id: int, verbose: bool = False) -> str:
    return str((user_id, verbose))


@cached(ttl=60, key="user:{user_id}", tags=("users",))
def with_arguments(user_id: int, *, lang: str = "en") -> list[str]:
    return [str(user_id), lang]


@cached
async def bare_async(user_id: int) -> str:
    return str(user_id)


@cached(60)
async def with_arguments_async(user_id: int) -> dict[str, int]:
    return {"id": user_id}


@async_cached
async def only_async(user_id: int) -> bytes:
    return bytes(user_id)


@async_cached(ttl=None)
async def only_async_with_arguments(user_id: int) -> bytes:
    return bytes(user_id)


@memoize(ttl=60)
def remembered(x: float) -> float:
    return x


@memoize
def remembered_bare(x: float) -> float:
    return x


@stampede_protect(key="dashboard:stats", ttl=300, lock_ttl=60)
async def dashboard() -> dict[str, int]:
    return {}


@cache_aside(key="user:{user_id}", ttl=300)
def aside(user_id: int) -> str:
    return str(user_id)


@cache_aside(get_from_cache=get_from_cache, save_to_cache=save_to_cache)
def callbacks(user_id: int) -> str:
    return str(user_id)


@write_through(key="user:{user_id}", invalidate_patterns=["user:{user_id}:*"])
async def write(user_id: int, name: str) -> str:
    return name


assert_type(bare(1), str)
assert_type(bare(user_id=1, verbose=True), str)
assert_type(bare.invalidate(1), InvalidationResult)
assert_type(bare.refresh(1, verbose=True), str)
assert_type(bare.cache_key(1), str)
assert_type(bare.clear(), InvalidationResult)
assert_type(bare.stats(), FunctionStats)
assert_type(bare.stats().hit_rate, float)
assert_type(with_arguments(1, lang="de"), list[str])
assert_type(remembered(1.0), float)
assert_type(remembered_bare(1.0), float)
assert_type(aside(1), str)
assert_type(callbacks(1), str)
bare("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
bare(1, 2, 3)  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
bare.invalidate()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def asynchronous() -> None:
    coroutine: Coroutine[Any, Any, str] = bare_async(1)
    assert_type(await coroutine, str)
    assert_type(await bare_async(1), str)
    assert_type(await bare_async.invalidate(1), InvalidationResult)
    assert_type(await bare_async.refresh(1), str)
    assert_type(await bare_async.cache_key(1), str)
    assert_type(await bare_async.clear(), InvalidationResult)
    assert_type(await bare_async.stats(), FunctionStats)
    assert_type(await with_arguments_async(1), dict[str, int])
    assert_type(await only_async(1), bytes)
    assert_type(await only_async_with_arguments(user_id=1), bytes)
    assert_type(await dashboard(), dict[str, int])
    assert_type(await write(1, "name"), str)


@async_cached  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue, reportUntypedFunctionDecorator]
def refused(user_id: int) -> bytes:
    return bytes(user_id)


class Repository:
    @cached
    def plain(self, user_id: int) -> str:
        return str(user_id)

    @cached(key="{self.name}:{user_id}")
    async def later(self, user_id: int) -> str:
        return str(user_id)

    @cached
    @classmethod
    def of_class(cls, x: int) -> str:
        return str(x)

    @cached(key="static:{x}")
    @staticmethod
    def static(x: int) -> str:
        return str(x)

    @classmethod
    @cached
    async def of_class_inside(cls, x: int) -> str:
        return str(x)

    @staticmethod
    @cached
    def static_inside(x: int) -> str:
        return str(x)

    @property
    @cached
    def size(self) -> int:
        return 1


async def methods(repository: Repository) -> None:
    assert_type(repository.plain(1), str)
    assert_type(repository.plain.refresh(user_id=1), str)
    assert_type(Repository.plain(repository, 1), str)
    assert_type(await repository.later(1), str)
    assert_type(await repository.later.invalidate(1), InvalidationResult)
    assert_type(Repository.of_class(1), str)
    assert_type(Repository.of_class.invalidate(1), InvalidationResult)
    assert_type(Repository.static(1), str)
    assert_type(Repository.static_inside(1), str)
    assert_type(await Repository.of_class_inside(1), str)
    assert_type(repository.of_class(1), str)
    assert_type(repository.size, int)
    repository.plain("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def of_a_manager(manager: DecoratorMethods) -> None:
    @manager.cached
    def plain(x: int) -> str:
        return str(x)

    @manager.cached(key="k:{x}")
    def with_key(x: int) -> str:
        return str(x)

    assert_type(plain(1), str)
    assert_type(with_key.refresh(1), str)
