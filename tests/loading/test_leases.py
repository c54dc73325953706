"""Leases: whoever waits is woken by the fill, what is lost costs a moment, and no wait through two processes lasts.

Two managers of one fleet stand for two processes: they share nothing but Redis, or the directory.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from loaders import PATIENCE, Crowd, Gate, eventually, eventually_async
from stacks import config_of, patient
from tiercast import CacheManager, CoherenceConfig
from tiercast.coherence.fleet import Fleet
from tiercast.coherence.log import LogUnavailable, Member
from tiercast.coherence.notices import announced, announcement
from tiercast.loading import leases
from tiercast.plans import Pause, drive

Make = Callable[..., CacheManager]
BRIEF = CoherenceConfig(max_staleness=1.5, heartbeat=0.3)


@pytest.fixture(params=["memory+redis", "memory+disk"])
def stack(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(request: pytest.FixtureRequest, stack: str, tmp_path: Path) -> Iterator[Make]:
    """Make managers of one fleet, connected, on a server that may take its time."""
    url = request.getfixturevalue("redis_url") if "redis" in stack else None
    managers = []

    def make(**settings: Any) -> CacheManager:
        managers.append(CacheManager(config_of(stack, tmp_path, url, **settings)))
        managers[-1].coherence.start(20)
        return managers[-1]

    yield make
    for manager in managers:
        manager.close()


def waiting(cache: CacheManager) -> bool:
    """Whether a load waits for another process."""
    return len(cache._runtime.fills) > 0


class TestWaking:
    def test_by_the_fill(self, make: Make, stack: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """The one that waits gets the value when it is stored: by the bus, or by looking where there is none."""
        monkeypatch.setattr(leases, "HEARD_LOOK", 1000.0)
        one, two, gate, crowd = make(), make(), Gate(), Crowd()
        crowd.call(one.get_or_set, "k", gate.load)
        eventually(lambda: gate.calls)
        crowd.call(two.get_or_set, "k", gate.load)
        eventually(lambda: waiting(two))
        gate.open({"n": 1})
        assert crowd.join() == [{"n": 1}] * 2
        assert gate.calls == 1
        if "redis" in stack:
            assert two._runtime.default.counters.lock_waits.value == 1, "it looked without having been woken"

    def test_by_each_who_has_it_next(self, make: Make, stack: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Who is woken and comes too late lets the next holder know that it waits; where there is no bus nobody is woken."""
        if "redis" not in stack:
            return
        monkeypatch.setattr(leases, "HEARD_LOOK", 1000.0)
        one, two, three = (make() for _ in range(3))
        first, second, crowd = Gate(), Gate(), Crowd()
        crowd.call(one.get_or_set, "k", first.load)
        eventually(lambda: first.calls)
        for cache in (two, three):
            crowd.call(cache.get_or_set, "k", second.load, refresh=True)
            eventually(lambda cache=cache: waiting(cache))  # type: ignore[misc]
        store: Any = three._runtime.leases
        came_late = []

        def late(ask: Any) -> Any:
            def asked(*args: Any) -> Any:
                while not second.calls:
                    yield Pause(0.01)
                came_late.append(args)
                return (yield from ask(*args))

            return asked

        for name in ("take", "holder"):
            monkeypatch.setattr(store, name, late(getattr(store, name)))
        first.open(1)
        eventually(lambda: came_late and waiting(three))
        second.open(2)
        assert crowd.join() == [1, 2, 2]
        assert second.calls == 2

    def test_by_a_load_that_failed(self, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        """Then the next loads; its caller gets what came of its own load."""
        monkeypatch.setattr(leases, "HEARD_LOOK", 1000.0)
        one, two, gate, crowd = make(), make(), Gate(), Crowd()
        crowd.call(one.get_or_set, "k", gate.load)
        eventually(lambda: gate.calls)
        other = Crowd()
        other.call(two.get_or_set, "k", lambda: "second")
        eventually(lambda: waiting(two))
        gate.open(LookupError("origin"))
        assert [type(outcome) for outcome in crowd.join()] == [LookupError]
        assert other.join() == ["second"]

    def test_a_message_that_is_lost_costs_a_moment(
        self, make: Make, stack: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whoever is not woken looks by itself."""
        one, two, gate, crowd = make(), make(), Gate(), Crowd()
        one._runtime.fills.announce = None
        crowd.call(one.get_or_set, "k", gate.load)
        eventually(lambda: gate.calls)
        crowd.call(two.get_or_set, "k", gate.load)
        eventually(lambda: waiting(two))
        gate.open(1)
        assert crowd.join() == [1, 1]
        assert gate.calls == 1

    def test_nothing_is_announced_where_nobody_waits(self, make: Make, stack: str) -> None:
        """A load that nobody else wanted costs the bus nothing."""
        cache, told = make(), []
        if cache._runtime.fills.announce is None:
            return
        cache._runtime.fills.announce = lambda name: told.append(name) or iter(())  # type: ignore[assignment,func-returns-value]
        cache.get_or_set("k", lambda: 1)
        assert told == []

    def test_by_a_lease_that_is_given_back_late(self, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        """A store that is away when a load ends gets its lease back as soon as it answers, not after `lock_ttl`."""
        one, two = make(), make()
        store = one._runtime.leases
        assert store is not None
        give = store.give
        asked = []

        def away(name: str, token: str) -> Any:
            asked.append(name)
            raise LogUnavailable("away")
            yield

        monkeypatch.setattr(store, "give", away)
        one.get_or_set("k", lambda: "first")
        eventually(lambda: len(asked) > 1)  # the housekeeper tried as well
        monkeypatch.setattr(store, "give", give)
        two.delete("k")
        assert two.get_or_set("k", lambda: "second") == "second"
        eventually(lambda: not one._runtime.fills._owed)

    def test_by_a_lease_that_arrives_late(self, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        """What was asked for in vain may reach the store after what gives it back: it is given back once more."""
        one, two = make(), make()
        store: Any = one._runtime.leases
        take, give = store.take, store.give
        delayed: list[Any] = []

        def unanswered(*args: Any) -> Any:
            delayed.append(args)
            return None
            yield

        def overtaking(*args: Any) -> Any:
            answer = yield from give(*args)
            while delayed:
                yield from take(*delayed.pop())
            return answer

        monkeypatch.setattr(store, "take", unanswered)
        monkeypatch.setattr(store, "give", overtaking)
        assert one.get_or_set("k", lambda: "first") == "first"
        two.delete("k")
        began = time.monotonic()
        assert two.get_or_set("k", lambda: "second") == "second"
        assert time.monotonic() - began < PATIENCE

    def test_by_nobody_where_the_store_takes_no_more(self, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        """A full disk can be read, and shows a lease that nobody can give back or take over: who waits loads."""
        monkeypatch.setattr(leases, "ASKED", 0.2)
        one, two, gate, crowd = make(), make(), Gate(), Crowd()
        crowd.call(one.get_or_set, "k", gate.load)
        eventually(lambda: gate.calls)
        other = Crowd()
        other.call(two.get_or_set, "k", lambda: "by itself")
        eventually(lambda: waiting(two))

        def full(*args: Any) -> Any:
            raise LogUnavailable("the disk is full")
            yield

        for manager in (one, two):
            monkeypatch.setattr(manager._runtime.leases, "give", full)
            monkeypatch.setattr(manager._runtime.leases, "take", full)
        assert other.join() == ["by itself"]
        gate.open("late")
        assert crowd.join() == ["late"]

    def test_by_nobody_where_the_fill_came_before_the_lease(self, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        """Between a leader's look and its lease another process may load and give the lease back: it looks again."""
        one, two = make(), make()
        store = two._runtime.leases
        assert store is not None
        take = store.take

        def late(*args: Any) -> Any:
            monkeypatch.setattr(store, "take", take)
            one.get_or_set("k", lambda: "by the other")
            return (yield from take(*args))

        monkeypatch.setattr(store, "take", late)
        assert two.get_or_set("k", lambda: "twice") == "by the other"

    def test_waiting_does_not_spin(self, make: Make, stack: str, request: pytest.FixtureRequest) -> None:
        """A second of waiting costs Redis a handful of questions, and the waiting thread a few milliseconds."""
        one, two, gate, crowd = make(), make(), Gate(), Crowd()
        crowd.call(one.get_or_set, "k", gate.load)
        eventually(lambda: gate.calls)
        spent: list[float] = []

        def wait() -> Any:
            began = time.thread_time()
            value = two.get_or_set("k", gate.load)
            spent.append(time.thread_time() - began)
            return value

        crowd.call(wait)
        eventually(lambda: waiting(two))
        before = two._runtime.default.counters.lock_waits.value
        time.sleep(1.0)
        looks = two._runtime.default.counters.lock_waits.value - before
        gate.open(1)
        crowd.join()
        assert looks <= (4 if "redis" in stack else 60)
        assert spent[0] < 0.1

    @pytest.mark.parametrize("name", ["default:k", 'odd"\\', "ключ", ""])
    def test_the_message(self, name: str) -> None:
        """An announcement says its name back; nothing else is one."""
        assert announced(announcement(name)) == name
        assert announced(announcement(name)[:-1]) is None
        assert announced(b'{"v":1,"epoch":"e","position":1}') is None
        assert announced(b'{"v":1,"fill":7}') is None


class TestLosing:
    def test_a_leader_that_hangs(self, make: Make) -> None:
        """Its lease ends after `lock_ttl`; one other loads, and what the slow one brings at last changes nothing."""
        one, two, three = make(), make(), make()
        hung, gate, slow, others = Gate(), Gate(), Crowd(), Crowd()
        slow.call(one.get_or_set, "k", hung.load, lock_ttl=1)
        eventually(lambda: hung.calls)
        for cache in (two, three):
            for _ in range(10):
                others.call(cache.get_or_set, "k", gate.load)
        eventually(lambda: gate.calls)
        gate.open("second")
        assert others.join() == ["second"] * 20
        assert gate.calls == 1
        hung.open("first")
        assert slow.join() == ["first"]
        assert make().get("k") in ("first", "second")

    def test_a_leader_that_lives_keeps_it(self, make: Make) -> None:
        """However long it loads: whoever waits takes over what only the dead hold."""
        one, two = (make(coherence=BRIEF) for _ in range(2))
        gate, crowd = Gate(), Crowd()
        crowd.call(one.get_or_set, "k", gate.load)
        eventually(lambda: gate.calls)
        crowd.call(two.get_or_set, "k", gate.load)
        eventually(lambda: waiting(two))
        (name,) = two._runtime.fills._waiting
        token = drive(two._runtime.leases.holder(name))  # type: ignore[union-attr]
        assert str(token).startswith(one._runtime.coherence.fleet.member)
        time.sleep(3.5)  # longer than a membership that nobody renews
        gate.open(1)
        assert crowd.join() == [1, 1]
        assert gate.calls == 1

    def test_a_leader_that_is_back_keeps_it(self, make: Make) -> None:
        """It was silent when others last looked who is there; the lease that they see it with now is newer than that."""
        one, two = (make(coherence=CoherenceConfig(max_staleness=60, heartbeat=30)) for _ in range(2))
        two._runtime.coherence.fleet.seen = (Member(one._runtime.coherence.fleet.member, "", 0, lapsed=5.0),)
        gate, crowd = Gate(), Crowd()
        crowd.call(one.get_or_set, "k", gate.load)
        eventually(lambda: gate.calls)
        crowd.call(two.get_or_set, "k", gate.load)
        eventually(lambda: two._runtime.default.counters.lock_waits.value > 3)
        gate.open(1)
        assert crowd.join() == [1, 1]
        assert gate.calls == 1

    def test_a_leader_that_left(self, make: Make) -> None:
        """Its manager was closed during the load, and no heartbeat will ever be missed: it is not there, that is enough."""
        one, two = (make(coherence=BRIEF) for _ in range(2))
        gate, left, others = Gate(), Crowd(), Crowd()
        left.call(one.get_or_set, "k", gate.load)
        eventually(lambda: gate.calls)
        one.close()
        others.call(two.get_or_set, "k", lambda: "second")
        assert others.join() == ["second"]
        gate.open("first")
        left.join()

    def test_a_leader_that_was_only_silent(self, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        """It lapsed, and another loads instead; what it brings at last stands nowhere above that, and it takes no lease away."""
        one, two, three = (make(coherence=BRIEF) for _ in range(3))
        silent, gate, slow, others = Gate(), Gate(), Crowd(), Crowd()
        slow.call(one.get_or_set, "k", silent.load)
        eventually(lambda: silent.calls)
        one._runtime.listener.stop()
        monkeypatch.setattr(one._runtime, "ready", lambda: None)
        others.call(two.get_or_set, "k", gate.load)
        eventually(lambda: gate.calls)
        silent.open("first")
        assert slow.join() == ["first"]
        others.call(three.get_or_set, "k", gate.load, refresh=True)
        eventually(lambda: waiting(three))
        gate.open("second")
        assert others.join() == ["second"] * 2
        assert gate.most == 1

    @pytest.mark.parametrize("during", ["take", "give"])
    async def test_a_leader_that_is_cancelled_while_it_asks(
        self, make: Make, monkeypatch: pytest.MonkeyPatch, during: str
    ) -> None:
        """Whether the lease was given, or given back, it does not know: nobody waits out `lock_ttl` for that."""
        one, two, asking = make(), make(), threading.Event()
        store = one._runtime.leases
        ask = getattr(store, during)

        def slow(*args: Any) -> Any:
            if during == "take":  # given, and the answer is on its way
                answer = yield from ask(*args)
            if not asking.is_set():
                asking.set()
                yield Pause(PATIENCE)
            return answer if during == "take" else (yield from ask(*args))

        async def load() -> str:
            return "first"

        monkeypatch.setattr(store, during, slow)
        task = asyncio.create_task(one.get_or_set_async("k", load))
        await eventually_async(asking.is_set)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await two.delete_async("k")
        began = time.monotonic()
        assert await asyncio.to_thread(two.get_or_set, "k", lambda: "second") == "second"
        assert time.monotonic() - began < PATIENCE

    @pytest.mark.parametrize("lock_ttl", [1e-6, 1e300, math.inf])
    def test_a_lease_may_be_as_short_or_long_as_a_caller_says(self, make: Make, lock_ttl: float) -> None:
        """Redis takes no expiry that is infinite, or longer than its clock runs."""
        one, two = make(), make()
        assert one.get_or_set("k", lambda: 1, lock_ttl=lock_ttl) == 1
        one.delete("k")
        assert two.get_or_set("k", lambda: 2, lock_ttl=lock_ttl) == 2

    def test_no_lease_store_no_wait(self, make: Make, stack: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A store of leases that does not answer costs a load too many, never none."""
        cache = make()

        def broken(*args: Any) -> Any:
            raise LogUnavailable("gone")
            yield

        monkeypatch.setattr(type(cache._runtime.leases), "take", broken)
        monkeypatch.setattr(type(cache._runtime.leases), "give", broken)
        assert cache.get_or_set("k", lambda: 1) == 1


class TestSharedOrNot:
    def test_memory_alone_waits_for_nobody(self, redis_url: str) -> None:
        """A region whose fills reach no other process takes no lease, though the fleet has a Redis."""
        from tiercast import CacheConfig

        config = CacheConfig(
            distributed=patient(redis_url),
            regions={"near": {"distributed": None}},
        )
        gate, crowd = Gate(), Crowd()
        with CacheManager(config) as one, CacheManager(config) as two:
            crowd.call(one.get_or_set, "k", gate.load, region="near")
            crowd.call(two.get_or_set, "k", gate.load, region="near")
            eventually(lambda: gate.calls == 2)
            gate.open(1)
            assert crowd.join() == [1, 1]


class TestRefresh:
    def test_a_forced_load_waits_and_loads_anew(self, make: Make) -> None:
        """`refresh=True` in two processes: one after the other, and neither gets what stood there before."""
        one, two, gate, crowd = make(), make(), Gate(), Crowd()
        one.set("k", "old")
        crowd.call(one.get_or_set, "k", gate.load, refresh=True)
        eventually(lambda: gate.calls)
        crowd.call(two.get_or_set, "k", gate.load, refresh=True)
        eventually(lambda: waiting(two))
        gate.open("new")
        assert crowd.join() == ["new"] * 2
        assert gate.most == 1

    def test_one_process_refreshes(self, make: Make) -> None:
        """After a soft invalidation every process serves the value; one load is made, and all come to see it."""
        fleet = [make() for _ in range(3)]
        fleet[0].set("k", "old")
        gate, lock, calls = Gate(), threading.Lock(), []

        def load() -> Any:
            with lock:
                calls.append(1)
            return gate.load()

        assert [cache.get("k") for cache in fleet] == ["old"] * 3
        for cache in fleet:
            cache.coherence.settle()
        fleet[1].invalidate_keys(["k"], soft=True)
        for cache in fleet:
            cache.coherence.settle()
        for _ in range(10):
            assert [cache.get_or_set("k", load) for cache in fleet] == ["old"] * 3
            time.sleep(0.02)
        eventually(lambda: calls)
        gate.open("new")
        eventually(lambda: [cache.get_or_set("k", load) for cache in fleet] == ["new"] * 3)
        assert len(calls) == 1

    def test_the_owner_begins(self, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        """Who does not own the key leaves it a head start, and then refreshes nevertheless: the owner may never read it."""
        cache, gate = make(), Gate()
        monkeypatch.setattr(Fleet, "owns", lambda self, name: False)
        cache.set("k", "old")
        cache.invalidate_keys(["k"], soft=True)
        began = time.monotonic()
        while not gate.calls:
            assert cache.get_or_set("k", gate.load) == "old"
            time.sleep(0.01)
            assert time.monotonic() < began + PATIENCE
        assert time.monotonic() >= began + 0.1
        gate.open("new")
        eventually(lambda: cache.get_or_set("k", gate.load) == "new")
        assert gate.calls == 1

    def test_an_early_refresh_takes_what_another_loaded(self, make: Make) -> None:
        """Before it loads, it looks whether the fleet has something fresher."""
        one, two = make(early_refresh=1.0, ttl=2.0), make(early_refresh=1.0, ttl=2.0)

        def slow() -> str:
            time.sleep(0.3)
            return "first"

        assert one.get_or_set("k", slow) == "first"
        assert two.get("k") == "first"
        eventually(lambda: one._runtime.default.memory.get("k").expires - time.monotonic() < 0.5)  # type: ignore[union-attr]
        assert one.get_or_set("k", lambda: "second") in ("first", "second")
        eventually(lambda: one.get("k") == "second")

        def never() -> Any:
            raise AssertionError("another process has loaded it")

        eventually(lambda: two.get_or_set("k", never) == "second")
        assert two._runtime.workers.failed.value == 0


class TestCycles:
    def test_loaders_of_two_processes_that_read_each_other_s_key(self, make: Make) -> None:
        """Each holds the lease that the other wants: one of them soon loads by itself, long before `lock_ttl`."""
        one, two, crowd = make(), make(), Crowd()
        both = threading.Barrier(2)

        def load(cache: CacheManager, inner: str) -> str:
            both.wait(PATIENCE)
            return f"of {cache.get_or_set(inner, lambda: 'inner')}"

        began = time.monotonic()
        crowd.call(one.get_or_set, "a", lambda: load(one, "b"))
        crowd.call(two.get_or_set, "b", lambda: load(two, "a"))
        outcomes = crowd.join()
        assert time.monotonic() - began < 10
        assert all(str(outcome).startswith("of ") for outcome in outcomes)

    def test_through_a_flight_that_waits_for_the_other_process(self, make: Make) -> None:
        """The wait that closes the cycle may be one that began earlier, in another thread: it is cut short as well."""
        one, two, crowd = make(), make(), Crowd()
        holds_a, holds_c, go = threading.Event(), threading.Event(), threading.Event()

        def load_c() -> str:
            holds_c.set()
            assert go.wait(PATIENCE)
            return f"c of {two.get_or_set('z', lambda: 'z')}"

        def load_z() -> str:
            holds_a.set()
            assert go.wait(PATIENCE)
            return f"z of {one.get_or_set('c', lambda: 'c')}"

        crowd.call(two.get_or_set, "c", load_c)
        assert holds_c.wait(PATIENCE)
        crowd.call(one.get_or_set, "z", load_z)
        assert holds_a.wait(PATIENCE)
        crowd.call(one.get_or_set, "c", lambda: "c by itself")
        eventually(lambda: waiting(one))
        began = time.monotonic()
        go.set()
        crowd.join()
        assert time.monotonic() - began < 10
