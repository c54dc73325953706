"""Which entry the memory tier gives up first: LRU, S3-FIFO, SIEVE, and whatever cachetools has.

A policy owns the mapping that readers look into without a lock, and the order in
which entries leave it. Everything but reading happens under the tier's lock. A
removed key may stay in a queue as a *husk* until the queue's hand comes by: taking
it out of the middle would need a linked node per entry. A key that comes back
before that keeps its place.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Any, Protocol

from ..errors import ConfigError
from .entry import Entry

MOST_VISITS = 3
"""Readers stop counting an entry's visits here; two bits are what S3-FIFO asks for."""


class Policy(Protocol):
    """An order of eviction over `entries`. Every method is called with the tier's lock held.

    Attributes:
        name: what settings call it.
        touch_kind: what a reader does on a hit, see `MemoryTier.touch_kind`.
        entries: the mapping, the same object for life; its `get` takes no lock.
    """

    name: str
    touch_kind: str
    entries: dict[Hashable, Entry]

    def add(self, key: Hashable, entry: Entry) -> None:
        """Take an entry in; its key may stand there already."""
        ...

    def discard(self, key: Hashable) -> Entry | None:
        """Take a key out that was removed by somebody else than the policy."""
        ...

    def evict(self) -> tuple[Hashable, Entry]:
        """Choose an entry, take it out and return it; there is at least one."""
        ...

    def clear(self) -> None:
        """Forget everything."""
        ...

    def check(self) -> None:
        """Raise AssertionError where the policy's order and its entries do not fit together."""
        ...


class LruPolicy:
    """Least recently used goes first, exactly.

    `OrderedDict.move_to_end` and `popitem` are each one C call over keys that are
    str or tuples of str, so readers move entries without a lock while a writer evicts;
    a reader that comes too late gets a KeyError and ignores it.
    """

    name = "lru"
    touch_kind = "move"

    def __init__(self) -> None:
        self.entries: OrderedDict[Hashable, Entry] = OrderedDict()

    def add(self, key: Hashable, entry: Entry) -> None:
        entries = self.entries
        if key in entries:
            entries[key] = entry
            entries.move_to_end(key)
        else:
            entries[key] = entry

    def discard(self, key: Hashable) -> Entry | None:
        return self.entries.pop(key, None)

    def evict(self) -> tuple[Hashable, Entry]:
        return self.entries.popitem(last=False)

    def clear(self) -> None:
        self.entries.clear()

    def check(self) -> None:
        assert len(list(self.entries)) == len(self.entries), "the order lost or doubled a key"


class SievePolicy:
    """SIEVE: a hand goes from old to new, spares what was visited and evicts what was not.

    Zhang, Yang, Yue, Vigfusson, Rashmi: "SIEVE is Simpler than LRU", NSDI 2024. The
    paper's one list with a hand inside it is kept as two queues: `_ahead` is what the
    hand has still to pass, newcomers at its end, and `_behind` is what it has spared.
    """

    name = "sieve"
    touch_kind = "visit"

    def __init__(self) -> None:
        self.entries: dict[Hashable, Entry] = {}
        self._ahead: deque[Hashable] = deque()
        self._behind: deque[Hashable] = deque()
        self._husks: set[Hashable] = set()

    def add(self, key: Hashable, entry: Entry) -> None:
        standing = self.entries.get(key)
        if standing is not None:
            entry.visits = standing.visits
        elif key in self._husks:
            self._husks.discard(key)
            entry.visits = 1
        else:
            self._ahead.append(key)
        self.entries[key] = entry

    def discard(self, key: Hashable) -> Entry | None:
        entry = self.entries.pop(key, None)
        if entry is not None:
            self._husks.add(key)
            if len(self._husks) > len(self.entries) // 2 + 64:
                self._sweep_husks()
        return entry

    def evict(self) -> tuple[Hashable, Entry]:
        entries, husks = self.entries, self._husks
        while True:
            if not self._ahead:
                self._ahead, self._behind = self._behind, self._ahead
            key = self._ahead.popleft()
            if key in husks:
                husks.discard(key)
                continue
            entry = entries[key]
            if not entry.visits:
                del entries[key]
                if not self._ahead:
                    # The hand has passed the newest: it begins anew with the oldest, not with who comes next.
                    self._ahead, self._behind = self._behind, self._ahead
                return key, entry
            entry.visits = 0
            self._behind.append(key)

    def clear(self) -> None:
        self.entries.clear()
        self._ahead.clear()
        self._behind.clear()
        self._husks.clear()

    def check(self) -> None:
        check_queues(self.entries, self._husks, self._ahead, self._behind)

    def _sweep_husks(self) -> None:
        self._ahead = deque(key for key in self._ahead if key in self.entries)
        self._behind = deque(key for key in self._behind if key in self.entries)
        self._husks.clear()


