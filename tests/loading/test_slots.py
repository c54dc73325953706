"""`max_concurrent_loads`: what reaches the origin is bounded, and the bound deadlocks nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from loaders import PATIENCE, Crowd, Gate, Loop, eventually, eventually_async
from tiercast import CacheManager
from tiercast.testing import FakeClock

Make = Callable[..., CacheManager]


def queued(cache: CacheManager) -> int:
    """How many loads wait for their turn."""
    return len(cache._runtime.default.slots._queue)


def test_no_more_loads_than_that_run(make: Make) -> None:
    """Of 20 threads and 20 tasks that load different keys, three load at a time; all end."""
    cache, gate, crowd = make(max_concurrent_loads=3), Gate(), Crowd()

    async def many() -> list[Any]:
        return await asyncio.gather(*(cache.get_or_set_async(f"t{n}", gate.load_async) for n in range(20)))

    with Loop() as loop:
        tasks = loop.start(many())
        for n in range(20):
            crowd.call(cache.get_or_set, f"k{n}", gate.load)
        eventually(lambda: queued(cache) == 37)
        assert gate.running == 3
        gate.open(1)
        assert crowd.join() + tasks.result(PATIENCE) == [1] * 40
    assert gate.most == 3
    assert cache._runtime.default.slots.free == 3


def test_beyond_it_grace_is_served(make: Make, clock: FakeClock) -> None:
    """A reader who has an older value gets it at once; one who has none waits for a turn."""
    cache, gate, crowd = make(max_concurrent_loads=1, ttl=10, grace=100), Gate(), Crowd()
    cache.set("old", "older")
    clock.advance(11)
    crowd.call(cache.get_or_set, "busy", gate.load)
    eventually(lambda: gate.calls)
    assert cache.get_or_set("old", gate.load) == "older"
    crowd.call(cache.get_or_set, "new", gate.load)
    eventually(lambda: queued(cache) == 1)
    gate.open("value")
    assert crowd.join() == ["value"] * 2


def test_a_cancelled_wait_takes_no_slot(make: Make) -> None:
    """Whoever leaves the queue, or is cancelled as its turn comes, does not keep the slot."""

    async def run() -> None:
        cache, gate = make(max_concurrent_loads=1), Gate()
        busy = asyncio.create_task(cache.get_or_set_async("busy", gate.load_async))
        await eventually_async(lambda: gate.calls)
        tasks = [asyncio.create_task(cache.get_or_set_async(f"k{n}", gate.load_async)) for n in range(10)]
        await eventually_async(lambda: queued(cache) == 10)
        for task in tasks[::2]:
            task.cancel()
        gate.open(1)
        tasks[1].cancel()
        outcomes = await asyncio.gather(busy, *tasks, return_exceptions=True)
        assert outcomes.count(1) == 5
        assert cache._runtime.default.slots.free == 1

    asyncio.run(run())


@pytest.mark.parametrize("limit", [1, 2])
def test_nested_loads_do_not_deadlock(make: Make, limit: int) -> None:
    """Loaders that read other keys, which in turn are read by others, end whatever the limit."""
    cache, crowd = make(max_concurrent_loads=limit), Crowd()

    def load(depth: int) -> int:
        return 0 if depth == 0 else 1 + int(cache.get_or_set(f"k{depth - 1}", lambda: load(depth - 1)))

    for depth in range(12):
        for _ in range(2):
            crowd.call(cache.get_or_set, f"k{depth}", lambda depth=depth: load(depth))
    assert sorted(crowd.join()) == sorted([*range(12), *range(12)])
    assert cache._runtime.default.slots.free == limit


def test_a_load_that_queues_is_let_through_for_who_holds_the_slot(make: Make) -> None:
    """The holder's loader waits for a flight that queues behind it: that flight goes over the limit."""
    cache, crowd = make(max_concurrent_loads=1), Crowd()
    began, go = threading.Event(), threading.Event()

    def outer() -> Any:
        began.set()
        assert go.wait(PATIENCE)
        return cache.get_or_set("inner", lambda: "second")

    crowd.call(cache.get_or_set, "outer", outer)
    assert began.wait(PATIENCE)
    crowd.call(cache.get_or_set, "inner", lambda: "first")
    eventually(lambda: queued(cache) == 1)
    go.set()
    assert crowd.join() == ["first"] * 2


async def test_a_sync_call_on_a_loop_does_not_queue_behind_its_tasks(make: Make) -> None:
    """The task that holds the slot cannot end while the loop's thread is held up."""
    cache, gate = make(max_concurrent_loads=1), Gate()
    task = asyncio.create_task(cache.get_or_set_async("busy", gate.load_async))
    await eventually_async(lambda: gate.calls)
    assert cache.get_or_set("k", lambda: 1) == 1
    gate.open(2)
    assert await task == 2
    assert cache._runtime.default.slots.free == 1
