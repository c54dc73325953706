"""Appending without the script: what it leaves, and everything that must keep it from adding at a place that is not next."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from proxy import TcpProxy
from redis_logs import Opener, blob, count_requests, head, key, open_log, opening, tag
from servers import RedisServer, needs, wait_until
from tiercast.coherence import redis_watch
from tiercast.coherence.log import Appended, Beat, LogUnavailable, Write
from tiercast.coherence.records import Draft, Kind
from tiercast.coherence.redis_log import RedisLog
from tiercast.connections import Unavailable
from tiercast.connections.link import Link
from tiercast.connections.session import Ask, Session
from tiercast.keys import target_storage_key
from tiercast.plans import Plan, drive, drive_async

FENCE = 605_000
"""ms, of the default settings."""


pytestmark = pytest.mark.usefixtures("redis_url")  # which empties the shared server


def drive_in_a_loop(plan: Plan[Any]) -> Any:
    return asyncio.run(drive_async(plan))


@pytest.fixture
def opened() -> Iterator[Opener]:
    """Opens logs and closes their connections after the test."""
    with opening() as make:
        yield make


@pytest.fixture(params=[drive, drive_in_a_loop], ids=["thread", "task"])
def run(request: pytest.FixtureRequest) -> Callable[[Plan[Any]], Any]:
    """How a plan is run."""
    return request.param  # type: ignore[no-any-return]


class Writer:
    """A process that appends, always from where it stands, and follows what it is answered."""

    def __init__(self, log: RedisLog, run: Callable[[Plan[Any]], Any] = drive, *, scripted: bool = False) -> None:
        self.log = log
        self.run = run
        self.since = ("", 0)
        if scripted:
            log._watched = None

    def append(self, *drafts: Draft, writes: tuple[Write, ...] = ()) -> Appended:
        return self._follow(self.run(self.log.append(drafts, self.since, writes)))

    async def append_async(self, *drafts: Draft) -> Appended:
        return self._follow(await drive_async(self.log.append(drafts, self.since)))

    def _follow(self, appended: Appended) -> Appended:
        self.since = appended.tail.head.epoch, appended.tail.head.position
        return appended

    def warm(self) -> tuple[str, int]:
        """Append until the next append needs no script; returns where it stands then."""
        for _ in range(3):
            self.append(key("warm"))
        return self.since


def scripts(server: RedisServer) -> int:
    """How often the server has run a script."""
    said = server.execute("INFO", "commandstats")
    return sum(said.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("eval", "evalsha"))


def records(log: RedisLog, since: tuple[str, int]) -> tuple[Any, ...] | None:
    """What a process that stands at `since` reads; None where it has to begin anew."""
    tail = drive(log.read(since))
    return tail.records if tail.head.epoch == since[0] else None


def buried(name: str, region: str = "default") -> Write:
    return Write(target_storage_key(region, f"|{name}"), None, 0, FENCE)


def stored(name: str, ttl: int = 60_000) -> Write:
    return Write(target_storage_key("default", f"|{name}"), blob(), ttl, FENCE)


# -- that it is done, and what it leaves ---


def test_who_appends_twice_running_appends_without_the_script(
    opened: Opener, redis_server: RedisServer, run: Callable[[Plan[Any]], Any]
) -> None:
    """In one round trip, from the third time on; the 256th is the script's again."""
    writer = Writer(opened(redis_server.url), run)
    epoch, position = writer.warm()
    assert position == 3
    before = scripts(redis_server)
    for expected in range(position + 1, redis_watch.SCRIPTED):
        appended = writer.append(key(f"k{expected}"))
        assert (appended.position, appended.tail.head.epoch) == (expected, epoch)
        assert [record.position for record in appended.tail.records or ()] == [expected]
    assert scripts(redis_server) == before
    writer.append(key("k"))
    assert scripts(redis_server) == before + 2  # the append, and the question after it
    found = records(writer.log, (epoch, 0))
    assert found is not None
    assert [record.position for record in found] == list(range(1, redis_watch.SCRIPTED + 1))


def test_it_takes_one_round_trip(opened: Opener, redis_url: str) -> None:
    """But for the first after the script, which reads what the script had to say."""
    writer = Writer(opened(redis_url))
    writer.warm()
    assert count_requests(writer.log.append([tag("t")], writer.since, ())) == 1


DRAFTS = {
    "key": [key("a")],
    "keys": [Draft(Kind.KEY, "default", ("|a", "tenant:1|b%25", "|ü"), origin="h:1:x", sent=2.5)],
    "soft key": [key("a", soft=True)],
    "tag": [tag("users")],
    "tags of a region": [tag("a|b", "ü %", "c\n", region="r|%")],
    "soft tag": [tag("users", soft=True)],
    "scope": [Draft(Kind.SCOPE, "", ("", "tenant:1/user:2"))],
    "pattern": [Draft(Kind.PATTERN, "default", ("|user:*", "tenant:1|[a-z]?"))],
    "region": [Draft(Kind.REGION, "", ("default", "other"))],
    "all": [Draft(Kind.ALL, "", ())],
}
WRITES: dict[str, tuple[Draft, tuple[Write, ...]]] = {
    "burial": (key("a"), (buried("a"),)),
    "two burials": (Draft(Kind.KEY, "default", ("|a", "|b")), (buried("a"), buried("b"))),
    "one of two": (Draft(Kind.KEY, "default", ("|a", "|b")), (buried("a"),)),
    "value": (key("a"), (stored("a"),)),
    "value without an end": (key("a"), (stored("a", 0),)),
    "value that outlives its fence": (key("a"), (stored("a", 10_000_000),)),
    "soft": (key("a", soft=True), ()),
}


