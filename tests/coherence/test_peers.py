"""What other caches get wrong, each as a test named after those that do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from loaders import last_served
from servers import RedisServer, TcpProxy, wait_until
from stacks import Async, Sync, config_of, patient
from tiercast import (
    BusUnavailable,
    CacheConfig,
    CacheManager,
    CoherenceConfig,
    DistributedCacheConfig,
    ScopeConfig,
    ScopeLevel,
)
from tiercast.coherence.redis_scripts import LogKeys

SCOPES = ScopeConfig([ScopeLevel("organization", "org_id", [ScopeLevel("user", "user_id")])])
WHERE = {"region": "catalog", "scope": "user", "org_id": "1", "user_id": "7"}
"""Where the one key of these tests lies, so that each of the six kinds can reach it."""

Invalidate = Callable[[CacheManager, Any], Any]

KINDS: dict[str, Invalidate] = {
    "key": lambda cache, call: call(cache.invalidate_keys, ["key"], **WHERE),
    "tag": lambda cache, call: call(cache.invalidate_tags, ["tag"]),
    "scope": lambda cache, call: call(cache.evict_by_scope, "organization", org_id="1"),
    "pattern": lambda cache, call: call(cache.invalidate_pattern, "k*", **WHERE),
    "region": lambda cache, call: call(cache.clear, "catalog"),
    "everything": lambda cache, call: call(cache.clear),
}
SHARED = ("memory+disk", "memory+redis", "memory+disk+redis")

PROMPT = CoherenceConfig(max_staleness=60.0, heartbeat=30.0)
"""Heartbeats so rare that only the bus can have told."""
BRISK = CoherenceConfig(max_staleness=1.5, heartbeat=0.3)

Make = Callable[..., CacheManager]


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Iterator[Sync | Async]:
    call = Sync() if request.param == "sync" else Async()
    yield call
    call.close()


@pytest.fixture(params=KINDS)
def invalidate(request: pytest.FixtureRequest) -> Invalidate:
    return KINDS[request.param]


@pytest.fixture
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Make managers of a stack that share one host's disk and one Redis; closed in the end."""
    managers: list[CacheManager] = []

    def make(stack: str, **more: Any) -> CacheManager:
        url = request.getfixturevalue("redis_url") if "redis" in stack and not managers else None
        url = url or (request.getfixturevalue("redis_server").url if "redis" in stack else None)
        managers.append(CacheManager(config_of(stack, tmp_path / "cache", url, scopes=SCOPES, **more)))
        return managers[-1]

    yield make
    for manager in managers:
        manager.close()


@pytest.fixture
def pair(own_redis: RedisServer) -> Iterator[Make]:
    """Make managers of memory and a Redis of this test's own, by any URL; closed in the end."""
    managers: list[CacheManager] = []

    def make(url: str | None = None, **more: Any) -> CacheManager:
        remote = more.pop("distributed", None) or patient(url or own_redis.url, breaker_reset=0.2)
        managers.append(CacheManager(CacheConfig(distributed=remote, scopes=SCOPES, **more)))
        return managers[-1]

    yield make
    for manager in managers:
        manager.close()


def read(cache: CacheManager, call: Any, loader: Callable[[], Any]) -> Any:
    return call(cache.get_or_set, "key", loader, 3600, tags=["tag"], **WHERE)


def bus_of(cache: CacheManager) -> str:
    return LogKeys.of(cache.config.name).bus


# -- an invalidation that races with a load (G4) ------------------------------------------------------


@pytest.mark.parametrize("stack", ["memory", *SHARED])
def test_bentocache_an_invalidation_during_a_load_is_not_undone(
    make: Make, call: Sync, stack: str, invalidate: Invalidate
) -> None:
    """What was read before the invalidation is handed to its caller and kept by no tier."""
    cache = make(stack)

    def load() -> str:
        invalidate(cache, Sync())
        return "old"

    read(cache, call, load)
    assert call(cache.get, "key", **WHERE) is None
    assert read(cache, call, lambda: "new") == "new"
    assert call(cache.get, "key", **WHERE) == "new"


