"""What keeping processes in agreement costs: propagation, invalidation by size, the disk log, CPU."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import monotonic, perf_counter
from typing import Any

import redis
from hearer import APART, CHANNEL, hear_bare
from measure import Row, Settings, Spread, calling, compare, in_turn, shown

from tiercast import CacheConfig, CacheManager, DistributedCacheConfig, LocalCacheConfig
from tiercast.coherence.disk_log import DiskLog
from tiercast.coherence.records import Draft, Kind, Record, encode_record
from tiercast.plans import drive

PAYLOAD = encode_record(
    Record(Kind.KEY, "default", ("|key:100",), origin="host-1.local:12345:9f86d081", sent=1760000000.123456,
           epoch="9f86d081884c7d65", position=12345, carried=12345)
)  # fmt: skip
"""What a record of one key is on the wire."""


class Hearer:
    """A process that hears, and says when it did."""

    def __init__(self, kind: str, url: str, name: str = "fleet") -> None:
        command = [sys.executable, str(Path(__file__).with_name("hearer.py")), kind, url, name]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == "ready"

    def report(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("report\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def fleet(settings: Settings, name: str = "fleet") -> CacheManager:
    return CacheManager(
        CacheConfig(name=name, distributed=DistributedCacheConfig(connection_string=settings.redis.url))
    )


def propagation(settings: Settings) -> Iterator[Row]:
    """From the call in one process to the drop in another, in turn with a bare publish.

    In both pairs both processes listen: a fleet has none that tells and does not hear. What that costs the bare
    pair is shown by a publish, in turns of its own, on a channel to which only the other process listens.
    Turn and turn about, and each as often before the other as after it, so that both find the processor as cold.

    Linux gives each session a scheduling group, and so the server, where it has one, a core before its clients
    have theirs (sched(7), autogroup). Both are measured: with a session of its own, and without.
    """
    rounds = _rounds(settings, CHANNEL)
    yield Row("C1", "invalidate here, dropped there, p50 : PUBLISH here, get_message there", _quotients(rounds, median), 1.5,
              measured=_medians(rounds))  # fmt: skip
    late = median(_late(ours) for ours, _ in rounds)
    yield Row("C1.p99", "the same, p99 : the same, p99", _quotients(rounds, _late), 1.75, measured=shown(late), gross=False)  # fmt: skip
    rounds = _rounds(settings, APART)
    yield Row("C1.apart", "the same, p50 : where the publisher itself does not listen", _quotients(rounds, median),
              measured=_medians(rounds))  # fmt: skip
    with type(settings.redis)(session=False) as server:
        rounds = _rounds(replace(settings, redis=server), CHANNEL)
    yield Row("C1.group", "C1 with the server in the scheduling group of its clients", _quotients(rounds, median),
              measured=_medians(rounds))  # fmt: skip
    yield Row("C1.group.p99", "the same, p99 : the same, p99", _quotients(rounds, _late))


def _rounds(settings: Settings, channel: str) -> list[tuple[list[float], list[float]]]:
    """How long invalidations and publishes took to arrive, in several rounds.

    The processes that hear are new ones in each: where the kernel happens to put them decides more than what they do.
    """
    url = settings.redis.url
    client = redis.Redis.from_url(url)
    cache = fleet(settings)
    cache.set("first", 1)
    end = hear_bare(url, [], CHANNEL)
    rounds = []
    for _ in range(5 if settings.quick else 15):
        ours, bare = Hearer("tiercast", url), Hearer("bare", url)
        taken = _one_round(cache, client, channel, ours, bare, 250 if settings.quick else 500)
        ours.close()
        bare.close()
        if taken is not None:
            rounds.append(taken)
    end()
    cache.close()
    client.close()
    return rounds


def _one_round(
    cache: CacheManager, client: redis.Redis, channel: str, ours: Hearer, bare: Hearer, count: int
) -> tuple[list[float], list[float]] | None:
    """How long it took an invalidation to arrive, and a publish; None where one was not heard."""
    for number in range(20):  # the processes are new: so is their way for the server, and for the kernel
        _one_turn(cache, client, channel, number)
    ours.report()
    bare.report()
    began = [_one_turn(cache, client, channel, number) for number in range(count)]
    time.sleep(0.2)
    heard, heard_bare = ours.report()["moments"], bare.report()["moments"]
    if len(heard) < count or len(heard_bare) != count:
        return None
    return (
        _first_after([told for told, _ in began], heard),
        [moment - told for (_, told), moment in zip(began, heard_bare, strict=True)],
    )


def _one_turn(cache: CacheManager, client: redis.Redis, channel: str, number: int) -> tuple[float, float]:
    """Invalidate and publish, in every second turn the other way round; returns when each began."""
    ours = bare = 0.0
    for which in ("ours", "bare") if number % 2 else ("bare", "ours"):
        if which == "ours":
            ours = monotonic()
            cache.invalidate_keys([f"key:{number}"])
        else:
            bare = monotonic()
            client.publish(channel, PAYLOAD)
        time.sleep(0.001)
    return ours, bare


def _late(taken: list[float]) -> float:
    return sorted(taken)[len(taken) * 99 // 100]


def _quotients(rounds: list[tuple[list[float], list[float]]], what: Any) -> Spread:
    return Spread.of([what(ours) / what(bare) for ours, bare in rounds])


def _medians(rounds: list[tuple[list[float], list[float]]]) -> str:
    ours, bare = (median(median(taken[which]) for taken in rounds) for which in range(2))
    return f"{shown(ours)} : {shown(bare)}"


def _first_after(began: list[float], heard: list[float]) -> list[float]:
    """For each beginning, how long it was until the next thing that was heard."""
    taken, position = [], 0
    for moment in began:
        while position < len(heard) and heard[position] < moment:
            position += 1
        if position < len(heard):
            taken.append(heard[position] - moment)
    return taken


def by_size(settings: Settings) -> Iterator[Row]:
    """Tag, scope and pattern invalidation over many entries and over a thousand."""
    many = 100_000 if settings.quick else 1_000_000
    small, large = _filled(1000), _filled(many)
    yield from _by_size(settings, "C2", f"{many:,} entries in memory", small, large)
    small.close()
    large.close()
    count = 5_000 if settings.quick else 100_000
    few, lots = fleet(settings, "few"), fleet(settings, "lots")
    for cache, size in ((few, 1000), (lots, count)):
        for start in range(0, size, 200):
            keys = range(start, start + 200)
            cache.multi_set({f"user:{number}": number for number in keys}, tags=[f"tag:{start}"])
    yield from _by_size(settings, "C3", f"{count:,} entries in Redis", few, lots)
    few.close()
    lots.close()


def _filled(count: int) -> CacheManager:
    from memory_rows import SCOPES

    cache = CacheManager(CacheConfig(scopes=SCOPES, local=LocalCacheConfig(max_size=count + 1)))
    for start in range(0, count, 1000):
        cache.multi_set({f"user:{number}": number for number in range(start, start + 1000)}, tags=[f"tag:{start}"])
    return cache


def _by_size(settings: Settings, number: str, what: str, small: CacheManager, large: CacheManager) -> Iterator[Row]:
    def tag(cache: CacheManager) -> Any:
        return lambda text: cache.invalidate_tags([f"tag:{text}"])

    def pattern(cache: CacheManager) -> Any:
        return lambda text: cache.invalidate_pattern(f"user:{text}*")

    makers = {"tag": tag, "pattern": pattern}
    if small.config.scopes.names:
        makers["scope"] = lambda cache: lambda text: cache.evict_by_scope("organization", org_id=text)
    batches = {}
    for name, make in makers.items():
        batches[f"{name} small"] = calling(make(small), range(100), 20)
        batches[f"{name} large"] = calling(make(large), range(100), 20)
    taken = in_turn(batches, settings.rounds(60))
    for name in makers:
        yield compare(f"{number}.{name}", f"{name} invalidation over {what} : over 1,000", taken, f"{name} large",
                      f"{name} small", 1.2)  # fmt: skip


def disk_log(settings: Settings) -> Iterator[Row]:
    """Appending to the disk log, and the look at its head that each read takes."""
    directory = settings.directory / "disk-log"
    directory.mkdir()
    log = DiskLog(directory / "log")
    database = sqlite3.connect(directory / "bare.db", isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")
    database.execute("CREATE TABLE records (position INTEGER PRIMARY KEY, body BLOB)")
    position = drive(log.snapshot()).head

    def append(_: Any) -> None:
        nonlocal position
        appended = drive(log.append([Draft(Kind.KEY, "default", ("|key",))], (position.epoch, position.position)))
        position = appended.tail.head

    def insert(_: Any) -> None:
        database.execute("BEGIN IMMEDIATE")
        database.execute("INSERT INTO records (body) VALUES (?)", (PAYLOAD,))
        database.execute("COMMIT")

    heads = log.heads

    def look(word: int) -> bool:
        return heads[0] == word

    def nothing(word: int) -> bool:
        return word == word  # noqa: PLR0124  the same without the look

    taken = in_turn(
        {"append": calling(append, [0], 50), "insert": calling(insert, [0], 50),
         "look": calling(look, [heads[0]], 2000), "nothing": calling(nothing, [heads[0]], 2000)},
        settings.rounds(60),
    )  # fmt: skip
    yield compare("C4", "append to the disk log : a bare insert in an SQLite WAL", taken, "append", "insert", 3.0)
    looks = [(one - other) * 1e9 for one, other in zip(taken["look"], taken["nothing"], strict=True)]
    yield Row("C4.look", "a read's look at the disk log's head, in ns", Spread.of(looks), 40, unit="ns")
    drive(log.close())
    database.close()


def cpu(settings: Settings) -> Iterator[Row]:
    """A thousand invalidations a second: what the process that hears them spends, beside a bare subscriber."""
    url = settings.redis.url
    client = redis.Redis.from_url(url)
    cache = fleet(settings)
    cache.set("first", 1)
    ours, bare = Hearer("tiercast", url), Hearer("bare", url)
    quotients, spent = [], []
    for _ in range(2 if settings.quick else 4):
        for hearer in (ours, bare):
            hearer.report()
        seconds = 1.5 if settings.quick else 3
        began = perf_counter()
        number = 0
        while (gone := perf_counter() - began) < seconds:
            while number < gone * 1000:
                cache.invalidate_keys([f"key:{number}"])
                client.publish(CHANNEL, PAYLOAD)
                number += 1
            time.sleep(0.002)
        time.sleep(0.1)
        first, second = ours.report()["cpu"], bare.report()["cpu"]
        quotients.append(first / second)
        spent.append((first / seconds, second / seconds))
    ours.close()
    bare.close()
    cache.close()
    client.close()
    own, other = (median(column) for column in zip(*spent, strict=True))
    yield Row("C5", "CPU of a process that hears 1,000 invalidations a second : of a bare redis-py subscriber",
              Spread.of(quotients), 2.0, measured=f"{own:.1%} : {other:.1%} of a core")  # fmt: skip
