"""What the threads of a simulated process do: listen, keep house, and use the cache as an application does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from simulation.oracle import Name, Value
from simulation.steps import HUNG_UP, Poll, Step, Unreachable
from tiercast.coherence.log import LogUnavailable
from tiercast.coherence.notices import announced
from tiercast.coherence.records import Draft, Kind, decode_message
from tiercast.errors import BarrierTimeout, DeliveryError
from tiercast.loading.reading import Want
from tiercast.loading.writing import Position
from tiercast.plans import Pause
from tiercast.signal import Signal, Wait
from tiercast.tiers.entry import Address

if TYPE_CHECKING:
    from simulation.process import Process
    from simulation.world import World

Program = Generator[Any, Any, None]
NOTHING = object()


class LoadFailed(Exception):
    """The origin failed."""


class Loader:
    """A loader of one key: it reads the origin at some step of its load."""

    def __init__(self, world: World, name: Name) -> None:
        self.world = world
        self.name = name
        self.text = ""

    def __call__(self) -> None:
        """Never called: the scheduler takes it step by step."""

    def begins(self) -> None:
        """Note the state of the world as the load begins."""
        draw, settings = self.world.draw, self.world.settings
        self.born = self.world.oracle.count
        self.stage = 0
        self.before = draw() ** 3 * settings.slow if draw() < settings.slow_loads else 0.0
        self.after = draw() ** 3 * settings.slow if draw() < settings.slow_loads else 0.0

    def proceed(self) -> float:
        """Go on with the load; returns seconds to wait, 0 when it is done."""
        if self.stage == 0:
            self.stage = 1
            if self.before:
                return self.before
        if self.stage == 1:
            self.stage = 2
            if self.world.draw() < self.world.settings.failing_loads:
                self.world.counts["load failed"] += 1
                raise LoadFailed
            self.text = self.world.oracle.load(self.name, self.born).text
            if self.after:
                self.world.counts["slow load"] += 1
                return self.after
        return 0.0


class Operation:
    """What a thread is doing for the application; the log's model reads it when a record of it is appended.

    Attributes:
        harmless: its key record makes no value untrue.
        exclusive: its append must not come about after it has ended (`set` says "true as of now").
        value: the value it stores. writes: what it wrote to the origin. numbers: the invalidations it made.
    """

    __slots__ = ("exclusive", "harmless", "name", "numbers", "value", "what", "writes")

    def __init__(self, what: str, name: Name | None = None) -> None:
        self.what = what
        self.name = name
        self.harmless = False
        self.exclusive = False
        self.value: Value | None = None
        self.writes: dict[Name, int] = {}
        self.numbers = 0

    def __str__(self) -> str:
        return f"{self.what} {self.name or ''}"


def listener(process: Process) -> Program:
    """Listen and take heartbeats, as coherence/listener.py does."""
    world, coherence = process.world, process.coherence
    heartbeat = coherence.settings.heartbeat
    while True:
        try:
            if world.log.host_log:
                yield from coherence.beat()
                yield Pause(heartbeat)
                continue
            yield Step("bus", "subscribe", process.subscribe)
            yield from coherence.beat()
            process.runtime.listener.connected = True
            due = world.now + heartbeat
            while True:
                message = yield Poll(max(0.0, due - world.now))
                if message is HUNG_UP:
                    raise LogUnavailable("hung up")
                if message is not None:
                    yield from coherence.hear(message)
                    if announced(message) is None:
                        world.reached(process, decode_message(message))
                if world.now >= due:
                    due = world.now + heartbeat
                    yield from coherence.beat()
        except (LogUnavailable, Unreachable):
            world.counts["listener broke off"] += 1
            process.subscribed = process.runtime.listener.connected = False
            yield Pause(0.2)


def housekeeper(process: Process) -> Program:
    """Follow with the host's disk, carry, sweep, as `Runtime._housekeep` does."""
    world, runtime = process.world, process.runtime
    while True:
        yield Wait(process.woken, runtime.coherence.settings.heartbeat)
        process.woken = Signal()
        try:
            if runtime.coherence.started:
                yield from runtime.coherence.follow_stores()
                yield from runtime.flush()
                if runtime.remote is not None:
                    yield from runtime.coherence.carry(runtime._carry)
        except LogUnavailable:
            world.counts["housekeeping failed"] += 1
        if world.draw() < 0.2:
            world.counts["swept"] += runtime.sweep()


