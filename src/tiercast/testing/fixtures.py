"""Fixtures for users' own tests; pytest finds them by itself once ``tiercast`` is installed.

def test_profile(tiercast_manager, tiercast_clock):
assert profile("7") == {"id": "7"}      # a function under @cached
tiercast_clock.advance(301)             # its TTL is over
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ..manager import CacheManager
    from .clock import FakeClock


@pytest.fixture
def tiercast_clock() -> FakeClock:
    """A clock that stands still until the test advances it."""
    from .clock import FakeClock

    return FakeClock()


@pytest.fixture
def tiercast_manager(tiercast_clock: FakeClock) -> Iterator[CacheManager]:
    """An empty manager of memory alone, and the process's one while the test runs: decorators use it too.

    Regions are those of no configuration; a test that needs other settings makes its own
    manager and passes it to `CacheManager.set_instance`.
    """
    from ..config import CacheConfig
    from ..manager import CacheManager

    before = CacheManager._instance
    manager = CacheManager(CacheConfig.development_defaults(), clock=tiercast_clock)
    CacheManager.set_instance(manager)
    try:
        yield manager
    finally:
        CacheManager.set_instance(before)
        manager.close()