def left(server: RedisServer, fleet: str, epoch: str) -> dict[str, Any]:
    """Everything of a fleet in Redis; the epoch by another name, and times that differ between runs apart."""
    client = server.client(decode_responses=False)
    log, stream, stamps = (f"tiercast:{{{fleet}}}:{name}" for name in ("log", "stream", "stamps"))
    values = {}
    for name in client.scan_iter(f"{fleet}:{epoch}:*"):
        value, ttl = client.get(name), client.pttl(name)
        assert isinstance(value, bytes)
        until, ends = int(value[20:36], 16) - time.time() * 1000, ttl if ttl > 0 else None
        values[name.split(b":", 2)[2]] = (value[:20], value[36:], until, ends)
    return {
        "log": client.hmget(log, "position", "carried", "floor", "publish"),
        "stream": [(at, fields[b"record"].replace(epoch.encode(), b"E")) for at, fields in client.xrange(stream)[1:]],
        "times": [int(fields[b"time"]) / 1000 for _, fields in client.xrange(stream)[1:]],
        "stamps": [
            (member, score) for member, score in client.zrange(stamps, 0, -1, withscores=True) if score != float("inf")
        ],
        "values": values,
    }


@pytest.mark.parametrize(
    ("draft", "writes"),
    [*((each[0], ()) for each in DRAFTS.values()), *WRITES.values()],
    ids=[*DRAFTS, *(f"writes {name}" for name in WRITES)],
)
def test_both_ways_leave_the_same(
    opened: Opener,
    redis_server: RedisServer,
    run: Callable[[Plan[Any]], Any],
    draft: Draft,
    writes: tuple[Write, ...],
) -> None:
    """In the log, in the stamps, on the bus and in L3; a fence may end later, never earlier."""
    outcomes = []
    for fleet, scripted in (("shop", True), ("bank", False)):
        writer = Writer(opened(redis_server.url, fleet), run, scripted=scripted)
        epoch, _ = writer.warm()
        bus = writer.log.listen()
        before = scripts(redis_server)
        appended = writer.append(draft, writes=writes)
        assert (scripts(redis_server) == before) is not scripted
        (message,) = bus.poll(2.0)
        bus.close()
        at = appended.tail.head
        assert abs(at.time - time.time()) < 5
        answer = appended.position, at.position, at.carried, appended.written
        told = [(each.kind, each.targets, each.position) for each in appended.tail.records or ()]
        outcomes.append((left(redis_server, fleet, epoch), answer, told, message.replace(epoch.encode(), b"E")))
    (script, *answers), (watched, *others) = outcomes
    assert answers == others
    for part in ("log", "stream", "stamps"):
        assert script[part] == watched[part]
    assert script["values"].keys() == watched["values"].keys()
    assert len(script["values"]) == len(writes)
    for name, (begin, rest, until, ends) in script["values"].items():
        as_begin, as_rest, as_until, as_ends = watched["values"][name]
        assert (begin, rest) == (as_begin, as_rest)
        assert FENCE - 5000 < until <= as_until + 5 < until + 10_000
        assert (ends is None) is (as_ends is None)
        assert ends is None or ends <= as_ends + 5000
    assert all(abs(at - time.time()) < 30 for at in watched["times"])


def test_text_that_is_no_utf_8_is_left_to_the_script(opened: Opener, redis_server: RedisServer) -> None:
    """It stamps it as everything."""
    writer = Writer(opened(redis_server.url))
    writer.warm()
    writer.append(tag("\ud800"))
    assert redis_server.client().zscore("tiercast:{shop}:stamps", "all|hard||") == writer.since[1] == 4


def test_a_value_takes_the_place_of_whatever_is_there(opened: Opener, redis_server: RedisServer) -> None:
    """Nothing that is there was born later, as long as the log stands where it stood."""
    writer = Writer(opened(redis_server.url))
    epoch, _ = writer.warm()
    name = f"shop:{epoch}:{stored('a').key}"
    for _ in range(3):
        appended = writer.append(key("a"), writes=(stored("a"),))
        assert appended.written
        value = redis_server.client(decode_responses=False).get(name)
        assert isinstance(value, bytes)
        assert (value[:4], int(value[4:20], 16), value[68:]) == (b"TC10", appended.position, b"value")


