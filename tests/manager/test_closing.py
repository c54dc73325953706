"""Closing at a bad moment: while others work, and by a task that is cancelled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from loaders import PATIENCE, Crowd, eventually_async
from stacks import config_of
from tiercast import CacheManager
from tiercast.errors import ManagerClosed
from tiercast.plans import drive_async

Make = Callable[..., CacheManager]


@pytest.fixture
def make(redis_url: str, tmp_path: Path) -> Iterator[Make]:
    """Make managers of one fleet."""
    managers = []

    def make() -> CacheManager:
        managers.append(CacheManager(config_of("memory+disk+redis", tmp_path, redis_url)))
        managers[-1].coherence.start(20)
        return managers[-1]

    yield make
    for manager in managers:
        manager.close()


class TestCancelled:
    @pytest.mark.parametrize("turns", [1, 2, 3, 5, 8, 12, 20, 40])
    async def test_whoever_closes_leaves_nothing_open(self, make: Make, turns: int) -> None:
        """A `close_async` that is cancelled on its way closes the rest before it says so."""
        cache = await asyncio.to_thread(make)
        runtime = cache._runtime
        closing = asyncio.create_task(cache.close_async())
        for _ in range(turns):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        with pytest.raises(ManagerClosed):
            cache.get("k")
        housekeeper = runtime.housekeeper._thread
        assert housekeeper is not None
        await eventually_async(lambda: not runtime.listener.alive() and not housekeeper.is_alive())
        await eventually_async(lambda: not any(disk.store.ready for disk in runtime.disks()))


class TestMeanwhile:
    def test_a_heartbeat_on_its_way_registers_nobody_anew(self, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        """Barriers of the others do not wait for a process that has closed, whatever it was doing."""
        one, two, crowd = make(), make(), Crowd()
        asked, closed = threading.Event(), threading.Event()
        beat = one._runtime.log.beat

        def slow(said: Any) -> Any:
            if threading.current_thread() in crowd.threads:
                asked.set()
                assert closed.wait(PATIENCE)
            return (yield from beat(said))

        monkeypatch.setattr(one._runtime.log, "beat", slow)
        crowd.call(one.coherence.settle)
        assert asked.wait(PATIENCE)
        one.close()
        closed.set()
        assert [type(outcome) for outcome in crowd.join()] == [ManagerClosed]
        assert two.invalidate_keys(["k"], barrier=2).delivered

    async def test_a_lease_is_given_back_though_the_connection_closes_under_it(self, make: Make) -> None:
        """Else whoever comes after, a new manager of this process say, would wait for its end."""
        cache = await asyncio.to_thread(make)
        leases: Any = cache._runtime.remote
        assert await drive_async(leases.take("n", "token", 60.0))
        giving = asyncio.create_task(drive_async(leases.give("n", "token")))
        await asyncio.sleep(0)
        leases.connections.close()
        await giving
        assert await drive_async(leases.holder("n")) is None
        await cache.close_async()

    def test_the_first_use_does_not_open_what_was_closed_meanwhile(self) -> None:
        """A first use that finds the manager open, and starts it when it is closed already, is refused."""
        cache = CacheManager()
        real = cache._runtime._lock

        class Late:
            """The manager's lock; the manager is closed while the first who wants it waits for it."""

            closer: threading.Thread | None = None

            def __enter__(self) -> None:
                if self.closer is None:
                    self.closer = threading.Thread(target=cache.close)
                    self.closer.start()
                    self.closer.join(PATIENCE)
                real.acquire()

            def __exit__(self, *exc: object) -> None:
                real.release()

        cache._runtime._lock = Late()  # type: ignore[assignment]
        with pytest.raises(ManagerClosed):
            cache.get("k")
        with pytest.raises(ManagerClosed):
            cache.get("k")


def test_a_fork_leaves_the_purges_of_the_parent_behind() -> None:
    """The sweeper of a forked child does not wait for what a thread of its parent was purging."""
    with CacheManager() as cache:
        sweeper = cache._runtime.sweeper
        sweeper.held += 1
        sweeper.forked()
        assert sweeper.held == 0
