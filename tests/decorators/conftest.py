"""A process's manager for each test: memory only, closed and forgotten afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tiercast.config import CacheConfig, ScopeConfig, ScopeLevel
from tiercast.manager import CacheManager

SCOPES = ScopeConfig([ScopeLevel("organization", "org_id", [ScopeLevel("user", "user_id")])])


@pytest.fixture
def manager() -> Iterator[CacheManager]:
    CacheManager.reset_instance()
    made = CacheManager.get_instance(CacheConfig(name="decorators", scopes=SCOPES, regions={"short": {"ttl": 5}}))
    yield made
    CacheManager.reset_instance()


class Origin:
    """Counts what was asked of it."""

    def __init__(self) -> None:
        self.calls: list[object] = []

    def __call__(self, *what: object) -> str:
        self.calls.append(what[0] if len(what) == 1 else what)
        return f"value {len(self.calls)}"


@pytest.fixture
def origin() -> Origin:
    return Origin()
