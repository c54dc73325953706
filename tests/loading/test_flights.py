"""One load per key and process, whoever asks and whatever becomes of the leader; and no wait that never ends."""

from __future__ import annotations

import asyncio
import gc
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from at_rest import never, stale_served
from loaders import PATIENCE, Crowd, Gate, Loop, eventually, eventually_async
from tiercast import CacheManager, LoadCycle, LocalCacheConfig, current_load
from tiercast.loading.flights import Landed
from tiercast.testing import FakeClock

Make = Callable[..., CacheManager]


def waits(cache: CacheManager) -> int:
    """How many callers have joined a flight that somebody else leads."""
    return int(cache._runtime.default.counters.waits.value)


class TestOneLoad:
    @pytest.mark.parametrize("leader", ["thread", "task"])
    def test_threads_and_tasks_wait_for_one_leader(self, make: Make, leader: str) -> None:
        """8 threads and 200 tasks on one cold key call the loader once, whoever leads."""
        cache, gate, crowd = make(), Gate(), Crowd()

        async def many() -> list[Any]:
            return await asyncio.gather(*(cache.get_or_set_async("k", gate.load_async) for _ in range(200)))

        with Loop() as loop:
            if leader == "thread":
                crowd.call(cache.get_or_set, "k", gate.load)
                eventually(lambda: gate.calls)
            tasks = loop.start(many())
            eventually(lambda: gate.calls)
            for _ in range(8 if leader == "task" else 7):
                crowd.call(cache.get_or_set, "k", gate.load)
            eventually(lambda: waits(cache) == 207)
            gate.open({"n": 1})
            assert crowd.join() + tasks.result(PATIENCE) == [{"n": 1}] * 208
        assert gate.calls == 1
        assert len(cache._runtime.flights) == 0

    def test_an_awaitable_of_a_plain_function_is_awaited(self, make: Make) -> None:
        """A lambda that returns a coroutine serves async callers like an async function."""
        cache = make()

        async def load() -> int:
            return 5

        assert asyncio.run(cache.get_or_set_async("k", lambda: load())) == 5  # noqa: PLW0108  what the test is about

    def test_a_sync_loader_sees_the_context_of_its_async_caller(self, make: Make) -> None:
        """It runs in another thread, with the context copied."""
        import contextvars

        cache, variable = make(), contextvars.ContextVar[str]("variable")

        async def run() -> Any:
            variable.set("here")
            return await cache.get_or_set_async("k", lambda: (variable.get(), threading.current_thread().name))

        value, thread = asyncio.run(run())
        assert value == "here"
        assert thread != threading.current_thread().name


