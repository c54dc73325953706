"""Looking at one key: what each tier holds of it, whether it lives, and by which record it does not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..coherence.causes import Cause, cause_of, matching
from ..coherence.records import Kind, Record
from ..plans import Plan
from ..tiers.entry import STALE, TOMBSTONE, Address, Envelope
from ..tiers.envelope import EnvelopeError, peek, unpack

if TYPE_CHECKING:
    from ..runtime import Runtime


@dataclass(frozen=True, slots=True)
class Holding:
    """What one tier holds of a key.

    Attributes:
        tier: "disk" or "remote". state: "alive", "stale", "dead", "expired", "tombstone", "absent", "unreadable",
            or "failed" where the tier does not answer.
        born: of the entry, or of the tombstone; None where there is neither.
        envelope: the entry; None where there is none.
        fence: seconds for which nothing older may come back; 0 for none.
        killer: why it is dead, stale or buried. origin: who appended that record, and sent: when (seconds since 1970).
    """

    tier: str
    state: str
    born: int | None = None
    envelope: Envelope | None = None
    fence: float = 0.0
    killer: Cause | None = None
    origin: str = ""
    sent: float = 0.0


def inspect(runtime: Runtime, address: Address) -> Plan[list[Holding]]:
    """Look into the tiers that processes share; memory of other processes cannot be seen.

    Raises:
        LogUnavailable: the log cannot be reached, so that nothing can be said.
    """
    yield from runtime.coherence.beat()
    region = runtime.region(address.region)
    epoch, _ = runtime.coherence.position()
    found = []
    if region.disk is not None:
        reading = yield from region.disk.get_many((address,), epoch)
        envelope = reading.found.get(address)
        if envelope is None:
            state = "failed" if reading.failed else "unreadable" if reading.corrupt else "absent"
            found.append(Holding("disk", state))
        else:
            found.append((yield from _judged(runtime, address, "disk", envelope, 0.0)))
    if region.remote is not None:
        found.append((yield from _remote(runtime, address, epoch)))
    return found


def _remote(runtime: Runtime, address: Address, epoch: str) -> Plan[Holding]:
    connections, remote = runtime.connections, runtime.remote
    if connections is None:
        assert remote is not None
        reading = yield from remote.get_many((address,), epoch)
        envelope = reading.found.get(address)
        if envelope is None:
            return Holding("remote", "failed" if reading.failed else "absent")
        return (yield from _judged(runtime, address, "remote", envelope, 0.0))
    from ..connections import Unavailable

    try:
        (blob,) = yield connections.commands(("GET", remote.key_of(address, epoch)))  # type: ignore[union-attr]
    except Unavailable:
        return Holding("remote", "failed")
    if not isinstance(blob, bytes):
        return Holding("remote", "absent" if blob is None else "failed")
    try:
        head = peek(blob)
        fence = max(0.0, head.fence / 1000 - runtime.coherence.log_time)
        if head.flags & TOMBSTONE:
            return (yield from _buried(runtime, address, epoch, head.born, fence))
        return (yield from _judged(runtime, address, "remote", unpack(blob), fence))
    except EnvelopeError:
        return Holding("remote", "unreadable")


def _buried(runtime: Runtime, address: Address, epoch: str, born: int, fence: float) -> Plan[Holding]:
    """A tombstone is born at the record that killed what stood there."""
    tail = yield from runtime.log.read((epoch, born - 1))
    if tail.records and tail.head.epoch == epoch and tail.records[0].position == born:
        record = tail.records[0]
        return Holding("remote", "tombstone", born, None, fence, _cause(record, address), record.origin, record.sent)
    return Holding("remote", "tombstone", born, fence=fence)


def _cause(record: Record, address: Address) -> Cause:
    target = address.key if record.kind is Kind.KEY else ", ".join(record.targets[:3])
    return Cause(record.kind.value, record.position, target, record.soft)


def _judged(runtime: Runtime, address: Address, tier: str, envelope: Envelope, fence: float) -> Plan[Holding]:
    if runtime.clock.wall() >= envelope.keep_until:
        return Holding(tier, "expired", envelope.born, envelope, fence)
    tail = yield from runtime.log.read((envelope.epoch, envelope.born))
    record = None
    if tail.records is not None and tail.head.epoch == envelope.epoch:
        records = sorted(tail.records, key=lambda record: record.soft)  # one that kills before one that marks
        record = matching(records, *address, envelope.tags)
    if record is not None:
        killer: Cause | None = _cause(record, address)
    else:
        ledger = runtime.ledger
        with ledger.lock:
            killer = cause_of(ledger, *address, envelope.epoch, envelope.born, envelope.tags)
    if killer is not None:
        state = "stale" if killer.soft else "dead"
    else:
        past = envelope.flags & STALE or runtime.clock.wall() >= envelope.fresh_until
        state = "stale" if past else "alive"
    origin, sent = (record.origin, record.sent) if record is not None else ("", 0.0)
    return Holding(tier, state, envelope.born, envelope, fence, killer, origin, sent)
