"""A process's handles on the simulated tiers below it: the library's `Tier` protocol, each operation one step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from simulation.steps import Step, Unreachable
from simulation.value_server import ValueServer
from tiercast.clock import Clock
from tiercast.keys import storage_key
from tiercast.plans import Plan
from tiercast.tiers.base import Guard, Put, Reading
from tiercast.tiers.entry import STALE, Address, Envelope
from tiercast.tiers.lives import ServerLives

KeyRecord = tuple[str, str, str, int] | tuple[str, str, str, int, bool]
LATER = 4
"""Entries that may wait to be written to L2; few, so that both ways are taken."""


class SimRemote:
    """L3 as one process reaches it; as `tiers/redis.py`, nothing raises for I/O.

    Args:
        server: the server, or all the value servers of a Cluster.
        clock: the process's.
        lives: since when the server vouches.

    Attributes:
        names_epoch: off as a mutant: the epoch is no part of a key's name.
        sending: called with each entry that is to be put; answers what is called when it is.
    """

    name = "remote"
    names_epoch = True

    def __init__(self, server: ValueServer, clock: Clock, lives: ServerLives) -> None:
        self.server = server
        self.clock = clock
        self.lives = lives
        self.sending: Callable[[Envelope], Callable[[], None]] = lambda envelope: lambda: None
        self._met: frozenset[str] = frozenset()

    def key_of(self, address: Address, epoch: str) -> str:
        return f"{epoch if self.names_epoch else 'any'}:{storage_key(*address)}"

    def get_many(self, addresses: Sequence[Address], epoch: str) -> Plan[Reading]:
        if not addresses:
            return Reading()

        def get() -> tuple[list[Envelope | None], frozenset[str]]:
            rows = (self.server.standing(self.key_of(address, epoch)) for address in addresses)
            return [row and row.envelope for row in rows], frozenset({str(self.server.run)})

        try:
            envelopes, lives = yield Step("remote", "get", get, addresses)
        except Unreachable:
            return Reading(failed=True)
        reading = Reading()
        now = self.clock.wall()
        for address, envelope in zip(addresses, envelopes, strict=True):
            if envelope is not None and now < envelope.keep_until:
                if envelope.epoch == epoch or not self.names_epoch:
                    reading.found[address] = envelope
                    self.server.counts["found_marked"] += envelope.flags & STALE
                else:
                    reading.corrupt += 1
        if reading.found:
            if not lives <= self._met:
                self._met |= lives
            since = yield from self.lives.since(epoch, self._met)
            if any(envelope.born < since for envelope in reading.found.values()):
                reading.vouched = (epoch, 0)
        return reading

    def _ttl(self, keep_until: float) -> float:
        seconds = keep_until - self.clock.wall()
        return 0.0 if seconds == math.inf else max(seconds, 0.001)

    def put_if_newer(self, address: Address, envelope: Envelope, guard: Guard) -> Plan[Put]:
        name, ttl = self.key_of(address, envelope.epoch), self._ttl(envelope.keep_until)
        arrives = self.sending(envelope)

        def put() -> Put:
            arrives()
            return self.server.put(name, envelope, ttl, guard.fence, guard.begun)

        return (yield from self._ask("put", put, envelope, Put.FAILED))

    def bury(self, address: Address, epoch: str, position: int, fence: float) -> Plan[bool]:
        name = self.key_of(address, epoch)

        def bury() -> bool:
            self.server.bury(name, position, fence)
            return True

        return self._ask("bury", bury, (address, position), False, retry=True)

    def renew(self, address: Address, seen: Envelope, renewed: Envelope) -> Plan[bool]:
        name, ttl = self.key_of(address, seen.epoch), self._ttl(renewed.keep_until)
        return self._ask("renew", lambda: self.server.renew(name, seen, renewed, ttl) == 1, address, False)

    def remove(self, addresses: Sequence[Address], epoch: str) -> Plan[int]:
        names = [self.key_of(address, epoch) for address in addresses]
        return self._ask("remove", lambda: sum(map(self.server.remove, names)), addresses, 0)

    def scan(self, epoch: str, cursor: int = 0, count: int = 500) -> Plan[tuple[int, list[tuple[Address, Envelope]]]]:
        def scan() -> tuple[int, list[tuple[Address, Envelope]]]:
            names = sorted(self.server.rows)
            found = []
            for name in names[cursor : cursor + count]:
                row = self.server.standing(name)
                envelope = row and row.envelope
                if envelope is not None and envelope.epoch == epoch and self.clock.wall() < envelope.keep_until:
                    found.append((_address(name.split(":", 1)[1], envelope), envelope))
            return (cursor + count if cursor + count < len(names) else 0), found

        return self._ask("scan", scan, epoch, (-1, []))

    def write_of(self, address: Address, envelope: Envelope, fence: float) -> tuple[str, Any, int, int]:
        """As `RedisTier.write_of`, the envelope in the place of its bytes."""
        ttl = math.ceil(self._ttl(envelope.keep_until) * 1000)
        return storage_key(*address), envelope, ttl, round(fence * 1000)

    def take(self, name: str, token: str, ttl: float) -> Plan[bool | None]:
        return self._ask("take", lambda: self.server.take(name, token, ttl), name, None)

    def give(self, name: str, token: str) -> Plan[None]:
        return self._ask("give", lambda: self.server.give(name, token), name, None, retry=True)

    def holder(self, name: str) -> Plan[str | None]:
        return self._ask("holder", lambda: self.server.holder(name), name, None, retry=True)

    def close(self) -> Plan[None]:
        return
        yield  # a plan

    @staticmethod
    def _ask(name: str, effect: Any, about: object, failed: Any, *, retry: bool = False) -> Plan[Any]:
        try:
            return (yield Step("remote", name, effect, about, retry=retry))
        except Unreachable:
            return failed


class DiskState:
    """L2 of one host: what its processes share, and what outlives them.

    Attributes:
        marked: how many entries soft records marked. found_marked: how many that are marked were found.
    """

    def __init__(self) -> None:
        self.marked = self.found_marked = 0
        self.epoch = ""
        self.position = 0
        self.rows: dict[str, Envelope] = {}


class SimDisk:
    """L2 as one process reaches it; as `tiers/disk.py`, each write one transaction, what may wait several in one.

    Attributes:
        later: what waits to be written. flushed: how many entries were, in the end.
    """

    name = "disk"

    def __init__(self, state: DiskState, clock: Clock) -> None:
        self.state = state
        self.clock = clock
        self.later: dict[Address, tuple[Envelope, Guard]] = {}
        self.flushed = 0
        self._epoch = ""

    def applied(self) -> tuple[str, int]:
        return self.state.epoch, self.state.position

    def get_many(self, addresses: Sequence[Address], epoch: str) -> Plan[Reading]:
        def get() -> Reading:
            state, now = self.state, self.clock.wall()
            reading = Reading({}, (state.epoch, state.position))
            if state.epoch == epoch:
                for address in addresses:
                    envelope = state.rows.get(storage_key(*address))
                    if envelope is not None and envelope.epoch == epoch and now < envelope.keep_until:
                        reading.found[address] = envelope
                        state.found_marked += envelope.flags & STALE
            return reading

        if any(address in self.later for address in addresses):
            yield from self.flush()
        return (yield from self._ask("get", get, addresses, Reading(failed=True)))

    def put_if_newer(self, address: Address, envelope: Envelope, guard: Guard) -> Plan[Put]:
        return self._ask("put", lambda: self._put(address, envelope, guard), envelope, Put.FAILED)

    def put_later(self, address: Address, envelope: Envelope, guard: Guard) -> bool:
        if envelope.epoch != self._epoch or len(self.later) >= LATER:
            return False
        waiting = self.later.get(address)
        if waiting is None or waiting[0].epoch != envelope.epoch or waiting[0].born <= envelope.born:
            self.later[address] = envelope, guard
        return True

    def flush(self) -> Plan[None]:
        while self.later:
            waiting = list(self.later.items())

            def flush(waiting: Any = waiting) -> None:
                for address, (envelope, guard) in waiting:
                    self.flushed += self._put(address, envelope, guard) is Put.STORED

            yield from self._ask("flush", flush, [address for address, _ in waiting], None)
            for address, item in waiting:
                if self.later.get(address) is item:
                    del self.later[address]

    def _put(self, address: Address, envelope: Envelope, guard: Guard) -> Put:
        state, key = self.state, storage_key(*address)
        pair = (state.epoch, state.position)
        if state.epoch != envelope.epoch or (guard.admit is not None and not guard.admit(pair)):
            return Put.BEHIND
        standing = state.rows.get(key)
        if standing is not None and standing.born > envelope.born:
            return Put.NEWER
        state.rows[key] = envelope
        self._epoch = state.epoch
        return Put.STORED

    def bury(self, address: Address, epoch: str, position: int, fence: float) -> Plan[bool]:
        def bury() -> bool:
            if self.state.epoch == epoch:
                self._remove([(*address, position)])
            return self.state.epoch == epoch

        return self._ask("bury", bury, (address, position), False)

    def renew(self, address: Address, seen: Envelope, renewed: Envelope) -> Plan[bool]:
        key = storage_key(*address)

        def renew() -> bool:
            if self.state.epoch != seen.epoch or self.state.rows.get(key) != seen:
                return False
            self.state.rows[key] = renewed
            return True

        return self._ask("renew", renew, address, False)

    def remove(self, addresses: Sequence[Address], epoch: str) -> Plan[int]:
        keys = [storage_key(*address) for address in addresses]

        def remove() -> int:
            if self.state.epoch != epoch:
                return 0
            return sum(self.state.rows.pop(key, None) is not None for key in keys)

        yield from self.flush()
        return (yield from self._ask("remove", remove, addresses, 0))

    def scan(self, epoch: str, cursor: int = 0, count: int = 500) -> Plan[tuple[int, list[tuple[Address, Envelope]]]]:
        def scan() -> tuple[int, list[tuple[Address, Envelope]]]:
            keys = sorted(self.state.rows)
            rows = [(key, self.state.rows[key]) for key in keys[cursor : cursor + count]]
            now = self.clock.wall()
            found = [(_address(key, row), row) for key, row in rows if row.epoch == epoch and now < row.keep_until]
            return (cursor + count if cursor + count < len(keys) else 0), found

        if cursor == 0:
            yield from self.flush()
        return (yield from self._ask("scan", scan, epoch, (0, [])))

    def apply(self, epoch: str, after: int, keys: Iterable[KeyRecord], upto: int) -> Plan[bool]:
        records = list(keys)

        def apply() -> bool:
            state = self.state
            if state.epoch != epoch or state.position < after:
                return False
            if state.position < upto:
                self._remove([record for record in records if record[3] > state.position])
                state.position = upto
            return True

        return self._ask("apply", apply, (epoch, after, upto), False)

    def drop(self, epoch: str, position: int, seen: tuple[str, int] | None = None) -> Plan[None]:
        def drop() -> None:
            state = self.state
            if state.epoch == epoch and state.position >= position:
                return
            if seen is not None and (state.epoch, state.position) != seen:
                return
            state.rows.clear()
            state.epoch, state.position = epoch, position

        return self._ask("drop", drop, (epoch, position), None)

    def close(self) -> Plan[None]:
        yield from self.flush()

    def _remove(self, records: Iterable[KeyRecord]) -> None:
        for region, scope, key, position, *soft in records:
            name = storage_key(region, scope, key)
            standing = self.state.rows.get(name)
            if standing is None or standing.born >= position:
                continue
            if soft and soft[0]:
                self.state.rows[name] = replace(standing, flags=standing.flags | STALE)
                self.state.marked += not standing.flags & STALE
            else:
                del self.state.rows[name]

    @staticmethod
    def _ask(name: str, effect: Any, about: object, failed: Any) -> Plan[Any]:
        try:
            return (yield Step("disk", name, effect, about))
        except Unreachable:
            return failed


def _address(key: str, envelope: Envelope) -> Address:
    return Address(_region(key), envelope.scope, envelope.key)


def _region(key: str) -> str:
    from tiercast.keys import parse_storage_key

    return parse_storage_key(key).region
