"""Since when the servers of the remote tier vouch for what they hold.

A server that restarted from an older dump, or that was promoted without the last writes, holds entries again that had
been buried. So it vouches only for what was born since the fleet first saw its present life.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

from ..plans import Plan

FirstSeen: TypeAlias = Callable[[str, Sequence[str]], Plan[int | None]]
"""Answers for (epoch, lives) at which position the fleet first saw the newest of them; None where that is not known."""


class ServerLives:
    """Which lives of the servers this process met, and since when they vouch. Thread-safe: one attribute, replaced whole.

    Args:
        first_seen: asks the log.
    """

    def __init__(self, first_seen: FirstSeen) -> None:
        self._first_seen = first_seen
        self._known: tuple[str, frozenset[str], float] = ("", frozenset(), 0)

    def met(self, epoch: str) -> bool:
        """Whether the log was asked in this epoch."""
        return self._known[0] == epoch

    def known(self, epoch: str, lives: frozenset[str]) -> float | None:
        """Return what `since` would answer where that needs no asking, else None."""
        known, seen, position = self._known
        return position if known == epoch and seen is lives else None

    def since(self, epoch: str, lives: frozenset[str]) -> Plan[float]:
        """Answer the position from which on entries of an epoch are vouched for; inf where that is not known.

        Args:
            epoch: the reader's.
            lives: of all servers that were talked to, taken after the entries were read.
        """
        if (position := self.known(epoch, lives)) is not None:
            return position
        first = yield from self._first_seen(epoch, sorted(lives))
        if first is None:
            return math.inf
        self._known = (epoch, lives, first)
        return first
