"""The remote tier on real servers: its Lua rules, its faults, its speed of failing."""

from __future__ import annotations

import asyncio
import math
import socket
import time
from dataclasses import replace

import pytest

from servers import wait_until
from tiercast import keys
from tiercast.config.settings import DistributedCacheConfig
from tiercast.connections import RedisConnections
from tiercast.plans import drive, drive_async
from tiercast.tiers.base import Guard, Put
from tiercast.tiers.entry import Address, Envelope
from tiercast.tiers.envelope import pack, peek
from tiercast.tiers.redis import FAILED_SCAN, RedisTier

EPOCH = "e1"
HERE = Address("users", "organization:1", "user:1")
NO_GUARD = Guard()


def envelope(born, payload=b"value", *, keep=3600.0, address=HERE, epoch=EPOCH, **changes):
    now = time.time()
    made = Envelope(
        epoch, born, now, now + min(keep, 60.0), now + keep, 60.0, 0.01, address.scope, ("t",), 1, False, 0, "",
        address.key, payload,
    )  # fmt: skip
    return replace(made, **changes)


@pytest.fixture
def make():
    made = []

    def tier(url=None, **options):
        settings = DistributedCacheConfig(connection_string=url, **options)
        made.append(RedisConnections(settings))
        return RedisTier(made[-1], "fleet", settings)

    yield tier
    for connections in made:
        connections.close()


@pytest.fixture(params=["server", "fakeredis"])
def tier(request, make):
    if request.param == "server":
        return make(request.getfixturevalue("redis_url"))
    fakeredis = pytest.importorskip("fakeredis")
    return make(client=fakeredis.FakeRedis(server=fakeredis.FakeServer()))


def put(tier, one, guard=NO_GUARD, address=HERE):
    return drive(tier.put_if_newer(address, one, guard))


def get(tier, address=HERE, epoch=EPOCH):
    reading = drive(tier.get_many([address], epoch))
    assert not reading.failed
    return reading.found.get(address)


def remaining(tier, address=HERE):
    return tier.connections.execute([("PTTL", tier.key_of(address, EPOCH))])[0] / 1000


def raw(tier, address=HERE):
    return tier.connections.execute([("GET", tier.key_of(address, EPOCH))])[0]


# -- born ----------------------------------------------------------------------------------------


def test_what_was_put_is_read_back(tier):
    """The whole envelope, its deadlines in milliseconds."""
    one = envelope(7, bytes(range(256)))
    assert Put.STORED is put(tier, one)
    assert pack(one) == pack(get(tier))


def test_an_older_born_never_replaces_a_newer_one(tier):
    """Whatever the order; numbers of different length too."""
    assert Put.STORED is put(tier, envelope(10))
    assert [Put.NEWER, Put.NEWER] == [put(tier, envelope(born, b"old")) for born in (9, 2)]
    assert b"value" == get(tier).payload
    assert Put.STORED is put(tier, envelope(2**40, b"new"))
    assert b"new" == get(tier).payload


def test_an_equal_born_replaces(tier):
    """Two loads of one state of the origin, or a set at its own record's position: the last one stands."""
    assert [Put.STORED, Put.STORED] == [put(tier, envelope(5, payload)) for payload in (b"one", b"two")]
    assert b"two" == get(tier).payload


def test_another_epoch_is_another_key(tier):
    """Entries of another life of the server are neither found nor in the way."""
    put(tier, envelope(100))
    assert get(tier, epoch="e2") is None
    assert Put.STORED is put(tier, envelope(1, epoch="e2"))
    assert (100, 1) == (get(tier).born, get(tier, epoch="e2").born)


def test_what_is_foreign_is_a_counted_miss_and_is_overwritten(tier):
    """Bytes of no known form, of another entry's name, or a newer version; only the last keeps its born."""
    key = tier.key_of(HERE, EPOCH)
    for blob in (b"", b"garbage", b"TC", pack(envelope(3))[:-1], pack(envelope(3, key="other"))):
        tier.connections.execute([("SET", key, blob)])
        reading = drive(tier.get_many([HERE], EPOCH))
        assert ({}, 1 if blob else reading.corrupt) == (reading.found, reading.corrupt)
        assert Put.STORED is put(tier, envelope(4))
    tier.connections.execute([("SET", key, b"TC9" + pack(envelope(8))[3:])])
    assert (get(tier), Put.NEWER, Put.STORED) == (None, put(tier, envelope(7)), put(tier, envelope(9)))


