"""Leases: one loader per key among the processes of a fleet.

Implementation notes.
    The lease lies where the fleet meets (Redis, or the disk log's database) and ends by
    itself after `lock_ttl`, so a leader that hangs loses it. Who does not get it has,
    by asking, marked it as awaited; a holder that gives back an awaited lease says so on the
    bus (`Fills`), after its fill was stored, and that wakes the others. Where there is no bus
    (the disk log), or it is not heard, they look by themselves, first after 2 ms, then at
    growing intervals of up to 25 ms; a look is a read. Messages may be lost and holders may
    die, so a look comes every half second in any case.
    A token begins with its holder's name in the fleet: who has looked at it for two heartbeats,
    and knows that member to be gone, gives the lease back in its stead.
    What cannot be given back when its load ends, as the store is away or the task was thrown away, is owed, and
    given back by the housekeeper: a lease that outlived an outage would hold up every reader of its key.
    Its name begins with the log's epoch, so none comes back with an older snapshot of the log's server.
    In each process only the flight's leader waits here. Exactly one of all who wait takes an
    expired lease over; the others go on waiting for that one.
"""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from ..coherence.log import LogUnavailable
from ..plans import Plan
from ..signal import Signal, Wait

if TYPE_CHECKING:
    from ..coherence.coherence import Coherence
    from .finding import Found
    from .flights import Flight

FIRST_LOOK, LAST_LOOK = 0.002, 0.025
"""Seconds between two looks where nothing wakes."""
ASKED = 1.0
"""Seconds for which looking is enough; then the lease is asked for again: where that fails, nobody can give it back."""
HEARD_LOOK = 0.5
"""Seconds between two looks where the bus wakes."""
PATIENCE = 1.0
"""Seconds that a wait lasts which might close a cycle through several processes."""
OWED = 10_000
"""Leases that a process remembers to give back; one too many ends by itself."""


class LeaseStore(Protocol):
    """Where leases lie. Failing to answer (None) counts as having the lease: a load too many, never none."""

    def take(self, name: str, token: str, ttl: float) -> Plan[bool | None]:
        """Take a lease, or find that the token has it; where another has it, mark it as awaited."""
        ...

    def give(self, name: str, token: str) -> Plan[object]:
        """Give a lease back; answers something true where it may be awaited, None where there was no answer."""
        ...

    def holder(self, name: str) -> Plan[str | None]:
        """Answer, without writing, the token that has a lease; None where none has it, or that cannot be seen."""
        ...


