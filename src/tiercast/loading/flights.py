"""Flights: one load per key per process, for any mix of threads and tasks.

Implementation notes.
    A flight is led by whoever opened it; the others wait for its signal. What a flight's
    leader waits for in turn makes an edge from the flight to what it waits for, so that the
    wait that would close a cycle is found before it begins: the caller then loads by itself.
    Who leads what is known from a context variable (`leading`), which tasks and worker
    threads inherit with their context. An event loop is a node too: a synchronous wait on a
    loop's own thread holds up every flight that is led by a task of that loop (a flight that
    is led synchronously hangs on no loop).
    One lock for the table and the graph; no I/O and no user code run under it.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Hashable
from typing import Any

from ..errors import LoadCycle
from .signal import Signal, Wait

leading: contextvars.ContextVar[tuple[Flight, ...]] = contextvars.ContextVar("tiercast_leading", default=())
"""The flights that this thread or task, or whoever started it, is leading; outermost first."""

ABANDONED = object()
"""What a flight's signal says when its leader was cancelled: one of those who waited leads the next."""


class Flight:
    """One load on its way. `signal` fires with the outcome, an exception in a `Failure`, or ABANDONED."""

    __slots__ = ("awaits", "key", "loop", "signal")

    def __init__(self, key: Hashable, loop: asyncio.AbstractEventLoop | None) -> None:
        self.key = key
        self.loop = loop
        self.signal = Signal()
        self.awaits: list[Flight] = []


class Failure:
    """A loader's exception on its way to all who waited."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Flights:
    """The flights of a process. Thread-safe and loop-safe."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget every flight: in a forked child their leaders are not there."""
        self._lock = threading.Lock()
        self._open: dict[Hashable, Flight] = {}
        self._held: dict[asyncio.AbstractEventLoop, list[Flight]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def join(self, key: Hashable, *, synchronous: bool) -> tuple[Flight, bool]:
        """Return (flight, whether the caller leads it).

        A flight that the caller leads alone, because waiting would deadlock, is not in the table.

        Raises:
            LoadCycle: the caller, in this task or thread, is already loading this key.
        """
        mine = leading.get()
        for flight in mine:
            if flight.key == key:
                path = " -> ".join(repr(each.key) for each in (*mine, flight))
                message = f"a loader asks for the key it is loading: {path}"
                raise LoadCycle(message)
        loop = running_loop()
        with self._lock:
            flight = self._open.get(key)  # type: ignore[assignment]
            if flight is None:
                flight = self._open[key] = Flight(key, None if synchronous else loop)
                return flight, True
            if self._deadlocks(flight, mine, loop if synchronous else None):
                return Flight(key, None if synchronous else loop), True
            for each in mine:
                each.awaits.append(flight)
            if synchronous and loop is not None:
                self._held.setdefault(loop, []).append(flight)
            return flight, False

    def left(self, flight: Flight, *, synchronous: bool) -> None:
        """Say that the caller no longer waits for a flight that it joined."""
        loop = running_loop() if synchronous else None
        with self._lock:
            for each in leading.get():
                if flight in each.awaits:
                    each.awaits.remove(flight)
            if loop is not None and flight in self._held.get(loop, ()):
                self._held[loop].remove(flight)
                if not self._held[loop]:
                    del self._held[loop]

    def land(self, flight: Flight, outcome: Any) -> None:
        """End a flight and wake all who wait for it."""
        with self._lock:
            if self._open.get(flight.key) is flight:
                del self._open[flight.key]
        flight.signal.fire(outcome)

    def _deadlocks(
        self, target: Flight, mine: tuple[Flight, ...], held: asyncio.AbstractEventLoop | None
    ) -> bool:
        """Whether waiting for `target` closes a cycle through what the caller leads or the loop it would hold up."""
        seen: set[int] = set()
        todo = [target]
        while todo:
            flight = todo.pop()
            if id(flight) in seen:
                continue
            seen.add(id(flight))
            if flight in mine or (held is not None and flight.loop is held):
                return True
            todo.extend(flight.awaits)
            if flight.loop is not None:
                todo.extend(self._held.get(flight.loop, ()))
        return False


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that runs in this thread, if one does."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class Join:
    """The request to join or lead the flight of a key; answers what `Flights.join` does."""

    __slots__ = ("flights", "key")

    def __init__(self, flights: Flights, key: Hashable) -> None:
        self.flights = flights
        self.key = key

    def run(self) -> tuple[Flight, bool]:
        return self.flights.join(self.key, synchronous=True)

    async def run_async(self) -> tuple[Flight, bool]:
        return self.flights.join(self.key, synchronous=False)


class AwaitFlight:
    """The request to wait for a flight that was joined; answers whether it landed within `timeout` seconds."""

    __slots__ = ("flight", "flights", "timeout")

    def __init__(self, flights: Flights, flight: Flight, timeout: float | None = None) -> None:
        self.flights = flights
        self.flight = flight
        self.timeout = timeout

    def run(self) -> bool:
        try:
            return Wait(self.flight.signal, self.timeout).run()
        finally:
            self.flights.left(self.flight, synchronous=True)

    async def run_async(self) -> bool:
        try:
            return await Wait(self.flight.signal, self.timeout).run_async()
        finally:
            self.flights.left(self.flight, synchronous=False)
