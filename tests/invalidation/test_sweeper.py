"""The sweeper: what is dead goes, what protects stays, and a stamp goes when nothing needs it any more."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from servers import RedisServer, wait_until
from stacks import STACKS, Async, Sync, config_of
from tiercast import CacheManager, CoherenceConfig, InvalidationError, sweeper
from tiercast.coherence.fleet import Fleet
from tiercast.plans import drive
from tiercast.testing import FakeClock
from tiercast.tiers.base import Guard, Put
from tiercast.tiers.entry import Address

FENCE = CoherenceConfig().fence
DAY = 86_400.0


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Iterator[Sync | Async]:
    call = Sync() if request.param == "sync" else Async()
    yield call
    call.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def make(stack: str, directory: Path, url: str | None, clock: FakeClock | None = None, **more: Any) -> CacheManager:
    return CacheManager(config_of(stack, directory / "cache", url, **more), clock=clock)


@pytest.fixture(params=STACKS)
def cache(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> Iterator[CacheManager]:
    url = request.getfixturevalue("redis_url") if "redis" in request.param else None
    with make(request.param, tmp_path, url, clock) as cache:
        # Whoever begins to listen may have to give up what memory holds; what is swept is not about that.
        cache.coherence.start(20.0)
        cache.coherence.settle(20.0)
        yield cache


def stacks(*names: str) -> pytest.MarkDecorator:
    """Only with these stacks."""
    return pytest.mark.parametrize("cache", names, indirect=True)


IN_SIGHT = tuple(stack for stack in STACKS if stack != "memory+disk+redis")
"""Where one process sees every store that there is; for the other see test_disks_of_a_fleet_keep_its_stamps."""


def stored(cache: CacheManager) -> dict[str, set[str]]:
    """The keys that each tier really holds; no tombstones."""
    runtime = cache._runtime
    found: dict[str, set[str]] = {}
    if runtime.default.memory is not None:
        found["local"] = {str(key) for key, _ in runtime.default.memory.items()}
    stores: list[Any] = [*runtime.disks(), *filter(None, [runtime.remote])]
    for store in stores:
        rows = drive(store.scan(runtime.coherence.position()[0], 0, 10_000))[1]
        found[store.name] = {address.key for address, _ in rows}
    return found


def stamps(cache: CacheManager) -> int:
    """How many stamps the log holds."""
    return len(drive(cache._runtime.log.snapshot()).stamps)


def kinds(cache: CacheManager) -> list[Any]:
    """One way for each kind of record that touches no entry."""
    return [
        lambda: cache.invalidate_tags(["dead"]),
        lambda: cache.invalidate_pattern("dead:*"),
        lambda: cache.evict_by_scope("global"),
        lambda: cache.clear("default"),
        cache.clear,
    ]


@pytest.mark.parametrize("kind", range(5))
def test_the_dead_go_from_every_tier(cache: CacheManager, kind: int) -> None:
    """After a sweep no tier holds what was invalidated, the living are where they were, and the counts are right."""
    cache.multi_set({f"dead:{n}": n for n in range(3)}, tags=["dead"])
    assert all(
        len(keys) == 3 for keys in stored(cache).values()
    )  # also on disk, where Redis lets that be written later
    kinds(cache)[kind]()
    cache.multi_set({"alive": 1}, tags=["dead"])
    swept = cache.sweep()
    assert all(keys == {"alive"} for keys in stored(cache).values())
    assert cache.get("alive") == 1
    tiers = stored(cache)
    assert (swept.local, swept.disk, swept.remote) == tuple(3 * (name in tiers) for name in ("local", "disk", "remote"))
    assert swept.complete
    again = cache.sweep()
    assert (again.local, again.disk, again.remote) == (0, 0, 0)


def test_the_async_twin_does_the_same(cache: CacheManager, call: Sync) -> None:
    """`sweep` and `sweep_async`."""
    call(cache.set, "k", 1, tags=["dead"])
    call(cache.invalidate_tags, ["dead"])
    assert call(cache.sweep).complete
    assert not any(stored(cache).values())


def test_what_is_past_its_end_goes_too(cache: CacheManager, clock: FakeClock) -> None:
    """Expired entries leave memory and disk (Redis lets them go by itself)."""
    cache.set("short", 1, 10)
    cache.set("long", 1, 1000)
    clock.advance(11)
    assert cache.sweep().complete
    assert all("short" not in keys and "long" in keys for keys in stored(cache).values())


def test_the_dead_are_buried_not_deleted(redis_url: str, tmp_path: Path) -> None:
    """A swept entry leaves a tombstone: a load that began before it is refused, as it was before the sweep."""
    with make("memory+redis", tmp_path, redis_url) as cache:
        cache.get("k")
        epoch, before = cache._runtime.coherence.position()
        remote: Any = cache._runtime.remote
        cache.set("k", "set", tags=["dead"])
        old = drive(remote.get_many((Address("default", "", "k"),), epoch)).found[Address("default", "", "k")]
        cache.invalidate_tags(["dead"])
        assert cache.sweep().remote == 1
        assert drive(remote.get_many((Address("default", "", "k"),), epoch)).found == {}
        from dataclasses import replace

        late = replace(old, born=before, tags=())
        assert drive(remote.put_if_newer(Address("default", "", "k"), late, Guard())) is Put.NEWER
        connections: Any = cache._runtime.connections
        (left,) = connections.execute([("PTTL", remote.key_of(Address("default", "", "k"), epoch))])
        assert left > (FENCE - 30) * 1000
        assert cache.get_or_set("k", lambda: "loaded") == "loaded"
        assert cache.get("k") == "loaded"


# Purges


def test_what_says_too_much_or_nothing_is_no_purge(cache: CacheManager, call: Sync) -> None:
    """Without anything that says what, or with tags and a pattern at once, which no record can say; nothing has happened then."""
    call(cache.set, "k", 1, tags=["t"])
    before = call(cache.position)
    for what in ({}, {"scope": "global"}, {"tags": ["t"], "pattern": "k*"}):
        with pytest.raises(InvalidationError, match="purge"):
            call(cache.purge, **what)
    assert call(cache.position) == before
    assert call(cache.get, "k") == 1


def test_a_purge_counts_the_entries_of_each_tier(cache: CacheManager, call: Sync) -> None:
    """By tag, by pattern and by region; the dead that still lie about count, the rest stays."""
    for number in range(5):
        call(cache.set, f"a:{number}", 1, tags=["even"] if number % 2 == 0 else ())
    call(cache.set, "b", 1)
    call(cache.set, "c", 1, region="second")
    tiers = set(stored(cache))
    assert call(cache.purge, tags=["even"]) == dict.fromkeys(tiers, 3)
    assert call(cache.purge, pattern="a:?") == dict.fromkeys(tiers, 2)
    assert call(cache.purge, pattern="a:?") == dict.fromkeys(tiers, 0)
    call(cache.clear, "second")
    assert call(cache.purge, region="second") == dict.fromkeys(tiers, 1)
    assert all(keys == {"b"} for keys in stored(cache).values())
    assert call(cache.get, "b") == 1


# Stamps


def settle(cache: CacheManager, clock: FakeClock) -> None:
    """Let the sweeper note where the log stands now."""
    clock.advance(60)
    cache.sweep()


@stacks(*IN_SIGHT)
def test_a_stamp_goes_once_a_load_cannot_be_that_old(cache: CacheManager, clock: FakeClock) -> None:
    """Not with the first sweep, which a load may still be racing, but with one that begins `fence` seconds later."""
    cache.set("k", 1, tags=["dead"])
    cache.invalidate_tags(["dead", "other"])
    settle(cache, clock)
    clock.advance(FENCE / 2)
    assert cache.sweep().stamps == 0
    assert stamps(cache) == 2
    clock.advance(FENCE / 2 + 1)
    assert cache.sweep().stamps == 2
    assert stamps(cache) == 0
    assert cache._runtime.ledger.sizes()["stamps"] == 0
    assert cache.get("k") is None
    cache.set("k", 2, tags=["dead"])
    cache.invalidate_tags(["dead"])
    assert cache.get("k") is None


@stacks(*IN_SIGHT)
def test_a_younger_stamp_stays(cache: CacheManager, clock: FakeClock) -> None:
    """What was invalidated since is judged as ever."""
    cache.invalidate_tags(["old"])
    settle(cache, clock)
    clock.advance(FENCE)
    cache.set("k", 1, tags=["young"])
    cache.invalidate_tags(["young"])
    cache.sweep()
    assert stamps(cache) == 1
    assert cache.get("k") is None


@stacks(*(stack for stack in STACKS if stack != "memory"))
def test_a_sweep_that_could_not_see_everything_proves_nothing(
    cache: CacheManager, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tier that failed in the middle keeps every stamp."""
    runtime = cache._runtime
    tier: Any = runtime.remote or next(iter(runtime.disks()), None)
    cache.invalidate_tags(["old"])
    settle(cache, clock)
    clock.advance(FENCE + 1)

    def fails(*_: Any) -> Iterator[Any]:
        if tier is not runtime.remote:
            tier.store.failures.add()  # a disk that fails ends its scan as if that were complete
            return 0, []
        return -1, []
        yield

    with monkeypatch.context() as patched:
        patched.setattr(tier, "scan", fails)
        swept = cache.sweep()
    assert not swept.complete
    assert swept.stamps == 0
    assert stamps(cache) == 1


