"""A region at work: its settings, its tiers, and the rules by which memory serves and takes entries.

Implementation notes.
    The hit path stands in `loading/hits.py`; it reads `hot`, which is the memory tier's own
    mapping or, where a hit needs more than handing out a reference (a policy read under a
    lock, copies), an empty one, so that every read comes to `look`.
    An entry is judged by stamps when it is read and its `checked` is not the region's
    checkpoint; the mark that it then carries is the checkpoint read *before* judging. Check
    and insert of a fill are one critical section under the ledger's lock.
"""

from __future__ import annotations

import copy
import enum
import math
import random
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from .coherence.causes import cause_of
from .coherence.judging import ALIVE, Verdict
from .coherence.log import Write
from .config import DEFAULT, Default
from .invalidation.ttl import jittered
from .keys import encode_tag, storage_key
from .loading.hits import make_hit, make_hits
from .loading.leases import Fills, Lease, LeaseStore
from .monitoring.counter import Counter
from .monitoring.watch import Watch
from .serialization import UnreadableValue
from .tiers.entry import STALE, TYPED, Address, Entry, Envelope
from .tiers.frozen import frozen
from .tiers.sizes import size_of

if TYPE_CHECKING:
    from .clock import Clock
    from .coherence.coherence import Coherence
    from .config import RegionConfig
    from .loading.flights import Flight, Flights
    from .loading.slots import Slots
    from .loading.workers import Workers
    from .serialization import Serializer
    from .tiers.base import Tier
    from .tiers.memory import MemoryTier


Ttl = float | timedelta | None | Default
Touched = Callable[[Hashable, Entry], None]


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


@dataclass(frozen=True, slots=True)
class Begin:
    """Where a load began: what decides whether its value may be stored.

    Attributes:
        epoch, born: the position applied then. local: the ledger's local sequence then.
        monotonic, wall: the time then (seconds). log: the log's own time last seen then.
        settled: the position before which no invalidation is recent enough for `origin_lag` to matter.
    """

    epoch: str
    born: int
    local: int
    monotonic: float
    wall: float
    log: float
    settled: int


class RegionCounters:
    """What a region counted, exactly, since it was made."""

    __slots__ = (
        "corrupt", "disk_hits", "evictions", "expired", "fills", "fills_refused", "hits", "invalidated",
        "load_errors", "loads", "lock_waits", "misses", "remote_hits", "sets", "stale_served", "waits",
    )  # fmt: skip

    def __init__(self) -> None:
        for name in self.__slots__:
            setattr(self, name, Counter())

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Counter: ...


LARGE = 64 * 1024
"""Bytes above which encoding and decoding leave the event loop."""

AT_LEAST = 3.0
"""Load costs before its deadline from which an entry is refreshed early for certain."""

NOTHING: Mapping[Hashable, Entry] = {}


