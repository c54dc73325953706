"""Time: jitter, sliding, TTLs of every kind, and what no TTL may be; in every tier."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from stacks import STACKS, Async, Sync, config_of, patient
from tiercast import (
    CacheConfig,
    CacheManager,
    LocalCacheConfig,
    TimeBasedInvalidation,
    cached,
)
from tiercast.plans import drive
from tiercast.testing import FakeClock
from tiercast.tiers.entry import Address

DAY = 86_400.0
Make = Callable[..., CacheManager]


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Iterator[Sync | Async]:
    call = Sync() if request.param == "sync" else Async()
    yield call
    call.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=STACKS)
def stack(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(request: pytest.FixtureRequest, stack: str, tmp_path: Path, clock: FakeClock) -> Iterator[Make]:
    url = request.getfixturevalue("redis_url") if "redis" in stack else None
    managers: list[CacheManager] = []

    def make(**more: Any) -> CacheManager:
        managers.append(CacheManager(config_of(stack, tmp_path / "cache", url, **more), clock=clock))
        return managers[-1]

    yield make
    for manager in managers:
        manager.close()


def deadlines(cache: CacheManager, keys: list[str], clock: FakeClock) -> dict[str, list[float]]:
    """How long each tier will serve each key, in seconds from now."""
    runtime, now = cache._runtime, clock.wall()
    found: dict[str, list[float]] = {}
    if runtime.default.memory is not None:
        entries = [runtime.default.memory.entries[key] for key in keys]
        found["memory"] = [entry.expires - clock.monotonic() for entry in entries]
    epoch, _ = runtime.coherence.position()
    addresses = [Address("default", "", key) for key in keys]
    stores: list[Any] = [*runtime.disks(), *filter(None, [runtime.remote])]
    for store in stores:
        envelopes = drive(store.get_many(addresses, epoch)).found
        found[store.name] = [envelopes[address].fresh_until - now for address in addresses]
    if runtime.connections is not None:
        remote: Any = runtime.remote
        names = [remote.key_of(address, epoch) for address in addresses]
        found["PTTL"] = [left / 1000 for left in runtime.connections.execute([("PTTL", name) for name in names])]
    return found


# Jitter


@pytest.mark.parametrize("way", ["set", "multi_set", "get_or_set", "per call"])
def test_jitter_is_applied_to_every_stored_ttl(make: Make, call: Sync, clock: FakeClock, way: str) -> None:
    """In every tier, deadlines are spread evenly over ± 20 %, drawn once an entry, whatever stored it."""
    cache = make(invalidation=[TimeBasedInvalidation(default_ttl=1000, ttl_jitter=0.2)])
    keys = [f"k{number}" for number in range(250)]
    began = time.monotonic()
    if way == "multi_set":
        call(cache.multi_set, dict.fromkeys(keys, 1))
    for key in keys if way != "multi_set" else ():
        if way == "set":
            call(cache.set, key, 1)
        elif way == "per call":
            call(cache.set, key, 1, timedelta(seconds=1000))
        else:
            call(cache.get_or_set, key, lambda: 1)
    found = deadlines(cache, keys, clock)
    real = time.monotonic() - began  # by which Redis's own clock has moved
    first = next(iter(found.values()))
    for tier, lefts in found.items():
        if tier == "PTTL" and way != "get_or_set":
            # Redis keeps a key at least as long as its fence; what is served is judged by the deadline.
            assert all(left >= 600 for left in lefts)
            continue
        assert all(799.9 - real <= left <= 1200.1 for left in lefts), tier
        fifths = [sum(int((min(max(left, 800), 1199.9) - 800) / 80) == fifth for left in lefts) for fifth in range(5)]
        assert all(25 <= count <= 80 for count in fifths), (tier, fifths)  # 50 each; six standard deviations
        assert all(abs(one - other) < 1.5 + real for one, other in zip(lefts, first, strict=True)), (
            "another draw for each tier"
        )


@pytest.mark.parametrize("ttl", [1000, 5000])
def test_a_tiers_own_ttl_is_jittered_too(redis_url: str, tmp_path: Path, clock: FakeClock, ttl: int) -> None:
    """Neither a TTL of the cap's own length nor a longer one ends at the cap, where all that was stored together would."""
    config = CacheConfig(
        ttl=ttl,
        ttl_jitter=0.2,
        local=LocalCacheConfig(ttl=1000),
        disk=LocalCacheConfig(type="file", directory=tmp_path / "c", ttl=1000),
        distributed=patient(redis_url, ttl=1000),
    )
    keys = [f"k{number}" for number in range(250)]
    began = time.monotonic()
    with CacheManager(config, clock=clock) as cache:
        for key in keys:
            cache.get_or_set(key, lambda: 1)
        found = deadlines(cache, keys, clock)
        memory = cache._runtime.default.memory
        assert memory is not None
        found["memory"] = [
            min(entry.expires, entry.capped) - clock.monotonic() for entry in map(memory.entries.__getitem__, keys)
        ]
    real = time.monotonic() - began
    found.pop("remote")  # the deadline that is written there is the entry's own; the key's expiry is the tier's
    assert found.keys() == {"memory", "disk", "PTTL"}
    for tier, lefts in found.items():
        assert all(799.9 - real <= left <= 1200.1 for left in lefts), tier
        fifths = [sum(int((min(max(left, 800), 1199.9) - 800) / 80) == fifth for left in lefts) for fifth in range(5)]
        assert all(25 <= count <= 80 for count in fifths), (tier, fifths)


