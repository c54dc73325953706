"""What an invalidation answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class InvalidationResult:
    """What became of an invalidation.

    Attributes:
        position: where its (last) record stands in the log; None while it waits in the outbox.
        delivered: False while it waits; it is in force in this process all the same.
        removed: how many entries were really dropped from this process's memory and this host's
            disk, where it was asked to count; None else, since records are applied when read.
    """

    position: int | None
    delivered: bool
    removed: int | None = None