class Region:
    """One region's tiers and rules. Thread-safe and loop-safe; holds no I/O of its own.

    Args:
        name: its plain name.
        settings: the resolved settings.
        memory, disk, remote: its tiers; each may be absent.
        serializers: the tiers' serializers by tier name.
        leases: where the fleet's leases lie; None where this process is alone.
        fills: wakes those who wait for another process's fill.
        strict: refuses, in a region of memory alone, the values that this serializer would.
    """

    def __init__(
        self,
        name: str,
        settings: RegionConfig,
        *,
        coherence: Coherence,
        clock: Clock,
        flights: Flights,
        slots: Slots,
        workers: Workers,
        memory: MemoryTier | None,
        disk: Tier | None,
        remote: Tier | None,
        serializers: Mapping[str, Serializer],
        leases: LeaseStore | None = None,
        fills: Fills | None = None,
        strict: Serializer | None = None,
        rng: random.Random | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.name = name
        self.settings = settings
        self.coherence = coherence
        self.ledger = coherence.ledger
        self.view = coherence.ledger.region(name)
        self.clock = clock
        self.flights = flights
        self.slots = slots
        self.workers = workers
        self.memory = memory
        self.below = tuple(tier for tier in (disk, remote) if tier is not None)
        self.disk = disk
        self.remote = remote
        self.serializers = serializers
        self.shared = remote is not None or (disk is not None and coherence.log.kind == "disk")
        """Whether what one process of the fleet loads is found by the others."""
        self.leases = leases if self.shared else None
        self.fills = Fills() if fills is None else fills
        self.strict = strict
        self.jitter = settings.ttl_jitter
        self._ttl = seconds_of(settings.ttl)
        self.sliding = settings.sliding
        self.counters = RegionCounters()
        self.watch = watch or Watch(name)
        self.backoff: dict[Hashable, tuple[float, float]] = {}
        """Keys whose loads failed: until when the origin is left alone, and for how many seconds that was."""
        self.noticed: dict[Hashable, tuple[tuple[int, float, float], float]] = {}
        """Keys that another process refreshes first: which entry was stale, and when it was first read here."""
        self.rng = rng or random.Random()
        self.copies = settings.local is not None and settings.local.copy_on_read
        self.freezes = settings.local is not None and settings.local.freeze
        self.monotonic = clock.monotonic
        self.heads = coherence.log.heads
        self.hot: Mapping[Hashable, Entry] = NOTHING
        if memory is not None and not self.copies and memory.touch_kind != "locked":
            self.hot = memory.entries
        self.told: list[bool] = []
        """Not empty while hits are sampled or heard: `touched` is told of each then."""
        self._hits_by_touch = make_hit(self, MISS), make_hit(self, MISS, told=True)
        self.hit: Callable[[Hashable], Any] = self._hits_by_touch[0]
        """Answers the value of a key of memory; MISS where that takes a closer look."""
        self.hits = make_hits(self)
        """Answers the values of several keys of one scope, not counted, and which need a closer look."""
        self._touched: Touched = self.plain_touched

    # -- hits -----------------------------------------------------------------------------

    def plain_touched(self, local_key: Hashable, entry: Entry) -> None:
        """Do what a hit does besides handing out the value: count, and tell the eviction policy; no lock."""
        self.counters.hits.add()
        if self.memory is not None:
            self.memory.touch(local_key, entry)

    @property
    def touched(self) -> Touched:
        """What is called at a hit; setting another than `plain_touched` makes hits go by it until that is put back."""
        return self._touched

    @touched.setter
    def touched(self, touched: Touched) -> None:
        self._touched = touched
        plain = touched == self.plain_touched
        self.hit = self._hits_by_touch[not plain]
        if plain:
            self.told.clear()
        else:
            self.told[:] = (True,)

    # -- names and times ------------------------------------------------------------------

    @staticmethod
    def local_key(address: Address) -> Hashable:
        """Return the key under which memory holds an address: the user's own for the root scope."""
        return (address.scope, address.key) if address.scope else address.key

    def lifetime(self, ttl: Ttl) -> float:
        """Return the seconds that an entry stored now stays fresh, jittered once; `math.inf` for no end.

        Raises:
            TypeError, ValueError: no number, NaN, zero or negative.
        """
        seconds = self._ttl if ttl is DEFAULT else seconds_of(ttl)
        return jittered(seconds, self.jitter, self.rng.random)

    def begin(self) -> Begin:
        """Note where this process stands, before a load."""
        clock, coherence, ledger = self.clock, self.coherence, self.ledger
        with ledger.lock:
            return Begin(
                ledger.epoch,
                ledger.applied,
                ledger.local_sequence,
                clock.monotonic(),
                clock.wall(),
                coherence.log_time,
                coherence.settled_position(),
            )

    # -- making entries -------------------------------------------------------------------

    def entry(
        self, value: Any, lifetime: float, tags: tuple[str, ...], begin: Begin, address: Address, *, cost: float = 0.0
    ) -> Entry:
        """Make the memory's entry of a value that this process loaded or was handed."""
        now = self.clock.monotonic()
        last = begin.monotonic + self.settings.max_lifetime
        expires = min(now + lifetime, last)
        grace = self.settings.grace
        return Entry(
            value,
            epoch=begin.epoch,
            born=begin.born,
            begun=begin.monotonic,
            expires=expires,
            keep=min(expires + grace, last) if grace else expires,
            ttl=lifetime,
            cost=cost,
            scope=address.scope,
            tags=tags,
        )

    def envelope(self, tier: str, entry: Entry, begin: Begin, address: Address, as_type: Any = None) -> Envelope:
        """Make what a tier below stores of an entry; `as_type` is the declared type of its value.

        Raises:
            SerializationError: the value would not come back equal and of the same type.
        """
        dumped = self.serializers[tier].dump(entry.value, as_type)
        shift = self.clock.wall() - self.clock.monotonic()
        return Envelope(
            epoch=begin.epoch,
            born=begin.born,
            created=begin.wall,
            fresh_until=entry.expires + shift,
            keep_until=entry.keep + shift,
            ttl=entry.ttl,
            cost=entry.cost,
            scope=address.scope,
            tags=entry.tags,
            codec=dumped.codec,
            compressed=dumped.compressed,
            flags=(STALE if entry.stale else 0) | (0 if as_type is None else TYPED),
            version=self.settings.version,
            key=address.key,
            payload=dumped.payload,
        )

    def revive(self, tier: str, envelope: Envelope, as_type: Any = None) -> Entry | None:
        """Make the memory's entry of what a tier below holds; None, counted, where the value cannot be read."""
        if envelope.version != self.settings.version:
            return None
        try:
            value = self.serializers[tier].load(envelope.codec, envelope.compressed, envelope.payload, as_type)
        except UnreadableValue:
            self.counters.corrupt.add()
            return None
        shift = self.clock.monotonic() - self.clock.wall()
        return Entry(
            value,
            epoch=envelope.epoch,
            born=envelope.born,
            begun=envelope.created + shift,
            expires=envelope.fresh_until + shift,
            keep=envelope.keep_until + shift,
            ttl=envelope.ttl,
            cost=envelope.cost,
            scope=envelope.scope,
            tags=envelope.tags,
            own=False,
            stale=bool(envelope.flags & STALE),
        )

    def schedule_look(self, entry: Entry) -> None:
        """Set the next moment at which a read of the entry must take the slow path."""
        entry.fresh_until = self._next_look(entry, self.clock.monotonic())

    def looks_large(self, value: Any) -> bool:
        """Whether encoding a value may take long enough to hold up an event loop."""
        left, waiting = LARGE, [value]
        while waiting:  # a rough measure that ends as soon as it is over: `size_of` costs more than most encoding
            part = waiting.pop()
            if isinstance(part, str | bytes | bytearray):
                left -= len(part)
            elif isinstance(part, dict):
                left -= 16 * len(part)
                waiting.extend(part.values())
            elif isinstance(part, list | tuple | set | frozenset):
                left -= 8 * len(part)
                waiting.extend(part)
            elif part is None or isinstance(part, int | float):
                left -= 8
            else:
                left -= size_of(part)
            if left < 0:
                return True
        return False

    def write_of(self, address: Address, envelope: Envelope | None, fence: float) -> Write:
        """Return the L3 half of an append: the envelope put, or without one a fence."""
        return Write(*self.remote.write_of(address, envelope, fence))  # type: ignore[union-attr]

    def lease(self, address: Address, lock_ttl: float | None, flight: Flight) -> Lease | None:
        """Return an attempt at the fleet's lease for loading an address; None where its fill would reach nobody else."""
        if self.leases is None:
            return None
        ttl = lock_ttl or self.settings.lock_ttl
        return Lease(self.leases, storage_key(*address), ttl, self.fills, flight, self.counters.lock_waits)

    # -- judging --------------------------------------------------------------------------

    def judge(self, address: Address, entry: Entry | Envelope, vouched: int, local: int | None = None) -> Verdict:
        """Apply the one rule to an entry of any tier."""
        with self.ledger.lock:
            return self.ledger.judge(
                self.name, address.scope, address.key, entry.epoch, entry.born, entry.tags, vouched, local
            )

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
        if entry.stale or now >= entry.expires or now >= entry.capped:
            return entry, State.STALE
        state = self._due(entry, now)
        entry.fresh_until = self._next_look(entry, now)
        return entry, state

    def _alive(self, local_key: Hashable, address: Address, entry: Entry) -> bool:
        ledger = self.ledger
        with ledger.lock:
            checkpoint = self.view.checkpoint
            if entry.epoch != ledger.epoch:
                return False
            if entry.checked == checkpoint:
                return True
            verdict = ledger.judge_stamps(
                self.name, address.scope, address.key, entry.born, entry.tags, entry.checked, entry.local
            )
            if verdict is Verdict.DEAD:
                self.counters.invalidated.add()
                cause = cause_of(ledger, self.name, address.scope, address.key, entry.epoch, entry.born, entry.tags)
                self.watch.evicted(cause.kind if cause is not None else "outbox", local_key)
                return False
            if verdict is Verdict.STALE:
                entry.stale = True
                entry.fresh_until = -math.inf
            entry.checked = checkpoint
            return True

    def again(self, local_key: Hashable, path: str, key: str) -> Any:
        """Serve, as a hit, an entry of memory that needs nothing but to be judged by newer stamps; MISS for the rest.

        The first read after a tag, scope, pattern or region was invalidated: no plan, no I/O.
        """
        entry = self.hot.get(local_key)
        if entry is None:
            return MISS
        ledger, view, now = self.ledger, self.view, self.monotonic()
        if now >= entry.fresh_until or now >= ledger.proven_until or self.heads[0] != ledger.head_word:
            return MISS
        with ledger.lock:
            checkpoint = view.checkpoint
            if (
                entry.epoch != ledger.epoch
                or view.judge_stamps(path, key, entry.born, entry.tags, entry.checked, entry.local) is not ALIVE
            ):
                return MISS
            entry.checked = checkpoint
        self._touched(local_key, entry)
        return entry.value

    def _forget(self, local_key: Hashable, entry: Entry) -> bool:
        memory = self.memory
        with self.ledger.lock:
            return memory is not None and memory.get(local_key) is entry and memory.pop(local_key) is not None

    def _due(self, entry: Entry, now: float) -> State:
        """Draw for an early refresh: XFetch (Vattani, Chierichetti, Lowenstein: Optimal Probabilistic Cache
        Stampede Prevention, VLDB 2015): now - cost * beta * ln(random) >= expiry.

        The draw alone leaves a key that is read about as often as it takes to load a fair chance to
        expire; so it counts as three costs at least. (Flights and leases keep that from being a
        stampede.) And it never counts as more than half of the TTL.
        """
        beta = self.settings.early_refresh
        if not beta or not entry.cost:
            return State.FRESH
        unit = entry.cost * beta
        ahead = max(-unit * math.log(1.0 - self.rng.random()), AT_LEAST * unit)
        return State.DUE if now + min(ahead, entry.ttl / 2) >= entry.expires else State.FRESH

    def overdue(self, entry: Entry, now: float) -> bool:
        """Whether an early refresh cannot be left any longer to the process that owns the key."""
        ahead = (AT_LEAST - 1) * entry.cost * self.settings.early_refresh
        return now + min(ahead, entry.ttl / 2) >= entry.expires

    def _next_look(self, entry: Entry, now: float) -> float:
        """Return when a read must next take the slow path."""
        look = min(entry.expires, entry.capped)
        if entry.stale:
            return -math.inf
        beta = self.settings.early_refresh
        if beta and entry.cost:
            # A draw further out than this has a chance of under one in a million.
            look = min(look, max(now, entry.expires - min(entry.cost * beta * 14.0, entry.ttl / 2)))
        if self.sliding and entry.ttl != math.inf:
            look = min(look, now + entry.ttl / 10)
        return look

    # -- taking entries into memory ---------------------------------------------------------

    def insert(self, address: Address, entry: Entry, vouched: int, local: int | None = None) -> bool:
        """Put an entry into memory where the ledger admits it and nothing newer stands; False, counted, else."""
        memory = self.memory
        if memory is None:
            return False
        local_key = self.local_key(address)
        settings = self.settings.local
        with self.ledger.lock:
            verdict = self.ledger.judge(
                self.name, address.scope, address.key, entry.epoch, entry.born, entry.tags, vouched, local
            )
            standing = memory.get(local_key)
            if verdict in (Verdict.DEAD, Verdict.UNKNOWN) or (
                standing is not None and standing.epoch == entry.epoch and standing.born > entry.born
            ):
                self.counters.fills_refused.add()
                return False
            if verdict is Verdict.STALE:
                entry.stale = True
            if self.freezes:
                entry.value = frozen(entry.value)
            entry.checked = self.view.checkpoint
            entry.local = self.ledger.local_sequence if local is None else local
            now = self.clock.monotonic()
            if settings is not None and settings.ttl is not None:
                self._cap(entry, now + settings.ttl)
            entry.fresh_until = self._next_look(entry, now)
            for gone in memory.insert(local_key, entry):
                self.counters.evictions.add()
                self.watch.evicted(gone.cause, gone.key)
        return True

    def _cap(self, entry: Entry, end: float) -> None:
        """Bound an entry by memory's own TTL: then it is looked for below, or where there is nothing below, it expires."""
        if self.below:
            entry.capped = end
        else:
            entry.expires = min(entry.expires, end)
            entry.keep = min(entry.keep, entry.expires + self.settings.grace)

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
            entry.fresh_until = -math.inf

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

    def found_below(self, tier: Tier, address: Address) -> None:
        """Count a hit of a tier below memory."""
        (self.counters.disk_hits if tier is self.disk else self.counters.remote_hits).add()
        if self.watch.listeners.hit:
            self.watch.hit(address, tier.name)

    def missed(self, address: Address) -> None:
        """Count a miss of every tier."""
        self.counters.misses.add()
        self.watch.missed(address)


def seconds_of(ttl: float | timedelta | None, name: str = "ttl") -> float:
    """Return a TTL (or what else `name` says) in seconds, `math.inf` for None.

    Raises:
        TypeError: no number of seconds and no timedelta (a bool is no number).
        ValueError: NaN, zero or negative.
    """
    if ttl is None:
        return math.inf
    if isinstance(ttl, timedelta):
        ttl = ttl.total_seconds()
    if isinstance(ttl, bool) or not isinstance(ttl, int | float):
        message = f"{name} must be a number of seconds, a timedelta or None, not {ttl!r}"
        raise TypeError(message)
    if not ttl > 0:
        hint = "; None means 'until invalidated'" if name == "ttl" else ""
        message = f"{name} must be greater than 0 seconds, not {ttl!r}{hint}"
        raise ValueError(message)
    return float(ttl)


def tags_of(tags: Iterable[str]) -> tuple[str, ...]:
    """Return tags sorted and without doubles.

    Raises:
        TypeError, ValueError: a lone string, or a tag that is no str or is empty.
    """
    if tags is None or isinstance(tags, str):
        hint = "() for none" if tags is None else f"the one string {tags!r}; write ({tags!r},)"
        message = f"tags must be a sequence of str, not {hint}"
        raise TypeError(message)
    tags = tuple(tags)
    for tag in tags:
        if not isinstance(tag, str):
            message = f"a tag must be a str, not {tag!r}"
            raise TypeError(message)
        if not tag:
            message = "a tag must not be empty"
            raise ValueError(message)
    return tuple(sorted({encode_tag(tag) for tag in tags}))