def test_a_key_of_another_redis_type_is_a_miss(make, redis_url):
    """Somebody's list under our name: no error, and it is replaced."""
    tier = make(redis_url)
    tier.connections.execute([("RPUSH", tier.key_of(HERE, EPOCH), "x")])
    other = Address("users", "", "other")
    put(tier, envelope(1, address=other), address=other)
    assert {other} == drive(tier.get_many([HERE, other], EPOCH)).found.keys()
    assert Put.STORED is put(tier, envelope(1))
    assert b"value" == get(tier).payload


# -- fences --------------------------------------------------------------------------------------


def test_a_tombstone_refuses_the_older_for_its_fence(tier):
    """After a bury at 5 a fill born 4 is refused and one born 5 stored."""
    put(tier, envelope(3))
    drive(tier.bury(HERE, EPOCH, 5, 600))
    assert get(tier) is None
    assert 590 < remaining(tier) <= 600
    assert [Put.NEWER, Put.STORED] == [put(tier, envelope(born)) for born in (4, 5)]


def test_a_short_lived_fill_does_not_end_the_fence(tier):
    """A fill with a TTL of 50 ms over a tombstone expires, and a slower, older one is still refused."""
    drive(tier.bury(HERE, EPOCH, 5, 600))
    assert Put.STORED is put(tier, envelope(6, keep=0.05))
    assert remaining(tier) > 590
    assert 590_000 < peek(raw(tier)).fence - time.time() * 1000 <= 600_000
    wait_until(lambda: get(tier) is None, 5, "the end of the fill")
    assert Put.NEWER is put(tier, envelope(4))


def test_fences_outlive_any_number_of_replacements(tier):
    """Each put takes the rest of the fence along, also through a renewal and a removal."""
    put(tier, envelope(5), Guard(fence=600))
    for born in (6, 7):
        put(tier, envelope(born, keep=1))
    seen = get(tier)
    assert drive(tier.renew(HERE, seen, replace(seen, keep_until=seen.keep_until + 1)))
    assert 1 == drive(tier.remove([HERE], EPOCH))
    assert get(tier) is None
    assert remaining(tier) > 590
    assert Put.NEWER is put(tier, envelope(6))


def test_a_late_burial_fences_what_is_as_new(tier):
    """A newer fill stands when the carrier comes: it stays, and when it ends the older is still refused."""
    put(tier, envelope(7, keep=0.05))
    drive(tier.bury(HERE, EPOCH, 5, 600))
    assert remaining(tier) > 590
    wait_until(lambda: get(tier) is None, 5, "the end of the fill")
    assert [Put.NEWER, Put.STORED] == [put(tier, envelope(born)) for born in (6, 7)]


def test_a_burial_does_not_touch_a_newer_value(tier):
    """Nor one of its own position: the value half of the same set."""
    for position in (5, 7):
        put(tier, envelope(7))
        drive(tier.bury(HERE, EPOCH, position, 600))
        assert b"value" == get(tier).payload


def test_a_shorter_fence_does_not_shorten_a_longer_one(tier):
    """The later end counts."""
    drive(tier.bury(HERE, EPOCH, 5, 600))
    drive(tier.bury(HERE, EPOCH, 6, 1))
    put(tier, envelope(7, keep=1), Guard(fence=2))
    assert remaining(tier) > 590


def test_a_fence_that_has_ended_is_forgotten(tier):
    """A put after it carries no fence, so the entry's own time counts again."""
    put(tier, envelope(5), Guard(fence=0.02))
    time.sleep(0.03)
    put(tier, envelope(6, keep=5))
    assert (0, True) == (peek(raw(tier)).fence, remaining(tier) <= 5)


