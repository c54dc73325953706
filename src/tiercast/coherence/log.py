"""The seam between coherence and the three logs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from ..plans import Plan
from .records import Draft, Record, written_once


class Head(NamedTuple):
    """Where the log stands.

    Attributes:
        epoch: random id of one life of one server.
        position: the position of the newest record; 0 for none.
        carried: up to this position L3 holds no entry that a key record killed.
        time: the log's own clock, seconds since 1970.
    """

    epoch: str
    position: int
    carried: int
    time: float


class Tail(NamedTuple):
    """The records after a position.

    Attributes:
        head: where the log stood when it was read.
        records: in order and without a gap; None where the log no longer reaches back that far or
            is of another epoch than asked for.
    """

    head: Head
    records: tuple[Record, ...] | None
    word: int = 0
    """What `Log.heads[0]` is for the rows that were read; not the head as seen, which a writer raises before it commits."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a process that starts needs before it trusts anything.

    Attributes:
        head: read before, or in one step with, the stamps.
        stamps: one record for each live tag, scope, pattern, region and "everything" stamp,
            each with the position at which it was last set.
        floor: entries born below it are dead because older stamps were let go.
    """

    head: Head
    stamps: tuple[Record, ...]
    floor: int = 0
    word: int = 0
    """As in `Tail`."""


@written_once
class Write:
    """The L3 half of an append on a single server: done in the same script as the append.

    Attributes:
        key: the storage key without prefix and epoch (`keys.storage_key`).
        blob: the envelope's bytes, whose `born` the script fills in; None: bury.
        ttl: milliseconds the value is kept. fence: milliseconds nothing older may come back.
    """

    key: str
    blob: bytes | None
    ttl: int
    fence: int


class Appended(NamedTuple):
    """What an append answered: `tail.records` are all records after `since`, its own included."""

    position: int
    tail: Tail
    written: bool = False
    """Whether the writes were done with it; they are skipped where the epoch is not the expected one."""


@dataclass(frozen=True, slots=True)
class Beat:
    """What a member says with each heartbeat.

    Attributes:
        member: "host:pid:nonce". applied: the position it has applied, in `epoch`.
        lease: seconds for which it counts as live. digest: a few figures about itself, JSON.
    """

    member: str
    epoch: str
    applied: int
    lease: float
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Member:
    """One registered process. `lapsed` is how many seconds ago its lease ended (negative: it is live)."""

    name: str
    epoch: str
    applied: int
    lapsed: float
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Pulse:
    """What a heartbeat answered: the tail since `applied`, and the members."""

    tail: Tail
    members: tuple[Member, ...] = field(default=())


class LogUnavailable(Exception):  # noqa: N818  a state, not an error of the user's
    """The log cannot be reached now. Internal: coherence turns it into the outage rules."""


class Log(Protocol):
    """The totally ordered sequence of invalidations of one fleet. All methods are plans.

    They raise `LogUnavailable` where the log cannot be reached and nothing else for I/O.
    """

    kind: str
    """"memory", "disk" or "redis"."""
    atomic_writes: bool
    """Whether `append` does the writes handed to it in the same step (one Redis server)."""

    @property
    def heads(self) -> Sequence[int]:
        """`heads[0]` changes with every record where that can be seen without I/O (the disk log's mapped
        head); elsewhere it is a constant. Compared for inequality only.
        """
        ...

    def append(self, drafts: Sequence[Draft], since: tuple[str, int], writes: Sequence[Write] = ()) -> Plan[Appended]:
        """Append records; they take consecutive positions. `since`: (epoch, position) that the caller has applied."""
        ...

    def read(self, since: tuple[str, int]) -> Plan[Tail]:
        """Read what came after `since` = (epoch, position)."""
        ...

    def snapshot(self) -> Plan[Snapshot]:
        """Read the head and every stamp."""
        ...

    def beat(self, beat: Beat) -> Plan[Pulse]:
        """Register or renew a member (a write, so that a cut-off master fails it) and read the tail."""
        ...

    def leave(self, member: str) -> Plan[None]:
        """Forget a member that closes."""
        ...

    def members(self) -> Plan[tuple[Member, ...]]:
        """All members, lapsed ones included until they are forgotten."""
        ...

    def carry(self, epoch: str, position: int) -> Plan[None]:
        """Publish that all key records up to `position` have been carried to L3; it never goes back."""
        ...

    def first_seen(self, epoch: str, lives: Sequence[str]) -> Plan[int | None]:
        """Answer since when the servers of L3 vouch for what they hold.

        That is the position at which the fleet first saw the newest of their lives, which is now for one never seen
        before: what was carried earlier may have been lost with the life before. None: the log is in another epoch.
        """
        ...

    def close(self) -> Plan[None]: ...
