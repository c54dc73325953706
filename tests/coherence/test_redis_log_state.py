"""What the Redis log keeps beside the records: stamps, how far it is carried, the L3 half, members."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from redis_logs import Opener, append, blob, head, key, opening, raw, tag
from servers import RedisServer
from tiercast.coherence import redis_scripts
from tiercast.coherence.log import Beat, Write
from tiercast.coherence.records import Draft, Kind, Record
from tiercast.coherence.redis_log import RedisLog
from tiercast.plans import drive


@pytest.fixture
def opened() -> Iterator[Opener]:
    """Opens logs and closes their connections after the test."""
    with opening() as make:
        yield make


@pytest.fixture
def log(opened: Opener, redis_url: str) -> RedisLog:
    """A log on the shared, empty server."""
    return opened(redis_url)


# -- stamps ---


def test_a_snapshot_holds_each_stamp_at_its_newest_position(log: RedisLog) -> None:
    """Kind, region, target and hardness tell stamps apart, whatever characters they are made of."""
    epoch = head(log).epoch
    append(log, key("k"), tag("a|b", "a"), tag("a", soft=True), tag("a", region="r|%7C%"), tag("a"))
    append(log, Draft(Kind.SCOPE, "", ("",)), Draft(Kind.PATTERN, "r", ("|x*",)), Draft(Kind.ALL, "", ()))
    snapshot = drive(log.snapshot())
    assert snapshot.head.position == 8
    assert snapshot.floor == 0
    expected = {
        Record(Kind.TAG, "", ("a|b",), epoch=epoch, position=2),
        Record(Kind.TAG, "", ("a",), soft=True, epoch=epoch, position=3),
        Record(Kind.TAG, "r|%7C%", ("a",), epoch=epoch, position=4),
        Record(Kind.TAG, "", ("a",), epoch=epoch, position=5),
        Record(Kind.SCOPE, "", ("",), epoch=epoch, position=6),
        Record(Kind.PATTERN, "r", ("|x*",), epoch=epoch, position=7),
        Record(Kind.ALL, "", (), epoch=epoch, position=8),
    }
    assert expected == set(snapshot.stamps)
    assert len(snapshot.stamps) == len(expected)


def test_many_stamps_come_by_pages(log: RedisLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where one record set more of them than a page holds."""
    monkeypatch.setattr(redis_scripts, "STAMPS_A_PAGE", 3)
    append(
        log, tag("first"), tag(*(f"many{number}" for number in range(10))), *(tag(f"t{number}") for number in range(7))
    )
    stamps = {stamp.targets[0]: stamp.position for stamp in drive(log.snapshot()).stamps}
    expected = (
        {"first": 1} | {f"many{number}": 2 for number in range(10)} | {f"t{number}": 3 + number for number in range(7)}
    )
    assert expected == stamps