def test_without_jitter_every_deadline_is_the_ttl(make: Make, call: Sync, clock: FakeClock) -> None:
    """The default is no jitter, and `ttl=None` has no end to be moved."""
    cache = make(ttl=100)
    call(cache.set, "k", 1)
    assert all(abs(lefts[0] - 100) < 0.1 for tier, lefts in deadlines(cache, ["k"], clock).items() if tier != "PTTL")
    jittery = make(name="other", invalidation=[TimeBasedInvalidation(ttl_jitter=0.5)])
    call(jittery.set, "k", 1, None)
    assert call(jittery.ttl, "k") == math.inf


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_forked_workers_draw_their_own_jitter() -> None:
    """Children of one warm parent do not all expire together."""
    with CacheManager(CacheConfig(invalidation=[TimeBasedInvalidation(ttl_jitter=0.5)])) as cache:
        cache.set("k", 1)
        drawn = []
        for _ in range(3):
            reader, writer = os.pipe()
            pid = os.fork()
            if pid == 0:  # pragma: no cover
                os.write(writer, str(cache._runtime.default.lifetime(100.0)).encode())
                os._exit(0)
            os.waitpid(pid, 0)
            drawn.append(os.read(reader, 100))
            os.close(reader)
            os.close(writer)
    assert len(set(drawn)) == 3


# Deadlines


def test_an_entry_ends_with_its_ttl(make: Make, call: Sync, clock: FakeClock) -> None:
    """Per call, per region and by default; served until then and not after, and the loader is asked again."""
    cache = make(ttl=100, regions={"short": {"ttl": 10}})
    call(cache.set, "default", 1)
    call(cache.set, "call", 1, 50)
    call(cache.set, "region", 1, region="short")
    for seconds, alive in (
        (9, {"default", "call", "region"}),
        (2, {"default", "call"}),
        (40, {"default"}),
        (50, set()),
    ):
        clock.advance(seconds)
        cache.coherence.settle()
        found = set(call(cache.multi_get, ["default", "call"])) | set(call(cache.multi_get, ["region"], region="short"))
        assert found == alive
    assert call(cache.get_or_set, "default", lambda: "anew") == "anew"


def test_where_memory_is_all_its_own_ttl_ends_every_entry(call: Sync, clock: FakeClock) -> None:
    """Also one that lives until it is invalidated, of which `ttl` says so, and one that reads renew."""
    with CacheManager(CacheConfig(ttl=20, sliding=True, local=LocalCacheConfig(ttl=10)), clock=clock) as cache:
        call(cache.set, "read", 1)
        call(cache.set, "forever", 1, None)
        assert 9 < call(cache.ttl, "forever") <= 10
        for _ in range(4):
            clock.advance(2.4)
            cache.coherence.settle()
            assert [call(cache.get, key) for key in ("read", "forever")] == [1, 1]
        assert call(cache.ttl, "read") == call(cache.ttl, "forever") == pytest.approx(0.4)
        clock.advance(0.5)
        cache.coherence.settle()
        assert call(cache.multi_get, ["read", "forever"]) == {}


def test_until_invalidated_is_bounded_by_max_lifetime(make: Make, call: Sync, clock: FakeClock) -> None:
    """`ttl=None` has no end that `ttl` tells, and ends all the same with the region's `max_lifetime`; so does any longer TTL."""
    cache = make(ttl=100, max_lifetime=1000)
    call(cache.set, "k", 1, None)
    call(cache.set, "long", 1, 40 * DAY)
    assert call(cache.ttl, "k") == math.inf
    clock.advance(990)
    cache.coherence.settle()
    assert call(cache.multi_get, ["k", "long"]) == {"k": 1, "long": 1}
    clock.advance(11)
    cache.coherence.settle()
    assert call(cache.multi_get, ["k", "long"]) == {}