@pytest.mark.parametrize("stack", SHARED)
def test_fusioncache_an_invalidation_elsewhere_during_a_load_is_not_undone(
    make: Make, call: Sync, stack: str, invalidate: Invalidate
) -> None:
    """Nor where another process invalidates: neither serves the old value, though one of them loaded it."""
    cache, other = make(stack), make(stack)
    other.coherence.start()

    def load() -> str:
        invalidate(other, Sync())
        return "old"

    read(cache, call, load)
    assert call(other.get, "key", **WHERE) is None
    call(cache.coherence.settle)
    assert call(cache.get, "key", **WHERE) is None
    assert read(other, call, lambda: "new") == "new"
    assert read(cache, call, lambda: "newer") in {"new", "newer"}


@pytest.mark.parametrize("stack", SHARED)
def test_cashews_the_lower_tiers_do_not_bring_it_back(
    make: Make, call: Sync, stack: str, invalidate: Invalidate
) -> None:
    """A process that starts afterwards finds nothing of the load that lost, on disk or in Redis."""
    cache, other = make(stack), make(stack)

    def load() -> str:
        invalidate(other, Sync())
        return "old"

    read(cache, call, load)
    assert call(make(stack).get, "key", **WHERE) is None


@pytest.mark.parametrize("stack", ["memory", *SHARED])
def test_dogpile_who_asks_after_the_invalidation_does_not_get_the_load_before_it(
    make: Make, call: Sync, stack: str, invalidate: Invalidate
) -> None:
    """A reader that joins a load which began before the invalidation judges it, and loads by itself."""
    cache = make(stack)
    began, finish = threading.Event(), threading.Event()
    results: dict[str, Any] = {}

    def load_slowly() -> str:
        began.set()
        assert finish.wait(20)
        return "old"

    def run(name: str, loader: Callable[[], str]) -> None:
        own = type(call)()
        results[name] = read(cache, own, loader)
        own.close()

    first = threading.Thread(target=run, args=("first", load_slowly))
    first.start()
    assert began.wait(20)
    invalidate(cache, call)
    second = threading.Thread(target=run, args=("second", lambda: "new"))
    second.start()
    counters = cache.current_region("catalog").counters
    wait_until(lambda: counters.waits.value == 1 or not second.is_alive(), 20, "a second reader that waits")
    finish.set()
    first.join(20)
    second.join(20)
    assert results["second"] == "new"
    assert call(cache.get, "key", **WHERE) == "new"


# -- a message that was lost (G3) ---------------------------------------------------------------------


def test_fusioncache_a_message_lost_with_its_connection_is_repaired(pair: Make, own_redis: RedisServer) -> None:
    """The subscription is cut exactly while an invalidation is published: the log is read, long before any TTL."""
    cache, other = pair(coherence=BRISK), pair(coherence=BRISK)
    for manager in (cache, other):
        manager.coherence.start()
    read(cache, Sync(), lambda: "old")
    own_redis.execute("CLIENT", "KILL", "TYPE", "pubsub")
    other.invalidate_keys(["key"], **WHERE)
    heard = cache._runtime.listener.heard.value
    wait_until(lambda: cache.get("key", **WHERE) is None, 5, "the repair")
    assert cache._runtime.listener.heard.value == heard, "the message was not lost"