def test_several_burials_travel_together(tier):
    """The carrier's batch buries each at its own position."""
    places = [Address("r", "", f"k{n}") for n in range(20)]
    assert drive(tier.bury_many([(place, n) for n, place in enumerate(places)], EPOCH, 60))
    assert list(range(20)) == [peek(raw(tier, place)).born for place in places]


# -- time ----------------------------------------------------------------------------------------


def test_a_load_that_took_too_long_is_refused_by_the_servers_clock(tier):
    """Begun more than max_load_time ago by Redis's own TIME: LATE, and nothing changes."""
    seconds, microseconds = tier.connections.execute([("TIME",)])[0]
    now = int(seconds) + int(microseconds) / 1e6
    assert Put.LATE is put(tier, envelope(9), Guard(begun=now - 601))
    assert get(tier) is None
    assert Put.STORED is put(tier, envelope(9), Guard(begun=now - 590))


def test_how_long_redis_keeps_a_key(make, redis_url):
    """Until keep_until, capped by the tier's TTL; without either for ever."""
    capped, free = make(redis_url, ttl=100), make(redis_url, ttl=None)
    put(capped, envelope(1, keep=50))
    assert 49 < remaining(capped) <= 50
    put(capped, envelope(1, keep_until=math.inf))
    assert 99 < remaining(capped) <= 100
    put(free, envelope(1, keep_until=math.inf, fresh_until=math.inf))
    assert -0.001 == remaining(free)
    assert math.inf == get(free).keep_until
    put(free, envelope(1, keep_until=math.inf), Guard(fence=5))
    assert -0.001 == remaining(free)


def test_what_is_past_its_time_is_a_miss(tier):
    """Though Redis holds the key for its fence."""
    put(tier, envelope(1, keep=0.01), Guard(fence=60))
    time.sleep(0.02)
    assert get(tier) is None
    assert raw(tier)


# -- renew, remove -------------------------------------------------------------------------------


def test_renewing_replaces_exactly_what_was_read(tier):
    """Not what was stored since, be it equally born, and not what is gone."""
    put(tier, envelope(5))
    seen = get(tier)
    longer = replace(seen, keep_until=seen.keep_until + 100, fresh_until=seen.fresh_until + 100)
    assert drive(tier.renew(HERE, seen, longer))
    assert longer == get(tier)
    assert not drive(tier.renew(HERE, seen, replace(longer, flags=1)))
    put(tier, envelope(5, b"other"))
    assert not drive(tier.renew(HERE, longer, seen))
    drive(tier.remove([HERE], EPOCH))
    assert not drive(tier.renew(HERE, longer, seen))
    assert get(tier) is None


def test_renewing_is_not_disturbed_by_a_fence(tier):
    """A burial below the entry's born changes its fence and not the entry."""
    put(tier, envelope(5))
    seen = get(tier)
    drive(tier.bury(HERE, EPOCH, 4, 600))
    assert drive(tier.renew(HERE, seen, replace(seen, flags=1)))
    assert 1 == get(tier).flags
    assert remaining(tier) > 590


def test_removing_counts_what_was_there(tier):
    """Entries, not tombstones nor the absent."""
    two = Address("users", "", "two")
    put(tier, envelope(1))
    drive(tier.bury(two, EPOCH, 5, 60))
    assert 1 == drive(tier.remove([HERE, two, Address("users", "", "three")], EPOCH))
    assert (None, 0) == (raw(tier), drive(tier.remove([HERE], EPOCH)))
    assert Put.NEWER is put(tier, envelope(4, address=two), address=two)


def test_too_long_a_value_is_not_stored(make, redis_url):
    """FAILED, counted, and what stands there stays."""
    tier = make(redis_url, max_value_bytes=100)
    put(tier, envelope(1, b"x" * 100))
    assert (Put.FAILED, 1) == (put(tier, envelope(2, b"x" * 101)), tier.oversized.value)
    assert b"x" * 100 == get(tier).payload


def test_the_parts_of_an_atomic_append(tier):
    """Key without fleet and epoch, blob, milliseconds."""
    key, blob, ttl, fence = tier.write_of(HERE, envelope(5, keep=10), 605.0)
    assert (keys.storage_key(*HERE), 605_000) == (key, fence)
    assert (5, True) == (peek(blob).born, 9_000 < ttl <= 10_000)


