"""The miss plan: what a read does after memory could not answer.

Implementation notes.
    `read` looks into memory once more (judging what the hit path would not), then `fetch`
    joins or leads the key's flight; the leader runs `produce`: the tiers below, the lease,
    the loader, and `store`. A value that lost a race is handed to its caller and stored
    nowhere.
    Whoever waited for a flight that was open when it came judges the flight's entry as a hit
    of its own. One that it fails looks into memory once more (a `set` may have ended the flight's
    use), and else joins or leads another, which began after its call and is
    therefore as good as one of its own: so nobody waits for more than two flights that end,
    and a crowd that is failed together loads once more together.
    A leader that was cancelled abandons its flight, and one of those who waited leads the
    next. A flight whose loader hangs for `lock_ttl`, or whose loop stands still, is given up
    in the same way: exactly one of those who waited takes its place in the table.
    Timeouts run from the call. A load that somebody may stop waiting for runs in the
    background from its beginning, and so does the sync loader of an async caller, whose thread
    cannot be cancelled: then a cancelled caller abandons nothing.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ..coherence.judging import Verdict
from ..config import DEFAULT
from ..errors import LoadTimeout
from ..plans import Plan
from ..region import MISS, Missing, State, Ttl, tags_of
from .context import NOT_MODIFIED, LoadContext
from .finding import Found, find, slide
from .flights import ABANDONED, LOOK, AwaitFlight, Failure, Flight, Join, Landed, Older, chain, leading
from .loads import Load, is_async, raised_by_loader
from .stale import Spare, back_off, backing_off, failed, may_refresh, servable, served, soft_limit
from .storing import store
from .workers import Spawn

if TYPE_CHECKING:
    from ..region import Region
    from ..tiers.entry import Address, Entry

logger = logging.getLogger("tiercast.loading")

STUCK = object()
"""What a wait answers where the flight will not end."""
TOO_LATE = object()
"""What a wait answers where the spare died before it was of use."""


@dataclass(frozen=True, slots=True)
class Want:
    """What a caller of `get_or_set` wants.

    Attributes:
        loader: callable without arguments, sync or async. ttl, tags: of what it returns.
        as_type: the declared type that values from below are restored to.
        lock_ttl: seconds after which another process may load instead; None: the region's.
        force: load anew whatever is cached.
        behind: a refresh of an entry that is served meanwhile: what another process loaded since will do.
    """

    loader: Callable[[], Any]
    ttl: Ttl = DEFAULT
    tags: tuple[str, ...] = ()
    as_type: Any = None
    lock_ttl: float | None = None
    force: bool = False
    behind: bool = False


@dataclass(frozen=True, slots=True)
class Errand:
    """One load as all parts of the plan know it.

    Attributes:
        spare: what may be served where the load is slow or fails.
        proven: whether memory was proven when the call began.
    """

    region: Region
    address: Address
    local_key: Hashable
    want: Want
    spare: Spare | None
    proven: bool

    @property
    def patience(self) -> float:
        """Seconds after which a loader counts as hanging."""
        return self.want.lock_ttl or self.region.settings.lock_ttl

    def stuck(self, flight: Flight) -> bool:
        """Whether it is no use to wait for a flight any longer."""
        return flight.stuck(self.region.clock.monotonic(), self.patience)


def read(region: Region, address: Address, want: Want | None = None) -> Plan[Entry | Missing]:
    """Find, or with `want` load, the entry of an address; MISS where there is none."""
    proven = region.coherence.proven() or (yield from region.coherence.prove())
    local_key = region.local_key(address)
    vouched = local = 0
    if want is not None:
        if want.force:
            return served(region, (yield from fetch(Errand(region, address, local_key, want, None, proven))))
        vouched, local = _reached(region)
    entry, state = region.look(local_key, address, proven=proven)
    if entry is not None and state in (State.FRESH, State.DUE):
        region.counters.hits.add()
        region.touch(local_key, entry)
        if region.sliding:
            yield from slide(region, address, entry)
        if state is State.DUE and want is not None and may_refresh(region, address, local_key, entry):
            yield from refresh_behind(
                Errand(region, address, local_key, want, Spare(entry, vouched, local=local), proven)
            )
        return entry
    if want is not None:
        spare = Spare(entry, vouched, proven, local) if entry is not None else None
        return served(region, (yield from fetch(Errand(region, address, local_key, want, spare, proven))))
    found = yield from find(region, address, proven=proven)
    if found.entry is None:
        region.missed(address)
        return MISS
    return found.entry


def _reached(region: Region) -> tuple[int, int]:
    """Return (`applied`, `local_sequence`), up to which memory vouches at a later look.

    Key records take their keys out of memory at once. Under the lock: without it, the mark of a key might be there
    already, and the key not yet out of memory.
    """
    ledger = region.ledger
    with ledger.lock:
        return ledger.applied, ledger.local_sequence


def fetch(errand: Errand) -> Plan[Entry]:
    """Get the entry by the key's one flight, or the spare where that is slow or fails."""
    region, address, want = errand.region, errand.address, errand.want
    began = region.clock.monotonic()
    hard = region.settings.hard_timeout
    hard_end = began + hard if hard is not None else math.inf
    judges, given_up = True, None
    entry = None
    while entry is None:
        spare = errand.spare
        soft = soft_limit(region, spare)
        if spare is not None and _left_alone(errand, spare, soft):
            return spare.entry
        soft_end = began + soft if soft is not None else math.inf
        flight, leads = yield Join(region.flights, address, given_up)
        if leads:
            # A thread that runs a loader cannot be cancelled: its flight goes on without the caller.
            unstoppable = flight.loop is not None and not is_async(want.loader)
            if not (unstoppable or soft is not None or hard is not None):
                return (yield from _led(errand, flight))
            plan = partial(lead, errand, flight, behind=True, detached=soft is not None)
            if not (yield Spawn(region.workers, plan, flight, waited=soft != 0.0)):
                return (yield from _refused(errand, flight))
        else:
            region.counters.waits.add()
        outcome = yield from _wait(errand, flight, soft_end, hard_end, own=leads)
        if isinstance(outcome, Spare):
            return outcome.entry
        if outcome is TOO_LATE:
            errand = replace(errand, spare=None)
            continue
        if leads or not judges or _counts(errand, outcome, began):
            if isinstance(outcome, Failure):
                raise outcome.exception()
            if isinstance(outcome, Landed):
                return outcome.entry  # type: ignore[no-any-return]
            if isinstance(outcome, Older):
                return (yield from fetch(replace(errand, spare=outcome.spare)))
        entry, errand = _standing(errand)
        judges, given_up = False, flight if outcome is STUCK else None
    return entry


