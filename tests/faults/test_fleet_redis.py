"""Four processes over one Redis while it, the wire, and they themselves fail: nothing beyond the bound, nothing lost."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from faults.fleet import MAX_STALENESS, Fleet, Report
from servers import RedisSentinel, RedisServer, TcpProxy, wait_until
from tiercast.coherence.redis_scripts import LogKeys

pytestmark = [pytest.mark.fault, pytest.mark.timeout(110)]


def conclude(fleet: Fleet, fault: str) -> Report:
    report = fleet.finish(fault)
    fleet.verify(report)
    return report


def test_a_worker_is_killed_and_started_again(own_redis: RedisServer, tmp_path: Path) -> None:
    """SIGKILL at any moment: leases, half-done writes and outbox rows of the dead harm nobody."""
    with Fleet(tmp_path, [own_redis.url]) as fleet:

        def kill() -> None:
            member = fleet.random.randrange(4)
            fleet.kill(member)
            fleet.pause(0.0, 0.4)
            fleet.start(member)

        fleet.inject(kill, least=0.5, most=1.2)
        conclude(fleet, "SIGKILL of a worker")


def test_a_worker_is_stopped_for_longer_than_max_staleness(own_redis: RedisServer, tmp_path: Path) -> None:
    """SIGSTOP, SIGCONT: who wakes serves nothing that it cannot prove."""
    with Fleet(tmp_path, [own_redis.url]) as fleet:

        def stop() -> None:
            member = fleet.random.randrange(4)
            fleet.signal(member, signal.SIGSTOP)
            fleet.pause(MAX_STALENESS + 0.1, MAX_STALENESS + 1.0)
            fleet.signal(member, signal.SIGCONT)

        fleet.inject(stop, least=0.1, most=0.4)
        conclude(fleet, "SIGSTOP of a worker")


def test_redis_restarts_with_its_data(tmp_path: Path) -> None:
    """An append-only file brings everything back, in another life of the server: a new epoch."""
    with RedisServer(options={"appendonly": "yes", "appendfsync": "always"}) as server:
        with Fleet(tmp_path, [server.url]) as fleet:

            def restart() -> None:
                server.kill()
                fleet.pause(0.0, 0.5)
                server.start()

            fleet.inject(restart, least=0.8, most=1.6)
            report = conclude(fleet, "Redis restarts with data")
            assert report.counts["epoch_changes"] >= fleet.faults


def test_redis_restarts_empty(own_redis: RedisServer, tmp_path: Path) -> None:
    """All is gone, the log included."""
    with Fleet(tmp_path, [own_redis.url]) as fleet:

        def restart() -> None:
            own_redis.kill()
            fleet.pause(0.0, 0.5)
            own_redis.start()

        fleet.inject(restart, least=0.8, most=1.6)
        report = conclude(fleet, "Redis restarts empty")
        assert report.counts["epoch_changes"] >= fleet.faults


def test_redis_restarts_from_an_older_snapshot(own_redis: RedisServer, tmp_path: Path) -> None:
    """It comes back as it was a moment ago, and others write past the old head: the same positions, other records."""
    with Fleet(tmp_path, [own_redis.url]) as fleet:

        def restart() -> None:
            own_redis.execute("SAVE")
            fleet.pause(0.2, 0.6)
            own_redis.kill()
            own_redis.start()

        fleet.inject(restart, least=0.4, most=1.2)
        report = conclude(fleet, "Redis restarts from older data")
        assert report.counts["epoch_changes"] >= fleet.faults


def test_failover_to_a_replica_that_lacks_the_last_records(own_sentinel: RedisSentinel, tmp_path: Path) -> None:
    """The replica is cut off, the master goes on and dies, the replica is promoted, the dead master comes back."""
    with Fleet(tmp_path, [own_sentinel.url]) as fleet:

        def fail_over() -> None:
            master, replica = own_sentinel.master, own_sentinel.replica
            replica.pause()
            master.execute("CLIENT", "KILL", "TYPE", "replica")
            fleet.pause(0.2, 0.5)
            master.kill()
            replica.resume()
            own_sentinel.wait_failover(master, 30)
            fleet.pause(0.2, 0.8)
            master.start()
            wait_until(lambda: master.execute("INFO", "replication").get("master_link_status") == "up", 30, "a replica")

        fleet.inject(fail_over, least=0.2, most=0.6)
        report = conclude(fleet, "failover to a replica that lags")
        assert report.counts["epoch_changes"] >= fleet.faults


@pytest.mark.parametrize("kind", ["pubsub", "normal"])
def test_connections_are_killed(own_redis: RedisServer, tmp_path: Path, kind: str) -> None:
    """CLIENT KILL: what was published meanwhile is read from the log."""
    with Fleet(tmp_path, [own_redis.url]) as fleet:
        fleet.inject(lambda: own_redis.execute("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"), least=0.05, most=0.5)
        conclude(fleet, f"CLIENT KILL TYPE {kind}")


def test_everything_is_flushed(own_redis: RedisServer, tmp_path: Path) -> None:
    """FLUSHALL takes log, stamps and values while everybody is connected."""
    with Fleet(tmp_path, [own_redis.url]) as fleet:
        fleet.inject(lambda: own_redis.execute("FLUSHALL"), least=0.2, most=1.0)
        report = conclude(fleet, "FLUSHALL")
        assert report.counts["epoch_changes"] >= fleet.faults


def test_output_buffers_overflow(own_redis: RedisServer, tmp_path: Path) -> None:
    """A tiny limit: subscribers are thrown out in the middle of a message, some of them while they are stopped."""
    own_redis.execute("CONFIG", "SET", "client-output-buffer-limit", "pubsub 20000 20000 1")
    bus = LogKeys.of("faults").bus
    with Fleet(tmp_path, [own_redis.url]) as fleet:

        def overflow() -> None:
            own_redis.execute("PUBLISH", bus, "x" * 100_000)

        def overflow_of_one() -> None:
            member = fleet.random.randrange(4)
            fleet.signal(member, signal.SIGSTOP)
            fleet.pause(0.3, 0.6)
            fleet.signal(member, signal.SIGCONT)

        fleet.inject(overflow, overflow_of_one, least=0.2, most=0.6)
        conclude(fleet, "output buffers overflow")


@pytest.mark.parametrize("fault", ["blackhole", "delay", "cut"])
def test_the_wire_is_faulty(own_redis: RedisServer, tmp_path: Path, fault: str) -> None:
    """Half of the workers reach Redis by a wire that drops silently, delays, or cuts in the middle of a message."""
    with TcpProxy(own_redis.url) as wire:

        def blackhole() -> None:
            wire.blackhole()
            time.sleep(fleet.random.choice([0.3, MAX_STALENESS + 0.5, MAX_STALENESS + 1.2]))
            wire.pass_through()

        def delay() -> None:
            wire.delay(0.2)
            fleet.pause(0.5, 2.5)
            wire.pass_through()

        def cut() -> None:
            for _ in range(fleet.random.randrange(1, 6)):
                wire.cut_mid_message(fleet.random.choice([0, 1, 2, 5, 17, 60]))
                fleet.pause(0.0, 0.05)

        with Fleet(tmp_path, [own_redis.url, wire.url, wire.url, own_redis.url]) as fleet:
            faults: dict[str, Callable[[], None]] = {"blackhole": blackhole, "delay": delay, "cut": cut}
            fleet.inject(faults[fault], least=0.1, most=0.5)
            names = {"blackhole": "silent blackhole", "delay": "200 ms delay", "cut": "cut in a message"}
            conclude(fleet, names[fault])


@pytest.mark.parametrize("restarts", [False, True], ids=["", "restarts"])
def test_one_process_writes_alone(own_redis: RedisServer, tmp_path: Path, *, restarts: bool) -> None:
    """So that it hardly needs the append script, whatever happens to its connection, to the log's keys, and to itself."""
    keys = LogKeys.of("faults")
    with TcpProxy(own_redis.url) as wire, Fleet(tmp_path, [wire.url, own_redis.url], writers=1) as fleet:

        def kill() -> None:
            fleet.kill(0)
            fleet.start(0)

        def restart() -> None:
            own_redis.execute("SAVE")
            fleet.pause(0.0, 0.4)
            own_redis.restart(empty=fleet.random.random() < 0.5)

        def lose() -> None:
            own_redis.execute("DEL", fleet.random.choice(keys.four()))

        faults = [restart] if restarts else [
            kill, lose, wire.reset, lambda: wire.cut_mid_message(fleet.random.choice([0, 1, 5, 17, 60])),
            lambda: own_redis.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"),
            lambda: own_redis.execute("FLUSHALL"),
        ]  # fmt: skip
        fleet.inject(*faults, least=0.1, most=0.6)
        said = own_redis.execute("INFO", "commandstats")
        conclude(fleet, f"one writes, {'restarts' if restarts else 'all sorts'}")
    # Each question to the script has a transaction of its own, an empty one.
    assert restarts or said["cmdstat_exec"]["calls"] - said["cmdstat_unwatch"]["calls"] > 20


def test_the_harness_finds_a_cache_that_trusts_for_ever(own_redis: RedisServer, tmp_path: Path) -> None:
    """A run in which nothing can be found proves nothing: with proofs that never end, a partition breaks reads."""
    with (
        TcpProxy(own_redis.url) as wire,
        Fleet(tmp_path, [own_redis.url, wire.url, wire.url, own_redis.url], mutant="trust for ever") as fleet,
    ):
        wire.blackhole()
        fleet.wait(lambda: fleet.board.total("broken"), "a broken read", 4 * MAX_STALENESS)


def test_the_harness_finds_a_cache_that_forgets_to_remove(own_redis: RedisServer, tmp_path: Path) -> None:
    """With key records that remove nothing, reads are broken without any fault."""
    with Fleet(tmp_path, [own_redis.url], mutant="forget to remove") as fleet:
        fleet.wait(lambda: fleet.board.total("broken"), "a broken read", 4 * MAX_STALENESS)
