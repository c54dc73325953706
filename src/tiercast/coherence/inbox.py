"""The inbox: what a message from the bus means to a process. Pure; no clock, no I/O, no lock of its own.

A message may be lost, doubled, late, mangled or somebody else's. So it moves a position
only where it carries exactly the next records of the epoch that the process is in; in
every other case the log is asked. A message never changes the epoch: after a failover
only the log knows which epoch is the present one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .records import MAX_MESSAGE, Malformed, Record, decode_message


@dataclass(frozen=True, slots=True)
class Apply:
    """The records are exactly the next ones, in order."""

    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Everything in the message has been applied; nothing is to be done."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Records are missing before `position`, or may be: read the log."""

    position: int


@dataclass(frozen=True, slots=True)
class OtherEpoch:
    """The message is of another epoch, newer or older: ask the log, which alone knows."""

    epoch: str


@dataclass(frozen=True, slots=True)
class Held:
    """The message waits until the snapshot is there."""


Meaning = Apply | Duplicate | Gap | OtherEpoch | Malformed | Held


class Inbox:
    """Decides what bus messages mean. To be called with the ledger's lock held, or by one thread.

    Attributes:
        last_refusal: why the last malformed message was refused, for the operator; "" for none.
    """

    __slots__ = ("_held", "_held_bytes", "_overflown", "last_refusal")

    def __init__(self) -> None:
        self.last_refusal = ""
        self._held: list[bytes] | None = None
        self._held_bytes = 0
        self._overflown = False

    def hold(self) -> None:
        """Keep messages from now on until `release`: subscribe, hold, take the snapshot, release."""
        self._held = []
        self._held_bytes = 0
        self._overflown = False

    def release(self, epoch: str, applied: int) -> Meaning:
        """Say what all the messages held mean to a process that has just taken its snapshot.

        Args:
            epoch: the snapshot's.
            applied: where the snapshot was taken.
        """
        held, self._held = self._held or [], None
        if self._overflown:
            return Gap(applied)
        records: list[Record] = []
        for data in held:
            meaning = self._judge(data, epoch, records[-1].position if records else applied)
            if isinstance(meaning, Apply):
                records.extend(meaning.records)
            elif not isinstance(meaning, Duplicate):
                # The log answers for all of them, also for those that fitted.
                return meaning
        return Apply(tuple(records)) if records else Duplicate()

    def offer(self, data: bytes | str, epoch: str, applied: int) -> Meaning:
        """Say what a message means to a process that stands at (epoch, applied). Never raises, moves nothing."""
        if self._held is None:
            return self._judge(data, epoch, applied)
        raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else bytes(data)
        self._held_bytes += len(raw)
        if self._held_bytes > MAX_MESSAGE:
            self._held.clear()
            self._overflown = True
        if not self._overflown:
            self._held.append(raw)
        return Held()

    def _judge(self, data: bytes | str, epoch: str, applied: int) -> Meaning:
        records = decode_message(data)
        if isinstance(records, Malformed):
            self.last_refusal = records.reason
            return records
        return meaning_of(records, epoch, applied)


def meaning_of(records: Sequence[Record], epoch: str, applied: int) -> Meaning:
    """Say what records mean to a process that stands at (epoch, applied)."""
    for record in records:
        if record.epoch != epoch:
            return OtherEpoch(record.epoch)
    expected = applied
    fresh = []
    for record in records:
        if record.position <= expected:
            continue
        if record.position != expected + 1:
            return Gap(record.position)
        expected = record.position
        fresh.append(record)
    return Apply(tuple(fresh)) if fresh else Duplicate()