@pytest.mark.parametrize("days", [24.9, 25, 29, 49.8])
def test_ttls_of_weeks_are_kept(make: Make, call: Sync, clock: FakeClock, days: float) -> None:
    """No 32-bit count of milliseconds anywhere (those end after 24.86 and 49.7 days)."""
    cache = make(max_lifetime=60 * DAY)
    call(cache.set, "k", 1, days * DAY)
    clock.advance((days - 0.5) * DAY)
    cache.coherence.settle()
    runtime = cache._runtime
    if runtime.default.memory is not None or runtime.disks():
        assert call(cache.get, "k") == 1
    assert all(lefts[0] > 0 for tier, lefts in deadlines(cache, ["k"], clock).items() if tier not in ("PTTL", "remote"))


@pytest.mark.parametrize("days", [24.9, 49.8])
def test_ttls_of_weeks_reach_redis(redis_url: str, call: Sync, days: float) -> None:
    """As the expiry of the key itself, where the tier's own `ttl` (an hour, if nothing is said) allows it."""
    remote = patient(redis_url, ttl=60 * DAY)
    cache = CacheManager(CacheConfig(distributed=remote, max_lifetime=60 * DAY))
    call(cache.set, "set", 1, days * DAY)
    call(cache.get_or_set, "loaded", lambda: 1, timedelta(days=days))
    runtime: Any = cache._runtime
    names = [runtime.remote.key_of(Address("default", "", key), cache.position().epoch) for key in ("set", "loaded")]
    lefts = runtime.connections.execute([("PTTL", name) for name in names])
    call(cache.close)
    assert all(abs(left / 1000 - days * DAY) < 60 for left in lefts)


@pytest.mark.parametrize("ttl", [0, -1, -0.5, math.nan, timedelta(0), timedelta(seconds=-1)])
def test_a_ttl_that_cannot_be_is_a_value_error(make: Make, call: Sync, ttl: Any) -> None:
    """Wherever one is given: nothing is stored, loaded or appended."""
    cache = make()
    position = call(cache.position)
    loads: list[int] = []
    for operation, *args in (
        (cache.set, "k", 1, ttl), (cache.multi_set, {"k": 1}, ttl), (cache.touch, "k", ttl),
        (cache.get_or_set, "k", lambda: loads.append(1), ttl),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="greater than 0"):
            call(operation, *args)
    for decorator in (cached, cache.cached):
        with pytest.raises(ValueError, match="greater than 0"):
            decorator(ttl=ttl)
    assert loads == []
    assert call(cache.position) == position


@pytest.mark.parametrize("ttl", [True, "60", [60], 1j])
def test_a_ttl_that_is_none_is_a_type_error(make: Make, call: Sync, ttl: Any) -> None:
    """Neither a bool nor text counts as seconds."""
    cache = make()
    for operation, *args in (
        (cache.set, "k", 1, ttl),
        (cache.get_or_set, "k", lambda: 1, ttl),
        (cache.touch, "k", ttl),
    ):
        with pytest.raises(TypeError, match="ttl"):
            call(operation, *args)


# Sliding


def test_reads_keep_a_sliding_entry_alive(make: Make, call: Sync, clock: FakeClock) -> None:
    """Read every half TTL it lives on, in the tiers below too; unread it ends."""
    cache = make(ttl=100, invalidation=[TimeBasedInvalidation(default_ttl=100, ttl_jitter=0, sliding=True)])
    call(cache.set, "read", 1)
    call(cache.set, "unread", 1)
    for _ in range(5):
        clock.advance(50)
        cache.coherence.settle()
        assert call(cache.get, "read") == 1
    assert call(cache.get, "unread") is None
    assert all(lefts[0] > 89 for tier, lefts in deadlines(cache, ["read"], clock).items() if tier != "PTTL")
    clock.advance(101)
    cache.coherence.settle()
    assert call(cache.get, "read") is None


