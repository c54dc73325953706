"""A worker of the demo: its threads look airports up through one cache, and check every answer."""

from __future__ import annotations

import json
import logging
import os
import random
import sys
import threading
import time
import traceback
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from fleet_board import Board, Origin, zipf

from tiercast import CacheConfig, CacheManager, CoherenceConfig, DistributedCacheConfig, LocalCacheConfig, cached

TIERS = ("memory", "disk", "remote", "waited", "origin")
MEMORY_ENTRIES = 2_000
KEPT_TIMES = 100_000
"""Times that a thread keeps for each tier; of memory's, it takes one in sixteen."""
LOCK_TTL = 1.0
"""Seconds that other processes wait for one that loads; a stopped worker holds them up no longer."""
REST = 0.002
"""Seconds that a thread rests after 64 look-ups: a service waits for its clients, too."""


class Notes(threading.local):
    """Where the answer that this thread waits for comes from."""

    tier = "memory"


notes = Notes()


@dataclass(frozen=True)
class Settings:
    """What every process of a run is told."""

    directory: Path
    redis_url: str | None
    airports: int
    workers: int
    threads: int
    max_staleness: float
    heartbeat: float
    edits: float
    mute: bool
    seed: int
    parent: int

    @property
    def hosts(self) -> int:
        """Hosts that are played: two disk tiers where Redis joins them, one where the disk carries the log."""
        return 2 if self.redis_url else 1

    def config(self, member: int) -> CacheConfig:
        """The cache of one process."""
        return CacheConfig(
            name="fleet",
            local=LocalCacheConfig(max_size=MEMORY_ENTRIES),
            disk=LocalCacheConfig(type="file", directory=self.directory / f"host-{member % self.hosts + 1}"),
            distributed=DistributedCacheConfig(connection_string=self.redis_url),
            coherence=CoherenceConfig(max_staleness=self.max_staleness, heartbeat=self.heartbeat),
            ttl=3600,
            lock_ttl=LOCK_TTL,
        )

    def board(self) -> Board:
        return Board(self.directory / "board", self.airports, self.workers)

    def origin(self) -> Origin:
        return Origin(self.directory / "origin.sqlite3")


def number_of(epoch: str) -> int:
    """An epoch as a number that fits the board."""
    return int.from_bytes(blake2b(epoch.encode(), digest_size=7).digest(), "big")


def run(work: Callable[[Settings, int], None], settings: Settings, member: int) -> None:
    """Run a process of the demo; what goes wrong, and what the library warns of, is left where the parent finds it."""
    logging.basicConfig(filename=settings.directory / f"log-{member}", format="%(message)s", level=logging.WARNING)
    try:
        work(settings, member)
    except BaseException:  # noqa: BLE001  the parent reads it and says so
        (settings.directory / f"failure-{member}").write_text(traceback.format_exc())
        sys.exit(1)


def work(settings: Settings, member: int) -> None:
    """Look up until the board says stop, then write the report."""
    with CacheManager(settings.config(member)) as cache:
        cache.coherence.start(20)
        tell_tiers_apart(cache)
        worker = Worker(cache, settings, member)
        worker.work()
        report = settings.directory / f"report-{member}.json"
        report.write_text(json.dumps(worker.report()))


def tell_tiers_apart(cache: CacheManager) -> None:
    """Have the counters of this process's region note, for the thread that counts, where its answer came from."""

    def noting(add: Callable[[], int], tier: str) -> Callable[[], int]:
        def noted() -> int:
            if notes.tier != "waited":  # what another loaded is found in a tier as well
                notes.tier = tier
            return add()

        return noted

    counters = cache.current_region().counters
    for counter, tier in (
        (counters.disk_hits, "disk"),
        (counters.remote_hits, "remote"),
        (counters.waits, "waited"),
        (counters.lock_waits, "waited"),
    ):
        counter.add = noting(counter.add, tier)


