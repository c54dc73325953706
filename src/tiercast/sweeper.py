"""The sweeper: removes from the tiers below memory what is dead, and lets stamps go that nothing needs any more.

Implementation notes.
    Entries are judged when they are read; what nobody reads is found here. One process of
    the fleet walks L3, one of each host its L2, `SLICE` rows a second, and only where a
    record came since the last walk. Memory is swept by every process by itself.
    What is dead in L3 is *buried* as born one position later, which leaves its fence: what
    was swept may itself be what keeps an older load from coming back. On disk, whoever puts
    is judged in the same transaction, so there it is removed.
    A stamp goes when nothing is left that it could kill: after a walk of every store that
    began `fence` seconds (`max_load_time` and `max_staleness`) after it was set; or when
    everything born before it is past `max_lifetime`. The first is true only where all stores
    are in sight. Where a fleet on Redis has disk tiers, some may belong to hosts that are
    off; they note themselves in the log before they take anything (`RedisLog.note_disk`), and
    then only the second counts.
    Entries of earlier epochs are never found again, and hold memory and tenants' data until
    Redis lets them go. A name that was seen before the log said which epoch is the present
    one, and that is of another, is of the past: epochs never come back.
"""

from __future__ import annotations

import logging
import math
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .coherence.log import LogUnavailable
from .keys import escape_glob
from .plans import Plan
from .tiers.adapter import SyncTier
from .tiers.envelope import MAGIC

if TYPE_CHECKING:
    from .connections import RedisConnections
    from .runtime import Runtime
    from .tiers.base import Tier

logger = logging.getLogger("tiercast")

SLICE = 500
"""Rows that are judged at a time, and in the background in a second."""
EVERY = 10.0
"""Seconds between two looks whether a walk in the background is due; one that is due begins with the second look."""
SAMPLES = 1_000
"""Into so many parts the longest time that matters is cut by the samples of (time, position)."""

Sample = tuple[float, str, int]
"""(monotonic time, epoch, position applied then)."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep did.

    Attributes:
        local: entries removed from this process's memory. disk: from this host's disk. remote: buried in Redis, or
            given back there because they were of an earlier epoch.
        stamps: invalidations (of tags, scopes, patterns, regions) that were forgotten, because nothing is left of them.
        complete: whether every store could be walked to its end.
    """

    local: int
    disk: int
    remote: int
    stamps: int
    complete: bool


@dataclass(slots=True)
class Walk:
    """One walk under way.

    Attributes:
        epoch, applied: where the process stood when it began. horizon: the position below which stamps had been set
            for longer than a load may take.
        stores: those still to be walked, the present one last. cursor: how far that is.
        past: whether the names of earlier epochs are to be looked for. removed: entries by store.
        complete: whether nothing has failed so far.
    """

    epoch: str
    applied: int
    horizon: int
    stores: list[Any]
    past: bool
    cursor: int = 0
    removed: dict[str, int] = field(default_factory=lambda: {"disk": 0, "remote": 0})
    complete: bool = True