class S3FifoPolicy:
    """S3-FIFO: a small queue on trial, a main queue, and a memory of what left the small one.

    Yang, Zhang, Qiu, Yue, Rashmi: "FIFO queues are all you need for cache eviction",
    SOSP 2023. A newcomer goes to the small queue (a tenth of the entries); visited more
    than once there it moves on to main, else it leaves and its key is remembered; a
    remembered key that comes back goes to main at once. Main gives each visited entry
    another round.
    """

    name = "s3fifo"
    touch_kind = "visit"
    SMALL = 0.1
    """The small queue's share of all entries."""

    def __init__(self) -> None:
        self.entries: dict[Hashable, Entry] = {}
        self._small: deque[Hashable] = deque()
        self._main: deque[Hashable] = deque()
        self._husks: set[Hashable] = set()
        self._left: OrderedDict[Hashable, None] = OrderedDict()

    def add(self, key: Hashable, entry: Entry) -> None:
        standing = self.entries.get(key)
        if standing is not None:
            entry.visits = standing.visits
        elif key in self._husks:
            self._husks.discard(key)
            entry.visits = 1
        elif key in self._left:
            del self._left[key]
            self._main.append(key)
        else:
            self._small.append(key)
        self.entries[key] = entry

    def discard(self, key: Hashable) -> Entry | None:
        entry = self.entries.pop(key, None)
        if entry is not None:
            self._husks.add(key)
            if len(self._husks) > len(self.entries) // 2 + 64:
                self._sweep_husks()
        return entry

    def evict(self) -> tuple[Hashable, Entry]:
        while True:
            small, main = self._small, self._main
            if small and (not main or len(small) >= self.SMALL * (len(small) + len(main))):
                evicted = self._evict_small()
            else:
                evicted = self._evict_main()
            if evicted is not None:
                return evicted

    def _evict_small(self) -> tuple[Hashable, Entry] | None:
        key = self._small.popleft()
        if key in self._husks:
            self._husks.discard(key)
            return None
        entry = self.entries[key]
        if entry.visits > 1:
            entry.visits = 0
            self._main.append(key)
            return None
        del self.entries[key]
        self._left[key] = None
        while len(self._left) > len(self._main) + 1:
            self._left.popitem(last=False)
        return key, entry

    def _evict_main(self) -> tuple[Hashable, Entry] | None:
        key = self._main.popleft()
        if key in self._husks:
            self._husks.discard(key)
            return None
        entry = self.entries[key]
        if entry.visits:
            # Readers count without a lock, so `visits` may exceed the limit by a few.
            entry.visits = min(entry.visits, MOST_VISITS) - 1
            self._main.append(key)
            return None
        del self.entries[key]
        return key, entry

    def clear(self) -> None:
        self.entries.clear()
        self._small.clear()
        self._main.clear()
        self._husks.clear()
        self._left.clear()

    def check(self) -> None:
        check_queues(self.entries, self._husks, self._small, self._main)
        assert not self._left.keys() & self.entries.keys(), "a key is remembered as gone and is there"

    def _sweep_husks(self) -> None:
        self._small = deque(key for key in self._small if key in self.entries)
        self._main = deque(key for key in self._main if key in self.entries)
        self._husks.clear()


OWN: dict[str, type[Any]] = {"lru": LruPolicy, "s3fifo": S3FifoPolicy, "sieve": SievePolicy}
"""The policies whose reads take no lock, by name."""
BORROWED = {"lfu": "LFUCache", "fifo": "FIFOCache", "random": "RRCache"}
"""The policies that are cachetools', by name; read under the lock."""


def make_policy(policy: Any, max_size: int | None) -> Policy:
    """Make what a setting names.

    Args:
        policy: a name of `OWN` or `BORROWED`; an empty `cachetools.Cache`; a class or function that
            makes one out of the number of entries; "package.module:Name" of such a class or
            function; or an object with the methods of `Policy`.
        max_size: entries, handed to what makes a cache; None: 10,000 there.

    Raises:
        ConfigError: the name is unknown, or what was made is no cache.
    """
    if isinstance(policy, str) and policy in OWN:
        made: Policy = OWN[policy]()
        return made
    if hasattr(policy, "evict") and hasattr(policy, "entries") and not isinstance(policy, type):
        given: Policy = policy
        return given
    from .borrowed import borrow

    return borrow(policy, max_size)


def check_queues(entries: dict[Hashable, Entry], husks: set[Hashable], *queues: deque[Hashable]) -> None:
    """Raise AssertionError unless every entry and every husk stands in the queues exactly once."""
    queued = [key for queue in queues for key in queue]
    assert len(queued) == len(set(queued)), "a key is queued twice"
    assert not husks & entries.keys(), "a husk is an entry"
    assert set(queued) == husks | entries.keys(), "queues and entries differ"


def unknown_policy(name: object, why: str = "") -> ConfigError:
    """Return the error that names a policy which cannot be."""
    known = ", ".join(sorted((*OWN, *BORROWED)))
    return ConfigError(
        f"policy: {name!r} is none of {known}, no cachetools.Cache, nothing that makes one, "
        f"and no 'package.module:Name' of one{why and f': {why}'}"
    )