def _standing(errand: Errand) -> tuple[Entry | None, Errand]:
    """Return what was set while a flight was waited for that was of no use; as the spare where it is not fresh."""
    region, local_key = errand.region, errand.local_key
    if errand.want.force:
        return None, errand
    proven = region.coherence.proven()
    vouched, local = _reached(region)
    entry, state = region.look(local_key, errand.address, proven=proven)
    if entry is not None and state in (State.FRESH, State.DUE):
        region.counters.hits.add()
        region.touch(local_key, entry)
        return entry, errand
    return None, errand if entry is None else replace(errand, spare=Spare(entry, vouched, proven, local))


def _led(errand: Errand, flight: Flight) -> Plan[Entry]:
    """Lead a flight here, and begin anew with what may be served meanwhile where it found such a thing below."""
    found = yield from lead(errand, flight)
    assert found is not None
    if found.entry is None:
        return (yield from fetch(replace(errand, spare=found.spare)))
    return found.entry


def _left_alone(errand: Errand, spare: Spare, soft: float | None) -> bool:
    """Whether the spare is served and nothing is loaded: the origin failed just now, or another process refreshes first."""
    region, address, local_key = errand.region, errand.address, errand.local_key
    return servable(region, address, spare) and (
        backing_off(region, local_key) or (soft == 0.0 and not may_refresh(region, address, local_key, spare.entry))
    )


