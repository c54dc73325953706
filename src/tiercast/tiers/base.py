"""The seam between the tiers below the process and whoever reads them."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..plans import Plan
from .entry import Address, Envelope

Keeps = Callable[[str, float], float]
"""Answers for how many seconds a tier keeps an entry of a region whose end is so many seconds away."""


class Put(enum.Enum):
    """What became of an attempt to store an entry."""

    STORED = "stored"
    NEWER = "newer"
    """Something with a greater `born` (or a tombstone) stands there."""
    LATE = "late"
    """The load took longer than `max_load_time` by the tier's own clock."""
    BEHIND = "behind"
    """This process, or the tier's epoch, is not where it would have to be: catch up and try once more."""
    FAILED = "failed"
    """The tier could not be reached or written; counted, and never raised into a read."""


@dataclass(slots=True)
class Reading:
    """What a tier answered.

    Attributes:
        found: the envelopes that are there (never a tombstone, never one past `keep_until`).
        vouched: the (epoch, position) up to which the tier itself has applied key records, read
            before the rows; None where the tier holds no position of its own (Redis).
        failed: True where the tier could not answer; `found` is then empty.
        corrupt: how many stored values were of no known form (foreign, truncated, newer); they are misses.
    """

    found: dict[Address, Envelope] = field(default_factory=dict)
    vouched: tuple[str, int] | None = None
    failed: bool = False
    corrupt: int = 0


@dataclass(frozen=True, slots=True)
class Guard:
    """What has to hold at the moment, and in the critical section, in which an entry is stored.

    Attributes:
        admit: called by a tier with a position of its own, inside its transaction, with its
            (epoch, position); answers whether the caller's ledger still admits the entry.
        begun: the log's time (seconds, by the log's own clock) last seen when the load began; a
            put later than `max_load_time` after it is refused by the storing server's clock.
            None: not judged.
        fence: seconds for which nothing older may come back even after the entry itself is gone
            (a `set` leaves one, a fill does not).
    """

    admit: Callable[[tuple[str, int]], bool] | None = None
    begun: float | None = None
    fence: float = 0.0


class Tier(Protocol):
    """A store of envelopes below the process (L2, L3). All methods are plans and raise nothing for I/O.

    A tier that can read without waiting may also have `get_now(address, epoch) -> Reading | None`: what
    `get_many` of that address would answer, at once; None where that would wait.

    A tier compares `born` atomically: whatever the order in which two processes put
    the same address, the older `born` never remains. Thread-safe and loop-safe.
    """

    name: str
    """"disk" or "remote" for the tiers that come with tiercast."""

    def get_many(self, addresses: Sequence[Address], epoch: str) -> Plan[Reading]:
        """Read several entries in one round trip."""
        ...

    def put_if_newer(self, address: Address, envelope: Envelope, guard: Guard) -> Plan[Put]:
        """Store an entry unless something newer stands there; equal `born` is stored."""
        ...

    def bury(self, address: Address, epoch: str, position: int, fence: float) -> Plan[bool]:
        """Remove what was born before `position` and refuse the older for `fence` seconds; False where it failed."""
        ...

    def renew(self, address: Address, seen: Envelope, renewed: Envelope) -> Plan[bool]:
        """Replace exactly the entry that was read, and nothing else; False where it is no longer there."""
        ...

    def remove(self, addresses: Sequence[Address], epoch: str) -> Plan[int]:
        """Remove entries physically; returns how many there were."""
        ...

    def scan(self, epoch: str, cursor: int = 0, count: int = 500) -> Plan[tuple[int, list[tuple[Address, Envelope]]]]:
        """Walk the entries: pass the returned cursor back until it is 0; below 0, the walk failed. May show one twice."""
        ...

    def close(self) -> Plan[None]:
        """Give back handles and connections; the tier opens again when used."""
        ...
