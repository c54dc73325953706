"""Flights: one load per key per process, for any mix of threads and tasks.

Implementation notes.
    A flight is led by whoever opened it; the others wait for its signal. What a flight's
    leader waits for in turn makes an edge from the flight to what it waits for, so that the
    wait that would close a cycle is found before it begins: the caller then loads by itself,
    in a flight that is not in the table (`alone`), and waits for nothing.
    Who leads what is known from a context variable (`leading`), which tasks and worker
    threads inherit with their context. An event loop is a node too: a synchronous wait on a
    loop's own thread holds up every flight that is led by a task of that loop (a flight that
    is led synchronously hangs on no loop).
    Two waits lie outside the table: for a slot, and for the lease of another process. A flight
    for which another flight waits, or a loop that is held up, is `needed`: it takes a slot
    whether there is one or not. And leases are waited for in the order of their names: a
    flight does not wait long for a lease whose name is below one that is held by itself or by
    a flight that waits for it (`bar`); so no cycle through several processes lasts. Whoever
    comes to need a flight that is queueing rouses it (`turn`).
    One lock for the table and the graph; no I/O and no user code run under it.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import LoadCycle
from ..signal import Signal, Wait

leading: contextvars.ContextVar[tuple[Flight, ...]] = contextvars.ContextVar("tiercast_leading", default=())
"""The flights that this thread or task, or whoever started it, is leading; outermost first."""

ABANDONED = object()
"""What a flight's signal says when its leader was cancelled: one of those who waited leads the next."""

LOOK = 1.0
"""Seconds after which whoever waits looks whether the leader can still come to an end, unless told otherwise."""


class Flight:
    """One load on its way.

    Attributes:
        table: the manager's flights, of which it is one. key: what is loaded.
        loop: the event loop of the task that leads it; None where a thread does.
        signal: fires with what came of it: `Landed`, `Older`, `Failure` or ABANDONED.
        alone: whether only its leader knows it, because waiting would deadlock.
        awaits: the flights that its leader waits for.
        since: when its loader was called (seconds of the region's clock); None before that.
        needed: whether its leader must not queue. lease: the name of the lease that its leader holds.
        bar: the greatest name of a lease that is held by who waits for it.
        turn: what its leader queues for now, to be fired by whoever comes to need the flight.
    """

    __slots__ = (
        "alone",
        "awaits",
        "bar",
        "key",
        "lease",
        "loop",
        "needed",
        "outer",
        "signal",
        "since",
        "table",
        "turn",
    )

    def __init__(
        self, table: Flights, key: Hashable, loop: asyncio.AbstractEventLoop | None = None, *, alone: bool = False
    ) -> None:
        self.table = table
        self.key = key
        self.loop = loop
        self.alone = alone
        self.signal = Signal()
        self.awaits: list[Flight] = []
        self.outer: tuple[Flight, ...] = ()
        self.since: float | None = None
        self.needed = alone
        self.lease = ""
        self.bar = ""
        self.turn: Signal | None = None

    def stuck(self, now: float, patience: float) -> bool:
        """Whether it is no use to wait on: its loader hangs, or the loop of its leader stands still."""
        if self.since is not None and now - self.since >= patience:
            return True
        return self.loop is not None and not self.loop.is_running()

    def wait_on(self) -> Signal:
        """Return what the leader waits for while it queues; it fires, too, where somebody comes to need the flight."""
        self.turn = Signal()
        return self.turn


@dataclass(frozen=True, slots=True)
class Landed:
    """A loaded or found entry on its way to all who waited, and up to where it is vouched for (see `Spare`)."""

    entry: Any
    vouched: int
    local: int


@dataclass(frozen=True, slots=True)
class Older:
    """What a flight found below instead of loading: all who waited begin anew with a spare."""

    spare: Any


class Failure:
    """A loader's exception on its way to all who waited, with the traceback it had when it was raised."""

    __slots__ = ("error", "traceback")

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.traceback = error.__traceback__

    def exception(self) -> BaseException:
        """Return the exception as one waiter raises it: without the frames of those who raised it before."""
        return self.error.with_traceback(self.traceback)