def test_sliding_is_bounded_by_max_lifetime(make: Make, call: Sync, clock: FakeClock) -> None:
    """However often it is read, and in every tier."""
    cache = make(ttl=100, sliding=True, max_lifetime=250)
    call(cache.set, "k", 1)
    for _ in range(4):
        clock.advance(60)
        cache.coherence.settle()
        assert call(cache.get, "k") == 1
    assert all(lefts[0] <= 10.1 for tier, lefts in deadlines(cache, ["k"], clock).items() if tier != "PTTL")
    clock.advance(11)
    cache.coherence.settle()
    assert call(cache.get, "k") is None


def test_sliding_writes_below_once_a_tenth_of_the_ttl_at_the_most(
    make: Make, call: Sync, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand reads in one TTL renew the entry below ten times, not a thousand."""
    cache = make(ttl=100, sliding=True)
    runtime = cache._runtime
    renewals: dict[str, int] = {}
    stores: list[Any] = [*runtime.disks(), *filter(None, [runtime.remote])]
    for store in stores:
        renew = store.renew

        def counted(*args: Any, name: str = store.name, renew: Any = renew) -> Any:
            renewals[name] = renewals.get(name, 0) + 1
            return renew(*args)

        monkeypatch.setattr(store, "renew", counted)
    call(cache.set, "k", 1)
    for _ in range(200):
        clock.advance(0.5)
        if not cache.coherence.status().proven:
            cache.coherence.settle()
        for _ in range(5):
            assert call(cache.get, "k") == 1
    assert all(8 <= count <= 10 for count in renewals.values()), renewals
    assert renewals.keys() == {store.name for store in stores}


def test_a_sliding_read_renews_what_was_read_and_nothing_newer(make: Make, call: Sync, clock: FakeClock) -> None:
    """An entry that was replaced or invalidated meanwhile does not come back by a read of its copy."""
    cache = make(ttl=100, sliding=True)
    call(cache.set, "k", "old", tags=["t"])
    clock.advance(50)
    cache.coherence.settle()
    assert call(cache.get, "k") == "old"
    call(cache.invalidate_tags, ["t"])
    assert call(cache.get, "k") is None
    call(cache.set, "k", "new")
    clock.advance(50)
    cache.coherence.settle()
    assert call(cache.get, "k") == "new"


def test_a_tiers_own_ttl_only_caps_that_tier(tmp_path: Path, clock: FakeClock) -> None:
    """Memory that keeps entries 10 seconds finds them on the disk again, with what is left of their life."""
    config = CacheConfig(
        ttl=100, local=LocalCacheConfig(ttl=10), disk=LocalCacheConfig(type="file", directory=tmp_path / "c")
    )
    with CacheManager(config, clock=clock) as cache:
        cache.set("k", 1)
        clock.advance(11)
        cache.coherence.settle()
        assert cache.get("k") == 1
        assert 88 < cache.ttl("k") <= 89.1  # type: ignore[operator]
        clock.advance(90)
        cache.coherence.settle()
        assert cache.get("k") is None


def test_a_disks_own_ttl_caps_what_it_keeps(tmp_path: Path, clock: FakeClock) -> None:
    """By region, where they share a directory; memory above it keeps its own copy to its end."""
    disk = LocalCacheConfig(type="file", directory=tmp_path / "c", ttl=10)
    config = CacheConfig(ttl=100, disk=disk, regions={"long": {"ttl": 100, "disk": {"ttl": 50}}})
    with CacheManager(config, clock=clock) as cache:
        runtime = cache._runtime
        for key, region in (("above", None), ("below", None), ("long", "long")):
            cache.set(key, 1, region=region)
        for name in (None, "long"):
            memory = runtime.region(name).memory
            assert memory is not None
            for key in ("below", "long"):
                memory.pop(key)
        clock.advance(11)
        cache.coherence.settle()
        assert (cache.get("above"), cache.get("below"), cache.get("long", region="long")) == (1, None, 1)
        assert 88 < (cache.ttl("above") or 0) < 90
        clock.advance(40)
        cache.coherence.settle()
        assert cache.get("long", region="long") is None


def test_redis_lets_go_by_itself(redis_url: str, tmp_path: Path) -> None:
    """A fill's key in Redis ends with its deadline, by Redis's own clock."""
    with CacheManager(config_of("redis", tmp_path, redis_url)) as cache:
        assert cache.get_or_set("k", lambda: 1, 0.2) == 1
        runtime: Any = cache._runtime
        name = runtime.remote.key_of(Address("default", "", "k"), cache.position().epoch)
        (left,) = runtime.connections.execute([("PTTL", name)])
        assert 0 < left <= 200
        time.sleep(0.25)
        assert runtime.connections.execute([("EXISTS", name)]) == [0]
