"""One round trip for all who need it at the same moment: threads and tasks of any loop."""

from __future__ import annotations

import asyncio
import threading
from typing import Final

from ..plans import Plan
from ..signal import Signal, Wait

PATIENCE: Final = 1.0
"""Seconds after which a task makes a round trip of its own: the loop of whoever is making one may stand still."""


class Together:
    """At most one heartbeat of the threads and one of the tasks under way; whoever comes meanwhile waits for it.

    A thread waits for threads only: it may be the very thread whose loop a task would need to go on. And nobody waits
    for a heartbeat of his own thread, in whose midst he asks: a logging handler that reads the cache, a provider of
    credentials that keeps them there.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._of_threads: Signal | None = None
        self._thread = 0
        """Which thread takes the heartbeat of the threads."""
        self._of_tasks: tuple[Signal, asyncio.AbstractEventLoop] | None = None

    def enter(self, loop: asyncio.AbstractEventLoop | None) -> tuple[Signal, float | None] | Signal:
        """Return what to wait for, and how long at most; or the signal of the round trip that the caller has to make.

        `loop`: the caller's; None for a thread.
        """
        with self._lock:
            here = threading.get_ident()
            if self._of_threads is not None:
                return Signal() if self._thread == here else (self._of_threads, None)
            if loop is None:
                self._of_threads, self._thread = Signal(), here
                return self._of_threads
            if self._of_tasks is not None:
                signal, other = self._of_tasks
                return signal, None if other is loop else PATIENCE
            self._of_tasks = Signal(), loop
            return self._of_tasks[0]

    def over(self, signal: Signal, outcome: str | None) -> None:
        """Wake those who wait. `outcome`: "" for success, else the failure; None: it was given up."""
        with self._lock:
            if self._of_threads is signal:
                self._of_threads = None
            elif self._of_tasks is not None and self._of_tasks[0] is signal:
                self._of_tasks = None
        signal.fire(outcome)


class Enter:
    """The request to take part; answers what `Together.enter` does."""

    __slots__ = ("together",)

    def __init__(self, together: Together) -> None:
        self.together = together

    def run(self) -> tuple[Signal, float | None] | Signal:
        return self.together.enter(None)

    async def run_async(self) -> tuple[Signal, float | None] | Signal:
        return self.together.enter(asyncio.get_running_loop())


def entered(together: Together) -> Plan[Signal | str]:
    """Take part; answers the signal of the round trip that the caller has to make, or the outcome of another's."""
    while True:
        place = yield Enter(together)
        if isinstance(place, Signal):
            return place
        signal, patience = place
        if not (yield Wait(signal, patience)):
            together.over(signal, None)  # nobody else shall wait for it
        elif signal.value is not None:
            outcome: str = signal.value
            return outcome
