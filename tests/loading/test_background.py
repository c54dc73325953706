"""Work in the background: bounded, and drained by close()."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from at_rest import never
from loaders import PATIENCE, Crowd, Gate, eventually, eventually_async
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


class Stop(BaseException):
    """What is raised to get through `except Exception`: by pytest.fail, by gevent's timeouts."""


class TestWhatIsNoException:
    @pytest.mark.parametrize("error", [Stop, asyncio.CancelledError])
    @pytest.mark.parametrize("kind", ["thread", "task", "thread of a task"])
    def test_reaches_the_caller_once(self, make: Make, kind: str, error: type[BaseException]) -> None:
        """The loader is not called again for it, and the thread in which it ran lives on."""
        cache, calls = make(hard_timeout=PATIENCE), []

        def load() -> str:
            calls.append(1)
            if len(calls) == 1:
                raise error
            return "again"

        async def load_async() -> str:
            return load()

        with pytest.raises(error):
            if kind == "thread":
                cache.get_or_set("k", load)
            else:
                asyncio.run(cache.get_or_set_async("k", load_async if kind == "task" else load))
        assert len(calls) == 1
        assert cache._runtime.workers.drain(PATIENCE)
        assert len(cache._runtime.flights) == 0
        assert cache.get_or_set("k", load) == "again"

    async def test_a_task_that_is_cancelled_still_hands_over(self, make: Make) -> None:
        """Who waits for a load in the background whose task somebody cancels leads the next."""
        cache, gate = make(hard_timeout=PATIENCE), Gate()
        waits = asyncio.create_task(cache.get_or_set_async("k", gate.load_async))
        await eventually_async(lambda: gate.calls)
        for task in asyncio.all_tasks():
            if task.get_name() == "tiercast-worker":
                task.cancel()
        gate.open(1)
        assert await waits == 1
        assert gate.calls == 2

    @pytest.mark.parametrize("kind", ["sync", "async"])
    async def test_a_task_that_is_cancelled_before_it_began_holds_up_nobody(self, make: Make, kind: str) -> None:
        """Its flight is over all the same: the key can be loaded."""
        cache, gate = make(hard_timeout=PATIENCE), Gate()
        gate.open(1)
        load = gate.load if kind == "sync" else gate.load_async
        waits = asyncio.create_task(cache.get_or_set_async("k", load))

        async def cancel() -> None:
            for task in asyncio.all_tasks():
                if task.get_name() == "tiercast-worker":
                    task.cancel()

        await asyncio.create_task(cancel())
        assert await waits == 1
        assert gate.calls == 1
