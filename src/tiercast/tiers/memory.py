"""The memory tier (L1): live values of this process, bounded by number and by bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from itertools import islice
from typing import Any, Literal, TypeAlias

from ..clock import Clock
from .entry import Entry
from .policies import MOST_VISITS, make_policy
from .sizes import ENTRY_OVERHEAD, size_of

UNSIZED = 1
"""The `size` of an entry that nobody measured."""
SAMPLE = 100
"""Entries that are measured to estimate what all of them take."""

Cause = Literal["size", "bytes", "namespace", "policy", "too_large"]
"""Why an entry left: the bounds, its namespace's limit, the cache that a user passed, or it alone exceeds a bound."""


Evicted: TypeAlias = tuple[Hashable, Entry, Cause]
"""A key and its entry that had to go so that another could stay, and why."""


class MemoryTier:
    """Entries of one region in this process's memory.

    Implementation notes.
        *Concurrency.* `entries` is one mapping for life, cleared in place; looking into it takes
        no lock, and an entry that a reader holds stays whole whatever happens to its key. All
        that changes which keys there are happens with `lock` held *by the caller*: the
        ledger's lock, so that judging a fill and inserting it are one critical section.
        *Touch.* What a reader does on a hit depends on `touch_kind`:
        "none"; "move": ``entries.move_to_end(key)``, a KeyError from a racing removal ignored;
        "visit": ``entry.visits += 1`` up to `MOST_VISITS`; "locked": only `get` may be used,
        which takes the lock. `touch` does the right one.
        *Expiry.* Deadlines are the reader's business; `sweep` removes what nobody reads.

    Args:
        max_size: the most entries; None: no limit by number.
        max_bytes: the most bytes, by `Entry.size`; None: no limit by bytes.
        policy: see `make_policy`.
        lock: taken by "locked" reads and `sweep`, and held by callers of the rest; must be re-entrant.
        clock: not read: deadlines are the reader's business.

    Raises:
        ValueError: a limit below 1.
        ConfigError: the policy is none.
    """

    def __init__(
        self,
        max_size: int | None = 10_000,
        max_bytes: int | None = None,
        policy: Any = "lru",
        lock: threading.RLock | None = None,
        clock: Clock | None = None,
    ) -> None:
        for name, limit in (("max_size", max_size), ("max_bytes", max_bytes)):
            if limit is not None and limit < 1:
                raise ValueError(f"{name} must be at least 1, not {limit!r}")
        self.lock: Any = lock or threading.RLock()
        self.max_size = max_size
        self.max_bytes = max_bytes
        self.policy = make_policy(policy, max_size)
        self.touch_kind = self.policy.touch_kind
        self.entries = self.policy.entries
        self.bytes = 0
        """The sum of the entries' `size`."""
        self._dropped: list[tuple[Hashable, Entry]] = getattr(self.policy, "dropped", [])
        self._namespaces: dict[str, OrderedDict[Hashable, None]] = {}
        self._namespace_of: dict[Hashable, str] = {}

    def __len__(self) -> int:
        return len(self.entries)

    # -- reading ----------------------------------------------------------------------------

    def get(self, key: Hashable) -> Entry | None:
        """Return the entry of a key, whatever its deadlines; takes the lock only for "locked" policies."""
        if self.touch_kind != "locked":
            return self.entries.get(key)
        with self.lock:
            entry = self.entries.get(key)
            if entry is not None and not self.policy.visit(key, entry):  # type: ignore[attr-defined]
                if self.entries.get(key) is entry:
                    self.pop(key)
                self._settle_dropped([])
                return None
            return entry

    def touch(self, key: Hashable, entry: Entry) -> None:
        """Tell the policy that an entry was read; nothing to do where `get` has told it already."""
        if self.touch_kind == "move":
            try:
                self.entries.move_to_end(key)  # type: ignore[attr-defined]
            except KeyError:  # removed a moment ago
                pass
        elif self.touch_kind == "visit" and entry.visits < MOST_VISITS:
            entry.visits += 1

    def items(self) -> list[tuple[Hashable, Entry]]:
        """Return the entries as of now, in no order that means anything."""
        with self.lock:
            # A reader's move_to_end disturbs an OrderedDict's own iterator, not that of the dict beneath.
            return list(dict.items(self.entries))

    def estimate(self) -> int:
        """Return the bytes that the entries take, roughly: counted where they are bounded, else from a sample."""
        if self.max_bytes is not None:
            return self.bytes
        with self.lock:
            sample = list(islice(dict.items(self.entries), SAMPLE))
            count = len(self.entries)
        sizes = [ENTRY_OVERHEAD + size_of(key) + size_of(entry.value) for key, entry in sample]
        return sum(sizes) * count // len(sizes) if sizes else 0

    # -- changing, with the lock held ---------------------------------------------------------

    def insert(
        self,
        key: Hashable,
        entry: Entry,
        namespace: str | None = None,
        limit: int | None = None,
        evicted: list[Evicted] | None = None,
    ) -> list[Evicted]:
        """Put an entry in, in place of what stands there, and return what had to go. Call with `lock` held.

        An entry that alone exceeds a bound is not kept and is itself among the evicted; what
        stood under its key is gone all the same.

        Args:
            key: the key; hashable.
            entry: its `size` counts against `max_bytes` and must not change while it is here; one that
                still has the size 1 is measured, better done before the lock is taken.
            namespace: entries of one namespace share `limit`; the oldest of them goes first.
            limit: the most entries of that namespace.
            evicted: the list to which what has to go is added, and which is returned.
        """
        if evicted is None:
            evicted = []
        if self.max_bytes is not None and entry.size == UNSIZED:
            entry.size = ENTRY_OVERHEAD + size_of(key) + size_of(entry.value)
        standing = self.entries.get(key)
        if self.max_bytes is not None and entry.size > self.max_bytes:
            self.pop(key)
            evicted.append((key, entry, "too_large"))
            return evicted
        if standing is not None:
            self.bytes -= standing.size
        if self.max_bytes is not None:
            self._make_room(entry, standing, evicted)
        elif standing is None and len(self.entries) == self.max_size:
            self._evict("size", evicted)
        try:
            self.policy.add(key, entry)
        except ValueError:  # a cachetools.Cache: "value too large"
            self._leave_namespace(key)
            evicted.append((key, entry, "too_large"))
        else:
            self.bytes += entry.size
        if self._dropped:
            self._settle_dropped(evicted)
        if (namespace is not None or self._namespace_of) and self.entries.get(key) is entry:
            self._enter_namespace(key, namespace, limit, evicted)
        return evicted

    def pop(self, key: Hashable) -> Entry | None:
        """Take an entry out. Call with `lock` held."""
        entry = self.policy.discard(key)
        if entry is not None:
            self._lost(key, entry)
        return entry

    def pop_older(self, key: Hashable, born: int) -> Entry | None:
        """Take an entry out if it was born before `born`. Call with `lock` held."""
        entry = self.entries.get(key)
        if entry is None or entry.born >= born:
            return None
        return self.pop(key)

    def clear(self) -> int:
        """Take everything out and return how much it was. Call with `lock` held."""
        count = len(self.entries)
        self.policy.clear()
        self.bytes = 0
        self._namespaces.clear()
        self._namespace_of.clear()
        return count

    # -- in the background ----------------------------------------------------------------------

    def sweep(
        self,
        dead: Callable[[Hashable, Entry], bool],
        *,
        slice_size: int = 1000,
        pause: Callable[[], object] = lambda: None,
    ) -> int:
        """Remove the entries that `dead` says yes to and return how many. Takes the lock by itself, once a slice.

        Args:
            dead: called once for each entry, without the lock.
            slice_size: entries judged between two turns at the lock.
            pause: called after each slice, without the lock; a sweeper may sleep in it.
        """
        removed = 0
        with self.lock:
            keys = list(dict.keys(self.entries))
        for start in range(0, len(keys), slice_size):
            found = ((key, self.entries.get(key)) for key in keys[start : start + slice_size])
            condemned = [(key, entry) for key, entry in found if entry is not None and dead(key, entry)]
            with self.lock:
                for key, entry in condemned:
                    if self.entries.get(key) is entry:  # not what has come to stand there in the meantime
                        self.pop(key)
                        removed += 1
            pause()
        return removed

    def check(self) -> None:
        """Raise AssertionError where sizes, order, namespaces and entries do not fit together."""
        with self.lock:
            self.policy.check()
            entries = self.entries
            assert self.bytes == sum(entry.size for _, entry in self.items()), "the bytes do not add up"
            assert self.max_size is None or len(entries) <= self.max_size, "more entries than allowed"
            assert self.max_bytes is None or self.bytes <= self.max_bytes, "more bytes than allowed"
            spaces = {key: name for name, keys in self._namespaces.items() for key in keys}
            assert spaces == self._namespace_of, "namespaces disagree"
            assert spaces.keys() <= entries.keys(), "a namespace lists a key that is gone"

    # -- inside ---------------------------------------------------------------------------------

    def _make_room(self, entry: Entry, standing: Entry | None, evicted: list[Evicted]) -> None:
        """Evict until the entry fits; `standing`, which it replaces, is no longer counted in `bytes`."""
        entries, max_size, max_bytes = self.entries, self.max_size, self.max_bytes
        while entries:
            if max_size is not None and len(entries) + (standing is None) > max_size:
                cause: Cause = "size"
            elif max_bytes is not None and self.bytes + entry.size > max_bytes:
                cause = "bytes"
            else:
                return
            if self._evict(cause, evicted, standing) is standing:
                standing = None

    def _evict(self, cause: Cause, evicted: list[Evicted], standing: Entry | None = None) -> Entry:
        """Let the policy choose an entry to go; one that would have been replaced anyway is no eviction."""
        key, gone = self.policy.evict()
        if gone is not standing:
            self._lost(key, gone)
            evicted.append((key, gone, cause))
        return gone

    def _settle_dropped(self, evicted: list[Evicted]) -> None:
        """Follow what a borrowed cache gave up by itself."""
        while self._dropped:
            key, entry = self._dropped.pop()
            self._lost(key, entry)
            evicted.append((key, entry, "policy"))

    def _lost(self, key: Hashable, entry: Entry) -> None:
        self.bytes -= entry.size
        if self._namespace_of:
            self._leave_namespace(key)

    def _enter_namespace(self, key: Hashable, namespace: str | None, limit: int | None, evicted: list[Evicted]) -> None:
        if self._namespace_of.get(key) != namespace:
            self._leave_namespace(key)
        if namespace is None:
            return
        self._namespace_of[key] = namespace
        keys = self._namespaces.setdefault(namespace, OrderedDict())
        keys[key] = None
        keys.move_to_end(key)
        while limit is not None and len(keys) > limit:
            oldest = next(iter(keys))
            gone = self.pop(oldest)
            if gone is not None:
                evicted.append((oldest, gone, "namespace"))

    def _leave_namespace(self, key: Hashable) -> None:
        namespace = self._namespace_of.pop(key, None)
        if namespace is not None:
            keys = self._namespaces[namespace]
            del keys[key]
            if not keys:
                del self._namespaces[namespace]
