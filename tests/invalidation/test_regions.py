"""Regions: what they inherit, which is the current one, and what is cleared and bounded in one."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from stacks import STACKS, Async, Sync, config_of
from tiercast import CacheConfig, CacheManager, LocalCacheConfig, ScopeConfig, ScopeLevel


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Iterator[Sync | Async]:
    call = Sync() if request.param == "sync" else Async()
    yield call
    call.close()


@pytest.fixture
def cache() -> Iterator[CacheManager]:
    scopes = ScopeConfig([ScopeLevel("organization", "org_id")])
    with CacheManager(CacheConfig(scopes=scopes, regions={"short": {"ttl": 5}, "other": {}})) as cache:
        yield cache


def names(cache: CacheManager) -> list[str]:
    """The region that is the current one, by what is found."""
    return [name for name in ("default", "short", "other") if cache.current_region().name == name]


# Inheritance


def test_a_region_overrides_what_it_names_and_inherits_the_rest() -> None:
    """TTL from the region, tiers and everything else from the default; so does a region that nobody configured."""
    config = CacheConfig(
        ttl=100, grace=7, local=LocalCacheConfig(max_size=50, policy="sieve"),
        regions={"short": {"ttl": 5, "local": {"max_size": 10}}, "object": {"local": LocalCacheConfig(max_size=3)}},
    )  # fmt: skip
    with CacheManager(config) as cache:
        settings = {name: cache._runtime.region(name).settings for name in ("default", "short", "object", "made up")}
        assert {name: each.ttl for name, each in settings.items()} == {
            "default": 100,
            "short": 5,
            "object": 100,
            "made up": 100,
        }
        assert {each.grace for each in settings.values()} == {7}
        locals_ = {name: (each.local.max_size, each.local.policy) for name, each in settings.items() if each.local}
        assert locals_ == {
            "default": (50, "sieve"),
            "short": (10, "sieve"),
            "object": (3, "lru"),
            "made up": (50, "sieve"),
        }


@pytest.mark.parametrize("stack", STACKS)
def test_clearing_one_region_leaves_the_others(
    request: pytest.FixtureRequest, stack: str, call: Sync, tmp_path: Path
) -> None:
    """Also those whose names are much like it; `clear()` takes them all."""
    url = request.getfixturevalue("redis_url") if "redis" in stack else None
    cache = CacheManager(config_of(stack, tmp_path / "cache", url, regions={"a": {}}))
    regions = ["default", "a", "ab", "a:b", "A"]
    for region in regions:
        call(cache.set, "k", region, region=region)
    call(cache.clear, "a")
    assert [call(cache.get, "k", region=region) for region in regions] == ["default", None, "ab", "a:b", "A"]
    call(cache.clear)
    assert [call(cache.get, "k", region=region) for region in regions] == [None] * 5
    call(cache.close)


# The current region


def test_contexts_nest_and_end(cache: CacheManager) -> None:
    """The innermost counts; leaving it, also by an error, gives back the one around it; a name in the call beats both."""
    with cache.cache_context("short"):
        with pytest.raises(LookupError), cache.cache_context("other"):
            cache.set("k", "in other")
            assert cache.get("k", region="short") is None
            raise LookupError
        assert cache.get("k") is None
        cache.set("k", "in short")
    assert cache.get("k") is None
    assert (cache.get("k", region="other"), cache.get("k", region="short")) == ("in other", "in short")


def test_what_the_context_reaches(cache: CacheManager) -> None:
    """Keys and patterns, scoped views and scopes; tags and clear() go on meaning every region."""
    cache.set("k", 1, tags=["t"])
    cache.set("k", 1, tags=["t"], region="short")
    with cache.cache_context("short"):
        view = cache.scoped("organization", org_id="1")
        view.set("v", 1)
        cache.invalidate_pattern("k*")
        assert cache.get("k") is None
        cache.set("k", 2, tags=["t"])
    assert cache.get("k") == 1
    assert cache.get("v", region="short", scope="organization", org_id="1") == 1
    with cache.cache_context("other"):
        cache.invalidate_tags(["t"])
    assert (cache.get("k"), cache.get("k", region="short")) == (None, None)


def test_threads_and_tasks_do_not_leak_into_each_other(cache: CacheManager) -> None:
    """A thread begins outside of any context; tasks inherit the one they were made in, and theirs ends with them."""
    seen: dict[str, Any] = {}

    async def task(name: str, barrier: asyncio.Barrier) -> None:
        async with cache.cache_context_async(name):
            await barrier.wait()
            seen[name] = names(cache)
            await barrier.wait()

    async def inherits() -> None:
        seen["inherited"] = names(cache)

    async def main() -> None:
        barrier = asyncio.Barrier(2)
        await asyncio.gather(task("short", barrier), task("other", barrier))
        with cache.cache_context("short"):
            made = asyncio.create_task(inherits())
        await made
        seen["after"] = names(cache)

    asyncio.run(main())
    with cache.cache_context("short"):
        thread = threading.Thread(target=lambda: seen.setdefault("thread", names(cache)))
        thread.start()
        thread.join()
    assert seen == {
        "short": ["short"], "other": ["other"], "inherited": ["short"], "after": ["default"], "thread": ["default"],
    }  # fmt: skip


def test_a_generator_finalised_in_another_context_does_no_harm(cache: CacheManager) -> None:
    """As a framework finalises dependencies: the block's end neither raises nor changes the region of where it ends."""

    def dependency() -> Iterator[None]:
        with cache.cache_context("short"):
            yield

    generator = dependency()
    contextvars.copy_context().run(next, generator)
    with cache.cache_context("other"):
        contextvars.copy_context().run(generator.close)
        assert names(cache) == ["other"]

    async def dependency_async() -> AsyncIterator[None]:
        async with cache.cache_context_async("short"):
            yield

    async def main() -> None:
        generator = dependency_async()
        await asyncio.create_task(anext(generator))  # type: ignore[arg-type]
        await generator.aclose()  # type: ignore[attr-defined]
        assert names(cache) == ["default"]

    asyncio.run(main())
    assert names(cache) == ["default"]


