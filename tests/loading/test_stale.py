"""Older values: grace, stale-while-revalidate, timeouts, failing origins, soft invalidation, and what a loader may say."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest

from loaders import PATIENCE, Crowd, Gate, eventually
from stacks import Async, Sync
from tiercast import NOT_MODIFIED, CacheManager, LoadTimeout, LocalCacheConfig, current_load
from tiercast.testing import FakeClock

Make = Callable[..., CacheManager]


def refuse() -> Any:
    raise LookupError("origin")


def never() -> Any:
    raise AssertionError("the loader is not to be called")


def stale_served(cache: CacheManager) -> int:
    return int(cache.stats()["stale_served"])


def idle(cache: CacheManager) -> bool:
    """Whether no load is on its way."""
    return len(cache._runtime.flights) == 0


def settle(cache: CacheManager, call: Sync | Async) -> None:
    """Let what runs in the background end."""
    if isinstance(call, Async):
        call.loop.run_until_complete(cache._runtime.workers.drain_async(PATIENCE))
    else:
        assert cache._runtime.workers.drain(PATIENCE)
    assert idle(cache)


class TestGrace:
    def test_a_reader_waits_for_the_load_and_gets_the_new_value(self, make: Make, call: Sync, clock: FakeClock) -> None:
        """Without a soft timeout, grace is for failures only."""
        cache = make(ttl=10, grace=100)
        call(cache.set, "k", "old")
        clock.advance(11)
        assert call(cache.get_or_set, "k", lambda: "new") == "new"
        assert stale_served(cache) == 0

    def test_a_failed_load_serves_the_old_value(self, make: Make, call: Sync, clock: FakeClock) -> None:
        """Until grace ends; then the error reaches the caller."""
        cache = make(ttl=10, grace=100, retry_backoff=(1, 1))
        call(cache.set, "k", "old")
        clock.advance(11)
        assert call(cache.get_or_set, "k", refuse) == "old"
        clock.advance(98)
        assert call(cache.get_or_set, "k", refuse) == "old"
        clock.advance(1.1)
        with pytest.raises(LookupError):
            call(cache.get_or_set, "k", refuse)

    def test_get_does_not_serve_it(self, make: Make, call: Sync, clock: FakeClock) -> None:
        """`get` has no loader that could have failed: past its deadline an entry is not there."""
        cache = make(ttl=10, grace=100)
        call(cache.set, "k", "old")
        clock.advance(10)
        assert call(cache.get, "k") is None
        assert call(cache.ttl, "k") is None
        assert call(cache.multi_get, ["k"]) == {}

    def test_without_grace_an_error_is_an_error(self, make: Make, call: Sync, clock: FakeClock) -> None:
        """No grace, nothing older is served."""
        cache = make(ttl=10)
        call(cache.set, "k", "old")
        clock.advance(10)
        with pytest.raises(LookupError):
            call(cache.get_or_set, "k", refuse)

    def test_what_died_meanwhile_is_not_served(self, make: Make, clock: FakeClock) -> None:
        """An invalidation that comes while the load fails kills the older value as well."""
        cache, gate, crowd = make(ttl=10, grace=100), Gate(), Crowd()
        cache.set("k", "old")
        clock.advance(11)
        crowd.call(cache.get_or_set, "k", gate.load)
        eventually(lambda: gate.calls)
        cache.invalidate_keys(["k"])
        gate.open(LookupError("origin"))
        assert [type(outcome) for outcome in crowd.join()] == [LookupError]

    def test_memory_s_own_ttl_leaves_grace(self, make: Make, call: Sync, clock: FakeClock) -> None:
        """A region that names only its memory's TTL has its grace after it."""
        cache = make(local=LocalCacheConfig(ttl=10), grace=100)
        call(cache.set, "k", "old")
        clock.advance(11)
        assert call(cache.get, "k") is None
        assert call(cache.get_or_set, "k", refuse) == "old"