def test_bentocache_a_message_lost_without_a_trace_is_repaired_by_the_next(
    pair: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection stays, one message vanishes: the next one shows the gap, and no heartbeat is needed."""
    cache, other = pair(coherence=PROMPT), pair(coherence=PROMPT)
    for manager in (cache, other):
        manager.coherence.start()
    read(cache, Sync(), lambda: "old")
    coherence = cache._runtime.coherence
    hear = coherence.hear
    lost: list[bytes] = []

    def lose_first(message: bytes) -> Any:
        if lost:
            return hear(message)
        lost.append(message)
        return iter(())

    monkeypatch.setattr(coherence, "hear", lose_first)
    other.invalidate_keys(["key"], **WHERE)
    wait_until(lambda: lost, 5, "the message that is lost")
    assert cache.get("key", **WHERE) == "old"
    other.invalidate_tags(["another"])
    wait_until(lambda: cache.get("key", **WHERE) is None, 5, "the repair")
    assert cache.coherence.status().counters["gaps"] >= 1


def test_jetcache_who_was_away_for_longer_than_the_log_reaches_back_drops_its_memory(
    pair: Make, own_redis: RedisServer
) -> None:
    """Cut off while the log was trimmed past its position, a process keeps nothing that it cannot know to be true."""
    with TcpProxy(own_redis.url) as wire:
        cache, other = pair(wire.url, coherence=BRISK), pair(coherence=BRISK)
        for manager in (cache, other):
            manager.coherence.start()
        read(cache, Sync(), lambda: "old")
        wire.refuse()
        wire.reset()
        other.invalidate_keys(["key"], **WHERE)
        other.invalidate_tags(["another"])
        own_redis.execute("XTRIM", LogKeys.of(other.config.name).stream, "MAXLEN", 0)
        wire.pass_through()
        wait_until(lambda: cache.get("key", **WHERE) is None, 10, "the repair")
        assert cache.coherence.status().counters["drops"] == 1


# -- a wire that is silent (G2) -----------------------------------------------------------------------


def test_cashews_a_silent_partition_is_bounded(pair: Make, own_redis: RedisServer) -> None:
    """Packets vanish and no connection closes: the old value is served for less than `max_staleness`, then loaded."""
    with TcpProxy(own_redis.url) as wire:
        cache, other = pair(wire.url, coherence=BRISK), pair(coherence=BRISK)
        for manager in (cache, other):
            manager.coherence.start()
        origin = ["old"]
        assert read(cache, Sync(), lambda: origin[0]) == "old"
        wire.blackhole()
        origin[0] = "new"
        other.invalidate_keys(["key"], **WHERE)
        acknowledged = time.monotonic()
        last = last_served("old", lambda: read(cache, Sync(), lambda: origin[0]))
        assert last - acknowledged < BRISK.max_staleness
        wire.pass_through()
        wait_until(lambda: cache.coherence.status().proven, 10, "proof after the partition")
        assert read(cache, Sync(), lambda: "newest") in {"new", "newest"}


def test_cashews_a_silent_partition_of_the_bus_alone_is_bounded(
    pair: Make, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The subscription is half-open while commands pass: heartbeats of the readers themselves repair it."""
    cache, other = pair(coherence=BRISK), pair(coherence=BRISK)
    for manager in (cache, other):
        manager.coherence.start()
    read(cache, Sync(), lambda: "old")
    monkeypatch.setattr(cache._runtime.coherence, "hear", lambda message: iter(()))
    other.invalidate_keys(["key"], **WHERE)
    acknowledged = time.monotonic()
    last = last_served("old", lambda: cache.get("key", **WHERE))
    assert last - acknowledged < BRISK.max_staleness


# -- a client whose defaults changed (the canary) -----------------------------------------------------


@pytest.mark.parametrize("query", ["", "?protocol=2", "?protocol=3"])
def test_cashews_whatever_version_the_connection_speaks_the_bus_is_heard(
    pair: Make, own_redis: RedisServer, query: str
) -> None:
    """RESP3 became redis-py's default: start() hears itself, and the bus tells, not the heartbeat."""
    cache, other = pair(own_redis.url + query, coherence=PROMPT), pair(coherence=PROMPT)
    for manager in (cache, other):
        manager.coherence.start()
    assert cache.coherence.status().listening
    read(cache, Sync(), lambda: "old")
    other.invalidate_keys(["key"], **WHERE)
    wait_until(lambda: cache.get("key", **WHERE) is None, 5, "the bus's word")


def test_cashews_a_ready_client_is_heard_as_well(pair: Make, own_redis: RedisServer) -> None:
    """A user's own redis-py client with its default protocol serves as well."""
    with own_redis.client(decode_responses=False) as client:
        cache = pair(distributed=DistributedCacheConfig(client=client), coherence=PROMPT)
        other = pair(coherence=PROMPT)
        for manager in (cache, other):
            manager.coherence.start()
        read(cache, Sync(), lambda: "old")
        other.invalidate_keys(["key"], **WHERE)
        wait_until(lambda: cache.get("key", **WHERE) is None, 5, "the bus's word")


def test_cashews_a_deaf_process_says_so_and_stays_bounded() -> None:
    """An account that may publish and not subscribe: start() raises, and what was invalidated is not served for ever."""
    with RedisServer(users={"deaf": ("secret", "~* &* +@all -subscribe -psubscribe")}) as server:

        def make(url: str) -> CacheManager:
            return CacheManager(CacheConfig(distributed=patient(url), coherence=BRISK))

        with make(server.url_for("deaf")) as cache, make(server.url) as other:
            with pytest.raises(BusUnavailable, match="subscri"):
                cache.coherence.start(1.0)
            assert not cache.coherence.status().listening
            cache.get_or_set("key", lambda: "old")
            other.invalidate_keys(["key"])
            acknowledged = time.monotonic()
            last = last_served("old", lambda: cache.get("key"))
            assert last - acknowledged < BRISK.max_staleness


# -- messages of others ------------------------------------------------------------------------------

RECORD = '{"v":%s,"epoch":"%s","position":%s,"kind":"%s","region":"","targets":[%s],"soft":false}'

FOREIGN: dict[str, Callable[[str, int], bytes]] = {
    "no JSON": lambda epoch, position: b"hello",
    "nothing": lambda epoch, position: b"",
    "half a record": lambda epoch, position: (RECORD % (1, epoch, position + 1, "all", "")).encode()[:-9],
    "no text": lambda epoch, position: bytes(range(256)),
    "somebody's JSON": lambda epoch, position: b'{"user":"created","id":7}',
    "a list": lambda epoch, position: b"[1,2,3]",
    "deep": lambda epoch, position: b"[" * 100_000,
    "oversized": lambda epoch, position: b'{"v":1,"pad":"' + b"x" * 2_000_000 + b'"}',
    "of the future": lambda epoch, position: (RECORD % (2, epoch, position + 1, "all", "")).encode(),
    "of a kind to come": lambda epoch, position: (RECORD % (1, epoch, position + 1, "hologram", '"x"')).encode(),
    "far ahead": lambda epoch, position: (RECORD % (1, epoch, position + 1000, "all", "")).encode(),
    "of another epoch": lambda epoch, position: (RECORD % (1, "f" * 16, position + 1, "all", "")).encode(),
    "a negative position": lambda epoch, position: (RECORD % (1, epoch, -1, "all", "")).encode(),
    "no position": lambda epoch, position: (RECORD % (1, epoch, "null", "all", "")).encode(),
    "a fraction": lambda epoch, position: (RECORD % (1, epoch, f"{position}.5", "all", "")).encode(),
    "a huge position": lambda epoch, position: (RECORD % (1, epoch, "1" * 400, "all", "")).encode(),
}


@pytest.mark.parametrize("message", FOREIGN.values(), ids=FOREIGN.keys())
def test_redis_py_a_message_that_is_not_ours_moves_nothing_and_kills_nothing(
    pair: Make, own_redis: RedisServer, message: Callable[[str, int], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """Position, memory and listener are what they were, the message is counted, and the next real one is heard."""
    cache, other = pair(coherence=PROMPT), pair(coherence=PROMPT)
    for manager in (cache, other):
        manager.coherence.start()
    read(cache, Sync(), lambda: "kept")
    before = cache.coherence.status()
    heard = cache._runtime.listener.heard.value
    with own_redis.client(decode_responses=False) as client:
        for _ in range(3):
            assert client.publish(bus_of(cache), message(before.epoch, before.position)) == 2
    wait_until(lambda: cache._runtime.listener.heard.value >= heard + 3, 10, "three messages")
    cache.coherence.settle()
    after = cache.coherence.status()
    assert (after.epoch, after.position) == (before.epoch, before.position)
    assert cache.get("key", **WHERE) == "kept"
    assert after.counters["gaps"] + after.counters["malformed"] > 0
    assert cache._runtime.listener.failures.value == 0
    assert after.listening
    other.invalidate_keys(["key"], **WHERE)
    wait_until(lambda: cache.get("key", **WHERE) is None, 5, "the next real message")
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_redis_py_malformed_messages_are_counted_and_logged_once(
    pair: Make, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """However many come, the log has one line, and `status` has the number."""
    cache = pair(coherence=PROMPT)
    cache.coherence.start()
    with own_redis.client() as client:
        for _ in range(20):
            client.publish(bus_of(cache), "hello")
    wait_until(lambda: cache.coherence.status().counters["malformed"] == 20, 5, "twenty malformed messages")
    assert len([record for record in caplog.records if "malformed" in record.getMessage()]) == 1
