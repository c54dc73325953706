"""What coherence is handed, and wants to know of it: it knows no tier, no entry and no connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..plans import Plan

Removal = tuple[str, str, str, int, bool]
"""(region, scope, key, position, soft): what a key record takes out of memory."""


class SharedStore(Protocol):
    """A store of this host with a position of its own (L2)."""

    def applied(self) -> tuple[str, int]: ...

    def apply(self, epoch: str, after: int, keys: Sequence[Removal], upto: int) -> Plan[bool]: ...

    def drop(self, epoch: str, position: int, seen: tuple[str, int] | None = None) -> Plan[None]: ...


class Entry(Protocol):
    """What coherence wants to know of an entry of memory."""

    own: bool
    begun: float


class Channel(Protocol):
    """An open subscription to the bus, for the listener's thread."""

    def poll(self, timeout: float) -> list[bytes]: ...

    def close(self) -> None: ...