class TestBackoff:
    def test_the_origin_is_tried_with_growing_pauses(self, make: Make, call: Sync, clock: FakeClock) -> None:
        """1, 2, 4, then 5 seconds apart, however often the key is read; a success forgets it."""
        cache = make(ttl=10, grace=1000, retry_backoff=(1, 5))
        call(cache.set, "k", "old")
        clock.advance(11)
        began, tries = clock.monotonic(), []

        def fail() -> None:
            tries.append(round(clock.monotonic() - began, 1))
            raise LookupError("origin")

        for _ in range(160):
            assert call(cache.get_or_set, "k", fail) == "old"
            clock.advance(0.125)
        assert tries == [0, 1, 3, 7, 12, 17]
        clock.advance(5)
        assert call(cache.get_or_set, "k", lambda: "new") == "new"
        clock.advance(11)
        tries.clear()
        for _ in range(12):
            call(cache.get_or_set, "k", fail)
            clock.advance(0.1)
        assert len(tries) == 2, "the pauses begin anew"

    def test_an_origin_that_is_down_for_a_minute(self, make: Make, clock: FakeClock) -> None:
        """With grace no caller sees an error, the origin is tried with backoff, and is back within one step of it."""
        cache = make(ttl=10, grace=300, retry_backoff=(1, 8))
        keys = [f"k{n}" for n in range(20)]
        down_from, down_until = clock.monotonic() + 30, clock.monotonic() + 90
        tries: list[float] = []
        latest: dict[str, float] = {}

        def load() -> float:
            now = clock.monotonic()
            if down_from <= now < down_until:
                tries.append(now)
                raise ConnectionError("the origin is down")
            return now

        for _ in range(1300):
            for key in keys:
                latest[key] = cache.get_or_set(key, load)
            clock.advance(0.1)
            if clock.monotonic() > down_until + 8.1 + 0.2:
                assert all(value >= down_until for value in latest.values()), "not recovered within one step"
        assert 60 / 8 * 20 * 0.7 <= len(tries) <= 20 * (4 + 60 / 8)

    def test_an_error_without_an_older_value_is_not_remembered(self, make: Make, call: Sync) -> None:
        """There is nothing to serve instead, so each call tries."""
        cache = make(grace=100)
        for _ in range(3):
            with pytest.raises(LookupError):
                call(cache.get_or_set, "k", refuse)
        assert call(cache.get_or_set, "k", lambda: 1) == 1


class TestSoftTimeout:
    def test_at_once_and_refreshed_behind(self, make: Make, call: Sync, clock: FakeClock) -> None:
        """`soft_timeout=0`, stale-while-revalidate: nobody waits, one load runs behind, later readers see its value."""
        cache, gate = make(ttl=10, grace=100, soft_timeout=0), Gate()
        call(cache.set, "k", "old")
        clock.advance(11)
        load = gate.load if call.kind == "sync" else gate.load_async
        for _ in range(20):
            assert call(cache.get_or_set, "k", load) == "old"
        assert stale_served(cache) == 20
        gate.open("new")
        settle(cache, call)
        assert call(cache.get_or_set, "k", never) == "new"
        assert gate.calls == 1

    def test_a_slow_load_goes_on(self, make: Make, call: Sync, clock: FakeClock) -> None:
        """After `soft_timeout` the reader is served the older value; the load's value is stored when it comes."""
        cache, gate = make(ttl=10, grace=100, soft_timeout=0.05), Gate()
        call(cache.set, "k", "old")
        clock.advance(11)
        load = gate.load if call.kind == "sync" else gate.load_async
        assert call(cache.get_or_set, "k", load) == "old"
        gate.open("new")
        settle(cache, call)
        assert call(cache.get, "k") == "new"

    def test_a_quick_load_is_waited_for(self, make: Make, call: Sync, clock: FakeClock) -> None:
        """What comes within `soft_timeout` is the answer."""
        cache = make(ttl=10, grace=100, soft_timeout=PATIENCE)
        call(cache.set, "k", "old")
        clock.advance(11)
        assert call(cache.get_or_set, "k", lambda: "new") == "new"

    def test_without_an_older_value_it_means_nothing(self, make: Make, call: Sync) -> None:
        """A reader that has nothing else waits."""
        cache = make(grace=100, soft_timeout=0)
        assert call(cache.get_or_set, "k", lambda: "new") == "new"

    def test_a_failure_behind_is_served_over(self, make: Make, call: Sync, clock: FakeClock) -> None:
        """The background load that fails starts the backoff; readers go on getting the older value."""
        cache = make(ttl=10, grace=100, soft_timeout=0, retry_backoff=(1, 8))
        call(cache.set, "k", "old")
        clock.advance(11)
        assert call(cache.get_or_set, "k", refuse) == "old"
        settle(cache, call)
        assert call(cache.get_or_set, "k", never) == "old"
        settle(cache, call)
        clock.advance(1)
        assert call(cache.get_or_set, "k", lambda: "new") == "old"
        settle(cache, call)
        assert call(cache.get_or_set, "k", never) == "new"


