"""A duration may be seconds or a timedelta wherever one is taken; checked by mypy and basedpyright, never run."""

from __future__ import annotations

from datetime import timedelta

from tiercast import CacheManager
from tiercast.testing import FakeClock


async def durations(cache: CacheManager, clock: FakeClock) -> None:
    minute = timedelta(minutes=1)
    cache.set("k", 1, minute, barrier=minute)
    cache.get_or_set("k", lambda: 1, minute, lock_ttl=minute)
    cache.touch("k", minute, barrier=minute)
    cache.clear(barrier=minute)
    cache.scoped(org_id="1").invalidate_tags(["t"], barrier=minute)
    cache.coherence.start(minute)
    cache.coherence.settle(minute)
    await cache.coherence.settle_async(60)
    await cache.multi_set_async({"k": 1}, minute, barrier=minute)
    cache.monitor.analyze_performance(minute)
    await cache.monitor.analyze_performance_async(time_window=minute)
    clock.advance(minute)
