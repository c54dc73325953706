"""Storing a fill: encoded for each tier, refused where it lost a race."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..coherence.judging import Verdict
from ..coherence.log import LogUnavailable
from ..plans import Blocking, Plan
from ..region import LARGE
from ..tiers.base import Guard, Put
from ..tiers.entry import STALE

if TYPE_CHECKING:
    from ..region import Begin, Region
    from ..tiers.entry import Address, Entry, Envelope


def store(region: Region, address: Address, entry: Entry, begin: Begin, as_type: Any = None) -> Plan[bool]:
    """Store a fill in every tier, from the lowest up, unless it lost a race; False where it did."""
    if recently_invalidated(region, address, entry.tags, begin):
        region.counters.fills_refused.add()
        return False
    envelopes = yield from encode(region, address, entry, begin, as_type)
    proven = region.coherence.proven()
    verdict = region.judge(address, entry, entry.born) if envelopes and proven else None
    if verdict is Verdict.STALE:  # since the load began: it is stale for whoever finds it, too
        for envelope in envelopes.values():
            envelope.flags |= STALE
    if region.remote is not None and proven:
        if verdict in (Verdict.DEAD, Verdict.UNKNOWN):
            region.counters.fills_refused.add()
            return False
        put = yield from region.remote.put_if_newer(address, envelopes[region.remote.name], Guard(begun=begin.log))
        if put in (Put.NEWER, Put.LATE):
            region.counters.fills_refused.add()
            return False
    if region.disk is not None and proven:
        yield from put_disk(region, address, envelopes[region.disk.name], entry.born)
    if region.insert(address, entry, entry.born, begin.local) or region.memory is None:
        region.counters.fills.add()
        region.watch.filled(address)
        return True
    return False


def recently_invalidated(region: Region, address: Address, tags: Sequence[str], begin: Begin) -> bool:
    """Whether the load began within `origin_lag` after an invalidation of what it loaded."""
    if begin.settled >= begin.born:
        return False
    with region.ledger.lock:
        return region.ledger.matches_between(
            region.name,
            address.scope,
            address.key,
            tuple(tags),
            begin.epoch,
            begin.settled,
            begin.settled,  # a load has no record of its own: none after that is left out
            vouched=begin.born,
        )


def encode(
    region: Region, address: Address, entry: Entry, begin: Begin, as_type: Any = None
) -> Plan[dict[str, Envelope]]:
    """Make what each tier below will store; one that has none below costs nothing.

    In a region that copies, the entry gets a copy: whoever set the value, or loaded it, may change theirs.
    """
    if region.copies:
        entry.value = yield from handed_out(region, entry)
    if region.strict is not None:
        region.strict.check(entry.value, as_type)
    envelopes: dict[str, Envelope] = {}
    large = bool(region.below) and region.looks_large(entry.value)
    for tier in region.below:
        if large:
            envelopes[tier.name] = yield Blocking(region.envelope, tier.name, entry, begin, address, as_type)
        else:
            envelopes[tier.name] = region.envelope(tier.name, entry, begin, address, as_type)
    return envelopes


def handed_out(region: Region, entry: Entry) -> Plan[Any]:
    """Return an entry's value as the region hands values out; copying a large one holds up no loop."""
    if region.copies and region.looks_large(entry.value):
        return (yield Blocking(region.hand_out, entry))
    return region.hand_out(entry)


def put_disk(region: Region, address: Address, envelope: Envelope, vouched: int, *, behind: bool = False) -> Plan[None]:
    """Put into L2; one that is refused because this process is behind catches up and tries once more.

    `behind`: L3 has it already, so it may be written in the background, where the tier can do that.
    """
    disk, ledger, coherence = region.disk, region.ledger, region.coherence
    if disk is None:
        return

    def admit(pair: tuple[str, int]) -> bool:
        with ledger.lock:
            if not ledger.epoch == envelope.epoch == pair[0] or ledger.applied < pair[1]:
                return False
            verdict = region.judge(address, envelope, vouched)
            # The tier has applied the record that made it stale, and will not mark it any more.
            return verdict is Verdict.ALIVE or (verdict is Verdict.STALE and bool(envelope.flags & STALE))

    guard = Guard(admit=admit)
    if behind and len(envelope.payload) <= LARGE:
        put_later = getattr(disk, "put_later", None)
        if put_later is not None and put_later(address, envelope, guard):
            coherence.wake()
            return
    if (yield from disk.put_if_newer(address, envelope, guard)) is Put.BEHIND:
        try:
            yield from coherence.catch_up()
            yield from coherence.follow_stores()
        except LogUnavailable:
            return
        yield from disk.put_if_newer(address, envelope, guard)
