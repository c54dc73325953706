"""A world: hosts, processes, servers, bus and faults under one scheduler, and what must hold when it comes to rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tiercast.coherence.ledger
import tiercast.invalidations
import tiercast.operations
import tiercast.standing
from simulation.faults import Faults
from simulation.log_server import LogServer
from simulation.oracle import Name, Oracle, Violation
from simulation.process import LONGEST_BACKOFF, Host, Process
from simulation.programs import Application, Operation, housekeeper, listener
from simulation.scheduler import Scheduler, Thread
from simulation.settings import Settings
from simulation.value_server import ValueServer
from tiercast.coherence.records import Draft, Malformed, Record
from tiercast.config import (
    CacheConfig,
    CoherenceConfig,
    DistributedCacheConfig,
    LocalCacheConfig,
    ScopeConfig,
    ScopeLevel,
)


class Placeholder:
    """What the configuration names in the place of a tier; `SimRuntime` puts the simulated one there."""


TIER = Placeholder()


def config_of(settings: Settings) -> CacheConfig:
    """Return the library's own configuration of a world."""
    return CacheConfig(
        name="simulated",
        local=LocalCacheConfig(max_size=settings.memory, policy=settings.policy),
        disk=LocalCacheConfig(type=TIER) if settings.disk else None,
        distributed=DistributedCacheConfig(type=TIER) if settings.remote else None,
        coherence=CoherenceConfig(
            max_staleness=settings.max_staleness,
            heartbeat=settings.heartbeat,
            max_load_time=settings.max_load_time,
            on_outage=settings.on_outage,
            origin_lag=settings.origin_lag,
            key_ring=settings.key_ring,
            stamps=settings.stamps,
        ),
        scopes=ScopeConfig([ScopeLevel("o", "o_id", [ScopeLevel("u", "u_id")])]),
        lock_ttl=settings.lock_ttl,
        retry_backoff=(0.1, LONGEST_BACKOFF),
        grace=settings.grace,
        soft_timeout=settings.soft_timeout,
        hard_timeout=settings.hard_timeout,
        early_refresh=settings.early_refresh,
        max_concurrent_loads=settings.loads_at_once,
    )


@contextmanager
def plans_handed_out(regions: int) -> Iterator[None]:
    """Have the public operations hand out their plans instead of driving them, so that the hit path is the real one.

    `regions`: how many names of regions a ledger keeps apart.
    """
    modules: tuple[Any, ...] = (tiercast.operations, tiercast.standing, tiercast.invalidations)
    ledgers: Any = tiercast.coherence.ledger
    drives = [module.drive for module in modules]
    most = ledgers.MAX_REGIONS
    for module in modules:
        module.drive = lambda plan: plan
    ledgers.MAX_REGIONS = regions
    try:
        yield
    finally:
        ledgers.MAX_REGIONS = most
        for module, drive in zip(modules, drives, strict=True):
            module.drive = drive


