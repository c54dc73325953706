"""What a loader may say about its value, and what its inputs say about it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from at_rest import clock_cost, idle, refuse, settle
from loaders import PATIENCE, Gate, eventually
from stacks import Sync
from tiercast import NOT_MODIFIED, CacheManager, current_load
from tiercast.testing import FakeClock

Make = Callable[..., CacheManager]


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
