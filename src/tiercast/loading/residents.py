"""What a region keeps in memory: what is judged and served there, what is let in, and what is removed.

Implementation notes.
    An entry is judged by stamps when it is read and its `checked` is not the region's
    checkpoint; the mark that it then carries is the checkpoint read *before* judging. Check
    and insert, of a fill as of what was found below, are one critical section under the
    ledger's lock. So is whatever writes `fresh_until` of an entry that others may see: else a
    reader that computed it before a soft record marked the entry would undo the mark.
"""

from __future__ import annotations

import copy
import enum
import math
from collections import Counter as Tally
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ..coherence.causes import cause_of
from ..coherence.judging import ALIVE, DEAD, STALE, UNKNOWN, Verdict
from ..invalidation.ttl import kept
from ..tiers.entry import Address, DetailedEntry, Entry, Envelope, MeteredEntry
from ..tiers.frozen import frozen

if TYPE_CHECKING:
    import random

    from ..clock import Clock
    from ..coherence.coherence import Coherence
    from ..coherence.judging import RegionLedger
    from ..coherence.ledger import Ledger
    from ..config import DistributedCacheConfig, LocalCacheConfig, RegionConfig
    from ..monitoring.watch import Watch
    from ..region import RegionCounters
    from ..tiers.base import Tier
    from ..tiers.memory import Evicted, MemoryTier

AT_LEAST = 3.0
"""Load costs before its deadline from which an entry is refreshed early for certain."""
HANDOVER = 0.05
"""Seconds that a refresh has besides to find a thread and a processor; where the TTL is short, this share of it."""

NOTHING: Mapping[Hashable, Entry] = {}


class Missing(enum.Enum):
    """The type of `MISS`: nothing is cached, which no value can say."""

    MISS = "MISS"


MISS: Final = Missing.MISS


class State(enum.Enum):
    """What memory knows of an entry at the moment of a read."""

    FRESH = "fresh"
    DUE = "due"
    """Fresh, and chosen for an early refresh."""
    STALE = "stale"
    """Past its deadline or memory's own TTL, or marked by a soft invalidation; grace may serve it."""
    UNPROVEN = "unproven"
    """Alive as far as this process knows, which it cannot prove now."""
    MISS = "miss"


Arrival: TypeAlias = tuple[Address, Entry, bool]
"""An entry that was found in a tier below, and whether memory takes it if it is alive and fresh."""


