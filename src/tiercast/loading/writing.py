"""What a write does: append its key record, and store the value as born with it.

Implementation notes.
    `put` says "true as of now". `restore` says "true as of then": it stores only where no
    record that matches lies between then and its own; where that cannot be known the key is
    left empty. Both leave a fence below, so that no load that began before may come back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ..coherence.coherence import Delivery
from ..coherence.judging import Verdict
from ..coherence.log import Write
from ..coherence.records import Draft, Kind
from ..keys import decode_target, encode_target, storage_key, target_storage_key
from ..plans import Blocking, Pause, Plan
from ..region import LARGE
from ..tiers.base import Guard
from ..tiers.entry import STALE, Address, Entry, Envelope
from .finding import AT_ONCE, Found, find
from .storing import encode, put_disk

if TYPE_CHECKING:
    from ..region import Begin, Region, Ttl


BREATH = 100
"""Values that are encoded before an event loop gets its turn."""


class Position(NamedTuple):
    """Where a process stands in the log: an opaque token for `as_of`."""

    epoch: str
    position: int


@dataclass(slots=True)
class Parcel:
    """One value on its way into the tiers."""

    address: Address
    entry: Entry
    envelopes: dict[str, Envelope]


def key_draft(region: Region, addresses: Sequence[Address], *, soft: bool = False) -> Draft:
    """Return the key record of some addresses of one region."""
    return Draft(Kind.KEY, region.name, tuple([encode_target(each.scope, each.key) for each in addresses]), soft)


def put_many(
    region: Region,
    values: Mapping[Address, Any],
    ttl: Ttl,
    tags: tuple[str, ...],
    *,
    require: bool,
    as_type: Any = None,
) -> Plan[Delivery]:
    """Store values as true now, under one key record per 250; the value of the last `set` of a key wins.

    Raises:
        SerializationError: some value would not survive; then nothing is stored and nothing appended.
        DeliveryError: `require` is set and the log cannot be reached.
    """
    yield from region.coherence.started_or_away()
    begin = region.begin()
    parcels = []
    for number, (address, value) in enumerate(values.items(), 1):
        entry = region.entry(value, region.lifetime(ttl), tags, begin)
        parcels.append(Parcel(address, entry, (yield from encode(region, address, entry, begin, as_type))))
        if number % BREATH == 0:
            yield Pause(0.0)
    delivery = Delivery(begin.epoch, begin.born)
    for start in range(0, len(parcels), AT_ONCE):
        if start:
            yield Pause(0.0)
        delivery = yield from _put_some(region, parcels[start : start + AT_ONCE], begin, require=require)
    return delivery


def _put_some(region: Region, parcels: Sequence[Parcel], begin: Begin, *, require: bool) -> Plan[Delivery]:
    """Append the record of some values, and put them into every tier."""
    fence = region.coherence.settings.fence
    if sum(len(envelope.payload) for parcel in parcels for envelope in parcel.envelopes.values()) > LARGE:
        writes = yield Blocking(value_writes, region, parcels, fence)
    else:
        writes = value_writes(region, parcels, fence)
    draft = key_draft(region, [parcel.address for parcel in parcels])
    delivery = yield from region.coherence.append([draft], writes, epoch=begin.epoch, require=require)
    for _ in parcels:
        region.counters.sets.add()
    if not delivery.delivered:
        # A position of an epoch that has ended meanwhile says nothing in the present one.
        born = begin.born if begin.epoch == delivery.epoch else 0
        for parcel in parcels:
            settle_entry(parcel.entry, delivery.epoch, born)
            region.insert(parcel.address, parcel.entry, parcel.entry.born, delivery.local)
        return delivery
    yield from place(region, parcels, delivery, begin, fence, written=delivery.written)
    return delivery


def settle_entry(entry: Entry, epoch: str, position: int) -> None:
    """Give an entry the place in the log that its own record took."""
    entry.epoch, entry.born = epoch, position


def value_writes(region: Region, parcels: Sequence[Parcel], fence: float) -> list[Write]:
    """Return the L3 half of an append where the log does it in the same step."""
    remote = region.remote
    if remote is None or not region.coherence.log.atomic_writes:
        return []
    return [region.write_of(parcel.address, parcel.envelopes[remote.name], fence) for parcel in parcels]


def place(
    region: Region, parcels: Sequence[Parcel], delivery: Delivery, begin: Begin, fence: float, *, written: bool
) -> Plan[None]:
    """Put values whose record stands in the log into every tier, as born with it."""
    position = delivery.position or 0
    # Where the log was away when this began, its time is the record's own: no fence of a later record can have ended.
    guard = Guard(begun=begin.log or delivery.time, fence=fence)
    for number, parcel in enumerate(parcels, 1):
        settle_entry(parcel.entry, delivery.epoch, position)
        for tier in region.below:
            envelope = parcel.envelopes[tier.name]  # which nobody else has seen
            envelope.epoch, envelope.born = delivery.epoch, position
            if tier is region.disk:
                yield from put_disk(region, parcel.address, envelope, position, behind=written)
            elif not written:
                # A soft record after its own: who carries may have passed, and marks no more.
                if region.judge(parcel.address, envelope, position) is not Verdict.ALIVE:
                    envelope.flags |= STALE
                yield from tier.put_if_newer(parcel.address, envelope, guard)
        region.insert(parcel.address, parcel.entry, position, delivery.local)
        if number % BREATH == 0:
            yield Pause(0.0)


def restore(
    region: Region,
    address: Address,
    entry: Entry,
    since: Position,
    begin: Begin,
    *,
    require: bool = False,
    old_tags: Sequence[str] = (),
    vouched: int = 0,
    as_type: Any = None,
) -> Plan[tuple[Delivery, bool]]:
    """Store a value that was computed before its own record: only where nothing that matches came between.

    Returns:
        The delivery, and whether the value was stored; where not, the key is left empty.
    """
    envelopes = yield from encode(region, address, entry, begin, as_type)
    delivery = yield from bury(region, [address], require=require)
    if not delivery.delivered:
        return delivery, False
    ledger = region.ledger
    tags = tuple({*entry.tags, *old_tags})
    with ledger.lock:
        clean = since.epoch == delivery.epoch and not ledger.matches_between(
            region.name, address.scope, address.key, tags, since.epoch, since.position, delivery.position or 0,
            vouched=vouched,
        )  # fmt: skip
    if not clean:
        region.counters.fills_refused.add()
        return delivery, False
    yield from place(region, [Parcel(address, entry, envelopes)], delivery, begin, 0.0, written=False)
    return delivery, True


def bury(region: Region, addresses: Sequence[Address], *, soft: bool = False, require: bool = False) -> Plan[Delivery]:
    """Invalidate keys: append their record, and leave fences in L3."""
    remote, coherence = region.remote, region.coherence
    fence = region.coherence.settings.fence
    atomic = remote is not None and coherence.log.atomic_writes and not soft
    draft = key_draft(region, addresses, soft=soft)
    writes = [_burial(target_storage_key(region.name, target), fence) for target in draft.targets] if atomic else []
    delivery = yield from coherence.append([draft], writes, require=require)
    if delivery.delivered and not delivery.written and remote is not None and not soft:
        for address in addresses:
            yield from remote.bury(address, delivery.epoch, delivery.position or 0, fence)
    return delivery


def since_of(as_of: Any) -> Position:
    """Return what `position()` gave.

    Raises:
        TypeError: it is no position.
    """
    match as_of:
        case (str(epoch), int(position)):
            return Position(epoch, position)
    message = f"as_of must be what position() returned before the value was read, not {as_of!r}"
    raise TypeError(message)


def newest(region: Region, address: Address) -> Plan[Found]:
    """Find the live entry of an address wherever it lies: memory first, then below, without loading."""
    proven = yield from region.coherence.prove()
    with region.ledger.lock:
        applied = region.ledger.applied
        entry, _ = region.look(region.local_key(address), address, proven=proven)
    if entry is not None and not entry.stale and region.clock.monotonic() < entry.expires:
        # Memory vouches up to what was applied: key records take their keys out of it at once.
        return Found(entry, applied)
    return (yield from find(region, address, proven=proven, peek=True))


def retag(
    region: Region,
    address: Address,
    *,
    add: tuple[str, ...] = (),
    lifetime: float | None = None,
    require: bool = False,
) -> Plan[tuple[Delivery | None, bool]]:
    """Give the entry that stands more tags, or another lifetime, in every tier of every process.

    A restore since the entry's own `born`: it never revives what died meanwhile. Returns
    (None, False) where there is no entry.
    """
    found = yield from newest(region, address)
    begin = region.begin()
    standing = found.entry
    if standing is None:
        return None, False
    now = region.clock.monotonic()
    tags = tuple(sorted({*standing.tags, *add}))
    last = standing.begun + region.settings.max_lifetime
    expires = standing.expires if lifetime is None else min(now + lifetime, last)
    entry = region.entry_type(
        standing.value,
        standing.epoch,
        standing.born,
        standing.begun,
        expires,
        min(expires + region.settings.grace, last),
        standing.ttl if lifetime is None else lifetime,
        standing.cost,
        tags,
        standing.own,
    )
    since = Position(standing.epoch, standing.born)
    return (
        yield from restore(
            region, address, entry, since, begin, require=require, old_tags=standing.tags, vouched=found.vouched
        )
    )


def burials(drafts: Sequence[Draft], fence: float) -> list[Write]:
    """Return the L3 half of key records whose values are gone: fences."""
    return [
        _burial(storage_key(draft.region, *decode_target(target)), fence)
        for draft in drafts
        if draft.kind is Kind.KEY and not draft.soft
        for target in draft.targets
    ]


def _burial(key: str, fence: float) -> Write:
    return Write(key, None, 0, round(fence * 1000))
