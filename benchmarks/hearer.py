"""A process that hears invalidations and notes when: started by coherence_rows.py, and driven by lines on stdin.

    python benchmarks/hearer.py tiercast|bare URL NAME

Prints "ready", then for each line "report" the moments (monotonic, the same clock in all processes of a machine) at
which something was dropped, or heard, since the last report, and the CPU seconds used since; ends with its stdin.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from resource import RUSAGE_SELF, getrusage
from time import monotonic
from typing import Any

CHANNEL = "bare-invalidations"
APART = "bare-invalidations-apart"
"""A channel to which the process that publishes does not listen."""


def hear_bare(url: str, moments: list[float], *channels: str) -> Callable[[], None]:
    """What redis-py alone does; returns what ends it."""
    import redis

    listener = redis.Redis.from_url(url).pubsub(ignore_subscribe_messages=True)
    listener.subscribe(*channels)
    for _ in channels:
        listener.get_message(timeout=5)
    done = threading.Event()

    def hear() -> None:
        while not done.is_set():
            if listener.get_message(timeout=0.5) is not None:
                moments.append(monotonic())
        listener.close()

    def end() -> None:
        done.set()
        thread.join()

    thread = threading.Thread(target=hear, daemon=True)
    thread.start()
    return end


def hear_tiercast(url: str, name: str, moments: list[float]) -> Any:
    """What a manager does; the moment is that at which its ledger has a key record and its memory has dropped the key."""
    from tiercast import CacheConfig, CacheManager, DistributedCacheConfig

    cache = CacheManager(CacheConfig(name=name, distributed=DistributedCacheConfig(connection_string=url)))
    coherence = cache._runtime.coherence
    remove = coherence._remove

    def noting(removals: Any) -> None:
        remove(removals)
        moments.append(monotonic())

    coherence._remove = noting
    cache.set("here", 1)
    cache.coherence.start(10)
    return cache


def cpu() -> float:
    used = getrusage(RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    kind, url, name = sys.argv[1:4]
    moments: list[float] = []
    kept = hear_tiercast(url, name, moments) if kind == "tiercast" else None
    if kept is None:
        hear_bare(url, moments, CHANNEL, APART)
    before = cpu()
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip() == "report":
            now = cpu()
            print(json.dumps({"moments": moments[:], "cpu": now - before}), flush=True)
            moments.clear()
            before = now
    if kept is not None:
        kept.close()


if __name__ == "__main__":
    main()
