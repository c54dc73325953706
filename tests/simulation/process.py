"""One simulated process: the library's own runtime over handles on the simulated log, tiers and outbox."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import tiercast.manager
from simulation.oracle import REGION, Name, Reader, Violation
from simulation.sim_log import SimLog
from simulation.sim_tiers import DiskState, SimDisk, SimRemote
from simulation.steps import HUNG_UP, ProcessClock, Step
from tiercast.coherence.log import LogUnavailable
from tiercast.coherence.outbox import MemoryOutbox, Queued
from tiercast.coherence.records import Draft, Record
from tiercast.loading.slots import Slots
from tiercast.manager import CacheManager
from tiercast.plans import Plan
from tiercast.runtime import Runtime
from tiercast.signal import Signal
from tiercast.tiers.lives import ServerLives

if TYPE_CHECKING:
    from simulation.scheduler import Thread
    from simulation.world import World
    from tiercast.config import RegionConfig
    from tiercast.loading.flights import Flight
    from tiercast.region import Region
    from tiercast.tiers.entry import Address, Envelope

ROOM = 100
"""Stamps, and regions, that no world needs more of."""
LONGEST_BACKOFF = 1.0
"""Seconds for which an origin that failed is left alone, at the most."""


class Host:
    """A machine: what its processes share, and what outlives them."""

    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self.disk = DiskState()
        self.disk_fails_until = 0.0
        self.outbox = MemoryOutbox(most=world.settings.outbox, now=lambda: world.now)


class OutboxHandle:
    """A process's way to its host's durable outbox; nothing a dead process does reaches it."""

    def __init__(self, process: Process, shared: MemoryOutbox) -> None:
        self.process = process
        self.shared = shared
        self.trouble = ""
        self.claimed: dict[int, Draft] = {}
        """Every draft that was ever claimed, by its identity."""

    def put(self, drafts: Sequence[Draft]) -> tuple[int, ...]:
        ids = self.shared.put(drafts)
        self.process.world.queued(self.process, drafts)
        return ids

    def waiting(self) -> bool:
        return self.shared.waiting()

    def claim(self) -> list[Queued]:
        batch = self.shared.claim()
        if batch:
            self.claimed.update((id(item.draft), item.draft) for item in batch)
            self.process.world.counts["outbox batch claimed"] += 1
        elif self.shared.waiting():
            self.process.world.counts["outbox claimed by a sibling"] += 1
        return batch

    def done(self, batch: Sequence[Queued]) -> None:
        if self.process.alive:
            self.process.world.counts["outbox record replayed"] += len(batch)
            self.shared.done(batch)

    def release(self, batch: Sequence[Queued]) -> None:
        if self.process.alive:
            self.shared.release(batch)

    def close(self) -> None:
        pass


class SimRuntime(Runtime):
    """The real runtime, its log and tiers being handles on the simulated ones; it starts no thread."""

    def __init__(self, process: Process) -> None:
        self._process = process
        super().__init__(process.world.config, process.clock)
        self.coherence.outbox = process.outbox
        self.coherence.wake = process.wake
        self.coherence.digest = str
        self._is_orphaned = self.fills.orphaned
        self.fills.orphaned = self._orphaned  # type: ignore[method-assign]
        self.coherence.fleet.member = f"{process.host.name}:{process.name}:{process.life}"

    def _connections(self) -> None:
        return None

    def _remote(self) -> Any:
        return self._process.remote

    def _log(self) -> Any:
        return self._process.log

    def _leases(self) -> Any:
        return self._process.remote or (self._process.log if self._process.log.kind == "disk" else None)

    def _disk(self, local: Any) -> Any:
        self._disks["disk"] = self._process.disk  # type: ignore[assignment]
        return self._process.disk

    def _orphaned(self, token: str, since: float) -> bool:
        found = self._is_orphaned(token, since)
        self._process.world.counts["lease of the dead found"] += found
        return found

    def ready(self) -> None:
        """Nothing runs in the background but the simulated threads."""

    def _make_region(self, name: str, settings: RegionConfig) -> Region:
        process = self._process
        if name != REGION:
            process.world.counts["region made on demand"] += 1
            if name in self.ledger.regions:
                process.world.counts["region made that records had named"] += 1
            elif self.ledger.applied:
                process.world.counts["region made that no record had named"] += 1
        region = super()._make_region(name, settings)
        region.slots = WatchedSlots(process, settings.max_concurrent_loads)
        return region


class WatchedSlots(Slots):
    """A region's slots, which tell when a load has to do without."""

    __slots__ = ("_process",)

    def __init__(self, process: Process, limit: int | None) -> None:
        super().__init__(limit)
        self._process = process

    def take(self, flight: Flight, *, wait: bool) -> Plan[bool]:
        taken = yield from super().take(flight, wait=wait)
        if not taken:
            self._process.world.counts["load found no slot"] += 1
            self._process.could_not_load(flight.key)
        return taken


