"""Leases: one loader per key among the processes of a fleet.

Implementation notes.
    The lease lies where the fleet meets (Redis, or the disk log's database) and ends by
    itself after `lock_ttl`, so a leader that dies or hangs loses it. Who does not get it
    waits: for the fill's signal where the bus brings one, else looking again at growing
    intervals. Exactly one of those who wait takes an expired lease over; the others go on
    waiting for that one.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from ..plans import Pause, Plan

if TYPE_CHECKING:
    from .reading import Found


class LeaseStore(Protocol):
    """Where leases lie. Failing to answer counts as having the lease: a load too many, never none."""

    def take(self, name: str, token: str, ttl: float) -> Plan[bool]: ...

    def give(self, name: str, token: str) -> Plan[object]: ...


class Lease:
    """One process's attempt at, and then hold of, the lease of one key. For one flight's leader only."""

    __slots__ = ("_held", "_name", "_store", "_token", "_ttl", "_waits")

    def __init__(self, store: LeaseStore, name: str, ttl: float, waits: Any) -> None:
        self._store = store
        self._name = name
        self._ttl = ttl
        self._waits = waits
        self._token = secrets.token_hex(8)
        self._held = False

    def wait(self, find: Callable[[], Plan[Found]], force: bool) -> Plan[Found | None]:
        """Take the lease, or find what its holder filled; None where the caller is to load."""
        interval = 0.002
        while True:
            self._held = yield from self._store.take(self._name, self._token, self._ttl)
            if self._held and interval == 0.002 and force:
                return None
            # A fill may have come between the caller's look and the lease.
            found = yield from find()
            if found.entry is not None:
                return found
            if self._held:
                return None
            self._waits.add()
            yield Pause(interval)
            interval = min(interval * 1.5, 0.05)

    def release(self) -> Plan[None]:
        """Give the lease back, if it is held."""
        if self._held:
            self._held = False
            yield from self._store.give(self._name, self._token)

