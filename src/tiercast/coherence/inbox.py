"""The inbox: what a message from the bus means to a process. Pure: no clock, no I/O, no state.

A message may be lost, doubled, late, mangled or somebody else's. So it moves a position
only where it carries exactly the next records of the epoch that the process is in; in
every other case the log is asked. A message never changes the epoch: after a failover
only the log knows which epoch is the present one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .records import MAX_MESSAGE, Malformed, Record, decode_message, written_once


@written_once
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


Meaning = Apply | Duplicate | Gap | OtherEpoch | Malformed


def meaning_of(data: bytes, epoch: str, applied: int, most: int = MAX_MESSAGE, own: bytes = b"") -> Meaning:
    """Say what a message means to a process that stands at (epoch, applied). Never raises.

    Args:
        data: as it was published.
        epoch, applied: where the process stands.
        most: bytes above which a message is not read.
        own: what stands in the messages of this process itself, which may have applied them when it appended.
    """
    if own in data and _echoes(data, epoch, applied):
        return Duplicate()
    records = decode_message(data, most)
    return records if isinstance(records, Malformed) else _placed(records, epoch, applied)


def _echoes(data: bytes, epoch: str, applied: int) -> bool:
    """Whether a message ends with a record that was applied: what a process appends comes back to it.

    A look at how its last line begins, as the log writes it. To pass over a message is always safe.
    """
    place = b'{"v":1,"epoch":"%b","position":' % epoch.encode()
    begin = data.rfind(b"\n") + 1
    if not data.startswith(place, begin):
        return False
    begin += len(place)
    digits = data[begin : data.find(b",", begin, begin + 20)]
    return digits.isdigit() and int(digits) <= applied


def _placed(records: Sequence[Record], epoch: str, applied: int) -> Meaning:
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
