"""A process that hears invalidations and notes when: started by coherence_rows.py, and driven by lines on stdin.

    python benchmarks/hearer.py tiercast|bare URL NAME

Prints "ready", then for each line "report" the moments (monotonic, the same clock in all processes of a machine) at
which something was dropped, or heard, since the last report, and the CPU seconds used since; ends with its stdin.
"""

from __future__ import annotations

import json
import sys
import threading
from resource import RUSAGE_SELF, getrusage
from time import monotonic
from typing import Any

CHANNEL = "bare-invalidations"


def hear_bare(url: str, moments: list[float]) -> None:
    """What redis-py alone does."""
    import redis

    listener = redis.Redis.from_url(url).pubsub(ignore_subscribe_messages=True)
    listener.subscribe(CHANNEL)
    listener.get_message(timeout=5)

    def hear() -> None:
        while True:
            if listener.get_message(timeout=60) is not None:
                moments.append(monotonic())

    threading.Thread(target=hear, daemon=True).start()


def hear_tiercast(url: str, name: str, moments: list[float]) -> Any:
    """What a manager does; the moment is that at which its ledger has applied and its memory has dropped."""
    from tiercast import CacheConfig, CacheManager, DistributedCacheConfig

    cache = CacheManager(CacheConfig(name=name, distributed=DistributedCacheConfig(connection_string=url)))
    coherence = cache._runtime.coherence
    apply = coherence._apply

    def noting(*records: Any) -> Any:
        answer = apply(*records)
        moments.append(monotonic())
        return answer

    coherence._apply = noting  # type: ignore[method-assign]
    cache.set("here", 1)
    cache.coherence.start(10)
    return cache


def cpu() -> float:
    used = getrusage(RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    kind, url, name = sys.argv[1:4]
    moments: list[float] = []
    kept = hear_bare(url, moments) if kind == "bare" else hear_tiercast(url, name, moments)
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