class Residents:
    """The entries of one region that are in this process's memory, and the rules by which they are there.

    The part of `Region` that knows memory and the ledger. Thread-safe; no I/O.
    """

    name: str
    settings: RegionConfig
    coherence: Coherence
    ledger: Ledger
    view: RegionLedger
    clock: Clock
    memory: MemoryTier | None
    below: tuple[Tier, ...]
    counters: RegionCounters
    watch: Watch
    rng: random.Random
    sliding: bool
    jitter: float
    _touched: Callable[[Hashable, Entry], None]
    hot: Mapping[Hashable, Entry] = NOTHING
    """The mapping that hits read: memory's own, or an empty one where a hit takes more than a look."""

    def _reside(self) -> None:
        """Note, once, what the settings say of entries in memory."""
        local, memory = self.settings.local, self.memory
        self.copies = local is not None and local.copy_on_read
        self.freezes = local is not None and local.freeze
        self.heads = self.coherence.log.heads
        self.monotonic = self.clock.monotonic
        self.cap = None if local is None else local.ttl
        """Memory's own TTL, in seconds."""
        if memory is not None and not self.copies and memory.touch_kind != "locked":
            self.hot = memory.entries
        metered = memory is not None and (memory.max_bytes is not None or memory.touch_kind == "visit")
        detailed = self.below or self.settings.grace or self.settings.early_refresh
        self.entry_type: type[Entry] = (
            MeteredEntry if metered or self.cap is not None else DetailedEntry if detailed else Entry
        )
        self._looks_early = self.settings.early_refresh > 0 or self.sliding

    # -- judging --------------------------------------------------------------------------

    def judge(self, address: Address, entry: Entry | Envelope, vouched: int, local: int | None = None) -> Verdict:
        """Apply the one rule to an entry of any tier."""
        with self.ledger.lock:
            return self.view.judge(address.scope, address.key, entry.epoch, entry.born, entry.tags, vouched, local)

    def look(self, local_key: Hashable, address: Address, *, proven: bool) -> tuple[Entry | None, State]:
        """Say what memory knows of a key; removes what turns out to be dead or past its end."""
        memory = self.memory
        self.heads = self.coherence.log.heads  # another object where the log's file was replaced
        entry = memory.get(local_key) if memory is not None else None
        if entry is None:
            return None, State.MISS
        now = self.clock.monotonic()
        if not self._alive(local_key, address, entry):
            self._forget(local_key, entry)
            return None, State.MISS
        if now >= entry.keep:
            if self._forget(local_key, entry):
                self.counters.expired.add()
                self.watch.evicted("expiry", local_key)
            return None, State.MISS
        if not proven:
            serve = self.coherence.settings.on_outage == "serve" or self.coherence.outlives_outage(entry)
            if not serve or now >= entry.expires or now >= entry.capped or entry.stale:
                return entry, State.UNPROVEN
            return entry, State.FRESH
        if now >= entry.expires or now >= entry.capped or not self.schedule_look(entry, now):
            return entry, State.STALE
        return entry, self._due(entry, now)

    def _alive(self, local_key: Hashable, address: Address, entry: Entry) -> bool:
        ledger = self.ledger
        with ledger.lock:
            checkpoint = self.view.checkpoint
            if entry.epoch != ledger.epoch:
                return False
            if entry.checked is checkpoint:
                return True
            verdict = self.view.judge_stamps(address.scope, address.key, entry.born, entry.tags, entry.checked.tick)
            if verdict is DEAD:
                self.counters.invalidated.add()
                cause = cause_of(ledger, self.name, address.scope, address.key, entry.epoch, entry.born, entry.tags)
                self.watch.evicted(cause.kind if cause is not None else "outbox", local_key)
                return False
            if verdict is STALE:
                entry.stale = True
            entry.checked = checkpoint
            return True

    def again(self, local_key: Hashable, path: str, key: str) -> Any:
        """Serve, as a hit, an entry of memory that needs no more than to be judged by newer stamps; MISS for the rest.

        The first read after a tag, scope, pattern or region was invalidated, or one that is told: no plan, no I/O.
        """
        ledger, view = self.ledger, self.view
        entry = self.hot.get(local_key) if self.heads[0] == ledger.head_word else None  # in this order: see hits.py
        if entry is None:
            return MISS
        now = self.monotonic()
        if now >= entry.fresh_until or now >= ledger.proven_until:
            return MISS
        if entry.checked is not view.checkpoint:
            with ledger.lock:
                checkpoint = view.checkpoint
                if (
                    entry.epoch != ledger.epoch
                    or view.judge_stamps(path, key, entry.born, entry.tags, entry.checked.tick) is not ALIVE
                ):
                    return MISS
                entry.checked = checkpoint
        self._touched(local_key, entry)
        return entry.value

    def _forget(self, local_key: Hashable, entry: Entry) -> bool:
        memory = self.memory
        with self.ledger.lock:
            return memory is not None and memory.get(local_key) is entry and memory.pop(local_key) is not None

    # -- when to look again -----------------------------------------------------------------

    def _due(self, entry: Entry, now: float) -> State:
        """Draw for an early refresh: XFetch (Vattani, Chierichetti, Lowenstein: Optimal Probabilistic Cache
        Stampede Prevention, VLDB 2015): now - cost * beta * ln(random) >= expiry.

        The draw alone leaves a key that is read about as often as it takes to load a fair chance to
        expire; so it counts as three costs at least, and what it may take to begin. (Flights and leases keep
        that from being a stampede.)
        """
        if not self.settings.early_refresh or not entry.cost:
            return State.FRESH
        drawn = -math.log(1.0 - self.rng.random())
        ahead = max(self._ahead(entry, drawn), self._ahead(entry, AT_LEAST, HANDOVER))
        return State.DUE if now + ahead >= entry.expires else State.FRESH

    def overdue(self, entry: Entry, now: float) -> bool:
        """Whether an early refresh cannot be left any longer to the process that owns the key."""
        return now + self._ahead(entry, AT_LEAST - 1, HANDOVER / 2) >= entry.expires

    def _ahead(self, entry: Entry, costs: float, handover: float = 0.0) -> float:
        """Return so many load costs, and the time to hand the load over, in seconds; half of the TTL at most."""
        ahead = costs * entry.cost * self.settings.early_refresh + min(handover, handover * entry.ttl)
        return min(ahead, entry.ttl / 2)

    def schedule_look(self, entry: Entry, now: float) -> bool:
        """Set the next moment at which a read of the entry must take the slow path; False: it is stale, so with each."""
        with self.ledger.lock:
            if entry.stale:
                return False
            entry.fresh_until = self._next_look(entry, now)
            return True

    def _next_look(self, entry: Entry, now: float) -> float:
        """Return when a read of an entry that is not stale must next take the slow path."""
        look = min(entry.expires, entry.capped)
        if self._looks_early:
            if self.settings.early_refresh and entry.cost:
                # A draw further out than 14 costs has a chance of under one in a million.
                ahead = max(self._ahead(entry, 14.0), self._ahead(entry, AT_LEAST, HANDOVER))
                look = min(look, max(now, entry.expires - ahead))
            if self.sliding and entry.ttl != math.inf:
                look = min(look, now + entry.ttl / 10)
        return look

    # -- taking entries into memory ---------------------------------------------------------

    def insert(self, address: Address, entry: Entry, vouched: int, local: int | None = None) -> bool:
        """Put an entry into memory where the ledger admits it and nothing newer stands; False, counted, else."""
        if self.memory is None:
            return False
        with self.ledger.lock:
            verdict = self.view.judge(address.scope, address.key, entry.epoch, entry.born, entry.tags, vouched, local)
            if verdict is DEAD or verdict is UNKNOWN:
                self.counters.fills_refused.add()
                return False
            if verdict is STALE:
                entry.stale = True
            evicted: list[Evicted] = []
            settled = self._settle(address, entry, evicted)
            self._evicted(evicted)
            return settled

    def take_in(self, arrivals: Iterable[Arrival], vouched: int) -> list[Arrival]:
        """Return what the ledger lets live of what was found below, `stale` set where it is marked, and keep
        in memory what is wanted there and fresh: one critical section for all.
        """
        alive: list[Arrival] = []
        evicted: list[Evicted] = []
        judge, settle = self.view.judge, self._settle
        now = self.monotonic()
        with self.ledger.lock:
            for arrival in arrivals:
                address, entry, wanted = arrival
                verdict = judge(address.scope, address.key, entry.epoch, entry.born, entry.tags, vouched)
                if verdict is DEAD or verdict is UNKNOWN:
                    continue
                if verdict is STALE:
                    entry.stale = True
                alive.append(arrival)
                if wanted and now < entry.fresh_until:
                    settle(address, entry, evicted)
            self._evicted(evicted)
        return alive

    def _settle(self, address: Address, entry: Entry, evicted: list[Evicted]) -> bool:
        """Give an entry that was judged its place in memory; the ledger's lock is held."""
        memory = self.memory
        if memory is None:
            return False
        # `self.local_key`, without the call.
        local_key: Hashable = (address.scope, address.key) if address.scope else address.key
        standing = memory.get(local_key)
        if standing is not None and standing.epoch == entry.epoch and standing.born > entry.born:
            self.counters.fills_refused.add()
            return False
        if self.freezes:
            entry.value = frozen(entry.value)
        entry.checked = self.view.checkpoint
        if self._looks_early or self.cap is not None:
            now = self.clock.monotonic()
            if self.cap is not None:
                self._cap(entry, now + self.kept("local", entry.expires - now))
            self.schedule_look(entry, now)
        elif not entry.stale:
            entry.fresh_until = entry.expires
        memory.insert(local_key, entry, evicted=evicted)
        return True

    def _evicted(self, evicted: list[Evicted]) -> None:
        """Count what had to go."""
        if len(evicted) > 1 and not self.watch.listeners.evict:
            self.counters.evictions.add_many(len(evicted))
            for cause, count in Tally([cause for _, _, cause in evicted]).items():
                self.watch.evicted_many(cause, count)
            return
        for key, _, cause in evicted:
            self.counters.evictions.add()
            self.watch.evicted(cause, key)

    def kept(self, tier: str, seconds: float) -> float:
        """Return how long a tier keeps an entry whose end is so many seconds away: its own TTL caps that."""
        settings = self.settings
        if tier == "remote":
            own: LocalCacheConfig | DistributedCacheConfig | None = settings.distributed
        elif tier == "disk":
            own = settings.disk or settings.local
        else:
            own = settings.local
        if own is None or own.ttl is None:
            return seconds
        return kept(seconds, own.ttl, self.jitter, self.rng.random)

    def _cap(self, entry: Entry, end: float) -> None:
        """Bound an entry by memory's own TTL: then it is looked for below, or where there is nothing below, it expires."""
        if self.below:
            entry.capped = end
        else:
            expires = min(entry.expires, end)
            entry.end_at(expires, min(entry.keep, expires + self.settings.grace))

    # -- removing ---------------------------------------------------------------------------

    def drop_key(self, local_key: Hashable, position: int, *, soft: bool) -> None:
        """Take what a key record killed out of memory; the ledger's lock is held."""
        memory = self.memory
        if memory is None:
            return
        if not soft:
            if memory.pop_older(local_key, position) is not None:
                self.counters.invalidated.add()
                self.watch.evicted("key", local_key)
            return
        entry = memory.get(local_key)
        if entry is not None and entry.born < position:
            entry.stale = True

    def sweep(self) -> int:
        """Remove from memory what is past its end or dead."""
        now = self.clock.monotonic()

        def over(local_key: Hashable, entry: Entry) -> bool:
            if now >= entry.keep or now >= entry.capped:
                self.counters.expired.add()
                self.watch.evicted("expiry", local_key)
                return True
            return not self._alive(local_key, self.address(local_key), entry)

        return self.remove_where(over)

    def remove_matching(self, matches: Callable[[Address, tuple[str, ...]], bool]) -> int:
        """Remove from memory what matches; returns how many entries."""
        return self.remove_where(lambda local_key, entry: matches(self.address(local_key), entry.tags))

    def remove_where(self, wanted: Callable[[Hashable, Entry], bool]) -> int:
        """Remove the wanted entries from memory, in slices, so that readers and writers come in between."""
        return 0 if self.memory is None else self.memory.sweep(wanted)

    # -- names and values -------------------------------------------------------------------

    @staticmethod
    def local_key(address: Address) -> Hashable:
        """Return the key under which memory holds an address: the user's own for the root scope."""
        return (address.scope, address.key) if address.scope else address.key

    def address(self, local_key: Hashable) -> Address:
        """Return the address of a key of memory."""
        if isinstance(local_key, tuple):
            return Address(self.name, *local_key)
        return Address(self.name, "", str(local_key))

    def hand_out(self, entry: Entry) -> Any:
        """Return an entry's value as the region hands values out."""
        if self.copies:
            return copy.deepcopy(entry.value)
        return frozen(entry.value) if self.freezes else entry.value

    def touch(self, local_key: Hashable, entry: Entry) -> None:
        """Tell the eviction policy of a read that took the slow path, and who listens of a hit."""
        if self.memory is not None:
            self.memory.touch(local_key, entry)
        if self.watch.listeners.hit:
            self.watch.hit(self.address(local_key), "local")
