"""The Redis log's script: its keys, what it is called with, and what its replies mean. Pure.

The script itself is `log.lua`; docs/protocol.md describes it for other languages.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

import orjson

from ..keys import target_storage_key
from .log import Head, Member, Write
from .records import Draft, Kind, Record, decode_logged

SCRIPT: Final = files(__package__).joinpath("log.lua").read_text(encoding="utf-8")
"""The text of the script."""

MOST_READ_BACK: Final = 10_000
"""Records that a tail brings at most; who is further behind begins anew from a snapshot."""

STAMPS_A_PAGE: Final = 10_000
"""Stamps that one step of a snapshot brings: about 5 ms of the server's time."""

TOMBSTONE: Final = b"TC12" + b"0" * 64
"""The header of an envelope that says: nothing is here. The script fills in born and the fence's end."""

STRANGER: Final = "(whoever ran before this epoch)"
"""The name under which `members` speaks of processes that an earlier epoch may have known."""


@dataclass(frozen=True, slots=True)
class LogKeys:
    """The names that belong to one fleet's log; they share one slot of a Cluster."""

    log: str
    stream: str
    stamps: str
    members: str
    bus: str
    trial: str
    """What is watched to see whether that is of any use (redis_watch.py)."""

    @classmethod
    def of(cls, fleet: str) -> LogKeys:
        """Return the keys of a fleet, whose name is encoded (`keys.encode_part`): no brace can be in it."""
        if not fleet or "{" in fleet or "}" in fleet:
            raise ValueError(f"a fleet's name must be encoded and not empty: {fleet!r}")
        names = ("log", "stream", "stamps", "members", "bus", "trial")
        return cls(*(f"tiercast:{{{fleet}}}:{name}" for name in names))

    def four(self) -> tuple[str, str, str, str]:
        """Return KEYS[1] to KEYS[4] of the script."""
        return self.log, self.stream, self.stamps, self.members


@dataclass(frozen=True, slots=True)
class Limits:
    """What every call tells the script about the log's bounds.

    Attributes:
        failover: "new_epoch", or "trust": another run id alone does not end an epoch.
        retention: seconds that a record is kept at least while the log is shorter than `length`.
        length: records beyond which the oldest go before their time.
        stamps: how many stamps the log keeps, all regions together.
    """

    failover: str = "new_epoch"
    retention: float = 3600.0
    length: int = 100_000
    stamps: int = 100_000


def fresh_epoch() -> str:
    """Return a new random epoch id."""
    return os.urandom(8).hex()


def standing_options(limits: Limits) -> bytes:
    """Return the beginning of the options of every call: what differs from the script's own defaults."""
    fields = {
        "failover": (limits.failover, "new_epoch"),
        "retention": (round(limits.retention * 1000), 3_600_000),
        "length": (limits.length, 100_000),
        "stamps": (limits.stamps, 100_000),
        "limit": (MOST_READ_BACK, 10_000),
    }
    told = {name: value for name, (value, default) in fields.items() if value != default}
    return orjson.dumps(told)[:-1] + (b"," if told else b"")


def options(standing: bytes, since: tuple[str, int], more: bytes = b"") -> bytes:
    """Return the script's options as JSON.

    Args:
        standing: from `standing_options`.
        since: the caller's place.
        more: further members, each with a comma before it.
    """
    epoch = since[0] if since[0].isalnum() else ""
    return b'%b"epoch":"%b","position":%d%b}' % (standing, epoch.encode(), since[1], more)


def head_of(reply: Sequence[Any]) -> tuple[Head, int]:
    """Return the head and the stamps' floor from the first part of a reply."""
    epoch, position, carried, seconds, microseconds, floor = reply
    return Head(epoch.decode(), position, carried, int(seconds) + int(microseconds) / 1_000_000), floor


def records_of(reply: Any, since: tuple[str, int], head: Head) -> tuple[Record, ...] | None:
    """Return the records of a tail; None where it has a gap or the log would not tell.

    What stands in the log and is not understood is "everything" (`records.decode_logged`).
    """
    if not isinstance(reply, list):
        return None
    records: list[Record] = []
    expected = since[1] + 1
    for identifier, fields in reply:
        position, _, sequence = identifier.partition(b"-")
        if sequence != b"0":
            continue  # somebody else's: the log adds at sequence 0 only
        if int(position) != expected:
            return None
        data = fields[1] if fields[0] == b"record" else b""
        records.append(decode_logged(data, head.epoch, expected))
        expected += 1
    return tuple(records) if expected == head.position + 1 else None


def stamp_members(draft: Draft, position: int) -> list[str | int]:
    """Return what ZADD takes to set a draft's stamps: position and member in turn, as the script names them."""
    region = draft.region.replace("%", "%25").replace("|", "%7C")
    begin = f"{draft.kind.value}|{'soft' if draft.soft else 'hard'}|{region}|"
    return [part for target in draft.targets or ("",) for part in (position, begin + target)]


def stamp_of(member: bytes, score: bytes, epoch: str) -> Record:
    """Return a stamp as the record that last set it; a stamp that cannot be read is one of "everything"."""
    position = int(float(score))
    try:
        kind, hardness, region, target = member.decode("utf-8").split("|", 3)
        named = Kind(kind)
    except ValueError:
        return Record(Kind.ALL, "", (), epoch=epoch, position=position)
    targets = () if named is Kind.ALL else (target,)
    region = region.replace("%7C", "|").replace("%25", "%")
    return Record(named, region, targets, hardness == "soft", epoch=epoch, position=position)


def members_of(reply: Sequence[Any], head: Head, horizon: float) -> tuple[Member, ...]:
    """Return the members.

    Args:
        reply: when, in ms, a life of the server ended whose members may not all be known ("" for never), and
            the names and texts of the members.
        head: read with it.
        horizon: seconds for which processes of such an earlier life are spoken of, as one that lapsed.
    """
    unknown, flat = reply
    members = []
    if unknown and (ago := head.time - int(unknown) / 1000) < horizon:
        members.append(Member(STRANGER, "", 0, max(ago, 0.0)))
    for name, text in zip(flat[::2], flat[1::2], strict=True):
        try:
            ends, epoch, applied, digest = text.decode("utf-8", "replace").split("|", 3)
            lapsed = head.time - int(ends) / 1000
            members.append(Member(name.decode("utf-8", "replace"), epoch, int(applied), lapsed, digest))
        except ValueError:
            continue  # not written by the script
    return tuple(members)


def covers(writes: Sequence[Write], drafts: Sequence[Draft]) -> bool:
    """Return whether writes leave nothing in L3 that the key records of drafts kill: nothing has to be carried then."""
    written = {write.key for write in writes}
    for draft in drafts:
        if draft.kind is Kind.KEY:
            for target in draft.targets:
                if target_storage_key(draft.region, target) not in written:
                    return False
    return True
