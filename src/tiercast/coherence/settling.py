"""What an origin that lags shows by now: read replicas, and commits that come after their invalidation."""

from __future__ import annotations

from collections import deque


class Settling:
    """The positions of the last `lag` seconds. Not thread-safe: its caller holds the ledger's lock."""

    __slots__ = ("_moved", "lag")

    def __init__(self, lag: float) -> None:
        self.lag = lag
        """Seconds; with 0 nothing needs to be noted, as the origin shows at once what was changed."""
        self._moved: deque[tuple[float, int]] = deque(maxlen=100_000)
        """(when, the position reached), the oldest first; where it overflows, fewer loads are kept than could be."""

    def begin(self, now: float, position: int) -> None:
        """Forget all, at a snapshot's position."""
        self._moved.clear()
        self._moved.append((now, position))

    def note(self, now: float, position: int) -> None:
        """Note that records up to `position` were applied."""
        self._moved.append((now, position))

    def position(self, now: float, applied: int) -> int:
        """Return the position that was applied `lag` seconds ago: a load that begins now shows no less.

        Args:
            now: the monotonic time.
            applied: the position applied by now.
        """
        moved = self._moved
        if not self.lag or not moved:
            return applied
        horizon = now - self.lag
        while len(moved) > 1 and moved[1][0] <= horizon:
            moved.popleft()
        return moved[0][1] if moved[0][0] <= horizon else 0