class TestFailure:
    def test_all_who_waited_get_the_exception_and_nobody_loads_again(self, make: Make) -> None:
        """A failed load fails threads and tasks alike, with the very exception; the next call loads again."""
        cache, gate, crowd = make(), Gate(), Crowd()
        error = LookupError("origin")

        async def many() -> list[Any]:
            calls = (cache.get_or_set_async("k", gate.load_async) for _ in range(50))
            return await asyncio.gather(*calls, return_exceptions=True)

        with Loop() as loop:
            tasks = loop.start(many())
            eventually(lambda: gate.calls)
            for _ in range(8):
                crowd.call(cache.get_or_set, "k", gate.load)
            eventually(lambda: waits(cache) == 57)
            gate.open(error)
            outcomes = crowd.join() + tasks.result(PATIENCE)
        assert all(outcome is error for outcome in outcomes)
        assert gate.calls == 1
        assert cache.get_or_set("k", lambda: 7) == 7

    def test_its_traceback_leads_to_the_loader(self, make: Make) -> None:
        """Each waiter sees the loader's own frames, once, however many waited before it."""
        cache, gate, crowd = make(), Gate(), Crowd()
        seen: list[list[str]] = []
        lock = threading.Lock()

        def failing_loader() -> None:
            gate.load()

        def wait() -> None:
            try:
                cache.get_or_set("k", failing_loader)
            except LookupError as exc:
                with lock:
                    seen.append([frame.name for frame in traceback.extract_tb(exc.__traceback__)])

        for _ in range(20):
            crowd.call(wait)
        eventually(lambda: waits(cache) == 19)
        gate.open(LookupError("origin"))
        crowd.join()
        assert len(seen) == 20
        assert [names.count("failing_loader") for names in seen] == [1] * 20
        assert all(len(names) < 40 for names in seen), "the frames of others pile up"

    @pytest.mark.parametrize("kind", ["sync", "async", "thread"])
    def test_stop_iteration_hangs_nobody(self, make: Make, kind: str) -> None:
        """A loader that lets StopIteration out fails, as it would in a generator; it hangs no caller."""
        cache = make()

        def load() -> Any:
            return next(iter(()))

        async def load_async() -> Any:
            return load()

        with pytest.raises(RuntimeError, match="StopIteration"):
            if kind == "sync":
                cache.get_or_set("k", load)
            else:
                loader = load if kind == "thread" else load_async
                asyncio.run(asyncio.wait_for(cache.get_or_set_async("k", loader), PATIENCE))

    @pytest.mark.parametrize("options", [{}, {"hard_timeout": 60.0}], ids=["here", "in the background"])
    def test_nor_does_a_generator_exit_of_a_loader_s_own(self, make: Make, options: dict[str, Any]) -> None:
        """It is taken for no task that was thrown away, after which somebody else has to load."""
        cache, calls = make(**options), []

        def load() -> None:
            calls.append(1)
            raise GeneratorExit

        async def many() -> list[Any]:
            waits = (cache.get_or_set_async("k", load) for _ in range(3))
            return await asyncio.wait_for(asyncio.gather(*waits, return_exceptions=True), PATIENCE)

        assert [str(outcome) for outcome in asyncio.run(many())] == ["the loader raised GeneratorExit"] * 3
        with pytest.raises(RuntimeError, match="raised GeneratorExit"):
            cache.get_or_set("sync", load)
        assert len(calls) == 2


