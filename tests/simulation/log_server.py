"""The log's server as a model: what coherence/log.lua does, in the same order, on Python objects.

It also stands for the disk log of one host (`host_log`), whose rule is the same: one step appends, and whoever
reads the head without I/O sees it moved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from simulation.steps import Time
from simulation.value_server import ValueServer
from tiercast.coherence.log import Appended, Beat, Head, Member, Pulse, Snapshot, Tail, Write
from tiercast.coherence.memory_log import StampName, stamp_names, stamp_record
from tiercast.coherence.records import Draft, Kind, Record, decode_logged, encode_draft, stamp
from tiercast.coherence.redis_scripts import STRANGER, covers

FORGET = 3600.0


@dataclass
class LogState:
    """The log's keys in one epoch. `parts`: which of the four keys are there."""

    epoch: str
    run: int
    began: float
    position: int = 0
    carried: int = 0
    floor: int = 0
    first: int = 1
    """The position of the oldest record that is kept."""
    records: list[tuple[Record, float]] = field(default_factory=list)
    """Each decoded from the line that stands in the stream, and when it was appended."""
    stamps: dict[StampName, int] = field(default_factory=dict)
    members: dict[str, tuple[float, str, int, str]] = field(default_factory=dict)
    unknown: float | None = None
    lives: dict[str, int] = field(default_factory=dict)
    parts: frozenset[str] = frozenset({"log", "stream", "stamps", "members"})

    def copied(self) -> LogState:
        return replace(
            self,
            records=list(self.records),
            stamps=dict(self.stamps),
            members=dict(self.members),
            lives=dict(self.lives),
        )