class TestHardTimeout:
    def test_load_timeout(self, make: Make, call: Sync) -> None:
        """A load that takes too long raises, and its value is there for the next."""
        cache, gate = make(hard_timeout=0.05), Gate()
        load = gate.load if call.kind == "sync" else gate.load_async
        with pytest.raises(LoadTimeout, match="hard_timeout"):
            call(cache.get_or_set, "k", load)
        gate.open("late")
        settle(cache, call)
        assert call(cache.get_or_set, "k", never) == "late"
        assert gate.calls == 1

    def test_everybody_who_waits_has_a_timeout(self, make: Make) -> None:
        """Those who join wait no longer than the one who leads."""
        cache, gate, crowd = make(hard_timeout=0.1), Gate(), Crowd()
        for _ in range(10):
            crowd.call(cache.get_or_set, "k", gate.load)
        assert {type(outcome) for outcome in crowd.join()} == {LoadTimeout}
        assert gate.calls == 1
        gate.open()
        eventually(lambda: idle(cache))

    def test_the_older_value_goes_before_the_error(self, make: Make, call: Sync, clock: FakeClock) -> None:
        """A load that is too slow is a load that failed: within grace the older value is served."""
        cache, gate = make(ttl=10, grace=100, hard_timeout=0.05), Gate()
        call(cache.set, "k", "old")
        clock.advance(11)
        load = gate.load if call.kind == "sync" else gate.load_async
        assert call(cache.get_or_set, "k", load) == "old"
        gate.open("new")
        settle(cache, call)
        assert call(cache.get, "k") == "new"

    def test_nested(self, make: Make, call: Sync) -> None:
        """A timeout holds inside a loader, too."""
        cache, gate = make(hard_timeout=0.1), Gate()

        def outer() -> str:
            try:
                return str(cache.get_or_set("inner", gate.load))
            except LoadTimeout:
                return "without"

        cache_hard = make(hard_timeout=PATIENCE)
        assert call(cache_hard.get_or_set, "outer", outer) == "without"
        gate.open()
        eventually(lambda: idle(cache))

    def test_many_that_hang_are_refused_in_the_end(self, make: Make) -> None:
        """More loads than there may be threads raise instead of hanging."""
        cache, gate = make(hard_timeout=0.02, max_concurrent_loads=None), Gate()
        cache._runtime.workers._waited._limit = 3
        messages = []
        for n in range(5):
            with pytest.raises(LoadTimeout) as raised:
                cache.get_or_set(f"k{n}", gate.load)
            messages.append("too many" in str(raised.value))
        assert messages == [False] * 3 + [True] * 2
        gate.open()
        eventually(lambda: idle(cache))


