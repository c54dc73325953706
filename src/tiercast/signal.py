"""A one-shot event that threads and tasks of any loop wait for alike."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

AT_ONCE = 500
"""Waiters that are woken in one go on a loop's own thread."""


class Signal:
    """Fires once with a value; whoever waits, then or later, gets it.

    Thread-safe and loop-safe. `fire` runs no user code and never blocks.

    Its lock, and those of all that a plan gives back when it ends (flights, slots, fills), are
    reentrant: a task that was thrown away is finalised by the garbage collection, in the midst of
    whatever a thread does, and so perhaps by the thread that holds the lock.
    """

    __slots__ = ("_callbacks", "_lock", "fired", "value")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._callbacks: list[Callable[[], None]] = []
        self.fired = False
        self.value: Any = None

    @property
    def awaited(self) -> bool:
        """Whether anybody waits for it now."""
        return bool(self._callbacks)

    def fire(self, value: Any = None) -> None:
        """Set the value and wake all who wait; a second call changes nothing."""
        with self._lock:
            if self.fired:
                return
            self.value = value
            self.fired = True
            callbacks, self._callbacks = self._callbacks, []
        _wake(callbacks)

    def subscribe(self, callback: Callable[[], None]) -> None:
        """Call back when it fires, at once where it has."""
        with self._lock:
            if not self.fired:
                self._callbacks.append(callback)
                return
        callback()

    def unsubscribe(self, callback: Callable[[], None]) -> None:
        """Take a callback back; nothing happens where it has been called."""
        with self._lock:
            if not self.fired and callback in self._callbacks:
                self._callbacks.remove(callback)


def _wake(callbacks: list[Callable[[], None]]) -> None:
    """Call back, and where very many wait and a loop runs here, let the loop have its turn in between."""
    for callback in callbacks[:AT_ONCE]:
        callback()
    rest = callbacks[AT_ONCE:]
    if rest:
        loop = asyncio._get_running_loop()
        if loop is not None:
            loop.call_soon(_wake, rest)
        else:
            _wake(rest)


class Wait:
    """The request to wait for a signal; answers whether it fired within `timeout` seconds (None: however long)."""

    __slots__ = ("signal", "timeout")

    def __init__(self, signal: Signal, timeout: float | None = None) -> None:
        self.signal = signal
        self.timeout = timeout

    def run(self) -> bool:
        if self.signal.fired:
            return True
        gate = threading.Lock()  # an Event has a lock of its own that is not reentrant, and takes twice the time
        gate.acquire()
        self.signal.subscribe(gate.release)
        try:
            return gate.acquire(timeout=-1 if self.timeout is None else max(0.0, self.timeout))
        finally:
            self.signal.unsubscribe(gate.release)

    async def run_async(self) -> bool:
        if self.signal.fired:
            return True
        if self.timeout is not None and self.timeout <= 0:
            return False
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def done() -> None:
            if not future.done():
                future.set_result(None)

        def wake() -> None:
            if asyncio._get_running_loop() is loop:  # the usual case, and a tenth of the cost for two hundred tasks
                done()
                return
            try:
                loop.call_soon_threadsafe(done)
            except RuntimeError:  # the loop closed while we waited: nobody is left to wake
                pass

        self.signal.subscribe(wake)
        try:
            async with asyncio.timeout(self.timeout):
                await future
        except TimeoutError:
            return self.signal.fired
        finally:
            self.signal.unsubscribe(wake)
        return True
