"""A bound on the entries that one function may have in the process's memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from contextlib import suppress
from typing import Generic, TypeVar

A = TypeVar("A", bound=Hashable)


class Namespace(Generic[A]):
    """The addresses of one function's entries, least recently used first. Thread-safe, and no lock that a fork could keep.

    It knows what the function stored, not what is still there: an address whose entry the
    memory has evicted or invalidated meanwhile counts until it is the oldest.
    """

    __slots__ = ("_order", "limit")

    def __init__(self, limit: int) -> None:
        if isinstance(limit, bool) or not isinstance(limit, int):
            message = f"max_items must be an int, not {limit!r}"
            raise TypeError(message)
        if limit < 1:
            message = f"max_items must be at least 1, not {limit}"
            raise ValueError(message)
        self.limit = limit
        self._order: OrderedDict[A, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._order)

    def touch(self, address: A) -> None:
        """Note a hit: one C call, which fails where the address has just gone."""
        with suppress(KeyError):
            self._order.move_to_end(address)

    def admit(self, address: A) -> list[A]:
        """Note an entry; returns the addresses that have to go for it."""
        self._order[address] = None
        self.touch(address)
        gone = []
        with suppress(KeyError):  # another thread has made the room
            while len(self._order) > self.limit:
                gone.append(self._order.popitem(last=False)[0])
        return gone

    def clear(self) -> None:
        """Forget every address."""
        self._order.clear()
