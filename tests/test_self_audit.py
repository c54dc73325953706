"""The project's audit of itself can fail: it finds what is served dead, whatever the log, when a manager closes or not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from partner import Partner
from self_audit import dead_but_served
from stacks import config_of
from tiercast import CacheManager


@contextmanager
def revived(cache: CacheManager, key: str = "k") -> Iterator[None]:
    """Put an entry that dies meanwhile back into memory, as only an error of the library could."""
    region = cache._runtime.default
    assert region.memory is not None
    entry = region.memory.get(key)
    assert entry is not None
    yield
    with region.ledger.lock:
        entry.checked = region.view.checkpoint
        region.memory.insert(key, entry)


@pytest.mark.parametrize("stack", ["memory", "memory+disk", "memory+redis"])
@pytest.mark.parametrize("how", ["key", "tag", "pattern", "clear"])
def test_what_is_served_dead_is_found(
    stack: str, how: str, tmp_path: Path, request: pytest.FixtureRequest, self_audit: list[str]
) -> None:
    """A dead entry that memory would serve is found as its manager closes; what is alive is not."""
    url = request.getfixturevalue("redis_url") if "redis" in stack else None
    with CacheManager(config_of(stack, tmp_path, url)) as cache:
        cache.set("alive", 1)
        cache.set("k", "old", tags=["t"])
        cache.set("alive", 2)
        cache.get("k")
        assert dead_but_served(cache._runtime) == []
        with revived(cache):
            {
                "key": lambda: cache.delete("k"),
                "tag": lambda: cache.invalidate_tags(["t"]),
                "pattern": lambda: cache.invalidate_pattern("k*"),
                "clear": cache.clear,
            }[how]()
        assert cache.get("k") == "old", "the test itself"
        assert self_audit == []
    (found,) = self_audit
    assert "'k'" in found
    assert "born at 2, died by" in found
    self_audit.clear()


def test_a_partner_is_asked(tmp_path: Path) -> None:
    """A process that works for a test is looked at before it ends, and the test fails."""
    with (
        pytest.raises(AssertionError, match="died by"),
        Partner("memory", tmp_path, None) as partner,
    ):
        partner.do("call", "served_wrongly")