class TestSoftInvalidation:
    def test_served_while_one_refreshes(self, make: Make, call: Sync) -> None:
        """`soft=True`: readers get the value at once, one load runs behind; no grace is needed before the deadline."""
        cache, gate = make(ttl=100), Gate()
        call(cache.set, "k", "old")
        call(cache.invalidate_keys, ["k"], soft=True)
        load = gate.load if call.kind == "sync" else gate.load_async
        assert [call(cache.get_or_set, "k", load) for _ in range(10)] == ["old"] * 10
        gate.open("new")
        settle(cache, call)
        assert call(cache.get_or_set, "k", never) == "new"
        assert gate.calls == 1

    @pytest.mark.parametrize("how", ["tags", "pattern", "scope"])
    def test_every_kind(self, make: Make, call: Sync, how: str) -> None:
        """Tags, patterns and scopes mark like keys."""
        cache = make(ttl=100)
        call(cache.set, "k", "old", tags=["t"])
        if how == "tags":
            call(cache.invalidate_tags, ["t"], soft=True)
        elif how == "pattern":
            call(cache.invalidate_pattern, "*", soft=True)
        else:
            call(cache.evict_by_scope, "global", soft=True)
        assert call(cache.get, "k") is None
        assert call(cache.get_or_set, "k", lambda: "new", tags=["t"]) == "old"
        settle(cache, call)
        assert call(cache.get, "k") == "new"

    def test_a_load_that_began_before_is_stale(self, make: Make, call: Sync) -> None:
        """A fill that was on its way when the mark came is served once more and refreshed."""
        cache = make(ttl=100)

        def load() -> str:
            cache.invalidate_keys(["k"], soft=True)
            return "first"

        assert call(cache.get_or_set, "k", load) == "first"
        assert call(cache.get_or_set, "k", lambda: "second") == "first"
        settle(cache, call)
        assert call(cache.get_or_set, "k", never) == "second"

    def test_a_hard_one_after_it_kills(self, make: Make, call: Sync) -> None:
        """What was marked dies like anything else."""
        cache = make(ttl=100, grace=100)
        call(cache.set, "k", "old")
        call(cache.invalidate_keys, ["k"], soft=True)
        call(cache.invalidate_keys, ["k"])
        with pytest.raises(LookupError):
            call(cache.get_or_set, "k", refuse)


class TestWhatALoaderMaySay:
    def test_ttl_and_tags(self, make: Make, call: Sync) -> None:
        """Its own TTL and tags, decided by what it found."""
        cache = make()

        def load() -> str:
            current_load().ttl = 7
            current_load().tags.append("found")
            return "v"

        call(cache.get_or_set, "k", load, 100, tags=["asked"])
        assert call(cache.ttl, "k") == 7
        call(cache.invalidate_tags, ["found"])
        assert call(cache.get, "k") is None

    def test_until_invalidated(self, make: Make, call: Sync) -> None:
        """A TTL of None has no end."""
        cache = make(ttl=10)

        def load() -> str:
            current_load().ttl = None
            return "v"

        call(cache.get_or_set, "k", load)
        assert call(cache.ttl, "k") == math.inf

    def test_do_not_keep(self, make: Make, call: Sync) -> None:
        """Handed to whoever waits, stored nowhere."""
        cache = make()

        def load() -> str:
            current_load().keep = False
            return "v"

        assert call(cache.get_or_set, "k", load) == "v"
        assert call(cache.contains, "k") is False

    def test_none_has_its_own_ttl(self, make: Make, call: Sync) -> None:
        """`none_ttl` is for a loaded None without a TTL of its own."""
        cache = make(ttl=100, none_ttl=5)
        call(cache.get_or_set, "k", lambda: None)
        assert call(cache.ttl, "k") == 5
        call(cache.get_or_set, "own", lambda: None, 50)
        assert call(cache.ttl, "own") == 50
        call(cache.get_or_set, "value", lambda: 0)
        assert call(cache.ttl, "value") == 100

    def test_not_modified(self, make: Make, call: Sync, clock: FakeClock) -> None:
        """The loader is shown the older value and renews it, tags included."""
        cache = make(ttl=10, grace=100)
        call(cache.set, "k", {"version": 1}, tags=["t"])
        clock.advance(11)
        shown = []

        def load() -> Any:
            shown.append((current_load().has_stale, current_load().stale_value))
            return NOT_MODIFIED

        assert call(cache.get_or_set, "k", load, tags=["more"]) == {"version": 1}
        assert shown == [(True, {"version": 1})]
        assert call(cache.ttl, "k") == 10
        call(cache.invalidate_tags, ["t"])
        assert call(cache.get, "k") is None

    def test_not_modified_of_nothing(self, make: Make, call: Sync) -> None:
        """Where nothing was shown there is nothing to keep."""
        cache = make()
        with pytest.raises(ValueError, match="NOT_MODIFIED"):
            call(cache.get_or_set, "k", lambda: NOT_MODIFIED)
        assert call(cache.contains, "k") is False

    @pytest.mark.parametrize("wrong", [0, -1, math.nan])
    def test_a_ttl_that_cannot_be(self, make: Make, call: Sync, wrong: float) -> None:
        """A loader's TTL is checked like a caller's, and nothing is stored."""
        cache = make()

        def load() -> str:
            current_load().ttl = wrong
            return "v"

        with pytest.raises(ValueError, match="ttl"):
            call(cache.get_or_set, "k", load)
        assert call(cache.contains, "k") is False