def test_the_log_keeps_within_its_bounds(opened: Opener, redis_server: RedisServer) -> None:
    """One append in 256 is the script's, and lets go of what is too much."""
    writer = Writer(opened(redis_server.url, key_ring=1024, stamps=100))
    drive(writer.log.carry(*writer.warm()))  # what has not been carried is kept
    before = scripts(redis_server)
    for number in range(3000):
        writer.append(tag(f"t{number}"))
    client = redis_server.client()
    assert 1024 <= client.xlen("tiercast:{shop}:stream") <= 1024 + 2 * redis_watch.SCRIPTED
    assert client.zcard("tiercast:{shop}:stamps") <= 100 + 1 + redis_watch.SCRIPTED
    assert int(client.hget("tiercast:{shop}:log", "floor") or 0) > 2500
    assert scripts(redis_server) - before < 300


def test_what_could_not_go_for_long_goes_in_the_end(opened: Opener, redis_server: RedisServer) -> None:
    """What nobody had carried was kept; now each append of the script's lets go of more than came since the last."""
    writer = Writer(opened(redis_server.url, key_ring=1024))
    writer.warm()
    for _ in range(8):
        writer.append(*[key(f"k{number}") for number in range(1000)])
    drive(writer.log.carry(*writer.since))
    for _ in range(3000):
        writer.append(key("a"), writes=(buried("a"),))
    assert redis_server.client().xlen("tiercast:{shop}:stream") <= 1024 + 2 * redis_watch.SCRIPTED


# -- what comes between ---


def _foreign_append(server: RedisServer, url: str) -> None:
    log = open_log(url)
    drive(log.append([key("foreign")], ("", 0)))
    log._connections.close()


def _heartbeat(server: RedisServer, url: str) -> None:
    log = open_log(url)
    at = head(log)
    drive(log.beat(Beat("other:1:a", at.epoch, at.position, 10.0)))
    log._connections.close()


def _carry(server: RedisServer, url: str) -> None:
    log = open_log(url)
    at = head(log)
    drive(log.carry(at.epoch, at.position))
    log._connections.close()


def _older_snapshot(server: RedisServer, url: str) -> None:
    server.execute("SAVE")
    _foreign_append(server, url)
    server.kill()
    server.start()


BETWEEN: dict[str, Callable[[RedisServer, str], object]] = {
    "nothing": lambda server, url: None,
    "another's append": _foreign_append,
    "a heartbeat": _heartbeat,
    "carrying": _carry,
    "DEL log": lambda server, url: server.execute("DEL", "tiercast:{shop}:log"),
    "DEL stream": lambda server, url: server.execute("DEL", "tiercast:{shop}:stream"),
    "DEL stamps": lambda server, url: server.execute("DEL", "tiercast:{shop}:stamps"),
    "FLUSHDB": lambda server, url: server.execute("FLUSHDB"),
    "FLUSHALL": lambda server, url: server.execute("FLUSHALL"),
    "SWAPDB": lambda server, url: server.execute("SWAPDB", 0, 1),
    "planted": lambda server, url: server.execute("XADD", "tiercast:{shop}:stream", "9-0", "record", "{}"),
    "the head set back": lambda server, url: server.execute("HSET", "tiercast:{shop}:log", "position", 1),
    "SCRIPT FLUSH": lambda server, url: server.execute("SCRIPT", "FLUSH"),
    "killed connections": lambda server, url: server.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"),
    "a restart with all data": lambda server, url: server.restart(),
    "a restart without any": lambda server, url: server.restart(empty=True),
    "an older snapshot": _older_snapshot,
    "no memory left, and then some": lambda server, url: (
        server.execute("CONFIG", "SET", "maxmemory", "1"),
        server.execute("CONFIG", "SET", "maxmemory", "0"),
    ),
}


@pytest.mark.parametrize("asked", [False, True], ids=["after its own append", "after the script's"])
@pytest.mark.parametrize("between", BETWEEN)
def test_nothing_is_lost_whatever_comes_between(
    opened: Opener, own_redis: RedisServer, run: Callable[[Plan[Any]], Any], between: str, asked: bool
) -> None:
    """Whoever stood at the head before finds each record exactly in its place, or another epoch."""
    writer = Writer(opened(own_redis.url), run)
    reader = opened(own_redis.url)
    place = writer.warm()
    if asked:  # by the script about the present place; the answer has not been read
        _foreign_append(own_redis, own_redis.url)
        for _ in range(2):
            writer.append(key("again"))
        place = writer.since
        assert writer.log._watched is not None
        assert writer.log._watched._asked
    BETWEEN[between](own_redis, own_redis.url)
    appended = writer.append(key("a"))
    writer.append(key("b"))
    found = records(reader, place)
    if between in {"nothing", "another's append", "a heartbeat", "carrying", "SCRIPT FLUSH", "killed connections",
                   "no memory left, and then some"}:  # fmt: skip
        assert appended.tail.head.epoch == place[0]
    else:
        assert appended.tail.head.epoch != place[0]
        assert found is None
    if found is not None:
        names = [record.targets[0] for record in found]
        assert [name for name in names if name != "|foreign"] == ["|a", "|b"]
        assert found[names.index("|a")].position == appended.position
        stream = own_redis.client().xrange("tiercast:{shop}:stream", "1")
        assert [int(at.partition("-")[0]) for at, _ in stream] == list(range(1, writer.since[1] + 1))


