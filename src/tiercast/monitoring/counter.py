"""Exact counts that cost next to nothing: of events, and of amounts."""

from __future__ import annotations

import os
import threading
from collections import deque
from itertools import islice, repeat
from operator import length_hint
from sys import maxsize


class Counter:
    """Counts events from any number of threads, exactly.

    `add` is the `__next__` of an `itertools.repeat` that would end after 2**63 - 1 steps: one C
    call, atomic under the GIL, that makes no object (an `itertools.count` makes an int each
    time, which costs as much again). What is left of it says how many were taken.
    """

    __slots__ = ("_left", "add")

    def __init__(self) -> None:
        self._left = repeat(None, maxsize)
        self.add = self._left.__next__

    def add_many(self, times: int) -> None:
        """Count several events; a few nanoseconds each."""
        deque(islice(self._left, times), maxlen=0)

    @property
    def value(self) -> int:
        """How many events there were."""
        return maxsize - length_hint(self._left)

    def __repr__(self) -> str:
        return f"Counter({self.value})"


class Sum:
    """Adds amounts from any number of threads, exactly.

    An amount is put on a queue, which takes no lock; whoever reads, or finds many there, adds them up.
    """

    __slots__ = ("_added", "_total")

    def __init__(self) -> None:
        self._added: deque[float] = deque()
        self._total: float = 0  # stays an int while ints are added

    def add(self, amount: float) -> None:
        """Add an amount."""
        added = self._added
        added.append(amount)
        if len(added) > 100:
            self._add_up()

    def _add_up(self) -> None:
        added = self._added
        with _lock:
            for _ in range(len(added)):
                amount = added.popleft()
                self._total += amount

    @property
    def value(self) -> float:
        """What was added so far."""
        self._add_up()
        return self._total

    def __repr__(self) -> str:
        return f"Sum({self._total})"


# One for all sums: it is held for microseconds. Re-entrant, because a finalizer that
# the garbage collector runs inside `add` may itself come to add something.
_lock = threading.RLock()


def _after_fork() -> None:
    global _lock  # noqa: PLW0603  some other thread of the parent may have held it
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