def test_a_load_on_its_way_keeps_this_processs_stamps(tmp_path: Path, clock: FakeClock) -> None:
    """A load that began before the stamp is refused, however long it takes."""
    with make("memory", tmp_path, None, clock) as cache:

        def load() -> str:
            cache.invalidate_tags(["dead"])
            settle(cache, clock)
            clock.advance(FENCE + 1)
            cache.sweep()
            return "old"

        assert cache.get_or_set("k", load, tags=["dead"]) == "old"
        assert cache.get("k") is None


def test_disks_of_a_fleet_keep_its_stamps(
    redis_url: str, tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where hosts that are off now may have entries on disk, a stamp goes only when all that is older is past max_lifetime.

    Also where the process that sweeps has no disk itself: those that have noted it in the log.
    """
    with (
        make("memory+redis", tmp_path, redis_url, clock, max_lifetime=DAY) as cache,
        make("memory+disk+redis", tmp_path, redis_url, clock, max_lifetime=DAY) as other,
    ):
        other.set("k", 1, tags=["dead"])
        cache.invalidate_tags(["dead"])
        monkeypatch.setattr(Fleet, "elected", lambda self: True)
        for each in (cache, other):
            settle(each, clock)
        clock.advance(FENCE + 1)
        assert [0, 0] == [each.sweep().stamps for each in (cache, other)]
        assert stamps(cache) == 1
        clock.advance(DAY)
        assert cache.sweep().stamps == 1
        assert stamps(cache) == 0


def test_a_process_that_starts_after_the_stamps_went_serves_nothing_dead(tmp_path: Path, clock: FakeClock) -> None:
    """It finds no stamp, and no entry either: the sweep took it from the disk before."""
    with make("memory+disk", tmp_path, None, clock) as cache:
        cache.set("k", 1, tags=["dead"])
        cache.set("alive", 1, 10 * DAY)
        cache.invalidate_tags(["dead"])
        settle(cache, clock)
        clock.advance(FENCE + 1)
        assert cache.sweep().stamps == 1
    with make("memory+disk", tmp_path, None, clock) as cache:
        assert cache.get("k") is None
        wait_until(lambda: cache.get("alive") == 1, 10.0, "the disk to be vouched for")


# Earlier epochs


def test_what_earlier_epochs_left_is_given_back(redis_url: str, redis_server: RedisServer, tmp_path: Path) -> None:
    """Values of another life of the log go; leases, the log itself, other fleets and other people's keys stay."""
    with (
        make("memory+redis", tmp_path, redis_url, name="tiercast") as cache,
        make("redis", tmp_path, redis_url, name="tier") as second,
    ):
        second.set("k", 1)
        cache.get("k")
        cache._runtime.housekeeper.stop()  # which may be carrying: burying in the old epoch what is given back here
        cache.multi_set({f"k{n}": n for n in range(600)}, None)
        old = cache.position().epoch
        for name in (f"tiercast:{old}:not ours", f"tiercast:{'0' * 16}:list", "tiercast:mine:1", "tiercast:lease:x"):
            redis_server.execute("SET", name, "somebody's")
        redis_server.execute("DEL", f"tiercast:{'0' * 16}:list")
        redis_server.execute("RPUSH", f"tiercast:{'0' * 16}:list", "a")
        redis_server.execute("DEL", "tiercast:{tiercast}:stamps")
        cache.set("k", "new")
        assert cache.position().epoch != old
        swept = cache.sweep()
        assert swept.remote == 600
        assert swept.complete
        names = {name for name in redis_server.execute("KEYS", "tier*") if "{" not in name}
        assert {name.split(":")[0] for name in names} == {"tier", "tiercast"}
        assert len(names) == 6
        assert (cache.get("k"), second.get("k")) == ("new", 1)


# In the background


def test_it_walks_at_a_bounded_rate(
    redis_url: str, tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One slice a second at the most, however often it is called, and none where nothing was invalidated."""
    with make("redis", tmp_path, redis_url, clock) as cache:
        cache.get("k")
        runtime = cache._runtime
        runtime.housekeeper.stop()
        scans: list[float] = []
        scan = runtime.remote.scan  # type: ignore[union-attr]

        def counted(*args: Any) -> Any:
            scans.append(clock.monotonic())
            return scan(*args)

        monkeypatch.setattr(runtime.remote, "scan", counted)
        monkeypatch.setattr(sweeper, "SLICE", 10)
        cache.multi_set({f"k{n}": n for n in range(100)}, tags=["dead"])

        def run(seconds: int) -> None:
            for _ in range(seconds * 10):
                clock.advance(0.1)
                cache.coherence.settle()
                drive(runtime.sweeper.tick())

        run(60)  # a first walk looks for what earlier epochs left
        scans.clear()
        run(60)
        assert scans == []
        cache.invalidate_tags(["dead"])
        run(120)
        assert len(scans) >= 5
        assert all(later - earlier >= 0.99 for earlier, later in pairwise(scans))
        assert stored(cache) == {"remote": set()}


def test_one_process_of_the_fleet_walks_redis_and_one_of_each_host_its_disk(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By itself, without anybody reading what is dead."""
    monkeypatch.setattr(sweeper, "EVERY", 0.05)
    settings: dict[str, Any] = {"coherence": CoherenceConfig(heartbeat=0.05)}
    with (
        make("memory+disk+redis", tmp_path, redis_url, **settings) as one,
        make("memory+disk+redis", tmp_path, redis_url, **settings) as two,
        make("memory+disk+redis", tmp_path / "another host", redis_url, **settings) as elsewhere,
    ):
        caches = (one, two, elsewhere)
        elsewhere._runtime.coherence.fleet.member = "elsewhere:1:0"
        for cache in caches:
            cache.coherence.start(10.0)
        wait_until(lambda: all(len(each._runtime.coherence.fleet.seen) == 3 for each in caches), 10.0, "all")
        walks = [[store.name for store in each._runtime.sweeper._stores()] for each in caches]
        assert [walk.count("remote") for walk in walks].count(1) == 1
        assert sorted(walk.count("disk") for walk in walks[:2]) == [0, 1]
        assert walks[2].count("disk") == 1
        for cache in caches:
            cache.multi_set({f"k{n}": n for n in range(20)}, tags=["dead"])
        two.invalidate_tags(["dead"])
        below = [(cache, tier) for cache in (one, elsewhere) for tier in ("disk", "remote")]
        wait_until(lambda: not any(stored(cache)[tier] for cache, tier in below), 20.0, "the sweepers")
