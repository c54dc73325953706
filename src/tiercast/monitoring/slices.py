"""A ring of moments, so that what happened in a window of time is the difference of two. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from .figures import Counts

SLICES = 60
"""Moments that a window is cut into."""

Moment = Mapping[str, Counts]
"""Region to what it had counted then."""


class Slices:
    """What was counted at up to 61 moments of the last `window` seconds. Not thread-safe: its owner holds a lock.

    A region that did nothing between two moments is kept once, so that many idle regions
    cost next to nothing.

    Args:
        window: seconds that can be looked back.
        now: the monotonic time at which counting began.
    """

    def __init__(self, window: float, now: float) -> None:
        self.every = window / SLICES
        """Seconds between two moments."""
        self._ring: deque[tuple[float, Moment]] = deque(maxlen=SLICES + 1)
        self._ring.append((now, {}))

    def due(self, now: float) -> bool:
        """Whether it is time for the next moment."""
        return now >= self._ring[-1][0] + self.every

    def add(self, now: float, moment: Moment) -> None:
        """Keep a moment."""
        before = self._ring[-1][1]
        self._ring.append((now, {name: same(before.get(name), counts) for name, counts in moment.items()}))

    def since(self, now: float, window: float) -> tuple[float, Moment]:
        """Return when the newest moment at least `window` seconds ago was, and what it was; the oldest where none is."""
        found = self._ring[0]
        for each in self._ring:
            if each[0] > now - window:
                break
            found = each
        return found


def same(before: Counts | None, now: Counts) -> Counts:
    """Return the earlier object where nothing has changed."""
    if before is not None and before.numbers == now.numbers and before.timings == now.timings:
        return before
    return now
