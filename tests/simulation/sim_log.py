"""A process's handle on the simulated log: the library's `Log` protocol, each operation one step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from simulation.log_server import LogServer
from simulation.steps import PATIENCE, Step, Unreachable
from tiercast.coherence.log import Appended, Beat, LogUnavailable, Member, Pulse, Snapshot, Tail, Write
from tiercast.coherence.notices import announcement
from tiercast.coherence.records import Draft
from tiercast.plans import Plan


class SimLog:
    """The log as one process reaches it.

    Args:
        server: the server.
        leases: keeps a disk log's leases.
    """

    def __init__(self, server: LogServer, leases: Any = None) -> None:
        self.server = server
        self.kind = "disk" if server.host_log else "redis"
        self.atomic_writes = server.values is not None
        self._leases = leases
        self._constant = (0,)
        if server.host_log:
            self.announce = self.publish = None  # type: ignore[assignment, method-assign]  a disk log has no bus

    @property
    def heads(self) -> Sequence[int]:
        return self.server.heads if self.server.host_log else self._constant

    def append(self, drafts: Sequence[Draft], since: tuple[str, int], writes: Sequence[Write] = ()) -> Plan[Appended]:
        kept = list(drafts)
        until = self.server.time.now + PATIENCE if writes else math.inf
        return (yield from self._ask("append", lambda: self.server.append(kept, since, writes, until), kept))

    def read(self, since: tuple[str, int]) -> Plan[Tail]:
        return self._ask("read", lambda: self.server.read(since), since)

    def snapshot(self) -> Plan[Snapshot]:
        return self._ask("snapshot", self.server.snapshot)

    def beat(self, beat: Beat) -> Plan[Pulse]:
        return self._ask("beat", lambda: self.server.beat(beat), beat)

    def leave(self, member: str) -> Plan[None]:
        return self._ask("leave", lambda: self.server.leave(member), member)

    def members(self) -> Plan[tuple[Member, ...]]:
        return self._ask("members", self.server.members)

    def carry(self, epoch: str, position: int) -> Plan[None]:
        return self._ask("carry", lambda: self.server.carry(epoch, position), (epoch, position))

    def first_seen(self, epoch: str, lives: Sequence[str]) -> Plan[int | None]:
        return self._ask("first_seen", lambda: self.server.first_seen(epoch, lives), lives)

    def announce(self, name: str) -> Plan[None]:
        try:
            yield Step("bus", "announce", lambda: self.server.publish(announcement(name)), name)
        except Unreachable:
            return

    def publish(self, message: bytes) -> Plan[bool]:
        try:
            yield Step("bus", "publish", lambda: self.server.publish(message), message)
        except Unreachable:
            return False
        return True

    # A disk log keeps the leases of its host.

    def take(self, name: str, token: str, ttl: float) -> Plan[bool | None]:
        return self._lease("take", lambda: self._leases.take(name, token, ttl), name)

    def give(self, name: str, token: str) -> Plan[None]:
        return self._lease("give", lambda: self._leases.give(name, token), name)

    def holder(self, name: str) -> Plan[str | None]:
        return self._lease("holder", lambda: self._leases.holder(name), name)

    def _lease(self, name: str, effect: Any, about: object) -> Plan[Any]:
        try:
            return (yield Step("log", name, effect, about))
        except Unreachable:
            return None

    def close(self) -> Plan[None]:
        return
        yield  # a plan

    def _ask(self, name: str, effect: Any, about: object = "") -> Plan[Any]:
        try:
            return (yield Step("log", name, effect, about, retry=True))
        except Unreachable as exc:
            raise LogUnavailable(f"the log did not answer {name}") from exc
