"""Removing entries physically, from memory and from the tiers below, and counting them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .coherence.judging import Verdict
from .loading.finding import BREATH
from .parts import Parts
from .plans import Blocking, Pause, Plan
from .tiers.entry import Address

if TYPE_CHECKING:
    from .tiers.base import Tier

SCAN_PAUSES = (0.05, 0.2)
"""Seconds before a step of a walk that got no answer is tried again: one slow answer is no reason to give up."""

STARTS = 3
"""Attempts to start before what is dead is counted: one slow answer is no reason to count what was dead before."""


class Removing(Parts):
    """The part of the runtime that walks the tiers to remove what is dead, or what somebody names."""

    def sweep(self) -> int:
        """Remove from memory what is past its end or dead; returns how many entries."""
        removed = 0
        for region in self._regions.values():
            if region.memory is not None:
                removed += region.sweep()
        return removed

    def flush(self) -> Plan[None]:
        """Have the host's disks write what was left for later."""
        for disk in self._disks.values():
            if (flush := getattr(disk, "flush", None)) is not None:
                yield from flush()

    def drop_dead(self) -> Plan[tuple[int, int]]:
        """Remove what is dead from memory and from this host's disk.

        Returns:
            How many entries records have dropped from memory so far, and how many were removed from disk now.
        """
        for _ in range(STARTS):  # who knows no record yet takes nothing for dead
            yield from self.coherence.started_or_away()
        yield from self.flush()
        yield Blocking(self.sweep)
        on_disk = 0
        for disk in self._disks.values():
            on_disk += (yield from self._remove_where(disk, self._is_dead))[0]
        return sum(region.counters.invalidated.value for region in self._regions.values()), on_disk

    def _is_dead(self, address: Address, envelope: Any) -> bool:
        with self.ledger.lock:
            verdict = self.ledger.judge(
                address.region, address.scope, address.key, envelope.epoch, envelope.born, envelope.tags,
                self.ledger.applied,
            )  # fmt: skip
        return verdict is Verdict.DEAD

    def _remove_where(self, tier: Tier, wanted: Callable[[Address, Any], bool]) -> Plan[tuple[int, bool]]:
        """Remove what is wanted from a tier; returns how many, and whether all of it could be walked."""
        epoch, _ = self.coherence.position()
        cursor = count = 0
        pauses = iter(SCAN_PAUSES)
        while True:
            following, rows = yield from tier.scan(epoch, cursor)
            addresses = []
            for number, (address, envelope) in enumerate(rows):
                if number % BREATH == 0 and number:
                    yield Pause(0.0)
                if wanted(address, envelope):
                    addresses.append(address)
            if addresses:
                count += yield from tier.remove(addresses, epoch)
            if following == 0:
                return count, True
            if following > 0:
                cursor = following
            elif (pause := next(pauses, None)) is None:  # a tier that cannot be reached
                return count, False
            else:
                yield Pause(pause)

    def holding(self, address: Address) -> Plan[dict[str, int]]:
        """Return in how many stores of each tier there is an entry under an address."""
        yield from self.coherence.started_or_away()
        region, counts = self._regions.get(address.region), {"local": 0}
        if region is not None and region.memory is not None:
            counts["local"] = int(region.memory.get(region.local_key(address)) is not None)
        counts["disk"] = yield from self.on_disk((address,))
        if self.remote is not None:
            reading = yield from self.remote.get_many((address,), self.coherence.position()[0])
            counts["remote"] = len(reading.found)
        return counts

    def on_disk(self, addresses: Sequence[Address]) -> Plan[int]:
        """Return how many entries of some addresses this host's disks hold."""
        epoch, _ = self.coherence.position()
        count = 0
        for disk in self._disks.values():
            count += len((yield from disk.get_many(addresses, epoch)).found)
        return count

    def remove_matching(
        self, matches: Callable[[Address, tuple[str, ...]], bool]
    ) -> Plan[tuple[dict[str, int], list[str]]]:
        """Remove physically what matches; returns the counts per tier, and the tiers that could not be walked whole."""
        counts: dict[str, int] = {}
        missed: list[str] = []
        memories = [region for region in self._regions.values() if region.memory is not None]
        if memories:
            counts["local"] = yield Blocking(lambda: sum(region.remove_matching(matches) for region in memories))
        tiers: list[tuple[str, Tier]] = [("disk", disk) for disk in self._disks.values()]
        if self.remote is not None:
            tiers.append(("remote", self.remote))
        for name, tier in tiers:
            count, whole = yield from self._remove_where(tier, lambda at, seen: matches(at, seen.tags))
            counts[name] = counts.get(name, 0) + count
            if not whole:
                missed.append(name)
        return counts, missed
