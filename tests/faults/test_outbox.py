"""Invalidations made while Redis is away: in force here at once, never lost, replayed in order; and what is served meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from faults.puppet import Puppet
from loaders import last_served
from servers import RedisServer, TcpProxy, wait_until
from tiercast import CacheConfig, CacheManager, DeliveryError
from tiercast.coherence.log import LogUnavailable
from tiercast.coherence.records import Draft, Kind
from tiercast.coherence.redis_log import RedisLog
from tiercast.keys import encode_target
from tiercast.plans import Plan, drive

MAX_STALENESS = 1.0
COHERENCE = {"max_staleness": MAX_STALENESS, "heartbeat": 0.2}


def config(url: str, directory: Path | None = None, **more: Any) -> dict[str, Any]:
    coherence = COHERENCE | more | ({"outbox_directory": str(directory)} if directory else {})
    remote = {"connection_string": url, "write_timeout": 0.5, "connect_timeout": 0.5, "breaker_reset": 0.2}
    return {"name": "outbox", "distributed": remote, "coherence": coherence, "lock_ttl": 0.5}


def manager(url: str, directory: Path | None = None, **more: Any) -> CacheManager:
    return CacheManager(CacheConfig.from_dict(config(url, directory, **more)))


@pytest.fixture
def wire(own_redis: RedisServer) -> Iterator[TcpProxy]:
    with TcpProxy(own_redis.url) as wire:
        yield wire


def cut(wire: TcpProxy) -> None:
    wire.refuse()
    wire.reset()


def load(cache: CacheManager, key: str, value: Any) -> Any:
    return cache.get_or_set(key, lambda: value, tags=["tag"])


@pytest.mark.parametrize("durable", [True, False])
def test_they_are_in_force_here_and_reach_the_others_later(
    own_redis: RedisServer, wire: TcpProxy, tmp_path: Path, durable: bool
) -> None:
    """Every kind says delivered=False, kills here at once what was loaded before it, and elsewhere on reconnection."""
    directory = tmp_path if durable else None
    with manager(wire.url, directory) as cache, manager(own_redis.url) as other:
        for each in (cache, other):
            each.coherence.start()
        kinds = {
            "key": lambda: cache.invalidate_keys(["key"]),
            "tag": lambda: cache.invalidate_tags(["tag"]),
            "scope": lambda: cache.evict_by_scope("global"),
            "pattern": lambda: cache.invalidate_pattern("k*"),
            "region": lambda: cache.clear("default"),
            "everything": cache.clear,
        }
        for invalidate in kinds.values():
            load(other, "key", "old")
            load(cache, "key", "old")
            cut(wire)
            result = invalidate()
            assert (result.delivered, result.position) == (False, None)
            assert cache.get("key") is None
            assert load(cache, "key", "new") == "new"
            assert cache.coherence.status().waiting
            wire.pass_through()
            wait_until(lambda: not cache.coherence.status().waiting, 10, "the replay")
            wait_until(lambda: other.get("key") in {None, "new"}, 10, "what was replayed")
            cache.coherence.settle()
            assert cache.get("key") in {None, "new"}
            cache.clear()
            other.coherence.settle()


def test_they_are_replayed_in_their_order(own_redis: RedisServer, wire: TcpProxy, tmp_path: Path) -> None:
    """Two hundred of them stand in the log in the order in which they were made, before what is made afterwards."""
    with manager(wire.url, tmp_path) as cache, manager(own_redis.url) as other:
        for each in (cache, other):
            each.coherence.start()
        epoch, position = drive_position(other)
        cut(wire)
        for number in range(200):
            cache.invalidate_tags([f"tag-{number}"])
        wire.pass_through()
        wait_until(lambda: not cache.coherence.status().waiting, 10, "the replay")
        assert cache.invalidate_tags(["last"]).delivered
        log = other._runtime.log
        assert isinstance(log, RedisLog)
        records = drive(log.read((epoch, position))).records
        assert records is not None
        assert [record.targets for record in records] == [*((f"tag-{n}",) for n in range(200)), ("last",)]


def drive_position(cache: CacheManager) -> tuple[str, int]:
    cache.coherence.settle()
    status = cache.coherence.status()
    return status.epoch, status.position


def test_a_value_is_not_queued(own_redis: RedisServer, wire: TcpProxy, tmp_path: Path) -> None:
    """A `set` in an outage serves here, and is an invalidation of its key to the rest."""
    with manager(wire.url, tmp_path) as cache, manager(own_redis.url) as other:
        for each in (cache, other):
            each.coherence.start()
            load(each, "key", "old")
        cut(wire)
        assert not cache.set("key", "mine").delivered
        assert cache.get("key") == "mine"
        wire.pass_through()
        wait_until(lambda: other.get("key") != "old", 10, "the replay")
        cache.coherence.settle()
        other.set("key", "theirs")
        cache.coherence.settle()
        assert cache.get("key") == "theirs"
        wait_until(lambda: not cache.coherence.status().waiting, 10, "the end of the replay")


@pytest.mark.parametrize("life", ["same", "new"])
def test_the_set_that_brings_what_waited_keeps_its_value(own_redis: RedisServer, wire: TcpProxy, life: str) -> None:
    """Here and elsewhere, also where the log has a new epoch since: it stands behind what waited for its key."""
    # No heartbeat comes before the set.
    with manager(wire.url, heartbeat=30.0, max_staleness=60.0) as cache:
        cache.coherence.start()
        cache.set("k", "before")
        cut(wire)
        assert cache.invalidate_keys(["k"]).delivered is False
        if life == "new":
            own_redis.restart(empty=True)
        wire.pass_through()
        wait_until(lambda: cache.set("k", "after").delivered, 10, "the log to be back")
        assert cache.get("k") == "after"
        with manager(own_redis.url) as other:
            assert other.get("k") == "after"


def test_the_set_that_finds_the_log_keeps_its_value(own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the log is away as a first `set` begins, and there as it appends, the value was made in no epoch at all."""
    with manager(own_redis.url) as cache, manager(own_redis.url) as other:
        coherence = cache._runtime.coherence
        start, append = coherence._start, coherence.append
        back = False

        def late() -> Plan[None]:
            if not back:
                raise LogUnavailable("away")
            return (yield from start())

        def returned(*args: Any, **kwargs: Any) -> Plan[Any]:
            nonlocal back
            back = True
            return append(*args, **kwargs)

        monkeypatch.setattr(coherence, "_start", late)
        monkeypatch.setattr(coherence, "append", returned)
        assert cache.set("k", "value").delivered
        assert cache.get("k") == "value"
        assert other.get("k") == "value"


