"""Fleets that share one Redis: none sees another, whatever they are called."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from servers import RedisServer
from stacks import patient
from tiercast import CacheConfig, CacheManager, CoherenceConfig

BRISK = CoherenceConfig(max_staleness=1.5, heartbeat=0.3)


@pytest.fixture
def make(own_redis: RedisServer) -> Iterator[Any]:
    """Make a manager of a fleet, that has started; closed in the end."""
    managers: list[CacheManager] = []

    def make(name: str) -> CacheManager:
        remote = patient(own_redis.url)
        managers.append(CacheManager(CacheConfig(name=name, distributed=remote, coherence=BRISK)))
        managers[-1].coherence.start()
        return managers[-1]

    yield make
    for manager in managers:
        manager.close()


def test_neither_values_nor_invalidations_reach_another_fleet(make: Any) -> None:
    """Not even "everything": the other's position stands still, and it knows no member but its own."""
    shop, blog = make("shop"), make("blog")
    for cache, value in ((shop, "goods"), (blog, "words")):
        assert cache.get_or_set("key", lambda value=value: value) == value
    before = blog.coherence.status()
    shop.clear()
    shop.invalidate_keys(["key"])
    blog.coherence.settle()
    assert blog.get("key") == "words"
    assert shop.get("key") is None
    after = blog.coherence.status()
    assert (after.epoch, after.position, after.members) == (before.epoch, before.position, (after.member,))


def test_names_that_begin_alike_are_two_fleets(make: Any) -> None:
    """Nor a fleet whose name another's begins with, or whose name has to be escaped."""
    names = ("a", "a:b", "a:*", "{a}", "a|b")
    fleets = [make(name) for name in names]
    for cache in fleets:
        cache.set("key", cache.config.name)
    fleets[0].clear()
    assert [cache.get("key") for cache in fleets] == [None, *names[1:]]


def test_housekeeping_clears_no_log_away(make: Any) -> None:
    """What looks for entries of old in Redis takes no log for one, neither its own nor others', whatever the name."""
    fleets = [make(name) for name in ("tiercast", "shop", "tiercast:{shop}")]
    for cache in fleets:
        cache.set("key", "value")
    epochs = [cache.coherence.status().epoch for cache in fleets]
    deadline = time.monotonic() + 4 * BRISK.heartbeat
    while time.monotonic() < deadline:
        for cache in fleets:
            cache.coherence.settle()
        assert [cache.coherence.status().epoch for cache in fleets] == epochs
        time.sleep(0.05)
    assert [cache.get("key") for cache in fleets] == ["value"] * 3