# -- walking -------------------------------------------------------------------------------------


def walk(tier, epoch=EPOCH, **options):
    cursor, found = 0, {}
    while True:
        cursor, entries = drive(tier.scan(epoch, cursor, **options))
        found.update(entries)
        if cursor <= 0:
            return cursor, found


ODD = [
    Address("users", "organization:1", f"{text}{n}")
    for n, text in enumerate(["a*", "[b]", "c?\\", "d|:/", "e %", "é", "\ud800", "\x00\n", "k" * 500])
]


def test_a_walk_shows_every_live_entry_and_nothing_else(tier):
    """All keys, the oddest and the hashed ones; no tombstone, lease, other epoch or other fleet."""
    for place in ODD:
        assert Put.STORED is put(tier, envelope(1, address=place), address=place)
    drive(tier.bury(HERE, EPOCH, 1, 60))
    drive(tier.lease(HERE, "token", 60))
    put(tier, envelope(1, epoch="e2", address=ODD[0]), address=ODD[0])
    RedisTier(tier.connections, "fleet2", DistributedCacheConfig())
    tier.connections.execute([("SET", f"fleet2:{EPOCH}:users:|k", pack(envelope(1)))])
    cursor, found = walk(tier, count=3)
    assert (0, set(ODD)) == (cursor, set(found))
    assert all(found[place].key == place.key for place in ODD)


def test_a_walk_through_a_cluster(make, redis_cluster_url):
    """Every master's entries, in slices."""
    tier = make(redis_cluster_url)
    places = [Address("r", "", f"k{n}") for n in range(300)]
    for place in places:
        put(tier, envelope(1, address=place), address=place)
    cursor, found = walk(tier, count=20)
    assert (0, set(places)) == (cursor, set(found))


async def test_everything_works_in_a_cluster(make, redis_cluster_url):
    """Reads over all slots in one call, scripts, leases, removal."""
    tier = make(redis_cluster_url)
    places = [Address("r", "", f"k{n}") for n in range(100)]
    puts = await asyncio.gather(
        *(drive_async(tier.put_if_newer(place, envelope(3, address=place), NO_GUARD)) for place in places)
    )
    assert {Put.STORED} == set(puts)
    assert set(places) == drive(tier.get_many(places, EPOCH)).found.keys()
    await drive_async(tier.bury(places[0], EPOCH, 5, 60))
    assert set(places[1:]) == (await drive_async(tier.get_many(places, EPOCH))).found.keys()
    assert drive(tier.lease(places[0], "a", 60))
    assert not drive(tier.lease(places[0], "b", 60))
    assert 99 == drive(tier.remove(places, EPOCH))
    await drive_async(tier.close())


# -- leases --------------------------------------------------------------------------------------


def test_one_holder_has_a_lease(tier):
    """Another is refused until it is given back; giving back another's changes nothing."""
    assert drive(tier.lease(HERE, "a", 60))
    assert drive(tier.lease(HERE, "a", 60)), "the holder asks again after a lost reply"
    assert not drive(tier.lease(HERE, "b", 60))
    drive(tier.release(HERE, "b"))
    assert "a" == drive(tier.peek(HERE))
    assert not drive(tier.renew_lease(HERE, "b", 60))
    assert drive(tier.renew_lease(HERE, "a", 60))
    drive(tier.release(HERE, "a"))
    assert drive(tier.peek(HERE)) is None
    assert drive(tier.lease(HERE, "b", 60))


def test_what_stands_under_the_name_of_a_lease_may_be_anything(tier):
    """Somebody else's bytes are nobody's token, and raise nothing."""
    drive(tier.lease(HERE, "a", 60))
    (name,) = tier.connections.execute([("KEYS", "*lease*")])[0]
    tier.connections.execute([("SET", name, b"\xff\xfe")])
    assert not drive(tier.lease(HERE, "a", 60))
    assert drive(tier.peek(HERE))