class Worker:
    """One process: its reading threads, its canary and its numbers on the board."""

    def __init__(self, cache: CacheManager, settings: Settings, member: int) -> None:
        self.cache = cache
        self.settings = settings
        self.member = member
        self.board = settings.board()
        self.canaries: list[tuple[int, int, int]] = []
        """(round, when it was last seen alive, when it was first seen dead)."""
        self.readers = [Reader(self, seed) for seed in range(settings.threads)]
        self._round = self.board["round"]
        self._alive = 0

    def over(self) -> bool:
        """Whether the run is over, or the parent is gone."""
        return bool(self.board["stop"]) or os.getppid() != self.settings.parent

    def work(self) -> None:
        for reader in self.readers:
            reader.prepare()
        self.board.words[self.board.place("ready", self.member)] = 1
        while not self.board["go"] and not self.over():
            time.sleep(0.01)
        for reader in self.readers:
            reader.start()
        due = 0.0
        while not self.over() and all(reader.is_alive() for reader in self.readers):
            self.watch_canary()
            if time.monotonic() >= due:
                self.publish()
                due = time.monotonic() + 0.1
        for reader in self.readers:
            reader.join()
            if reader.failure is not None:
                raise reader.failure
        self.publish()

    def watch_canary(self) -> None:
        """Look at the canary of this round: in memory at first, gone once its invalidation has arrived."""
        number = self.board["round"]
        if number != self._round:
            self._round = number
            self.cache.get_or_set(f"canary:{number}", lambda: number)
            self._alive = time.monotonic_ns()
            self.board.words[self.board.place("seen_round", self.member)] = number
        elif not self._alive:
            time.sleep(0.001)
        else:
            time.sleep(0.00002)
            now = time.monotonic_ns()
            if self.cache.get(f"canary:{number}") is None:
                self.canaries.append((number, self._alive, now))
                self._alive = 0
            else:
                self._alive = now

    def publish(self) -> None:
        """Put this worker's counts on the board."""
        words, place = self.board.words, self.board.place
        for tier in TIERS:
            words[place(tier, self.member)] = sum(reader.counts[tier] for reader in self.readers)
        words[place("older", self.member)] = sum(len(reader.older) for reader in self.readers)
        words[place("broken", self.member)] = sum(len(reader.broken) for reader in self.readers)

    def report(self) -> dict[str, Any]:
        """What the parent reads when this process has ended."""
        return {
            "counts": {tier: sum(reader.counts[tier] for reader in self.readers) for tier in TIERS},
            "times": {tier: [time for reader in self.readers for time in reader.times[tier]] for tier in TIERS},
            "older": [seen for reader in self.readers for seen in reader.older],
            "broken": [seen for reader in self.readers for seen in reader.broken],
            "canaries": self.canaries,
        }


class Reader(threading.Thread):
    """A thread that looks airports up, notes where each answer came from, and judges how old it is."""

    def __init__(self, worker: Worker, number: int) -> None:
        super().__init__(name=f"reader-{number}", daemon=True)
        self.worker = worker
        self.board = worker.board
        self.failure: BaseException | None = None
        self.counts = dict.fromkeys(TIERS, 0)
        self.times = {tier: array("q") for tier in TIERS}
        self.older: list[tuple[int, int]] = []
        """Reads that were older than an acknowledged edit: (when they began, by how much), in nanoseconds."""
        self.broken: list[tuple[int, str]] = []
        """Reads that broke a promise: (when they began, what they were)."""
        self.applied = (0, 0)
        """(epoch, position) that this process had applied some reads ago."""
        settings = worker.settings
        self.bound = settings.max_staleness * 1e9 if settings.redis_url else 0.0
        self.random = random.Random((settings.seed * 1000 + worker.member) * 1000 + number)
        self.weights = zipf(settings.airports)

    def prepare(self) -> None:
        """Learn how each airport can be asked for: (column, code, country)."""
        origin = self.worker.settings.origin()
        places = origin.places()
        origin.close()
        self.ways = [
            [("icao", icao, country), *([("iata", iata, country)] if iata else [])] for icao, iata, country in places
        ]

    def run(self) -> None:
        try:
            self.origin = self.worker.settings.origin()
            self.look_up = cached(key="{column}:{code}", tags="country:{country}", manager=self.worker.cache)(self.load)
            self.loop()
        except BaseException as exc:  # noqa: BLE001  the worker raises it
            self.failure = exc

    def load(self, column: str, code: str, country: str) -> dict[str, Any]:
        notes.tier = "origin"
        return self.origin.look_up(column, code)

    def loop(self) -> None:
        over, airports = self.worker.over, range(len(self.ways))
        while not over():
            for airport in self.random.choices(airports, cum_weights=self.weights, k=64):
                self.read(airport, self.random.choice(self.ways[airport]))
            status = self.worker.cache.coherence.status()
            self.applied = (number_of(status.epoch), status.position)
            time.sleep(REST)

    def read(self, airport: int, way: tuple[str, str, str]) -> None:
        """Read one airport through the cache."""
        notes.tier = "memory"
        acknowledged = self.board.acked[airport]
        begun = time.monotonic_ns()
        value = self.look_up(*way)
        took = time.monotonic_ns() - begun
        tier = notes.tier
        self.counts[tier] += 1
        times = self.times[tier]
        if (tier != "memory" or not self.counts[tier] % 16) and len(times) < KEPT_TIMES:
            times.append(took)
        if value["version"] < acknowledged:
            self.judge(airport, value["version"], begun)

    def judge(self, airport: int, version: int, begun: int) -> None:
        """Note a read that was older than an edit acknowledged before it began; was it promised not to be?"""
        since, position, epoch = self.board.outdated(airport, version)
        age = begun - since
        self.older.append((begun, age))
        if age > self.bound:
            self.broken.append((begun, f"{age / 1e9:.3f} s old, the bound is {self.bound / 1e9:g} s"))
        elif epoch == self.applied[0] and 0 < position <= self.applied[1]:
            self.broken.append((begun, f"older than position {position}, which this worker had applied"))
