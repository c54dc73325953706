"""Restore since, under threads: whatever stores what was computed before its own record stores nothing that is old."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from stacks import STACKS, config_of
from tiercast import CacheManager

KEYS = ("a", "b")
THREADS, TURNS = 6, 60


@pytest.fixture(params=STACKS)
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CacheManager]:
    url = request.getfixturevalue("redis_url") if "redis" in request.param else None
    with CacheManager(config_of(request.param, tmp_path / "cache", url)) as cache:
        yield cache


class Origin:
    """What is cached: a version for each key, and up to which of them invalidations have returned."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.versions = dict.fromkeys(KEYS, 0)
        self.told = dict.fromkeys(KEYS, 0)

    def write(self, key: str) -> int:
        with self.lock:
            self.versions[key] += 1
            return self.versions[key]

    def tell(self, key: str, version: int) -> None:
        with self.lock:
            self.told[key] = max(self.told[key], version)


class Users:
    """Everything that stores values or kills them, with pauses in between for the others."""

    def __init__(self, cache: CacheManager, origin: Origin) -> None:
        self.cache, self.origin = cache, origin
        self.write = cache.write_through(key="{key}", tags=("of {key}",))(self._write)
        self.write_async = cache.write_through(key="{key}", tags=("of {key}",))(self._write_async)
        self.aside = cache.cache_aside(get_from_cache=cache.get, save_to_cache=self._save)(self._read)

    def _write(self, key: str, pause: float) -> int:
        version = self.origin.write(key)
        time.sleep(pause)
        return version

    async def _write_async(self, key: str, pause: float) -> int:
        version = self.origin.write(key)
        await asyncio.sleep(pause)
        return version

    def _read(self, key: str) -> int:
        version = self.origin.versions[key]
        time.sleep(0.001)
        return version

    def _save(self, key: str, version: int) -> None:
        self.cache.set(key, version, tags=[f"of {key}"])

    def write_through(self, key: str, random: Random) -> None:
        self.origin.tell(key, self.write(key, random.random() / 500))

    def write_through_async(self, key: str, random: Random) -> None:
        self.origin.tell(key, asyncio.run(self.write_async(key, random.random() / 500)))

    def invalidate(self, key: str, random: Random) -> None:
        version, cache = self.origin.write(key), self.cache
        ways: list[Callable[[], object]] = [
            lambda: cache.invalidate_keys([key]), lambda: cache.invalidate_tags([f"of {key}"]),
            lambda: cache.invalidate_pattern(f"{key}*"), lambda: cache.delete(key), cache.clear,
        ]  # fmt: skip
        random.choice(ways)()
        self.origin.tell(key, version)

    def set_as_of(self, key: str, random: Random) -> None:
        position = self.cache.position()
        self.cache.set(key, self._read(key), tags=[f"of {key}"], as_of=position)

    def tag(self, key: str, random: Random) -> None:
        self.cache.tag_cache_key(key, [f"late {random.randrange(3)}"])

    def touch(self, key: str, random: Random) -> None:
        self.cache.touch(key, random.randrange(5, 50))

    def get(self, key: str, random: Random) -> None:
        self._see(key, lambda: self.cache.get(key))

    def get_or_set(self, key: str, random: Random) -> None:
        self._see(key, lambda: self.cache.get_or_set(key, lambda: self._read(key), tags=[f"of {key}"]))

    def get_aside(self, key: str, random: Random) -> None:
        self._see(key, lambda: self.aside(key))

    def _see(self, key: str, read: Callable[[], int | None]) -> None:
        told = self.origin.told[key]
        seen = read()
        assert seen is None or seen >= told, f"{key}: {seen} was served after the invalidation for {told} had returned"


def test_overlapping_writers_readers_and_taggers_leave_nothing_old(cache: CacheManager) -> None:
    """No read that begins after an invalidation has returned sees what was before it, and what stands at the end is the origin's."""
    origin = Origin()
    users = Users(cache, origin)
    acts = [users.get] * 3 + [
        users.write_through, users.invalidate, users.set_as_of, users.tag, users.touch, users.get_or_set, users.get_aside,
    ]  # fmt: skip
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        random = Random(seed)
        mine = [*acts, users.write_through_async] if seed == 0 else acts
        try:
            for _ in range(TURNS):
                random.choice(mine)(random.choice(KEYS), random)
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert all(cache.get(key, origin.versions[key]) == origin.versions[key] for key in KEYS)


def test_what_was_tagged_never_comes_back_after_its_tag(cache: CacheManager) -> None:
    """Threads tag an entry, touch it and load it anew while its tag is invalidated: the old value is gone when that has returned."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def until_stopped(act: Callable[[], object]) -> None:
        try:
            while not stop.wait(0.001):  # leave it a moment in which nothing comes between
                act()
        except BaseException as exc:
            failures.append(exc)

    rivals: list[Callable[[], object]] = [
        lambda: cache.touch("k", 50),
        lambda: cache.tag_cache_key("k", ["another"]),
        lambda: cache.get_or_set("k", lambda: "loaded"),
    ]
    threads = [threading.Thread(target=until_stopped, args=(act,)) for act in rivals]
    for thread in threads:
        thread.start()
    try:
        tagged = 0
        while tagged < 30 and not failures:
            cache.set("k", "old")
            if cache.tag_cache_key("k", ["late"]):
                tagged += 1
                cache.invalidate_tags(["late"])
                assert cache.get("k") != "old"
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
