"""What a manager promises whatever its tiers, to sync and to async callers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from stacks import STACKS, Async, Sync, config_of
from tiercast import (
    CacheConfig,
    CacheManager,
    ManagerClosed,
    ScopeConfig,
    ScopeError,
    ScopeLevel,
    SerializationError,
    UnknownKeyword,
)
from tiercast.coherence.coherence import Delivery
from tiercast.coherence.log import Beat, LogUnavailable, Pulse
from tiercast.plans import Plan

SCOPES = ScopeConfig(
    [
        ScopeLevel("organization", "org_id", [ScopeLevel("user", "user_id", [ScopeLevel("session", "session_id")])]),
        ScopeLevel("tenant", "tenant_id"),
    ]
)


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Iterator[Sync | Async]:
    call = Sync() if request.param == "sync" else Async()
    yield call
    call.close()


@pytest.fixture(params=STACKS)
def stack(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(
    request: pytest.FixtureRequest, stack: str, call: Sync | Async, tmp_path: Path
) -> Iterator[Callable[..., CacheManager]]:
    """Make managers of the stack that share disk and Redis."""
    url = request.getfixturevalue("redis_url") if "redis" in stack else None
    managers = []

    def make(**more: Any) -> CacheManager:
        managers.append(CacheManager(config_of(stack, tmp_path / "cache", url, scopes=SCOPES, **more)))
        return managers[-1]

    yield make
    for manager in managers:
        call(manager.close)


@pytest.fixture
def cache(make: Callable[..., CacheManager]) -> CacheManager:
    return make()


def follow_the_log(cache: CacheManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what follows the log in the background done as soon as a record stands there."""
    runtime = cache._runtime
    append = runtime.coherence.append

    def followed(*args: Any, **kwargs: Any) -> Plan[Delivery]:
        delivery = yield from append(*args, **kwargs)
        yield from runtime.coherence.follow_stores()
        if runtime.remote is not None:
            yield from runtime.coherence.carry(runtime._carry)
        return delivery

    monkeypatch.setattr(runtime.coherence, "append", followed)


class TestValues:
    def test_what_was_set_is_got(self, cache: CacheManager, call: Sync) -> None:
        """`get` returns what `set` took."""
        result = call(cache.set, "k", {"a": [1, 2.5, "x", None, True]})
        assert result.delivered is True
        assert isinstance(result.position, int)
        assert call(cache.get, "k") == {"a": [1, 2.5, "x", None, True]}

    def test_nothing_cached_gives_the_default(self, cache: CacheManager, call: Sync) -> None:
        """`get` answers None, or the default given, where nothing is cached."""
        assert call(cache.get, "absent") is None
        assert call(cache.get, "absent", "fallback") == "fallback"

    def test_none_is_a_value(self, cache: CacheManager, call: Sync) -> None:
        """None is cached like any other value."""
        call(cache.set, "k", None)
        assert call(cache.get, "k", "default") is None
        assert call(cache.contains, "k") is True
        assert call(cache.get_or_set, "k", lambda: "loaded") is None

    def test_the_last_set_wins(self, cache: CacheManager, call: Sync) -> None:
        """A second `set` replaces the first in every tier."""
        call(cache.set, "k", 1)
        call(cache.set, "k", 2)
        assert call(cache.get, "k") == 2

    def test_delete_says_whether_there_was_one(self, cache: CacheManager, call: Sync) -> None:
        """`delete` removes the entry everywhere and answers whether one was found."""
        call(cache.set, "k", 1)
        assert call(cache.delete, "k") is True
        assert call(cache.get, "k") is None
        assert call(cache.contains, "k") is False
        assert call(cache.delete, "k") is False

    def test_set_after_delete_is_kept(self, cache: CacheManager, call: Sync) -> None:
        """The fence that a delete leaves refuses the old, not the new."""
        call(cache.set, "k", 1)
        call(cache.delete, "k")
        call(cache.set, "k", 2)
        assert call(cache.get, "k") == 2
        call(cache.delete, "k")
        assert call(cache.get_or_set, "k", lambda: 3) == 3
        assert call(cache.get, "k") == 3

    def test_multi_operations(self, cache: CacheManager, call: Sync) -> None:
        """`multi_set`, `multi_get` and `multi_delete` do what their single forms do."""
        call(cache.multi_set, {f"k{n}": n for n in range(20)}, 60)
        assert call(cache.multi_get, [f"k{n}" for n in range(25)]) == {f"k{n}": n for n in range(20)}
        assert call(cache.multi_delete, ["k0", "k1", "absent"]) == 2
        assert call(cache.multi_get, ["k0", "k1", "k2"]) == {"k2": 2}
        assert call(cache.multi_get, []) == {}
        assert call(cache.multi_delete, []) == 0

    def test_another_manager_finds_it_below(self, make: Callable[..., CacheManager], call: Sync, stack: str) -> None:
        """A value outlives its process wherever a tier below memory holds it, and memory alone is not shared."""
        first = make()
        call(first.set, "k", {"deep": [1, 2]})
        second = make()
        assert call(second.get, "k") == (None if stack == "memory" else {"deep": [1, 2]})


