"""The miss plan: what a read does after memory could not answer.

Implementation notes.
    `read` looks into memory once more (judging what the hit path would not), then `fetch`
    joins or leads the key's flight; the leader runs `produce`: the tiers below, the lease,
    the loader, and `store`. A value that lost a race is handed to its caller and stored
    nowhere. Whoever waited for a flight judges its entry as a hit of its own; one that it
    fails leads a load of its own, once.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ..coherence.judging import Verdict
from ..coherence.log import LogUnavailable
from ..config import DEFAULT
from ..errors import LoadTimeout
from ..plans import Blocking, Plan
from ..region import LARGE, MISS, Missing, State, Ttl, tags_of
from ..tiers.base import Guard, Put
from ..tiers.entry import TYPED
from .context import NOT_MODIFIED, LoadContext
from .flights import ABANDONED, AwaitFlight, Failure, Flight, Join, leading
from .loads import Load
from .workers import Spawn

if TYPE_CHECKING:
    from ..region import Begin, Region
    from ..tiers.base import Tier
    from ..tiers.entry import Address, Entry, Envelope

logger = logging.getLogger("tiercast.loading")


@dataclass(frozen=True, slots=True)
class Want:
    """What a caller of `get_or_set` wants.

    Attributes:
        loader: callable without arguments, sync or async. ttl, tags: of what it returns.
        as_type: the declared type that values from below are restored to.
        lock_ttl: seconds after which another process may load instead; None: the region's.
        force: load anew whatever is cached.
    """

    loader: Callable[[], Any]
    ttl: Ttl = DEFAULT
    tags: tuple[str, ...] = ()
    as_type: Any = None
    lock_ttl: float | None = None
    force: bool = False


@dataclass(slots=True)
class Found:
    """What the tiers below had: a fresh entry, or one that grace may serve; and how far its tier vouches for it."""

    entry: Entry | None = None
    vouched: int = 0
    stale: Entry | None = None


def read(region: Region, address: Address, want: Want | None = None) -> Plan[Entry | Missing]:
    """Find, or with `want` load, the entry of an address; MISS where there is none."""
    proven = yield from region.coherence.prove()
    local_key = region.local_key(address)
    if want is not None and want.force:
        return (yield from fetch(region, address, local_key, want, None, proven=proven))
    entry, state = region.look(local_key, address, proven=proven)
    if entry is not None and (state is State.FRESH or (state is State.DUE and want is None)):
        region.counters.hits.add()
        region.touch(local_key, entry)
        if region.sliding:
            yield from slide(region, address, entry)
        return entry
    if entry is not None and state is State.DUE and want is not None:
        region.counters.hits.add()
        yield from refresh_behind(region, address, local_key, want, entry)
        return entry
    if want is not None:
        return (yield from fetch(region, address, local_key, want, entry, proven=proven))
    found = yield from find(region, address, proven=proven)
    if found.entry is None:
        region.counters.misses.add()
        return MISS
    return found.entry


def find(region: Region, address: Address, *, proven: bool, as_type: Any = None) -> Plan[Found]:
    """Look into the tiers below, judge what they have, and promote it with what is left of its life."""
    result = Found()
    coherence, ledger = region.coherence, region.ledger
    if not proven and coherence.settings.on_outage != "serve":
        return result
    for tier in region.below:
        if tier is region.remote and not proven:
            continue
        with ledger.lock:
            epoch, carried = ledger.epoch, coherence.carried
        reading = yield from tier.get_many((address,), epoch)
        envelope = reading.found.get(address)
        if envelope is None:
            continue
        vouched = vouched_by(reading.vouched, epoch, carried)
        entry = yield from judged(region, tier, address, envelope, vouched, as_type)
        if entry is None:
            continue
        if entry.stale or region.clock.monotonic() >= entry.expires:
            result.stale = result.stale or entry
            continue
        (region.counters.disk_hits if tier is region.disk else region.counters.remote_hits).add()
        if tier is region.remote and region.disk is not None:
            yield from put_disk(region, address, envelope, vouched)
        if as_type is not None or not envelope.flags & TYPED:
            region.insert(address, entry, vouched)
        if region.sliding:
            yield from slide(region, address, entry)
        result.entry, result.vouched = entry, vouched
        return result
    return result


def find_many(region: Region, addresses: Sequence[Address], *, promote: bool = True) -> Plan[dict[Address, Entry]]:
    """Find the fresh entries of several addresses, in one round trip per tier."""
    proven = yield from region.coherence.prove()
    found: dict[Address, Entry] = {}
    missing: list[Address] = []
    for address in addresses:
        local_key = region.local_key(address)
        entry, state = region.look(local_key, address, proven=proven)
        if entry is not None and state in (State.FRESH, State.DUE):
            region.counters.hits.add()
            region.touch(local_key, entry)
            found[address] = entry
        else:
            missing.append(address)
    for tier in region.below if proven else ():
        if not missing:
            break
        with region.ledger.lock:
            epoch, carried = region.ledger.epoch, region.coherence.carried
        reading = yield from tier.get_many(missing, epoch)
        vouched = vouched_by(reading.vouched, epoch, carried)
        for address, envelope in reading.found.items():
            entry = yield from judged(region, tier, address, envelope, vouched, None)
            if entry is None or entry.stale or region.clock.monotonic() >= entry.expires:
                continue
            (region.counters.disk_hits if tier is region.disk else region.counters.remote_hits).add()
            found[address] = entry
            if promote:
                if tier is region.remote and region.disk is not None:
                    yield from put_disk(region, address, envelope, vouched)
                if not envelope.flags & TYPED:
                    region.insert(address, entry, vouched)
        missing = [address for address in missing if address not in found]
    for _ in missing:
        region.counters.misses.add()
    return found


def vouched_by(pair: tuple[str, int] | None, epoch: str, carried: int) -> int:
    """Return the position up to which a tier vouches for key records: its own, or what was carried to L3."""
    if pair is None:
        return carried
    return pair[1] if pair[0] == epoch else 0


def judged(
    region: Region, tier: Tier, address: Address, envelope: Envelope, vouched: int, as_type: Any
) -> Plan[Entry | None]:
    """Return the entry of an envelope that the ledger lets live, `stale` set where it is marked; None for the rest."""
    verdict = region.judge(address, envelope, vouched)
    if verdict in (Verdict.DEAD, Verdict.UNKNOWN):
        return None
    if len(envelope.payload) > LARGE:
        entry = yield Blocking(region.revive, tier.name, envelope, as_type)
    else:
        entry = region.revive(tier.name, envelope, as_type)
    if entry is None or region.clock.monotonic() >= entry.keep:
        return None
    if verdict is Verdict.STALE:
        entry.stale = True
    return entry  # type: ignore[no-any-return]


def fetch(
    region: Region, address: Address, local_key: Hashable, want: Want, stale: Entry | None, *, proven: bool
) -> Plan[Entry]:
    """Get the entry by the key's one flight; `stale` is what may be served where that is slow or fails."""
    settings = region.settings
    if stale is not None and not want.force and backing_off(region, local_key):
        region.counters.stale_served.add()
        return stale
    bounded = stale is not None and soft_limit(region, stale) is not None
    behind = bounded or settings.hard_timeout is not None
    for _ in (0, 1):
        flight, leads = yield Join(region.flights, address)
        if leads and behind:
            accepted = yield Spawn(
                region.workers,
                partial(
                    lead, region, flight, address, local_key, want, stale, proven=proven, quiet=True, detached=bounded
                ),
            )
            leads = not accepted
        if leads:
            return (yield from lead(region, flight, address, local_key, want, stale, proven=proven))
        region.counters.waits.add()
        outcome = yield from wait(region, flight, stale)
        if outcome is ABANDONED:
            continue
        if isinstance(outcome, Failure):
            raise outcome.error
        entry, vouched = outcome
        if entry is stale or serves(region, address, entry, vouched):
            return entry  # type: ignore[no-any-return]
    return (yield from lead(region, Flight(address, None), address, local_key, want, stale, proven=proven))


