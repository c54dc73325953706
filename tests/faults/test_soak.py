"""Four processes and a thousand invalidations a second, for SOAK_SECONDS: nothing grows, and nobody falls behind."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack

import pytest

from faults.puppet import Puppet
from servers import RedisServer

SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
RATE = 1_000
WORKERS = 4
BOUNDS = {"key_ring": 20_000, "stamps": 5_000, "max_load_time": 5.0}
"""Reached within half a minute, so that what is measured afterwards is what stays."""
SCOPES = [{"name": "user", "param": "user_id"}]
GROWTH = 1.08


@pytest.mark.soak
def test_nothing_grows_under_a_thousand_invalidations_a_second(own_redis: RedisServer) -> None:
    """Ever new names, of every kind: once the bounds are reached, memory stays where it is, here and in Redis."""
    config = {
        "distributed": {"connection_string": own_redis.url},
        "coherence": BOUNDS,
        "scopes": SCOPES,
        "local": {"max_size": 5_000},
    }
    with ExitStack() as stack:
        workers = [stack.enter_context(Puppet(**config)) for _ in range(WORKERS)]
        for number, worker in enumerate(workers):
            worker.do("start")
            worker.do("churn", RATE // WORKERS, number)
        began = time.monotonic()
        settled: dict[str, float] = {}
        seen: dict[str, float] = {}
        while (passed := time.monotonic() - began) < SECONDS:
            time.sleep(min(10.0, SECONDS / 6))
            figures = [worker.do("figures") for worker in workers]
            positions = [each["position"] for each in figures]
            seen = {
                "processes": sum(each["rss"] for each in figures),
                "redis": own_redis.execute("INFO", "memory")["used_memory"],
            }
            print(  # how it goes is the result
                f"{passed:6.0f} s  position {max(positions):>9,}  behind {max(positions) - min(positions):>4}  "
                f"CPU {sum(each['cpu'] for each in figures) / max(passed, 1):.2f} cores  "
                + "  ".join(f"{name} {size / 1e6:.1f} MB" for name, size in seen.items())
            )
            assert max(positions) - min(positions) < RATE, "somebody falls behind"
            if not settled and passed > SECONDS * 0.4:
                settled = seen
        assert max(positions) > 0.7 * RATE * SECONDS, "the rate was not kept"
        for name, size in settled.items():
            assert seen[name] < GROWTH * size, f"{name} grew from {size / 1e6:.1f} to {seen[name] / 1e6:.1f} MB"
