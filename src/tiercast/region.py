"""A region at work: its settings, its tiers, and what its entries are made of and into.

Implementation notes.
    The hit path stands in `loading/hits.py`; it reads `hot`, which is the memory tier's own
    mapping or, where a hit needs more than handing out a reference (a policy read under a
    lock, copies), an empty one, so that every read comes to `look`. What memory serves and
    takes is `loading/residents.py`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from .coherence.log import Write
from .coherence.records import written_once
from .config import DEFAULT, Default
from .config.checks import LARGEST
from .invalidation.ttl import jittered
from .keys import encode_tag, storage_key
from .loading.hits import make_hit, make_hits
from .loading.leases import Fills, Lease, LeaseStore
from .loading.residents import MISS, Arrival, Missing, Residents, State
from .monitoring.counter import Counter
from .monitoring.watch import Watch
from .serialization import UnreadableValue
from .tiers.entry import STALE, TYPED, Address, Entry, Envelope
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

__all__ = [
    "LARGE", "MISS", "Begin", "Missing", "Region", "RegionCounters", "State", "Touched", "Ttl", "seconds_of", "tags_of",
]  # fmt: skip

Duration = float | timedelta
Ttl = Duration | None | Default
Touched = Callable[[Hashable, Entry], None]


@written_once
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

# As tuples: `isinstance` takes three times as long with a union, and this is asked of every part of every value stored.
_TEXTS = (str, bytes, bytearray)
_SEVERAL = (list, tuple, set, frozenset)
_NUMBERS = (int, float)


class Region(Residents):
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
        with self.ledger.lock:  # a record that names the region first may be coming in at this moment
            self.view = self.ledger.region(name)
        self.clock = clock
        self.flights = flights
        self.slots = slots
        self.workers = workers
        self.memory = memory
        self.below = tuple(tier for tier in (disk, remote) if tier is not None)
        self.disk = disk
        self.remote = remote
        self._write_of: Any = getattr(remote, "write_of", None)
        """The remote tier's half of an append, where its log stores values in the same step."""
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
        self._reside()
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

    def entry(self, value: Any, lifetime: float, tags: tuple[str, ...], begin: Begin, *, cost: float = 0.0) -> Entry:
        """Make the memory's entry of a value that this process loaded or was handed."""
        now = self.clock.monotonic()
        last = begin.monotonic + self.settings.max_lifetime
        expires = min(now + lifetime, last)
        grace = self.settings.grace
        keep = min(expires + grace, last) if grace else expires
        return self.entry_type(value, begin.epoch, begin.born, begin.monotonic, expires, keep, lifetime, cost, tags)

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

    def revive(self, tier: str, found: Sequence[tuple[Address, Envelope]], as_type: Any = None) -> list[Arrival]:
        """Make the entries of what a tier below holds; what cannot be read is counted and left out, what is over too."""
        version, wall = self.settings.version, self.clock.wall()
        shift = self.monotonic() - wall
        current = [each for each in found if each[1].version == version and each[1].keep_until > wall]
        values = self.serializers[tier].load_many([envelope for _, envelope in current], as_type)
        arrivals: list[Arrival] = []
        for (address, envelope), value in zip(current, values, strict=True):
            if value.__class__ is UnreadableValue:
                self.counters.corrupt.add()
            else:
                arrivals.append(self._arrival(address, envelope, value, shift, as_type))
        return arrivals

    def revive_one(self, tier: str, address: Address, envelope: Envelope, as_type: Any = None) -> Arrival | None:
        """`revive` one; None where it is left out."""
        wall = self.clock.wall()
        if envelope.version != self.settings.version or envelope.keep_until <= wall:
            return None
        value = self.serializers[tier].load_one(envelope, as_type)
        if value.__class__ is UnreadableValue:
            self.counters.corrupt.add()
            return None
        return self._arrival(address, envelope, value, self.monotonic() - wall, as_type)

    def _arrival(self, address: Address, envelope: Envelope, value: Any, shift: float, as_type: Any) -> Arrival:
        """Make the entry of an envelope; `shift`: what the monotonic clock is ahead of the wall clock."""
        flags = envelope.flags
        entry = self.entry_type(
            value,
            envelope.epoch,
            envelope.born,
            envelope.created + shift,
            envelope.fresh_until + shift,
            envelope.keep_until + shift,
            envelope.ttl,
            envelope.cost,
            envelope.tags,
            False,
        )
        if flags & STALE:
            entry.stale = True
        return address, entry, as_type is not None or not flags & TYPED

    def looks_large(self, value: Any) -> bool:
        """Whether encoding a value may take long enough to hold up an event loop."""
        left, waiting = LARGE, [value]
        while waiting:  # a rough measure that ends as soon as it is over: `size_of` costs more than most encoding
            part = waiting.pop()
            if isinstance(part, _TEXTS):
                left -= len(part)
            elif isinstance(part, dict):
                left -= 16 * len(part)
                waiting.extend(part.values())
            elif isinstance(part, _SEVERAL):
                left -= 8 * len(part)
                waiting.extend(part)
            elif part is None or isinstance(part, _NUMBERS):
                left -= 8
            else:
                left -= size_of(part)
            if left < 0:
                return True
        return False

    def write_of(self, address: Address, envelope: Envelope, fence: float) -> Write:
        """Return the L3 half of an append that stores a value."""
        return Write(*self._write_of(address, envelope, fence))

    def lease(self, address: Address, lock_ttl: float | None, flight: Flight) -> Lease | None:
        """Return an attempt at the fleet's lease for loading an address; None where its fill would reach nobody else."""
        if self.leases is None:
            return None
        ttl = lock_ttl or self.settings.lock_ttl
        name = f"{self.ledger.epoch}:{storage_key(*address)}"
        return Lease(self.leases, name, ttl, self.fills, flight, self.counters.lock_waits)

    def found_below(self, tier: Tier, addresses: Sequence[Address]) -> None:
        """Count hits of a tier below memory."""
        count = (self.counters.disk_hits if tier is self.disk else self.counters.remote_hits).add
        for _ in addresses:
            count()
        if self.watch.listeners.hit:
            for address in addresses:
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
    return float(ttl) if ttl <= LARGEST else math.inf


def tags_of(tags: Iterable[str]) -> tuple[str, ...]:
    """Return tags sorted and without doubles.

    Raises:
        TypeError, ValueError: a lone string, or a tag that is no str or is empty.
    """
    if isinstance(tags, str) or not isinstance(tags, Iterable):
        instead = f"the one string {tags!r}; write ({tags!r},)" if isinstance(tags, str) else f"{tags!r}; () means none"
        message = f"tags must be a sequence of str, not {instead}"
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
