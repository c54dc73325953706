"""The memory tier: bounds, what leaves and why, and readers that take no lock."""

from __future__ import annotations

import gc
import random
import sys
import threading
import time
import tracemalloc

import cachetools
import pytest

from tiercast.tiers.entry import MeteredEntry
from tiercast.tiers.memory import MemoryTier
from tiercast.tiers.sizes import MOST_OBJECTS, size_of

POLICIES = ("lru", "s3fifo", "sieve", "lfu", "fifo", "random")


def entry(value=None, *, born=1, size=1, keep=1e9):
    return MeteredEntry(value, epoch="e", born=born, begun=0.0, expires=keep, keep=keep, ttl=100.0, size=size)


def put(tier, key, *args, **kwargs):
    made = kwargs.pop("made", None) or entry(key)
    with tier.lock:
        return [(gone, cause) for gone, _, cause in tier.insert(key, made, *args, **kwargs)]


@pytest.mark.parametrize("policy", POLICIES)
def test_never_more_entries_than_allowed(policy):
    """Under every policy the tier holds `max_size` entries, the newest among them, and says what left."""
    tier = MemoryTier(10, policy=policy)
    gone = []
    for number in range(100):
        gone += put(tier, str(number))
        assert tier.get(str(number)).value == str(number)
        tier.check()
    assert len(tier) == 10
    assert {cause for _, cause in gone} == {"size"}
    assert {key for key, _ in gone} | {key for key, _ in tier.items()} == {str(number) for number in range(100)}
    assert len(gone) == 90


@pytest.mark.parametrize("policy", POLICIES)
def test_never_more_bytes_than_allowed(policy):
    """Bounded by bytes, entries leave until a new one fits, and `bytes` is always their sum."""
    tier = MemoryTier(None, 1000, policy)
    rng = random.Random(1)
    for step in range(500):
        put(tier, str(rng.randrange(50)), made=entry(size=rng.randint(2, 300)))
        if step % 7 == 0:
            with tier.lock:
                tier.pop(str(rng.randrange(50)))
        tier.check()
    assert 0 < tier.bytes <= 1000


def test_an_entry_larger_than_the_tier_is_not_kept():
    """It is handed back as too large, and what stood under its key is gone: it was replaced."""
    tier = MemoryTier(None, 100)
    put(tier, "a", made=entry("old", size=50))
    put(tier, "b", made=entry(size=50))
    assert put(tier, "a", made=entry("new", size=101)) == [("a", "too_large")]
    assert [key for key, _ in tier.items()] == ["b"]
    tier.check()


def test_an_unmeasured_entry_is_measured():
    """With a bound in bytes an entry whose size nobody set is charged for its value, key and bookkeeping."""
    tier = MemoryTier(None, 10_000)
    put(tier, "a", made=entry(b"x" * 5000))
    assert 5000 < tier.bytes < 7000
    assert put(tier, "b", made=entry(b"x" * 5000)) == [("a", "bytes")]
    tier.check()


def test_lru_is_exact():
    """Reading and replacing move to the end; the first that nobody wanted goes first."""
    tier = MemoryTier(3)
    for key in "abc":
        put(tier, key)
    tier.touch("a", tier.get("a"))
    put(tier, "b")
    assert put(tier, "d") == [("c", "size")]
    assert put(tier, "e") == [("a", "size")]


@pytest.mark.parametrize("policy", POLICIES)
def test_replacing_evicts_nobody(policy):
    """A full tier takes a new entry for a key that it has without giving up another."""
    tier = MemoryTier(3, policy=policy)
    for key in "abc":
        put(tier, key)
    for _ in range(5):
        assert put(tier, "b") == []
    assert sorted(key for key, _ in tier.items()) == ["a", "b", "c"]


@pytest.mark.parametrize("policy", POLICIES)
def test_pop_older_spares_the_newer(policy):
    """A key record takes out what was born before it, not what was born with it or later."""
    tier = MemoryTier(policy=policy)
    put(tier, "k", made=entry(born=5))
    with tier.lock:
        assert tier.pop_older("k", 5) is None
        assert tier.pop_older("absent", 5) is None
        assert tier.pop_older("k", 6).born == 5
        assert tier.pop("k") is None
    assert (len(tier), tier.bytes) == (0, 0)


