"""The self-audit: a few of the entries that memory serves are compared with L3, in the background.

Implementation notes.
    The audit shares nothing with what it checks: it takes what memory would serve at this
    moment, asks L3 what stands there, and where that is newer (a value or a tombstone with
    a greater `born`) it reads the log itself. Only a record in the log that matches the
    entry, later than its `born` and no later than what this process had applied when it
    would have served the entry, is a disagreement. A newer value alone is none: another
    process may have loaded the same answer later. What disagrees is counted, logged, and
    taken out of memory.
    What is looked at is chosen from the end of the memory where the last hits are, as many
    as the rate asks of the hits since the last look; the hit path knows nothing of it.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from ..coherence.causes import matching
from ..coherence.log import LogUnavailable
from ..monitoring.counter import Counter
from ..plans import Plan
from ..tiers.entry import TOMBSTONE, Address, Entry
from ..tiers.envelope import EnvelopeError, peek

if TYPE_CHECKING:
    from ..region import Region
    from ..runtime import Runtime

logger = logging.getLogger("tiercast.monitoring")

MOST = 50
"""Entries that one look compares at the most."""
LATEST = 500
"""How far from the newest end entries are chosen."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """An entry that memory would have served: its address, and where this process stood at that moment."""

    region: Region
    address: Address
    entry: Entry
    epoch: str
    applied: int


class Audit:
    """Compares what memory serves with L3. Its `look` is for one thread at a time."""

    def __init__(self, runtime: Runtime, rate: float) -> None:
        self._runtime = runtime
        self._rate = rate
        self._owed = 0.0
        self._hits: dict[str, int] = {}
        self._rng = random.Random()
        self.compared = Counter()
        """Entries that were compared."""
        self.newer = Counter()
        """Of them, those for which L3 holds something newer; the log was then asked."""
        self.unknown = Counter()
        """Of these, those for which the log reaches back no more."""
        self.stale = Counter()
        """Entries that memory served although the log says that they were dead: there should never be one."""

    def look(self) -> Plan[None]:
        """Compare some of what is served now."""
        from ..connections import Unavailable  # only where there is a Redis to ask

        suspects = self._choose()
        connections = self._runtime.connections
        if not suspects or connections is None:
            return
        remote = self._runtime.remote
        names = [remote.key_of(suspect.address, suspect.epoch) for suspect in suspects]  # type: ignore[union-attr]
        try:
            blobs = yield connections.commands(*(("GETRANGE", name, 0, 67) for name in names))
        except Unavailable:
            return
        for suspect, blob in zip(suspects, blobs, strict=True):
            if isinstance(blob, bytes):
                self.compared.add()
                yield from self._compare(suspect, blob)

    def _choose(self) -> list[Suspect]:
        suspects: list[Suspect] = []
        for region in self._runtime.regions():
            hits = region.counters.hits.value
            new = hits - self._hits.get(region.name, 0)
            self._hits[region.name] = hits
            if region.remote is None or not new:
                continue
            self._owed = min(self._owed + new * self._rate, float(MOST))
            wanted = int(self._owed)
            if wanted:
                self._owed -= wanted
                suspects += self._serving(region, wanted)
        return suspects[:MOST]

    def _serving(self, region: Region, wanted: int) -> list[Suspect]:
        """Return entries that a hit would serve at this moment."""
        ledger = region.ledger
        with ledger.lock:
            try:
                latest = list(islice(newest_first(region), LATEST))
            except RuntimeError:  # a reader moved one: there is a next time
                return []
            now = region.clock.monotonic()
            if now >= ledger.proven_until or region.heads[0] != ledger.head_word:
                return []
            served = [
                Suspect(region, region.address(local_key), entry, ledger.epoch, ledger.applied)
                for local_key, entry in latest
                if now < entry.fresh_until and entry.checked is region.view.checkpoint and not ledger.waiting_keys
            ]
        return self._rng.sample(served, min(wanted, len(served)))

    def _compare(self, suspect: Suspect, blob: bytes) -> Plan[None]:
        entry = suspect.entry
        try:
            head = peek(blob)
        except EnvelopeError:
            return
        if head.born <= entry.born or entry.epoch != suspect.epoch:
            return
        self.newer.add()
        try:
            tail = yield from self._runtime.log.read((suspect.epoch, entry.born))
        except LogUnavailable:
            return
        if tail.records is None or tail.head.epoch != suspect.epoch:
            self.unknown.add()
            return
        region, scope, key = suspect.address
        known = (record for record in tail.records if record.position <= suspect.applied)
        record = matching(known, region, scope, key, entry.tags)
        if record is None:
            return
        self.stale.add()
        with suspect.region.ledger.lock:  # whatever went wrong, it is served no more
            suspect.region.drop_key(suspect.region.local_key(suspect.address), record.position, soft=record.soft)
        logger.error(
            "memory served %r although record %d (%s) had killed it; it was born at %d",
            key, record.position, record.kind.value, entry.born,
            extra={
                "region": region, "scope": scope, "key": key, "position": record.position, "born": entry.born,
                "applied": suspect.applied, "remote_born": head.born, "tombstone": bool(head.flags & TOMBSTONE),
            },
        )  # fmt: skip


def newest_first(region: Region) -> Iterator[tuple[Hashable, Entry]]:
    """Yield memory's entries, those used or inserted last before the others."""
    memory = region.memory
    if memory is None:
        return
    entries = memory.entries
    for local_key in reversed(entries):
        entry = dict.get(entries, local_key) if isinstance(entries, dict) else entries.get(local_key)
        if entry is not None:
            yield local_key, entry
