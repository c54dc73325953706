"""A manager whose Redis is slow, silent, killed or restarted: a failing tier never breaks a read."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from proxy import TcpProxy
from redis_process import RedisServer
from servers import wait_until
from tiercast import CacheConfig, CacheManager, CoherenceConfig, DistributedCacheConfig


def manager_of(url: str, **more: Any) -> CacheManager:
    settings = {"heartbeat": 0.2, "max_staleness": 1.0}
    return CacheManager(
        CacheConfig(
            distributed=DistributedCacheConfig(connection_string=url, breaker_reset=0.2),
            coherence=CoherenceConfig(**{**settings, **more}),
        )
    )


async def test_ten_thousand_concurrent_misses(redis_url: str) -> None:
    """10,000 concurrent `get_async` misses finish without an exception."""
    async with manager_of(redis_url) as cache:
        answers = await asyncio.gather(*(cache.get_async(f"k{n}", n) for n in range(10_000)))
        assert answers == list(range(10_000))


@pytest.fixture
def proxied(own_redis: RedisServer) -> Iterator[tuple[CacheManager, TcpProxy]]:
    with TcpProxy(own_redis.url) as proxy:
        cache = manager_of(proxy.url)
        yield cache, proxy
        proxy.pass_through()
        cache.close()


def test_a_silent_redis_holds_no_read_up(proxied: tuple[CacheManager, TcpProxy]) -> None:
    """A blackholed Redis: no read takes over twice `read_timeout`, and under 1 ms once the breaker is open."""
    cache, proxy = proxied
    cache.set("k", "v")
    proxy.blackhole()
    slowest = 0.0
    deadline = time.monotonic() + 3.0
    while time.monotonic() < deadline:
        began = time.monotonic()
        cache.get("absent")
        slowest = max(slowest, time.monotonic() - began)
    assert slowest < 2 * 0.25 + 1.0  # the allowance is for a machine that runs other things
    quick = []
    for _ in range(200):
        began = time.perf_counter()
        cache.get("absent")
        quick.append(time.perf_counter() - began)
    assert sorted(quick)[100] < 0.001
    proxy.pass_through()
    wait_until(lambda: cache.get("k") == "v" or cache.set("k", "v").delivered, 10, "hits to come back")
    assert cache.get("k") == "v"


def test_a_load_that_ends_in_an_outage_holds_nobody_up(proxied: tuple[CacheManager, TcpProxy]) -> None:
    """Its lease cannot be given back then; it is when Redis answers again, not after `lock_ttl`."""
    one, proxy = proxied
    with manager_of(proxy.url) as two:
        two.coherence.start(10)

        def load() -> str:
            proxy.blackhole()
            return "loaded"

        assert one.get_or_set("k", load) == "loaded"
        proxy.pass_through()
        began = time.monotonic()
        two.coherence.start(20)
        assert two.get_or_set("k", lambda: "another") == "another"
        assert time.monotonic() - began < 20.0


def test_no_lease_comes_back_with_an_older_snapshot(own_redis: RedisServer) -> None:
    """A snapshot taken during a load holds its lease, which nobody gives back in the server's next life."""
    with manager_of(own_redis.url) as cache:
        assert cache.get_or_set("k", lambda: own_redis.client().save() and "first") == "first"
        own_redis.kill()
        own_redis.start()
        cache.coherence.start(20)
        began = time.monotonic()
        assert cache.get_or_set("k", lambda: "second") == "second"
        assert time.monotonic() - began < 20.0