class LogServer:
    """The one place where records get their positions.

    Args:
        time: the server's clock.
        length: records that are kept; `stamps`: stamps that are kept; `strangers_for`: see `RedisLog.members`.
        values: the value server that an append writes to in the same step; None: values lie elsewhere.
        host_log: whether it stands for the disk log: heads move, and nothing is published.

    Attributes:
        publish: called with each message of the bus.
        appended: called with (record, draft) for each record, in the step that appends it. heard_from: with each member
            that takes a heartbeat. began: with each new epoch.
        binds_run, names_epoch, keeps_uncarried: off as mutants: the epoch outlives the server's life, or is no part
            of a value's name; the log lets go of what has not been carried.
    """

    binds_run = names_epoch = keeps_uncarried = True

    def __init__(
        self,
        time: Time,
        *,
        length: int = 100_000,
        stamps: int = 100_000,
        retention: float = 3600.0,
        strangers_for: float = 5.0,
        values: ValueServer | None = None,
        host_log: bool = False,
    ) -> None:
        self.time = time
        self.length = length
        self.stamp_bound = stamps
        self.retention = retention
        self.strangers_for = strangers_for
        self.values = values
        self.host_log = host_log
        self.run = 1
        self.state: LogState | None = None
        self.heads = [0]
        self.publish: Callable[[bytes], None] = lambda message: None
        self.appended: Callable[[Record, Draft], None] = lambda record, draft: None
        self.began: Callable[[str], None] = lambda epoch: None
        self.heard_from: Callable[[str], None] = lambda member: None
        self.reasons: dict[str, int] = {}
        self.trimmed = 0
        self.carried = 0
        self._epochs = count(1)

    # -- the epoch ----------------------------------------------------------------------------

    def enter(self, since: tuple[str, int] = ("", 0), *, appending: bool = False) -> LogState:
        """Do what every operation begins with, and return the state of the present epoch."""
        state = self.state
        reason = ""
        if state is None or len(state.parts) < 4:
            reason = "incomplete"
        elif state.run != self.run and self.binds_run:
            reason = "restarted"
        elif since[0] == state.epoch and since[1] > state.position:
            reason = "went back"
        elif appending and len(state.records) > 10 * self.length:
            reason = "overfull"
        if not reason:
            assert state is not None
            return state
        self.reasons[reason] = self.reasons.get(reason, 0) + 1
        fresh = LogState(f"e{next(self._epochs)}", self.run, self.time.now)
        if (state is not None or since[0]) and not self.host_log:
            fresh.unknown = self.time.now
        self.state = fresh
        self.heads[0] += 1
        self.began(fresh.epoch)
        return fresh

    def head(self, state: LogState) -> Head:
        carried = state.position if self.host_log else state.carried
        return Head(state.epoch, state.position, carried, self.time.now)

    def tail(self, state: LogState, since: tuple[str, int]) -> Tail:
        epoch, position = since
        head = self.head(state)
        if epoch != state.epoch or not state.first - 1 <= position <= state.position:
            return Tail(head, None, self.word())
        records = tuple(record for record, _ in state.records[position + 1 - state.first :])
        return Tail(head, records, self.word())

    def word(self) -> int:
        return self.heads[0] if self.host_log else 0

    # -- the operations -------------------------------------------------------------------------

    def append(
        self, drafts: Sequence[Draft], since: tuple[str, int], writes: Sequence[Write] = (), until: float = math.inf
    ) -> Appended:
        """`until`: when the caller gives up; values that come later only bury."""
        if self.values is None:
            writes = ()
        state = self.enter(since, appending=True)
        before = state.position
        covered = all(draft.kind is not Kind.KEY for draft in drafts) or (bool(writes) and covers(writes, drafts))
        placed = []
        for draft in drafts:
            encoded = encode_draft(draft)
            state.position += 1
            record = decode_logged(stamp(encoded, state.epoch, state.position), state.epoch, state.position)
            state.records.append((record, self.time.now))
            placed.append((encoded, state.position))
            self._stamp(state, draft)
            self.appended(record, draft)
        writing = bool(writes) and since[0] == state.epoch
        if writing:
            assert self.values is not None
            for write in writes:
                name = f"{state.epoch if self.names_epoch else 'any'}:{write.key}"
                envelope: Any = write.blob if self.time.now <= until else None
                self.values.write(name, envelope, state.position, write.ttl / 1000, write.fence / 1000)
        if covered and state.carried == before and (writing or not writes):
            state.carried = state.position
        self.heads[0] += 1
        if not self.host_log:
            self.publish(b"\n".join(stamp(encoded, state.epoch, at, state.carried) for encoded, at in placed))
        if state.position // 16 > before // 16:
            self.trim(state)
        in_time = self.time.now <= until or all(write.blob is None for write in writes)
        return Appended(state.position, self.tail(state, since), writing and in_time)

    def _stamp(self, state: LogState, draft: Draft) -> None:
        names = stamp_names(draft)
        for name in names:
            state.stamps.pop(name, None)
            state.stamps[name] = state.position
        if names and len(state.stamps) > self.stamp_bound:
            surplus = len(state.stamps) - self.stamp_bound * 7 // 8
            for name in list(state.stamps)[:surplus]:
                state.floor = max(state.floor, state.stamps.pop(name))

    def trim(self, state: LogState) -> None:
        """Let go of what is old or beyond the length, never of what has not been carried."""
        surplus, horizon = len(state.records) - self.length, self.time.now - self.retention
        carried = state.position if self.host_log else state.carried
        gone = 0
        for at, (_, written) in enumerate(state.records, state.first):
            if (at > carried and self.keeps_uncarried) or at >= state.position or (surplus <= 0 and written >= horizon):
                break
            gone += 1
            surplus -= 1
        if gone:
            self.trimmed += gone
            del state.records[:gone]
            state.first += gone

    def read(self, since: tuple[str, int]) -> Tail:
        return self.tail(self.enter(since), since)

    def snapshot(self) -> Snapshot:
        state = self.enter()
        stamps = tuple(stamp_record(name, state.epoch, position) for name, position in state.stamps.items())
        return Snapshot(self.head(state), stamps, state.floor, self.word())

    def carry(self, epoch: str, position: int) -> None:
        state = self.enter((epoch, 0))
        if epoch == state.epoch and state.carried < position <= state.position:
            self.carried += position - state.carried
            state.carried = position
            self.trim(state)

    def beat(self, beat: Beat) -> Pulse:
        since = (beat.epoch, beat.applied)
        state = self.enter(since)
        self.heard_from(beat.member)
        state.members[beat.member] = (self.time.now + beat.lease, beat.epoch, beat.applied, beat.digest)
        return Pulse(self.tail(state, since), self.listed(state))

    def members(self) -> tuple[Member, ...]:
        return self.listed(self.enter())

    def listed(self, state: LogState) -> tuple[Member, ...]:
        now = self.time.now
        for name in [name for name, (ends, *_) in state.members.items() if now - ends > FORGET]:
            del state.members[name]
        listed = [
            Member(name, epoch, applied, now - ends, digest)
            for name, (ends, epoch, applied, digest) in state.members.items()
        ]
        if state.unknown is not None and now - state.unknown < self.strangers_for:
            listed.insert(0, Member(STRANGER, "", 0, now - state.unknown))
        return tuple(listed)

    def leave(self, member: str) -> None:
        self.enter().members.pop(member, None)

    def first_seen(self, epoch: str, lives: Sequence[str]) -> int | None:
        state = self.enter()
        own = None if self.values is None else str(self.values.run)
        seen = [state.lives.setdefault(life, state.position) for life in lives if life != own]
        return max(seen, default=0) if state.epoch == epoch else None

    # -- what happens to servers ------------------------------------------------------------------

    def copied(self) -> LogState | None:
        """Return what a replica, or a snapshot on disk, holds."""
        return None if self.state is None else self.state.copied()

    def restart(self, contents: LogState | None) -> None:
        """Begin another life of the server with these contents; None: with none."""
        self.run += 1
        self.state = None if contents is None else contents.copied()

    def lose(self, part: str) -> None:
        """Lose one of the four keys (FLUSHALL: all), as by eviction."""
        if self.state is not None:
            self.state.parts -= {part}

    def check(self) -> None:
        """Audit that positions are dense and no stamp is ahead."""
        state = self.state
        if state is not None:
            assert state.first + len(state.records) == state.position + 1, "positions are not dense"
            assert all(position <= state.position for position in state.stamps.values()), "a stamp is ahead"
            assert state.carried <= state.position, "carried is ahead"
