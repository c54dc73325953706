"""The ledger: a process's own table of what it has applied; it answers "is this entry dead?". Pure.

Implementation notes.
    No clock, no I/O, no thread. The only lock is `Ledger.lock`, which the ledger never
    takes itself: whoever calls a method, or reads `epoch`, `applied` and `local_sequence`
    together, holds it. `proven_until`, `head_word` and a region's `checkpoint` may be read
    without it, as the hit path does.
    Keys are remembered by a ring, whose `floor` is the greatest position that it forgot:
    below it, the ring does not know. The rest are stamps (`stamps.py`).
    Records that wait in the outbox have no position. They are numbered by a tick, and so are
    the checkpoints: a mark kills what was loaded here, or last judged, at an earlier tick.
    Order inside `apply`: ring or stamp, then the checkpoint, then `applied`.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Sequence
from threading import RLock

from ..checkpoint import Checkpoint
from ..keys import decode_pattern_target, decode_target
from .judging import RegionLedger, Verdict
from .records import Draft, Kind, Record
from .stamps import Series, Stamps, audit

__all__ = ["MAX_REGIONS", "Ledger", "Name", "RegionLedger", "Removal", "Verdict"]

Name = tuple[str, str, str]
"""(region, scope, key)."""
Removal = tuple[str, str, str, int, bool]
"""(region, scope, key, position, soft): what a key record takes out of memory."""

MAX_REGIONS = 10_000
"""Beyond so many, records that name a further region count for every region: names are data from outside."""


class Ledger:
    """A process's table of the records it has applied; see the notes above for its lock.

    Args:
        key_ring: how many keys, hard and soft together, are remembered.
        stamps: how many stamps are remembered for each region, and for all regions together.

    Attributes:
        lock: the lock that the shells take.
        epoch, applied: where this process stands. Read them together, under the lock.
        proven_until: monotonic time up to which memory may be trusted.
        head_word: the disk log's head as it was when all up to it had been applied.
        floor: the greatest position of a key record that the ring has forgotten.
        local_sequence: the tick; a load notes it when it begins.
    """

    def __init__(self, key_ring: int = 100_000, stamps: int = 100_000) -> None:
        self.lock = RLock()
        self.key_ring = key_ring
        self.stamp_bound = stamps
        self.epoch = ""
        self.applied = 0
        self.proven_until = -math.inf
        self.head_word = -1
        self.floor = 0
        self.local_sequence = 0
        self.hard: Series[Name] = Series()
        self.soft: Series[Name] = Series()
        self.everywhere = Stamps(stamps)
        self.regions: dict[str, RegionLedger] = {}
        self.clear_pending()

    def region(self, name: str) -> RegionLedger:
        """Return the ledger of a region, made on demand."""
        found = self.regions.get(name)
        if found is None:
            found = self.regions[name] = RegionLedger(name, self)
        return found

    # -- judging ----------------------------------------------------------------------------

    def judge(
        self,
        region: str,
        scope: str,
        key: str,
        epoch: str,
        born: int,
        tags: Sequence[str],
        vouched: int = 0,
        local: int | None = None,
    ) -> Verdict:
        """Apply the one rule to an entry; see `RegionLedger.judge`."""
        return self.region(region).judge(scope, key, epoch, born, tags, vouched, local)

    def judge_stamps(
        self, region: str, scope: str, key: str, born: int, tags: Sequence[str], since: int = -1, local: int = 0
    ) -> Verdict:
        """Judge an entry of memory whose checkpoint moved; see `RegionLedger.judge_stamps`."""
        return self.region(region).judge_stamps(scope, key, born, tags, since, local)

    def matches_between(
        self,
        region: str,
        scope: str,
        key: str,
        tags: Sequence[str],
        epoch: str,
        after: int,
        before: int,
        ignoring: Container[int] = (),
        vouched: int = 0,
    ) -> bool:
        """Whether something else matches between two positions; see `RegionLedger.matches_between`."""
        return self.region(region).matches_between(scope, key, tags, epoch, after, before, ignoring, vouched)

    # -- applying ---------------------------------------------------------------------------

    def apply(self, record: Record) -> list[Removal]:
        """Apply the next record; returns what it takes out of memory at once.

        The caller removes that before it gives up the lock. A target that cannot be read counts as its whole region.

        Raises:
            ValueError: the record is of another epoch, or not the next one.
        """
        if record.epoch != self.epoch or record.position != self.applied + 1:
            place, here = (record.epoch, record.position), (self.epoch, self.applied)
            raise ValueError(f"the record at {place} does not follow {here}")
        if record.kind is Kind.KEY:
            removals = self._apply_keys(record)
        else:
            removals = []
            self._stamp(record, record.position)
        self.applied = record.position
        return removals

    def reset(self, epoch: str, position: int, stamps: Iterable[Record] = (), floor: int = 0) -> None:
        """Begin anew from a snapshot: the ring is empty, its floor `position`, and no checkpoint is as it was.

        What waits in the outbox goes on waiting. The caller empties memory before it gives up the lock.

        Args:
            epoch: the log's when the snapshot was taken.
            position: where the snapshot was taken.
            stamps: one record for each stamp, in any order. One set after `position` (the log moved on while
                it was read) counts as set at it, until its record is applied.
            floor: entries born below it are dead.
        """
        self.epoch = epoch
        self.applied = self.floor = position
        self.hard.clear()
        self.soft.clear()
        self.everywhere = Stamps(self.stamp_bound)
        for region in self.regions.values():
            region.stamps = Stamps(self.stamp_bound)
        self.everywhere.raise_floor(min(floor, position))
        for record in sorted(stamps, key=lambda record: record.position):
            if record.kind is not Kind.KEY:
                self._set_stamps(record, min(record.position, position), waiting=False)
        self.local_sequence += 1
        self._move_checkpoints("")

    def forget_stamps(self, before: int) -> int:
        """Forget the stamps set before a position; returns how many.

        Only for who has proof that nothing born before it is left anywhere: a full sweep
        that began late enough, or keep deadlines that have all passed.
        """
        return sum(stamps.forget(before) for stamps in self._all_stamps())

    # -- what waits in the outbox -------------------------------------------------------------

    def mark_pending(self, draft: Draft) -> int:
        """Let a record that waits in the outbox kill here all but what is loaded after it; returns its sequence.

        A key record's targets must also be taken out of memory by the caller, whatever their `born`.
        """
        self.local_sequence += 1
        sequence = self._last_mark = self.local_sequence
        if draft.kind is not Kind.KEY:
            self._stamp(draft, sequence, waiting=True)
            return sequence
        series = self.waiting_soft if draft.soft else self.waiting_hard
        for target in draft.targets:
            try:
                series.set((draft.region, *decode_target(target)), sequence)
            except ValueError:
                self._stamp(Draft(Kind.REGION, "", (draft.region,), draft.soft), sequence, waiting=True)
        self.waiting_keys = True
        if len(self.waiting_hard.last) + len(self.waiting_soft.last) > self.key_ring:
            # Coalesced to the safe side: everything loaded before this moment is dead.
            self.waiting_hard.clear()
            self.waiting_soft.clear()
            self._stamp(Draft(Kind.ALL, "", ()), sequence, waiting=True)
        return sequence

    @property
    def marked(self) -> bool:
        """Whether there are marks."""
        return self.waiting_keys or self.waiting_stamps

    def clear_pending(self, upto: int | None = None) -> bool:
        """Forget the marks, once what they stand for was replayed and applied; returns whether none is left.

        Args:
            upto: the `local_sequence` read before the outbox was found empty. Where a mark was
                made since, all stay, which is the safe side. None: forget them whatever came.
        """
        if upto is not None and self._last_mark > upto:
            return False
        self.waiting_hard: Series[Name] = Series()
        self.waiting_soft: Series[Name] = Series()
        self.waiting_everywhere = Stamps(self.stamp_bound)
        self.waiting_keys = self.waiting_stamps = False
        self._last_mark = 0
        for region in self.regions.values():
            region.waiting = Stamps(self.stamp_bound)
        return True

    # -- looking inside -----------------------------------------------------------------------

    @property
    def floor_hits(self) -> int:
        """How many verdicts of death rest on nothing but the stamps' floor."""
        return sum(stamps.hard.floor_hits + stamps.soft.floor_hits for stamps in self._all_stamps())

    def sizes(self) -> dict[str, int]:
        """Return how full the ring and the stamps are, and where the ring's floor stands."""
        return {
            "keys": len(self.hard.last) + len(self.soft.last),
            "stamps": sum(map(len, self._all_stamps())),
            "regions": len(self.regions),
            "floor": self.floor,
            "floor_hits": self.floor_hits,
        }

    def check(self) -> None:
        """Audit the invariants; for tests and support, with the lock held."""
        self.hard.check()
        self.soft.check()
        audit(len(self.hard.last) + len(self.soft.last) <= self.key_ring, "the ring is over its bound")
        audit(self.floor <= self.applied, "the ring's floor stands above what was applied")
        for series in (self.hard, self.soft):
            audit(all(position <= self.applied for position in series.last.values()), "the ring is ahead")
        for stamps in self._all_stamps():
            stamps.check()
            audit(max(stamps.hard.newest, stamps.soft.newest) <= self.applied, "a stamp is ahead")
        for name, region in self.regions.items():
            audit(region.name == name and region.ledger is self, "a region is filed under another name")
            audit(region.checkpoint.epoch == self.epoch, "a checkpoint is of another epoch")
            audit(region.checkpoint.tick <= self.local_sequence, "a checkpoint is ahead of the tick")
            region.waiting.check()

    # -- internals ------------------------------------------------------------------------------

    def _all_stamps(self) -> list[Stamps]:
        return [self.everywhere, *(region.stamps for region in self.regions.values())]

    def _apply_keys(self, record: Record) -> list[Removal]:
        region, position, soft = record.region, record.position, record.soft
        series = self.soft if soft else self.hard
        removals: list[Removal] = []
        for target in record.targets:
            try:
                scope, key = decode_target(target)
            except ValueError:
                self._stamp(Record(Kind.REGION, "", (region,), soft, epoch=self.epoch, position=position), position)
                continue
            series.set((region, scope, key), position)
            removals.append((region, scope, key, position, soft))
        while len(self.hard.last) + len(self.soft.last) > self.key_ring:
            hard, other = self.hard.oldest(), self.soft.oldest()
            older = self.hard if other is None or (hard is not None and hard <= other) else self.soft
            self.floor = max(self.floor, older.pop_oldest()[1])
        return removals

    def _stamp(self, draft: Draft, position: int, *, waiting: bool = False) -> None:
        """Set the stamps of a record that is no key record, then move the checkpoints of whom it can reach."""
        if waiting:
            self.waiting_stamps = True
        else:
            self.local_sequence += 1
        self._set_stamps(draft, position, waiting=waiting)
        for name in draft.targets if draft.kind is Kind.REGION else (draft.region,):
            self._move_checkpoints(name)

    def _set_stamps(self, draft: Draft, position: int, *, waiting: bool) -> None:
        kind, soft = draft.kind, draft.soft
        if kind is Kind.REGION:
            for name in draft.targets:
                self._reach(name, waiting=waiting).set(Kind.SCOPE, "", position, soft=soft)
            return
        reach = self._reach(draft.region, waiting=waiting)
        if kind is not Kind.PATTERN:
            for target in ("",) if kind is Kind.ALL else draft.targets:
                reach.set(kind, target, position, soft=soft)
            return
        for target in draft.targets:
            try:
                scope, text = decode_pattern_target(target)
                reach.set_pattern(scope, text, position, self.local_sequence, soft=soft)
            except ValueError:
                reach.set(Kind.SCOPE, "", position, soft=soft)

    def _reach(self, region: str, *, waiting: bool) -> Stamps:
        if not region or (len(self.regions) >= MAX_REGIONS and region not in self.regions):
            return self.waiting_everywhere if waiting else self.everywhere
        view = self.region(region)
        return view.waiting if waiting else view.stamps

    def _move_checkpoints(self, region: str) -> None:
        """Move the checkpoint of a region; of all where none is named, or where its record counts for all."""
        checkpoint = Checkpoint(self.epoch, self.local_sequence)
        view = self.regions.get(region)
        if view is not None:
            view.checkpoint = checkpoint
            return
        for view in self.regions.values():
            view.checkpoint = checkpoint