@pytest.mark.parametrize("kind", ["threads", "tasks"])
def test_killing_redis_breaks_nothing(own_redis: RedisServer, kind: str) -> None:
    """Redis killed and restarted during 10,000 reads and writes: no exception, and hits come back."""
    cache = manager_of(own_redis.url)
    failures: list[BaseException] = []

    def work(start: int) -> None:
        try:
            for n in range(1250):
                key = f"k{(start + n) % 50}"
                if n % 5 == 0:
                    cache.set(key, n)
                assert cache.get_or_set(key, lambda: 1) is not None
        except BaseException as exc:
            failures.append(exc)

    async def work_async(start: int) -> None:
        for n in range(1250):
            key = f"k{(start + n) % 50}"
            if n % 5 == 0:
                await cache.set_async(key, n)
            assert await cache.get_or_set_async(key, lambda: 1) is not None
            if n % 10 == 0:
                await asyncio.sleep(0)

    async def all_tasks() -> None:
        await asyncio.gather(*(work_async(each * 100) for each in range(8)))

    def run_loop() -> None:
        try:
            asyncio.run(all_tasks())
        except BaseException as exc:
            failures.append(exc)

    threads = (
        [threading.Thread(target=work, args=(each * 100,)) for each in range(8)]
        if kind == "threads"
        else [threading.Thread(target=run_loop)]
    )
    for thread in threads:
        thread.start()
    own_redis.kill()
    time.sleep(0.3)
    own_redis.start()
    for thread in threads:
        thread.join(100)
    assert failures == []
    cache.coherence.start(10)
    cache.set("after", 1)
    other = manager_of(own_redis.url)
    assert other.get("after") == 1
    other.close()
    cache.close()


def test_a_redis_that_refuses_is_told_of_once(own_redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """A full Redis refuses each write; one line says so, reads go on, and all comes back with room."""
    with manager_of(own_redis.url) as cache, caplog.at_level("WARNING", "tiercast.tiers"):
        cache.coherence.start(20)
        own_redis.execute("CONFIG", "SET", "maxmemory", "1")
        for n in range(50):
            assert cache.get_or_set(f"k{n}", lambda: "loaded") == "loaded"
        told = [record.getMessage() for record in caplog.records if record.name == "tiercast.tiers"]
        assert len(told) == 1
        assert "OOM" in told[0]
        own_redis.execute("CONFIG", "SET", "maxmemory", "0")
        cache.coherence.start(20)
        wait_until(lambda: cache.set("k", "v").delivered, 20, "sets to arrive")


@pytest.mark.parametrize("kind", ["threads", "tasks"])
def test_no_file_descriptor_is_left(own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Not even for making a connection, for which redis-py opens a file: reads load, and come back to Redis."""
    no_file = OSError(24, "Too many open files")

    def refuse(self: Any, *args: Any, **kwargs: Any) -> None:
        raise no_file

    def read(cache: CacheManager, key: str) -> object:
        if kind == "threads":
            return cache.get_or_set(key, lambda: "loaded")
        return asyncio.run(cache.get_or_set_async(key, lambda: "loaded"))

    with manager_of(own_redis.url) as cache:
        with monkeypatch.context() as patched:
            patched.setattr("redis.connection.Connection.__init__", refuse)
            assert [read(cache, f"k{n}") for n in range(5)] == ["loaded"] * 5
        wait_until(lambda: cache.set("k", "v").delivered, 20, "sets to arrive")


def test_threads_that_cannot_be_had_at_first(own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads work without the background threads, which are started as soon as they can be."""
    with manager_of(own_redis.url) as cache:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", lambda self: _raise(RuntimeError("can't start new thread")))
            assert cache.get_or_set("k", lambda: "loaded") == "loaded"
            assert not cache._runtime.listener.alive()
        wait_until(lambda: cache.get("absent", True) and cache.coherence.status().listening, 20, "the listener")
        assert cache.monitor.check_health()["overall"]


def _raise(error: Exception) -> None:
    raise error


def test_constructing_needs_no_redis() -> None:
    """The constructor does no I/O and starts no thread, so nobody has to be there."""
    before = threading.enumerate()
    cache = manager_of("redis://127.0.0.1:1/0", max_staleness=60.0)
    assert [] == [thread for thread in threading.enumerate() if thread not in before]
    assert cache.get("k", "default") == "default"
    assert cache.get_or_set("k", lambda: 7) == 7
    result = cache.set("k", 8)
    assert result.delivered is False
    assert cache.get("k") == 8
    cache.close()