class Flights:
    """The flights of a process. Thread-safe and loop-safe."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget every flight: in a forked child their leaders are not there."""
        self._lock = threading.RLock()
        self._open: dict[Hashable, Flight] = {}
        self._held: dict[asyncio.AbstractEventLoop, list[Flight]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def join(self, key: Hashable, *, synchronous: bool, instead_of: Flight | None = None) -> tuple[Flight, bool]:
        """Return (flight, whether the caller leads it).

        Args:
            key: what to load.
            synchronous: whether the caller holds up its thread while it waits.
            instead_of: a flight that is stuck; where it still stands in the table, the caller's takes its place.

        Raises:
            LoadCycle: the caller, in this task or thread, is already loading this key.
        """
        mine = chain()
        for flight in mine:
            if flight.key == key and flight.table is self:
                path = " -> ".join(repr(each.key) for each in (*mine, flight))
                message = f"a loader asks for the key it is loading: {path}"
                raise LoadCycle(message)
        loop = running_loop()
        led_by = None if synchronous else loop
        held = loop if synchronous else None
        with self._lock:
            found = self._open.get(key)
            if found is None or found is instead_of or (found.loop is not None and not found.loop.is_running()):
                return self._enter(key, led_by, mine, held), True
            if self._deadlocks(found, mine, held):
                return Flight(self, key, led_by, alone=True), True
            turns = self._wait_for(found, mine, held)
        for turn in turns:
            turn.fire()
        return found, False

    def open(self, key: Hashable) -> Flight | None:
        """Open a flight that the caller will not wait for; None where one is open."""
        with self._lock:
            if key in self._open:
                return None
            flight = self._open[key] = Flight(self, key)
            return flight

    def hold(self, flight: Flight) -> None:
        """Say that the caller, who leads it from elsewhere, holds up this thread until it lands; `left` undoes it."""
        loop = running_loop()
        if loop is not None:
            with self._lock:
                self._held.setdefault(loop, []).append(flight)

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
            for each in flight.outer:
                if flight in each.awaits:
                    each.awaits.remove(flight)
        flight.signal.fire(outcome)

    # -- the graph; the lock is held --------------------------------------------------------------

    def _enter(
        self,
        key: Hashable,
        loop: asyncio.AbstractEventLoop | None,
        mine: tuple[Flight, ...],
        held: asyncio.AbstractEventLoop | None,
    ) -> Flight:
        """Put a new flight into the table; what its leader leads already waits for it."""
        flight = self._open[key] = Flight(self, key, loop)
        flight.outer = mine
        flight.needed = held is not None
        self._wait_for(flight, mine, None)
        return flight

    def _wait_for(
        self, flight: Flight, mine: tuple[Flight, ...], held: asyncio.AbstractEventLoop | None
    ) -> list[Signal]:
        """Note a wait and return what it must rouse."""
        for each in mine:
            each.awaits.append(flight)
        if held is not None:
            self._held.setdefault(held, []).append(flight)
        if not mine and held is None:
            return []
        bar = max((name for each in mine for name in (each.lease, each.bar)), default="")
        turns = []
        for each in self._reached(flight):
            each.needed = True
            each.bar = max(each.bar, bar)
            if each.turn is not None:
                turns.append(each.turn)
        return turns

    def _deadlocks(self, target: Flight, mine: tuple[Flight, ...], held: asyncio.AbstractEventLoop | None) -> bool:
        """Whether waiting for `target` closes a cycle through what the caller leads or the loop it would hold up."""
        for flight in self._reached(target):
            if flight in mine or (held is not None and flight.loop is held):
                return True
        return False

    def _reached(self, target: Flight) -> Iterator[Flight]:
        """Yield a flight and everything that has to end before it."""
        seen: set[int] = set()
        todo = [target]
        while todo:
            flight = todo.pop()
            if id(flight) in seen:
                continue
            seen.add(id(flight))
            yield flight
            todo.extend(flight.awaits)
            if flight.loop is not None:
                todo.extend(self._held.get(flight.loop, ()))


def chain() -> tuple[Flight, ...]:
    """Return the flights that the caller is leading and that have not landed; outermost first.

    A task that outlives the loader that started it inherits flights that have landed.
    """
    flights = leading.get()
    return tuple(flight for flight in flights if not flight.signal.fired) if flights else flights


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that runs in this thread, if one does."""
    return asyncio._get_running_loop()


class Join:
    """The request to join or lead the flight of a key; answers what `Flights.join` does."""

    __slots__ = ("flights", "instead_of", "key")

    def __init__(self, flights: Flights, key: Hashable, instead_of: Flight | None = None) -> None:
        self.flights = flights
        self.key = key
        self.instead_of = instead_of

    def run(self) -> tuple[Flight, bool]:
        return self.flights.join(self.key, synchronous=True, instead_of=self.instead_of)

    async def run_async(self) -> tuple[Flight, bool]:
        return self.flights.join(self.key, synchronous=False, instead_of=self.instead_of)


class AwaitFlight:
    """The request to wait for a flight that was joined; answers whether it landed.

    Args:
        flights: the table.
        flight: the flight.
        timeout: seconds to wait at the most; None: however long.
        stuck: asked every `look` seconds whether it is no use to wait any longer.
        own: whether the caller leads it itself, by a worker.
    """

    __slots__ = ("flight", "flights", "look", "own", "stuck", "timeout")

    def __init__(
        self,
        flights: Flights,
        flight: Flight,
        timeout: float | None = None,
        stuck: Callable[[], bool] = lambda: False,
        look: float = LOOK,
        own: bool = False,
    ) -> None:
        self.flights = flights
        self.flight = flight
        self.timeout = timeout
        self.stuck = stuck
        self.look = look
        self.own = own

    def _turns(self) -> Iterator[Wait]:
        """Yield the waits of which this one is made."""
        until = None if self.timeout is None else time.monotonic() + self.timeout
        while True:
            left = self.look if until is None else min(self.look, until - time.monotonic())
            yield Wait(self.flight.signal, max(0.0, left))
            if self.stuck() or (until is not None and time.monotonic() >= until):
                return

    def run(self) -> bool:
        if self.own:
            self.flights.hold(self.flight)
        try:
            return any(wait.run() for wait in self._turns())
        finally:
            self.flights.left(self.flight, synchronous=True)

    async def run_async(self) -> bool:
        try:
            for wait in self._turns():
                if await wait.run_async():
                    return True
            return False
        finally:
            self.flights.left(self.flight, synchronous=False)
