"""What the tests of loading share: managers that are asked whether they are at rest."""

from __future__ import annotations

from typing import Any

from loaders import PATIENCE
from stacks import Async, Sync
from tiercast import CacheManager
from tiercast.testing import FakeClock


def refuse() -> Any:
    raise LookupError("origin")


def never() -> Any:
    raise AssertionError("the loader is not to be called")


def stale_served(cache: CacheManager) -> int:
    return int(cache.stats()["stale_served"])


def idle(cache: CacheManager) -> bool:
    """Whether no load is on its way."""
    return len(cache._runtime.flights) == 0


def settle(cache: CacheManager, call: Sync | Async) -> None:
    """Let what runs in the background end."""
    if isinstance(call, Async):
        call.loop.run_until_complete(cache._runtime.workers.drain_async(PATIENCE))
    else:
        assert cache._runtime.workers.drain(PATIENCE)
    assert idle(cache)


def clock_cost(cache: CacheManager, clock: FakeClock, key: str, seconds: float) -> None:
    """Load a key by a loader that takes a while."""

    def load() -> str:
        clock.advance(seconds)
        return key

    cache.get_or_set(key, load)
