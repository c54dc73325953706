"""Seeded worlds of simulated processes that run the library's own plans, under every fault that the design speaks of.

A world that fails prints its interleaving; ``PYTHONPATH=src:tests python -m simulation SEED 1 400`` shows more of it.
"""

from __future__ import annotations

import itertools
import os
import time
from collections import Counter

import pytest

from simulation.mutants import MUTANTS, broken
from simulation.rest import Failed, simulate

# What has to have happened for a run to prove anything, for each million steps. Far below what usually happens.
FLOORS = {
    "reads judged": 15_000,
    "invalidations": 30_000,
    "hit path": 3_000,
    "region remote_hits": 2_000,
    "region disk_hits": 1_000,
    "disk put later": 500,
    "region fills": 3_000,
    "region fills_refused": 1_500,
    "region waits": 1_000,
    "region lock_waits": 1_000,
    "records applied": 40_000,
    "coherence gaps": 600,
    "coherence malformed": 100,
    "coherence duplicates": 5_000,
    "coherence drops": 1_000,
    "coherence epoch_changes": 800,
    "coherence beats_failed": 2_000,
    "epoch: restarted": 200,
    "epoch: incomplete": 150,
    "queued in the outbox": 1_000,
    "outbox record replayed": 1_000,
    "outbox claimed by a sibling": 20,
    "record carried by the fleet": 1_000,
    "log record trimmed": 5_000,
    "ring overflowed": 150,
    "stamp floor hit": 20,
    "value server late": 10,
    "value server newer": 100,
    "value server kept_for_fence": 500,
    "barrier returned": 200,
    "raised BarrierTimeout": 20,
    "arrived late": 200,
    "lease of the dead found": 15,
    "slow load": 500,
    "load failed": 700,
    "load found no slot": 4,
    "background refused a load": 4,
    "raised LoadTimeout": 300,
    "region stale_served": 300,
    "reads of what is stale": 300,
    "reads that the outage rule excused": 1,
    "load read another key": 200,
    "load of a stale input": 8,
    "soft key": 150,
    "soft tag": 80,
    "soft scope": 80,
    "soft pattern": 80,
    "soft region": 80,
    "soft everything": 80,
    "value server marked": 10,
    "value server found_marked": 100,
    "disk marked": 10,
    "disk found_marked": 100,
    "region made on demand": 600,
    "region made that records had named": 150,
    "region made that no record had named": 300,
    "read of a region made on demand": 1_500,
    "tagged": 100,
    "operation cancelled": 400,
    "spawned": 10,
    "swept": 100,
    "message lost": 500,
    "message doubled": 300,
    "message reordered": 300,
    "message mangled": 100,
    "fault cut": 400,
    "fault cut_bus": 250,
    "fault hang_up": 100,
    "fault overflow": 5,
    "fault crash": 400,
    "fault pause": 400,
    "fault stop_all": 100,
    "fault restart_empty": 50,
    "fault restart_with_data": 50,
    "fault restart_older": 30,
    "fault fail_over": 30,
    "fault flush": 40,
    "fault values_fail_over": 20,
    "fault lose_part": 40,
    "fault trim": 200,
    "fault server_stalls": 100,
    "fault disk_fails": 100,
}


def lived_through(seeds: range) -> Counter[str]:
    """Live through the worlds of some seeds and return what happened in all of them."""
    total: Counter[str] = Counter()
    for seed in seeds:
        total += simulate(seed)
    return total


def report(total: Counter[str], seeds: int, seconds: float) -> None:
    """Print how often everything happened."""
    for name, count in sorted(total.items()):
        print(f"{count:12,}  {name}")
    print(f"{seeds} worlds, {total['steps']:,} steps, {total['steps'] / seconds:,.0f} steps/s")


def too_rare(total: Counter[str]) -> dict[str, tuple[int, float]]:
    """Return what happened less often than it has to: how often, and the floor."""
    share = total["steps"] / 1_000_000
    return {name: (total[name], floor * share) for name, floor in FLOORS.items() if total[name] < floor * share}


def test_no_promise_is_broken_in_forty_worlds():
    """No read returns what was invalidated before it, in any failure, and at rest everybody agrees; a quick look."""
    total = lived_through(range(1, 41))
    assert total["steps"] > 150_000


@pytest.mark.fault
@pytest.mark.timeout(900)
def test_no_promise_is_broken_in_a_million_steps():
    """The same in 200 worlds and a million steps, in which every fault happened often."""
    began = time.perf_counter()
    total = lived_through(range(1_001, 1_201))
    report(total, 200, time.perf_counter() - began)
    assert total["steps"] >= 1_000_000
    assert too_rare(total) == {}


@pytest.mark.soak
def test_no_promise_is_broken_for_as_long_as_asked():
    """Ever new worlds for SOAK_SECONDS; the first that fails is told with its interleaving."""
    seconds = float(os.environ.get("SOAK_SECONDS", "600"))
    began = time.perf_counter()
    first = int(os.environ.get("SOAK_SEED", time.time_ns() // 1_000_000 % 1_000_000_000))
    print(f"worlds from seed {first} on")
    total: Counter[str] = Counter()
    worlds = 0
    for seed in itertools.count(first):
        if time.perf_counter() - began > seconds:
            break
        total += simulate(seed)
        worlds += 1
    report(total, worlds, time.perf_counter() - began)
    assert too_rare(total) == {}


def test_a_seed_replays():
    """The same seed is the same world, step by step."""
    assert simulate(7, steps=2_000) == simulate(7, steps=2_000)


@pytest.mark.mutant
def test_a_failure_is_told_in_words():
    """A world that fails says which promise was broken, the settings, and the last steps."""
    mutant = MUTANTS[0]
    with broken(mutant), pytest.raises(Failed, match=r"(?s)seed [0-9]+, step .*whose load began.*Settings.*log.append"):
        for seed in range(1, 50):
            simulate(seed, **mutant.world)