def _longer_fence(server: RedisServer, url: str) -> None:
    log = open_log(url, max_load_time=900.0)
    at = head(log)
    drive(log.beat(Beat("long:1:a", at.epoch, at.position, 10.0)))
    name = f"shop:{at.epoch}:{buried('a').key}"
    server.execute("SET", name, blob(fence=int(time.time() * 1000) + 905_000), "PX", 905_000)  # by a load
    log._connections.close()


def _another_epoch(server: RedisServer, url: str) -> None:
    server.execute("FLUSHALL")
    _foreign_append(server, url)


def _no_hash(server: RedisServer, url: str) -> None:
    server.execute("DEL", "tiercast:{shop}:log")
    server.execute("SET", "tiercast:{shop}:log", "somebody else's")


IN_BETWEEN = {
    name: BETWEEN[name] for name in ("another's append", "DEL log", "DEL stream", "DEL stamps", "planted")
} | {
    "a longer fence": _longer_fence,
    "another epoch": _another_epoch,
    "a log that is no hash": _no_hash,
}


class Halves:
    """An append and the watching after it, with something between the two."""

    def __init__(self, ask: Ask, between: Callable[[], object]) -> None:
        self.ask = ask
        self.between = between

    def run(self) -> list[Any]:
        payload, count = self.ask._payload, self.ask._count
        link = self.ask._session._open_link()
        cut = payload.index(b"*4\r\n$5\r\nWATCH")
        done = link.exchange(payload[:cut], count - 3, time.monotonic() + 5)
        self.between()
        return done + link.exchange(payload[cut:], 3, time.monotonic() + 5)


@pytest.mark.parametrize("between", IN_BETWEEN)
def test_what_comes_between_an_append_and_the_watching_after_it(
    opened: Opener, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch, between: str
) -> None:
    """The transaction has ended, and nothing is watched yet."""
    writer, reader = Writer(opened(own_redis.url)), opened(own_redis.url)
    epoch, _ = writer.warm()
    writer.append(key("warm"))  # reads the script's answer
    assert writer.log._watched is not None
    session = writer.log._watched._session
    ask = session.ask
    with monkeypatch.context() as patch:
        patch.setattr(
            session, "ask", lambda *args: Halves(ask(*args), lambda: IN_BETWEEN[between](own_redis, own_redis.url))
        )
        before = scripts(own_redis)
        writer.append(key("a"))
        place = writer.since
        assert scripts(own_redis) - before < 5  # those of what came between
    appended = writer.append(key("b"), writes=(buried("a"),))
    _judge(reader, place, appended, own_redis, same=between in {"another's append", "a longer fence"})
    if between == "a longer fence":
        name = f"shop:{epoch}:{buried('a').key}"
        assert own_redis.client().pttl(name) > 900_000
        assert int(own_redis.client().getrange(name, 20, 35), 16) > (time.time() + 900) * 1000


@pytest.mark.parametrize("between", IN_BETWEEN)
def test_what_comes_between_the_script_and_the_watching_after_it(
    opened: Opener, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch, between: str
) -> None:
    """The script has appended, and nothing is watched yet."""
    writer, reader = Writer(opened(own_redis.url)), opened(own_redis.url)
    writer.append(key("warm"))
    assert writer.log._watched is not None
    session = writer.log._watched._session
    tell = session.tell
    with monkeypatch.context() as patch:
        patch.setattr(session, "tell", lambda payload: (IN_BETWEEN[between](own_redis, own_redis.url), tell(payload)))
        writer.append(key("a"))
    place = writer.since
    assert writer.log._watched._asked
    appended = writer.append(key("b"), writes=(buried("a"),))
    _judge(reader, place, appended, own_redis, same=between in {"another's append", "a longer fence"})
    if between == "a longer fence":
        assert own_redis.client().pttl(f"shop:{place[0]}:{buried('a').key}") > 900_000


def _judge(reader: RedisLog, place: tuple[str, int], appended: Appended, server: RedisServer, *, same: bool) -> None:
    """The record stands where the answer says, after all that stood there, or another epoch has begun."""
    assert (appended.tail.head.epoch == place[0]) is same
    found = records(reader, place)
    if not same:
        assert found is None
        found = records(reader, (appended.tail.head.epoch, 0))
    assert found is not None
    assert (found[-1].targets, found[-1].position) == (("|b",), appended.position)
    assert int(server.execute("HGET", "tiercast:{shop}:log", "position")) == appended.position
    if same:
        assert [record.targets[0] for record in found if record.targets[0] != "|foreign"] == ["|b"]