class Fills:
    """Who waits in this process for the fills of others, and which leases it owes them. Thread-safe and loop-safe.

    Args:
        announce: tells the fleet that a lease was given back; None where there is no bus.
        heard: whether the bus is heard here now.
        coherence: knows who is in the fleet; None for a process by itself.
    """

    def __init__(
        self,
        announce: Callable[[str], Plan[object]] | None = None,
        heard: Callable[[], bool] = lambda: False,
        coherence: Coherence | None = None,
    ) -> None:
        self.announce = announce
        self.heard = heard
        self._coherence = coherence
        self.reset()

    def reset(self) -> None:
        """Forget who waits and what is owed: in a forked child nobody waits, and the leases are its parent's."""
        self._lock = threading.RLock()
        self._waiting: dict[str, list[Signal]] = {}
        self._owed: dict[str, tuple[LeaseStore, str, float]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def token(self) -> str:
        """Return a new token of this process."""
        member = "" if self._coherence is None else self._coherence.fleet.member
        return f"{member}/{secrets.token_hex(8)}"

    def now(self) -> float:
        """Return the monotonic time."""
        return math.nan if self._coherence is None else self._coherence.clock.monotonic()

    def orphaned(self, token: str, since: float) -> bool:
        """Whether the process whose token was first seen at a time (`now`) is no longer there."""
        member = token.rpartition("/")[0]
        return bool(member) and self._coherence is not None and self._coherence.gone(member, since)

    def expect(self, name: str, signal: Signal) -> None:
        """Have a signal fired with the next announcement of `name`."""
        with self._lock:
            self._waiting.setdefault(name, []).append(signal)

    def forget(self, name: str, signal: Signal) -> None:
        """Expect it no longer."""
        with self._lock:
            signals = self._waiting.get(name, [])
            if signal in signals:
                signals.remove(signal)
                if not signals:
                    del self._waiting[name]

    def filled(self, name: str) -> None:
        """Wake those who wait for a name; the listener's thread calls it."""
        with self._lock:
            signals = self._waiting.pop(name, [])
        for signal in signals:
            signal.fire()

    def owe(self, store: LeaseStore, name: str, token: str, ttl: float) -> None:
        """Note a lease that could not be given back."""
        with self._lock:
            if len(self._owed) < OWED:
                self._owed[token] = store, name, time.monotonic() + ttl

    def repay(self) -> Plan[None]:
        """Give back what is owed, until the store fails to answer; for the housekeeper.

        Raises:
            LogUnavailable: the store is away.
        """
        with self._lock:
            owed = list(self._owed.items())
        for token, (store, name, until) in owed:
            if time.monotonic() < until:
                awaited = yield from store.give(name, token)
                if awaited is None:
                    return
                if awaited and self.announce is not None:
                    yield from self.announce(name)
            with self._lock:
                self._owed.pop(token, None)


class Lease:
    """One flight's attempt at, and then hold of, the lease of its key. For the flight's leader only.

    Args:
        store: where it lies. name: its name. ttl: seconds after which it ends by itself.
        fills: wakes who waits. flight: the flight. waits: counts the waits.
    """

    __slots__ = ("_claimed", "_fills", "_flight", "_name", "_seen", "_store", "_sure", "_token", "_ttl", "_waits")

    def __init__(self, store: LeaseStore, name: str, ttl: float, fills: Fills, flight: Flight, waits: Any) -> None:
        self._store = store
        self._name = name
        self._ttl = ttl
        self._fills = fills
        self._flight = flight
        self._waits = waits
        self._token = fills.token()
        self._claimed = False
        """Whether it may be held: from before it is asked for, as whoever asks may be cancelled before the answer."""
        self._sure = True
        """Whether what was asked for was answered; else it may arrive after what gives it back."""
        self._seen: tuple[str, float] | None = None
        """The token that another was last seen to hold it with, and when that was first seen."""

    def contend(self, find: Callable[[], Plan[Found]], *, anew: bool = False) -> Plan[Found | None]:
        """Take the lease, or find what its holder filled; None where the caller is to load.

        Args:
            find: looks into the tiers below.
            anew: what is there does not count; load once the lease is free.
        """
        look = FIRST_LOOK
        asked = float("-inf")
        until: float | None = None
        while True:
            signal = self._flight.wait_on()
            self._fills.expect(self._name, signal)  # before asking: the holder may give it back right after
            try:
                looks = time.monotonic() < asked + ASKED and (yield from self._is_held())
                if not looks and (yield from self._take()):
                    self._flight.lease = self._name
                    # A fill may have come between the caller's look and the lease.
                    found = None if anew else (yield from find())
                    return found if found is not None and found.entry is not None else None
                if not looks:
                    asked = time.monotonic()
                if self._flight.bar > self._name:
                    until = time.monotonic() + PATIENCE if until is None else until
                    if time.monotonic() >= until:
                        return None
                self._waits.add()
                if (yield Wait(signal, HEARD_LOOK if self._fills.heard() else look)):
                    asked = float("-inf")  # whoever has it next is to know that it is awaited
                look = min(look * 1.5, LAST_LOOK)
            finally:
                self._flight.turn = None
                self._fills.forget(self._name, signal)
            if not anew:
                found = yield from find()
                if found.entry is not None:
                    return found

    def _is_held(self) -> Plan[bool]:
        """Whether another has the lease, and is there; that of one who is gone is given back."""
        token = yield from self._store.holder(self._name)
        if token is None:
            return False
        if self._seen is None or self._seen[0] != token:
            self._seen = token, self._fills.now()
        if self._fills.orphaned(*self._seen):
            with suppress(LogUnavailable):
                yield from self._store.give(self._name, token)  # of all who find that, one gets it next
            return False
        return True

    def _take(self) -> Plan[bool]:
        self._claimed, self._sure = True, False
        try:
            taken = yield from self._store.take(self._name, self._token, self._ttl)
        except LogUnavailable:
            return True
        self._claimed, self._sure = taken is not False, taken is not None
        return self._claimed

    def lapse(self) -> None:
        """Leave the lease to the housekeeper, where nothing can be asked for any more."""
        if self._claimed:
            self._claimed, self._flight.lease = False, ""
            self._fills.owe(self._store, self._name, self._token, self._ttl)

    def release(self) -> Plan[None]:
        """Give the lease back, if it is or may be held, and tell those who wait."""
        if not self._claimed:
            return
        self._flight.lease = ""
        awaited = None
        try:
            awaited = yield from self._give()
        finally:
            if awaited is None or not self._sure:
                self.lapse()
            self._claimed = False
        if awaited and self._fills.announce is not None:
            yield from self._fills.announce(self._name)

    def _give(self) -> Plan[object]:
        try:
            return (yield from self._store.give(self._name, self._token))
        except LogUnavailable:
            return None
        except GeneratorExit:
            raise
        except BaseException:  # cancelled, maybe before it was sent
            yield from self._store.give(self._name, self._token)
            raise