def test_a_stamp_that_moves_between_two_pages_is_not_missed(log: RedisLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts as of the snapshot's head: never later, so that the record itself is still to be applied."""
    monkeypatch.setattr(redis_scripts, "STAMPS_A_PAGE", 2)
    append(log, *(tag(f"t{number}") for number in range(4)))
    plan = log.snapshot()
    reply = next(plan).run()
    append(log, tag("t3"), tag("t0"))
    request = plan.send(reply)
    try:
        while True:
            request = plan.send(request.run())
    except StopIteration as stop:
        snapshot = stop.value
    assert snapshot.head.position == 4
    assert {stamp.targets[0]: stamp.position for stamp in snapshot.stamps} == {"t0": 4, "t1": 2, "t2": 3, "t3": 4}


def test_an_epoch_that_ends_between_two_pages_starts_the_snapshot_anew(
    log: RedisLog, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stamps of two epochs are never mixed."""
    monkeypatch.setattr(redis_scripts, "STAMPS_A_PAGE", 2)
    append(log, *(tag(f"t{number}") for number in range(4)))
    plan = log.snapshot()
    reply = next(plan).run()
    redis_server.execute("FLUSHALL")
    append(log, tag("new"))
    request = plan.send(reply)
    try:
        while True:
            request = plan.send(request.run())
    except StopIteration as stop:
        snapshot = stop.value
    assert (snapshot.head.epoch, [stamp.targets for stamp in snapshot.stamps]) == (head(log).epoch, [("new",)])


def test_too_many_stamps_become_the_floor(opened: Opener, redis_url: str) -> None:
    """The oldest go, and what was born before the newest of them counts as dead."""
    log = opened(redis_url, stamps=8)
    for number in range(20):
        append(log, tag(f"t{number}"))
    snapshot = drive(log.snapshot())
    kept = sorted(stamp.position for stamp in snapshot.stamps)
    assert len(kept) <= 8
    assert kept == list(range(snapshot.floor + 1, 21))


def test_pruning_forgets_old_stamps_without_raising_the_floor(log: RedisLog) -> None:
    """And only in the epoch that was meant."""
    epoch = head(log).epoch
    append(log, tag("a"), tag("b"), tag("c"))
    assert drive(log.prune("0123456789abcdef", 3)) == 0
    assert drive(log.prune(epoch, 3)) == 2
    snapshot = drive(log.snapshot())
    assert ([stamp.targets for stamp in snapshot.stamps], snapshot.floor) == ([("c",)], 0)
    assert snapshot.head.epoch == epoch


# -- carrying and trimming ---


def test_what_has_not_been_carried_is_not_trimmed(opened: Opener, redis_url: str, redis_server: RedisServer) -> None:
    """Key records without their L3 half wait for the carrier, however long the log grows."""
    log = opened(redis_url, key_ring=10)
    epoch = head(log).epoch
    for number in range(80):
        append(log, key(f"k{number}"))
    assert redis_server.execute("XLEN", "tiercast:{shop}:stream") >= 80
    assert len(drive(log.read((epoch, 0))).records or ()) == 80
    drive(log.carry(epoch, 60))
    assert drive(log.read((epoch, 0))).records is None
    assert [record.position for record in drive(log.read((epoch, 60))).records or ()] == list(range(61, 81))


def test_old_records_go_after_the_retention(opened: Opener, redis_url: str) -> None:
    """What is carried and older than the retention goes, but for the newest record."""
    log = opened(redis_url, retention=0.001)
    epoch = head(log).epoch
    for number in range(70):
        append(log, tag(f"t{number % 3}"))
    tail = drive(log.read((epoch, 63)))
    assert tail.head.carried == 70
    assert len(tail.records or ()) == 7
    assert drive(log.read((epoch, 0))).records is None


@pytest.mark.parametrize(("bounds", "most"), [({"retention": 0.001}, 80), ({"key_ring": 100}, 180)])
def test_the_log_is_cut_to_its_bounds_however_much_is_over(
    opened: Opener, redis_url: str, redis_server: RedisServer, bounds: dict[str, float], most: int
) -> None:
    """A backlog that was carried late goes within a few appends, and nothing that may stay goes with it."""
    log = opened(redis_url, **bounds)
    epoch = head(log).epoch
    append(log, *(key(f"k{number}") for number in range(700)))
    assert redis_server.execute("XLEN", "tiercast:{shop}:stream") >= 700
    drive(log.carry(epoch, 600))
    for number in range(300):
        append(log, tag(f"t{number % 3}"))
    assert len(drive(log.read((epoch, 600))).records or ()) == 400
    drive(log.carry(epoch, 1000))
    for number in range(300):
        append(log, tag(f"t{number % 3}"))
    assert redis_server.execute("XLEN", "tiercast:{shop}:stream") <= most


def test_a_log_that_nobody_carries_ends_its_epoch_instead_of_growing_for_ever(opened: Opener, redis_url: str) -> None:
    """At ten times its length."""
    log = opened(redis_url, key_ring=5)
    epoch = head(log).epoch
    for number in range(60):
        append(log, key(f"k{number}"))
    assert head(log).epoch != epoch
    assert head(log).position < 60


def test_carried_is_monotone_and_of_one_epoch(log: RedisLog) -> None:
    """It never goes back, nor beyond the head, nor over from another epoch."""
    epoch = head(log).epoch
    append(log, key("a"), key("b"), key("c"))
    drive(log.carry(epoch, 2))
    drive(log.carry(epoch, 1))
    drive(log.carry(epoch, 99))
    drive(log.carry("0123456789abcdef", 3))
    assert head(log).carried == 2


def test_carried_follows_by_itself_where_nothing_is_left_to_carry(log: RedisLog) -> None:
    """Tags need none, and the script did the L3 half of the key; a key record without it stops the pace."""
    epoch = head(log).epoch
    bury = Write("default:|a", None, 0, 1000)
    assert append(log, tag("t")).tail.head.carried == 1
    assert append(log, key("a"), since=(epoch, 1), writes=(bury,)).tail.head.carried == 2
    assert append(log, key("b"), since=(epoch, 2), writes=(bury,)).tail.head.carried == 2
    assert append(log, tag("t"), since=(epoch, 3)).tail.head.carried == 2
    drive(log.carry(epoch, 4))
    assert append(log, tag("t"), since=(epoch, 4)).tail.head.carried == 5


# -- the L3 half ---


def test_the_value_of_a_set_is_stored_with_its_records_position(log: RedisLog, redis_server: RedisServer) -> None:
    """In the same step; `born` and the fence's end are filled in, the rest is untouched."""
    epoch = head(log).epoch
    append(log, tag("t"))
    done = append(log, key("a"), since=(epoch, 1), writes=(Write("default:|a", blob(), 5000, 60_000),))
    assert done.written is True
    with raw(redis_server) as client:
        stored, left = client.get(f"shop:{epoch}:default:|a"), client.pttl(f"shop:{epoch}:default:|a")
    ends = int(stored[20:36], 16) / 1000
    assert stored == blob(born=2, fence=int(stored[20:36], 16))
    assert 59 <= ends - done.tail.head.time <= 61
    assert 59_000 <= left <= 60_000


def test_a_burial_leaves_a_fence(log: RedisLog, redis_server: RedisServer) -> None:
    """A tombstone with the record's position, for as long as the fence lasts or an older fence did."""
    epoch = head(log).epoch
    append(log, key("a"), since=(epoch, 0), writes=(Write("default:|a", blob(), 1000, 60_000),))
    append(log, key("a"), since=(epoch, 1), writes=(Write("default:|a", None, 0, 1000),))
    with raw(redis_server) as client:
        stored, left = client.get(f"shop:{epoch}:default:|a"), client.pttl(f"shop:{epoch}:default:|a")
    assert stored[:20] == b"TC12%016x" % 2
    assert len(stored) == len(redis_scripts.TOMBSTONE)
    assert left > 50_000


def test_the_l3_half_never_replaces_what_was_born_later(log: RedisLog, redis_server: RedisServer) -> None:
    """And overwrites whatever is of no known form."""
    epoch = head(log).epoch
    name = f"shop:{epoch}:default:|a"
    with raw(redis_server) as client:
        client.set(name, blob(born=900), px=1000)
        append(log, key("a"), since=(epoch, 0), writes=(Write("default:|a", blob(), 5000, 9000),))
        standing = client.get(name)
        assert standing == blob(born=900, fence=int(standing[20:36], 16))
        assert client.pttl(name) > 8000
        for foreign in ("SET", "SADD"):
            client.delete(name)
            client.execute_command(foreign, name, "foreign")
            append(log, key("a"), since=(epoch, 0), writes=(Write("default:|a", blob(), 5000, 0),))
            assert client.get(name)[:4] == b"TC10"


def test_a_value_without_an_end_gets_none(log: RedisLog, redis_server: RedisServer) -> None:
    """A ttl of 0 is for as long as Redis likes, whatever the fence."""
    epoch = head(log).epoch
    append(log, key("a"), since=(epoch, 0), writes=(Write("default:|a", blob(), 0, 1000),))
    assert redis_server.execute("PTTL", f"shop:{epoch}:default:|a") == -1


def test_the_l3_half_is_skipped_in_another_epoch(log: RedisLog, redis_server: RedisServer) -> None:
    """The keys' names hold the epoch that the caller knew."""
    head(log)
    done = append(log, key("a"), since=("0123456789abcdef", 0), writes=(Write("default:|a", blob(), 5000, 0),))
    assert done.written is False
    assert redis_server.execute("EXISTS", "shop:0123456789abcdef:default:|a") == 0


# -- members ---


def test_a_beat_renews_the_lease_and_brings_the_tail(log: RedisLog) -> None:
    """Leases are counted by the server's clock; a member that leaves is forgotten."""
    epoch = head(log).epoch
    append(log, key("a"), key("b"))
    pulse = drive(log.beat(Beat("h:1:a", epoch, 1, 10.0, '{"x":"a|b"}')))
    assert [record.position for record in pulse.tail.records or ()] == [2]
    drive(log.beat(Beat("h:2:b", epoch, 2, -1.0)))
    first, second = sorted(drive(log.members()), key=lambda member: member.name)
    assert (first.name, first.epoch, first.applied, first.digest) == ("h:1:a", epoch, 1, '{"x":"a|b"}')
    assert -10.1 < first.lapsed < -9.0
    assert 1.0 <= second.lapsed < 2.0
    drive(log.leave("h:1:a"))
    assert [member.name for member in drive(log.members())] == ["h:2:b"]


def test_an_epoch_after_another_speaks_of_members_it_may_not_know(
    log: RedisLog, opened: Opener, redis_server: RedisServer, redis_url: str
) -> None:
    """For max_staleness, as one that lapsed: a barrier has to wait that out."""
    epoch = head(log).epoch
    assert drive(log.members()) == ()
    redis_server.execute("FLUSHALL")
    append(log, key("a"), since=(epoch, 0))
    (stranger,) = drive(log.members())
    assert (stranger.name, stranger.epoch) == (redis_scripts.STRANGER, "")
    assert 0 <= stranger.lapsed < 5
    assert drive(opened(redis_url, heartbeat=0.0001, max_staleness=0.0002).members()) == ()
