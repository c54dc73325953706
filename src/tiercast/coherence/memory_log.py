"""The memory log: the log of a fleet that is one process. No I/O; every operation is atomic under one lock."""

from __future__ import annotations

import os
import secrets
import weakref
from collections import OrderedDict, deque
from collections.abc import Sequence
from threading import Lock

from ..clock import Clock, SystemClock
from ..plans import Plan, done
from .log import Appended, Beat, Head, Member, Pulse, Snapshot, Tail, Write
from .records import Draft, Kind, Record

FORGET_AFTER = 600.0
"""Seconds after which a lapsed member is forgotten."""

StampName = tuple[Kind, str, str, bool]
"""(kind, region, target, soft)."""


def stamp_names(draft: Draft) -> list[StampName]:
    """Return what a record stamps; nothing for keys."""
    if draft.kind is Kind.KEY:
        return []
    targets = draft.targets if draft.kind is not Kind.ALL else ("",)
    return [(draft.kind, draft.region, target, draft.soft) for target in targets]


def stamp_record(name: StampName, epoch: str, position: int) -> Record:
    """Return the record that stands for a stamp in a snapshot."""
    kind, region, target, soft = name
    targets = () if kind is Kind.ALL else (target,)
    return Record(kind, region, targets, soft, epoch=epoch, position=position)


class MemoryLog:
    """The log of one process. Thread-safe and loop-safe; its plans want no I/O.

    A forked child begins a new epoch: it goes on alone from here, and what it appends
    must not be taken for what its parent appends.

    Args:
        retention: how many records can be read back.
        stamps: how many stamps are kept; the oldest beyond become the floor.
        clock: where the time comes from.

    Attributes:
        heads: `heads[0]` is the position (in a forked child: another number that moves with it), so that several
            users of one log see each other's records at once.
    """

    kind = "memory"
    atomic_writes = False

    def __init__(self, *, retention: int = 100_000, stamps: int = 1_000_000, clock: Clock | None = None) -> None:
        self.retention = retention
        self.stamp_bound = stamps
        self.clock = clock or SystemClock()
        self.heads: list[int] = [0]
        self._lives = 0
        self._members: dict[str, tuple[Beat, float]] = {}
        self._begin()
        _logs.add(self)

    def _begin(self) -> None:
        self._lock = Lock()
        self._epoch = secrets.token_hex(8)
        self._position = 0
        self._records: deque[Record] = deque(maxlen=self.retention)
        self._stamps: OrderedDict[StampName, int] = OrderedDict()
        self._floor = 0
        self._seen: dict[str, int] = {}

    def append(self, drafts: Sequence[Draft], since: tuple[str, int], writes: Sequence[Write] = ()) -> Plan[Appended]:
        """Append records; see `Log.append`. Writes are not done here."""
        with self._lock:
            for draft in drafts:
                position = self._position + 1
                record = Record(
                    draft.kind,
                    draft.region,
                    draft.targets,
                    draft.soft,
                    draft.origin,
                    draft.sent,
                    epoch=self._epoch,
                    position=position,
                )
                self._records.append(record)
                for name in stamp_names(draft):
                    self._stamps[name] = position
                    self._stamps.move_to_end(name)
                self._position = position
            while len(self._stamps) > self.stamp_bound:
                self._floor = max(self._floor, self._stamps.popitem(last=False)[1])
            self.heads[0] = self._word
            appended = Appended(self._position, self._tail(since))
        return done(appended)

    def read(self, since: tuple[str, int]) -> Plan[Tail]:
        """Read what came after a position; see `Log.read`."""
        with self._lock:
            tail = self._tail(since)
        return done(tail)

    def snapshot(self) -> Plan[Snapshot]:
        """Read the head and every stamp, in one step."""
        with self._lock:
            stamps = tuple(stamp_record(name, self._epoch, position) for name, position in self._stamps.items())
            snapshot = Snapshot(self._head(), stamps, self._floor, self._word)
        return done(snapshot)

    def beat(self, beat: Beat) -> Plan[Pulse]:
        """Register or renew a member and read the tail."""
        with self._lock:
            now = self.clock.monotonic()
            self._members[beat.member] = (beat, now + beat.lease)
            pulse = Pulse(self._tail((beat.epoch, beat.applied)), self._listed(now))
        return done(pulse)

    def leave(self, member: str) -> Plan[None]:
        """Forget a member that closes."""
        with self._lock:
            self._members.pop(member, None)
        return done(None)

    def members(self) -> Plan[tuple[Member, ...]]:
        """All members, lapsed ones included until they are forgotten."""
        with self._lock:
            members = self._listed(self.clock.monotonic())
        return done(members)

    def carry(self, epoch: str, position: int) -> Plan[None]:
        """Do nothing: there is no L3 that outlives this log, so everything counts as carried."""
        return done(None)

    def first_seen(self, epoch: str, lives: Sequence[str]) -> Plan[int | None]:
        """See `Log.first_seen`."""
        with self._lock:
            since = max((self._seen.setdefault(life, self._position) for life in lives), default=0)
            return done(since if epoch == self._epoch else None)

    def forget_stamps(self, epoch: str, before: int) -> Plan[int]:
        """Forget the stamps set before a position, on proof that nothing older is left; returns how many."""
        with self._lock:
            gone = (
                [name for name, position in self._stamps.items() if position < before] if epoch == self._epoch else []
            )
            for name in gone:
                del self._stamps[name]
        return done(len(gone))

    def close(self) -> Plan[None]:
        """Do nothing: the records live as long as the log."""
        return done(None)

    def check(self) -> None:
        """Audit that positions are dense and that no stamp is ahead of them."""
        with self._lock:
            positions = [record.position for record in self._records]
            if positions != list(range(self._position - len(positions) + 1, self._position + 1)):
                raise AssertionError("positions are not dense")
            if any(position > self._position for position in self._stamps.values()):
                raise AssertionError("a stamp is ahead of the head")

    @property
    def _word(self) -> int:
        return (self._lives << 56) + self._position

    def _head(self) -> Head:
        return Head(self._epoch, self._position, self._position, self.clock.wall())

    def _tail(self, since: tuple[str, int]) -> Tail:
        epoch, position = since
        first = self._position - len(self._records)
        if epoch != self._epoch or not first <= position <= self._position:
            return Tail(self._head(), None, self._word)
        missing = self._position - position
        # From the right: what is asked for is nearly always the last few of very many.
        newest = [record for record, _ in zip(reversed(self._records), range(missing), strict=False)]
        return Tail(self._head(), tuple(reversed(newest)), self._word)

    def _listed(self, now: float) -> tuple[Member, ...]:
        for name in [name for name, (_, ends) in self._members.items() if now - ends > FORGET_AFTER]:
            del self._members[name]
        return tuple(
            Member(name, beat.epoch, beat.applied, now - ends, beat.digest)
            for name, (beat, ends) in self._members.items()
        )

    def _forked(self) -> None:
        self._members = {}
        self._begin()
        self._lives += 1
        self.heads[0] = self._word  # none of the parent's: whoever compares asks, and meets the new epoch


_logs: weakref.WeakSet[MemoryLog] = weakref.WeakSet()


def _after_fork() -> None:
    for log in list(_logs):
        log._forked()


os.register_at_fork(after_in_child=_after_fork)
