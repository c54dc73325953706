"""What the threads of a simulated process do: listen, keep house, and use the cache as an application does."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Generator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from simulation.oracle import REGION, Name, Value
from simulation.scheduler import nesting
from simulation.steps import HUNG_UP, Poll, Step, Unreachable
from tiercast.coherence.log import LogUnavailable
from tiercast.coherence.notices import announced
from tiercast.coherence.records import Draft, Kind, decode_message
from tiercast.errors import BarrierTimeout, DeliveryError, LoadTimeout
from tiercast.loading.context import LoadContext, entered
from tiercast.loading.reading import Want
from tiercast.loading.writing import Position
from tiercast.plans import Pause
from tiercast.signal import Signal, Wait

if TYPE_CHECKING:
    from simulation.process import Process
    from simulation.world import World

Program = Generator[Any, Any, None]
NOTHING = object()


class LoadFailed(Exception):
    """The origin failed."""


@dataclass(slots=True)
class Loading:
    """One load under way.

    Attributes:
        born, known: see `Value`. before, after: seconds until the origin is read, and from then until that is answered.
        stale: whether its input was. value: what the origin said, once it was read.
    """

    born: int
    known: int
    before: float
    after: float
    stale: bool = False
    value: Value | None = None


class Loader:
    """A loader of one key: it reads the origin at some step of its load. Several loads may be of one loader.

    Args:
        world: the world.
        name: the key.
        ttl: of what it loads, in seconds.
        process: whose caches it reads its input from, the last key of all; None where it has none.
    """

    def __init__(self, world: World, name: Name, ttl: float, process: Process | None = None) -> None:
        self.world = world
        self.name = name
        self.ttl = ttl
        self.process = process
        self.loads: dict[LoadContext, Loading] = {}

    def __call__(self) -> None:
        """Never called: the scheduler takes it step by step."""

    def reads(self, context: LoadContext) -> Program:
        """Begin a load: note the state of the world, and read the input, if there is one, inside it."""
        world, draw, settings = self.world, self.world.draw, self.world.settings
        assert world.running is not None
        before, after = (
            draw() ** 3 * settings.slow if draw() < settings.slow_loads else 0.0 for _ in ("before", "after")
        )
        load = Loading(world.oracle.count, world.running.process.applied, before, after)
        self.loads[context] = load
        if self.process is None:
            return
        world.counts["load read another key"] += 1
        source = world.oracle.names[-1]
        want = Want(Loader(world, source, 2.0), 2.0, source.tags)
        try:
            yield from reading(self.process, source, want, context, region=source.region)
        except (LoadFailed, LoadTimeout):
            self.process.could_not_load(self.name.address)
            raise
        load.stale = context.stale
        world.counts["load of a stale input"] += load.stale

    def proceed(self, context: LoadContext) -> float | str:
        """Go on with a load; returns seconds to wait, or what was loaded."""
        load = self.loads[context]
        if (delay := load.before) > 0.0:
            load.before = 0.0
            return delay
        value = load.value
        if value is None:
            if self.world.draw() < self.world.settings.failing_loads:
                self.world.counts["load failed"] += 1
                raise LoadFailed
            value = load.value = self.world.oracle.load(self.name, load.born)
            value.stale, value.known = load.stale, load.known
            if load.after:
                self.world.counts["slow load"] += 1
                return load.after
        value.until = self.world.now + self.ttl
        if load.stale and self.process is not None:
            self.process.left_alone[self.name.address] = self.world.now
        return value.text


def reading(process: Process, name: Name, want: Want | None, load: LoadContext, **place: str) -> Program:
    """Look a key up, or with `want` get or load it, inside a load, which is told whether that was stale.

    Has the oracle judge what was found; returns whether anything was.
    """
    world, operations = process.world, process.operations
    place.update(name.place)
    reader = process.reader(name)
    with entered(load):
        if want is None:
            found = operations.get(name.key, NOTHING, **place)
        else:
            found = operations.get_or_set(name.key, want.loader, want.ttl, tags=want.tags, refresh=want.force, **place)
        if isinstance(found, Generator):
            found = yield from nesting(found)
        else:
            world.counts["hit path"] += 1
            world.note(process, f"hit {found}")
    if found is NOTHING:
        return False
    world.counts["read of a region made on demand"] += name.region != REGION
    world.oracle.check(process.has_read(reader, name), name, found, stale=load.stale)
    return True


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
                if runtime.coherence.proven():
                    yield from runtime.fills.repay()
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
        self.inside = False
        """Whether it is inside a `cache_context` of its key's region."""

    def _uses(self, name: Name) -> bool:
        return name.region == REGION or self.world.steps >= self.process.shy

    def run(self, thread: Any) -> Program:
        """Go on until the world closes."""
        world, settings = self.world, self.world.settings
        kinds, weights = tuple(settings.operations), tuple(settings.operations.values())
        while not world.closing:
            (kind,) = self.random.choices(kinds, weights)
            name = self.random.choice(self.oracle.names)
            if not self._uses(name):
                name = self.oracle.names[0]
            thread.operation = operation = Operation(kind, name)
            world.counts[f"op {kind}"] += 1
            try:
                yield Pause(world.draw() ** 2 * settings.think)
                self.inside = name.region != REGION and world.draw() < 0.5
                with self.operations.cache_context(name.region) if self.inside else nullcontext():
                    yield from getattr(self, kind)(operation, name)
            except (LoadFailed, LoadTimeout, DeliveryError, BarrierTimeout) as exc:
                world.counts[f"raised {type(exc).__name__}"] += 1
            except asyncio.CancelledError:
                world.counts["operation cancelled"] += 1
            finally:
                world.unlock(operation)
            thread.operation = None

    # -- reading ---------------------------------------------------------------------------------

    def _place(self, name: Name) -> dict[str, str]:
        """Say where a key is: its scope, and its region where that is not the current one."""
        return name.place | self._region(name)

    def _region(self, name: Name) -> dict[str, str]:
        return {} if self.inside or name.region == REGION else {"region": name.region}

    def _read(self, name: Name, want: Want | None) -> Generator[Any, Any, bool]:
        return (yield from reading(self.process, name, want, LoadContext(), **self._region(name)))

    def _want(self, name: Name, *, force: bool = False) -> Want:
        draw = self.world.draw
        ttl = self.random.choice((300.0, 300.0, 3.0, 0.5))
        derived = name is not self.oracle.names[-1] and draw() < self.world.settings.derived
        loader = Loader(self.world, name, ttl, self.process if derived and self._uses(self.oracle.names[-1]) else None)
        return Want(loader, ttl, name.tags, force=force)

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
        names = [each for each in self.oracle.names if (each.scope, each.region) == (name.scope, name.region)]
        reader = self.process.reader(name)
        region = self.process.region_of(name)
        found, missing = self.operations._hits(region, name.scope, [each.key for each in names])
        if missing:
            found.update((yield from self.operations._multi_get(region, name.scope, missing)))
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
        result = yield from self.operations.set(
            name.key, operation.value.text, ttl, tags=name.tags, **self._place(name)
        )
        operation.value.until = self.world.now + ttl
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
            name.key, operation.value.text, 300.0, tags=name.tags, as_of=position, **self._place(name)
        )
        self._told(operation, result)

    def delete(self, operation: Operation, name: Name) -> Program:
        yield from self._write(operation, name)
        require = self.world.draw() < 0.1
        yield from self.operations.multi_delete([name.key], **self._place(name), require_delivery=require)
        self._told(operation)

    def retag(self, operation: Operation, name: Name) -> Program:
        """tag_cache_key: from the moment it says True, the tag reaches the entry."""
        operation.harmless = True
        tag = self.random.choice(self.world.settings.tags)
        region = self.process.region_of(name)
        since = self.oracle.count
        done = yield from self.operations.tag_cache_key(name.key, (tag,), **self._place(name))
        entry = region.memory.get(region.local_key(name.address)) if region.memory is not None else None
        if done and entry is not None and tag in entry.tags:
            self.oracle.value_of(entry.value).tagged.setdefault(tag, (self.world.steps, since, operation.numbers))
            self.world.counts["tagged"] += 1

    def touch(self, operation: Operation, name: Name) -> Program:
        operation.harmless = True
        ttl = self.random.choice((200.0, 1.0))
        touches = self.oracle.touches[name]
        touches.append(math.inf)
        which = len(touches) - 1
        yield from self.operations.touch(name.key, ttl, **self._place(name))
        touches[which] = self.world.now + ttl

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
        yield from self._invalidate(
            operation, name, self.operations.invalidate_tags, (tag,), write=bool(name.tags), **self._of_one_region(name)
        )

    def scope(self, operation: Operation, name: Name) -> Program:
        place = name.place or {"scope": "global"}
        place |= self._of_one_region(name)
        yield from self._invalidate(operation, name, self.operations.evict_by_scope, **place)

    def pattern(self, operation: Operation, name: Name) -> Program:
        glob = self.random.choice((name.key[0] + "*", "*" + name.key[1:], "?" + name.key[1:]))
        yield from self._invalidate(operation, name, self.operations.invalidate_pattern, glob, **self._place(name))

    def region(self, operation: Operation, name: Name) -> Program:
        yield from self._invalidate(operation, name, self.operations.clear, name.region)

    def everything(self, operation: Operation, name: Name) -> Program:
        yield from self._invalidate(operation, name, self.operations.clear)

    def keys(self, operation: Operation, name: Name) -> Program:
        yield from self._invalidate(operation, name, self.operations.invalidate_keys, [name.key], **self._place(name))

    def soft(self, operation: Operation, name: Name) -> Program:
        """A soft record makes nothing untrue: from when it is known, what it matches is handed out as stale alone."""
        operations, place = self.operations, self._place(name)
        one = self._of_one_region(name)
        kind = self.random.choice(self.world.settings.softly)
        self.world.counts[f"soft {kind}"] += 1
        method, what = operations.invalidate_keys, [[name.key]]
        if kind == "tag":
            method, what, place = operations.invalidate_tags, [name.tags[:1] or ("T",)], one
        elif kind == "scope":
            method, what, place = operations.evict_by_scope, [], (name.place or {"scope": "global"}) | one
        elif kind == "pattern":
            method, what = operations.invalidate_pattern, [name.key[0] + "*"]
        elif kind in {"region", "everything"}:  # which the library has no call for, and services in other languages do
            of_one = kind == "region"
            draft = (
                Draft(Kind.REGION, name.region, (name.region,), soft=True)
                if of_one
                else Draft(Kind.ALL, "", (), soft=True)
            )
            yield from self._append(draft)
            return
        yield from self._invalidate(operation, name, method, *what, write=False, soft=True, **place)

    def _of_one_region(self, name: Name) -> dict[str, str]:
        """Say that an invalidation is of a key's region alone, or, as often, of every region."""
        return {"region": name.region} if self.world.draw() < 0.5 else {}

    def foreign(self, operation: Operation, name: Name) -> Program:
        """A service in another language: it writes, then appends a key record, and knows nothing of L3."""
        yield from self._write(operation, name)
        yield from self._append(Draft(Kind.KEY, name.region, (name.target,)))

    def _append(self, draft: Draft) -> Program:
        try:
            yield Step("log", "foreign append", lambda: self.world.log.append([draft], ("", 0)), draft)
        except Unreachable:
            self.world.counts["foreign append failed"] += 1

    def _told(self, operation: Operation, result: Any = None) -> None:
        """What an operation invalidated is known to its process once it has returned."""
        self.process.known |= operation.numbers
        if result is not None and not result.delivered:
            self.world.counts["not delivered"] += 1
