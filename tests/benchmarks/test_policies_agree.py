"""The memory tier's policies beside their textbook forms: it is what the hit ratios in docs/policies.md come from."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Sequence

import pytest

from tiercast.tiers.entry import MeteredEntry
from tiercast.tiers.memory import MemoryTier


def hits_of_tier(keys: Sequence[str], policy: str, size: int) -> list[bool]:
    tier = MemoryTier(size, None, policy)
    found = []
    for key in keys:
        entry = tier.get(key)
        found.append(entry is not None)
        if entry is None:
            tier.insert(key, MeteredEntry(None, epoch="", born=0, begun=0.0, expires=0.0, keep=0.0, ttl=0.0))
        else:
            tier.touch(key, entry)
    tier.check()
    return found


def hits_of_lru(keys: Sequence[str], size: int) -> list[bool]:
    order: OrderedDict[str, None] = OrderedDict()
    found = []
    for key in keys:
        found.append(key in order)
        order[key] = None
        order.move_to_end(key)
        if len(order) > size:
            order.popitem(last=False)
    return found


def hits_of_sieve(keys: Sequence[str], size: int) -> list[bool]:
    """The paper's one list, newest first, with a hand that goes from the oldest to the newest and then begins anew."""
    order: list[str] = []
    visited: dict[str, bool] = {}
    hand: str | None = None
    found = []
    for key in keys:
        found.append(key in visited)
        if key in visited:
            visited[key] = True
            continue
        if len(order) >= size:
            at = order.index(hand) if hand is not None else len(order) - 1
            while visited[order[at]]:
                visited[order[at]] = False
                at = at - 1 if at else len(order) - 1
            hand = order[at - 1] if at else None
            del visited[order[at]], order[at]
        order.insert(0, key)
        visited[key] = False
    return found


@pytest.mark.parametrize(("policy", "textbook"), [("lru", hits_of_lru), ("sieve", hits_of_sieve)])
@pytest.mark.parametrize("seed", range(5))
def test_each_request_is_answered_as_in_the_textbook(policy, textbook, seed):
    """A mix of popular keys, one-off keys and loops; a hand that met newcomers too early once cost SIEVE a tenth of its hits."""
    rng = random.Random(seed)
    keys = []
    for _ in range(300):
        keys += [f"hot{int(rng.paretovariate(0.8))}" for _ in range(5)]
        keys += [f"once{rng.random()}", f"loop{len(keys) % 23}"]
    size = rng.choice([3, 8, 20])
    assert textbook(keys, size) == hits_of_tier(keys, policy, size)