@pytest.mark.parametrize("policy", POLICIES)
def test_entries_stays_the_same_object(policy):
    """Readers keep a reference to `entries`: it is emptied in place."""
    tier = MemoryTier(policy=policy)
    entries = tier.entries
    for key in "abc":
        put(tier, key)
    with tier.lock:
        assert tier.clear() == 3
    assert tier.entries is entries
    assert len(entries) == 0
    put(tier, "d")
    assert "d" in entries
    tier.check()


def test_sweep_removes_the_dead_and_nothing_that_took_their_place():
    """An entry that replaces a dead one while the sweeper is judging stays."""
    tier = MemoryTier()
    for number in range(10):
        put(tier, number, made=entry(born=number))

    def dead(key, found):
        if key == 3:
            put(tier, 3, made=entry("new", born=50))
        return found.born < 5

    pauses = []
    assert tier.sweep(dead, slice_size=4, pause=lambda: pauses.append(len(tier))) == 4
    assert sorted(key for key, _ in tier.items()) == [3, 5, 6, 7, 8, 9]
    assert len(pauses) == 3
    tier.check()


def test_sweep_judges_without_the_lock():
    """`dead` may wait for another thread that wants the lock."""
    tier = MemoryTier()
    put(tier, "a")

    def dead(key, found):
        other = threading.Thread(target=put, args=(tier, "b"))
        other.start()
        other.join(10)
        assert not other.is_alive()
        return True

    assert tier.sweep(dead) == 1
    assert [key for key, _ in tier.items()] == ["b"]


def test_a_namespace_evicts_only_its_own():
    """Entries of a namespace share a limit; the oldest of them leaves, however much room there is."""
    tier = MemoryTier(100)
    put(tier, "free")
    for number in range(5):
        gone = put(tier, f"f{number}", "f", 3)
        put(tier, f"g{number}", "g", 2)
    assert gone == [("f1", "namespace")]
    assert sorted(key for key, _ in tier.items()) == ["f2", "f3", "f4", "free", "g3", "g4"]
    with tier.lock:
        tier.pop("f3")
    assert put(tier, "f5", "f", 3) == []
    assert put(tier, "f2") == []  # leaves its namespace
    assert put(tier, "f6", "f", 3) == []
    tier.check()
    with tier.lock:
        tier.clear()
    tier.check()


@pytest.mark.parametrize("policy", POLICIES)
def test_readers_without_a_lock_survive_racing_writers(policy):
    """Eight threads read, touch, insert, pop and clear: no reader sees a foreign value, and the tier stays whole."""
    tier = MemoryTier(50, 20_000, policy)
    errors = []
    stop = threading.Event()

    def reader(seed):
        rng = random.Random(seed)
        try:
            while not stop.is_set():
                key = str(rng.randrange(200))
                found = tier.get(key)
                if found is not None:
                    assert found.value == key
                    tier.touch(key, found)
        except BaseException as exc:
            errors.append(exc)

    def writer(seed):
        rng = random.Random(seed)
        try:
            for _ in range(3000):
                key = str(rng.randrange(200))
                with tier.lock:
                    tier.insert(key, entry(key, born=rng.randrange(100), size=rng.randint(2, 500)))
                    if rng.random() < 0.2:
                        tier.pop(str(rng.randrange(200)))
                    if rng.random() < 0.05:
                        tier.pop_older(str(rng.randrange(200)), 50)
                    if rng.random() < 0.002:
                        tier.clear()
                if rng.random() < 0.002:
                    tier.sweep(lambda _, found: found.born < 10, slice_size=7)
        except BaseException as exc:
            errors.append(exc)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        writers = [threading.Thread(target=writer, args=(seed,)) for seed in range(4)]
        readers = [threading.Thread(target=reader, args=(seed,)) for seed in range(4)]
        for thread in [*writers, *readers]:
            thread.start()
        for thread in writers:
            thread.join(60)
        stop.set()
        for thread in readers:
            thread.join(60)
    finally:
        sys.setswitchinterval(interval)
    assert errors == []
    tier.check()
    assert len(tier) <= 50