def soft_limit(region: Region, stale: Entry) -> float | None:
    """Return how long a load may take before the stale entry is served: at once where a soft record marked it."""
    return 0.0 if stale.stale else region.settings.soft_timeout


def wait(region: Region, flight: Flight, stale: Entry | None) -> Plan[Any]:
    """Wait for a flight as long as the timeouts allow, and serve the stale entry where they end first.

    Raises:
        LoadTimeout: the hard timeout passed.
    """
    hard = region.settings.hard_timeout
    soft = soft_limit(region, stale) if stale is not None else None
    if stale is not None and soft is not None:
        if (yield AwaitFlight(region.flights, flight, soft)):
            return flight.signal.value
        region.counters.stale_served.add()
        return stale, 0
    if not (yield AwaitFlight(region.flights, flight, hard)):
        message = f"the load of {flight.key!r} took longer than hard_timeout={hard} s; it goes on in the background"
        raise LoadTimeout(message)
    return flight.signal.value


def serves(region: Region, address: Address, entry: Entry, vouched: int) -> bool:
    """Judge another's entry as a hit of one's own: epoch, ledger, floor and proof."""
    if region.judge(address, entry, vouched) in (Verdict.DEAD, Verdict.UNKNOWN):
        return False
    settings = region.coherence.settings
    return region.coherence.proven() or (entry.own and entry.begun > region.clock.monotonic() - settings.max_staleness)


