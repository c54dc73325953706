"""The disk log is strict: a read that begins after an invalidation is not answered from before it, whoever catches up meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tiercast import CacheConfig, CacheManager, LocalCacheConfig
from tiercast.clock import SystemClock
from tiercast.loading.residents import MISS
from tiercast.plans import drive


class Interrupted(SystemClock):
    """A clock at whose next look by the main thread something happens, as if another thread had its turn there."""

    then: Callable[[], None] | None = None

    def monotonic(self) -> float:
        if self.then is not None and threading.current_thread() is threading.main_thread():
            then, self.then = self.then, None
            then()
        return super().monotonic()


READS: dict[str, Callable[[CacheManager, Callable[[str], Any]], Any]] = {
    "get": lambda cache, _: cache.get("k"),
    "get_async": lambda cache, _: asyncio.run(cache.get_async("k")),
    "multi_get": lambda cache, _: cache.multi_get(["k"]).get("k"),
    "get_or_set": lambda cache, _: cache.get_or_set("k", lambda: None),
    "cached": lambda cache, function: function("k"),
    "again": lambda cache, _: None if (v := cache._runtime.default.again("k", "", "k")) is MISS else v,
}


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[CacheManager, CacheManager, Interrupted]]:
    """Two managers that share a directory as two processes do, and the clock of the first."""
    clock, config = Interrupted(), CacheConfig(disk=LocalCacheConfig(type="file", directory=tmp_path))
    with CacheManager(config, clock=clock) as cache, CacheManager(config) as other:
        yield cache, other, clock


@pytest.mark.parametrize("kind", ["key", "tag"])
@pytest.mark.parametrize("reading", READS)
def test_a_read_in_whose_middle_it_was_applied(
    two: tuple[CacheManager, CacheManager, Interrupted], reading: str, kind: str
) -> None:
    """The read begins when the record stands in the log; another thread applies it between two steps of the read."""
    cache, other, clock = two
    answers = ["old"]

    @cache.cached(key="{key}", tags=["t"])
    def function(key: str) -> str | None:
        return answers.pop() if answers else None

    assert function("k") == "old"
    read = READS[reading]
    assert read(cache, function) == "old"
    runtime = cache._runtime
    held = runtime.ledger.lock
    held.acquire()  # so that the listener does not come first
    if kind == "key":
        other.invalidate_keys(["k"])
    else:
        other.invalidate_tags(["t"])

    def applied_meanwhile() -> None:
        drive(runtime.coherence.catch_up())
        held.release()

    clock.then = applied_meanwhile
    try:
        assert read(cache, function) is None
    finally:
        then, clock.then = clock.then, None
        if then is not None:  # the read did not look at the clock
            then()
