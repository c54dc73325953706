"""What the tiers hold: `Envelope` below the process, `Entry` inside it."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple

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


@dataclass(slots=True)
class Envelope:
    """One entry as L2 and L3 hold it; times are wall-clock seconds since 1970.

    Nothing changes one after it was made (`dataclasses.replace` makes another). It is not frozen, because
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


class Entry:
    """One entry as the process's memory holds it; times are seconds of the monotonic clock.

    Attributes:
        value: the live value, handed out by reference.
        fresh_until: the next moment at which a read must take the slow path (expiry, early refresh, sliding).
        checked: the region's checkpoint up to which the entry was judged alive.
        epoch, born: see `Envelope`.
        begun: when its load began.
        own: True where this process loaded it, False where it was promoted from a tier below.
        expires: its deadline. keep: how long it may be served as grace.
        local: the ledger's local sequence when it was stored; a record that waits in the outbox kills what is older.
        capped: when this tier's own `ttl` ends; then the entry is looked for in the tiers below.
        ttl, cost, scope, tags: see `Envelope`.
        stale: True where a soft invalidation, or a stale input, marked it.
        size: bytes it is charged with where the tier is bounded by bytes, else 1.
        visits: small counter for the eviction policies that keep one.
    """

    __slots__ = (
        "begun",
        "born",
        "capped",
        "checked",
        "cost",
        "epoch",
        "expires",
        "fresh_until",
        "keep",
        "local",
        "own",
        "scope",
        "size",
        "stale",
        "tags",
        "ttl",
        "value",
        "visits",
    )  # fmt: skip

    def __init__(
        self,
        value: Any,
        *,
        epoch: str,
        born: int,
        begun: float,
        expires: float,
        keep: float,
        ttl: float,
        cost: float = 0.0,
        scope: str = "",
        tags: tuple[str, ...] = (),
        own: bool = True,
        stale: bool = False,
        checked: int = 0,
        size: int = 1,
    ) -> None:
        self.value = value
        self.epoch = epoch
        self.born = born
        self.begun = begun
        self.expires = expires
        self.keep = keep
        self.ttl = ttl
        self.cost = cost
        self.scope = scope
        self.tags = tags
        self.own = own
        self.stale = stale
        self.checked = checked
        self.size = size
        self.visits = 0
        self.capped = inf
        self.local = 0
        self.fresh_until = expires

    def __repr__(self) -> str:
        return f"Entry({self.value!r}, epoch={self.epoch!r}, born={self.born}, tags={self.tags!r})"