class TestLoading:
    def test_a_miss_loads_once(self, cache: CacheManager, call: Sync) -> None:
        """`get_or_set` calls the loader for the first reader only."""
        calls: list[int] = []

        def load() -> dict[str, int]:
            calls.append(1)
            return {"n": len(calls)}

        assert call(cache.get_or_set, "k", load) == {"n": 1}
        assert call(cache.get_or_set, "k", load) == {"n": 1}
        assert call(cache.get, "k") == {"n": 1}
        assert len(calls) == 1

    def test_a_loaders_exception_reaches_the_caller(self, cache: CacheManager, call: Sync) -> None:
        """What a loader raises is raised, nothing is stored, and the next call loads again."""

        def fail() -> None:
            raise LookupError("origin")

        with pytest.raises(LookupError, match="origin"):
            call(cache.get_or_set, "k", fail)
        assert call(cache.get_or_set, "k", lambda: 7) == 7

    def test_loader_kinds(self, cache: CacheManager, call: Sync) -> None:
        """An async loader serves async calls, and is refused before anything runs in a sync one."""

        async def load() -> int:
            return 5

        if call.kind == "sync":
            with pytest.raises(TypeError, match="async"):
                call(cache.get_or_set, "k", load)
        else:
            assert call(cache.get_or_set, "k", load) == 5

    def test_a_loader_must_be_callable(self, cache: CacheManager, call: Sync) -> None:
        """A value in the loader's place is refused by name."""
        with pytest.raises(TypeError, match="callable"):
            call(cache.get_or_set, "k", 42)


class TestTime:
    def test_ttl_of(self, cache: CacheManager, call: Sync) -> None:
        """`ttl` tells what is left, infinity for "until invalidated", None for no entry."""
        call(cache.set, "k", 1, 60)
        assert 55 < call(cache.ttl, "k") <= 60
        call(cache.set, "d", 1, timedelta(minutes=2))
        assert 115 < call(cache.ttl, "d") <= 120
        call(cache.set, "e", 1, None)
        assert call(cache.ttl, "e") == math.inf
        assert call(cache.ttl, "absent") is None

    def test_touch(self, cache: CacheManager, call: Sync) -> None:
        """`touch` gives the standing entry a new TTL and keeps its value; it makes none."""
        call(cache.set, "k", "v", 60)
        assert call(cache.touch, "k", 600) is True
        assert call(cache.get, "k") == "v"
        assert 590 < call(cache.ttl, "k") <= 600
        assert call(cache.touch, "absent", 600) is False
        assert call(cache.get, "absent") is None

    @pytest.mark.parametrize("ttl", [0, -1, math.nan])
    def test_no_ttl_that_cannot_be(self, cache: CacheManager, call: Sync, ttl: float) -> None:
        """Zero, negative and NaN are refused, and nothing is stored."""
        with pytest.raises(ValueError, match="ttl"):
            call(cache.set, "k", 1, ttl)
        assert call(cache.get, "k") is None

    @pytest.mark.parametrize(
        ("ttl", "error"), [(0, ValueError), (-0.5, ValueError), (True, TypeError), ("60", TypeError)]
    )
    def test_no_such_ttl_where_the_value_is_cached(
        self, cache: CacheManager, call: Sync, ttl: Any, error: type[Exception]
    ) -> None:
        """A mistake shows with the first call, not with the first miss."""
        call(cache.set, "k", 1)
        for found in ("k", "absent"):
            with pytest.raises(error, match="ttl must be"):
                call(cache.get_or_set, found, int, ttl)

    def test_no_boolean_ttl(self, cache: CacheManager, call: Sync) -> None:
        """True is no number of seconds."""
        with pytest.raises(TypeError, match="ttl"):
            call(cache.set, "k", 1, True)

    def test_a_long_ttl(self, cache: CacheManager, call: Sync) -> None:
        """A TTL of 29 days is kept: no 32-bit millisecond anywhere. One beyond all numbers of seconds is no end."""
        call(cache.set, "k", 1, 29 * 86_400)
        assert call(cache.ttl, "k") > 28 * 86_400
        call(cache.set, "k", 2, 10**400)
        assert call(cache.get, "k") == 2


