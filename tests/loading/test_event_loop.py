"""No stretch of the library's own code holds an event loop up: measured inside the loop, as time of its thread's CPU.

The CPU of a busy machine is shared with whoever runs on the same core, and slower for all that runs on it. So a piece of
work of known length is measured beside, and what takes twice as long as it should makes the limit twice as long.
"""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from stacks import config_of
from tiercast import CacheManager

LIMIT = 0.005
"""Seconds, on a machine on which `yardstick` takes `YARD`."""
YARD = 0.0011
"""Seconds."""
TRIES = 4
"""What is inherent shows each time; what the machine does beside it, not."""

ROWS = {"rows": [{"id": n, "name": f"name {n}", "values": [1.5, 2.5, n]} for n in range(25_000)]}
"""About 1.5 MB of JSON: some 30 ms of encoding."""
BYTES = random.Random(1).randbytes(4_000_000)
MANY = {f"k{n}": {"n": n} for n in range(5_000)}
KEYS = list(MANY)


def yardstick() -> float:
    """Return the seconds of CPU that a piece of work takes here and now: calls, look-ups, small objects, as a cache does."""
    rows = {f"k{n}": (n, n + 1) for n in range(1_000)}
    began = time.thread_time()
    for _ in range(10):
        assert sum(len(f"{key}:{pair[0]}") for key, pair in rows.items() if rows.get(key) is pair)
    return time.thread_time() - began


class Stretches:
    """The longest time for which one callback of the loop kept the CPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.worst = 0.0
        run = asyncio.Handle._run

        def timed(handle: Any) -> None:
            began = time.thread_time()
            run(handle)
            self.worst = max(self.worst, time.thread_time() - began)

        monkeypatch.setattr(asyncio.Handle, "_run", timed)

    async def of(self, do: Callable[[], Awaitable[Any]]) -> float:
        """Return the longest stretch of an operation, in seconds of a machine of the yardstick's speed."""
        before = yardstick()
        await asyncio.sleep(0)
        self.worst = 0.0
        await do()
        await asyncio.sleep(0)
        return self.worst / max(1.0, before / YARD, yardstick() / YARD)


@pytest.fixture
def stretches(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stretches]:
    """Collecting the garbage of the test's own data is nobody's stretch."""
    gc.collect()
    gc.disable()
    yield Stretches(monkeypatch)
    gc.enable()


@pytest.fixture(params=["memory", "memory+disk", "memory+redis", "memory+disk+redis"])
def stack(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(request: pytest.FixtureRequest, stack: str, tmp_path: Path) -> Callable[..., CacheManager]:
    """Make managers of one fleet, whose server may take its time."""
    url = request.getfixturevalue("redis_url") if "redis" in stack else None
    config = config_of(stack, tmp_path, url, max_concurrent_loads=None)
    return lambda **settings: CacheManager(attrs.evolve(config, **settings))


async def returning(value: Any) -> Any:
    return value


def operations(one: CacheManager, other: CacheManager, stack: str) -> dict[str, Callable[[], Awaitable[Any]]]:
    """What a server does, with values that are small, many or large."""
    # A socket takes what it is given in one go; a file is read and written elsewhere, whatever its size.
    large = BYTES if "redis" in stack else BYTES * 8

    async def load(key: str, value: Any) -> None:
        await one.get_or_set_async(key, lambda: value, refresh=True)
        await other.get_async(key)

    async def stampede() -> None:
        gate = asyncio.get_running_loop().create_future()

        async def loader() -> int:
            await gate
            return 1

        readers = []
        for _ in range(10_000):
            readers.append(asyncio.create_task(one.get_or_set_async("cold", loader, refresh=True)))
            if len(readers) % 100 == 0:
                await asyncio.sleep(0)
        gate.set_result(None)
        while readers:  # letting go of ten thousand tasks is a stretch of the test's own
            await asyncio.gather(*readers[:100])
            del readers[:100]

    async def misses() -> None:
        for start in range(0, 1_000, 100):
            await asyncio.gather(*(one.get_or_set_async(f"m{n}", lambda: 1) for n in range(start, start + 100)))

    return {
        "set rows": lambda: one.set_async("rows", ROWS),
        "get rows from below": lambda: other.get_async("rows"),
        "load rows": lambda: load("rows 2", ROWS),
        "touch rows": lambda: one.touch_async("rows", 100),
        "set bytes": lambda: one.set_async("bytes", large),
        "get bytes from below": lambda: other.get_async("bytes"),
        "load bytes": lambda: load("bytes 2", large),
        "multi_set": lambda: one.multi_set_async(MANY),
        "multi_get from memory": lambda: one.multi_get_async(KEYS),
        "multi_get from below": lambda: other.multi_get_async(KEYS),
        "invalidate": lambda: one.invalidate_tags_async(["t"], count=True),
        "purge": lambda: other.purge_async(pattern="k1*"),
        "multi_delete": lambda: one.multi_delete_async(KEYS),
        "stampede": stampede,
        "misses": misses,
    }


@pytest.mark.timeout(300)
def test_nothing_holds_the_loop_up(stretches: Stretches, make: Callable[..., CacheManager], stack: str) -> None:
    """Under 5 ms for each operation: large values are encoded, decoded, read and written off the loop."""

    async def measure() -> dict[str, float]:
        worst: dict[str, float] = {}
        for _ in range(TRIES):
            async with make() as one, make() as other:
                await one.set_async("warm", 1)
                await other.get_async("warm")
                for name, do in operations(one, other, stack).items():
                    seconds = await stretches.of(do)
                    worst[name] = min(worst.get(name, 1.0), seconds)
                await one.clear_async()
            if max(worst.values()) < LIMIT:
                break
        return worst

    worst = asyncio.run(measure())
    assert {name: round(seconds * 1000, 1) for name, seconds in worst.items() if seconds >= LIMIT} == {}


@pytest.mark.parametrize("handed", ["copy_on_read"])
def test_copies_of_large_values_are_made_off_the_loop(stretches: Stretches, handed: str, tmp_path: Path) -> None:
    """A region that hands out copies makes a large one in a thread."""
    from tiercast import CacheConfig, LocalCacheConfig

    async def measure() -> float:
        async with CacheManager(CacheConfig(local=LocalCacheConfig(copy_on_read=True))) as cache:
            kept = min([await stretches.of(lambda: cache.set_async("rows", ROWS)) for _ in range(TRIES)])
            return max(kept, min([await stretches.of(lambda: cache.get_async("rows")) for _ in range(TRIES)]))

    assert asyncio.run(measure()) < LIMIT