class TestCancelledLeaders:
    async def test_a_cancelled_leader_hands_over(self, make: Make) -> None:
        """One of those who wait loads next; never two at a time; the others go on waiting."""
        cache, gate = make(), Gate()
        tasks = [asyncio.create_task(cache.get_or_set_async("k", gate.load_async)) for _ in range(200)]
        for cancelled in range(5):
            await eventually_async(lambda number=cancelled + 1: gate.calls == number and gate.running == 1)
            leader = next(task for task in tasks[cancelled:] if not task.done())
            leader.cancel()
            await asyncio.wait([leader])
        await eventually_async(lambda: gate.calls == 6)
        gate.open(1)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes[:5]] == [asyncio.CancelledError] * 5
        assert outcomes[5:] == [1] * 195
        assert gate.most == 1
        assert gate.calls == 6

    async def test_to_a_thread_too(self, make: Make) -> None:
        """A thread that waits for a task leads when the task is cancelled."""
        cache, gate, crowd = make(), Gate(), Crowd()
        task = asyncio.create_task(cache.get_or_set_async("k", gate.load_async))
        await eventually_async(lambda: gate.calls)
        crowd.call(cache.get_or_set, "k", lambda: "by the thread")
        await eventually_async(lambda: waits(cache) == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(crowd.join) == ["by the thread"]

    async def test_a_thread_that_loads_is_not_doubled(self, make: Make) -> None:
        """The sync loader of a cancelled async caller goes on: those who wait get its value, and it is stored."""
        cache, gate = make(), Gate()
        first = asyncio.create_task(cache.get_or_set_async("k", gate.load))
        await eventually_async(lambda: gate.calls)
        second = asyncio.create_task(cache.get_or_set_async("k", gate.load))
        await eventually_async(lambda: waits(cache) == 1)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        gate.open("once")
        assert await second == "once"
        assert cache.get("k") == "once"
        assert gate.calls == 1

    def test_a_task_that_is_thrown_away_leaves_no_flight(self, make: Make, tmp_path: Path) -> None:
        """A task that is dropped in the middle of a load, as with a loop that just ends, blocks nobody.

        It can await nothing any more, so the lease that it holds ends by itself.
        """
        cache = make(disk=LocalCacheConfig(type="file", directory=tmp_path), lock_ttl=0.5)
        loop, began = asyncio.new_event_loop(), asyncio.Event()

        async def load() -> None:
            began.set()
            await loop.create_future()

        task = loop.create_task(cache.get_or_set_async("k", load))
        task._log_destroy_pending = False  # type: ignore[attr-defined]  what the test is about
        loop.run_until_complete(began.wait())
        assert len(cache._runtime.flights) == 1
        loop.close()
        del task
        gc.collect()
        assert len(cache._runtime.flights) == 0
        assert cache.get_or_set("k", lambda: 1) == 1

    def test_a_task_that_is_collected_under_a_lock_blocks_nobody(self, make: Make) -> None:
        """A task that is thrown away gives back what it holds when it is collected, be it by a thread amid the same table."""
        cache, gate, crowd = make(max_concurrent_loads=1), Gate(), Crowd()
        runtime = cache._runtime

        async def begin() -> None:
            leads = asyncio.ensure_future(cache.get_or_set_async("k", gate.load_async))
            waits = asyncio.ensure_future(cache.get_or_set_async("k", gate.load_async))
            queues = asyncio.ensure_future(cache.get_or_set_async("other", gate.load_async))
            for task in (leads, waits, queues):
                task._log_destroy_pending = False  # type: ignore[attr-defined]
            await eventually_async(lambda: gate.calls and runtime.default.slots._queue)

        def throw_away() -> None:
            loop = asyncio.new_event_loop()
            loop.run_until_complete(begin())
            loop.close()

        def collect() -> str:
            flight = next(iter(runtime.flights._open.values()))
            with runtime.flights._lock, runtime.default.slots._lock, flight.signal._lock, runtime.fills._lock:
                del flight
                for _ in range(3):  # what one leaves, such as the turn in the queue, keeps the next for a moment
                    gc.collect()
            return "collected"

        gc.disable()
        try:
            throw_away()
            crowd.call(collect)
            assert crowd.join() == ["collected"]
        finally:
            gc.enable()
        assert len(runtime.flights) == 0
        assert runtime.default.slots.free == 1
        assert cache.get_or_set("k", lambda: 1) == 1

    def test_a_loop_that_stands_still_blocks_nobody(self, make: Make) -> None:
        """A thread that waits for a task whose loop has stopped takes over."""
        cache, gate, crowd = make(), Gate(), Crowd()
        loop = asyncio.new_event_loop()
        task = loop.create_task(cache.get_or_set_async("k", gate.load_async))
        stop = threading.Event()

        async def until_told() -> None:
            await eventually_async(stop.is_set)

        runner = threading.Thread(target=loop.run_until_complete, args=(until_told(),))
        runner.start()
        eventually(lambda: gate.calls)
        crowd.call(cache.get_or_set, "k", lambda: "taken over")
        eventually(lambda: waits(cache) == 1)
        stop.set()
        runner.join()
        assert crowd.join() == ["taken over"]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.close()


class TestHangingLeaders:
    def test_one_takes_over_after_lock_ttl(self, make: Make, clock: FakeClock) -> None:
        """200 who wait for a loader that hangs load once more, together, not each for itself."""
        cache, hung, gate, crowd = make(lock_ttl=30), Gate(), Gate(), Crowd()
        crowd.call(cache.get_or_set, "k", hung.load)
        eventually(lambda: hung.calls)
        for _ in range(40):
            crowd.call(cache.get_or_set, "k", gate.load)
        eventually(lambda: waits(cache) == 40)
        clock.advance(29)
        with pytest.raises(AssertionError):
            eventually(lambda: gate.calls, 1.5)
        clock.advance(1.1)
        eventually(lambda: gate.calls == 1)
        eventually(lambda: waits(cache) == 79)
        gate.open("fresh")
        eventually(lambda: len(crowd.outcomes) == 40)
        hung.open("late")
        assert sorted(crowd.join()) == ["fresh"] * 40 + ["late"]
        assert gate.calls == 1


class TestInvalidatedMeanwhile:
    def test_who_asked_after_an_invalidation_does_not_get_what_began_before(self, make: Make) -> None:
        """A flight's value is judged by each reader; those that it fails load once more, together."""
        cache, old, new = make(), Gate(), Gate()
        before, after = Crowd(), Crowd()
        before.call(cache.get_or_set, "k", old.load)
        eventually(lambda: old.calls)
        cache.invalidate_keys(["k"])
        for _ in range(50):
            after.call(cache.get_or_set, "k", new.load)
        eventually(lambda: waits(cache) == 50)
        old.open("old")
        assert before.join() == ["old"], "its own caller gets it: the call began before"
        eventually(lambda: new.calls == 1 and waits(cache) == 99)
        cache.invalidate_keys(["k"])  # concurrent with those who wait: the second flight is good for them
        new.open("new")
        assert after.join() == ["new"] * 50
        assert new.calls == 1
        assert cache.get("k") is None, "a value that lost a race is stored nowhere"

    def test_what_was_set_meanwhile_is_not_loaded(self, make: Make) -> None:
        """Those whom a flight fails because somebody set the key find that value, and ask the origin for nothing."""
        cache, gate, crowd = make(), Gate(), Crowd()
        first = Crowd()
        first.call(cache.get_or_set, "k", gate.load)
        eventually(lambda: gate.calls)
        for _ in range(10):
            crowd.call(cache.get_or_set, "k", never)
        eventually(lambda: waits(cache) == 10)
        cache.set("k", "set")
        gate.open("old")
        assert crowd.join() == ["set"] * 10
        assert first.join() == ["old"]
        assert cache.get("k") == "set"

    @pytest.mark.parametrize("soft", [False, True])
    async def test_nor_where_the_leader_goes(self, make: Make, soft: bool) -> None:
        """Who waited for a leader that was cancelled takes what was set, also where it has been marked stale since."""
        cache, gate = make(), Gate()
        leader = asyncio.create_task(cache.get_or_set_async("k", gate.load_async))
        await eventually_async(lambda: gate.running)
        waiters = [asyncio.create_task(cache.get_or_set_async("k", gate.load_async)) for _ in range(10)]
        await eventually_async(lambda: waits(cache) == 10)
        await cache.set_async("k", "set")
        if soft:
            await cache.invalidate_keys_async(["k"], soft=True)
        leader.cancel()
        assert await asyncio.gather(*waiters) == ["set"] * 10
        await eventually_async(lambda: gate.calls == 1 + soft)
        gate.open("new")
        await cache._runtime.workers.drain_async(PATIENCE)
        assert await cache.get_async("k") == ("new" if soft else "set")

    def test_who_came_after_a_soft_invalidation_gets_what_began_before_as_stale(self, make: Make) -> None:
        """Also where the flight's value is stored nowhere: what is computed from it is stale itself."""
        cache, gate, crowd = make(), Gate(), Crowd()

        def load() -> object:
            current_load().keep = False
            return gate.load()

        crowd.call(cache.get_or_set, "k", load)
        eventually(lambda: gate.calls)
        cache.invalidate_keys(["k"], soft=True)
        crowd.call(cache.get_or_set, "derived", lambda: cache.get_or_set("k", never))
        eventually(lambda: waits(cache) == 1)
        gate.open("old")
        assert crowd.join() == ["old", "old"]
        assert stale_served(cache) == 2
        assert cache.get("derived") is None

    def test_who_came_after_its_end_does_not_get_what_a_flight_brings_late(self, make: Make, clock: FakeClock) -> None:
        """A flight lands when it has given back its lease, which may take longer than its value lasts."""
        cache, before, after = make(ttl=10), Crowd(), Crowd()
        cache.get("k")  # so that it stands in an epoch
        region, flights = cache._runtime.default, cache._runtime.flights
        flight, begin = flights.open(region.address("k")), region.begin()
        assert flight is not None
        entry = region.entry("old", 10.0, (), begin)
        before.call(cache.get_or_set, "k", never)
        eventually(lambda: waits(cache) == 1)
        clock.advance(10)
        after.call(cache.get_or_set, "k", lambda: "new")
        eventually(lambda: waits(cache) == 2)
        flights.land(flight, Landed(entry, entry.born, begin.local))
        assert before.join() == ["old"]
        assert after.join() == ["new"]

    def test_a_refresh_does_not_take_what_was_on_its_way(self, make: Make) -> None:
        """`refresh=True` loads after the call; several that come together load once together."""
        cache, old, new, crowd = make(), Gate(), Gate(), Crowd()
        crowd.call(cache.get_or_set, "k", old.load)
        eventually(lambda: old.calls)
        refreshers = Crowd()
        for _ in range(10):
            refreshers.call(cache.get_or_set, "k", new.load, refresh=True)
        eventually(lambda: waits(cache) == 10)
        old.open("old")
        eventually(lambda: (new.calls, waits(cache)) == (1, 19))  # nine of them wait again
        new.open("new")
        assert refreshers.join() == ["new"] * 10
        assert new.calls == 1


class TestCycles:
    def test_recursion_names_the_keys(self, make: Make) -> None:
        """A loader that asks for its own key, directly or through others, is told so."""
        cache = make()

        def outer() -> Any:
            return cache.get_or_set("inner", lambda: cache.get_or_set("outer", outer))

        with pytest.raises(LoadCycle, match=r"'outer'.* -> .*'inner'.* -> .*'outer'"):
            cache.get_or_set("outer", outer)
        assert cache.get_or_set("outer", lambda: 1) == 1

    async def test_recursion_in_tasks(self, make: Make) -> None:
        """As between awaits, so through a task that the loader awaits."""
        cache = make()

        async def outer() -> Any:
            return await asyncio.gather(cache.get_or_set_async("k", outer))

        with pytest.raises(LoadCycle, match="'k'"):
            await cache.get_or_set_async("k", outer)

    async def test_a_task_that_outlives_its_loader_may_ask_for_the_key(self, make: Make) -> None:
        """What a loader left running is not part of the load any more."""
        cache = make(ttl=None)
        go, left = asyncio.Event(), []

        async def later() -> Any:
            await go.wait()
            return await cache.get_or_set_async("k", lambda: 2, refresh=True)

        async def load() -> int:
            left.append(asyncio.create_task(later()))
            return 1

        assert await cache.get_or_set_async("k", load) == 1
        go.set()
        assert await left[0] == 2

    def test_another_manager_s_key_is_another_key(self, make: Make) -> None:
        """A loader may read the same key from another cache."""
        near, far = make(), make()
        assert near.get_or_set("k", lambda: far.get_or_set("k", lambda: 1)) == 1

    @pytest.mark.parametrize("kind", ["threads", "tasks", "one of each"])
    def test_two_loaders_that_read_each_other_s_key(self, make: Make, kind: str) -> None:
        """The wait that would close the cycle loads by itself: both end, and each loader ran twice at the most."""
        cache = make()
        calls = {"a": 0, "b": 0}
        both = threading.Barrier(2)

        def begin(key: str) -> bool:
            calls[key] += 1
            return calls[key] == 1

        def load(key: str, other: str) -> str:
            if begin(key):
                both.wait(PATIENCE)
                return f"{key}({cache.get_or_set(other, lambda: load(other, key))})"
            return key

        async def load_async(key: str, other: str) -> str:
            if begin(key):
                await asyncio.to_thread(both.wait, PATIENCE)

                async def inner() -> str:
                    return await load_async(other, key)

                return f"{key}({await cache.get_or_set_async(other, inner)})"
            return key

        async def task(key: str, other: str) -> Any:
            async def loader() -> str:
                return await load_async(key, other)

            return await cache.get_or_set_async(key, loader)

        crowd = Crowd()
        with Loop() as loop:
            futures = []
            for key, other, threaded in (("a", "b", kind != "tasks"), ("b", "a", kind == "threads")):
                if threaded:
                    crowd.call(cache.get_or_set, key, lambda key=key, other=other: load(key, other))
                else:
                    futures.append(loop.start(task(key, other)))
            outcomes = crowd.join() + [future.result(PATIENCE) for future in futures]
        assert {outcome[0] for outcome in outcomes} == {"a", "b"}
        assert sum(calls.values()) <= 4
        assert len(cache._runtime.flights) == 0


class TestOneThread:
    async def test_a_sync_call_on_a_loop_never_waits_for_that_loop(self, make: Make) -> None:
        """It loads by itself where the flight is led by a task of the loop whose thread it holds up."""
        cache, gate = make(), Gate()
        task = asyncio.create_task(cache.get_or_set_async("k", gate.load_async))
        await eventually_async(lambda: gate.calls)
        assert cache.get_or_set("k", lambda: "by itself") == "by itself"
        gate.open("by the task")
        assert await task == "by the task"

    async def test_nor_for_a_thread_that_waits_for_that_loop(self, make: Make) -> None:
        """Through a thread whose loader waits for a task of the loop, it is the same."""
        cache, gate, crowd = make(), Gate(), Crowd()
        task = asyncio.create_task(cache.get_or_set_async("inner", gate.load_async))
        await eventually_async(lambda: gate.calls)
        crowd.call(cache.get_or_set, "outer", lambda: cache.get_or_set("inner", gate.load))
        await eventually_async(lambda: waits(cache) == 1)
        assert cache.get_or_set("outer", lambda: "by itself") == "by itself"
        gate.open("inner")
        assert await task == "inner"
        assert await asyncio.to_thread(crowd.join) == ["inner"]

    async def test_nor_does_a_thread_for_which_it_waits(self, make: Make) -> None:
        """A thread that is waited for on a loop's own thread does not wait for a task of that loop."""
        cache, gate, crowd = make(), Gate(), Crowd()
        began, go = threading.Event(), threading.Event()
        task = asyncio.create_task(cache.get_or_set_async("inner", gate.load_async))
        await eventually_async(lambda: gate.calls)

        def outer() -> Any:
            began.set()
            assert go.wait(PATIENCE)
            return cache.get_or_set("inner", lambda: "by itself")

        crowd.call(cache.get_or_set, "outer", outer)
        await eventually_async(began.is_set)
        threading.Timer(0.05, go.set).start()
        assert cache.get_or_set("outer", outer) == "by itself"  # holds up the loop until the thread is done
        gate.open("inner")
        assert await task == "inner"

    async def test_nor_with_a_timeout(self, make: Make) -> None:
        """With a hard timeout, too, where its own load runs in a worker."""
        cache, gate = make(hard_timeout=PATIENCE), Gate()
        task = asyncio.create_task(cache.get_or_set_async("inner", gate.load_async))
        await eventually_async(lambda: gate.calls)
        assert cache.get_or_set("outer", lambda: cache.get_or_set("inner", lambda: "by itself")) == "by itself"
        gate.open("inner")
        assert await task == "inner"

    async def test_sync_loaders_that_wait_for_a_task_do_not_starve_it(self, make: Make, tmp_path: Any) -> None:
        """The threads in which a task stores what it loaded are not those in which loaders wait for it."""
        cache, gate = make(disk=LocalCacheConfig(type="file", directory=tmp_path)), Gate()
        inner = asyncio.create_task(cache.get_or_set_async("inner", gate.load_async))
        await eventually_async(lambda: gate.calls)
        outer = [
            asyncio.create_task(cache.get_or_set_async(f"outer{n}", lambda: cache.get_or_set("inner", gate.load)))
            for n in range(60)
        ]
        waiting = [asyncio.create_task(asyncio.to_thread(cache.get_or_set, "inner", gate.load)) for _ in range(60)]
        await eventually_async(lambda: waits(cache) >= 65)
        gate.open(1)
        outcomes = await asyncio.wait_for(asyncio.gather(inner, *outer, *waiting), PATIENCE)
        assert outcomes == [1] * 121
        assert gate.calls == 1