class TestInvalidation:
    def test_keys(self, cache: CacheManager, call: Sync) -> None:
        """`invalidate_keys` kills these keys and no other."""
        call(cache.multi_set, {"a": 1, "b": 2, "c": 3})
        result = call(cache.invalidate_keys, ["a", "b"])
        assert result.delivered is True
        assert call(cache.multi_get, ["a", "b", "c"]) == {"c": 3}

    def test_tags(self, cache: CacheManager, call: Sync) -> None:
        """A tag kills what carries it, in every region."""
        call(cache.set, "a", 1, tags=["x", "y"])
        call(cache.set, "b", 2, tags=["y"])
        call(cache.set, "c", 3)
        call(cache.set, "a", 4, tags=["x"], region="other")
        call(cache.invalidate_tags, ["x"])
        assert call(cache.multi_get, ["a", "b", "c"]) == {"b": 2, "c": 3}
        assert call(cache.get, "a", region="other") is None

    def test_patterns(self, cache: CacheManager, call: Sync) -> None:
        """A glob kills the keys of the current region that it matches."""
        call(cache.multi_set, {"user:1": 1, "user:2": 2, "post:1": 3})
        call(cache.set, "user:1", 9, region="other")
        call(cache.invalidate_pattern, "user:*")
        assert call(cache.multi_get, ["user:1", "user:2", "post:1"]) == {"post:1": 3}
        assert call(cache.get, "user:1", region="other") == 9
        call(cache.set, "user:1", 5)
        call(cache.invalidate_pattern, "user:[!2]")
        assert call(cache.get, "user:1") is None
        with pytest.raises(ValueError, match="a pattern must not be empty"):
            call(cache.invalidate_pattern, "")

    def test_scopes(self, cache: CacheManager, call: Sync) -> None:
        """A scope kills itself and all below it, and no other scope."""
        org = {"org_id": "1"}
        call(cache.set, "k", "org", scope="organization", **org)
        call(cache.set, "k", "user", scope="user", user_id="7", **org)
        call(cache.set, "k", "other", scope="organization", org_id="2")
        call(cache.set, "k", "root")
        call(cache.evict_by_scope, "organization", org_id="1")
        assert call(cache.get, "k", scope="organization", **org) is None
        assert call(cache.get, "k", scope="user", user_id="7", **org) is None
        assert call(cache.get, "k", scope="organization", org_id="2") == "other"
        assert call(cache.get, "k") == "root"

    def test_clear(self, cache: CacheManager, call: Sync) -> None:
        """`clear(region)` kills one region, `clear()` everything."""
        call(cache.set, "k", 1)
        call(cache.set, "k", 2, region="other")
        call(cache.clear, "other")
        assert call(cache.get, "k") == 1
        assert call(cache.get, "k", region="other") is None
        call(cache.clear)
        assert call(cache.get, "k") is None

    def test_what_is_loaded_after_lives(self, cache: CacheManager, call: Sync) -> None:
        """An invalidation kills what was, not what is loaded after it."""
        call(cache.set, "k", 1, tags=["t"])
        call(cache.invalidate_tags, ["t"])
        assert call(cache.get_or_set, "k", lambda: 2, tags=["t"]) == 2
        assert call(cache.get, "k") == 2

    def test_count(self, cache: CacheManager, call: Sync, stack: str) -> None:
        """`count=True` tells how many entries were really dropped here."""
        call(cache.multi_set, {f"k{n}": n for n in range(5)}, tags=["t"])
        call(cache.set, "other", 1, tags=["another"])
        call(cache.invalidate_tags, ["another"])  # which is not counted with what follows
        result = call(cache.invalidate_tags, ["t"], count=True)
        per_tier = {"memory": 5, "memory+disk": 10, "memory+redis": 5, "memory+disk+redis": 10, "disk": 5, "redis": 0}
        assert result.removed == per_tier[stack]
        assert call(cache.invalidate_tags, ["t"]).removed is None

    @pytest.mark.parametrize("followed", [False, True], ids=["at once", "after the tiers dropped it"])
    def test_count_of_keys(
        self, cache: CacheManager, call: Sync, stack: str, followed: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Keys count where they lay, whether or not the disk has followed the log before it is walked."""
        call(cache.multi_set, {f"k{n}": n for n in range(5)})
        if followed:
            follow_the_log(cache, monkeypatch)
        copies = len({"memory", "disk"} & set(stack.split("+")))
        assert call(cache.invalidate_keys, ["k0", "k1", "k1", "absent"], count=True).removed == 2 * copies
        assert call(cache.invalidate_pattern, "k2", count=True).removed == copies
        assert call(cache.invalidate_keys, ["k0"], count=True).removed == 0
        assert call(cache.invalidate_keys, ["k3"], soft=True, count=True).removed == 0

    def test_count_of_what_a_process_does_first(
        self, make: Callable[..., CacheManager], call: Sync, stack: str
    ) -> None:
        """What was dead on disk before this process began is not counted either."""
        cache = make()
        call(cache.multi_set, {f"k{n}": n for n in range(5)}, tags=["before"])
        call(cache.multi_set, {f"l{n}": n for n in range(3)}, tags=["t"])
        call(cache.invalidate_tags, ["before"])
        call(cache.close)
        assert call(make().invalidate_tags, ["t"], count=True).removed == (3 if "disk" in stack else 0)

    def test_count_where_the_log_first_does_not_answer(
        self, make: Callable[..., CacheManager], call: Sync, stack: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A process that could not start at once does not count either what was dead on disk before it."""
        cache = make()
        call(cache.set, "old", 1, tags=["before"])
        call(cache.set, "k", 1, tags=["t"])
        call(cache.invalidate_tags, ["before"])
        call(cache.close)
        late = make()
        log, slow = late._runtime.log, [LogUnavailable("slow"), LogUnavailable("slow")]
        beat = log.beat

        def at_last(said: Beat) -> Plan[Pulse]:
            if slow:
                raise slow.pop()
            return (yield from beat(said))

        monkeypatch.setattr(log, "beat", at_last)
        monkeypatch.setattr(late._runtime.listener, "start", bool)  # which would start it meanwhile
        assert call(late.invalidate_tags, ["t"], count=True).removed == (1 if "disk" in stack else 0)
        assert not slow

    def test_tag_cache_key(self, cache: CacheManager, call: Sync) -> None:
        """Tags may be added later to an entry that stands, and never make one."""
        call(cache.set, "k", 1, tags=["a"])
        assert call(cache.tag_cache_key, "k", ["late"]) is True
        assert call(cache.get, "k") == 1
        call(cache.invalidate_tags, ["late"])
        assert call(cache.get, "k") is None
        assert call(cache.tag_cache_key, "k", ["late"]) is False

    def test_as_of(self, cache: CacheManager, call: Sync) -> None:
        """`set(as_of=…)` stores only where nothing invalidated the key since."""
        position = call(cache.position)
        call(cache.set, "k", "fresh", as_of=position)
        assert call(cache.get, "k") == "fresh"
        position = call(cache.position)
        call(cache.invalidate_keys, ["k"])
        call(cache.set, "k", "stale", as_of=position)
        assert call(cache.get, "k") is None

    @pytest.mark.parametrize("token", [("x", "y"), (1, 2), ("x",), "xy", 3])
    def test_as_of_takes_what_position_gave(self, cache: CacheManager, call: Sync, token: Any) -> None:
        """Anything else is refused before anything is appended."""
        position = call(cache.position)
        with pytest.raises(TypeError, match="position\\(\\) returned"):
            call(cache.set, "k", 1, as_of=token)
        assert call(cache.position) == position

    def test_purge(self, cache: CacheManager, call: Sync, stack: str) -> None:
        """`purge` removes physically, in every tier, and counts per tier."""
        call(cache.multi_set, {f"user:{n}": n for n in range(3)})
        call(cache.set, "post", 1)
        counts = call(cache.purge, pattern="user:*")
        names = {"memory": "local", "disk": "disk", "redis": "remote"}
        assert counts == {names[part]: 3 for part in stack.split("+")}
        assert call(cache.get, "user:0") is None
        assert call(cache.get, "post") == 1

    def test_purge_of_one_key(self, cache: CacheManager, call: Sync, stack: str) -> None:
        """A pattern without wildcards is one key, which counts like any other."""
        call(cache.multi_set, {"user:1": 1, "user:12": 1})
        names = {"memory": "local", "disk": "disk", "redis": "remote"}
        assert call(cache.purge, pattern="user:1") == {names[part]: 1 for part in stack.split("+")}
        assert call(cache.multi_get, ["user:1", "user:12"]) == {"user:12": 1}

    def test_purge_of_one_key_that_the_tiers_drop_by_themselves(
        self, cache: CacheManager, call: Sync, stack: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What follows the log in the background comes before the walk: the entry counts as removed nevertheless."""
        call(cache.set, "k", 1)
        follow_the_log(cache, monkeypatch)
        names = {"memory": "local", "disk": "disk", "redis": "remote"}
        assert call(cache.purge, pattern="k") == {names[part]: 1 for part in stack.split("+")}

    def test_purge_appends_like_the_rest(self, cache: CacheManager, call: Sync) -> None:
        """A purge waits for the barrier and for delivery as whatever appends does."""
        call(cache.set, "k", 1)
        counts = call(cache.purge, pattern="k", barrier=5.0, require_delivery=True)
        assert set(counts.values()) == {1}
        assert call(cache.get, "k") is None


class TestRegionsAndScopes:
    def test_regions_do_not_meet(self, cache: CacheManager, call: Sync) -> None:
        """A key of one region is not a key of another."""
        call(cache.set, "k", 1)
        call(cache.set, "k", 2, region="b")
        assert call(cache.get, "k") == 1
        assert call(cache.get, "k", region="b") == 2
        call(cache.delete, "k")
        assert call(cache.get, "k", region="b") == 2

    def test_cache_context(self, cache: CacheManager, call: Sync) -> None:
        """Inside `cache_context` the region is the current one."""
        with cache.cache_context("short"):
            call(cache.set, "k", 1)
        assert call(cache.get, "k") is None
        assert call(cache.get, "k", region="short") == 1

    def test_scoped_view(self, cache: CacheManager, call: Sync) -> None:
        """A view has the same operations, confined to its scope, tags included."""
        one = cache.scoped("user", org_id="o1", user_id="u1")
        two = cache.scoped("user", org_id="o1", user_id="u2")
        call(one.set, "k", 1, tags=["t"])
        call(two.set, "k", 2, tags=["t"])
        assert call(one.get, "k") == 1
        assert call(cache.scoped(scope="user", org_id="o1", user_id="u1").get, "k") == 1
        assert call(cache.get, "k", scope="user", org_id="o1", user_id="u1") == 1
        assert call(cache.get, "k") is None
        call(one.invalidate_tags, ["t"])
        assert call(one.get, "k") is None
        assert call(two.get, "k") == 2
        call(one.set, "k", 3)
        call(one.clear)
        assert call(one.get, "k") is None
        assert call(two.get, "k") == 2
        call(cache.invalidate_tags, ["t"])
        assert call(two.get, "k") is None
        with pytest.raises(ScopeError):
            call(one.get, "k", org_id="o2")
        with pytest.raises(UnknownKeyword, match="did you mean 'ttl'"):
            call(one.set, "k", 1, ttl_seconds=5)

    def test_a_scope_confines_every_invalidation(self, cache: CacheManager, call: Sync) -> None:
        """Tags and `clear` take scope parameters as a view of that scope would: it, and all below it."""
        places: tuple[dict[str, Any], ...] = ({}, {"org_id": "1"}, {"org_id": "1", "user_id": "7"}, {"org_id": "12"})
        for invalidate in (
            lambda: call(cache.invalidate_tags, ["t"], scope="organization", org_id="1"),
            lambda: call(cache.invalidate_tags, ["t"], org_id="1", region="default"),
            lambda: call(cache.clear, org_id="1"),
            lambda: call(cache.clear, "default", scope="organization", org_id="1"),
        ):
            for place in places:
                call(cache.set, "k", 1, tags=["t"], **place)
            assert invalidate().delivered
            assert [call(cache.get, "k", **place) for place in places] == [1, None, None, 1]
        with pytest.raises(ScopeError, match="user_id"):
            call(cache.invalidate_tags, ["t"], scope="user", org_id="1")

    @pytest.mark.parametrize(
        ("operation", "arguments"),
        [
            ("invalidate_tags", (["t"],)), ("clear", ()), ("handle_event", ("e", {})), ("invalidate_entity", ("e", 1)),
            ("invalidate_keys", (["k"],)), ("evict_by_scope", ("tenant",)), ("get", ("k",)), ("purge", ()),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize(
        ("unknown", "nearest"), [("regin", "region"), ("tenant", "tenant_id"), ("barier", "barrier")]
    )
    def test_an_unknown_keyword_names_the_nearest(
        self, cache: CacheManager, call: Sync, operation: str, arguments: tuple[Any, ...], unknown: str, nearest: str
    ) -> None:
        """A misspelt keyword is a TypeError that says what was meant, whatever the operation."""
        with pytest.raises(TypeError, match=f"'{nearest}'"):
            call(getattr(cache, operation), *arguments, **{unknown: "x"})

    @pytest.mark.parametrize("odd", ["1/user:2", "*", "..\x00", "%2F", "a:b", "a|b", 7, UUID(int=5)])
    def test_odd_ids_are_only_odd(self, cache: CacheManager, call: Sync, odd: Any) -> None:
        """No id reaches another scope."""
        call(cache.set, "k", "mine", org_id=odd)
        call(cache.set, "k", "theirs", org_id="1")
        call(cache.set, "k", "user", org_id="1", user_id="2")
        assert call(cache.get, "k", org_id=odd) == "mine"
        call(cache.evict_by_scope, "organization", org_id=odd)
        assert call(cache.get, "k", org_id=odd) is None
        assert call(cache.get, "k", org_id="1") == "theirs"
        assert call(cache.get, "k", org_id="1", user_id="2") == "user"

    def test_scope_errors(self, cache: CacheManager, call: Sync) -> None:
        """Missing, surplus, empty and None scope parameters are refused by name, and nothing is stored."""
        for params in (
            {"scope": "user", "org_id": "1"},
            {"scope": "organization", "org_id": ""},
            {"scope": "organization", "org_id": None},
            {"scope": "organization", "org_id": "1", "tenant_id": "2"},
            {"scope": "organisation", "org_id": "1"},
        ):
            with pytest.raises(ScopeError):
                call(cache.set, "k", 1, **params)


class TestKeys:
    @pytest.mark.parametrize(
        "key", ["a", "a b", "a\nb\x00c", "ключ", "\ud800", "x" * 5_000, "user:{1}", "*?[a]", "%2F", "a|b", "🦉"]
    )
    def test_any_text_is_a_key(self, cache: CacheManager, call: Sync, key: str) -> None:
        """Any Unicode, any length and any control character works in every tier."""
        call(cache.set, key, "v")
        assert call(cache.get, key) == "v"
        assert call(cache.delete, key) is True

    def test_no_key_that_is_no_text(self, cache: CacheManager, call: Sync) -> None:
        """A key that is no str is a TypeError naming it, an empty one a ValueError."""
        for wrong in (1, None, b"k", ("a",)):
            with pytest.raises(TypeError, match="key"):
                call(cache.get, wrong)
            with pytest.raises(TypeError, match="key"):
                call(cache.set, wrong, 1)
        with pytest.raises(ValueError, match="key"):
            call(cache.set, "", 1)

    def test_one_string_is_not_several(self, cache: CacheManager, call: Sync) -> None:
        """A lone string where several keys or tags are meant is refused."""
        with pytest.raises(TypeError):
            call(cache.multi_get, "abc")
        with pytest.raises(TypeError):
            call(cache.invalidate_tags, "abc")


class TestSurvival:
    @pytest.mark.parametrize("barrier", [0, -1, "5", math.nan])
    def test_no_barrier_that_cannot_be(self, cache: CacheManager, call: Sync, barrier: Any) -> None:
        """It is refused before anything is done: what is not waited for is not half done either."""
        call(cache.set, "k", "old", tags=("t",))
        position = call(cache.position)
        for operation, *arguments in (
            (cache.set, "k", "new"), (cache.multi_set, {"k": "new"}), (cache.delete, "k"), (cache.multi_delete, ["k"]),
            (cache.touch, "k", 5), (cache.tag_cache_key, "k", ["u"]), (cache.invalidate_keys, ["k"]),
            (cache.invalidate_pattern, "*"), (cache.invalidate_tags, ["t"]), (cache.clear,),
        ):  # fmt: skip
            with pytest.raises((TypeError, ValueError), match="barrier must be"):
                call(operation, *arguments, barrier=barrier)
        with pytest.raises((TypeError, ValueError), match="barrier must be"):
            call(cache.purge, tags=["t"], barrier=barrier)
        assert call(cache.position) == position
        assert call(cache.get, "k") == "old"

    def test_what_is_no_collection(self, cache: CacheManager, call: Sync) -> None:
        """One thing where several are meant is a TypeError that says what was meant."""
        for operation, argument, says in (
            (cache.multi_set, [("k", 1)], "a mapping from keys to values, not a list"),
            (cache.multi_get, 5, "keys must be several str, not 5"),
            (cache.invalidate_keys, None, "keys must be several str, not None"),
            (cache.invalidate_tags, 5, "tags must be a sequence of str, not 5"),
        ):
            with pytest.raises(TypeError, match=re.escape(says)):
                call(operation, argument)

    def test_what_would_not_survive_is_refused(self, cache: CacheManager, call: Sync, stack: str) -> None:
        """A value that a tier below cannot give back is refused with its path; the old entry is untouched."""
        call(cache.set, "k", {"old": 1})
        if stack == "memory":
            marker = object()
            call(cache.set, "k", marker)
            assert call(cache.get, "k") is marker
            return
        with pytest.raises(SerializationError, match="inner"):
            call(cache.set, "k", {"inner": [object()]})
        assert call(cache.get, "k") == {"old": 1}

    def test_types_survive(self, make: Callable[..., CacheManager], call: Sync) -> None:
        """What comes back from any tier is equal and of the same type."""
        value = {"t": (1, 2), "s": {1, 2}, "b": b"\x00", "u": UUID(int=7), "f": 1.0, "i": 2**80, "n": {1: "x"}}
        first = make()
        call(first.set, "k", value)
        for manager in (first, make()):
            got = call(manager.get, "k", value)
            assert got == value
            assert {name: type(part) for name, part in got.items()} == {
                name: type(part) for name, part in value.items()
            }


class TestClosing:
    def test_coherence_takes_durations(self, cache: CacheManager, call: Sync) -> None:
        """`start` and `settle` wait for seconds or a timedelta, as every operation does."""
        call(cache.coherence.start, timedelta(seconds=5))
        call(cache.coherence.settle, timedelta(seconds=5))
        call(cache.coherence.settle, 5)
        assert call(cache.coherence.status).proven

    @pytest.mark.parametrize(
        ("timeout", "error"), [("5", TypeError), (None, TypeError), (-1, ValueError), (math.nan, ValueError)]
    )
    def test_coherence_refuses_what_is_no_duration(
        self, cache: CacheManager, call: Sync, timeout: Any, error: type[Exception]
    ) -> None:
        """NaN most of all, which no clock ever passes."""
        for operation in (cache.coherence.start, cache.coherence.settle):
            with pytest.raises(error, match="timeout must be"):
                call(operation, timeout)

    def test_use_after_close_raises(self, cache: CacheManager, call: Sync) -> None:
        """A closed manager refuses to work, and closing twice is nothing."""
        call(cache.set, "k", 1)
        call(cache.close)
        with pytest.raises(RuntimeError, match="closed"):
            call(cache.get, "k")
        call(cache.close)

    async def test_a_closed_manager_is_not_entered(self, cache: CacheManager) -> None:
        """`with` says so at once, and starts nothing."""
        with cache:
            pass
        with pytest.raises(ManagerClosed, match="closed"):
            cache.__enter__()
        with pytest.raises(ManagerClosed, match="closed"):
            await cache.__aenter__()


def test_a_region_alone_on_redis_is_coherent(redis_url: str) -> None:
    """Where only one region has Redis, its entries are shared, and invalidations of every region travel."""
    regions = {"shared": {"distributed": {"connection_string": redis_url}}}
    with CacheManager(CacheConfig(regions=regions)) as one, CacheManager(CacheConfig(regions=regions)) as other:
        one.set("k", 1, region="shared")
        assert other.get("k", region="shared") == 1
        one.set("k", "mine")
        other.set("k", "another's", tags=["t"], barrier=5.0)
        assert (one.get("k"), other.get("k")) == (None, "another's")
        one.invalidate_tags(["t"], barrier=5.0)
        assert other.get("k") is None
