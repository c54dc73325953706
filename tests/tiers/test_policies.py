"""Eviction policies: the published hit ratios, and caches that a user passes."""

from __future__ import annotations

import gzip
from pathlib import Path

import cachetools
import pytest

from tiercast.errors import ConfigError
from tiercast.tiers.entry import MeteredEntry
from tiercast.tiers.memory import MemoryTier
from tiercast.tiers.policies import make_policy

TRACES = Path(__file__).parents[3] / "shared" / "traces"


def entry(value=None):
    return MeteredEntry(value, epoch="e", born=1, begun=0.0, expires=1e9, keep=1e9, ttl=1.0)


def read_trace(name):
    path = TRACES / f"{name}.keys.gz"
    if not path.exists():
        pytest.skip(f"the trace {path.name} is not in ../shared/traces")
    with gzip.open(path, "rt") as lines:
        return lines.read().split()


def hit_ratio(keys, policy, size):
    """Replay a trace through the real tier; every miss is filled. In percent."""
    tier = MemoryTier(size, policy=policy)
    hits = 0
    for key in keys:
        found = tier.get(key)
        if found is None:
            tier.insert(key, entry())
        else:
            hits += 1
            tier.touch(key, found)
    tier.check()
    return 100 * hits / len(keys)


def test_lru_is_the_published_lru_on_a_loop():
    """lirs_gli at 250, 500, 1000, 2000: LRU as published, to the hundredth."""
    keys = read_trace("lirs_gli")
    assert [round(hit_ratio(keys, "lru", size), 2) for size in (250, 500, 1000, 2000)] == [0.91, 0.95, 11.21, 57.41]


@pytest.mark.fault
@pytest.mark.parametrize(("size", "published"), [(250, 16.47), (500, 23.45), (1000, 32.83), (2000, 42.47)])
def test_lru_is_the_published_lru(size, published):
    """arc_oltp: exact LRU, as measured in Caffeine's simulator."""
    assert round(hit_ratio(read_trace("arc_oltp"), "lru", size), 2) == published


@pytest.mark.fault
@pytest.mark.parametrize(("size", "arc"), [(250, 21.46), (500, 30.61), (1000, 39.06), (2000, 46.17)])
def test_the_best_policy_is_as_good_as_arc(size, arc):
    """arc_oltp: S3-FIFO, the best of ours there, is at most one point below ARC."""
    assert hit_ratio(read_trace("arc_oltp"), "s3fifo", size) >= arc - 1


@pytest.mark.fault
@pytest.mark.parametrize(("share", "wanted"), [(0.001, 22), (0.01, 42), (0.1, 62)])
def test_the_best_policy_on_recommendations(share, wanted):
    """scarab_recs at 0.1, 1 and 10 % of the unique keys."""
    keys = read_trace("scarab_recs")
    assert hit_ratio(keys, "s3fifo", int(len(set(keys)) * share)) >= wanted


def test_sieve_spares_what_was_visited():
    """The hand passes the visited once, evicts the first that was not, and goes on from there (figure 1 of the paper)."""
    tier = MemoryTier(7, policy="sieve")
    for key in "ABCDEFG":
        tier.insert(key, entry())
    for key in "ABG":
        tier.touch(key, tier.get(key))
    assert [key for key, _, _ in tier.insert("H", entry())] == ["C"]
    tier.touch("A", tier.get("A"))
    tier.touch("D", tier.get("D"))
    assert [key for key, _, _ in tier.insert("I", entry())] == ["E"]
    assert [key for key, _, _ in tier.insert("B", entry())] == []
    assert [key for key, _, _ in tier.insert("J", entry())] == ["F"]
    assert sorted(key for key, _ in tier.items()) == list("ABDGHIJ")


def test_sieve_spares_once_however_often_something_was_read():
    """Visits do not add up: the hand clears them in one pass."""
    tier = MemoryTier(2, policy="sieve")
    for key in "AB":
        tier.insert(key, entry())
    for key in "AAAB":
        tier.touch(key, tier.get(key))
    assert [key for key, _, _ in tier.insert("C", entry())] == ["A"]


def test_s3fifo_lets_one_hit_wonders_go_and_remembers_the_rest():
    """What was read twice on trial outlives a flood; what left and comes back goes to the main queue at once."""
    tier = MemoryTier(10, policy="s3fifo")
    tier.insert("hot", entry())
    tier.insert("warm", entry())
    tier.touch("warm", tier.get("warm"))
    for _ in range(2):
        tier.touch("hot", tier.get("hot"))
    for number in range(100):
        tier.insert(f"flood{number}", entry())
    assert tier.get("hot") is not None
    assert tier.get("warm") is None
    left = "flood90"
    assert tier.get(left) is None
    tier.insert(left, entry())
    for number in range(100, 150):
        tier.insert(f"flood{number}", entry())
    assert tier.get(left) is not None
    tier.check()


@pytest.mark.parametrize("policy", ["sieve", "s3fifo"])
def test_a_removed_key_that_comes_back_stands_in_the_queue_once(policy):
    """Invalidated and loaded again, over and over, a key takes one place."""
    tier = MemoryTier(10, policy=policy)
    for step in range(200):
        tier.insert(step % 7, entry())
        tier.pop((step * 3) % 7)
        tier.check()
    for step in range(50):
        tier.insert(step, entry())
        tier.check()


