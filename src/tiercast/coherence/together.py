"""One round trip for all who need it at the same moment: threads and tasks of any loop."""

from __future__ import annotations

import threading
from typing import Final

from ..plans import Plan
from ..signal import Signal, Wait

PATIENCE: Final = 1.0
"""Seconds after which whoever waits for another's round trip makes its own: its loop may stand still."""


class Together:
    """At most one heartbeat of the threads and one of the tasks under way; whoever comes meanwhile waits for it.

    A thread waits for threads only: it may be the very thread whose loop a task would need to go on.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: dict[bool, Signal] = {}

    def enter(self, *, synchronous: bool) -> tuple[Signal, bool]:
        """Return the signal of the round trip, and whether the caller makes it."""
        with self._lock:
            signal = self._under_way.get(True)
            if signal is None and not synchronous:
                signal = self._under_way.get(False)
            if signal is not None:
                return signal, False
            signal = self._under_way[synchronous] = Signal()
            return signal, True

    def over(self, signal: Signal, outcome: str | None) -> None:
        """Wake those who wait. `outcome`: "" for success, else the failure; None: it was given up."""
        with self._lock:
            for synchronous, present in list(self._under_way.items()):
                if present is signal:
                    del self._under_way[synchronous]
        signal.fire(outcome)


class Enter:
    """The request to take part; answers what `Together.enter` does."""

    __slots__ = ("together",)

    def __init__(self, together: Together) -> None:
        self.together = together

    def run(self) -> tuple[Signal, bool]:
        return self.together.enter(synchronous=True)

    async def run_async(self) -> tuple[Signal, bool]:
        return self.together.enter(synchronous=False)


def waited(together: Together, signal: Signal) -> Plan[str | None]:
    """Wait for another's round trip; answers its outcome, None where one has to make one's own."""
    if not (yield Wait(signal, PATIENCE)):
        together.over(signal, None)  # nobody else shall wait for it
    outcome: str | None = signal.value
    return outcome
