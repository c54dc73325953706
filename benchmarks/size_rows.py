"""Rows 10-12 and 19: what memory costs, how it grows, and what many threads get."""

from __future__ import annotations

import gc
import resource
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import cachetools
from measure import Row, Settings, Spread, calling, in_turn, quotient, undisturbed
from memory_rows import COUNT, KEYS, TTL, locked_get, memory_manager, ttl_cache

from tiercast import CacheManager, LocalCacheConfig


def per_entry(settings: Settings) -> Iterator[Row]:
    """Row 10: bytes beyond key and value, by tracemalloc, over entries that keep nothing else alive."""
    count = 20_000 if settings.quick else 100_000
    keys = [f"user:{number}" for number in range(count)]
    values = [object() for _ in range(count)]
    manager = memory_manager(local=LocalCacheConfig(max_size=2 * count))
    manager.set("first", 1)
    region = manager.current_region()
    peer = cachetools.TTLCache[str, Any](2 * count, TTL)

    def fill_ours() -> None:
        for start in range(0, count, 1000):
            manager.multi_set(dict(zip(keys[start : start + 1000], values[start : start + 1000], strict=True)))

    def fill_theirs() -> None:
        for key, value in zip(keys, values, strict=True):
            peer[key] = value

    # The log's ring of keys belongs to the log, not to the entry: it is as full before we look as after, and what it lets
    # go of meanwhile was traced too.
    tracemalloc.start()
    for _ in range(4):
        with manager._runtime.ledger.lock:
            region.memory.clear()  # type: ignore[union-attr]
        ours = _grown(fill_ours) / count
    theirs = _grown(fill_theirs) / count
    tracemalloc.stop()
    yield Row(
        "10", "bytes for an entry in memory beyond key and value : cachetools.TTLCache", Spread.exactly(ours / theirs),
        1.0, measured=f"{ours:.0f} : {theirs:.0f} bytes", gross=False,
    )  # fmt: skip
    manager.close()


def _grown(fill: Callable[[], None]) -> int:
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    fill()
    gc.collect()
    return tracemalloc.get_traced_memory()[0] - before


def threads(settings: Settings) -> Iterator[Row]:
    """Row 11: throughput of eight threads."""
    manager = memory_manager()
    cache, lock = ttl_cache()
    for key in KEYS:
        manager.set(key, key)
        cache[key] = key
    theirs = locked_get(cache, lock)
    own, peer, alone = [], [], []
    for _ in range(settings.rounds(15)):
        alone.append(_throughput(manager.get, 1, 400_000))
        own.append(_throughput(manager.get, 8, 50_000))
        peer.append(_throughput(theirs, 8, 20_000))
    yield Row(
        "11", "8 threads, hits in memory, all together : cachetools.TTLCache under an RLock",
        Spread.of([one / other for one, other in zip(own, peer, strict=True)]), 20.0, at_most=False,
        measured=f"{median(own) / 1e6:.2f} : {median(peer) / 1e6:.2f} million a second", gross=False,
    )  # fmt: skip
    yield Row(
        "11.alone", "8 threads : our own single thread",
        Spread.of([one / other for one, other in zip(own, alone, strict=True)]), 0.85, at_most=False,
        measured=f"{median(own) / 1e6:.2f} : {median(alone) / 1e6:.2f} million a second",
    )  # fmt: skip
    manager.close()


def _throughput(get: Callable[[str], Any], count: int, calls: int) -> float:
    ready = threading.Barrier(count + 1)

    def work() -> None:
        mine = (KEYS * (calls // COUNT + 1))[:calls]
        ready.wait()
        for key in mine:
            get(key)

    workers = [threading.Thread(target=work) for _ in range(count)]
    for worker in workers:
        worker.start()
    ready.wait()
    began = perf_counter()
    for worker in workers:
        worker.join()
    return count * calls / (perf_counter() - began)


def growth(settings: Settings) -> Iterator[Row]:
    """Row 12: get and set, each as a quotient to a dict of the same size; the table says how it grows."""
    sizes = [10**3, 10**4, 10**5] if settings.quick else [10**3, 10**4, 10**5, 10**6]
    quotients: dict[str, list[float]] = {"get": [], "set": []}
    for size in sizes:
        manager = memory_manager(local=LocalCacheConfig(max_size=size + 10))
        keys = [f"user:{number}" for number in range(size)]
        plain = dict.fromkeys(keys, 0)
        for start in range(0, size, 1000):
            manager.multi_set(dict.fromkeys(keys[start : start + 1000], 0))
        step = max(1, size // 5000)
        some = keys[::step][:5000]

        def dict_get(key: str, plain: dict[str, int] = plain) -> Any:
            return plain.get(key)

        def dict_set(key: str, plain: dict[str, int] = plain) -> None:
            plain[key] = 1

        def own_set(key: str, manager: CacheManager = manager) -> None:
            manager.set(key, 1)

        taken = in_turn(
            {
                "get": calling(manager.get, some),
                "dict_get": calling(dict_get, some),
                "set": calling(own_set, some, 100),
                "dict_set": calling(dict_set, some),
            },
            settings.rounds(100),
        )
        quotients["get"].append(quotient(taken, "get", "dict_get").middle)
        quotients["set"].append(quotient(taken, "set", "dict_set").middle)
        manager.close()
        del manager, plain, keys
        gc.collect()
    settings.figures["growth"] = {"sizes": sizes, **quotients}
    for name, found in quotients.items():
        listed = ", ".join(f"10^{len(str(size)) - 1}: {value:.1f}" for size, value in zip(sizes, found, strict=True))
        yield Row(
            f"12.{name}", f"growth: `{name}` against a dict of the same size, the largest quotient : that at 1,000",
            Spread.exactly(max(found) / found[0]), 1.5, measured=listed, gross=False,
        )  # fmt: skip


def old_claims(_: Settings) -> Iterator[Row]:
    """Row 19, in a process of its own so that its memory can be told."""
    out = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=True).stdout
    rate, worst, megabytes = map(float, out.split())
    yield Row(
        "19.rate", "operations a second, nine gets to a set", Spread.exactly(rate), 10_000, at_most=False, unit=""
    )
    yield Row("19.hit", "99th percentile of a hit in memory, in ms", Spread.exactly(worst), 1.0, unit="ms")
    yield Row("19.memory", "process with 50,000 items of 1 kB, in MB", Spread.exactly(megabytes), 500, unit="MB")


def _resident() -> float:
    """MB in memory now; `ru_maxrss` would be the parent's, where that was larger when it forked."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return pages * resource.getpagesize() / 2**20


def _old_claims() -> None:
    manager = memory_manager(local=LocalCacheConfig(max_size=50_000))
    keys = [f"item:{number}" for number in range(50_000)]
    for number, key in enumerate(keys):
        manager.set(key, f"{number:01024d}")
    megabytes = _resident()
    times = []
    with undisturbed():
        began = perf_counter()
        for number, key in enumerate(keys[:20_000]):
            if number % 10:
                manager.get(key)
            else:
                manager.set(key, key)
        rate = 20_000 / (perf_counter() - began)
        for key in keys[:20_000]:
            began = perf_counter()
            manager.get(key)
            times.append(perf_counter() - began)
    times.sort()
    print(rate, times[len(times) * 99 // 100] * 1000, megabytes)


if __name__ == "__main__":
    _old_claims()
