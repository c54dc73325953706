"""A bound on concurrent loads that threads and tasks share."""

from __future__ import annotations

import sys
import threading
from collections import deque
from typing import TYPE_CHECKING

from ..plans import Plan
from ..signal import Signal, Wait

if TYPE_CHECKING:
    from .flights import Flight


class Slots:
    """Lets `limit` loads (None: any number) through at a time, the others in the order in which they came.

    A flight that somebody needs who may hold a slot himself does not queue: it goes over the
    limit, and as many must end before the next of the queue begins. Thread-safe and loop-safe.
    """

    __slots__ = ("_free", "_limit", "_lock", "_queue")

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self.reset()

    def reset(self) -> None:
        """Free every slot: in a forked child nobody holds one."""
        self._lock = threading.RLock()
        self._free = sys.maxsize if self._limit is None else self._limit
        self._queue: deque[Signal] = deque()

    @property
    def free(self) -> int:
        """How many loads could begin now; below zero where needed ones went over the limit."""
        return self._free

    def take(self, flight: Flight, *, wait: bool) -> Plan[bool]:
        """Take a slot; False where none is free and `wait` is off."""
        with self._lock:
            if self._free > 0 or flight.needed:
                self._free -= 1
                return True
        if not wait:
            return False
        turn = flight.wait_on()
        with self._lock:
            if self._free > 0:  # since we looked
                self._free -= 1
                flight.turn = None
                return True
            self._queue.append(turn)
        if flight.needed:  # since we looked
            turn.fire()
        try:
            yield Wait(turn)
        except BaseException:
            if not self._withdraw(turn):
                self.give()
            raise
        finally:
            flight.turn = None
        if self._withdraw(turn):  # roused because somebody needs it, not because a slot came free
            with self._lock:
                self._free -= 1
        return True

    def _withdraw(self, turn: Signal) -> bool:
        """Leave the queue; False where a slot had been given."""
        with self._lock:
            if turn in self._queue:
                self._queue.remove(turn)
                return True
            return False

    def give(self) -> None:
        """Give a slot back: to who waits longest, if anybody does."""
        with self._lock:
            self._free += 1
            if self._free <= 0 or not self._queue:
                return
            self._free -= 1
            turn = self._queue.popleft()
        turn.fire()
