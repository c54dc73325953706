"""The two clocks that tiercast reads, behind one seam so that tests can hold them still."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where the time comes from.

    `monotonic` (seconds) decides freshness and proof inside the process; it must
    run on while the process is stopped. `wall` (seconds since 1970) is written on
    the wire and to disk; it decides expiry there and never order.
    """

    def monotonic(self) -> float: ...

    def wall(self) -> float: ...


class SystemClock:
    """The machine's own clocks."""

    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)
