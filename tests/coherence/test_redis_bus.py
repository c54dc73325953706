"""The ear on the Redis bus: it hears itself first, and never stays open and deaf."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from servers import RedisServer, TcpProxy, wait_until
from tiercast.clock import SystemClock
from tiercast.coherence import redis_bus
from tiercast.coherence.log import LogUnavailable
from tiercast.coherence.records import Draft, Kind, decode_message
from tiercast.coherence.redis_bus import RedisBus
from tiercast.coherence.redis_log import RedisLog
from tiercast.config import CoherenceConfig, DistributedCacheConfig
from tiercast.connections import RedisConnections
from tiercast.plans import drive

CHANNEL = "tiercast:{shop}:bus"


def open_log(url: str) -> RedisLog:
    remote = DistributedCacheConfig(
        connection_string=url,
        read_timeout=2.0,
        write_timeout=2.0,
        connect_timeout=2.0,
        breaker_failures=1000,
        breaker_reset=0.1,
    )
    return RedisLog(RedisConnections(remote), "shop", CoherenceConfig(), SystemClock())


@pytest.fixture
def log(redis_url: str) -> Iterator[RedisLog]:
    """A log on the shared, empty server."""
    log = open_log(redis_url)
    yield log
    log._connections.close()


@pytest.fixture
def bus(log: RedisLog) -> Iterator[RedisBus]:
    """A bus that is open, and so has heard itself."""
    bus = log.listen()
    yield bus
    bus.close()


def poll(bus: RedisBus, seconds: float = 5.0) -> list[bytes]:
    """The next messages."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        messages = bus.poll(0.1)
        if messages:
            return messages
    return []


def append(log: RedisLog, *tags: str) -> None:
    drive(log.append([Draft(Kind.TAG, "", tags)], ("", 0)))


def test_a_record_is_heard(log: RedisLog, bus: RedisBus) -> None:
    """Appended after `listen` returned, it comes by the bus."""
    append(log, "t")
    (message,) = poll(bus)
    assert decode_message(message) == drive(log.read((drive(log.snapshot()).head.epoch, 0))).records


def test_canaries_are_no_messages_and_move_no_position(log: RedisLog, bus: RedisBus) -> None:
    """Neither one's own nor others' are returned by poll; what came meanwhile is."""
    other = log.listen()
    append(log, "t")
    bus.sing()
    assert len(poll(bus)) == 1
    assert bus.poll(0.2) == []
    assert drive(log.snapshot()).head.position == 1
    other.close()


def test_a_killed_connection_ends_the_bus_and_another_can_be_opened(
    log: RedisLog, bus: RedisBus, redis_server: RedisServer
) -> None:
    """CLIENT KILL TYPE pubsub: poll says so at once."""
    redis_server.execute("CLIENT", "KILL", "TYPE", "pubsub")
    with pytest.raises(LogUnavailable):
        poll(bus)
    again = log.listen()
    append(log, "t")
    assert len(poll(again)) == 1
    again.close()


def test_a_restarted_server_ends_the_bus(own_redis: RedisServer) -> None:
    """And while it is away, no bus can be opened."""
    log = open_log(own_redis.url)
    bus = log.listen()
    own_redis.stop()
    with pytest.raises(LogUnavailable):
        poll(bus)
    with pytest.raises(LogUnavailable):
        log.listen()
    own_redis.start()

    def opened() -> bool:
        try:
            log.listen().close()
        except LogUnavailable:
            return False
        return True

    wait_until(opened, what="a bus on the restarted server")
    log._connections.close()


def test_a_deaf_connection_is_found_out(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wire that drops everything and closes nothing: after a silence the bus asks itself, and gives up."""
    monkeypatch.setattr(redis_bus, "SILENCE", 0.2)
    monkeypatch.setattr(redis_bus, "PATIENCE", 0.5)
    direct = open_log(redis_url)
    with TcpProxy(redis_url) as proxy:
        through = open_log(proxy.url)
        bus = through.listen()
        # Publishing goes another way, as through another connection that still works.
        bus._connections = direct._connections
        proxy.blackhole()
        with pytest.raises(LogUnavailable, match="not heard"):
            poll(bus, 20)
        bus.close()
        through._connections.close()
    direct._connections.close()


def test_a_live_but_silent_bus_goes_on(log: RedisLog, bus: RedisBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """It hears its canaries, which keep it open."""
    monkeypatch.setattr(redis_bus, "SILENCE", 0.05)
    monkeypatch.setattr(redis_bus, "PATIENCE", 2.0)
    assert poll(bus, 1.0) == []
    append(log, "t")
    assert len(poll(bus)) == 1


def test_a_bus_that_does_not_hear_itself_does_not_open(log: RedisLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Subscribed to another channel than the one that is published to."""
    connections = log._connections
    listen = connections.listen
    monkeypatch.setattr(connections, "listen", lambda channel, *, sharded: listen(f"{channel}s", sharded=sharded))
    with pytest.raises(LogUnavailable, match="not heard"):
        RedisBus.open(connections, CHANNEL, patience=0.3)


def test_a_user_who_may_not_publish_or_subscribe_is_told(own_redis: RedisServer) -> None:
    """By the error that the server gave."""
    log = open_log(own_redis.url)
    own_redis.execute("ACL", "SETUSER", "default", "-publish")
    with pytest.raises(LogUnavailable, match="cannot publish"):
        log.listen()
    own_redis.execute("ACL", "SETUSER", "default", "+publish", "-subscribe")
    with pytest.raises(LogUnavailable, match="cannot subscribe"):
        log.listen()
    log._connections.close()


@pytest.mark.needs("spublish")
def test_a_cluster_keeps_the_bus_on_the_nodes_of_its_slot(redis_cluster_url: str) -> None:
    """Sharded: PUBLISH is not heard, appends and canaries are."""
    log = open_log(redis_cluster_url)
    bus = log.listen()
    log._connections.execute([("PUBLISH", CHANNEL, b"to all nodes")])
    append(log, "t")
    (message,) = poll(bus)
    assert isinstance(decode_message(message), tuple)
    assert bus.poll(0.2) == []
    bus.close()
    log._connections.close()


def test_two_buses_hear_the_same_in_the_same_order(log: RedisLog, bus: RedisBus) -> None:
    """As many as there are processes."""
    other = log.listen()
    for number in range(50):
        append(log, f"t{number}")
    heard: list[list[bytes]] = [[], []]
    for ear, messages in zip((bus, other), heard, strict=True):
        while len(messages) < 50:
            more = poll(ear)
            assert more
            messages.extend(more)
    assert heard[0] == heard[1]
    other.close()
