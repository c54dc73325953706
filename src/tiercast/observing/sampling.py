"""Timing and telling of hits in memory, without a branch on the hit path.

Implementation notes.
    While hits are sampled, or somebody listens to them, they go by `Region.touched`; afterwards
    `plain_touched` is put back, and hits cost what they cost without any of this. A sampled hit is timed by doing once more, in
    the same thread, what the hit path did: the look-up, the clock, the checks.
    Sampling comes in bursts: at each tick as many of the next hits are timed as the sample
    rate asks of the hits that there were since the tick before.
"""

from __future__ import annotations

from collections.abc import Hashable
from itertools import repeat
from time import perf_counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..region import Region

FIRST = 100
"""Hits that are timed when a region is new, and at the least after a tick in which there were any."""
MOST = 500
"""Hits that are timed after one tick at the most: a timed hit takes the long way, some 3 µs."""


def arm(region: Region, burst: int) -> None:
    """Have the next `burst` hits of a region timed, and all told to who listens."""
    with region.ledger.lock:  # of two who set it, one would leave `touched` and the path to it in disagreement
        if region.watch.listeners.hit:
            region.touched = telling(region)
        elif burst > 0 and region.memory is not None:
            region.touched = timing(region, burst)
        elif region.touched != region.plain_touched:
            region.touched = region.plain_touched


def telling(region: Region) -> Any:
    """Return what a hit does while somebody listens to hits."""
    plain, watch, address = region.plain_touched, region.watch, region.address

    def touched(local_key: Hashable, entry: Any) -> None:
        plain(local_key, entry)
        watch.hit(address(local_key), "local")

    return touched


def timing(region: Region, burst: int) -> Any:
    """Return what a hit does while hits are timed; after `burst` of them the plain way is put back."""
    plain, left = region.plain_touched, repeat(None, burst).__next__
    observe = region.watch.histogram("local", "get").observe
    get, monotonic, ledger, view = region.hot.get, region.monotonic, region.ledger, region.view
    heads = region.heads

    def touched(local_key: Hashable, entry: Any) -> None:
        plain(local_key, entry)
        try:
            left()
        except StopIteration:
            with region.ledger.lock:
                if region.touched is touched:
                    region.touched = plain
            return
        began = perf_counter()
        found = get(local_key) if heads[0] == ledger.head_word else None
        now = monotonic()
        if (
            found is not None
            and now < found.fresh_until
            and now < ledger.proven_until
            and found.checked is view.checkpoint
        ):
            pass
        observe(perf_counter() - began)

    return touched


class Sampler:
    """Decides at each tick how many of a region's next hits are timed. For one thread."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._hits: dict[str, int] = {}

    def tick(self, region: Region) -> None:
        """Arm a region for the time until the next tick."""
        hits = region.counters.hits.value
        before = self._hits.get(region.name)
        self._hits[region.name] = hits
        if before is None or hits > before:
            wanted = 0 if before is None else round((hits - before) * self._rate)
            arm(region, min(max(wanted, FIRST), MOST) if self._rate else 0)
            if self._rate:
                probe(region)

    def ensure(self, region: Region) -> None:
        """Have look-ups timed where there were hits and none of them was: decorated functions pass `touched` by."""
        if self._rate and region.counters.hits.value and not region.watch.histogram("local", "get").read().count:
            probe(region)


def probe(region: Region, tries: int = 3) -> None:
    """Time a few look-ups from this thread, where hits are served without passing by `touched` (decorated functions)."""
    if region.memory is None or not region.hot:
        return
    observe = region.watch.histogram("local", "get").observe
    with region.ledger.lock:
        try:
            local_key = next(reversed(region.hot))
        except (StopIteration, RuntimeError, TypeError):  # emptied, or moved by a reader at this very moment
            return
    for _ in repeat(None, tries):
        began = perf_counter()
        entry = region.hot.get(local_key)
        if entry is not None and region.monotonic() < entry.fresh_until:
            pass
        observe(perf_counter() - began)
