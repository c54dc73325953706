"""Checkpoints: up to where the entries of a region were judged, in one object that they share."""

from __future__ import annotations

from functools import lru_cache


class Checkpoint:
    """A moment of one epoch, told from every other by identity: what stood then was judged up to it. Immutable.

    Attributes:
        epoch: the log's then.
        tick: the ledger's `local_sequence` then; -1 for `unjudged`.
    """

    __slots__ = ("epoch", "tick")

    def __init__(self, epoch: str, tick: int) -> None:
        self.epoch = epoch
        self.tick = tick

    def __repr__(self) -> str:
        return f"Checkpoint({self.epoch!r}, {self.tick})"


@lru_cache(maxsize=16)
def unjudged(epoch: str) -> Checkpoint:
    """Return what an entry of an epoch carries that was not judged yet: no region's checkpoint."""
    return Checkpoint(epoch, -1)
