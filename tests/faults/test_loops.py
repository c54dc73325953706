"""Several event loops and plain threads on one manager, all at once (G9)."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from servers import RedisServer, wait_until
from stacks import STACKS, config_of
from tiercast import CacheManager

SECONDS = 0.6


@pytest.fixture
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], CacheManager]:
    def make(stack: str) -> CacheManager:
        url = request.getfixturevalue("redis_url") if "redis" in stack else None
        return CacheManager(config_of(stack, tmp_path / "cache", url))

    return make


@pytest.mark.parametrize("stack", STACKS)
def test_loops_and_threads_share_one_manager(make: Callable[[str], CacheManager], stack: str) -> None:
    """Three loops of five tasks and three threads: every one ends, none fails, and none reads what it invalidated."""
    stop, errors = threading.Event(), []
    versions = [0] * 10
    told = [0] * 10
    lock = threading.Lock()

    def check(key: int, value: Any, floor: int) -> None:
        if value is not None and value < floor:
            errors.append(AssertionError(f"key {key}: {value}, all before {floor} was invalidated"))

    async def task(number: int) -> None:
        while not stop.is_set():
            key = number % 10
            floor = told[key]
            check(key, await cache.get_or_set_async(f"k{key}", lambda key=key: versions[key]), floor)
            number += 3
            await asyncio.sleep(0.001)

    async def tasks(number: int) -> None:
        await asyncio.gather(*(task(number * 7 + each) for each in range(5)))

    def loop(number: int) -> None:
        try:
            asyncio.run(tasks(number))
        except BaseException as exc:
            errors.append(exc)

    def thread(number: int) -> None:
        try:
            while not stop.is_set():
                key = number % 10
                floor = told[key]
                check(key, cache.get_or_set(f"k{key}", lambda key=key: versions[key]), floor)
                if number % 5 == 0:
                    with lock:
                        versions[key] += 1
                        version = versions[key]
                        cache.invalidate_keys([f"k{key}"])
                        told[key] = version
                number += 1
                time.sleep(0.001)
        except BaseException as exc:
            errors.append(exc)

    with make(stack) as cache:
        runners = [threading.Thread(target=each, args=(number,)) for number in range(3) for each in (loop, thread)]
        for runner in runners:
            runner.start()
        time.sleep(SECONDS)
        stop.set()
        for runner in runners:
            runner.join(20)
        assert not any(runner.is_alive() for runner in runners)
        assert errors == []
        assert max(versions) > 1


@pytest.mark.parametrize("stack", STACKS)
def test_loops_that_come_and_go_leave_nothing(
    make: Callable[[str], CacheManager], stack: str, redis_server: RedisServer
) -> None:
    """Forty short-lived loops, one after another and side by side: no connection of theirs stays."""

    async def work(number: int) -> None:
        await cache.set_async(f"k{number}", number)
        await asyncio.gather(*(cache.get_or_set_async(f"l{number}-{each}", lambda: 1) for each in range(10)))

    with make(stack) as cache:
        before = connections(redis_server)
        for number in range(20):
            asyncio.run(work(number))
        threads = [threading.Thread(target=lambda number=number: asyncio.run(work(number))) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        wait_until(lambda: connections(redis_server) <= before + 10, 10, "connections that are closed")
    wait_until(lambda: connections(redis_server) <= before, 10, "connections that are closed")


def connections(server: RedisServer) -> int:
    return int(server.execute("INFO", "clients")["connected_clients"])
