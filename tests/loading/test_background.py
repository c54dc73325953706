"""Work in the background: bounded, and drained by close()."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from at_rest import never
from loaders import PATIENCE, Crowd, Gate, eventually
from tiercast import CacheManager
from tiercast.testing import FakeClock

Make = Callable[..., CacheManager]


class TestBackgroundWork:
    def test_close_waits_for_it(self, make: Make, clock: FakeClock) -> None:
        """What runs behind ends before `close` returns, and its value was stored."""
        cache, gate, crowd = make(ttl=10, grace=100, soft_timeout=0), Gate(), Crowd()
        cache.set("k", "old")
        clock.advance(11)
        assert cache.get_or_set("k", gate.load) == "old"
        eventually(lambda: gate.calls)
        closer = crowd.call(cache.close)
        closer.join(0.1)
        assert closer.is_alive()
        gate.open("new")
        crowd.join()
        assert gate.running == 0

    async def test_close_async_waits_for_tasks(self, make: Make, clock: FakeClock) -> None:
        """Tasks of the loop that closes end first."""
        cache, ended = make(ttl=10, grace=100, soft_timeout=0), []
        cache.set("k", "old")
        clock.advance(11)

        async def load() -> str:
            await asyncio.sleep(0.05)
            ended.append(1)
            return "new"

        assert await cache.get_or_set_async("k", load) == "old"
        await cache.close_async()
        assert ended == [1]

    async def test_close_from_a_loop_s_thread_does_not_wait_for_its_tasks(self, make: Make, clock: FakeClock) -> None:
        """They cannot end while it waits: they are cancelled, and it returns."""
        cache, gate = make(ttl=10, grace=100, soft_timeout=0), Gate()
        cache.set("k", "old")
        clock.advance(11)
        assert await cache.get_or_set_async("k", gate.load_async) == "old"
        await asyncio.sleep(0)
        began = asyncio.get_running_loop().time()
        cache.close()
        assert asyncio.get_running_loop().time() - began < 2
        await asyncio.sleep(0.01)
        assert gate.running == 0

    @pytest.mark.parametrize(("most", "settings"), [(8, {}), (2, {"background_workers": 2})])
    def test_it_is_bounded(self, make: Make, clock: FakeClock, most: int, settings: dict[str, int]) -> None:
        """A thousand keys that are refreshed at once run on `background_workers` threads, and all are refreshed."""
        cache = make(ttl=10, grace=100, soft_timeout=0, max_concurrent_loads=None, **settings)
        keys = [f"k{n}" for n in range(1000)]
        cache.multi_set(dict.fromkeys(keys, "old"))
        clock.advance(11)
        threads = set()

        def load() -> str:
            threads.add(threading.current_thread().name + str(threading.get_ident()))
            return "new"

        assert {cache.get_or_set(key, load) for key in keys} <= {"old", "new"}
        assert cache._runtime.workers.drain(PATIENCE)
        assert {cache.get_or_set(key, never) for key in keys} == {"new"}
        assert len(threads) <= most