def _refused(errand: Errand, flight: Flight) -> Plan[Entry]:
    """Do without the background, where too much runs there: serve the spare, or load here, or give up."""
    region, hard = errand.region, errand.region.settings.hard_timeout
    if errand.spare is not None and servable(region, errand.address, errand.spare):
        region.flights.land(flight, ABANDONED)
        return errand.spare.entry
    if hard is None:
        return (yield from _led(errand, flight))
    error = LoadTimeout(f"{flight.key!r} cannot be loaded within hard_timeout={hard} s: too many loads hang")
    region.flights.land(flight, Failure(error))
    raise error


def _wait(errand: Errand, flight: Flight, soft_end: float, hard_end: float, *, own: bool) -> Plan[Any]:
    """Wait for a flight as long as the timeouts allow; answers its outcome, the spare, STUCK or TOO_LATE.

    Raises:
        LoadTimeout: the hard timeout passed, and there is nothing to serve instead.
    """
    region, spare = errand.region, errand.spare
    end = min(soft_end, hard_end)
    left = None if end == math.inf else max(0.0, end - region.clock.monotonic())
    look = min(LOOK, errand.patience / 4)
    stuck = partial(errand.stuck, flight) if not own else _never
    if (yield AwaitFlight(region.flights, flight, left, stuck, look, own)):
        return flight.signal.value
    if stuck():
        return STUCK
    if spare is not None and servable(region, errand.address, spare):
        return spare
    if hard_end > soft_end:
        return TOO_LATE
    message = (
        f"the load of {flight.key!r} took longer than hard_timeout={region.settings.hard_timeout} s;"
        " it goes on in the background"
    )
    raise LoadTimeout(message)


def _never() -> bool:
    return False


def _counts(errand: Errand, outcome: Any, began: float) -> bool:
    """Whether the outcome of a flight that was on its way when this call `began` is good for it, as a hit would be."""
    region = errand.region
    if errand.want.force:
        return False
    if not isinstance(outcome, Landed):
        return True
    entry = outcome.entry
    if began >= entry.keep:  # it was over before the call came: giving back a lease may take longer than it lasts
        return False
    with region.ledger.lock:
        verdict = region.judge(errand.address, entry, outcome.vouched, outcome.local)
        if verdict in (Verdict.DEAD, Verdict.UNKNOWN):
            return False
        if verdict is Verdict.STALE:  # where it lost a race and is in no tier, nobody else marks it
            entry.stale = True
    return region.coherence.proven() or region.coherence.outlives_outage(entry)


def lead(errand: Errand, flight: Flight, *, behind: bool = False, detached: bool = False) -> Plan[Found | None]:
    """Lead a flight: whatever happens to the leader, it lands.

    `behind`: in the background, where who waits gets the error. `detached`: nobody waits
    without a bound, so what the caller leads is no part of this load's chain.
    """
    flights = errand.region.flights
    token = leading.set((flight,) if detached else (*chain(), flight))
    try:
        found = yield from produce(errand, flight)
    except BaseException as exc:
        if not isinstance(exc, Exception) and not (behind and raised_by_loader(exc)):
            flights.land(flight, ABANDONED)  # cancelled, closed or interrupted: not the load's failure
            raise
        if behind and not flight.signal.awaited:
            logger.warning("load in the background failed: %s", exc, exc_info=exc, extra={"region": errand.region.name})
        flights.land(flight, Failure(exc))
        if behind:
            return None
        raise
    finally:
        with contextlib.suppress(ValueError):  # closed from another context, which never had the token
            leading.reset(token)
    entry = found.entry
    flights.land(flight, Older(found.spare) if entry is None else Landed(entry, found.vouched, found.local))
    return found


