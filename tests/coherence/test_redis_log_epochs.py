"""When the Redis log's epoch ends, and on which servers it works."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from redis_logs import Opener, append, blob, head, key, opening, tag
from servers import RedisSentinel, RedisServer, wait_until
from tiercast.clock import SystemClock
from tiercast.coherence import redis_scripts
from tiercast.coherence.log import Beat, LogUnavailable, Write
from tiercast.coherence.records import decode_message
from tiercast.coherence.redis_log import RedisLog
from tiercast.config import CoherenceConfig, DistributedCacheConfig
from tiercast.connections import RedisConnections
from tiercast.plans import Plan, drive

KEYS = ("log", "stream", "stamps", "members")


@pytest.fixture
def opened() -> Iterator[Opener]:
    """Opens logs and closes their connections after the test."""
    with opening() as make:
        yield make


@pytest.fixture
def log(opened: Opener, redis_url: str) -> RedisLog:
    """A log on the shared, empty server."""
    return opened(redis_url)


# -- epochs ---


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("damage", ["DEL", "type"])
def test_the_loss_of_any_one_key_is_seen(log: RedisLog, redis_server: RedisServer, name: str, damage: str) -> None:
    """By every operation: the epoch ends, and with it all that was cached."""
    epoch = append(log, key("a"), tag("t")).tail.head.epoch
    drive(log.beat(Beat("m:1:a", epoch, 2, 10.0)))
    redis_server.execute("DEL", f"tiercast:{{shop}}:{name}")
    if damage == "type":
        redis_server.execute("SADD", f"tiercast:{{shop}}:{name}", "x")
    pulse = drive(log.beat(Beat("m:1:a", epoch, 2, 10.0)))
    assert pulse.tail.head.epoch != epoch
    assert pulse.tail.records is None
    assert drive(log.snapshot()).stamps == ()
    assert append(log, key("b"), since=(pulse.tail.head.epoch, 0)).position == 1


@pytest.mark.parametrize("name", KEYS)
def test_an_append_sees_that_a_key_is_gone(log: RedisLog, redis_server: RedisServer, name: str) -> None:
    """It looks only whether they are there; that is enough to hand out no position of an epoch that lost something."""
    epoch = append(log, key("a"), tag("t")).tail.head.epoch
    redis_server.execute("DEL", f"tiercast:{{shop}}:{name}")
    done = append(log, key("b"), since=(epoch, 2))
    assert done.tail.head.epoch != epoch
    assert (done.position, done.tail.records) == (1, None)


def test_another_replication_id_ends_the_epoch_for_an_append(log: RedisLog, redis_server: RedisServer) -> None:
    """A server takes a new one whenever it starts or is promoted; another run id alone is seen by all else."""
    epoch = append(log, key("a")).tail.head.epoch
    redis_server.execute("HSET", "tiercast:{shop}:log", "run_id", "0" * 40)
    assert append(log, key("b"), since=(epoch, 1)).tail.head.epoch == epoch
    after = head(log).epoch
    assert after != epoch
    redis_server.execute("HSET", "tiercast:{shop}:log", "master_replid", "0" * 40)
    done = append(log, key("c"), since=(after, 0))
    assert (done.tail.head.epoch != after, done.position) == (True, 1)


def test_a_server_draws_a_new_replication_id_when_it_starts(own_redis: RedisServer) -> None:
    """On which appends rely."""
    own_redis.execute("SET", "key", "value")
    before = own_redis.execute("INFO", "replication")["master_replid"]
    own_redis.restart()
    assert own_redis.execute("GET", "key") == "value"
    assert own_redis.execute("INFO", "replication")["master_replid"] != before


@pytest.mark.parametrize("operation", ["append", "read", "beat", "snapshot", "members"])
def test_flushall_begins_a_new_epoch_whoever_notices(log: RedisLog, redis_server: RedisServer, operation: str) -> None:
    """Each operation looks before it answers."""
    epoch = append(log, key("a")).tail.head.epoch
    redis_server.execute("FLUSHALL")
    plans: dict[str, Callable[[], Plan[Any]]] = {
        "append": lambda: log.append([key("b")], (epoch, 1)),
        "read": lambda: log.read((epoch, 1)),
        "beat": lambda: log.beat(Beat("m", epoch, 1, 5.0)),
        "snapshot": log.snapshot,
        "members": log.members,
    }
    drive(plans[operation]())
    after = head(log)
    assert after.epoch != epoch
    assert after.position == (1 if operation == "append" else 0)


@pytest.mark.parametrize("how", ["empty", "with data", "older snapshot"])
def test_a_restart_begins_a_new_epoch(opened: Opener, own_redis: RedisServer, how: str) -> None:
    """Also where all data came back, and where others then write past the old head."""
    log = opened(own_redis.url)
    epoch = append(log, key("a"), tag("t")).tail.head.epoch
    if how == "older snapshot":
        own_redis.execute("SAVE")
        append(log, key("lost"))
        own_redis.kill()
        own_redis.start()
    else:
        own_redis.restart(empty=how == "empty")
    other = opened(own_redis.url)
    for name in "uvwxy":
        append(other, key(name))
    tail = drive(log.read((epoch, 2)))
    assert tail.head.epoch != epoch
    assert tail.head.position == 5
    assert tail.records is None


def test_trust_keeps_the_epoch_over_a_restart_that_lost_nothing(opened: Opener, own_redis: RedisServer) -> None:
    """And ends it where the head stands before what a process has applied, or a part is missing."""
    log = opened(own_redis.url, failover="trust")
    epoch = append(log, key("a"), tag("t")).tail.head.epoch
    own_redis.restart()
    tail = drive(log.read((epoch, 1)))
    assert (tail.head.epoch, tail.head.position, len(tail.records or ())) == (epoch, 2, 1)
    own_redis.execute("SAVE")
    append(log, key("lost"))
    own_redis.kill()
    own_redis.start()
    assert head(log).epoch == epoch
    assert drive(log.read((epoch, 3))).head.epoch != epoch
    epoch = head(log).epoch
    own_redis.restart(empty=True)
    assert head(log).epoch != epoch


@pytest.mark.fault
def test_a_failover_to_a_replica_without_the_last_records_is_seen(opened: Opener, own_sentinel: RedisSentinel) -> None:
    """Although others have written just as many records on the new master since."""
    log = opened(own_sentinel.url)
    epoch = append(log, key("a")).tail.head.epoch
    old, replica = own_sentinel.master, own_sentinel.replica
    wait_until(lambda: replica.execute("EXISTS", "tiercast:{shop}:log"), what="the replica's copy")
    replica.pause()
    append(log, key("lost"))
    old.kill()
    replica.resume()
    own_sentinel.wait_failover(old)
    other = opened(own_sentinel.url)

    def answers(log: RedisLog) -> bool:
        with contextlib.suppress(LogUnavailable):
            return bool(head(log))
        return False

    wait_until(lambda: answers(other) and answers(log), what="answers of the new master")
    append(other, key("x"))
    append(other, key("y"))
    tail = drive(log.read((epoch, 2)))
    assert tail.head.epoch != epoch
    assert tail.records is None


def test_a_replica_is_never_taken_for_the_log(opened: Opener, redis_sentinel: RedisSentinel) -> None:
    """It would answer with what it has."""
    append(opened(redis_sentinel.url), key("a"))
    replica = redis_sentinel.replica
    with pytest.raises(LogUnavailable):
        head(opened(replica.url))


def test_a_master_cut_off_from_its_replicas_cannot_prove(opened: Opener, own_redis: RedisServer) -> None:
    """The heartbeat writes, so min-replicas-to-write fails it."""
    log = opened(own_redis.url)
    epoch = head(log).epoch
    own_redis.execute("CONFIG", "SET", "min-replicas-to-write", "1")
    with pytest.raises(LogUnavailable):
        drive(log.beat(Beat("m", epoch, 0, 5.0)))


def test_a_full_server_refuses_without_losing_the_log(opened: Opener, own_redis: RedisServer) -> None:
    """OOM under noeviction: nothing half-written, the epoch goes on."""
    log = opened(own_redis.url)
    epoch = append(log, key("a")).tail.head.epoch
    own_redis.execute("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(LogUnavailable):
        append(log, key("b"))
    own_redis.execute("CONFIG", "SET", "maxmemory", "0")
    assert append(log, key("c"), since=(epoch, 1)).position == 2
    assert [record.targets for record in drive(log.read((epoch, 0))).records or ()] == [("|a",), ("|c",)]


def test_a_server_that_hides_info_is_refused_unless_trusted(opened: Opener, own_redis: RedisServer) -> None:
    """Without run ids nothing tells one life of the server from the next."""
    own_redis.execute("ACL", "SETUSER", "default", "-info")
    with pytest.raises(LogUnavailable, match="INFO"):
        head(opened(own_redis.url))
    trusting = opened(own_redis.url, failover="trust")
    assert append(trusting, key("a")).position == 1
    assert append(trusting, key("a")).position == 2


def test_two_fleets_on_one_redis_do_not_see_each_other(opened: Opener, redis_url: str) -> None:
    """Neither records, nor members, nor stamps, nor messages."""
    shop, bank = opened(redis_url, "shop"), opened(redis_url, "bank")
    bus = bank.listen()
    append(shop, key("a"), tag("t"))
    drive(shop.beat(Beat("m", head(shop).epoch, 2, 5.0)))
    assert head(bank).epoch != head(shop).epoch
    assert head(bank).position == 0
    assert drive(bank.members()) == ()
    assert drive(bank.snapshot()).stamps == ()
    assert bus.poll(0.2) == []
    bus.close()


# -- other servers ---


def test_the_log_works_in_a_cluster(opened: Opener, redis_cluster_url: str) -> None:
    """One slot for all its keys, and no L3 half."""
    log = opened(redis_cluster_url)
    epoch = head(log).epoch
    done = append(log, key("a"), tag("t"), since=(epoch, 0), writes=(Write("default:|a", blob(), 5000, 0),))
    assert (log.atomic_writes, done.written, done.tail.head.carried) == (False, False, 0)
    assert drive(log.first_seen(epoch, ["one life"])) == 2
    append(log, key("b"), since=(epoch, 2))
    assert drive(log.first_seen(epoch, ["one life"])) == 2
    assert drive(log.first_seen(epoch, ["one life", "another"])) == 3


def test_the_log_works_on_fakeredis() -> None:
    """It has no INFO, and needs none: it lives as long as this process."""
    fakeredis = pytest.importorskip("fakeredis")
    connections = RedisConnections(DistributedCacheConfig(client=fakeredis.FakeRedis()))
    log = RedisLog(connections, "shop", CoherenceConfig(), SystemClock())
    epoch = head(log).epoch
    bus = log.listen()
    bury = Write("default:|a", None, 0, 1000)
    assert append(log, key("a"), tag("t"), since=(epoch, 0), writes=(bury,)).written is True
    (message,) = bus.poll(1.0)
    assert decode_message(message) == drive(log.read((epoch, 0))).records
    assert len(drive(log.beat(Beat("m", epoch, 0, 5.0))).members) == 1
    assert len(drive(log.snapshot()).stamps) == 1
    bus.close()


def test_a_fleets_name_must_be_encoded() -> None:
    """A brace in it could move a key to another slot, or onto another fleet's."""
    for name in ("", "a{b", "a}b"):
        with pytest.raises(ValueError, match="encoded"):
            redis_scripts.LogKeys.of(name)


def test_options_are_json_that_lua_reads_exactly() -> None:
    """Positions below 2^53 pass through its doubles."""
    standing = redis_scripts.standing_options(redis_scripts.Limits(retention=1.5))
    options = json.loads(redis_scripts.options(standing, ("e", 2**53 - 1), b',"lease":2'))
    assert options == {"epoch": "e", "position": 2**53 - 1, "retention": 1500, "lease": 2}
    options = json.loads(redis_scripts.options(redis_scripts.standing_options(redis_scripts.Limits()), ('","x', 0)))
    assert options == {"epoch": "", "position": 0}
