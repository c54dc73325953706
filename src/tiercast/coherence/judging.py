"""Judging: the one rule, as one region of the ledger applies it. Pure."""

from __future__ import annotations

import enum
from collections.abc import Container, Sequence
from typing import TYPE_CHECKING

from ..checkpoint import Checkpoint
from .stamps import Stamps

if TYPE_CHECKING:
    from .ledger import Ledger


class Verdict(enum.Enum):
    """What the ledger says of an entry."""

    ALIVE = "alive"
    STALE = "stale"
    """A soft record matches it: it may be served only as grace."""
    DEAD = "dead"
    UNKNOWN = "unknown"
    """The ring does not reach back to it and no tier vouches: a miss, and a fill is refused."""


# An attribute of an enum costs a lookup through its metaclass on Python 3.11.
ALIVE, STALE, DEAD, UNKNOWN = Verdict.ALIVE, Verdict.STALE, Verdict.DEAD, Verdict.UNKNOWN


class RegionLedger:
    """The ledger as one region sees it. To be called with the ledger's lock held.

    Attributes:
        name: the region.
        checkpoint: moves with each record that can reach entries of the region other than by their key, so
            that an entry that carries it needs no judging. It is read *before* the entry is judged, and is of the
            ledger's epoch.
    """

    __slots__ = ("checkpoint", "ledger", "name", "stamps", "waiting")

    def __init__(self, name: str, ledger: Ledger) -> None:
        self.name = name
        self.ledger = ledger
        self.checkpoint = Checkpoint(ledger.epoch, ledger.local_sequence)
        self.stamps = Stamps(ledger.stamp_bound)
        self.waiting = Stamps(ledger.stamp_bound)

    def judge(
        self,
        scope: str,
        key: str,
        epoch: str,
        born: int,
        tags: Sequence[str],
        vouched: int = 0,
        local: int | None = None,
    ) -> Verdict:
        """Apply the one rule to an entry that is to be stored, promoted or handed over.

        Args:
            scope: the entry's.
            key: the entry's.
            epoch: the entry's.
            born: the entry's.
            tags: the entry's.
            vouched: the position, of the ledger's epoch, up to which a tier has itself applied key records.
            local: the `local_sequence` when its load began, for a load of this process; None for what was
                found in a tier below: every record that waits in the outbox kills that.
        """
        ledger = self.ledger
        if epoch != ledger.epoch:
            return DEAD
        name = (self.name, scope, key)
        hard, soft = ledger.hard.last, ledger.soft.last
        if hard and hard.get(name, 0) > born:
            return DEAD
        verdict = self.judge_stamps(scope, key, born, tags, -1, 0 if local is None else local)
        if verdict is DEAD:
            return DEAD
        if ledger.waiting_keys:
            loaded = 0 if local is None else local
            if ledger.waiting_hard.last.get(name, 0) > loaded:
                return DEAD
            if ledger.waiting_soft.last.get(name, 0) > loaded:
                verdict = STALE
        if born < ledger.floor and vouched < ledger.floor:
            return UNKNOWN
        return STALE if soft and soft.get(name, 0) > born else verdict

    def judge_stamps(
        self, scope: str, key: str, born: int, tags: Sequence[str], since: int = -1, local: int = 0
    ) -> Verdict:
        """Judge an entry of memory whose checkpoint moved; key records have removed theirs at once.

        Args:
            scope: the entry's.
            key: the entry's.
            born: the entry's, of the ledger's epoch.
            tags: the entry's.
            since: the tick of the checkpoint that the entry carries, up to which it was judged alive: no stamp came
                between that and the entry's being stored.
            local: as for `judge`.
        """
        everywhere, own = self.ledger.everywhere, self.stamps
        if (  # most of the time: no stamp is later
            everywhere.hard.newest <= born >= own.hard.newest
            and everywhere.soft.newest <= born >= own.soft.newest
            and not self.ledger.waiting_stamps
        ):
            return ALIVE
        if everywhere.hard.match(scope, key, born, tags, since) or own.hard.match(scope, key, born, tags, since):
            return DEAD
        stale = everywhere.soft.match(scope, key, born, tags, since) or own.soft.match(scope, key, born, tags, since)
        if self.ledger.waiting_stamps:
            everywhere, own, local = self.ledger.waiting_everywhere, self.waiting, max(local, since)
            if everywhere.hard.match(scope, key, local, tags, -1) or own.hard.match(scope, key, local, tags, -1):
                return DEAD
            stale = (
                stale
                or everywhere.soft.match(scope, key, local, tags, -1)
                or own.soft.match(scope, key, local, tags, -1)
            )
        return STALE if stale else ALIVE

    def matches_between(
        self,
        scope: str,
        key: str,
        tags: Sequence[str],
        epoch: str,
        after: int,
        before: int,
        ignoring: Container[int] = (),
        vouched: int = 0,
    ) -> bool:
        """Whether a record, hard or soft, matches that came after `after` and before `before`; not knowing counts.

        For values computed before their own record (restore since). A record *after*
        `before` counts too: what would be stored is dead already.

        Args:
            scope: the entry's.
            key: the entry's.
            tags: those the entry has and those it will have, together.
            epoch: the epoch of both positions.
            after: the position applied when the value was computed.
            before: the position of the caller's own record.
            ignoring: positions of its other own records.
            vouched: as for `judge`.
        """
        ledger = self.ledger
        if epoch != ledger.epoch or ledger.applied < before or max(after, vouched) < ledger.floor:
            return True
        own = _Own(before, ignoring)
        name = (self.name, scope, key)
        if ledger.hard.between(name, after, own) or ledger.soft.between(name, after, own):
            return True
        for stamps in (ledger.everywhere, self.stamps):
            for marks in (stamps.hard, stamps.soft):
                if marks.between(scope, key, tags, after, own):
                    return True
        if not ledger.marked:
            return False
        return self.judge(scope, key, epoch, ledger.applied, tags, ledger.applied) is not ALIVE


class _Own:
    """The positions of the caller's own records."""

    __slots__ = ("before", "ignoring")

    def __init__(self, before: int, ignoring: Container[int]) -> None:
        self.before = before
        self.ignoring = ignoring

    def __contains__(self, position: object) -> bool:
        return position == self.before or position in self.ignoring
