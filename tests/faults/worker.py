"""A worker of a fault run: threads and tasks that read and write through one manager and check every read.

Run as `python -m faults.worker SETTINGS`, SETTINGS being the JSON of `Settings`.

The oracle. A read that began at t0 and returned version v of a key is broken where
(G1) this process had, before t0, returned from an invalidation of what is older than some w > v, or
(G2) an invalidation of what is older than some w > v was acknowledged, to whomever, more than `bound` before t0.
No allowance is made for scheduling: the library takes its own time after t0 is taken.
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from faults.board import AUDIT, END, KEYS, QUIET, RUN, VERSIONS, WORKERS, Board
from faults.mutants import MUTANTS
from tiercast import (
    BusUnavailable,
    CacheConfig,
    CacheManager,
    CoherenceConfig,
    DistributedCacheConfig,
    LocalCacheConfig,
    ScopeConfig,
    ScopeLevel,
)

REGIONS = ("default", "plain", "short")
SCOPES = ScopeConfig([ScopeLevel("organization", "org_id", [ScopeLevel("user", "user_id")])])
READERS = 2
"""Threads that read, and as many tasks; besides them one thread and one task write."""


@dataclass(frozen=True)
class Settings:
    """What a worker is told. `bound`: seconds; `mutant`: a rule to be broken on purpose, "" for none; `writes`: whether it does."""

    directory: str
    member: int
    seed: int
    url: str | None
    host: int
    max_staleness: float
    heartbeat: float
    bound: float
    mutant: str = ""
    writes: bool = True

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    def config(self) -> CacheConfig:
        remote = None
        if self.url is not None:
            remote = DistributedCacheConfig(
                connection_string=self.url, write_timeout=0.5, connect_timeout=0.5, breaker_reset=0.3
            )
        return CacheConfig(
            name="faults",
            local=LocalCacheConfig(max_size=KEYS // 2),
            disk=LocalCacheConfig(type="file", directory=f"{self.directory}/host-{self.host}"),
            distributed=remote,
            coherence=CoherenceConfig(max_staleness=self.max_staleness, heartbeat=self.heartbeat),
            scopes=SCOPES,
            regions={"plain": {"disk": None}, "short": {"ttl": 0.7}},
            ttl=3600.0,
            lock_ttl=0.5,
        )


def place_of(key: int) -> dict[str, str]:
    """The region and scope of a key; twelve keys apart they are the same."""
    where = {"region": REGIONS[key % 3], "org_id": str(key % 4)}
    return where | {"user_id": str(key % 4)} if key % 2 else where


def name_of(key: int) -> str:
    return f"item:{key}"


def tags_of(key: int) -> list[str]:
    return [f"item-{key}", f"group-{key % 20}"]


class Worker:
    """One process's manager, its readers and writers, and its part of the oracle."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.member = settings.member
        self.board = Board(Path(settings.directory) / "board")
        self.life = self.board.stat(self.member, "lives") + 1
        self.board.put(self.member, "lives", self.life)
        self.cache = CacheManager(settings.config())
        self.bound = int(settings.bound * 1e9)
        self.floor = [0] * KEYS
        """By key: the version below which this process must never again read."""
        self.locks = [threading.Lock() for _ in range(KEYS)]
        self.mine = [key for key in range(KEYS) if key % WORKERS == self.member]
        self.places = [place_of(key) for key in range(KEYS)]
        self.names = [name_of(key) for key in range(KEYS)]
        self.counted = threading.Lock()
        self.began_with = {name: self.board.stat(self.member, name) for name in PUBLISHED}
        if settings.mutant:
            MUTANTS[settings.mutant](self)

    # -- the origin -----------------------------------------------------------------------

    def value(self, key: int) -> dict[str, Any]:
        """What the origin answers now."""
        version = self.board.committed[key]
        return {"key": key, "version": version, "padding": "x" * (version % 7 * 300)}

    @staticmethod
    def delay(rng: random.Random) -> float:
        """How long a load takes after it has looked."""
        draw = rng.random()
        return 0.0 if draw < 0.6 else rng.uniform(0.0, 0.01) if draw < 0.95 else rng.uniform(0.03, 0.15)

    # -- the oracle -----------------------------------------------------------------------

    def check(self, key: int, value: Any, floor: int, began: int) -> None:
        """Judge what a read returned; `floor` and `began` were taken before it."""
        if value["key"] != key:
            self.broken(key, began, f"is the value of {value['key']}")
            return
        version = value["version"]
        if version < floor:
            self.broken(key, began, f"has version {version}, this process invalidated all before {floor}")
        if version >= self.board.top[key]:
            return
        since = self.board.outdated_since(key, version)
        age = began - since
        if not since or age < 0:
            return
        with self.counted:
            self.board.add(self.member, "older")
            if age > self.board.stat(self.member, "worst"):
                self.board.put(self.member, "worst", age)
        if age > self.bound:
            self.broken(
                key, began, f"has version {version}, {age / 1e9:.3f} s old, the bound is {self.settings.bound} s"
            )

    def broken(self, key: int, began: int, what: str) -> None:
        with self.counted:
            self.board.add(self.member, "broken")
            status = self.cache.coherence.status()
            self.note(
                f"item:{key} read at {began / 1e9:.6f} by worker {self.member}, life {self.life}: {what}; {status}"
            )

    def note(self, text: str) -> None:
        with (Path(self.settings.directory) / "broken").open("a") as file:
            file.write(text + "\n")

    def count_read(self) -> None:
        with self.counted:
            self.board.add(self.member, "reads")

    # -- reading --------------------------------------------------------------------------

    def read(self, rng: random.Random) -> None:
        """One read of a thread."""
        key = self.choose(rng)
        draw = rng.random()
        cache, where = self.cache, self.places[key]

        def load() -> dict[str, Any]:
            value = self.value(key)
            time.sleep(self.delay(rng))
            return value

        if draw < 0.7:
            floor, began = self.floor[key], time.monotonic_ns()
            value = cache.get_or_set(self.names[key], load, tags=tags_of(key), **where)
            self.check(key, value, floor, began)
        elif draw < 0.95:
            floor, began = self.floor[key], time.monotonic_ns()
            value = cache.get(self.names[key], **where)
            if value is not None:
                self.check(key, value, floor, began)
        else:
            keys = range(key % 12, KEYS, 12)
            floors, began = {other: self.floor[other] for other in keys}, time.monotonic_ns()
            found = cache.multi_get([self.names[other] for other in keys], **where)
            for name, value in found.items():
                other = int(name[5:])
                self.check(other, value, floors[other], began)
        self.count_read()

    async def read_async(self, rng: random.Random) -> None:
        """One read of a task."""
        key = self.choose(rng)
        where = self.places[key]

        async def load() -> dict[str, Any]:
            value = self.value(key)
            await asyncio.sleep(self.delay(rng))
            return value

        floor, began = self.floor[key], time.monotonic_ns()
        if rng.random() < 0.75:
            value = await self.cache.get_or_set_async(self.names[key], load, tags=tags_of(key), **where)
            self.check(key, value, floor, began)
        else:
            value = await self.cache.get_async(self.names[key], **where)
            if value is not None:
                self.check(key, value, floor, began)
        self.count_read()

    @staticmethod
    def choose(rng: random.Random) -> int:
        """A key, some of them much more often than others."""
        return int(KEYS * rng.random() ** 2)

    # -- writing --------------------------------------------------------------------------

    def write(self, rng: random.Random) -> None:
        """Commit a new version of one of this worker's keys, then tell the cache in one of many ways."""
        key = rng.choice(self.mine)
        if not self.locks[key].acquire(blocking=False):
            return
        try:
            version = self.commit(key)
            if version:
                operation, args, kwargs = self.telling(rng, key, version)
                result = getattr(self.cache, operation)(*args, **kwargs)
                self.told(key, version, result)
        finally:
            self.locks[key].release()

    async def write_async(self, rng: random.Random) -> None:
        key = rng.choice(self.mine)
        if not self.locks[key].acquire(blocking=False):
            return
        try:
            version = self.commit(key)
            if version:
                operation, args, kwargs = self.telling(rng, key, version)
                result = await getattr(self.cache, f"{operation}_async")(*args, **kwargs)
                self.told(key, version, result)
        finally:
            self.locks[key].release()

    def commit(self, key: int) -> int:
        version = self.board.committed[key] + 1
        if version >= VERSIONS:
            return 0
        self.board.committed[key] = version
        return version

    def telling(self, rng: random.Random, key: int, version: int) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
        """An operation that invalidates all versions of a key before this one."""
        where, name = self.places[key], self.names[key]
        draw = rng.random()
        if draw < 0.25:
            return "invalidate_keys", ([name],), where
        if draw < 0.5:
            return "set", (name, self.value(key)), where | {"tags": tags_of(key)}
        if draw < 0.75:
            return "invalidate_tags", ([f"item-{key}"],), {}
        if draw < 0.9:
            return "invalidate_pattern", (f"*:{key}",), where
        if draw < 0.95:
            return "multi_set", ({name: self.value(key)},), where | {"tags": tags_of(key)}
        # The rest reaches many keys; were it frequent, nothing would live long enough to be served too long.
        if draw < 0.97:
            return "invalidate_tags", ([f"group-{key % 20}"],), {"region": where["region"]}
        if draw < 0.99:
            return "evict_by_scope", (), {name: value for name, value in where.items() if name != "region"}
        if draw < 0.998:
            return "clear", (where["region"],), {}
        return "clear", (), {}

    def told(self, key: int, version: int, result: Any) -> None:
        """The invalidation has returned: from now on nothing older may be read here, and within the bound nowhere."""
        now = time.monotonic_ns()
        self.floor[key] = version
        self.board.told[key] = version
        if result.delivered:
            self.board.acknowledge(key, version, now)
        with self.counted:
            self.board.add(self.member, "writes")
            self.board.add(self.member, "queued", not result.delivered)

    def finish_what_was_begun(self) -> None:
        """Tell of what a former life of this worker committed and may not have told."""
        for key in self.mine:
            with self.locks[key]:
                version = self.board.committed[key]
                if self.board.told[key] < version:
                    self.told(key, version, self.cache.invalidate_keys([self.names[key]], **self.places[key]))

    # -- the phases -----------------------------------------------------------------------

    def run(self) -> None:
        self.finish_what_was_begun()
        threads = [
            threading.Thread(target=self.guarded, args=(work, number))
            for number, work in enumerate([self.thread_reads] * READERS + [self.thread_writes, self.loop_runs])
        ]
        for thread in threads:
            thread.start()
        while self.board.phase == RUN:
            self.publish()
            time.sleep(0.05)
        for thread in threads[READERS:-1]:
            thread.join()
        self.settle()
        while self.board.phase == QUIET:
            self.publish()
            time.sleep(0.02)
        self.audit()
        while self.board.phase == AUDIT:
            time.sleep(0.02)
        for thread in threads:
            thread.join()
        self.publish()
        self.cache.close()

    def guarded(self, work: Callable[[random.Random], None], number: int) -> None:
        try:
            work(random.Random(f"{self.settings.seed} {self.member} {self.life} {number}"))
        except BaseException:
            self.board.add(self.member, "errors")
            self.note(f"worker {self.member}, life {self.life}:\n{traceback.format_exc()}")

    def thread_reads(self, rng: random.Random) -> None:
        while self.board.phase < END:
            for _ in range(20):
                self.read(rng)
            time.sleep(0.004)

    def thread_writes(self, rng: random.Random) -> None:
        while self.board.phase == RUN and self.settings.writes:
            self.write(rng)
            time.sleep(rng.uniform(0.0, 0.05))

    def loop_runs(self, rng: random.Random) -> None:
        asyncio.run(self.tasks(rng))

    async def tasks(self, rng: random.Random) -> None:
        async def reads(rng: random.Random) -> None:
            while self.board.phase < END:
                for _ in range(20):
                    await self.read_async(rng)
                await asyncio.sleep(0.004)

        async def writes(rng: random.Random) -> None:
            while self.board.phase == RUN and self.settings.writes:
                await self.write_async(rng)
                await asyncio.sleep(rng.uniform(0.0, 0.1))

        async with asyncio.TaskGroup() as group:
            for _ in range(READERS):
                group.create_task(reads(random.Random(rng.random())))
            group.create_task(writes(random.Random(rng.random())))

    def settle(self) -> None:
        """Wait until nothing of this host waits in the outbox and all is applied here."""
        self.finish_what_was_begun()
        while self.board.phase == QUIET:
            try:
                self.cache.coherence.settle(1.0)
            except BusUnavailable:
                continue
            if not self.cache.coherence.status().waiting:
                self.board.put(self.member, "settled", 1)
                return
            time.sleep(0.02)

    def audit(self) -> None:
        """Compare every key with the origin, which changes no more."""
        self.cache.coherence.settle(10.0)
        for key in range(KEYS):
            name, where = self.names[key], self.places[key]
            committed = self.board.committed[key]
            for _ in (0, 1):
                value = self.cache.get(name, **where)
                if value is not None and value["version"] != committed:
                    self.board.add(self.member, "differing")
                    self.note(f"worker {self.member} has {value['version']} of item:{key}, the origin {committed}")
                self.cache.get_or_set(name, lambda key=key: self.value(key), tags=tags_of(key), **where)  # type: ignore[misc]
        self.board.put(self.member, "audited", 1)

    def publish(self) -> None:
        """Put the library's own counts on the board, those of former lives included."""
        counters = self.cache._runtime.coherence.counters
        stats = self.cache.stats()
        now = {name: getattr(counters, name).value for name in counters.__slots__} | {
            "loads": stats["loads"],
            "fills_refused": stats["fills_refused"],
            "hits": stats["local_hits"],
        }
        for name, before in self.began_with.items():
            self.board.put(self.member, name, before + now[name])
        if not self.cache.coherence.status().proven:
            self.board.add(self.member, "unproven")


PUBLISHED = (
    "loads", "fills_refused", "hits", "gaps", "malformed", "epoch_changes", "drops", "beats_failed", "replayed",
)  # fmt: skip


def main() -> None:
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    settings = Settings(**json.loads(sys.argv[1]))
    try:
        worker = Worker(settings)
        while worker.board.phase < RUN:
            time.sleep(0.01)
        worker.run()
    except BaseException:
        with (Path(settings.directory) / "broken").open("a") as file:
            file.write(f"worker {settings.member} ended:\n{traceback.format_exc()}\n")
        raise


if __name__ == "__main__":
    main()
