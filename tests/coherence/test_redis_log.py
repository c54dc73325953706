"""The Redis log against a real server: order, the wire, and what stands in the stream and should not."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from redis_logs import NOWHERE, Opener, append, count_requests, head, key, open_log, opening, raw, tag
from servers import RedisServer
from tiercast.coherence import redis_scripts
from tiercast.coherence.log import Write
from tiercast.coherence.records import Draft, Kind, Record, decode_message, encode_record, split
from tiercast.coherence.redis_log import RedisLog
from tiercast.keys import encode_target
from tiercast.plans import drive, drive_async


@pytest.fixture
def opened() -> Iterator[Opener]:
    """Opens logs and closes their connections after the test."""
    with opening() as make:
        yield make


@pytest.fixture
def log(opened: Opener, redis_url: str) -> RedisLog:
    """A log on the shared, empty server."""
    return opened(redis_url)


# -- order ---


def test_an_append_is_one_round_trip_and_one_command(log: RedisLog, redis_server: RedisServer) -> None:
    """Whatever the number of drafts and of others' records since, the server sees one EVALSHA."""
    append(log, key("warm"))
    epoch = head(log).epoch
    redis_server.execute("CONFIG", "RESETSTAT")
    writes = (Write("default:|a", b"TC10" + b"0" * 64, 1000, 1000),)
    assert count_requests(log.append([key("a"), tag("t")], (epoch, 0), writes)) == 1
    calls = redis_server.execute("INFO", "commandstats")
    assert calls["cmdstat_evalsha"]["calls"] == 1
    assert redis_server.execute("GET", f"shop:{epoch}:default:|a") is not None


def test_an_append_answers_all_records_since_its_callers_position(log: RedisLog) -> None:
    """Its own included, whether or not others came between."""
    epoch = head(log).epoch
    first = append(log, key("a"), tag("t", "u", region="r", soft=True), since=(epoch, 0))
    assert first.tail.head.position == first.position == 2
    assert [(record.kind, record.position) for record in first.tail.records or ()] == [(Kind.KEY, 1), (Kind.TAG, 2)]
    second = append(log, key("b"), since=(epoch, 1))
    assert second.tail.records == drive(log.read((epoch, 1))).records
    assert (first.tail.records or ()) + (second.tail.records or ())[1:] == drive(log.read((epoch, 0))).records


def test_what_stands_in_the_log_equals_what_the_appender_was_told(log: RedisLog) -> None:
    """The script does not send back what the caller knows; both views agree to the field."""
    epoch = head(log).epoch
    drafts = [
        Draft(Kind.KEY, "r", (encode_target("o:1", 'é\n"\\/|%{}'),)),
        tag("\x00\x1f\u2028😀", 'quote"', region="a|b%c", soft=True),
        Draft(Kind.SCOPE, "", ("",)),
        Draft(Kind.PATTERN, "r", ("o:1|user:*",)),
        Draft(Kind.REGION, "", ("r", "s")),
        Draft(Kind.ALL, "r", (), origin="web:1:ff", sent=1760000000.123456),
    ]
    told = append(log, *drafts, since=(epoch, 0)).tail.records
    assert told is not None
    assert [record.position for record in told] == [1, 2, 3, 4, 5, 6]
    assert told == drive(log.read((epoch, 0))).records


async def test_tasks_run_the_same_plans(log: RedisLog) -> None:
    """The async driver gets what the sync driver gets."""
    epoch = (await drive_async(log.read(NOWHERE))).head.epoch
    appended = await drive_async(log.append([key("a")], (epoch, 0)))
    assert appended.tail.records == drive(log.read((epoch, 0))).records


def test_a_draft_too_long_for_the_wire_is_refused(log: RedisLog) -> None:
    """20,000 keys in one record; whoever appends cuts them into several first (`records.split`)."""
    epoch = head(log).epoch
    draft = Draft(Kind.KEY, "default", tuple(f"organization:1|user:{number}" for number in range(20_000)))
    with pytest.raises(ValueError, match="longer than"):
        append(log, draft, since=(epoch, 0))
    records = append(log, *split(draft), since=(epoch, 0)).tail.records
    assert records is not None
    assert len(records) > 1
    assert tuple(target for record in records for target in record.targets) == draft.targets


