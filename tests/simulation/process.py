"""One simulated process: the library's own runtime over handles on the simulated log, tiers and outbox."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import tiercast.manager
from simulation.oracle import Reader
from simulation.sim_log import SimLog
from simulation.sim_tiers import DiskState, SimDisk, SimRemote
from simulation.steps import HUNG_UP, ProcessClock, Step
from tiercast.coherence.log import LogUnavailable
from tiercast.coherence.outbox import MemoryOutbox, Queued
from tiercast.coherence.records import Draft, Record
from tiercast.manager import CacheManager
from tiercast.plans import Plan
from tiercast.runtime import Runtime
from tiercast.signal import Signal
from tiercast.tiers.lives import ServerLives

if TYPE_CHECKING:
    from simulation.scheduler import Thread
    from simulation.world import World


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

    def ready(self) -> None:
        """Nothing runs in the background but the simulated threads."""


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
        known: the invalidations it has applied or was told of, as the oracle's bits.
        cut: places it cannot reach, each with what becomes of a request there.
        inbox: messages on their way to it. hung_up: whether its subscription is over. deaf: it does not notice.
    """

    def __init__(self, world: World, name: str, host: Host, life: int) -> None:
        settings = world.settings
        self.world = world
        self.name = name
        self.host = host
        self.life = life
        self.alive = True
        self.known = 0
        self.paused_until = 0.0
        self.last_beat = -math.inf
        self.threads: list[Thread] = []
        self.cut: dict[str, str] = {}
        self.inbox: list[bytes] = []
        self.subscribed = False
        self.hung_up = False
        self.woken = Signal()
        self.clock = ProcessClock(world, world.draw() * 1e4, world.draw() * settings.skew)
        self.log = SimLog(world.log, world.values)
        self.remote = SimRemote(world.values, self.clock, ServerLives(self._first_seen)) if settings.remote else None
        self.disk = SimDisk(host.disk, self.clock) if settings.disk else None
        durable = settings.durable_outbox
        self.outbox = OutboxHandle(
            self, host.outbox if durable else MemoryOutbox(most=settings.outbox, now=lambda: world.now)
        )
        self.operations = manager_of(self)
        self.runtime = self.operations._runtime
        self.coherence = self.runtime.coherence
        self.region = self.runtime.default
        self._watch_ledger()

    def __str__(self) -> str:
        return f"{self.name}{self.life}"

    def _watch_ledger(self) -> None:
        """Tell the oracle what this process has applied."""
        ledger, oracle = self.runtime.ledger, self.world.oracle
        apply, reset = ledger.apply, ledger.reset

        def applied(record: Record) -> Any:
            removals = apply(record)
            self.known |= 1 << oracle.by_position[record.epoch, record.position]
            self.world.counts["records applied"] += 1
            return removals

        def begun_anew(epoch: str, position: int, *rest: Any) -> None:
            reset(epoch, position, *rest)
            self.known |= oracle.upto(epoch, position)
            self.world.note(self, f"begins anew at ({epoch}, {position})")

        ledger.apply = applied  # type: ignore[method-assign]
        ledger.reset = begun_anew  # type: ignore[method-assign]

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

    def reader(self) -> Reader:
        """Note what is known as a read begins."""
        return Reader(self.known, self.world.now, self.world.steps, str(self))

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
        if self.region.memory is not None:
            self.region.memory.check()
        assert len(self.runtime.flights) <= len(self.threads), "a flight is left that nobody leads"
