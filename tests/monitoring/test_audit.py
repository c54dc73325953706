"""The self-audit: finds what memory should not have served, and cries no wolf."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from loaders import eventually
from servers import RedisServer
from stacks import config_of
from tiercast import CacheManager, MonitoringConfig
from tiercast.observing.audit import Audit
from tiercast.plans import drive


@pytest.fixture
def pair(tmp_path: Path, redis_url: str) -> Iterator[tuple[CacheManager, CacheManager]]:
    """Two processes' managers whose every hit is compared when the test looks, and never by themselves."""
    monitoring = MonitoringConfig(audit_rate=0.0)
    config = config_of("memory+redis", tmp_path, redis_url, monitoring=monitoring)
    with CacheManager(config) as one, CacheManager(config) as other:
        for manager in (one, other):
            manager.monitor.audit = Audit(manager._runtime, 1.0)
            manager.coherence.start()
        yield one, other


def look(cache: CacheManager) -> None:
    cache.get("k")
    drive(cache.monitor.audit.look())


def revive(cache: CacheManager, key: str) -> None:
    """Put an entry that has just died back into memory, as only an error of ours could."""
    region = cache._runtime.default
    entry = region.memory.get(key)
    yield
    with region.ledger.lock:
        entry.checked = region.view.checkpoint
        region.memory.insert(key, entry)
    yield


@pytest.mark.parametrize("how", ["delete", "set"])
def test_a_dead_entry_in_memory_is_found(
    pair: tuple[CacheManager, CacheManager], how: str, caplog: pytest.LogCaptureFixture, self_audit: list[str]
) -> None:
    """An entry that memory serves after its key was deleted or set anew is counted, logged with its place, and dropped."""
    cache, other = pair
    cache.set("k", "old")
    step = revive(cache, "k")
    next(step)
    if how == "delete":
        other.delete("k")
    else:
        other.set("k", "new")
    cache.coherence.settle()
    next(step)
    assert cache.get("k") == "old", "the test itself"
    with caplog.at_level(logging.ERROR, "tiercast.monitoring"):
        look(cache)
    assert cache.monitor.get_stats()["stale_served_total"] == 1
    assert not cache.monitor.check_health()["audit"]
    (record,) = caplog.records
    assert (record.key, record.position, record.born) == ("k", 2, 1)  # type: ignore[attr-defined]
    assert cache.get("k") == (None if how == "delete" else "new")
    cache.close()
    assert self_audit == ["the self-audit counted 1"]
    self_audit.clear()


def test_a_later_fill_is_no_disagreement(pair: tuple[CacheManager, CacheManager], redis_server: RedisServer) -> None:
    """Another process that loads the same again later makes L3 newer, and nothing stale."""
    cache, other = pair
    cache.get_or_set("k", lambda: 1)
    other.invalidate_tags(["something else"])
    cache.coherence.settle()
    cache.get("k")
    for name in redis_server.execute("KEYS", "tiercast:*default*"):
        redis_server.execute("DEL", name)
    other.get_or_set("k", lambda: 2)
    look(cache)
    audit = cache.monitor.audit
    assert audit.compared.value >= audit.newer.value >= 1  # the housekeeper may have looked too
    assert audit.stale.value == 0
    assert cache.monitor.check_health()["audit"]


def test_what_was_not_applied_yet_is_no_disagreement(pair: tuple[CacheManager, CacheManager]) -> None:
    """A record that this process had not applied when it served the entry is the bus's delay, not an error."""
    cache, other = pair
    cache.set("k", 1)
    cache.get("k")
    audit = cache.monitor.audit
    suspects = audit._choose()
    assert len(suspects) == 1
    other.delete("k")
    audit._choose = lambda: suspects  # type: ignore[method-assign]
    drive(audit.look())
    assert (audit.newer.value, audit.stale.value) == (1, 0)


def test_it_looks_by_itself(tmp_path: Path, redis_url: str) -> None:
    """A manager whose `audit_rate` is not zero compares hits in the background."""
    config = config_of("memory+redis", tmp_path, redis_url, monitoring=MonitoringConfig(audit_rate=1.0))
    with CacheManager(config) as cache:
        cache.coherence.start()
        cache.set("k", 1)

        def compared() -> bool:
            cache.get("k")
            return bool(cache.monitor.audit.compared.value)

        eventually(compared)


def test_it_keeps_up_with_its_rate(pair: tuple[CacheManager, CacheManager]) -> None:
    """As many entries are compared as the rate asks of the hits, within bounds; without hits nothing is asked."""
    cache, _ = pair
    cache.multi_set({f"k{number}": number for number in range(200)})
    drive(cache.monitor.audit.look())
    assert cache.monitor.audit.compared.value == 0
    for _ in range(10):
        cache.multi_get([f"k{number}" for number in range(200)])
    drive(cache.monitor.audit.look())
    assert cache.monitor.audit.compared.value == 50