def test_two_who_take_turns_at_random(opened: Opener, redis_server: RedisServer) -> None:
    """Each stands where its own last append left it, which the other has often passed."""
    reader = opened(redis_server.url)
    writers = [Writer(opened(redis_server.url)) for _ in range(2)]
    epoch, _ = writers[0].warm()
    chance = random.Random(7)
    places = {}
    before = scripts(redis_server)
    for number in range(1000):
        writer = writers[0] if chance.random() < 0.8 else writers[1]
        appended = writer.append(key(f"k{number}"), tag("t")) if number % 50 == 0 else writer.append(key(f"k{number}"))
        assert appended.tail.head.epoch == epoch
        places[appended.position] = f"|k{number}"
    assert scripts(redis_server) - before < 1300  # of 2,000, were there nothing but scripts and their questions
    found = records(reader, (epoch, 3))
    assert found is not None
    assert [record.position for record in found] == list(range(4, found[-1].position + 1))
    keys = {record.position: record.targets[0] for record in found if record.kind is Kind.KEY}
    assert sorted(keys.values()) == sorted(places.values())


def test_a_master_that_was_replaced_meanwhile_is_noticed_on_the_same_connection(
    opened: Opener, own_redis: RedisServer, run: Callable[[Plan[Any]], Any]
) -> None:
    """It took over data that lacks the last record, without anybody having asked the other; then it became the master again."""
    with RedisServer() as other:
        other.execute("REPLICAOF", *own_redis.address)
        writer, reader = Writer(opened(own_redis.url), run), opened(own_redis.url)
        assert writer.warm()[1] == 3
        wait_until(lambda: other.execute("HGET", "tiercast:{shop}:log", "position") == "3", what="the copy")
        other.execute("REPLICAOF", "NO", "ONE")
        writer.append(key("lost"))
        place = writer.since
        assert place[1] == 4
        own_redis.execute("REPLICAOF", *other.address)
        wait_until(
            lambda: (
                own_redis.execute("INFO", "replication")["master_link_status"] == "up"
                and own_redis.execute("HGET", "tiercast:{shop}:log", "position") == "3"
            ),
            what="the other's data",
        )
        own_redis.execute("REPLICAOF", "NO", "ONE")
        assert writer.log._watched is not None
        assert writer.log._watched._session.usable()  # the connection is still the one on which the head was watched
        appended = writer.append(key("a"))
        assert appended.tail.head.epoch != place[0]
        assert records(reader, place) is None


def test_a_replica_takes_no_record(opened: Opener, own_redis: RedisServer, run: Callable[[Plan[Any]], Any]) -> None:
    """Its master would never have it."""
    with RedisServer() as other:
        writer = Writer(opened(own_redis.url), run)
        writer.warm()
        own_redis.execute("REPLICAOF", *other.address)
        with pytest.raises(LogUnavailable):
            writer.append(key("a"))


# -- connections ---


def test_an_answer_that_is_lost_loses_no_record(
    opened: Opener, own_redis: RedisServer, run: Callable[[Plan[Any]], Any]
) -> None:
    """The script appends once more; a record may then stand there twice."""
    with TcpProxy(own_redis.url) as proxy:
        writer = Writer(opened(proxy.url), run)
        epoch, position = writer.warm()
        proxy.cut_mid_message()
        writer.append(key("a"))
        found = records(opened(own_redis.url), (epoch, position)) or ()
        assert {record.targets for record in found} == {("|a",)}
        assert len(found) == 2


def test_silence_takes_no_longer_than_an_append_may(
    opened: Opener, own_redis: RedisServer, run: Callable[[Plan[Any]], Any]
) -> None:
    """And once the network is well, appends go on."""
    with TcpProxy(own_redis.url) as proxy:
        writer = Writer(opened(proxy.url), run)
        epoch, position = writer.warm()
        assert writer.log._watched is not None
        writer.log._watched._timeout = writer.log._connections.write_timeout = 0.3
        proxy.blackhole()
        began = time.monotonic()
        with pytest.raises(LogUnavailable):
            writer.append(key("a"))
        assert 0.2 < time.monotonic() - began < 2.0
        proxy.reset()
        proxy.pass_through()
        writer.log._watched._timeout = writer.log._connections.write_timeout = 5.0
        wait_until(lambda: _appends(writer), what="an append")
        assert writer.since[0] == epoch
        assert writer.since[1] > position


def _appends(writer: Writer) -> bool:
    try:
        writer.append(key("b"))
    except LogUnavailable:
        return False
    return True


@pytest.mark.parametrize("missing", ["watch", "multi", "exec", "unwatch"])
def test_a_user_who_may_not_do_it_appends_by_the_script(
    opened: Opener, own_redis: RedisServer, run: Callable[[Plan[Any]], Any], missing: str
) -> None:
    """And nothing of it is done outside a transaction; the connection is given back."""
    own_redis.execute("ACL", "SETUSER", "default", f"-{missing}")
    writer = Writer(opened(own_redis.url), run)
    for _ in range(8):
        writer.append(key("a"))
    assert writer.since[1] == 8
    stream = own_redis.client().xrange("tiercast:{shop}:stream")
    assert [at for at, _ in stream[1:]] == [f"{position}-0" for position in range(1, 9)]
    assert writer.log._watched is not None
    assert not writer.log._watched._session.usable()


