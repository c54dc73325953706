"""A bound on concurrent loads that threads and tasks share."""

from __future__ import annotations

import sys
import threading
from collections import deque

from ..plans import Plan
from .signal import Signal, Wait


class Slots:
    """Lets `limit` loads (None: any number) through at a time, the others in the order in which they came. Thread-safe and loop-safe."""

    __slots__ = ("_free", "_limit", "_lock", "_queue")

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self.reset()

    def reset(self) -> None:
        """Free every slot: in a forked child nobody holds one."""
        self._lock = threading.Lock()
        self._free = sys.maxsize if self._limit is None else self._limit
        self._queue: deque[Signal] = deque()

    def take(self, *, wait: bool) -> Plan[bool]:
        """Take a slot; False where none is free and `wait` is off."""
        with self._lock:
            if self._free:
                self._free -= 1
                return True
            if not wait:
                return False
            turn = Signal()
            self._queue.append(turn)
        try:
            yield Wait(turn)
        except BaseException:
            with self._lock:
                queued = turn in self._queue
                if queued:
                    self._queue.remove(turn)
            if not queued:
                self.give()
            raise
        return True

    def give(self) -> None:
        """Give a slot back: to who waits longest, if anybody does."""
        with self._lock:
            if not self._queue:
                self._free += 1
                return
            turn = self._queue.popleft()
        turn.fire()
