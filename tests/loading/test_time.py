"""Deadlines: early refresh, jitter, sliding."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from at_rest import clock_cost, idle, never, settle
from loaders import PATIENCE, Crowd, Gate, eventually, eventually_async
from stacks import Sync
from tiercast import CacheManager, CoherenceConfig
from tiercast.loading import stale
from tiercast.testing import FakeClock

Make = Callable[..., CacheManager]


class TestEarlyRefresh:
    def test_before_the_deadline_and_behind(self, make: Make, call: Sync, clock: FakeClock) -> None:
        """Three load costs before its deadline at the latest a read refreshes; the reader does not wait."""
        cache = make(ttl=100, early_refresh=1.0)
        clock_cost(cache, clock, "k", 2)
        left = cache.ttl("k")
        assert left is not None
        clock.advance(left - 6.1 - 28)
        assert call(cache.get_or_set, "k", never) == "k", "the chance of a draw this early is one in a million"
        clock.advance(28 + 0.2)
        gate = Gate()
        load = gate.load if call.kind == "sync" else gate.load_async
        for _ in range(10):
            assert call(cache.get_or_set, "k", load) == "k"
        gate.open("new")
        settle(cache, call)
        assert gate.calls == 1
        assert call(cache.get_or_set, "k", never) == "new"

    @pytest.mark.parametrize(("ttl", "handover"), [(100.0, 0.05), (0.4, 0.02)])
    def test_early_enough_to_find_a_thread(
        self, make: Make, call: Sync, clock: FakeClock, ttl: float, handover: float
    ) -> None:
        """A twentieth of a second before those three costs, or of the TTL where that is less: a refresh has yet to begin."""
        cache, cost = make(ttl=ttl, early_refresh=1.0), ttl / 100_000
        clock_cost(cache, clock, "k", cost)
        left = cache.ttl("k")
        assert left is not None
        clock.advance(left - handover - 4 * cost)
        assert call(cache.get_or_set, "k", never) == "k"
        clock.advance(2 * cost)
        assert call(cache.get_or_set, "k", lambda: "new") == "k"
        settle(cache, call)
        assert call(cache.get_or_set, "k", never) == "new"

    def test_the_owner_begins(self, make: Make, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
        """Another process leaves it a head start: of one cost and half of what it takes to begin."""
        cache, cost = make(ttl=100, early_refresh=1.0), 2.0
        monkeypatch.setattr(stale, "owns", lambda region, address: False)
        clock_cost(cache, clock, "k", cost)
        left = cache.ttl("k")
        assert left is not None
        clock.advance(left - 2 * cost - 0.026)
        assert cache.get_or_set("k", never) == "k"
        clock.advance(0.002)
        assert cache.get_or_set("k", lambda: "new") == "k"
        eventually(lambda: cache.get_or_set("k", never) == "new")

    def test_it_is_drawn(self, make: Make, clock: FakeClock) -> None:
        """XFetch: five costs before the deadline a read refreshes with a probability of e^-5."""
        cache = make(ttl=1000, early_refresh=1.0)
        clock_cost(cache, clock, "k", 2)
        region = cache._runtime.default
        entry = region.memory.get("k")  # type: ignore[union-attr]
        assert entry is not None
        at = entry.expires - 10
        drawn = sum(region._due(entry, at).name == "DUE" for _ in range(100_000))
        assert 0.0067 * 100_000 * 0.8 < drawn < 0.0067 * 100_000 * 1.2

    def test_off_by_default_and_for_what_costs_nothing(self, make: Make, clock: FakeClock) -> None:
        """Without `early_refresh`, and for values that were set, nothing is loaded before its time."""
        for cache in (make(ttl=10), make(ttl=10, early_refresh=1.0)):
            cache.set("k", "v")
            clock.advance(9.99)
            assert cache.get_or_set("k", never) == "v"
            clock.advance(1)

    def test_a_failing_origin_is_left_alone(self, make: Make, clock: FakeClock) -> None:
        """A refresh that fails is tried again with backoff, not with every read."""
        cache = make(ttl=1000, early_refresh=1.0, retry_backoff=(1, 8))
        clock_cost(cache, clock, "k", 20)
        left = cache.ttl("k")
        assert left is not None
        clock.advance(left - 50)
        tries = []

        def fail() -> None:
            tries.append(1)
            raise LookupError("origin")

        for _ in range(50):
            assert cache.get_or_set("k", fail) == "k"
            eventually(lambda: idle(cache))
            clock.advance(0.1)
        assert len(tries) == 3

    @pytest.mark.parametrize("interval", [0.3, 0.9])
    def test_nobody_waits_for_a_key_that_is_read_often(self, make: Make, clock: FakeClock, interval: float) -> None:
        """A key that is read more often than it takes to load is always there."""
        cache, cost = make(ttl=20, ttl_jitter=0.1, early_refresh=1.0), 1.0
        ends: list[float] = []

        def load() -> str:
            ends.append(clock.monotonic() + cost)
            eventually(lambda: clock.monotonic() >= ends[-1])
            return "v"

        crowd = Crowd()
        crowd.call(cache.get_or_set, "k", load)
        eventually(lambda: ends)
        clock.advance(cost)
        crowd.join()
        for _ in range(round(100 / interval)):
            reader, before = Crowd(), len(ends)
            reader.call(cache.get_or_set, "k", load)
            assert reader.join() == ["v"]  # who waited for a load would hang here: the clock stands still
            eventually(lambda before=before: idle(cache) or len(ends) > before or ends[-1] > clock.monotonic())
            clock.advance(interval)
            eventually(lambda: idle(cache) or ends[-1] > clock.monotonic())
        assert len(ends) >= 5


class Readers:
    """Eight threads that read a thousand keys, round after round, while loads take a time of the fake clock.

    The clock stands still during a round and moves between two: then all loads have begun that can begin in the eight
    threads that refresh, and those have ended that were to end. So a reader that waits for a load hangs, and is found.
    """

    def __init__(self, cache: CacheManager, clock: FakeClock, number: int, cost: float) -> None:
        self.cache, self.clock, self.number, self.cost = cache, clock, number, cost
        self.seconds: Counter[int] = Counter()
        """Loads by the second in which they began."""
        self.waited: list[str] = []
        self._ends: list[float] = []
        self._moved = threading.Condition()
        self._round = threading.Barrier(9)
        self._pool = cache._runtime.workers._behind
        self._threads = [threading.Thread(target=self._read, args=(first,), daemon=True) for first in range(8)]

    def store(self) -> None:
        """Load every key; all loads begin, and end, at one moment."""

        async def load_all() -> None:
            gate, began = asyncio.Event(), []

            async def load() -> int:
                began.append(1)
                await gate.wait()
                return 0

            tasks = [asyncio.create_task(self.cache.get_or_set_async(f"k{n}", load)) for n in range(self.number)]
            await eventually_async(lambda: len(began) == self.number)
            self.clock.advance(self.cost)
            gate.set()
            await asyncio.gather(*tasks)

        asyncio.run(load_all())
        for thread in self._threads:
            thread.start()

    def read_until(self, moment: float, step: float) -> None:
        """Let time go on in steps, with a round of reads in each."""
        while self.clock.monotonic() < moment:
            for _ in ("begin", "end"):
                self._round.wait(PATIENCE)
            self._settle()
            with self._moved:
                self.clock.advance(step)
                self._moved.notify_all()
            self._settle()

    def close(self) -> None:
        self._round.abort()
        with self._moved:
            self.clock.advance(self.cost)
            self._moved.notify_all()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _settle(self) -> None:
        until = time.monotonic() + PATIENCE
        while sum(end > self.clock.monotonic() for end in tuple(self._ends)) != min(self._pool.busy, 8):
            assert time.monotonic() < until, "loads neither begin nor end"
            time.sleep(0)

    def _load(self) -> int:
        if threading.current_thread() in self._threads:
            self.waited.append("loaded by its reader")
            return 1
        with self._moved:
            end = self.clock.monotonic() + self.cost
            self.seconds[int(self.clock.monotonic())] += 1
            self._ends.append(end)
            self._moved.wait_for(lambda: self.clock.monotonic() >= end, PATIENCE)
            self._ends.remove(end)
        return 1

    def _read(self, first: int) -> None:
        keys = [f"k{n}" for n in range(first, self.number, 8)]
        with contextlib.suppress(threading.BrokenBarrierError):
            while True:
                self._round.wait()
                for key in keys:
                    self.cache.get_or_set(key, self._load)
                self._round.wait()


class TestJitter:
    def test_a_thousand_keys_with_early_refresh(self, make: Make, clock: FakeClock) -> None:
        """Loaded at one moment, read by 8 threads more often than a load takes, through three TTLs: nobody ever waits.

        And the origin sees at most twice the even rate. Times at which no key is due are skipped.
        """
        number, jitter, ttl, cost = 1000, 0.1, 60.0, 0.06
        cache = make(ttl=ttl, ttl_jitter=jitter, early_refresh=1.0, max_concurrent_loads=None)
        readers = Readers(cache, clock, number, cost)
        readers.store()
        began = clock.monotonic()
        try:
            for first, last in ((53, 66.2), (106, 132.4), (159, 180)):
                clock.advance(began + first - clock.monotonic())
                readers.read_until(began + last, cost / 2)
        finally:
            readers.close()
        assert readers.waited == []
        assert cache.monitor.get_stats()["waits"]["flight"] == 0
        assert sum(readers.seconds.values()) > 2.5 * number
        assert max(readers.seconds.values()) <= 2 * number / (2 * jitter * ttl)

    def test_a_thousand_keys_do_not_expire_together(self, make: Make, clock: FakeClock) -> None:
        """Stored at one moment, read by 8 threads through three TTLs: never twice the even rate, N/(2·jitter·TTL)."""
        number, jitter, ttl = 1000, 0.1, 60.0
        cache = make(ttl=ttl, ttl_jitter=jitter)
        cache.multi_set({f"k{n}": n for n in range(number)})
        seconds: dict[int, int] = {}

        def load() -> int:
            second = int(clock.monotonic())
            seconds[second] = seconds.get(second, 0) + 1
            return 1

        def read(first: int) -> None:
            for n in range(first, number, 8):
                cache.get_or_set(f"k{n}", load)

        began = int(clock.monotonic())
        clock.advance(ttl * (1 - jitter) - 1)
        for _ in range(int(3 * ttl)):
            crowd = Crowd()
            for first in range(8):
                crowd.call(read, first)
            crowd.join()
            clock.advance(1)
        assert min(seconds) >= began + ttl * (1 - jitter) - 1
        assert sum(seconds.values()) > 2.5 * number
        assert max(seconds.values()) <= 2 * number / (2 * jitter * ttl)

    def test_the_deadline_is_drawn_once(self, make: Make, clock: FakeClock) -> None:
        """Within the bounds, and not anew with each read."""
        cache = make(ttl=100, ttl_jitter=0.1)
        for n in range(50):
            cache.set(f"k{n}", n)
        drawn = [cache.ttl(f"k{n}") for n in range(50)]
        assert all(left is not None and 90 <= left <= 110 for left in drawn)
        assert len(set(drawn)) > 40
        assert [cache.ttl(f"k{n}") for n in range(50)] == drawn


class TestSliding:
    def test_reads_renew(self, make: Make, call: Sync, clock: FakeClock) -> None:
        """An entry that is read lives on, until `max_lifetime`; one that is not read does not."""
        cache = make(ttl=10, sliding=True, max_lifetime=100)
        call(cache.set, "read", 1)
        call(cache.set, "unread", 1)
        for _ in range(19):
            clock.advance(5)
            assert call(cache.get_or_set, "read", never) == 1
        assert call(cache.get, "unread") is None
        clock.advance(5.1)
        assert call(cache.get, "read") is None


class TestOriginLag:
    """A load that begins within `origin_lag` after an invalidation may have read what was: it is served, and not kept."""

    KINDS: ClassVar[dict[str, tuple[str, tuple[Any, ...]]]] = {
        "key": ("invalidate_keys", (["k"],)),
        "tag": ("invalidate_tags", (["t"],)),
        "scope": ("evict_by_scope", ("global",)),
        "pattern": ("invalidate_pattern", ("k*",)),
        "region": ("clear", ("default",)),
    }

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_newest_record_counts(self, make: Make, call: Sync, clock: FakeClock, kind: str) -> None:
        """Whatever it matches by, and though no other came before or after it."""
        cache = make(coherence=CoherenceConfig(origin_lag=2.0))
        operation, arguments = self.KINDS[kind]
        call(cache.position)
        clock.advance(10)
        call(getattr(cache, operation), *arguments)
        for pause, kept in ((0.0, None), (1.9, None), (0.2, "loaded")):
            clock.advance(pause)
            assert call(cache.get_or_set, "k", lambda: "loaded", tags=["t"]) == "loaded"
            assert call(cache.get, "k") == kept

    def test_other_entries_are_kept(self, make: Make, call: Sync) -> None:
        """Only what the record matches is in doubt."""
        cache = make(coherence=CoherenceConfig(origin_lag=2.0))
        call(cache.invalidate_keys, ["k"])
        call(cache.get_or_set, "other", lambda: "loaded")
        assert call(cache.get, "other") == "loaded"
