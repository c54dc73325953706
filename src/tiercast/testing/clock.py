"""A clock that stands still until a test moves it."""

from __future__ import annotations

import threading
import time
from datetime import timedelta


class FakeClock:
    """A `Clock` that only `advance` moves. Thread-safe.

    Args:
        monotonic: seconds to begin with.
        wall: seconds since 1970 to begin with; None: the current second, so that what real
            servers and files do with a deadline still makes sense.
    """

    def __init__(self, monotonic: float = 1000.0, wall: float | None = None) -> None:
        self._monotonic = monotonic
        self._wall = float(int(time.time())) if wall is None else wall
        self._lock = threading.Lock()

    def monotonic(self) -> float:
        """Return the monotonic time in seconds."""
        return self._monotonic

    def wall(self) -> float:
        """Return the wall time in seconds since 1970."""
        return self._wall

    def advance(self, seconds: float | timedelta) -> None:
        """Let time go on, on both clocks alike.

        Raises:
            ValueError: `seconds` is negative; time does not run back.
        """
        if isinstance(seconds, timedelta):
            seconds = seconds.total_seconds()
        if seconds < 0:
            raise ValueError(f"time does not run back: {seconds!r} s")
        with self._lock:
            self._monotonic += seconds
            self._wall += seconds

    def set_wall(self, seconds: float) -> None:
        """Set the wall clock alone, as an operator does; it may go back."""
        with self._lock:
            self._wall = seconds

    def __repr__(self) -> str:
        return f"FakeClock(monotonic={self._monotonic!r}, wall={self._wall!r})"