@pytest.mark.parametrize("wrong", ["", 3, None])
def test_a_region_has_a_name(cache: CacheManager, wrong: Any) -> None:
    """None is the default region; anything else that is no name is refused."""
    if wrong is None:
        with cache.cache_context(wrong):
            assert names(cache) == ["default"]
        return
    with pytest.raises((TypeError, ValueError), match="region"), cache.cache_context(wrong):
        pass


# Per-function bounds


def test_max_items_evicts_only_the_functions_own(cache: CacheManager) -> None:
    """Of a function with `max_items=3` three entries stand in memory, those used last; everybody else's stay."""
    calls: list[int] = []

    @cache.cached(key="bounded:{n}", max_items=3)
    def bounded(n: int) -> int:
        calls.append(n)
        return n

    @cache.cached(key="free:{n}")
    def free(n: int) -> int:
        return n

    for n in range(20):
        free(n)
    cache.set("bounded by nobody", 1)
    for n in range(10):
        bounded(n)
        bounded(0)  # used all the time, so it stays
    memory = cache._runtime.default.memory
    assert memory is not None
    held = {str(key) for key, _ in memory.items()}
    assert {key for key in held if key.startswith("bounded:")} == {"bounded:0", "bounded:8", "bounded:9"}
    assert len([key for key in held if key.startswith("free:")]) == 20
    assert "bounded by nobody" in held
    assert calls == list(range(10))
    memory.check()


def test_max_items_holds_for_async_functions_and_in_scopes(cache: CacheManager) -> None:
    """The bound is the function's, over all scopes and regions together."""

    @cache.cached(key="k", scope="organization", max_items=2)
    async def bounded(org_id: str) -> str:
        return org_id

    async def main() -> None:
        for org in "abcd":
            assert await bounded(org) == org
        with cache.cache_context("short"):
            assert await bounded("e") == "e"

    asyncio.run(main())
    held = [key for region in cache._runtime.regions() for key, _ in region.memory.items()]  # type: ignore[union-attr]
    assert sorted(map(str, held)) == sorted(map(str, [("organization:d", "k"), ("organization:e", "k")]))


def test_what_max_items_let_go_is_found_below(tmp_path: Path) -> None:
    """The bound is memory's: the disk keeps its entries, and nothing is loaded again."""
    calls: list[int] = []
    with CacheManager(config_of("memory+disk", tmp_path / "cache", None)) as cache:

        @cache.cached(key="k:{n}", max_items=1)
        def bounded(n: int) -> int:
            calls.append(n)
            return n

        for _ in range(3):
            assert [bounded(n) for n in range(4)] == [0, 1, 2, 3]
        memory = cache._runtime.default.memory
        assert memory is not None
        assert len(memory) == 1
    assert calls == [0, 1, 2, 3]


def test_max_items_under_threads(cache: CacheManager) -> None:
    """However many threads call it, the bound holds when they have ended, and memory's books are right."""

    @cache.cached(key="k:{n}", max_items=5)
    def bounded(n: int) -> int:
        return n

    def work(seed: int) -> None:
        for n in range(300):
            assert bounded((n * seed) % 37) == (n * seed) % 37

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (3, 5, 7, 11)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    memory = cache._runtime.default.memory
    assert memory is not None
    assert len(memory) <= 5
    memory.check()