def test_a_reader_too_far_behind_is_told_so(opened: Opener, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than can be read back, or of another epoch: the caller begins anew."""
    monkeypatch.setattr(redis_scripts, "MOST_READ_BACK", 2)
    log = opened(redis_url)
    epoch = head(log).epoch
    append(log, key("a"), key("b"), key("c"))
    assert drive(log.read((epoch, 0))).records is None
    assert len(drive(log.read((epoch, 1))).records or ()) == 2
    assert drive(log.read((epoch, 3))).records == ()
    assert drive(log.read(("0123456789abcdef", 0))).records is None


def _append_many(url: str, queue: Any) -> None:
    log = open_log(url)
    epoch = head(log).epoch
    taken: list[tuple[int, str]] = []

    def work(thread: int) -> None:
        for number in range(50):
            name = f"{multiprocessing.current_process().pid}-{thread}-{number}"
            taken.append((append(log, key(name), since=(epoch, 0)).position, f"|{name}"))

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log._connections.close()
    queue.put(taken)


def test_positions_are_dense_and_unique_under_concurrency(log: RedisLog, redis_url: str) -> None:
    """8 threads in each of 2 processes: 800 appends take 1 to 800, and each finds its record at its position."""
    epoch = head(log).epoch
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=_append_many, args=(redis_url, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    taken = sorted(pair for _ in processes for pair in queue.get(timeout=60))
    for process in processes:
        process.join()
    records = drive(log.read((epoch, 0))).records
    assert records is not None
    assert taken == [(record.position, record.targets[0]) for record in records]
    assert [position for position, _ in taken] == list(range(1, 801))


def test_a_record_appended_again_after_a_lost_answer_is_harmless(log: RedisLog) -> None:
    """It takes one position more and says the same."""
    epoch = head(log).epoch
    append(log, key("a"), since=(epoch, 0))
    again = append(log, key("a"), since=(epoch, 0))
    assert [record.targets for record in again.tail.records or ()] == [("|a",), ("|a",)]
    assert again.position == 2


def test_an_append_survives_a_connection_that_the_server_closed(opened: Opener, own_redis: RedisServer) -> None:
    """An idle connection that died with CLIENT KILL costs no invalidation."""
    log = opened(own_redis.url)
    epoch = head(log).epoch
    own_redis.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert append(log, key("a"), since=(epoch, 0)).position == 1


# -- the wire ---


def test_the_message_on_the_bus_is_the_documented_json(log: RedisLog, redis_server: RedisServer) -> None:
    """Golden: byte for byte, and as `encode_record` writes it; a batch is one message, a record a line."""
    epoch = head(log).epoch
    with raw(redis_server) as client, client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe("tiercast:{shop}:bus")
        pubsub.get_message(timeout=5)
        records = append(log, key("a"), tag("t"), since=(epoch, 0)).tail.records
        assert records is not None
        data = pubsub.get_message(timeout=5)["data"]
    golden = (
        b'{"v":1,"epoch":"%b","position":1,"carried":0,"kind":"key","region":"default","targets":["|a"],"soft":false,'
        b'"origin":"h:1:x","sent":1.5}\n' % epoch.encode()
    ) + (
        b'{"v":1,"epoch":"%b","position":2,"carried":0,"kind":"tag","region":"","targets":["t"],"soft":false,'
        b'"origin":"","sent":0.0}' % epoch.encode()
    )
    assert golden == data
    assert b"\n".join(map(encode_record, records)) == data
    assert decode_message(data) == records


def test_positions_stay_exact_beyond_the_precision_of_short_floats(log: RedisLog, redis_server: RedisServer) -> None:
    """2^52 + 1 is written with all its digits everywhere."""
    epoch = head(log).epoch
    start = 2**52
    with raw(redis_server) as client:
        client.xadd("tiercast:{shop}:stream", {"record": "x"}, id=f"{start}-0")
        client.hset("tiercast:{shop}:log", mapping={"position": start, "carried": start})
    appended = append(log, tag("t"), since=(epoch, start))
    assert appended.position == start + 1
    assert drive(log.read((epoch, start))).records == appended.tail.records
    assert [stamp.position for stamp in drive(log.snapshot()).stamps] == [start + 1]
    assert drive(log.read((epoch, start))).head.carried == start + 1


@pytest.mark.parametrize(
    "draft",
    [
        "nonsense",
        "[]",
        "{}",
        '{"kind":"key","region":"r","targets":["|a"]} ',
        '{"v":1,"kind":"key","region":"r","targets":["|a"]}',
        '{"kind":"keys","region":"r","targets":["|a"]}',
        '{"kind":"key","region":"","targets":["|a"]}',
        '{"kind":"key","region":"r","targets":[]}',
        '{"kind":"all","region":"","targets":["x"]}',
        '{"kind":"tag","region":"","targets":[1]}',
        '{"kind":"tag","region":"","targets":{"a":"b"}}',
        '{"kind":"tag","region":"","targets":["a"],"soft":1}',
        '{"kind":"tag","region":"","targets":["a"],"position":99}',
        '{"kind":"tag","region":"","targets":["a"],"\\u0065poch":"other"}',
    ],
)
def test_the_script_refuses_what_is_no_draft(log: RedisLog, redis_server: RedisServer, draft: str) -> None:
    """With an error that says why; nothing of the batch is appended."""
    before = head(log)
    good = '{"kind":"tag","region":"","targets":["a"]}'
    with redis_server.client() as client, pytest.raises(Exception, match="TIERCAST draft 2 is refused"):
        client.eval(redis_scripts.SCRIPT, 4, *log.keys.four(), "append", "f" * 16, "{}", good, draft)
    after = head(log)
    assert (after.epoch, after.position) == (before.epoch, before.position)


@pytest.mark.parametrize("name", ["\ud800", "\\ud800\\\ud800", "a\udfffb\udc00"])
def test_half_a_surrogate_pair_is_invalidated_like_any_text(log: RedisLog, name: str) -> None:
    """The record is exact; the stamp that later processes start from is coarser: everything."""
    epoch = head(log).epoch
    append(log, tag(name, region="r"), since=(epoch, 0))
    records = drive(log.read((epoch, 0))).records
    assert records is not None
    assert [record.targets for record in records] == [(name,)]
    (stamp,) = drive(log.snapshot()).stamps
    assert (stamp.kind, stamp.region, stamp.targets, stamp.position) == (Kind.ALL, "r", (), 1)


# -- what stands in the stream and should not ---


def test_a_record_of_unknown_kind_is_applied_as_everything(log: RedisLog, redis_server: RedisServer) -> None:
    """As a later version may write it; and so is whatever cannot be read."""
    epoch = head(log).epoch
    entries = [
        {"record": '{"v":1,"kind":"galaxy","region":"","targets":["m31"]}'},
        {"record": b"\xff\xfe"},
        {"other": "x"},
        {"record": '{"v":1,"kind":"tag","region":"","targets":["t"],"epoch":"x","position":77}'},
    ]
    with raw(redis_server) as client:
        for position, fields in enumerate(entries, 1):
            client.xadd("tiercast:{shop}:stream", fields, id=f"{position}-0")
        client.hset("tiercast:{shop}:log", "position", len(entries))
    everything = [Record(Kind.ALL, "", (), epoch=epoch, position=position) for position in (1, 2, 3)]
    records = drive(log.read((epoch, 0))).records
    assert records == (*everything, Record(Kind.TAG, "", ("t",), epoch=epoch, position=4))


def test_entries_of_strangers_between_the_records_are_passed_over(log: RedisLog, redis_server: RedisServer) -> None:
    """XADD with a sequence of its own moves no position."""
    epoch = head(log).epoch
    append(log, key("a"))
    redis_server.execute("XADD", "tiercast:{shop}:stream", "1-1", "record", "junk")
    append(log, key("b"))
    records = drive(log.read((epoch, 0))).records
    assert [record.targets for record in records or ()] == [("|a",), ("|b",)]


def test_a_missing_entry_is_a_gap(log: RedisLog, redis_server: RedisServer) -> None:
    """XDEL in the middle, or of the newest: the reader is told that the log does not reach back."""
    epoch = head(log).epoch
    append(log, key("a"), key("b"), key("c"))
    redis_server.execute("XDEL", "tiercast:{shop}:stream", "2-0")
    assert drive(log.read((epoch, 0))).records is None
    assert len(drive(log.read((epoch, 2))).records or ()) == 1
    redis_server.execute("XDEL", "tiercast:{shop}:stream", "3-0")
    assert drive(log.read((epoch, 2))).records is None


def test_an_entry_planted_past_the_head_ends_the_epoch(log: RedisLog, redis_server: RedisServer) -> None:
    """XADD * by a stranger: the next append begins a new epoch instead of failing for ever."""
    epoch = head(log).epoch
    append(log, key("a"))
    redis_server.execute("XADD", "tiercast:{shop}:stream", "*", "some", "thing")
    appended = append(log, key("b"), since=(epoch, 1))
    assert appended.tail.head.epoch != epoch
    assert appended.tail.records is None
    assert append(log, key("c"), since=(appended.tail.head.epoch, 1)).position == 2
