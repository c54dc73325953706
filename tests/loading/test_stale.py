"""Older values: grace, timeouts, failing origins, soft invalidation, and what only a tier below has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from at_rest import idle, never, refuse, settle, stale_served
from loaders import PATIENCE, Crowd, Gate, eventually
from stacks import Sync, config_of, patient
from tiercast import CacheConfig, CacheManager, DistributedCacheConfig, LoadTimeout, LocalCacheConfig
from tiercast.coherence.log import LogUnavailable
from tiercast.coherence.records import Draft, Kind, Record
from tiercast.keys import encode_target
from tiercast.loading.stale import Spare, servable
from tiercast.loading.storing import put_disk
from tiercast.plans import Plan, done, drive
from tiercast.testing import FakeClock
from tiercast.tiers.entry import STALE, Address

Make = Callable[..., CacheManager]


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

    def test_a_record_that_waits_in_the_outbox_kills_what_was_found_before_it_only(
        self, make: Make, call: Sync
    ) -> None:
        """How far memory vouches for waiting records is noted before the look; what is found below vouches for none."""
        cache = make(ttl=10, grace=100)
        call(cache.set, "k", "old")
        region = cache._runtime.default
        assert region.memory is not None
        address, entry, ledger = region.address("k"), region.memory.entries["k"], region.ledger
        with ledger.lock:
            before, mark = ledger.local_sequence, ledger.mark_pending(Draft(Kind.KEY, "default", ("|k",)))
            spares = [Spare(entry, ledger.applied, local=local) for local in (0, before, mark)]
            assert [servable(region, address, spare) for spare in spares] == [False, False, True]

    @pytest.mark.parametrize("draft", [Draft(Kind.KEY, "default", ("|k",)), Draft(Kind.TAG, "", ("t",))])
    def test_what_waits_since_a_load_began_kills_what_would_be_served_instead(
        self, make: Make, call: Sync, clock: FakeClock, draft: Draft
    ) -> None:
        """An invalidation made while the log is away, during a load that then fails, leaves nothing older to serve."""
        cache = make(ttl=10, grace=100)
        call(cache.set, "k", "old", tags=["t"])
        clock.advance(11)

        def load() -> str:
            cache._runtime.coherence._mark([draft])
            raise ValueError("origin")

        with pytest.raises(ValueError, match="origin"):
            call(cache.get_or_set, "k", load, tags=["t"])

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

    def test_what_ended_meanwhile_is_not_served(self, make: Make, clock: FakeClock) -> None:
        """Grace counts when the load fails, not when it began."""
        cache, gate, crowd = make(ttl=10, grace=100), Gate(), Crowd()
        cache.set("k", "old")
        clock.advance(11)
        crowd.call(cache.get_or_set, "k", gate.load)
        eventually(lambda: gate.calls)
        clock.advance(100)
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


class TestOlderValuesBelow:
    """What only a tier below has is served by the same rules, also where there is no memory at all."""

    @pytest.fixture(params=["disk", "memory+disk", "redis", "memory+redis"])
    def stack(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.fixture
    def start(
        self, request: pytest.FixtureRequest, stack: str, clock: FakeClock, tmp_path: Path, call: Sync
    ) -> Iterator[Make]:
        """Make managers of one fleet on the fake clock, each after the one before was closed: a process that restarts."""
        url = request.getfixturevalue("redis_url") if "redis" in stack else None
        managers = []

        def start(**settings: Any) -> CacheManager:
            for manager in managers:
                call(manager.close)
            config = config_of(stack, tmp_path, url, ttl=10, grace=100, retry_backoff=(1, 1), **settings)
            managers.append(CacheManager(config, clock=clock))
            return managers[-1]

        yield start
        for manager in managers:
            call(manager.close)

    def test_stale_while_revalidate(self, start: Make, call: Sync, clock: FakeClock) -> None:
        """A process that was restarted serves the older value at once and loads behind."""
        call(start(soft_timeout=0).set, "k", "old")
        clock.advance(11)
        cache, gate = start(soft_timeout=0), Gate()
        load = gate.load if call.kind == "sync" else gate.load_async
        assert call(cache.get_or_set, "k", load) == "old"
        gate.open("new")
        settle(cache, call)
        assert call(cache.get_or_set, "k", never) == "new"

    def test_soft_timeout(self, start: Make, call: Sync, clock: FakeClock) -> None:
        """A slow load is waited for no longer."""
        call(start(soft_timeout=0.05).set, "k", "old")
        clock.advance(11)
        cache, gate = start(soft_timeout=0.05), Gate()
        load = gate.load if call.kind == "sync" else gate.load_async
        assert call(cache.get_or_set, "k", load) == "old"
        gate.open("new")
        settle(cache, call)

    def test_a_failed_load(self, start: Make, call: Sync, clock: FakeClock) -> None:
        """It is served over, with backoff, and an invalidation kills it like any other."""
        call(start().set, "k", "old")
        clock.advance(11)
        cache = start()
        assert call(cache.get_or_set, "k", refuse) == "old"
        assert call(cache.get_or_set, "k", never) == "old"
        call(cache.invalidate_keys, ["k"])
        with pytest.raises(LookupError):
            call(cache.get_or_set, "k", refuse)

    def test_soft_invalidation(self, start: Make, call: Sync) -> None:
        """What was marked is served at once and loaded behind."""
        call(start().set, "k", "old")
        cache, gate = start(), Gate()
        call(cache.invalidate_keys, ["k"], soft=True)
        load = gate.load if call.kind == "sync" else gate.load_async
        assert call(cache.get_or_set, "k", load) == "old"
        gate.open("new")
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


def followed(cache: CacheManager) -> None:
    """Wait until the disk has applied what this process has."""
    coherence = cache._runtime.coherence
    (disk,) = cache._runtime._disks.values()
    while disk.applied() != coherence.position():
        drive(coherence.follow_stores())


class TestSoftInvalidationOnDisk:
    """What was marked in memory is marked on disk, whatever came first: a restarted process knows no more than that."""

    @pytest.fixture
    def start(self, tmp_path: Path) -> Iterator[Callable[[], CacheManager]]:
        started: list[CacheManager] = []

        def start() -> CacheManager:
            started.append(CacheManager(CacheConfig(disk=LocalCacheConfig(type="file", directory=tmp_path / "cache"))))
            return started[-1]

        yield start
        for cache in started:
            cache.close()

    def test_a_load_that_began_before_is_stored_as_stale(self, start: Callable[[], CacheManager]) -> None:
        """Also where the disk has applied the record by then, and marks nothing any more."""
        cache = start()

        def load() -> str:
            cache.invalidate_keys(["k"], soft=True)
            followed(cache)
            return "old"

        assert cache.get_or_set("k", load) == "old"
        assert cache.get("k") is None
        cache.close()
        assert start().get("k") is None

    def test_what_waits_to_be_written_does_not_unmark_it(self, start: Callable[[], CacheManager]) -> None:
        """A copy that was found in Redis before is not written over what has been marked since."""
        cache = start()
        cache.set("k", "old")
        region = cache._runtime.default
        address, disk = Address(region.name, "", "k"), region.disk
        assert disk is not None
        followed(cache)
        envelope = drive(disk.get_many([address], region.ledger.epoch)).found[address]
        drive(put_disk(region, address, envelope, envelope.born, behind=True))
        cache.invalidate_keys(["k"], soft=True)
        followed(cache)
        drive(cache._runtime.flush())
        cache.close()
        assert start().get("k") is None


def test_a_mark_in_redis_is_set_again_where_a_fill_came_between(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fill that is as old as what was to be marked takes its place: it is looked at anew, and marked."""
    with CacheManager(CacheConfig(distributed=patient(redis_url))) as cache:
        cache.get_or_set("k", lambda: "old")
        runtime: Any = cache._runtime
        address = Address("default", "", "k")
        epoch, applied = cache.position()
        renew, refused = runtime.remote.renew, []

        def late(*args: Any) -> Plan[bool]:
            if not refused:
                refused.append(args)
                return False
            return (yield from renew(*args))

        monkeypatch.setattr(runtime.remote, "renew", late)
        record = Record(Kind.KEY, "default", (encode_target("", "k"),), soft=True, epoch=epoch, position=applied + 1)
        assert drive(runtime._carry([(record, record.targets[0])])) is True
        assert drive(runtime.remote.get_many([address], epoch)).found[address].flags & STALE
        assert refused


