"""The log of a fleet whose processes share a Redis: single server, Sentinel or Cluster.

Implementation notes.
    Every operation is one call of one script (`log.lua`), hence one round trip, and each call
    makes sure that the log is still the one that was known: another life of the server, a
    promoted replica, or any part missing, and the script begins a new epoch. So nothing here
    compares epochs or run ids.
    A call whose answer was lost may be repeated: a record that stands in the log twice
    invalidates what it invalidates.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..connections import Script, Unavailable
from ..plans import Plan
from . import redis_scripts as wire
from .log import Appended, Beat, Head, LogUnavailable, Member, Pulse, Snapshot, Tail, Write
from .notices import announcement
from .records import Draft, Kind, Record, encode_draft, placed
from .redis_bus import RedisBus
from .redis_watch import WatchedHead

if TYPE_CHECKING:
    from ..clock import Clock
    from ..config import CoherenceConfig
    from ..connections import Command, RedisConnections

_SNAPSHOT_TRIES = 5


class RedisLog:
    """The log of one fleet in Redis. Thread-safe, loop-safe and fork-safe, as its connections are.

    Args:
        connections: where Redis is; shared with the remote tier.
        fleet: the fleet's encoded name (`keys.encode_part`).
        settings: the coherence settings: retention, stamps, key_ring, failover, max_staleness.
        clock: the process's clock.
        values: what the names of value keys begin with, before the epoch; the fleet's name where not given.
    """

    kind = "redis"
    heads: Sequence[int] = (0,)

    def __init__(
        self,
        connections: RedisConnections,
        fleet: str,
        settings: CoherenceConfig,
        clock: Clock,
        *,
        values: str | None = None,
    ) -> None:
        self.keys = wire.LogKeys.of(fleet)
        self._four = self.keys.four()
        self.atomic_writes = not connections.is_cluster
        self._connections = connections
        self._clock = clock
        self._values = fleet if values is None else values
        failover = "trust" if connections.is_local else settings.failover
        limits = wire.Limits(failover, settings.retention, settings.key_ring, settings.stamps)
        self._options = wire.standing_options(limits)
        self._strangers_for = settings.max_staleness
        self._patience = settings.canary_timeout
        self._seen: tuple[float, float] | None = None
        """The server's time as last answered, and this machine's monotonic time then or later."""
        self._script = Script(wire.SCRIPT)
        self._publish: str | None = None
        self._fence = round(settings.fence * 1000)
        session = connections.session()
        self._watched: WatchedHead | None = None
        if session is not None:
            self._watched = WatchedHead(
                session,
                self.keys,
                values=self._values,
                asking=lambda place: self._command("watch", place, operands=[self._fence]),
                timeout=connections.write_timeout,
                fence=self._fence,
                now=self._server_now,
            )

    # -- records ------------------------------------------------------------------------------

    def append(self, drafts: Sequence[Draft], since: tuple[str, int], writes: Sequence[Write] = ()) -> Plan[Appended]:
        """See `Log.append`. Writes take the position of the last record; a Cluster does not do them.

        Raises:
            LogUnavailable: the log cannot be reached; it may have taken the records nonetheless.
            ValueError: a draft cannot be, or is too long (see `records.split`).
        """
        if not self.atomic_writes:
            writes = ()
        watched = self._watched
        if watched is None or (taken := watched.take()) is None:
            return (yield from self._append(drafts, since, writes))
        try:
            appended = yield from watched.append(drafts, since, writes)
            if appended is not None:
                self._saw(appended.tail.head.time)
            else:
                appended = yield from self._append(drafts, since, writes)
                yield from watched.watch(since, appended)
        except Unavailable as exc:
            raise LogUnavailable(str(exc)) from exc
        finally:
            watched.release(taken)
        return appended

    def _append(self, drafts: Sequence[Draft], since: tuple[str, int], writes: Sequence[Write]) -> Plan[Appended]:
        """Append by the script."""
        options = b',"covered":true' if writes and wire.covers(writes, drafts) else b""
        if all(draft.kind is Kind.KEY for draft in drafts):
            options += b',"keys":true'
        if writes and (now := self._server_now()) is not None:
            options += b',"until":%d' % (now + round(self._connections.write_timeout * 1000))
        operands: list[str | bytes | int] = [*map(encode_draft, drafts)]
        for write in writes:
            operands += (wire.TOMBSTONE if write.blob is None else write.blob, write.ttl, write.fence)
        names = [f"{self._values}:{since[0]}:{write.key}" for write in writes]
        reply = yield from self._call("append", since, options, operands, names)
        head, _ = self._head(reply[0])
        if reply[1] == 1:
            records: tuple[Record, ...] | None = placed(drafts, head.epoch, since[1])
        else:
            records = wire.records_of(reply[1], since, head)
        return Appended(head.position, Tail(head, records), bool(reply[2]))

    def read(self, since: tuple[str, int]) -> Plan[Tail]:
        """See `Log.read`."""
        reply = yield from self._call("read", since)
        head, _ = self._head(reply[0])
        return Tail(head, wire.records_of(reply[1], since, head))

    def carry(self, epoch: str, position: int) -> Plan[None]:
        """See `Log.carry`."""
        yield from self._call("carry", (epoch, 0), operands=[position])

    def first_seen(self, epoch: str, lives: Sequence[str]) -> Plan[int | None]:
        """See `Log.first_seen`."""
        reply = yield from self._call("lives", (epoch, 0), operands=list(lives))
        head, _ = self._head(reply[0])
        return int(reply[1]) if head.epoch == epoch else None

    # -- stamps -------------------------------------------------------------------------------

    def snapshot(self) -> Plan[Snapshot]:
        """See `Log.snapshot`. One step for 10,000 stamps; more come by pages, after the head."""
        for _ in range(_SNAPSHOT_TRIES):
            snapshot = yield from self._pages()
            if snapshot is not None:
                return snapshot
        raise LogUnavailable("the log's epoch changes faster than a snapshot can be read")

    def _pages(self) -> Plan[Snapshot | None]:
        first: Head | None = None
        stamps: dict[bytes, bytes] = {}
        begin, size = b"0", wire.STAMPS_A_PAGE
        while True:
            options = b',"from":%d,"page":%d' % (int(float(begin)), size)
            reply = yield from self._call("snapshot", ("", 0), options)
            head, floor = self._head(reply[0])
            if first is None:
                first = head
            elif head.epoch != first.epoch:
                return None
            page: list[bytes] = reply[1]
            stamps.update(zip(page[::2], page[1::2], strict=True))
            if len(page) < 2 * size:
                break
            if page[-1] == begin:
                size *= 2  # more than a page was set by one record
            begin = page[-1]
        # What moved while pages were read counts as of the first page, where it was at most.
        records = (wire.stamp_of(member, score, first.epoch) for member, score in stamps.items())
        bounded = tuple(
            record if record.position <= first.position else replace(record, position=first.position)
            for record in records
        )
        return Snapshot(first, bounded, min(floor, first.position))

    def prune(self, epoch: str, before: int) -> Plan[int]:
        """Forget the stamps set before a position, below which no entry is left anywhere; returns how many."""
        count: int = yield from self._call("prune", (epoch, 0), operands=[before])
        return count

    def note_disk(self) -> Plan[None]:
        """Note, for the life of the epoch, that hosts keep entries on disk: no walk can go through all of them.

        Raises:
            LogUnavailable: it could not be noted.
        """
        yield from self._ask("HSET", self.keys.log, "disks", "1")

    def has_disks(self) -> Plan[bool]:
        """Whether any host of the fleet keeps, or kept, entries of this epoch on disk.

        Raises:
            LogUnavailable: the log cannot be reached.
        """
        return (yield from self._ask("HGET", self.keys.log, "disks")) is not None

    def _ask(self, *command: str) -> Plan[Any]:
        try:
            (reply,) = yield self._connections.commands(command, retry=True)
        except Unavailable as exc:
            raise LogUnavailable(str(exc)) from exc
        if isinstance(reply, Exception):
            raise LogUnavailable(f"{self._connections.name}: {reply}") from reply
        return reply

    # -- members ------------------------------------------------------------------------------

    def beat(self, beat: Beat) -> Plan[Pulse]:
        """See `Log.beat`."""
        since = (beat.epoch, beat.applied)
        options = b',"lease":%d,"fence":%d' % (round(beat.lease * 1000), self._fence)
        reply = yield from self._call("beat", since, options, [beat.member, beat.digest])
        head, _ = self._head(reply[0])
        members = wire.members_of(reply[2], head, self._strangers_for)
        return Pulse(Tail(head, wire.records_of(reply[1], since, head)), members)

    def leave(self, member: str) -> Plan[None]:
        """See `Log.leave`."""
        yield from self._call("leave", operands=[member])

    def members(self) -> Plan[tuple[Member, ...]]:
        """See `Log.members`.

        For `max_staleness` after an epoch began in which not every process of the one before may be
        known, one member more stands for those: lapsed, and of no epoch.
        """
        reply = yield from self._call("members")
        head, _ = self._head(reply[0])
        return wire.members_of(reply[2], head, self._strangers_for)

    # -- the bus, and the end ------------------------------------------------------------------

    def listen(self) -> RedisBus:
        """Subscribe to the bus and hear oneself on it (blocking): before the snapshot, so that nothing lies between.

        Raises:
            LogUnavailable: no connection, a refusal, or silence.
        """
        return RedisBus.open(self._connections, self.keys.bus, self._patience)

    def announce(self, name: str) -> Plan[None]:
        """Tell the fleet that the lease `name` was given back; where that fails, those who wait look by themselves."""
        yield from self.publish(announcement(name))

    def publish(self, message: bytes) -> Plan[bool]:
        """Publish a message that is no record on the bus; False where that failed."""
        try:
            if self._publish is None:
                sharded = self._connections.is_cluster and (yield from self._connections.server_info(0)).release >= (7,)
                self._publish = "SPUBLISH" if sharded else "PUBLISH"
            (reply,) = yield self._connections.commands((self._publish, self.keys.bus, message))
        except Unavailable:
            return False
        return not isinstance(reply, Exception)

    def close(self) -> Plan[None]:
        """Do nothing: the connections belong to whoever made them."""
        return
        yield  # a plan

    def _head(self, reply: Sequence[Any]) -> tuple[Head, int]:
        head, floor = wire.head_of(reply)
        self._saw(head.time)
        return head, floor

    def _saw(self, answered: float) -> None:
        self._seen = (answered, time.monotonic())

    def _server_now(self) -> int | None:
        """Return the server's time in ms, or less; None where it has not said it yet."""
        if self._seen is None:
            return None
        answered, at = self._seen
        return int((answered + time.monotonic() - at) * 1000)

    def _call(
        self,
        operation: str,
        since: tuple[str, int] = ("", 0),
        options: bytes = b"",
        operands: Sequence[str | bytes | int] = (),
        names: Sequence[str] = (),
    ) -> Plan[Any]:
        """Run the script.

        Raises:
            LogUnavailable: whatever kept it from being run, or from answering.
        """
        command = self._command(operation, since, options, operands, names)
        # Readers wait for all but an append, to prove their memory; so it has no longer than a read.
        timeout = None if operation == "append" else self._connections.read_timeout
        try:
            (reply,) = yield self._connections.commands(command, timeout=timeout, retry=True)
        except Unavailable as exc:
            raise LogUnavailable(str(exc)) from exc
        if isinstance(reply, Exception):
            raise LogUnavailable(f"{self._connections.name}: {reply}") from reply
        return reply

    def _command(
        self,
        operation: str,
        since: tuple[str, int],
        options: bytes = b"",
        operands: Sequence[str | bytes | int] = (),
        names: Sequence[str] = (),
    ) -> Command:
        return self._script.call(
            (*self._four, *names),
            operation,
            wire.fresh_epoch(),
            wire.options(self._options, since, options),
            *operands,
        )
