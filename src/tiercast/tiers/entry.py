"""What the tiers hold: `Envelope` below the process, `Entry` inside it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any, NamedTuple

from ..checkpoint import Checkpoint, unjudged

STALE = 1
"""Envelope flag: a soft invalidation marked it; it may be served only as grace."""
TOMBSTONE = 2
"""Envelope flag: nothing is here, and nothing born earlier may come back."""

TYPED = 4
"""Envelope flag: the value was lowered from a declared type; who reads it without the type gets plain data."""


class Address(NamedTuple):
    """Where an entry lives, the same in every tier.

    Attributes:
        region: the region's plain name.
        scope: a canonical scope path (`keys.py`); the empty string is the root.
        key: the user's key, unchanged.
    """

    region: str
    scope: str
    key: str


address_of = partial(tuple.__new__, Address)
"""Makes an `Address` of a tuple of its parts, in half the time that a NamedTuple's own constructor takes."""


@dataclass(slots=True)
class Envelope:
    """One entry as L2 and L3 hold it; times are wall-clock seconds since 1970.

    Nothing changes one that another may have seen (`dataclasses.replace` makes another). It is not frozen, because
    that makes making one three times as slow, and each read of a tier below makes one.

    Attributes:
        epoch: the epoch of `born`.
        born: the log position that the loading process had applied when the load began.
        created: when the load began.
        fresh_until: the entry's one (jittered) deadline; `math.inf` for none.
        keep_until: how long it may still be served as grace; at least `fresh_until`.
        ttl: the jittered lifetime in seconds that a sliding read renews; `math.inf` for none.
        cost: seconds that the load took.
        scope: canonical scope path.
        tags: the entry's tags, sorted.
        codec: the id of the codec of `payload`.
        compressed: whether `payload` is compressed (zstd).
        flags: STALE | TOMBSTONE | TYPED.
        version: the region's `version`, as text.
        key: the user's key.
        payload: the encoded value.
    """

    epoch: str
    born: int
    created: float
    fresh_until: float
    keep_until: float
    ttl: float
    cost: float
    scope: str
    tags: tuple[str, ...]
    codec: int
    compressed: bool
    flags: int
    version: str
    key: str
    payload: bytes


COMMON = ("begun", "born", "checked", "expires", "fresh_until", "tags", "ttl", "value")
"""The slots of every entry; by a name, as mypy holds what stands below for attributes that lack one."""


class Entry:
    """One entry as the process's memory holds it; times are seconds of the monotonic clock.

    There may be millions, so what only some regions ask for is no slot of this class but of those below; each region
    makes entries of one class, and a class does not keep what it has no slot for.

    Attributes:
        value: the live value, handed out by reference.
        fresh_until: the next moment at which a read must take the slow path (expiry, early refresh, sliding);
            minus infinity where the entry is stale.
        checked: the region's checkpoint up to which the entry was judged alive, which says its epoch as well.
        born: see `Envelope`.
        begun: when its load began.
        expires: its deadline.
        ttl, tags: see `Envelope`.
        cost, own: see `DetailedEntry`. capped, size, visits: see `MeteredEntry`.
    """

    __slots__ = COMMON

    cost: float = 0.0
    own: bool = True
    capped: float = inf
    size: int = 1
    visits: int = 0

    def __init__(
        self,
        value: Any,
        epoch: str,
        born: int,
        begun: float,
        expires: float,
        keep: float,
        ttl: float,
        cost: float = 0.0,
        tags: tuple[str, ...] = (),
        own: bool = True,
    ) -> None:
        self.value = value
        self.checked: Checkpoint = unjudged(epoch)
        self.born = born
        self.begun = begun
        self.expires = self.fresh_until = expires
        self.ttl = ttl
        self.tags = tags

    @property
    def epoch(self) -> str:
        """See `Envelope`; setting it makes an entry that was not judged yet."""
        return self.checked.epoch

    @epoch.setter
    def epoch(self, epoch: str) -> None:
        self.checked = unjudged(epoch)

    @property
    def keep(self) -> float:
        """How long it may be served as grace."""
        return self.expires

    def end_at(self, expires: float, keep: float) -> None:
        """Give it other deadlines; when a read must look closer, `fresh_until`, is the caller's business."""
        self.expires = expires

    @property
    def stale(self) -> bool:
        """Whether a soft invalidation, or a stale input, marked it."""
        return self.fresh_until == -inf

    @stale.setter
    def stale(self, stale: bool) -> None:
        if stale:
            self.fresh_until = -inf
        elif self.fresh_until == -inf:
            self.fresh_until = self.expires

    def __repr__(self) -> str:
        return f"Entry({self.value!r}, epoch={self.epoch!r}, born={self.born}, tags={self.tags!r})"


class DetailedEntry(Entry):
    """An entry of a region that has tiers below memory, grace, or early refresh.

    Attributes:
        keep: how long it may be served as grace.
        cost: see `Envelope`.
        own: True where this process loaded it, False where it was promoted from a tier below.
    """

    __slots__ = ("cost", "keep", "own")

    keep: float

    def __init__(
        self,
        value: Any,
        epoch: str,
        born: int,
        begun: float,
        expires: float,
        keep: float,
        ttl: float,
        cost: float = 0.0,
        tags: tuple[str, ...] = (),
        own: bool = True,
    ) -> None:
        # Not by `super().__init__`, which would cost as much again: each read of a tier below makes one.
        self.value = value
        self.checked = unjudged(epoch)
        self.born = born
        self.begun = begun
        self.expires = self.fresh_until = expires
        self.keep = keep
        self.ttl = ttl
        self.cost = cost
        self.tags = tags
        self.own = own

    def end_at(self, expires: float, keep: float) -> None:
        self.expires = expires
        self.keep = keep


class MeteredEntry(DetailedEntry):
    """An entry of a region that is bounded by bytes, counts visits, or has a TTL of memory's own.

    Attributes:
        capped: when this tier's own `ttl` ends; then the entry is looked for in the tiers below.
        size: bytes it is charged with where the tier is bounded by bytes, else 1.
        visits: small counter for the eviction policies that keep one.
    """

    __slots__ = ("capped", "size", "visits")

    def __init__(self, *args: Any, size: int = 1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.capped = inf
        self.size = size
        self.visits = 0
