"""When an older value may be served, and when its key is loaded anew. No I/O.

Implementation notes.
    What is served stale is judged again at the moment of serving: an invalidation may have
    come while the load was waited for.
    A refresh that nobody waits for is begun by the process that owns the key: the highest
    random weight of the live members. The owner may never read the key, so ownership is a
    head start and no more; the lease is what keeps two from loading at once.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from ..coherence.judging import Verdict
from ..keys import encode_target
from .context import _current

if TYPE_CHECKING:
    from ..region import Region
    from ..tiers.entry import Address, Entry

logger = logging.getLogger("tiercast.loading")

T = TypeVar("T")

MOST_NOTED = 10_000
"""Keys of which a region remembers a failure or a first stale read; forgetting one only means an earlier try."""
HEAD_START = (0.1, 2.0)
"""The shortest and the longest time in seconds that the owner of a key has to refresh it before others do."""


@dataclass(frozen=True, slots=True)
class Spare:
    """An older entry that may be served where loading is slow or fails.

    Attributes:
        entry: the entry. vouched: the position up to which whoever held it vouches for key records.
        local: the ledger's `local_sequence` up to which memory does so for records that wait in the outbox, or at which
            its load began; 0 for what was found below.
        proven: whether memory was proven when it was found. Only then may it be served because
            a load is *slow*; where it is not, the load must have failed, or the origin be too busy.
    """

    entry: Entry
    vouched: int
    proven: bool = True
    local: int = 0


def servable(region: Region, address: Address, spare: Spare | None) -> bool:
    """Whether a spare may still be served: not past its grace, not dead by now, and unproven only where grace is set.

    Unproven, but not where the log is known to have moved: that on disk shows so without I/O, and no process of its host
    serves what may be dead.
    """
    if spare is None or region.clock.monotonic() >= spare.entry.keep:
        return False
    if not spare.proven and (not region.settings.grace or region.coherence.behind()):
        return False
    return region.judge(address, spare.entry, spare.vouched, spare.local) not in (Verdict.DEAD, Verdict.UNKNOWN)


def soft_limit(region: Region, spare: Spare | None) -> float | None:
    """Return how long a load may take before the spare is served: at once where a soft record marked it; None: however long."""
    if spare is None or not spare.proven:
        return None
    return 0.0 if spare.entry.stale else region.settings.soft_timeout


def served(region: Region, entry: Entry) -> Entry:
    """Return an entry to its reader; where it is stale, count that, and make what the reader is loading stale as well."""
    if entry.stale or region.clock.monotonic() >= entry.expires:
        region.counters.stale_served.add()
        load = _current.get()
        if load is not None:
            load.stale = True
    return entry


# -- failing origins ------------------------------------------------------------------------------


def backing_off(region: Region, local_key: Hashable) -> bool:
    """Whether the origin failed for this key a moment ago and is to be left alone."""
    failed = region.backoff.get(local_key)
    return failed is not None and region.clock.monotonic() < failed[0]


def back_off(region: Region, local_key: Hashable) -> float:
    """Leave the origin alone for a while, longer each time; returns the seconds."""
    first, longest = region.settings.retry_backoff
    _, last = region.backoff.get(local_key, (0.0, 0.0))
    delay = min(max(first, last * 2), longest)
    note(region.backoff, local_key, (region.clock.monotonic() + delay, delay))
    return delay


def failed(region: Region, address: Address, local_key: Hashable, spare: Spare, exc: Exception) -> None:
    """Note a failed load whose older value is served, so that the origin is tried again with backoff."""
    delay = back_off(region, local_key)
    logger.warning(
        "load failed, serving the older value and trying again in %.1f s: %s", delay, exc, extra={"region": region.name}
    )
    if region.memory is not None and region.memory.get(local_key) is None:
        region.insert(address, spare.entry, spare.vouched, spare.local)


# -- who refreshes -----------------------------------------------------------------------------------


def owns(region: Region, address: Address) -> bool:
    """Whether this process is the one of those that share its fills that refreshes a key first."""
    return not region.shared or region.coherence.fleet.owns(
        f"{address.region}:{encode_target(address.scope, address.key)}"
    )


def may_refresh(region: Region, address: Address, local_key: Hashable, entry: Entry) -> bool:
    """Whether this process may begin to load an entry anew that it serves meanwhile."""
    if backing_off(region, local_key):
        return False
    if owns(region, address):
        return True
    now = region.clock.monotonic()
    if not entry.stale and now < entry.expires:
        return region.overdue(entry, now)
    which = (entry.born, entry.ttl, entry.cost)  # the same whenever it is read from below
    seen, since = region.noticed.get(local_key, (None, now))
    if seen != which:
        note(region.noticed, local_key, (which, now))
        return False
    shortest, longest = HEAD_START
    return now - since >= min(max(2 * entry.cost, shortest), longest)


def note(table: dict[Hashable, T], key: Hashable, what: T) -> None:
    """Remember something of a key, and forget the oldest where there is too much."""
    while len(table) >= MOST_NOTED and key not in table:
        try:
            table.pop(next(iter(table)), None)
        except (StopIteration, RuntimeError):  # another thread changed it meanwhile
            break
    table[key] = what