def manager_of(process: Process) -> CacheManager:
    """Return a real manager over a simulated runtime."""
    module: Any = tiercast.manager
    runtime = module.Runtime
    module.Runtime = lambda config, clock: SimRuntime(process)
    try:
        return CacheManager(process.world.config, clock=process.clock)
    finally:
        module.Runtime = runtime


class Process:
    """A simulated process, from its start to its crash; the next life is another object.

    Attributes:
        known: the invalidations it has applied or was told of, as the oracle's bits. applied: those it has applied.
        barred: those that a barrier held it to, whether it has heard of them or not.
        cut: places it cannot reach, each with what becomes of a request there.
        inbox: messages on their way to it. hung_up: whether its subscription is over. deaf: it does not notice.
        failed: when a load of a key last failed, or found no slot. failures: the steps in which that happened, and what
            it had applied then. left_alone: when one was last stale itself.
        refused: the last step in which no background would take a load.
        shy: the step before which it uses no region that is made on demand.
    """

    def __init__(self, world: World, name: str, host: Host, life: int) -> None:
        settings = world.settings
        self.world = world
        self.name = name
        self.host = host
        self.life = life
        self.alive = True
        self.known = self.applied = self.barred = 0
        self.paused_until = 0.0
        self.last_beat = -math.inf
        self.threads: list[Thread] = []
        self.cut: dict[str, str] = {}
        self.inbox: list[bytes] = []
        self.subscribed = False
        self.hung_up = False
        self.failed: dict[Address, float] = {}
        self.failures: dict[Address, list[tuple[int, int]]] = {}
        self.left_alone: dict[Address, float] = {}
        self.refused = -1
        self.shy = world.steps + int(world.draw() * settings.late * settings.steps)
        self.woken = Signal()
        self.clock = ProcessClock(world, world.draw() * 1e4, world.draw() * settings.skew)
        self.log = SimLog(world.log, world.values)
        self.remote = SimRemote(world.values, self.clock, ServerLives(self._first_seen)) if settings.remote else None
        if self.remote is not None:
            self.remote.sending = self._sending
        self.disk = SimDisk(host.disk, self.clock) if settings.disk else None
        durable = settings.durable_outbox
        self.outbox = OutboxHandle(
            self, host.outbox if durable else MemoryOutbox(most=settings.outbox, now=lambda: world.now)
        )
        self.operations = manager_of(self)
        self.runtime = self.operations._runtime
        self.coherence = self.runtime.coherence
        self._watch_ledger()

    def __str__(self) -> str:
        return f"{self.name}{self.life}"

    def _watch_ledger(self) -> None:
        """Tell the oracle what this process has applied, and see that whoever changes the ledger holds its lock."""
        ledger, oracle = self.runtime.ledger, self.world.oracle
        apply, reset = ledger.apply, ledger.reset
        owned: Any = ledger.lock._is_owned  # type: ignore[attr-defined]

        def locked(name: str) -> None:
            method = getattr(ledger, name)

            def checked(*args: Any) -> Any:
                if not owned():
                    raise Violation(f"(g) {self} calls Ledger.{name} without the ledger's lock")
                return method(*args)

            setattr(ledger, name, checked)

        for name in ("region", "mark_pending", "clear_pending"):
            locked(name)

        def applied(record: Record) -> Any:
            removals = apply(record)
            self.applied |= 1 << oracle.by_position[record.epoch, record.position]
            self.known |= self.applied
            self.world.counts["records applied"] += 1
            return removals

        def begun_anew(epoch: str, position: int, *rest: Any) -> None:
            reset(epoch, position, *rest)
            self.applied |= oracle.upto(epoch, position)
            self.known |= self.applied
            self.world.note(self, f"begins anew at ({epoch}, {position})")

        ledger.apply = applied  # type: ignore[method-assign]
        ledger.reset = begun_anew  # type: ignore[method-assign]
        locked("apply")
        locked("reset")

    def _sending(self, envelope: Envelope) -> Callable[[], None]:
        """Keep account of the soft records that mark nothing in L3 that is put there by this process."""
        oracle, known = self.world.oracle, self.known
        value = oracle.value_of(json.loads(envelope.payload))

        def arrives() -> None:
            value.unmarked |= oracle.made() & ~known

        return arrives

    def region_of(self, name: Name) -> Region:
        """Return the region of a key, made on demand."""
        return self.runtime.region(name.region)

    def could_not_load(self, key: Any) -> None:
        """Note that a load of an address failed, or found no slot."""
        self.failed[key] = self.world.now
        self.failures.setdefault(key, []).append((self.world.steps, self.applied))

    # -- the network --------------------------------------------------------------------------

    def fate(self, step: Step) -> str:
        """Draw what becomes of a request: "done", "lost", "answer lost" or "late"."""
        world = self.world
        if step.place == "disk":
            if self.host.disk_fails_until > world.now:
                return "lost"
            return "done"
        if step.place == "origin":
            return "done"
        if (mode := self.cut.get(step.place)) is not None:
            # Clients stop sending after some failures (the circuit breaker), so few are under way.
            return mode if mode != "late" or world.draw() < 0.1 else "lost"
        if world.settings.flaky and world.draw() < world.settings.flaky:
            return world.random.choice(("lost", "answer lost", "late"))
        return "done"

    def subscribe(self) -> None:
        """Begin to hear the bus anew."""
        self.inbox.clear()
        self.hung_up = False
        self.subscribed = True
        self.world.counts["subscribed"] += 1

    def hang_up(self) -> None:
        """End the subscription, in a way that the process notices."""
        if self.subscribed:
            self.subscribed = False
            self.hung_up = True
            self.world.hear(self)

    def next_message(self) -> object:
        if self.inbox:
            return self.inbox.pop(0)
        return HUNG_UP if self.hung_up else None

    def wake(self) -> None:
        """Have the housekeeper work soon."""
        self.woken.fire()

    # -- what the oracle asks --------------------------------------------------------------------

    def reader(self, name: Name) -> Reader:
        """Note what is known as a read begins."""
        joins = name.address in self.runtime.flights._open
        unproven = not self.coherence.proven()
        known = self.known | self.barred
        return Reader(known, self.world.now, self.world.steps, str(self), self.barred & ~self.known, joins, unproven)

    def has_read(self, reader: Reader, name: Name) -> Reader:
        """Note what kept a read that has ended from handing out something fresh."""
        world, settings = self.world, self.world.settings
        took = world.now - reader.time + 1e-6
        began = self.clock.monotonic() - took
        reader.unproven = reader.unproven and self.runtime.ledger.proven_until <= began
        overlong = settings.hard_timeout is not None and took >= settings.hard_timeout
        failures = self.failures.get(name.address, ())
        reader.judged = next((applied for step, applied in failures if step >= reader.step), self.applied)
        since = reader.time - LONGEST_BACKOFF
        reader.failed = overlong or self.failed.get(name.address, -math.inf) >= since
        reader.reason = (
            (settings.soft_timeout is not None and took >= settings.soft_timeout)
            or self.refused >= reader.step
            or reader.joins
            # Where stamps are let go, or regions not kept apart, more counts as marked than was: the safe side.
            or min(settings.stamps, settings.regions) < ROOM
            or self.left_alone.get(name.address, -math.inf) >= since
        )
        return reader

    def _first_seen(self, epoch: str, lives: Sequence[str]) -> Plan[int | None]:
        try:
            return (yield from self.log.first_seen(epoch, lives))
        except LogUnavailable:
            return None

    def check(self) -> None:
        """Audit the library's own invariants."""
        ledger = self.runtime.ledger
        with ledger.lock:
            ledger.check()
        for region in self.runtime.regions():
            if region.memory is not None:
                region.memory.check()
        assert len(self.runtime.flights) <= len(self.threads), "a flight is left that nobody leads"
