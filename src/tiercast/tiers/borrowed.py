"""Eviction by a `cachetools.Cache`: cachetools' own policies, and caches that users pass."""

from __future__ import annotations

import importlib
import math
from collections.abc import Hashable
from typing import Any

import cachetools

from ..errors import ConfigError
from .entry import Entry
from .policies import BORROWED, unknown_policy

DEFAULT_SIZE = 10_000


class BorrowedPolicy:
    """A policy that keeps the values in somebody's `cachetools.Cache` as well and lets it choose.

    Implementation notes.
        The cache holds plain values, so a user's `getsizeof` or `ttu` sees what it expects;
        `entries` holds the entries. What the cache gives up by itself is seen through its
        `popitem` and, for the time-aware ones, `expire`, both replaced on this one object;
        the two are compared in number after each insertion, so a cache that drops entries
        in yet another way is followed too. All of the cache is used under the tier's lock.
    """

    touch_kind = "locked"

    def __init__(self, cache: cachetools.Cache[Hashable, Any], name: str) -> None:
        self.name = name
        self.cache = cache
        self.entries: dict[Hashable, Entry] = {}
        self.dropped: list[tuple[Hashable, Entry]] = []
        """What the cache gave up by itself since the tier last looked; the tier empties it."""
        self._popitem = cache.popitem
        cache.popitem = self._see_popitem  # type: ignore[method-assign]
        expire = getattr(cache, "expire", None)
        if expire is not None:
            self._expire = expire
            cache.expire = self._see_expire  # type: ignore[attr-defined]

    def add(self, key: Hashable, entry: Entry) -> None:
        """Take an entry in.

        Raises:
            ValueError: the cache refuses it ("value too large").
        """
        self.entries.pop(key, None)
        try:
            self.cache[key] = entry.value
        except BaseException:
            self._forget(key)
            raise
        self.entries[key] = entry
        if len(self.cache) != len(self.entries):
            self._reconcile()

    def visit(self, key: Hashable, entry: Entry) -> bool:
        """Tell the cache of a read; False where it no longer has the key."""
        if key not in self.cache:  # asked first: a cache's __missing__ must not make values up
            return False
        try:
            self.cache[key]
        except KeyError:  # expired between the two
            return False
        return self.entries.get(key) is entry

    def discard(self, key: Hashable) -> Entry | None:
        entry = self.entries.pop(key, None)
        if entry is not None:
            self._forget(key)
        return entry

    def evict(self) -> tuple[Hashable, Entry]:
        try:
            key, _ = self._popitem()
            return key, self.entries.pop(key)
        except KeyError:  # all that was left had expired there, and was seen to go
            return self.dropped.pop()

    def clear(self) -> None:
        self.entries.clear()
        self.dropped.clear()
        self.cache.clear()

    def check(self) -> None:
        # A time-aware cache may have let go of more than was looked at; never of less.
        assert set(self.cache) <= self.entries.keys(), "the cache holds what is no entry"

    def _forget(self, key: Hashable) -> None:
        try:
            del self.cache[key]
        except KeyError:  # it had expired there, and is removed all the same
            pass

    def _see_popitem(self) -> tuple[Hashable, Any]:
        item = self._popitem()
        self._let_go(item[0])
        return item

    def _see_expire(self, time: Any = None) -> Any:
        expired = list(self._expire(time))
        for key, _ in expired:
            self._let_go(key)
        return expired

    def _let_go(self, key: Hashable) -> None:
        entry = self.entries.pop(key, None)
        if entry is not None:
            self.dropped.append((key, entry))

    def _reconcile(self) -> None:
        for key in [key for key in self.entries if key not in self.cache]:
            self.dropped.append((key, self.entries.pop(key)))


def borrow(policy: Any, max_size: int | None) -> BorrowedPolicy:
    """Make the policy of a name, a cache, what makes one, or "package.module:Name".

    Raises:
        ConfigError: it is no cache, or one that holds something or is in use already.
    """
    name = policy if isinstance(policy, str) else type(policy).__name__
    maker = policy
    if isinstance(policy, str):
        # The tier itself keeps to `max_size` and `max_bytes`: the cache only has to choose.
        if policy in BORROWED:
            return BorrowedPolicy(getattr(cachetools, BORROWED[policy])(math.inf), policy)
        maker = _load(policy)
    cache = maker
    if not isinstance(maker, cachetools.Cache):
        if not callable(maker):
            raise unknown_policy(policy)
        try:
            cache = maker(max_size or DEFAULT_SIZE)
        except TypeError as exc:
            raise ConfigError(f"policy: {policy!r} could not be called with the number of entries: {exc}") from exc
    if not isinstance(cache, cachetools.Cache):
        raise unknown_policy(policy, f"it made a {type(cache).__name__}")
    if "popitem" in vars(cache):
        raise ConfigError(f"policy: this {type(cache).__name__} serves another region already; give each its own")
    if len(cache):
        raise ConfigError(f"policy: hand over an empty cache, not one that holds {len(cache)} items")
    return BorrowedPolicy(cache, name)


def _load(text: str) -> Any:
    module, colon, name = text.partition(":")
    if not colon or not module or not name:
        raise unknown_policy(text)
    try:
        loaded = importlib.import_module(module)
        for part in name.split("."):
            loaded = getattr(loaded, part)
    except (ImportError, AttributeError) as exc:
        raise unknown_policy(text, str(exc)) from exc
    return loaded