def produce(errand: Errand, flight: Flight) -> Plan[Found]:
    """Find the entry below or load it, under the lease that one process of the fleet holds.

    Answers without an entry where a spare was found that is served before the load ends.
    """
    region, address, want, spare = errand.region, errand.address, errand.want, errand.spare
    anew = want.force and not want.behind
    look = partial(
        find, region, address, proven=errand.proven, as_type=want.as_type,
        fresher=spare.entry if want.behind and spare is not None else None,
    )  # fmt: skip
    if not anew:
        found = yield from look()
        if found.entry is not None:
            return found
        if spare is None and found.spare is not None:
            if servable(region, address, found.spare):
                if backing_off(region, errand.local_key):
                    return _instead(found.spare)
                if soft_limit(region, found.spare) is not None:
                    return found  # whoever asked need not wait for the load
            errand = replace(errand, spare=found.spare)
    if not want.behind:
        region.missed(address)
    lease = region.lease(address, want.lock_ttl, flight) if errand.proven and not flight.alone else None
    if lease is None:
        return (yield from _load(errand, flight))
    try:
        filled = yield from lease.contend(look, anew=anew)
        if filled is not None:
            return filled
        return (yield from _load(errand, flight))
    except GeneratorExit:  # thrown away where it stood: nothing can be asked for any more here
        lease.lapse()
        raise
    finally:
        yield from lease.release()


def _load(errand: Errand, flight: Flight) -> Plan[Found]:
    """Call the loader, store what it returned where that is still true, and fall back to the spare where it failed."""
    region, address, want, spare = errand.region, errand.address, errand.want, errand.spare
    if not (yield from region.slots.take(flight, wait=not servable(region, address, spare))):
        assert spare is not None
        return _instead(spare)
    try:
        begin = region.begin()
        flight.since = begin.monotonic
        context = LoadContext(
            key=address.key, stale_value=spare.entry.value if spare is not None else None, has_stale=spare is not None,
            ttl=want.ttl, tags=want.tags,
        )  # fmt: skip
        region.counters.loads.add()
        with region.watch.loading(address):
            value = yield Load(want.loader, context, region.workers)
    except Exception as exc:
        region.counters.load_errors.add()
        if spare is None or not servable(region, address, spare):
            raise
        failed(region, address, errand.local_key, spare, exc)
        return _instead(spare)
    finally:
        region.slots.give()
    cost = region.clock.monotonic() - begin.monotonic
    tags = tags_of(context.tags)
    if value is NOT_MODIFIED:
        value, tags = _kept(spare, tags)
    entry = region.entry(value, region.lifetime(_ttl(region, context, value)), tags, begin, cost=cost)
    entry.stale = context.stale
    if context.stale:  # computed from what was stale itself: soon again, but not with every read
        back_off(region, errand.local_key)
    else:
        region.backoff.pop(errand.local_key, None)
    if context.keep:
        yield from store(region, address, entry, begin, want.as_type)
    return Found(entry, entry.born, local=begin.local)


def _instead(spare: Spare) -> Found:
    """Return a spare as what a flight lands with where nothing was loaded."""
    return Found(spare.entry, spare.vouched, local=spare.local)


def _kept(spare: Spare | None, tags: tuple[str, ...]) -> tuple[Any, tuple[str, ...]]:
    """Return value and tags of the entry that the loader found still right.

    Raises:
        ValueError: the loader was shown none.
    """
    if spare is None:
        message = "a loader returned NOT_MODIFIED, but current_load().has_stale is False: there is no value to keep"
        raise ValueError(message)
    return spare.entry.value, tuple(sorted({*spare.entry.tags, *tags}))


def _ttl(region: Region, context: LoadContext, value: Any) -> Ttl:
    if value is None and context.ttl is DEFAULT and region.settings.none_ttl is not None:
        return region.settings.none_ttl
    return context.ttl


def refresh_behind(errand: Errand) -> Plan[None]:
    """Load anew in the background what is fresh and served meanwhile."""
    region = errand.region
    flight = region.flights.open(errand.address)
    if flight is None:
        return
    anew = replace(errand, want=replace(errand.want, behind=True))
    plan = partial(lead, anew, flight, behind=True, detached=True)
    try:
        accepted = yield Spawn(region.workers, plan, flight, waited=False)
    except BaseException:
        region.flights.land(flight, ABANDONED)
        raise
    if not accepted:
        region.flights.land(flight, ABANDONED)
