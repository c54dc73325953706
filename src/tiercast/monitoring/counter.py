"""Exact counts that cost next to nothing: of events, and of amounts."""

from __future__ import annotations

import os
import threading
from itertools import count


class Counter:
    """Counts events from any number of threads, exactly.

    `add` is `itertools.count.__next__`: one C call, atomic under the GIL and on
    free-threaded builds. Its position is read from its repr, which is "count(n)".
    """

    __slots__ = ("_count", "add")

    def __init__(self) -> None:
        self._count = count()
        self.add = self._count.__next__

    @property
    def value(self) -> int:
        """How many times `add` was called."""
        return int(repr(self._count)[6:-1])

    def __repr__(self) -> str:
        return f"Counter({self.value})"


class Sum:
    """Adds amounts from any number of threads, exactly; takes a lock, so it is not for the hit path."""

    __slots__ = ("_total",)

    def __init__(self) -> None:
        self._total = 0.0

    def add(self, amount: float) -> None:
        """Add an amount."""
        with _lock:
            self._total += amount

    @property
    def value(self) -> float:
        """What was added so far."""
        return self._total

    def __repr__(self) -> str:
        return f"Sum({self._total})"


# One for all sums: it is held for a few dozen nanoseconds. Re-entrant, because a finalizer that
# the garbage collector runs inside `add` may itself come to add something.
_lock = threading.RLock()


def _after_fork() -> None:
    global _lock  # noqa: PLW0603  some other thread of the parent may have held it
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