def test_marks_go_with_what_waited(own_redis: RedisServer, wire: TcpProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once an append has brought it and was applied, no heartbeat is needed to believe Redis again."""

    def no_beat() -> Plan[None]:
        raise LogUnavailable("not now")

    with manager(wire.url, max_staleness=60.0) as cache, manager(own_redis.url) as other:
        cache.coherence.start()
        monkeypatch.setattr(cache._runtime.coherence, "beat", no_beat)
        cut(wire)
        assert cache.invalidate_keys(["k"]).delivered is False
        assert cache.invalidate_tags(["t"]).delivered is False
        wire.pass_through()
        wait_until(lambda: cache.set("mine", 1).delivered, 10, "the log to be back")
        other.set("k", "new", tags=["t"])
        assert cache.get("k") == "new"


def test_marks_stay_while_anything_waits(
    own_redis: RedisServer, wire: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is queued while an append is on its way is in force until it has been sent too."""
    with manager(wire.url, heartbeat=30.0, max_staleness=60.0) as cache:
        cache.coherence.start()
        cache.set("k", "old", tags=["t"])
        cut(wire)
        assert cache.invalidate_keys(["other"]).delivered is False
        wire.pass_through()
        coherence = cache._runtime.coherence
        append, queued = coherence.log.append, []

        def slow(drafts: Sequence[Draft], *more: Any) -> Plan[Any]:
            appended = yield from append(drafts, *more)
            if drafts[0].targets == (encode_target("", "mine"),) and not queued:
                queued.append((yield from coherence._queue([Draft(Kind.KEY, "default", (encode_target("", "k"),))])))
            return appended

        monkeypatch.setattr(coherence.log, "append", slow)
        wait_until(lambda: cache.set("mine", 1).delivered, 10, "the log to be back")
        assert not queued[0].delivered
        assert cache.get("k") is None


def test_require_delivery_raises_and_queues_nothing(own_redis: RedisServer, wire: TcpProxy, tmp_path: Path) -> None:
    """Whoever must know that it arrived gets DeliveryError; nothing is in force here, nothing is replayed."""
    with manager(wire.url, tmp_path) as cache, manager(own_redis.url) as other:
        for each in (cache, other):
            each.coherence.start()
        load(cache, "key", "old")
        before = drive_position(other)
        cut(wire)
        for operation, args in (
            (cache.invalidate_keys, (["key"],)),
            (cache.invalidate_tags, (["tag"],)),
            (cache.clear, ()),
            (cache.delete, ("key",)),
            (cache.set, ("key", "new")),
        ):
            with pytest.raises(DeliveryError):
                operation(*args, require_delivery=True)
        assert not cache.coherence.status().waiting
        wire.pass_through()
        wait_until(lambda: cache.coherence.status().proven, 10, "proof")
        assert cache.get("key") == "old"
        assert drive_position(other) == before


@pytest.mark.fault
@pytest.mark.parametrize("sibling", ["running", "started later"])
def test_a_sibling_replays_what_the_dead_left(
    own_redis: RedisServer, wire: TcpProxy, tmp_path: Path, sibling: str
) -> None:
    """SIGKILL with a full outbox: any process of the host brings it to the log, which an unrelated process then reads."""
    with manager(own_redis.url) as other, Puppet(**config(wire.url, tmp_path)) as puppet:
        other.coherence.start()
        puppet.do("start")
        if sibling == "running":
            stack = manager(wire.url, tmp_path)
            stack.coherence.start()
        for key in ("a", "b"):
            load(other, key, "old")
        cut(wire)
        assert not puppet.do("invalidate_keys", ["a"])["delivered"]
        assert not puppet.do("invalidate_pattern", "b*")["delivered"]
        puppet.kill()
        assert (other.get("a"), other.get("b")) == ("old", "old")
        wire.pass_through()
        if sibling != "running":
            stack = manager(own_redis.url, tmp_path)
            stack.coherence.start()
        with stack:
            wait_until(lambda: (other.get("a"), other.get("b")) == (None, None), 20, "what the dead had queued")
            # The bus may be first.
            wait_until(lambda: not stack.coherence.status().waiting, 10, "the end of the replay")


@pytest.mark.fault
def test_what_a_sibling_queued_is_in_force_in_the_whole_host_before_memory_is_proven(
    own_redis: RedisServer, wire: TcpProxy, tmp_path: Path
) -> None:
    """While a record of the host waits, no process of the host can prove its memory past it."""
    with manager(own_redis.url, tmp_path) as cache, Puppet(**config(wire.url, tmp_path)) as puppet:
        cache.coherence.start()
        puppet.do("start")
        load(cache, "key", "old")
        cut(wire)
        assert not puppet.do("invalidate_keys", ["key"])["delivered"]
        acknowledged = time.monotonic()
        last = last_served("old", lambda: cache.get("key"))
        assert last - acknowledged < MAX_STALENESS


class TestOutageModes:
    def test_load_asks_the_origin_once_memory_is_older_than_the_bound(
        self, own_redis: RedisServer, wire: TcpProxy
    ) -> None:
        """Entries of the last `max_staleness` serve, older ones are loaded, and what is loaded serves again."""
        with manager(wire.url) as cache:
            cache.coherence.start()
            assert load(cache, "key", 1) == 1
            loaded = time.monotonic()
            cut(wire)
            number = 1
            while time.monotonic() - loaded < MAX_STALENESS - 0.2:
                assert load(cache, "key", 2) == 1
            wait_until(lambda: load(cache, "key", 2) == 2, 5, "a load from the origin")
            loads = cache.stats()["loads"]
            for number in range(200):
                load(cache, "key", 3 + number)
            assert cache.stats()["loads"] <= loads + 1
            assert cache.get("key") is not None
            wire.pass_through()
            wait_until(lambda: cache.coherence.status().proven, 10, "proof")

    def test_serve_goes_on_serving(self, own_redis: RedisServer, wire: TcpProxy) -> None:
        """Who prefers availability serves until the TTL, own invalidations excepted."""
        with manager(wire.url, on_outage="serve") as cache:
            cache.coherence.start()
            assert load(cache, "key", "old") == "old"
            assert load(cache, "gone", "old") == "old"
            cut(wire)
            deadline = time.monotonic() + 2 * MAX_STALENESS
            while time.monotonic() < deadline:
                assert load(cache, "key", "new") == "old"
                time.sleep(0.01)
            assert not cache.coherence.status().proven
            cache.invalidate_keys(["gone"])
            assert load(cache, "gone", "new") == "new"

    def test_nothing_raises_into_a_read(self, own_redis: RedisServer, wire: TcpProxy) -> None:
        """Reads and writes of every sort get through an outage, each in the time of one timeout or so."""
        with manager(wire.url) as cache:
            cache.coherence.start()
            cut(wire)
            deadline = time.monotonic() + 2 * MAX_STALENESS
            while time.monotonic() < deadline:
                assert load(cache, "key", 1) == 1
                assert cache.get("absent", "default") == "default"
                cache.multi_get(["key", "absent"])
                cache.contains("key")
                cache.set("other", 1)
                assert cache.get("other") == 1
                cache.delete("other")
                cache.touch("key", 60)