class World(Scheduler):
    """Everything there is. Run it inside `plans_handed_out`."""

    def __init__(self, settings: Settings, remember: int = 400) -> None:
        super().__init__(settings.seed, split=settings.split, pace=settings.pace, remember=remember)
        self.settings = settings
        self.config = config_of(settings)
        self.oracle = Oracle(
            settings.names,
            settings.max_staleness if settings.on_outage == "load" else None,
            grace=settings.grace,
            skew=settings.skew,
        )
        self.values = ValueServer(self, settings.max_load_time)
        self.log = LogServer(
            self,
            length=settings.log_length,
            stamps=settings.log_stamps,
            strangers_for=settings.max_staleness,
            values=self.values if settings.remote and settings.log == "redis" else None,
            host_log=settings.log == "disk",
        )
        self.log.publish = self.publish
        self.log.heard_from = self.heard_from
        self.log.appended = self.appended
        self.log.began = self.oracle.epoch_began
        self.closing = False
        self.locks: dict[Name, Operation] = {}
        self.queued_as: dict[Draft, Operation] = {}
        self.hosts: dict[str, Host] = {}
        self.processes: list[Process] = []
        self.retired: Counter[str] = Counter()
        self.faults = Faults(self)
        for number, host in enumerate(settings.hosts):
            self.hosts.setdefault(host, Host(self, host))
            self.boot("PQRSTU"[number], self.hosts[host], 1)

    def boot(self, name: str, host: Host, life: int) -> Process:
        """Start a process."""
        process = Process(self, name, host, life)
        self.processes.append(process)
        self.start(Thread(process, "listener", listener(process)))
        self.start(Thread(process, "keeper", housekeeper(process)))
        if not self.closing:
            for number in range(self.settings.threads):
                thread = Thread(process, f"app{number}", None)  # type: ignore[arg-type]
                thread.plan = Application(process).run(thread)
                self.start(thread)
        self.note(process, "starts")
        return process

    def crash(self, process: Process, restart_after: float | None) -> None:
        """Kill a process: its memory and ledger are gone, its host's disk and outbox stay."""
        self.note(process, "is killed")
        process.alive = False
        self.retire(process)
        self.processes.remove(process)
        for thread in list(process.threads):
            self.kill(thread)
        if restart_after is not None:
            self.at(restart_after, lambda: self.boot(process.name, process.host, process.life + 1) and None)

    # -- what the models call -----------------------------------------------------------------

    def publish(self, message: bytes) -> None:
        """Put a message on its way to everybody who listens."""
        for process in self.processes:
            if process.subscribed and "bus" not in process.cut:
                for arrived in self.faults.on_the_way(process, message):
                    process.inbox.append(arrived)
                self.hear(process)

    def heard_from(self, member: str) -> None:
        """Note that the log heard from a member."""
        for process in self.processes:
            if process.coherence.fleet.member == member:
                process.last_beat = self.now

    def appended(self, record: Record, draft: Draft) -> None:
        """Tell the oracle of a record, in the step that appends it."""
        thread = self.running
        assert thread is not None
        process, operation = thread.process, self.operation
        replayed = id(draft) in process.outbox.claimed
        if replayed or operation is None:
            source = self.queued_as.get(draft)
            number = self.oracle.invalidated(
                draft, self.now, record, harmless=source is not None and source.harmless, who=f"{process} (replayed)"
            )
        else:
            source = operation
            number = self._made(draft, record, operation, str(process))
        if source is not None:
            for name, version in source.writes.items():
                if not draft.soft and name in self.oracle.covers(draft):
                    self.oracle.covered[name] = max(self.oracle.covered[name], version)
        if self.log.host_log and self.settings.on_outage == "load":
            # Every process of the host compares heads on every read.
            for each in self.processes:
                each.known |= 1 << number

    def queued(self, process: Process, drafts: Sequence[Draft]) -> None:
        """Tell the oracle of records that wait in an outbox."""
        operation = self.operation
        assert operation is not None
        for draft in drafts:
            self.queued_as[draft] = operation
            self._made(draft, None, operation, f"{process} (queued)")
            self.counts["queued in the outbox"] += 1

    def _made(self, draft: Draft, record: Record | None, operation: Operation, who: str) -> int:
        number = self.oracle.invalidated(draft, self.now, record, harmless=operation.harmless, who=f"{who} {operation}")
        if not self.arriving_late:  # else it is one more than what the process sent again, was told of, or queued
            operation.numbers |= 1 << number
        if operation.value is not None:
            operation.value.own |= 1 << number
            if operation.exclusive:
                # "True as of now": as of the last of its records, where a lost answer made it several.
                operation.value.born = number
        return number

    def reached(self, process: Process, records: tuple[Record, ...] | Malformed) -> None:
        """Note that a process has dealt with a message: it knows what the message said."""
        if isinstance(records, Malformed):
            self.counts["malformed message heard"] += 1
            return
        for record in records:
            number = self.oracle.by_position.get((record.epoch, record.position))
            if number is not None:
                process.known |= 1 << number

    def barrier_returned(self, operation: Operation) -> None:
        """Note that a barrier returned: from now on every process counts as told that the fleet still counts with."""
        self.counts["barrier returned"] += 1
        limit = self.settings.max_staleness
        state = self.log.state
        # What the log says of an earlier life: nothing where nobody told it of one, or where that is long ago.
        recalls = state is None or (state.unknown is not None and self.now - state.unknown < limit)
        for process in self.processes:
            # Its lease was of two max_staleness, and one that has lapsed is waited for as long again.
            long_away = self.now - process.last_beat >= 3 * limit
            forgotten = state is not None and process.coherence.position()[0] != state.epoch and not recalls
            if self.settings.every_barrier or not (long_away or forgotten):
                process.barred |= operation.numbers
            else:
                self.counts[f"barrier left out a process {'long away' if long_away else 'of a forgotten life'}"] += 1

    # -- the application's lock ------------------------------------------------------------------

    def lock(self, operation: Operation, name: Name, *, hold: bool) -> bool:
        """Let a writer at a key of the origin, alone until it ends where it says `hold`."""
        if self.locks.get(name, operation) is not operation:
            return False
        if hold:
            self.locks[name] = operation
        return True

    def unlock(self, operation: Operation) -> None:
        """End what an operation held."""
        for name in [name for name, holder in self.locks.items() if holder is operation]:
            del self.locks[name]

    # -- running -----------------------------------------------------------------------------------

    def run(self) -> None:
        """Live through the settings' steps, with faults."""
        settings = self.settings
        fault = 1.0 / settings.faults_every
        while self.steps < settings.steps:
            drawn = self.draw()
            if drawn < fault:
                self.faults.strike()
            elif drawn < fault + settings.ticks:
                self.pass_time(self.random.choice((0.01, 0.05, 0.2, 0.5, 1.0)))
            elif self.limbo and drawn > 0.98:
                self.arrive_late()
            elif not self.turn() and (not self.skip() or self.threads):
                self.pass_time(0.05)

    def retire(self, process: Process) -> None:
        """Take over what the library counted in a process."""
        process.check()
        regions = process.runtime.regions()
        counted = [("coherence", process.coherence.counters), *(("region", region.counters) for region in regions)]
        for prefix, counters in counted:
            for name in counters.__slots__:  # type: ignore[attr-defined]
                self.retired[f"{prefix} {name}"] += getattr(counters, name).value
        self.retired["ring overflowed"] += process.runtime.ledger.floor > 0 and not process.disk
        self.retired["disk put later"] += process.disk.flushed if process.disk else 0
        self.retired["stamp floor hit"] += process.runtime.ledger.floor_hits

    def counted(self) -> Counter[str]:
        """Return what happened, once the world has come to rest."""
        counts = self.counts + self.retired
        counts.update({f"value server {name}": value for name, value in self.values.counts.items()})
        counts.update({f"epoch: {reason}": value for reason, value in self.log.reasons.items()})
        counts["disk marked"] = sum(host.disk.marked for host in self.hosts.values())
        counts["disk found_marked"] = sum(host.disk.found_marked for host in self.hosts.values())
        counts["log record trimmed"] = self.log.trimmed
        counts["record carried by the fleet"] = self.log.carried
        counts["reads judged"] = self.oracle.reads
        counts["reads of what is stale"] = self.oracle.stale_reads
        counts["reads that the outage rule excused"] = self.oracle.excused
        counts["invalidations"] = self.oracle.count
        counts["steps"] = self.steps
        return counts


def check_models(world: World) -> None:
    """Audit the models themselves."""
    world.log.check()
    if world.log.state is not None and not world.processes:
        raise Violation("no process is left")


__all__ = ["Any", "World", "check_models", "plans_handed_out"]
