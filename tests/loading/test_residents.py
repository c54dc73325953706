"""What a region keeps in memory: marks that last, and what is found below."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tiercast import CacheConfig, CacheManager
from tiercast.loading.residents import Arrival, State
from tiercast.region import Region
from tiercast.tiers.entry import Address, Entry


@pytest.fixture
def cache() -> Iterator[CacheManager]:
    with CacheManager(CacheConfig()) as cache:
        cache.set("k", 1)
        yield cache


def test_a_reader_does_not_undo_a_soft_mark(cache: CacheManager) -> None:
    """One that found the entry fresh, and notes when to look again after a soft record has marked it, leaves the mark."""
    region = cache._runtime.default
    assert region.memory is not None
    entry = region.memory.entries["k"]
    cache.invalidate_keys(["k"], soft=True)
    assert entry.stale
    assert not region.schedule_look(entry, region.monotonic())
    assert entry.stale
    assert region.look("k", region.address("k"), proven=True) == (entry, State.STALE)


def arrival(region: Region, key: str, born: int, *, wanted: bool = True) -> Arrival:
    now = region.monotonic()
    entry = Entry(key, region.ledger.epoch, born, now, now + 100, now + 100, 100.0, own=False)
    return Arrival(Address("default", "", key), entry, wanted)


def test_what_arrives_is_judged_and_kept_in_one_pass(cache: CacheManager) -> None:
    """The dead are left out, the stale and the unwanted are answered and not kept, and nothing newer is replaced."""
    region = cache._runtime.default
    assert region.memory is not None
    born = region.ledger.applied
    cache.invalidate_keys(["dead"])
    cache.invalidate_keys(["stale"], soft=True)
    arrivals = [arrival(region, key, born, wanted=key != "unwanted") for key in ("dead", "stale", "alive", "unwanted")]
    alive = region.take_in([*arrivals, arrival(region, "k", born - 1)], region.ledger.applied)
    assert [each.address.key for each in alive] == ["stale", "alive", "unwanted"]
    assert [each.entry.stale for each in alive] == [True, False, False]
    assert set(region.memory.entries) == {"k", "alive"}
    assert cache.get("k") == 1