class Sweeper:
    """The sweeper of one process. Its `tick` is for one thread at a time; `sweep` for any."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        settings = runtime.config.coherence
        self._fence = settings.fence
        names = (None, *runtime.config.regions)
        self._lifetime = max(runtime.config.region(name).max_lifetime for name in names) + self._fence
        self._near: deque[Sample] = deque()
        self._far: deque[Sample] = deque()
        self._walk: Walk | None = None
        self._next = -math.inf
        self._was_due = False
        self._clean: tuple[str, int] = ("", -1)
        """Up to here the stores that this process walks hold nothing dead: epoch and position."""
        self._tried: tuple[str, int] = ("", -1)
        """Below here every stamp has been tried: epoch and position."""
        self._past = ""
        """The epoch before which nothing is left in Redis."""
        self._at_once = False
        self.held = 0
        """How many purges are under way here: what they remove is theirs to count."""

    def soon(self) -> None:
        """Sweep memory, and this host's disk, with the next tick: another process purged. From any thread."""
        self._at_once = True
        self._runtime.housekeeper.wake()

    def forked(self) -> None:
        """Give up, in a forked child, the walk and the purges that are the parent's."""
        self._walk = None
        self.held = 0

    # -- in the background ------------------------------------------------------------------------

    def tick(self) -> Plan[None]:
        """Do what is due, one slice of a walk at the most; called a few times a second at the most."""
        now = self._runtime.clock.monotonic()
        self._sample(now)
        if self._at_once:
            self._at_once = False
            self._runtime.sweep()
            if self._runtime.coherence.fleet.elected_of_host():
                yield from self._through(self._begin(self._runtime.disks()))
        if now < self._next or self.held:
            return
        walk = self._walk
        if walk is None:
            self._forget(self._runtime.coherence.position()[0], self._lifetime_horizon(now))
            was_due, self._was_due = self._was_due, self._due(now)
            if not (was_due and self._was_due):  # not at the heels of an invalidation: it may be a purge, which counts
                self._next = now + EVERY
                return
            self._was_due = False
            walk = self._walk = self._begin(self._stores())
        if not walk.stores:
            self._walk = None
            self._next = now + EVERY
            yield from self._finish(walk)
            return
        self._next = now + 1.0
        yield from self._slice(walk)

    def _due(self, now: float) -> bool:
        """Whether something may lie about dead, or a stamp may go."""
        coherence = self._runtime.coherence
        if not coherence.started or not coherence.proven():
            return False
        epoch, _ = coherence.position()
        newest, oldest = self._stamps()
        stores = self._stores()
        if stores and (newest > _of(self._clean, epoch) or (self._past != epoch and self._runtime.remote in stores)):
            return True
        if oldest is None or not coherence.fleet.elected():
            return False
        horizon, tried = self._horizon(now), _of(self._tried, epoch)
        return (horizon > tried and newest > tried and horizon >= oldest) or self._lifetime_horizon(now) >= oldest

    def _stamps(self) -> tuple[int, int | None]:
        """Return the position of the newest stamp that kills, and of the oldest stamp."""
        ledger = self._runtime.ledger
        with ledger.lock:
            held = ledger._all_stamps()
            newest = max((stamps.hard.newest for stamps in held), default=0)
            oldest = [at for stamps in held for at in (stamps.hard.oldest(), stamps.soft.oldest()) if at is not None]
        return newest, min(oldest, default=None)

    # -- one walk -------------------------------------------------------------------------------------

    def sweep(self) -> Plan[Swept]:
        """Walk everything that this process can reach, now; see `CacheManager.sweep`."""
        runtime = self._runtime
        yield from runtime.coherence.prove()
        self._sample(runtime.clock.monotonic())
        stores: list[Any] = list(runtime.disks())
        if runtime.remote is not None:
            stores.append(runtime.remote)
        walk = self._begin(stores, past=True)
        local = runtime.sweep()
        yield from self._through(walk)
        stamps = yield from self._finish(walk)
        return Swept(local, walk.removed["disk"], walk.removed["remote"], stamps, walk.complete)

    def _begin(self, stores: list[Any], *, past: bool = False) -> Walk:
        epoch, applied = self._runtime.coherence.position()
        horizon = self._horizon(self._runtime.clock.monotonic())
        return Walk(epoch, applied, horizon, list(stores), past or self._past != epoch)

    def _stores(self) -> list[Any]:
        """Return the stores that are this process's to walk."""
        runtime = self._runtime
        stores: list[Any] = list(runtime.disks()) if runtime.coherence.fleet.elected_of_host() else []
        if runtime.remote is not None and runtime.coherence.fleet.elected():
            stores.append(runtime.remote)
        return stores

    def _through(self, walk: Walk) -> Plan[None]:
        while walk.stores:
            yield from self._slice(walk)

    def _slice(self, walk: Walk) -> Plan[None]:
        """Judge some rows of the present store and remove the dead."""
        runtime, store = self._runtime, walk.stores[-1]
        if runtime.coherence.position()[0] != walk.epoch:
            walk.stores.clear()
            walk.complete = False
            return
        failures = _failures(store)
        cursor, rows = yield from store.scan(walk.epoch, walk.cursor, SLICE)
        dead = [(address, envelope.born + 1) for address, envelope in rows if runtime._is_dead(address, envelope)]
        fine = True
        if dead:
            fine = yield from self._remove(walk, store, dead)
        away = hasattr(store, "expire") and (_failures(store) != failures or not store.store.ready)
        if cursor < 0 or not fine or away or isinstance(store, SyncTier):
            walk.complete = False
        walk.cursor = cursor
        if cursor <= 0:
            walk.stores.pop()
            walk.cursor = 0
            if store is runtime.remote and walk.past:
                count, fine = yield from self.give_back_the_past()
                walk.removed["remote"] += count
                walk.complete = walk.complete and fine
            elif hasattr(store, "expire"):
                yield from store.expire()

    def _remove(self, walk: Walk, store: Tier, dead: list[tuple[Any, int]]) -> Plan[bool]:
        if store is not self._runtime.remote:
            walk.removed["disk"] += yield from store.remove([address for address, _ in dead], walk.epoch)
            return True
        bury_many: Callable[..., Plan[bool]] | None = getattr(store, "bury_many", None)
        fine = True
        if bury_many is not None:
            fine = yield from bury_many(dead, walk.epoch, self._fence)
        else:
            for address, position in dead:
                fine = bool((yield from store.bury(address, walk.epoch, position, self._fence))) and fine
        walk.removed["remote"] += len(dead) if fine else 0
        return fine

    def _finish(self, walk: Walk) -> Plan[int]:
        """Note how far all is clean, and let go of the stamps that nothing needs any more; returns how many."""
        runtime = self._runtime
        if not walk.complete or runtime.coherence.position()[0] != walk.epoch:
            return 0
        self._clean = (walk.epoch, max(walk.applied, _of(self._clean, walk.epoch)))
        self._tried = (walk.epoch, max(walk.horizon, _of(self._tried, walk.epoch)))
        if walk.past:
            self._past = walk.epoch
        horizon = self._lifetime_horizon(runtime.clock.monotonic())
        if (yield from self._all_in_sight()):
            horizon = max(horizon, walk.horizon)
        if horizon <= 0 or not runtime.coherence.fleet.elected():
            return 0
        log: Any = runtime.log
        runtime.sweep()  # memory has been judged by them before they go
        try:
            count: int = yield from (log.prune if log.kind == "redis" else log.forget_stamps)(walk.epoch, horizon + 1)
        except LogUnavailable:
            return 0
        self._forget(walk.epoch, horizon)
        return count

    def _forget(self, epoch: str, horizon: int) -> None:
        """Let go of this process's own stamps; not while a load is on its way that may have begun before them."""
        ledger = self._runtime.ledger
        with ledger.lock:
            if ledger.epoch == epoch and not len(self._runtime.flights):
                ledger.forget_stamps(horizon + 1)

    def _all_in_sight(self) -> Plan[bool]:
        """Whether a walk by this process goes through every store that there is."""
        runtime = self._runtime
        if not runtime.coherence.fleet.elected() or any(isinstance(tier, SyncTier) for tier in self._below()):
            return False
        if runtime.log.kind != "redis":
            return True
        if runtime.disks():
            return False
        try:
            return not (yield from runtime.log.has_disks())  # type: ignore[attr-defined]
        except LogUnavailable:
            return False

    def _below(self) -> list[Any]:
        return [getattr(tier, "tier", tier) for region in self._runtime.regions() for tier in region.below]

    # -- earlier epochs ---------------------------------------------------------------------------------

    def give_back_the_past(self) -> Plan[tuple[int, bool]]:
        """Have Redis forget what earlier epochs left there; returns how many names, and whether all were seen."""
        runtime = self._runtime
        connections = runtime.connections
        if connections is None or runtime.log.kind != "redis":
            return 0, True
        from .connections import Unavailable  # only where there is a Redis to ask

        epoch, _ = runtime.coherence.position()
        prefix = f"{runtime.fleet}:"
        named = re.compile(rb"%b(?!%b:)[0-9a-f]{16}:." % (re.escape(prefix).encode(), epoch.encode()), re.DOTALL).match
        count = 0
        try:
            for master in range((yield from connections.master_count())):
                cursor = -1
                while cursor:
                    command = ("SCAN", max(cursor, 0), "MATCH", escape_glob(prefix) + "*", "COUNT", SLICE)
                    (reply,) = yield connections.commands(command, node=master)
                    if isinstance(reply, Exception):
                        return count, False
                    cursor = int(reply[0])
                    past = [name for name in reply[1] if named(name)]
                    # Asked after the names were seen: what is not of the epoch that is present now was before it.
                    if past and (yield from self._present()) != epoch:
                        return count, False
                    count += yield from _unlink_values(connections, past)
        except (Unavailable, LogUnavailable):
            return count, False
        return count, True

    def _present(self) -> Plan[str]:
        tail = yield from self._runtime.log.read(self._runtime.coherence.position())
        return tail.head.epoch

    # -- when which position was applied -------------------------------------------------------------------

    def _sample(self, now: float) -> None:
        if not self._runtime.coherence.started:
            return
        epoch, applied = self._runtime.coherence.position()
        for samples, length in ((self._near, self._fence), (self._far, self._lifetime)):
            if samples and samples[-1][1] != epoch:
                samples.clear()
            if not samples or now - samples[-1][0] >= length / SAMPLES:
                samples.append((now, epoch, applied))
            while len(samples) > 1 and samples[1][0] <= now - length:
                samples.popleft()

    def _horizon(self, now: float) -> int:
        """Return the position that was applied here longer ago than a load may take; 0 where that is not known."""
        return _position_at(self._near, now - self._fence)

    def _lifetime_horizon(self, now: float) -> int:
        """Return the position before which nothing was born that any tier may still keep."""
        return _position_at(self._far, now - self._lifetime)


def _position_at(samples: deque[Sample], time: float) -> int:
    first = next(iter(samples), None)
    return first[2] if first is not None and first[0] <= time else 0


def _unlink_values(connections: RedisConnections, names: list[bytes]) -> Plan[int]:
    """Unlink those keys that hold values of tiercast's: somebody else's may have such a name."""
    if not names:
        return 0
    heads = yield connections.commands(*(("GETRANGE", name, 0, 1) for name in names))
    ours = [name for name, head in zip(names, heads, strict=True) if head == MAGIC[:2]]
    if not ours:
        return 0
    replies = yield connections.commands(*(("UNLINK", name) for name in ours))
    return sum(reply for reply in replies if isinstance(reply, int))


def _of(mark: tuple[str, int], epoch: str) -> int:
    return mark[1] if mark[0] == epoch else -1


def _failures(store: Any) -> int:
    """Return how often a disk has failed: a scan of it that fails ends as if it were complete."""
    return int(store.store.failures.value) if hasattr(store, "expire") else 0
