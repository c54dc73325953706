"""Looking into the tiers below memory: what they have is judged, promoted, or kept as a spare.

Implementation notes.
    A copy promoted from a lower tier keeps the envelope's `born`. How far a tier vouches for
    key records is read before, or with, the row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..plans import Blocking, Pause, Plan
from ..region import LARGE, State
from ..tiers.entry import Address, Entry, Envelope
from .stale import Spare
from .storing import put_disk

if TYPE_CHECKING:
    from ..region import Region
    from ..tiers.base import Tier
    from .residents import Arrival

AT_ONCE = 250
"""Addresses that one request asks a tier for."""
BREATH = 100
"""Entries that are decoded and promoted before an event loop gets its turn."""
LARGE_COMPRESSED = LARGE // 16
"""Compressed bytes above which decoding leaves the event loop."""


@dataclass(slots=True)
class Found:
    """What was found: a fresh entry and how far it is vouched for (see `Spare`), or a spare."""

    entry: Entry | None = None
    vouched: int = 0
    spare: Spare | None = None
    local: int = 0


def find(
    region: Region,
    address: Address,
    *,
    proven: bool,
    as_type: Any = None,
    fresher: Entry | None = None,
    peek: bool = False,
) -> Plan[Found]:
    """Look into the tiers below, judge what they have, and promote it with what is left of its life.

    Args:
        region: the region.
        address: what to look for.
        proven: whether memory is proven now.
        as_type: the declared type of the value.
        fresher: only what has a later deadline than this entry, or was born later, counts.
        peek: the value is not wanted: it is no read, so nothing is counted and no life renewed.
    """
    coherence, ledger = region.coherence, region.ledger
    spare: Spare | None = None
    for tier in region.below if proven or coherence.settings.on_outage == "serve" else ():
        if tier is region.remote and not proven:
            continue
        with ledger.lock:
            epoch, carried = ledger.epoch, coherence.carried
        get_now = getattr(tier, "get_now", None)
        reading = None if get_now is None else get_now(address, epoch)
        if reading is None:
            reading = yield from tier.get_many((address,), epoch)
        envelope = reading.found.get(address)
        if envelope is None:
            continue
        vouched = vouched_by(reading.vouched, epoch, carried)
        arrival: Arrival | None
        if is_large(envelope):
            arrival = yield Blocking(region.revive_one, tier.name, address, envelope, as_type)
        else:
            arrival = region.revive_one(tier.name, address, envelope, as_type)
        newer = arrival is not None and (fresher is None or is_fresher(arrival[1], fresher))
        if arrival is None or not newer or not region.take_in((arrival,), vouched):
            continue
        _, entry, _ = arrival
        if entry.stale or region.clock.monotonic() >= entry.expires:
            if spare is None or entry.expires > spare.entry.expires:
                spare = Spare(entry, vouched, proven)
            continue
        if not peek:
            region.found_below(tier, (address,))
        if tier is region.remote and region.disk is not None:
            yield from put_disk(region, address, envelope, vouched, behind=True)
        if region.sliding and not peek:
            yield from slide(region, address, entry)
        return Found(entry, vouched)
    return Found(spare=spare)


def is_fresher(entry: Entry, than: Entry) -> bool:
    """Whether an entry is a newer fill than another; deadlines that crossed the wall clock may be off by milliseconds."""
    return entry.born > than.born or than.stale or entry.expires > than.expires + min(0.05, than.ttl / 100)


def find_many(region: Region, addresses: Sequence[Address], *, promote: bool = True) -> Plan[dict[Address, Entry]]:
    """Find the fresh entries of several addresses, in one round trip per tier and 250 of them."""
    proven = yield from region.coherence.prove()
    found: dict[Address, Entry] = {}
    for start in range(0, len(addresses), AT_ONCE):
        if len(addresses) > AT_ONCE:
            yield Pause(0.0)
        yield from _find_some(region, addresses[start : start + AT_ONCE], found, proven=proven, promote=promote)
    return found


def _find_some(
    region: Region, addresses: Sequence[Address], found: dict[Address, Entry], *, proven: bool, promote: bool
) -> Plan[None]:
    sought = len(found) + len(addresses)
    missing: list[Address] = []
    held = () if region.memory is None else region.memory.entries
    local_key_of = region.local_key
    for address in addresses:
        local_key = local_key_of(address)
        if local_key not in held:
            missing.append(address)
            continue
        entry, state = region.look(local_key, address, proven=proven)
        if entry is not None and state in (State.FRESH, State.DUE):
            if promote:  # a `delete` is no lookup, and is not counted as one
                region.counters.hits.add()
                region.touch(local_key, entry)
            found[address] = entry
        else:
            missing.append(address)
    for tier in region.below if proven else ():
        if missing:
            yield from _find_in(region, tier, missing, found, promote=promote)
            missing = [address for address in missing if address not in found] if len(found) < sought else []
    for address in missing if promote else ():
        region.missed(address)


def _find_in(
    region: Region, tier: Tier, missing: Sequence[Address], found: dict[Address, Entry], *, promote: bool
) -> Plan[None]:
    with region.ledger.lock:
        epoch, carried = region.ledger.epoch, region.coherence.carried
    reading = yield from tier.get_many(missing, epoch)
    vouched = vouched_by(reading.vouched, epoch, carried)
    envelopes = list(reading.found.items())
    for start in range(0, len(envelopes), BREATH):
        if len(envelopes) > BREATH:  # reading them was a stretch of its own
            yield Pause(0.0)
        some = envelopes[start : start + BREATH]
        large = any(is_large(envelope) for _, envelope in some)
        arrivals: list[Arrival] = (
            (yield Blocking(region.revive, tier.name, some)) if large else region.revive(tier.name, some)
        )
        if not promote:
            arrivals = [(address, entry, False) for address, entry, _ in arrivals]
        now = region.clock.monotonic()
        fresh = [
            (address, entry)
            for address, entry, _ in region.take_in(arrivals, vouched)
            if not entry.stale and now < entry.expires
        ]
        found.update(fresh)
        if promote:
            region.found_below(tier, [address for address, _ in fresh])
            if tier is region.remote and region.disk is not None:
                for address, _ in fresh:
                    yield from put_disk(region, address, reading.found[address], vouched, behind=True)


def vouched_by(pair: tuple[str, int] | None, epoch: str, carried: int) -> int:
    """Return the position up to which a tier vouches for key records: its own, or what was carried to L3."""
    if pair is None:
        return carried
    return pair[1] if pair[0] == epoch else 0


def is_large(envelope: Envelope) -> bool:
    """Whether decoding an envelope's value may take long enough to hold up an event loop."""
    return len(envelope.payload) > (LARGE_COMPRESSED if envelope.compressed else LARGE)


def slide(region: Region, address: Address, entry: Entry) -> Plan[None]:
    """Renew a sliding entry: in memory freely, below at most once per tenth of its TTL."""
    if entry.ttl == math.inf:
        return
    now = region.clock.monotonic()
    last = entry.begun + region.settings.max_lifetime
    if region.cap is not None and not region.below:
        last = min(last, entry.begun + region.cap)
    expires = min(now + entry.ttl, last)
    if expires - entry.expires < entry.ttl / 10:
        return
    grace = region.settings.grace
    entry.end_at(expires, min(expires + grace, last))
    region.schedule_look(entry, now)
    wall = region.clock.wall()
    for tier in region.below:
        epoch, _ = region.coherence.position()
        reading = yield from tier.get_many((address,), epoch)
        seen = reading.found.get(address)
        if seen is not None and seen.born == entry.born and seen.epoch == entry.epoch:
            renewed = replace(seen, fresh_until=wall + expires - now, keep_until=wall + entry.keep - now)
            yield from tier.renew(address, seen, renewed)
