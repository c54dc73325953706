"""Managers whose time stands still, called from threads and from tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stacks import Async, Sync
from tiercast import CacheConfig, CacheManager
from tiercast.testing import FakeClock


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Iterator[Sync | Async]:
    call = Sync() if request.param == "sync" else Async()
    yield call
    call.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def make(clock: FakeClock) -> Iterator[Callable[..., CacheManager]]:
    """Make managers of memory alone, on the fake clock; the settings are those of every region."""
    managers = []

    def make(**settings: Any) -> CacheManager:
        managers.append(CacheManager(CacheConfig(**settings), clock=clock))
        return managers[-1]

    yield make
    for manager in managers:
        manager.close()