def test_grace_serves_nothing_where_the_disk_log_is_known_to_have_moved(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the log nor the loader answers: what an invalidation of this host may have killed is not served even so."""
    disk = LocalCacheConfig(type="file", directory=tmp_path / "cache")
    config = CacheConfig(disk=disk, grace=100, retry_backoff=(0.001, 0.001))
    with CacheManager(config, clock=clock) as cache, CacheManager(config, clock=clock) as other:
        cache.get_or_set("k", lambda: "old")
        cache.get_or_set("other", lambda: "old")

        def away(*_: Any) -> Plan[Any]:
            raise LogUnavailable("away")
            yield

        for name in ("append", "beat", "read", "snapshot"):
            monkeypatch.setattr(cache._runtime.log, name, away)
        clock.advance(cache.config.coherence.max_staleness + 1)
        assert cache.get_or_set("k", refuse) == "old", "nobody has invalidated anything"
        other.invalidate_keys(["k"])
        for key in ("k", "other"):
            with pytest.raises(LookupError):
                cache.get_or_set(key, refuse)
        monkeypatch.undo()
        assert cache.get("k") is None
        assert cache.get_or_set("other", never) == "old"


def test_what_is_set_as_a_soft_record_comes_is_marked_in_redis(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a Cluster the value follows its record: one that came between, and was carried before the value was there."""
    config = CacheConfig(distributed=DistributedCacheConfig(connection_string=redis_url))
    with CacheManager(config) as cache:
        runtime: Any = cache._runtime
        coherence, append = runtime.coherence, runtime.coherence.append

        def followed_by_a_soft_one(drafts: Any, *rest: Any, **more: Any) -> Plan[Any]:
            delivery = yield from append(drafts, *rest, **more)
            yield from append([Draft(Kind.KEY, "default", ("|k",), soft=True)])
            return delivery

        monkeypatch.setattr(runtime.log, "atomic_writes", False)
        monkeypatch.setattr(coherence, "append", followed_by_a_soft_one)
        monkeypatch.setattr(coherence, "carry", lambda bury: done(None))
        cache.set("k", "old")
        epoch, _ = cache.position()
        address = Address("default", "", "k")
        assert drive(runtime.remote.get_many([address], epoch)).found[address].flags & STALE
        assert cache.get("k") is None