def test_a_proxy_that_watches_on_another_connection_is_found_out(
    opened: Opener, redis_server: RedisServer, run: Callable[[Plan[Any]], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Envoy takes WATCH, and sends it where the transaction does not go: nothing would keep that from being done."""
    tell = Session.tell

    def without_watch(session: Session, payload: bytes) -> None:
        parts = re.split(rb"(?=\*\d+\r\n)", payload)
        tell(
            session, b"".join(b"*2\r\n$4\r\nECHO\r\n$2\r\nOK\r\n" if b"$5\r\nWATCH" in part else part for part in parts)
        )

    monkeypatch.setattr(Session, "tell", without_watch)
    writer = Writer(opened(redis_server.url), run)
    for _ in range(8):
        before = scripts(redis_server)
        writer.append(key("a"))
        assert scripts(redis_server) > before
    assert writer.log._watched is not None
    assert not writer.log._watched._session.usable()


def test_a_transaction_that_is_none_is_seen_by_everybody(opened: Opener, own_redis: RedisServer) -> None:
    """Its commands are done one by one, at a place that others have passed: there is a hole, and nobody trusts what he has."""
    writer, reader = Writer(opened(own_redis.url)), opened(own_redis.url)
    place = writer.warm()
    for _ in range(2):
        _foreign_append(own_redis, own_redis.url)
    own_redis.execute("ACL", "SETUSER", "default", "-multi")  # on the connection that is open, too
    appended = writer.append(key("a"))
    assert appended.tail.records is None
    assert records(reader, place) is None
    assert head(reader).position == appended.position > place[1] + 3


@needs("tls")
def test_tls(opened: Opener, run: Callable[[Plan[Any]], Any]) -> None:
    """Threads can; a loop cannot read such a connection by itself, and appends by the script."""
    with RedisServer(tls=True) as server:
        writer = Writer(opened(server.url), run)
        writer.warm()
        before = scripts(server)
        for _ in range(5):
            writer.append(key("a"))
        assert writer.since[1] == 8
        assert (scripts(server) == before) is (run is drive)


def test_connections_that_were_closed_stay_closed(opened: Opener, own_redis: RedisServer) -> None:
    """Also for one who works on."""
    writer = Writer(opened(own_redis.url))
    writer.warm()
    writer.log._connections.close()
    for _ in range(5):
        writer.append(key("a"))
    wait_until(lambda: len(own_redis.client().client_list()) == 1, what="closed connections")


def test_closing_ends_an_append_that_waits(
    opened: Opener, own_redis: RedisServer, run: Callable[[Plan[Any]], Any]
) -> None:
    """A loop goes on to watch a socket that is closed by another thread, and would take the next of its number for it."""
    with TcpProxy(own_redis.url) as proxy:
        writer = Writer(opened(proxy.url), run)
        writer.warm()
        writer.append(key("warm"))
        proxy.blackhole()
        closing = threading.Timer(0.2, writer.log._connections.close)
        passing = threading.Timer(0.4, proxy.pass_through)
        closing.start()
        passing.start()
        began = time.monotonic()
        writer.append(key("a"))
        assert time.monotonic() - began < 3.0  # an append may take five
        assert writer.log._watched is not None
        assert writer.log._watched._session._link is None
        closing.join()
        passing.join()


def test_what_keeps_its_connection_from_opening_fails_no_append(
    opened: Opener, redis_server: RedisServer, run: Callable[[Plan[Any]], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record stands already; and a credential provider may raise anything."""
    writer = Writer(opened(redis_server.url), run)
    writer.append(key("a"))
    assert writer.log._watched is not None
    node = writer.log._watched._session._node
    connect = node.connect

    def refuse(connect_timeout: float, timeout: float) -> Link:
        if threading.current_thread().name == "tiercast-connect":  # for the loop, which is another each time
            return connect(connect_timeout, timeout)
        raise LookupError("no password")

    monkeypatch.setattr(node, "connect", refuse)
    for position in (2, 3, 4):
        assert writer.append(key("a")).position == position


async def test_a_connection_that_opens_when_its_task_has_gone_is_not_used(
    opened: Opener, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would take the place of one on which the head is watched, and nothing is watched on it."""
    monkeypatch.setattr(redis_watch, "REST", 0.0)
    log = opened(redis_server.url)
    assert log._watched is not None
    session = log._watched._session
    connect, waits, gone = session.connect, threading.Event(), threading.Event()

    def slowly(timeout: float) -> Link:
        monkeypatch.setattr(session, "connect", connect)
        waits.wait(10)
        try:
            return connect(timeout)
        finally:
            gone.set()

    monkeypatch.setattr(session, "connect", slowly)
    since = "", 0

    async def append() -> None:
        nonlocal since
        appended = await drive_async(log.append([key("a")], since))
        since = appended.tail.head.epoch, appended.position

    await append()
    running = asyncio.ensure_future(append())
    while session.connect is slowly:
        await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])
    since = since[0], head(log).position
    for _ in range(3):
        await append()
    assert log._watched._watched == since
    link = session._link
    waits.set()
    assert await asyncio.to_thread(gone.wait, 10)
    await asyncio.sleep(0.05)
    assert session._link is link is not None


def test_a_child_forked_in_the_midst_of_an_append_goes_on_with_it(opened: Opener, redis_server: RedisServer) -> None:
    """By a signal's handler, for example: what its parent had taken is not the child's to give back."""
    writer = Writer(opened(redis_server.url))
    writer.warm()
    writer.append(key("warm"))
    plan = writer.log.append([key("a")], writer.since)
    transaction = next(plan)
    writer.log._connections._after_fork()
    assert writer.log._watched is not None
    assert writer.log._watched.take() is not None  # by another thread of the child, which keeps it
    with pytest.raises(Unavailable) as failed:
        transaction.run()
    script = plan.throw(failed.value)
    with pytest.raises(StopIteration) as ended:
        plan.send(script.run())
    assert ended.value.value.position == 5
    assert writer.log._watched.take() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_its_own(opened: Opener, redis_server: RedisServer) -> None:
    """Parent and child append side by side, and every record has its place."""
    writer = Writer(opened(redis_server.url))
    epoch, position = writer.warm()
    log = writer.log
    assert log._watched is not None
    taken = log._watched.take()  # as by another thread while this one forks
    child = os.fork()
    if child == 0:
        code = 1
        try:
            for _ in range(50):
                writer.append(key("child"))
            own = log._watched.take()
            assert own is not None
            log._watched.release(taken)  # as when the child throws the parent's task away
            code = int(is_free(log._watched))
        finally:
            os._exit(code)
    assert taken is not None
    log._watched.release(taken)
    for _ in range(50):
        writer.append(key("parent"))
    assert is_free(log._watched)
    assert os.waitpid(child, 0)[1] == 0
    found = records(log, (epoch, position))
    assert found is not None
    assert sorted(record.targets[0] for record in found) == ["|child"] * 50 + ["|parent"] * 50


def is_free(watched: redis_watch.WatchedHead) -> bool:
    """Whether nobody has taken it."""
    taken = watched.take()
    if taken is not None:
        watched.release(taken)
    return taken is not None


async def test_a_busy_loop_finds_the_answer_that_came_meanwhile(opened: Opener, redis_server: RedisServer) -> None:
    """It was kept from looking for longer than an append may take; the answer came in time."""
    writer = Writer(opened(redis_server.url))
    for _ in range(4):
        await writer.append_async(key("warm"))
    watched, before = writer.log._watched, scripts(redis_server)
    assert watched is not None
    watched._timeout = 0.1
    running = asyncio.ensure_future(writer.append_async(key("a")))
    await asyncio.sleep(0)
    time.sleep(0.3)
    assert (await running).position == 5
    assert scripts(redis_server) == before
    await writer.append_async(key("b"))
    assert scripts(redis_server) == before


def test_a_value_that_the_socket_does_not_take_at_once(opened: Opener, redis_server: RedisServer, run: Any) -> None:
    """Sent piece by piece, by threads and tasks alike, and whole in the end."""
    writer = Writer(opened(redis_server.url), run)
    epoch, _ = writer.warm()
    writer.append(key("warm"))
    before, large = scripts(redis_server), os.urandom(24_000_000)
    writer.append(key("a"), writes=(Write(stored("a").key, blob(payload=large), 60_000, FENCE),))
    assert scripts(redis_server) == before
    there = redis_server.client(decode_responses=False).get(f"shop:{epoch}:{stored('a').key}")
    assert isinstance(there, bytes)
    assert there.endswith(large)


def test_a_cancelled_append_closes_its_connection(opened: Opener, own_redis: RedisServer) -> None:
    """The answer may still come, and would be taken for the next one's."""

    async def cancel(writer: Writer) -> None:
        running = asyncio.ensure_future(drive_async(writer.log.append([key("a")], writer.since)))
        await asyncio.sleep(0.1)
        running.cancel()
        await asyncio.wait([running])
        assert running.cancelled()

    with TcpProxy(own_redis.url) as proxy:
        writer = Writer(opened(proxy.url))
        writer.warm()
        writer.append(key("warm"))
        assert writer.log._watched is not None
        assert writer.log._watched._session.usable()
        proxy.delay(0.5)
        asyncio.run(cancel(writer))
        proxy.pass_through()
        assert not writer.log._watched._session.usable()
        assert is_free(writer.log._watched)


def test_what_makes_connections_suspect_makes_this_one(opened: Opener, redis_server: RedisServer) -> None:
    """It may lead to a master that was replaced."""
    writer = Writer(opened(redis_server.url))
    writer.warm()
    before = scripts(redis_server)
    writer.log._connections.suspect()
    writer.append(key("a"))
    assert scripts(redis_server) > before


def test_who_appends_now_and_then_opens_no_connection_for_it(opened: Opener, own_redis: RedisServer) -> None:
    """Others append meanwhile, so that nothing watched would stand for long."""
    writers = [Writer(opened(own_redis.url)) for _ in range(2)]
    for _ in range(10):
        for writer in writers:
            writer.since = head(writer.log).epoch, head(writer.log).position  # it has heard of the other's
            writer.append(key("a"))
    assert [writer.log._watched and writer.log._watched._session._link for writer in writers] == [None, None]


# -- fences ---


def test_whoever_gives_a_shorter_fence_than_another_leaves_it_to_the_script(
    opened: Opener, redis_server: RedisServer
) -> None:
    """Only the script sees whether a fence that stands ends later."""
    long, short = opened(redis_server.url, max_load_time=900.0), Writer(opened(redis_server.url))
    epoch, position = short.warm()
    drive(long.beat(Beat("long:1:a", epoch, position, 10.0)))
    drive(long.append([key("a")], (epoch, position), (Write(buried("a").key, None, 0, 905_000),)))
    name = f"shop:{epoch}:{buried('a').key}"
    client = redis_server.client(decode_responses=False)
    before = client.getrange(name, 20, 35)
    for _ in range(4):
        begun = scripts(redis_server)
        short.append(key("a"), writes=(buried("a"),))
        assert scripts(redis_server) > begun
    assert client.getrange(name, 20, 35) == before
    assert client.pttl(name) > 900_000


def test_a_write_that_names_another_fence_is_left_to_the_script(opened: Opener, redis_server: RedisServer) -> None:
    """None does; but the log cannot know how long the fences of such a one are."""
    writer = Writer(opened(redis_server.url))
    writer.warm()
    before = scripts(redis_server)
    writer.append(key("a"), writes=(Write(buried("a").key, None, 0, FENCE - 1),))
    assert scripts(redis_server) > before


def test_a_clock_that_was_wrong_shortens_no_fence(opened: Opener, redis_server: RedisServer) -> None:
    """What the server says its time was is compared; the script then sets the fence by it."""
    writer = Writer(opened(redis_server.url))
    epoch, position = writer.warm()
    writer.log._saw(time.time() - 100)
    appended = writer.append(key("a"), writes=(buried("a"),))
    assert appended.position == position + 2
    until = redis_server.client(decode_responses=False).getrange(f"shop:{epoch}:{buried('a').key}", 20, 35)
    assert int(until, 16) > (time.time() - 5) * 1000 + FENCE


# -- side by side ---


def test_threads_and_tasks_side_by_side(opened: Opener, redis_server: RedisServer) -> None:
    """Two processes of four threads and four tasks each: every append has a place of its own, and its record is there."""
    logs = [opened(redis_server.url) for _ in range(2)]
    epoch = head(logs[0]).epoch
    places: dict[int, str] = {}

    def note(name: str, appended: Appended) -> tuple[str, int]:
        assert appended.position not in places
        places[appended.position] = name
        return appended.tail.head.epoch, appended.tail.head.position

    def thread(log: RedisLog, who: str) -> None:
        since = epoch, 0
        for number in range(60):
            since = note(f"|{who}:{number}", drive(log.append([key(f"{who}:{number}")], since)))
            time.sleep(random.random() * 0.002)

    async def task(log: RedisLog, who: str) -> None:
        since = epoch, 0
        for number in range(60):
            since = note(f"|{who}:{number}", await drive_async(log.append([key(f"{who}:{number}")], since)))
            await asyncio.sleep(random.random() * 0.002)

    async def tasks(log: RedisLog, name: int) -> None:
        await asyncio.gather(*(task(log, f"task{name}-{number}") for number in range(4)))

    threads = [
        threading.Thread(target=thread, args=(log, f"thread{place}-{number}"))
        for place, log in enumerate(logs)
        for number in range(4)
    ] + [threading.Thread(target=lambda log=log, place=place: asyncio.run(tasks(log, place))) for place, log in enumerate(logs)]  # fmt: skip
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    found = records(logs[0], (epoch, 0))
    assert found is not None
    assert len(places) == 2 * 8 * 60
    assert {record.position: record.targets[0] for record in found} == places


async def test_cancelled_tasks_leave_no_answer_to_the_next(
    opened: Opener, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each append of whoever was not cancelled answers its own place; half of the others' answers come afterwards."""
    monkeypatch.setattr(redis_watch, "REST", 0.0)
    log = opened(own_redis.url)
    since = (await drive_async(log.read(("", 0)))).head.epoch, 0
    epoch, cancelled = since[0], 0
    for number in range(300):
        cancelling, answered_late = number % 5 == 4, number % 10 == 9
        if answered_late:
            own_redis.pause()
        running = asyncio.ensure_future(drive_async(log.append([key(f"k{number}")], since)))
        if cancelling:
            for _ in range(random.randrange(6)):
                await asyncio.sleep(0)
            cancelled += running.cancel()
        if answered_late:
            own_redis.resume()
        await asyncio.wait([running])
        if running.cancelled():
            since = epoch, (await drive_async(log.read(("", 0)))).head.position
            continue
        appended = running.result()
        stands = await asyncio.to_thread(
            lambda at=appended.position: own_redis.client().xrange("tiercast:{shop}:stream", f"{at}-0", f"{at}-0")
        )
        assert json.loads(stands[0][1]["record"])["targets"] == [f"|k{number}"]
        since = epoch, appended.position
    assert cancelled >= 25