# -- caches of cachetools -----------------------------------------------------------------------


def test_a_ttl_cache_is_followed_when_it_expires_entries():
    """What a TTLCache lets go by time is gone here too, on reading and on the next insert."""
    now = [0.0]
    cache = cachetools.TTLCache(10, ttl=5, timer=lambda: now[0])
    tier = MemoryTier(None, policy=cache)
    tier.insert("a", entry("A"))
    tier.insert("b", entry("B"))
    assert tier.get("a").value == "A"
    now[0] = 6.0
    assert tier.get("a") is None
    assert [(key, cause) for key, _, cause in tier.insert("c", entry("C"))] == [("b", "policy")]
    assert [key for key, _ in tier.items()] == ["c"]
    tier.check()


def test_a_users_cache_sees_plain_values():
    """`getsizeof` and `ttu` are called with what the user stored, and evictions by weight are seen."""
    cache = cachetools.LRUCache(100, getsizeof=len)
    tier = MemoryTier(None, policy=cache)
    tier.insert("a", entry("x" * 60))
    assert [(key, cause) for key, _, cause in tier.insert("b", entry("x" * 60))] == [("a", "policy")]
    assert [(key, cause) for key, _, cause in tier.insert("c", entry("x" * 101))] == [("c", "too_large")]
    assert [key for key, _ in tier.items()] == ["b"]
    tier.check()
    timed = cachetools.TLRUCache(10, ttu=lambda key, value, now: now + value, timer=lambda: 0.0)
    tier = MemoryTier(None, policy=timed)
    assert tier.insert("a", entry(5)) == []
    assert [key for key, _, _ in tier.insert("b", entry(-1))] == ["b"]
    assert [key for key, _ in tier.items()] == ["a"]
    tier.check()


def test_a_users_own_policy_chooses():
    """A subclass whose popitem evicts the longest key decides, and is told of reads."""

    class LongestFirst(cachetools.Cache):
        reads = 0

        def __getitem__(self, key):
            self.reads += 1
            return super().__getitem__(key)

        def popitem(self):
            key = max(self, key=len)
            return key, self.pop(key)

    cache = LongestFirst(2)
    tier = MemoryTier(10, policy=cache)
    tier.insert("aaa", entry())
    tier.insert("b", entry())
    tier.get("b")
    assert cache.reads == 1
    assert [key for key, _, _ in tier.insert("cc", entry())] == ["aaa"]
    assert sorted(key for key, _ in tier.items()) == ["b", "cc"]


def test_a_cache_that_makes_values_up_is_not_asked_for_them():
    """`__missing__` of a user's cache never answers for us."""

    class Inventive(cachetools.LRUCache):
        def __missing__(self, key):
            return "made up"

    tier = MemoryTier(None, policy=Inventive(2))
    assert tier.get("a") is None
    tier.insert("a", entry("A"))
    assert tier.get("a").value == "A"

    class InventiveInTime(cachetools.TTLCache):
        def __missing__(self, key):
            return "made up"

    now = [0.0]
    tier = MemoryTier(None, policy=InventiveInTime(2, 5, timer=lambda: now[0]))
    tier.insert("a", entry("A"))
    now[0] = 6.0
    assert tier.get("a") is None


def test_both_bounds_hold_with_a_users_cache():
    """`max_size` holds beside the cache's own limit, whichever is smaller."""
    tier = MemoryTier(3, policy=cachetools.LFUCache(100))
    for number in range(10):
        tier.insert(number, entry())
    assert len(tier) == 3
    tier.check()


@pytest.mark.parametrize(
    ("policy", "kind"),
    [
        (cachetools.LFUCache, "LFUCache"),
        ("cachetools:FIFOCache", "FIFOCache"),
        (lambda size: cachetools.TTLCache(size, 60), "TTLCache"),
        (cachetools.RRCache(7), "RRCache"),
    ],
)
def test_how_a_cache_may_be_given(policy, kind):
    """As a class, a name, a function of the size, or an object."""
    made = make_policy(policy, 7)
    assert type(made.cache).__name__ == kind
    assert made.cache.maxsize == 7


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("lur", "'lur' is none of fifo, lfu, lru, random, s3fifo, sieve"),
        ("cachetools:NoCache", "has no attribute 'NoCache'"),
        ("no_such_module:Cache", "No module named"),
        ("collections:OrderedDict", "OrderedDict"),
        (dict, "dict"),
        (17, "17 is none of"),
        (cachetools.TTLCache, "could not be called with the number of entries"),
    ],
)
def test_what_is_no_policy_is_refused(policy, message):
    """The error says what was given and what would do."""
    with pytest.raises(ConfigError, match="policy: ") as caught:
        make_policy(policy, 7)
    assert message in str(caught.value)


def test_a_cache_in_use_is_refused():
    """Two regions cannot share one cache object, nor one that holds something take part."""
    cache = cachetools.LRUCache(5)
    make_policy(cache, None)
    with pytest.raises(ConfigError, match="serves another region already"):
        make_policy(cache, None)
    full = cachetools.LRUCache(5)
    full["a"] = 1
    with pytest.raises(ConfigError, match="empty cache, not one that holds 1"):
        make_policy(full, None)
