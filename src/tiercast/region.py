"""A region at work: its settings, its tiers, and the rules by which memory serves and takes entries.

Implementation notes.
    The hit path stands in `CacheManager.get`; it reads `hot`, which is the memory tier's own
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

from .coherence.judging import Verdict
from .coherence.log import Write
from .config import DEFAULT, Default
from .keys import encode_tag, storage_key
from .loading.leases import Lease, LeaseStore
from .monitoring.counter import Counter
from .serialization import UnreadableValue
from .tiers.entry import STALE, TYPED, Address, Entry, Envelope
from .tiers.frozen import frozen
from .tiers.sizes import size_of

if TYPE_CHECKING:
    from .clock import Clock
    from .coherence.coherence import Coherence
    from .config import RegionConfig
    from .loading.flights import Flights
    from .loading.slots import Slots
    from .loading.workers import Workers
    from .serialization import Serializer
    from .tiers.base import Tier
    from .tiers.memory import MemoryTier


Ttl = float | timedelta | None | Default


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
    """Past its deadline, or marked by a soft invalidation; grace may serve it."""
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

NOTHING: Mapping[Hashable, Entry] = {}


class Region:
    """One region's tiers and rules. Thread-safe and loop-safe; holds no I/O of its own.

    Args:
        name: its plain name.
        settings: the resolved settings.
        memory, disk, remote: its tiers; each may be absent.
        serializers: the tiers' serializers by tier name.
        leases: where the fleet's leases lie; None where this process is alone.
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
        strict: Serializer | None = None,
        rng: random.Random | None = None,
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
        self.leases = leases
        self.strict = strict
        self.jitter = settings.ttl_jitter
        self.sliding = settings.sliding
        self.counters = RegionCounters()
        self.backoff: dict[Hashable, tuple[float, float]] = {}
        self.rng = rng or random.Random()
        self.copies = settings.local is not None and settings.local.copy_on_read
        self.freezes = settings.local is not None and settings.local.freeze
        self.monotonic = clock.monotonic
        self.heads = coherence.log.heads
        self.hot: Mapping[Hashable, Entry] = NOTHING
        self.touched = self._hit_toucher()
        if memory is not None and not self.copies and memory.touch_kind != "locked":
            self.hot = memory.entries

    def _hit_toucher(self) -> Callable[[Hashable, Entry], None]:
        """Return what a hit does besides handing out the value: count, and tell the eviction policy; no lock."""
        count = self.counters.hits.add
        memory = self.memory
        kind = "none" if memory is None else memory.touch_kind

        if kind == "move":
            move_to_end = memory.entries.move_to_end  # type: ignore[union-attr]

            def touched(local_key: Hashable, entry: Entry) -> None:
                count()
                try:
                    move_to_end(local_key)
                except KeyError:  # removed since it was read: it was still alive then
                    pass

        elif kind == "visit":

            def touched(local_key: Hashable, entry: Entry) -> None:
                count()
                if entry.visits < 3:  # noqa: PLR2004  S3-FIFO counts to three; SIEVE looks at zero or not
                    entry.visits += 1

        else:

            def touched(local_key: Hashable, entry: Entry) -> None:
                count()

        return touched

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
        seconds = seconds_of(self.settings.ttl if ttl is DEFAULT else ttl)
        if self.jitter and seconds != math.inf:
            seconds *= self.rng.uniform(1 - self.jitter, 1 + self.jitter)
        return seconds

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
        return Entry(
            value,
            epoch=begin.epoch,
            born=begin.born,
            begun=begin.monotonic,
            expires=expires,
            keep=min(expires + self.settings.grace, last),
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
        return size_of(value) > LARGE

    def write_of(self, address: Address, envelope: Envelope | None, fence: float) -> Write:
        """Return the L3 half of an append: the envelope put, or without one a fence."""
        return Write(*self.remote.write_of(address, envelope, fence))  # type: ignore[union-attr]

    def lease(self, address: Address, lock_ttl: float | None) -> Lease | None:
        """Return an attempt at the fleet's lease for loading an address; None where this process is alone."""
        if self.leases is None:
            return None
        name = storage_key(*address)
        return Lease(self.leases, name, lock_ttl or self.settings.lock_ttl, self.counters.lock_waits)

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
        if not self._alive(local_key, address, entry) or now >= entry.keep or now >= entry.capped:
            self._forget(local_key, entry)
            return None, State.MISS
        if not proven:
            settings = self.coherence.settings
            recent = entry.own and entry.begun > now - settings.max_staleness
            serve = settings.on_outage == "serve" or recent
            if not serve or now >= entry.expires or entry.stale:
                return entry, State.UNPROVEN
            return entry, State.FRESH
        if entry.stale or now >= entry.expires:
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
                return False
            if verdict is Verdict.STALE:
                entry.stale = True
                entry.fresh_until = -math.inf
            entry.checked = checkpoint
            return True

    def _forget(self, local_key: Hashable, entry: Entry) -> None:
        memory = self.memory
        with self.ledger.lock:
            if memory is not None and memory.get(local_key) is entry:
                memory.pop(local_key)

    def _due(self, entry: Entry, now: float) -> State:
        """Draw for an early refresh: XFetch (Vattani, Chierichetti, Lowenstein: Optimal Probabilistic Cache
        Stampede Prevention, VLDB 2015): now - cost * beta * ln(random) >= expiry.
        """
        beta = self.settings.early_refresh
        if beta and entry.cost and now - entry.cost * beta * math.log(1.0 - self.rng.random()) >= entry.expires:
            return State.DUE
        return State.FRESH

    def _next_look(self, entry: Entry, now: float) -> float:
        """Return when a read must next take the slow path."""
        look = min(entry.expires, entry.capped)
        if entry.stale:
            return -math.inf
        beta = self.settings.early_refresh
        if beta and entry.cost:
            # A draw further out than this has a chance of under one in a million.
            look = min(look, max(now, entry.expires - entry.cost * beta * 14.0))
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
                entry.capped = now + settings.ttl
            entry.fresh_until = self._next_look(entry, now)
            for _ in memory.insert(local_key, entry):
                self.counters.evictions.add()
        return True

    def drop_key(self, local_key: Hashable, position: int, *, soft: bool) -> None:
        """Take what a key record killed out of memory; the ledger's lock is held."""
        memory = self.memory
        if memory is None:
            return
        if not soft:
            if memory.pop_older(local_key, position) is not None:
                self.counters.invalidated.add()
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
        """Tell the eviction policy of a read that took the slow path."""
        if self.memory is not None:
            self.memory.touch(local_key, entry)


def seconds_of(ttl: float | timedelta | None) -> float:
    """Return a TTL in seconds, `math.inf` for None.

    Raises:
        TypeError: no number of seconds and no timedelta (a bool is no number).
        ValueError: NaN, zero or negative.
    """
    if ttl is None:
        return math.inf
    if isinstance(ttl, timedelta):
        ttl = ttl.total_seconds()
    if isinstance(ttl, bool) or not isinstance(ttl, int | float):
        message = f"ttl must be a number of seconds, a timedelta or None, not {ttl!r}"
        raise TypeError(message)
    if not ttl > 0:
        message = f"ttl must be greater than 0 seconds, not {ttl!r}; None means 'until invalidated'"
        raise ValueError(message)
    return float(ttl)


def tags_of(tags: Iterable[str]) -> tuple[str, ...]:
    """Return tags sorted and without doubles.

    Raises:
        TypeError, ValueError: a lone string, or a tag that is no str or is empty.
    """
    if isinstance(tags, str):
        message = f"tags must be a sequence of str, not the one string {tags!r}; write ({tags!r},)"
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