def lead(
    region: Region,
    flight: Flight,
    address: Address,
    local_key: Hashable,
    want: Want,
    stale: Entry | None,
    *,
    proven: bool,
    quiet: bool = False,
    detached: bool = False,
) -> Plan[Entry]:
    """Lead a flight: whatever happens to the leader, it lands.

    `quiet`: in the background, where who waits gets the error. `detached`: nobody waits
    without a bound, so what the caller leads is no part of this load's chain.
    """
    token = leading.set((flight,) if detached else (*leading.get(), flight))
    try:
        found = yield from produce(region, address, local_key, want, stale, proven=proven)
    except Exception as exc:
        region.flights.land(flight, Failure(exc))
        if quiet:
            return None  # type: ignore[return-value]
        raise
    except BaseException:  # cancelled, closed or interrupted: not the load's failure
        region.flights.land(flight, ABANDONED)
        raise
    finally:
        leave_context(token)
    region.flights.land(flight, (found.entry, found.vouched))
    return found.entry  # type: ignore[return-value]


def leave_context(token: Any) -> None:
    """Reset `leading`; a plan that is closed from another context never set it there."""
    try:
        leading.reset(token)
    except ValueError:
        leading.set(())


def backing_off(region: Region, local_key: Hashable) -> bool:
    """Whether the origin failed for this key a moment ago and is to be left alone."""
    failed = region.backoff.get(local_key)
    return failed is not None and region.clock.monotonic() < failed[0]


def produce(
    region: Region, address: Address, local_key: Hashable, want: Want, stale: Entry | None, *, proven: bool
) -> Plan[Found]:
    """Find the entry below or load it, under the lease that one process of the fleet holds."""
    if not want.force:
        found = yield from find(region, address, proven=proven, as_type=want.as_type)
        if found.entry is not None:
            return found
        stale = stale or found.stale
        if stale is not None and backing_off(region, local_key):
            region.counters.stale_served.add()
            return Found(stale)
    region.counters.misses.add()
    lease = region.lease(address, want.lock_ttl) if proven else None
    if lease is None:
        return (yield from load(region, address, local_key, want, stale, None))
    try:
        filled = yield from lease.wait(lambda: find(region, address, proven=True, as_type=want.as_type), want.force)
        if filled is not None:
            return filled
        return (yield from load(region, address, local_key, want, stale, lease))
    finally:
        yield from lease.release()


def load(
    region: Region, address: Address, local_key: Hashable, want: Want, stale: Entry | None, lease: Any
) -> Plan[Found]:
    """Call the loader, store what it returned where that is still true, and fall back to grace where it failed."""
    nested = len(leading.get()) > 1
    servable = stale is not None and region.clock.monotonic() < stale.keep
    if not nested and not (yield from region.slots.take(wait=not servable)):
        region.counters.stale_served.add()
        return Found(stale)
    try:
        begin = region.begin()
        context = LoadContext(
            key=address.key, stale_value=stale.value if stale is not None else None, has_stale=stale is not None,
            ttl=want.ttl, tags=want.tags,
        )  # fmt: skip
        region.counters.loads.add()
        value = yield Load(want.loader, context)
    except Exception as exc:
        region.counters.load_errors.add()
        if stale is None or region.clock.monotonic() >= stale.keep:
            raise
        yield from failed(region, address, local_key, stale, exc)
        return Found(stale)
    finally:
        if not nested:
            region.slots.give()
    region.backoff.pop(local_key, None)
    if value is NOT_MODIFIED and stale is not None:
        value = stale.value
    ttl = context.ttl
    if value is None and ttl is DEFAULT and region.settings.none_ttl is not None:
        ttl = region.settings.none_ttl
    entry = region.entry(
        value, region.lifetime(ttl), tags_of(context.tags), begin, address,
        cost=region.clock.monotonic() - begin.monotonic,
    )  # fmt: skip
    entry.stale = context.stale
    if context.keep:
        yield from store(region, address, entry, begin, want.as_type)
    return Found(entry, entry.born)


def failed(region: Region, address: Address, local_key: Hashable, stale: Entry, exc: Exception) -> Plan[None]:
    """Note a failed load whose stale value is served, so that the origin is tried again with backoff."""
    first, most = region.settings.retry_backoff
    _, last = region.backoff.get(local_key, (0.0, 0.0))
    delay = min(max(first, last * 2), most)
    if len(region.backoff) > 10_000:  # forgetting one only means that the origin is tried earlier
        region.backoff.pop(next(iter(region.backoff)))
    region.backoff[local_key] = (region.clock.monotonic() + delay, delay)
    region.counters.stale_served.add()
    logger.warning(
        "load failed, serving the stale value and trying again in %.1f s: %s", delay, exc, extra={"region": region.name}
    )
    if region.memory is not None and region.memory.get(local_key) is None:
        region.insert(address, stale, stale.born)
    return
    yield


