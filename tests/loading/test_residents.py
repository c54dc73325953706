"""What a region keeps in memory: marks that last, and what is found below."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Thread
from typing import Any

import pytest

from tiercast import CacheConfig, CacheManager, LocalCacheConfig
from tiercast.coherence import ledger as ledgers
from tiercast.coherence.judging import RegionLedger
from tiercast.coherence.records import Kind, Record
from tiercast.loading.residents import Arrival, State
from tiercast.region import Region
from tiercast.tiers.entry import Address, DetailedEntry, Entry, MeteredEntry


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


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, Entry),
        ({"sliding": True}, Entry),
        ({"grace": 5}, DetailedEntry),
        ({"early_refresh": 1.0}, DetailedEntry),
        ({"local": LocalCacheConfig(ttl=5)}, MeteredEntry),
        ({"local": LocalCacheConfig(policy="sieve")}, MeteredEntry),
    ],
)
def test_an_entry_has_room_for_what_its_region_asks_for(settings: dict[str, Any], expected: type[Entry]) -> None:
    """There may be millions: grace, costs, bytes and visits take room only where they are used."""
    with CacheManager(CacheConfig(**settings)) as cache:
        cache.get_or_set("k", lambda: 1)
        memory = cache._runtime.default.memory
        assert memory is not None
        assert type(memory.entries["k"]) is expected


def test_an_entry_is_of_the_epoch_of_its_checkpoint(cache: CacheManager) -> None:
    """One that was not judged in this epoch carries no checkpoint of it, whatever the region's is."""
    region = cache._runtime.default
    assert region.memory is not None
    entry = region.memory.entries["k"]
    assert (entry.checked, entry.epoch) == (region.view.checkpoint, region.ledger.epoch)
    entry.epoch = region.ledger.epoch
    assert entry.checked is not region.view.checkpoint
    with region.ledger.lock:
        region.ledger.reset("next", 0)
    assert (region.view.checkpoint.epoch, entry.epoch) == ("next", entry.checked.epoch)
    assert region.look("k", region.address("k"), proven=True) == (None, State.MISS)


def test_a_region_hears_a_record_that_comes_while_it_is_made(
    cache: CacheManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record may be the first to name it: whoever comes second finds the one ledger of the region."""
    ledger = cache._runtime.ledger
    threads: list[Thread] = []

    def apply() -> None:
        with ledger.lock:
            ledger.apply(Record(Kind.TAG, "late", ("t",), epoch=ledger.epoch, position=ledger.applied + 1))

    def slow(name: str, of: Any) -> RegionLedger:
        if not threads:
            threads.append(Thread(target=apply))
            threads[0].start()
            threads[0].join(0.2)  # it waits for the lock, or is done
        return RegionLedger(name, of)

    monkeypatch.setattr(ledgers, "RegionLedger", slow)
    region = cache._runtime.region("late")
    threads[0].join()
    assert region.view is ledger.regions["late"]
    assert "t" in region.view.stamps.hard.tags.last


def arrival(region: Region, key: str, born: int, *, wanted: bool = True) -> Arrival:
    now = region.monotonic()
    entry = Entry(key, region.ledger.epoch, born, now, now + 100, now + 100, 100.0, own=False)
    return Address("default", "", key), entry, wanted


def test_what_arrives_is_judged_and_kept_in_one_pass(cache: CacheManager) -> None:
    """The dead are left out, the stale and the unwanted are answered and not kept, and nothing newer is replaced."""
    region = cache._runtime.default
    assert region.memory is not None
    born = region.ledger.applied
    cache.invalidate_keys(["dead"])
    cache.invalidate_keys(["stale"], soft=True)
    arrivals = [arrival(region, key, born, wanted=key != "unwanted") for key in ("dead", "stale", "alive", "unwanted")]
    alive = region.take_in([*arrivals, arrival(region, "k", born - 1)], region.ledger.applied)
    assert [address.key for address, _, _ in alive] == ["stale", "alive", "unwanted"]
    assert [entry.stale for _, entry, _ in alive] == [True, False, False]
    assert set(region.memory.entries) == {"k", "alive"}
    assert cache.get("k") == 1