def test_limits_below_one_are_refused():
    """A tier that could hold nothing is a mistake."""
    with pytest.raises(ValueError, match="max_size must be at least 1, not 0"):
        MemoryTier(0)
    with pytest.raises(ValueError, match="max_bytes must be at least 1, not -1"):
        MemoryTier(None, -1)


def test_husks_of_removed_keys_do_not_pile_up():
    """Keys that come and are invalidated, far below the limit, leave nothing behind in the queues."""
    for policy in ("sieve", "s3fifo"):
        tier = MemoryTier(10_000, policy=policy)
        for number in range(5000):
            put(tier, number)
            with tier.lock:
                tier.pop(number)
        made = tier.policy
        assert sum(len(queue) for queue in vars(made).values() if type(queue).__name__ in {"deque", "set"}) < 500
        tier.check()


def test_order_costs_less_than_half_of_an_lru_list():
    """SIEVE and S3-FIFO keep their order in half the memory, or less, of what the order of LRU takes."""
    keys = [f"key:{number}" for number in range(20_000)]
    one = entry()

    def bytes_of(policy):
        tracemalloc.start()
        tier = MemoryTier(None, policy=policy)
        for key in keys:
            tier.policy.add(key, one)
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return size / len(keys)

    plain = sys.getsizeof(dict.fromkeys(keys)) / len(keys)
    lru = bytes_of("lru") - plain
    assert {policy: bytes_of(policy) - plain < lru / 2 for policy in ("sieve", "s3fifo")} == {
        "sieve": True,
        "s3fifo": True,
    }


def test_insert_takes_as_long_in_a_large_tier_as_in_a_small_one():
    """Evicting does not search: the time of an insert at 100,000 entries is of the order of that at 1,000."""
    for policy in (*POLICIES, cachetools.LRUCache, lambda size: cachetools.TTLCache(size, 100)):
        times = []
        for size in (1000, 100_000):
            own = isinstance(policy, str)
            tier = MemoryTier(size if own else None, policy=policy if own else policy(size))
            for number in range(size):
                put(tier, number)
            began = time.perf_counter()
            for number in range(size, size + 2000):
                put(tier, number)
            times.append(time.perf_counter() - began)
        assert times[1] < 20 * times[0], policy


def test_size_of_counts_what_a_value_keeps_alive():
    """Text and bytes are exact, containers hold their parts, a shared part counts once, cycles end."""
    assert size_of("x" * 1000) == sys.getsizeof("x" * 1000)
    part = "y" * 1000
    assert sys.getsizeof(part) < size_of([part, part]) < 1.3 * sys.getsizeof(part)
    assert size_of({"a": "x" * 1000, "b": ("y" * 1000,)}) > 2000
    cycle = []
    cycle.append(cycle)
    assert size_of(cycle) > 0

    class Slotted:
        __slots__ = ("data",)

    class Plain:
        pass

    for made in (Slotted(), Plain()):
        made.data = "x" * 1000
        assert size_of(made) > 1000


@pytest.mark.parametrize(
    "make", [lambda n: [float(i) for i in range(n)], lambda n: {str(i): i + 0.5 for i in range(n)}]
)
def test_size_of_large_values_is_estimated_in_bounded_work(make):
    """A list or dict of 100,000 parts is sized within a third of the truth, by looking at a few hundred."""
    value = make(100_000)
    parts = value if isinstance(value, list) else [part for pair in value.items() for part in pair]
    true = sys.getsizeof(value) + sum(map(sys.getsizeof, parts))
    assert 0.67 < size_of(value) / true < 1.5
    nested = [[["x" * 100] * 100 for _ in range(100)] for _ in range(100)]
    gc.collect()  # else the whole session's garbage is counted here
    began = time.thread_time()
    size_of(nested)
    assert time.thread_time() - began < 0.25
    assert MOST_OBJECTS <= 1000


def test_a_ttl_cache_of_cachetools_still_bounds_us():
    """See test_policies: here only that the two agree on how many there are."""
    tier = MemoryTier(None, policy=cachetools.TTLCache(5, 100))
    for number in range(20):
        put(tier, number)
    assert len(tier) == 5
    tier.check()