class TestStaleInputs:
    def test_a_value_computed_from_a_stale_one_is_stale(self, make: Make, call: Sync) -> None:
        """It is served, loaded again behind, and fresh once its input is."""
        cache = make(ttl=100, retry_backoff=(1, 8))
        call(cache.set, "inner", 1)
        call(cache.invalidate_keys, ["inner"], soft=True)
        gate = Gate()

        def outer() -> str:
            return f"outer of {cache.get_or_set('inner', gate.load)}"

        assert call(cache.get_or_set, "outer", outer) == "outer of 1"
        assert call(cache.get, "outer") is None, "it is marked"
        gate.open(2)
        eventually(lambda: cache.get("inner") == 2)

    def test_it_is_not_loaded_again_with_every_read(self, make: Make, call: Sync, clock: FakeClock) -> None:
        """While its input stays stale, it is computed again with backoff."""
        cache = make(ttl=10, grace=1000, soft_timeout=0, retry_backoff=(1, 8))
        call(cache.set, "inner", 1)
        clock.advance(11)
        computed = []

        def outer() -> int:
            computed.append(1)
            return int(cache.get_or_set("inner", refuse))

        for _ in range(30):
            assert call(cache.get_or_set, "outer", outer) == 1
            settle(cache, call)
            clock.advance(0.1)
        assert 2 <= len(computed) <= 3

    def test_through_several_levels_and_threads(self, make: Make) -> None:
        """The mark goes all the way up, through worker threads with timeouts."""
        cache = make(ttl=100, hard_timeout=PATIENCE)
        cache.set("a", 1)
        cache.invalidate_keys(["a"], soft=True)
        gate = Gate()

        def b() -> Any:
            return cache.get_or_set("a", gate.load)

        def c() -> Any:
            return cache.get_or_set("b", b)

        assert cache.get_or_set("c", c) == 1
        assert cache.multi_get(["a", "b", "c"]) == {}
        gate.open(2)
        eventually(lambda: idle(cache))

    def test_a_refresh_of_an_input_that_fails_behind_does_not_mark(self, make: Make, clock: FakeClock) -> None:
        """What was read was fresh; only the early refresh behind it failed."""
        cache = make(ttl=100, early_refresh=1.0)
        clock_cost(cache, clock, "inner", 5)
        clock.advance(96)
        assert cache.get_or_set("outer", lambda: cache.get_or_set("inner", refuse)) == "inner"
        eventually(lambda: idle(cache))
        assert cache.get("outer") == "inner"


def clock_cost(cache: CacheManager, clock: FakeClock, key: str, seconds: float) -> None:
    """Load a key by a loader that takes a while."""

    def load() -> str:
        clock.advance(seconds)
        return key

    cache.get_or_set(key, load)


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
            eventually(lambda: idle(cache) or len(ends) > before or ends[-1] > clock.monotonic())
            clock.advance(interval)
            eventually(lambda: idle(cache) or ends[-1] > clock.monotonic())
        assert len(ends) >= 5


class TestJitter:
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

    def test_it_is_bounded(self, make: Make, clock: FakeClock) -> None:
        """A thousand keys that are refreshed at once run on eight threads, and all are refreshed."""
        import threading

        cache = make(ttl=10, grace=100, soft_timeout=0, max_concurrent_loads=None)
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
        assert len(threads) <= 8