def store(region: Region, address: Address, entry: Entry, begin: Begin, as_type: Any = None) -> Plan[bool]:
    """Store a fill in every tier, from the lowest up, unless it lost a race; False where it did."""
    if recently_invalidated(region, address, entry.tags, begin):
        region.counters.fills_refused.add()
        return False
    envelopes = yield from encode(region, address, entry, begin, as_type)
    proven = region.coherence.proven()
    if region.remote is not None and proven:
        if region.judge(address, entry, entry.born) in (Verdict.DEAD, Verdict.UNKNOWN):
            region.counters.fills_refused.add()
            return False
        put = yield from region.remote.put_if_newer(address, envelopes[region.remote.name], Guard(begun=begin.log))
        if put in (Put.NEWER, Put.LATE):
            region.counters.fills_refused.add()
            return False
    if region.disk is not None and proven:
        yield from put_disk(region, address, envelopes[region.disk.name], entry.born)
    if region.insert(address, entry, entry.born, begin.local):
        region.counters.fills.add()
        return True
    return region.memory is None


def recently_invalidated(region: Region, address: Address, tags: Sequence[str], begin: Begin) -> bool:
    """Whether the load began within `origin_lag` after an invalidation of what it loaded."""
    if begin.settled >= begin.born:
        return False
    with region.ledger.lock:
        return region.ledger.matches_between(
            region.name, address.scope, address.key, tuple(tags), begin.epoch, begin.settled, begin.born, vouched=begin.born
        )


def encode(
    region: Region, address: Address, entry: Entry, begin: Begin, as_type: Any = None
) -> Plan[dict[str, Envelope]]:
    """Make what each tier below will store; one that has none below costs nothing."""
    if region.strict is not None:
        region.strict.check(entry.value, as_type)
    envelopes: dict[str, Envelope] = {}
    for tier in region.below:
        if region.looks_large(entry.value):
            envelopes[tier.name] = yield Blocking(region.envelope, tier.name, entry, begin, address, as_type)
        else:
            envelopes[tier.name] = region.envelope(tier.name, entry, begin, address, as_type)
    return envelopes


def put_disk(region: Region, address: Address, envelope: Envelope, vouched: int) -> Plan[None]:
    """Put into L2; one that is refused because this process is behind catches up and tries once more."""
    disk, ledger, coherence = region.disk, region.ledger, region.coherence
    if disk is None:
        return

    def admit(pair: tuple[str, int]) -> bool:
        with ledger.lock:
            if not ledger.epoch == envelope.epoch == pair[0] or ledger.applied < pair[1]:
                return False
            verdict = region.judge(address, envelope, vouched)
            return verdict not in (Verdict.DEAD, Verdict.UNKNOWN)

    guard = Guard(admit=admit)
    if (yield from disk.put_if_newer(address, envelope, guard)) is Put.BEHIND:
        try:
            yield from coherence.catch_up()
            yield from coherence.follow_stores()
        except LogUnavailable:
            return
        yield from disk.put_if_newer(address, envelope, guard)


def refresh_behind(region: Region, address: Address, local_key: Hashable, want: Want, stale: Entry) -> Plan[None]:
    """Load anew in the background, in the one process of the fleet that owns the key's refresh."""
    if not region.coherence.owns(f"{address.region}:{address.scope}|{address.key}"):
        return
    flight, leads = yield Join(region.flights, address)
    if not leads:
        yield AwaitFlight(region.flights, flight, 0.0)
        return
    forced = replace(want, force=True)
    accepted = yield Spawn(
        region.workers,
        partial(lead, region, flight, address, local_key, forced, stale, proven=True, quiet=True, detached=True),
    )
    if not accepted:
        region.flights.land(flight, ABANDONED)


def slide(region: Region, address: Address, entry: Entry) -> Plan[None]:
    """Renew a sliding entry: in memory freely, below at most once per tenth of its TTL."""
    if entry.ttl == math.inf:
        return
    now = region.clock.monotonic()
    last = entry.begun + region.settings.max_lifetime
    expires = min(now + entry.ttl, last)
    if expires - entry.expires < entry.ttl / 10:
        return
    grace = region.settings.grace
    entry.expires, entry.keep = expires, min(expires + grace, last)
    region.schedule_look(entry)
    wall = region.clock.wall()
    for tier in region.below:
        epoch, _ = region.coherence.position()
        reading = yield from tier.get_many((address,), epoch)
        seen = reading.found.get(address)
        if seen is not None and seen.born == entry.born and seen.epoch == entry.epoch:
            renewed = replace(seen, fresh_until=wall + expires - now, keep_until=wall + entry.keep - now)
            yield from tier.renew(address, seen, renewed)