class Application:
    """One thread of an application: operations drawn by the weights of the world, one after another."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.world = process.world
        self.oracle = process.world.oracle
        self.operations = process.operations
        self.random = process.world.random

    def run(self, thread: Any) -> Program:
        """Go on until the world closes."""
        world, settings = self.world, self.world.settings
        kinds, weights = tuple(settings.operations), tuple(settings.operations.values())
        while not world.closing:
            (kind,) = self.random.choices(kinds, weights)
            name = self.random.choice(self.oracle.names)
            thread.operation = operation = Operation(kind, name)
            world.counts[f"op {kind}"] += 1
            try:
                yield Pause(world.draw() ** 2 * settings.think)
                yield from getattr(self, kind)(operation, name)
            except (LoadFailed, DeliveryError, BarrierTimeout) as exc:
                world.counts[f"raised {type(exc).__name__}"] += 1
            except asyncio.CancelledError:
                world.counts["operation cancelled"] += 1
            finally:
                world.unlock(operation)
            thread.operation = None

    # -- reading ---------------------------------------------------------------------------------

    def _read(self, name: Name, want: Want | None, reads: Any = None) -> Generator[Any, Any, bool]:
        reader = self.process.reader()
        if want is None:
            found = self.operations.get(name.key, NOTHING, **name.place)
            if isinstance(found, Generator):
                found = yield from found
            else:
                self.world.counts["hit path"] += 1
                self.world.note(self.process, f"hit {found}")
        else:
            found = self.operations.get_or_set(
                name.key, want.loader, want.ttl, tags=want.tags, refresh=want.force, **name.place
            )
            if isinstance(found, Generator):
                found = yield from found
        if found is NOTHING:
            return False
        self.oracle.check(reader, name, found)
        return True

    def _address(self, name: Name) -> Address:
        return Address(self.process.region.name, name.scope, name.key)

    def _want(self, name: Name, *, force: bool = False) -> Want:
        ttl = self.random.choice((300.0, 300.0, 300.0, 0.5))
        return Want(Loader(self.world, name), ttl, name.tags, force=force)

    def look(self, operation: Operation, name: Name) -> Program:
        """get"""
        found = yield from self._read(name, None)
        self.world.counts["look found" if found else "look missed"] += 1

    def load(self, operation: Operation, name: Name) -> Program:
        """get, and get_or_set where there is nothing"""
        if not (yield from self._read(name, None)):
            yield from self._read(name, self._want(name))

    def refresh(self, operation: Operation, name: Name) -> Program:
        yield from self._read(name, self._want(name, force=True))

    def many(self, operation: Operation, name: Name) -> Program:
        names = [each for each in self.oracle.names if each.scope == name.scope]
        reader = self.process.reader()
        found, missing = self.operations._hits(self.process.region, name.scope, [each.key for each in names])
        if missing:
            found.update((yield from self.operations._multi_get(self.process.region, name.scope, missing)))
        for each in names:
            if each.key in found:
                self.oracle.check(reader, each, found[each.key])

    # -- writing -----------------------------------------------------------------------------------

    def _write(self, operation: Operation, name: Name, *, hold: bool = False) -> Program:
        """Change the origin; the application serialises its writers, and one that will `set` stays alone until then."""

        def write() -> bool:
            if not self.world.lock(operation, name, hold=hold):
                return False
            operation.writes[name] = self.oracle.write(name)
            return True

        while not (yield Step("origin", "write", write, name)):
            yield Pause(0.05)

    def set(self, operation: Operation, name: Name) -> Program:
        operation.exclusive = True
        yield from self._write(operation, name, hold=True)
        operation.value = self.oracle.load(name, -1)
        ttl = self.random.choice((300.0, 300.0, 0.5))
        result = yield from self.operations.set(name.key, operation.value.text, ttl, tags=name.tags, **name.place)
        self._told(operation, result)

    def write_through(self, operation: Operation, name: Name) -> Program:
        """position, write, set(as_of)"""
        position = yield from self.operations.position()
        born = self.oracle.count
        yield from self._write(operation, name)
        operation.value = self.oracle.load(name, born, operation.writes[name])
        yield from self._set_as_of(operation, name, position)

    def aside(self, operation: Operation, name: Name) -> Program:
        """A miss, a load and a set(as_of) by hand."""
        position = yield from self.operations.position()
        if (yield from self._read(name, None)):
            return
        operation.harmless = True
        born = self.oracle.count
        yield Pause(self.world.draw() ** 3)
        operation.value = self.oracle.load(name, born)
        yield from self._set_as_of(operation, name, position)

    def _set_as_of(self, operation: Operation, name: Name, position: Position) -> Program:
        assert operation.value is not None
        result = yield from self.operations.set(
            name.key, operation.value.text, 300.0, tags=name.tags, as_of=position, **name.place
        )
        self._told(operation, result)

    def delete(self, operation: Operation, name: Name) -> Program:
        yield from self._write(operation, name)
        yield from self.operations.multi_delete([name.key], **name.place, require_delivery=self.world.draw() < 0.1)
        self._told(operation)

    def retag(self, operation: Operation, name: Name) -> Program:
        """tag_cache_key: from the moment it says True, the tag reaches the entry."""
        operation.harmless = True
        tag = self.random.choice(self.world.settings.tags)
        region, address = self.process.region, self._address(name)
        since = self.oracle.count
        done = yield from self.operations.tag_cache_key(name.key, (tag,), **name.place)
        entry = region.memory.get(region.local_key(address)) if region.memory is not None else None
        if done and entry is not None and tag in entry.tags:
            self.oracle.value_of(entry.value).tagged.setdefault(tag, (self.world.steps, since, operation.numbers))
            self.world.counts["tagged"] += 1

    def touch(self, operation: Operation, name: Name) -> Program:
        operation.harmless = True
        yield from self.operations.touch(name.key, 200.0, **name.place)

    # -- invalidating --------------------------------------------------------------------------------

    def _invalidate(
        self, operation: Operation, name: Name, method: Callable[..., Any], *what: Any, write: bool = True, **more: Any
    ) -> Program:
        if self.world.draw() < self.world.settings.barriers:
            more["barrier"] = self.random.choice((0.5, 2.0, 30.0))
        if write:
            yield from self._write(operation, name)
        result = yield from method(*what, **more)
        self._told(operation, result)
        if "barrier" in more and result.delivered:
            self.world.barrier_returned(operation)

    def tag(self, operation: Operation, name: Name) -> Program:
        tags = name.tags or self.world.settings.tags
        tag = self.random.choice(tags)
        yield from self._invalidate(operation, name, self.operations.invalidate_tags, (tag,), write=bool(name.tags))

    def scope(self, operation: Operation, name: Name) -> Program:
        place = name.place or {"scope": "global"}
        yield from self._invalidate(operation, name, self.operations.evict_by_scope, **place)

    def pattern(self, operation: Operation, name: Name) -> Program:
        glob = self.random.choice((name.key[0] + "*", "*" + name.key[1:], "?" + name.key[1:]))
        yield from self._invalidate(operation, name, self.operations.invalidate_pattern, glob, **name.place)

    def region(self, operation: Operation, name: Name) -> Program:
        yield from self._invalidate(operation, name, self.operations.clear, self.process.region.name)

    def everything(self, operation: Operation, name: Name) -> Program:
        yield from self._invalidate(operation, name, self.operations.clear)

    def keys(self, operation: Operation, name: Name) -> Program:
        yield from self._invalidate(operation, name, self.operations.invalidate_keys, [name.key], **name.place)

    def soft(self, operation: Operation, name: Name) -> Program:
        """A soft record makes nothing untrue; it only has to do no harm."""
        if name.tags and self.world.draw() < 0.5:
            method, what, more = self.operations.invalidate_tags, name.tags[:1], {}
        else:
            method, what, more = self.operations.invalidate_keys, [name.key], name.place
        yield from self._invalidate(operation, name, method, what, write=False, soft=True, **more)

    def foreign(self, operation: Operation, name: Name) -> Program:
        """A service in another language: it writes, then appends a key record, and knows nothing of L3."""
        yield from self._write(operation, name)
        draft = Draft(Kind.KEY, self.process.region.name, (str(name),))
        try:
            yield Step("log", "foreign append", lambda: self.world.log.append([draft], ("", 0)), draft)
        except Unreachable:
            self.world.counts["foreign append failed"] += 1

    def _told(self, operation: Operation, result: Any = None) -> None:
        """What an operation invalidated is known to its process once it has returned."""
        self.process.known |= operation.numbers
        if result is not None and not result.delivered:
            self.world.counts["not delivered"] += 1
