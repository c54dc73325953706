"""The process's one manager, and the operations at module level that work on it."""

from __future__ import annotations

import inspect
import os
import signal
import threading
from collections.abc import Iterator

import pytest

import tiercast
from tiercast import (
    CacheConfig,
    CacheManager,
    ConfigError,
    LocalCacheConfig,
    ManagerClosed,
    aio,
    get_cache,
    get_cache_stats,
    invalidate_keys,
    invalidate_pattern,
    invalidate_tags,
    tag_cache_key,
)


@pytest.fixture(autouse=True)
def cache() -> Iterator[CacheManager]:
    """The process's manager, of this test alone."""
    CacheManager.reset_instance()
    yield CacheManager.get_instance(CacheConfig.development_defaults())
    CacheManager.reset_instance()


def test_there_is_one(cache: CacheManager) -> None:
    """Whoever asks gets the same; an equal configuration changes nothing, a different one is refused."""
    assert get_cache() is cache is CacheManager.get_instance(CacheConfig.development_defaults())
    with pytest.raises(ConfigError, match="different configuration"):
        CacheManager.get_instance(CacheConfig(name="another"))


def test_threads_that_ask_first_get_one() -> None:
    """Twenty threads, one manager."""
    CacheManager.reset_instance()
    found: list[CacheManager] = []
    threads = [threading.Thread(target=lambda: found.append(CacheManager.get_instance())) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[0]] * 20 == found


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_forked_while_a_thread_makes_the_manager_makes_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock that the thread holds in the parent, nobody would ever let go of in the child."""
    CacheManager.reset_instance()
    begun, go_on = threading.Event(), threading.Event()
    from_env = CacheConfig.from_env

    def slow() -> CacheConfig:
        begun.set()
        assert go_on.wait(20)
        return from_env({})

    monkeypatch.setattr(CacheConfig, "from_env", slow)
    thread = threading.Thread(target=get_cache)
    thread.start()
    assert begun.wait(20)
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        os._exit(CacheManager.get_instance(CacheConfig.development_defaults()).get_or_set("k", lambda: 7))
    _, status = os.waitpid(child, 0)
    go_on.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 7


def test_a_reset_closes_it_and_a_set_one_is_used(cache: CacheManager) -> None:
    """After `reset_instance` the old one refuses work; `set_instance` leaves the one before it open."""
    CacheManager.reset_instance()
    with pytest.raises(ManagerClosed):
        cache.get("k")
    first = get_cache()
    second = CacheManager(CacheConfig(name="second"))
    CacheManager.set_instance(second)
    assert get_cache() is second
    assert first.get("k") is None
    first.close()
    with pytest.raises(TypeError, match="must be a CacheManager, not CacheConfig"):
        CacheManager.set_instance(CacheConfig())  # type: ignore[arg-type]
    assert get_cache() is second


def test_a_closed_one_makes_room(cache: CacheManager) -> None:
    """Closing the process's manager forgets it; even an operation on no key says that the old one is closed."""
    cache.close()
    assert get_cache() is not cache
    for operation in (lambda: cache.multi_get([]), lambda: cache.multi_set({}), lambda: cache.invalidate_keys([])):
        with pytest.raises(ManagerClosed):
            operation()


def test_operations_at_module_level(cache: CacheManager) -> None:
    """Each is the manager's."""
    cache.multi_set({"a:1": 1, "a:2": 2, "b": 3})
    assert tag_cache_key("b", ["t"]) is True
    assert invalidate_keys(["a:1"]).delivered
    assert invalidate_pattern("a:*", count=True).removed == 1
    assert invalidate_tags(["t"], count=True).removed == 1
    assert cache.multi_get(["a:1", "a:2", "b"]) == {}


async def test_operations_of_the_module_aio(cache: CacheManager) -> None:
    """The same as coroutines, and the manager's other operations under their plain names."""
    await aio.multi_set({"a:1": 1, "a:2": 2, "b": 3})
    assert await aio.tag_cache_key("b", ["t"]) is True
    assert (await aio.invalidate_keys(["a:1"])).delivered
    assert (await aio.invalidate_pattern("a:*", count=True)).removed == 1
    assert (await aio.invalidate_tags(["t"], count=True)).removed == 1
    assert await aio.multi_get(["a:1", "a:2", "b"]) == {}
    assert await aio.build_cache_key("user:{user_id}", kwargs={"user_id": 1}, prefix="v2") == "v2:user:1"
    assert await aio.get_cache() is cache
    assert (await aio.get_cache_stats())["sets"] == get_cache_stats()["sets"] == 3
    with pytest.raises(AttributeError, match="no async operation 'nothing'"):
        await tiercast.aio.nothing()


async def test_imported_operations_of_aio_follow_the_manager(cache: CacheManager) -> None:
    """`from tiercast.aio import get` means the manager of the call, not the one that was there at the import."""
    from tiercast.aio import cache_context, get
    from tiercast.aio import set as put

    await put("k", 1)
    assert await get("k") == 1 == cache.get("k")
    CacheManager.reset_instance()
    assert await get("k") is None
    async with cache_context("short"):
        await put("k", 2)
    assert get_cache().get("k", region="short") == 2
    assert inspect.iscoroutinefunction(get)
    assert inspect.signature(get) == inspect.signature(cache.get_async)
    assert {"get", "multi_set", "invalidate_tags", "get_cache_stats"} <= set(dir(aio))
    assert "get_instance" not in dir(aio)


@pytest.mark.parametrize("bound", [{}, {"max_size_mb": 50}])
def test_statistics_name_size_and_memory(bound: dict[str, int]) -> None:
    """`memory_mb` is a number whether or not bytes are bounded: 1,000 values of 10 kB take some 10 MB."""
    CacheManager.reset_instance()
    cache = CacheManager.get_instance(CacheConfig(local=LocalCacheConfig(**bound), distributed=None))
    assert (0, 0.0, 0.0) == tuple(get_cache_stats()[name] for name in ("size", "hit_rate", "memory_mb"))
    cache.multi_set({f"k{number}": str(number % 10) * 10_000 for number in range(1000)})
    cache.get("k1")
    figures = get_cache_stats()
    assert (1000, 1.0) == (figures["size"], figures["hit_rate"])
    assert 9.5 < figures["memory_mb"] < 11.5


def test_its_repr_names_the_tiers_in_use(cache: CacheManager) -> None:
    """A remote tier without a connection is none."""
    assert repr(cache) == "<CacheManager 'tiercast': local>"