def test_a_lease_ends_by_itself(tier):
    """A holder that died loses it."""
    assert drive(tier.lease(HERE, "a", 0.03))
    wait_until(lambda: drive(tier.lease(HERE, "b", 60)), 5, "the end of the lease")


# -- faults --------------------------------------------------------------------------------------


async def fails(tier):
    """Do everything once; returns what came of it and the longest time a read took."""
    one = envelope(1)
    begun = time.perf_counter()
    readings = [drive(tier.get_many([HERE], EPOCH))]
    middle = time.perf_counter()
    readings.append(await drive_async(tier.get_many([HERE], EPOCH)))
    slowest = max(middle - begun, time.perf_counter() - middle)
    assert [(True, {})] * 2 == [(reading.failed, reading.found) for reading in readings]
    assert Put.FAILED is put(tier, one) is await drive_async(tier.put_if_newer(HERE, one, NO_GUARD))
    drive(tier.bury(HERE, EPOCH, 5, 60))
    assert not drive(tier.renew(HERE, one, one))
    assert (0, (FAILED_SCAN, [])) == (drive(tier.remove([HERE], EPOCH)), drive(tier.scan(EPOCH)))
    assert drive(tier.lease(HERE, "a", 60)), "no answer counts as having the lease"
    drive(tier.release(HERE, "a"))
    assert tier.failures.value >= 8
    await drive_async(tier.close())
    return slowest


async def test_nobody_there_is_a_miss(make):
    """Each operation fails as its contract says, and none raises."""
    assert await fails(make("redis://127.0.0.1:1/0")) < 0.5


async def test_a_silent_server_is_a_miss_in_time(make):
    """The same for one that accepts and never answers: twice the read timeout at most, then a millisecond."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        tier = make(f"redis://127.0.0.1:{listener.getsockname()[1]}/0", write_timeout=0.3)
        assert await fails(tier) < 0.5
        assert "open" == tier.connections.breaker.state
        times = []
        for _ in range(20):
            begun = time.perf_counter()
            assert drive(tier.get_many([HERE], EPOCH)).failed
            times.append(time.perf_counter() - begun)
        assert min(times) < 0.001


async def test_a_server_that_refuses_writes_is_counted(make, own_redis):
    """Out of memory: reads go on, puts are FAILED and counted."""
    tier = make(own_redis.url)
    put(tier, envelope(1))
    own_redis.execute("CONFIG", "SET", "maxmemory", 1)
    assert (Put.FAILED, 1) == (put(tier, envelope(2)), tier.failures.value)
    assert 1 == get(tier).born


async def test_ten_thousand_misses_at_once(make, redis_url):
    """10,000 concurrent reads of tasks: no exception, no failure."""
    tier = make(redis_url)
    places = [Address("r", "", f"k{n}") for n in range(10_000)]
    readings = await asyncio.gather(*(drive_async(tier.get_many([place], EPOCH)) for place in places))
    assert {(False, 0)} == {(reading.failed, len(reading.found)) for reading in readings}
    await drive_async(tier.close())


async def test_redis_dies_during_ten_thousand_reads_and_writes(make, own_redis):
    """Nothing is raised; after its return there are hits again."""
    tier = make(own_redis.url, breaker_reset=0.05)
    places = [Address("r", "", f"k{n}") for n in range(5_000)]

    async def work(n, place):
        await asyncio.sleep(n / 10_000)
        await drive_async(tier.put_if_newer(place, envelope(1, address=place), NO_GUARD))
        return await drive_async(tier.get_many([place], EPOCH))

    killer = asyncio.get_running_loop().run_in_executor(None, lambda: (time.sleep(0.2), own_redis.kill()))
    readings = await asyncio.gather(*(work(n, place) for n, place in enumerate(places)))
    await killer
    assert any(reading.failed for reading in readings)
    own_redis.start()
    wait_until(lambda: put(tier, envelope(2)) is Put.STORED, 10, "a put after the restart")
    assert 2 == get(tier).born
    assert 2 == (await drive_async(tier.get_many([HERE], EPOCH))).found[HERE].born
    await drive_async(tier.close())
