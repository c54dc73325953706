"""What a manager holds while it works: tiers, log, ledger, regions, threads.

Built from a configuration without I/O and without a thread; connections, files and threads
come with the first use, and anew in a forked child.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from .clock import Clock, SystemClock
from .coherence.coherence import Coherence
from .coherence.ledger import Ledger
from .coherence.listener import Housekeeper, Listener
from .coherence.outbox import outbox_at
from .coherence.protocols import Removal
from .config import DEFAULT_REGION
from .errors import ManagerClosed
from .events import Events
from .invalidation.targets import Target, entity_targets, event_targets
from .keys import decode_target, encode_part
from .loading.flights import Flights
from .loading.leases import Fills
from .loading.workers import Workers
from .loading.writing import burials
from .observing.fleet import digest_of
from .observing.monitor import Monitor
from .plans import Plan, blocking, drive
from .region import Region
from .removing import Removing
from .sweeper import Sweeper
from .tiers.entry import STALE, Address

if TYPE_CHECKING:
    from .coherence.log import Write
    from .coherence.records import Draft, Record
    from .config import CacheConfig
    from .tiers.disk import DiskTier

MARKS = 3
"""Attempts to mark an entry stale, where a fill that may be as old takes its place meanwhile."""

logger = logging.getLogger("tiercast")
logger.addHandler(logging.NullHandler())  # quiet unless the application says where to log


class Runtime(Removing):
    """The working parts of one manager. Thread-safe, loop-safe and fork-safe."""

    def __init__(self, config: CacheConfig, clock: Clock | None = None) -> None:
        self.config = config
        self.clock = clock or SystemClock()
        distributed = config.remote
        self.fleet = encode_part((distributed.prefix if distributed else None) or config.name)
        self.closed = False
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._disks: dict[str, DiskTier] = {}
        self._regions: dict[str, Region] = {}
        self._begun = False
        """Whether all that runs in the background was started."""
        self._next_start = 0.0
        """When that is tried again, where a thread could not be had."""
        self.monitor = Monitor(self)
        self.flights = Flights()
        self.workers = Workers(config.background_workers)
        self.connections = self._connections()
        self.remote = self._remote()
        settings = config.coherence
        self.ledger = Ledger(settings.key_ring, settings.stamps)
        self.log = self._log()
        self.leases = self._leases()
        self.coherence = Coherence(
            self.log,
            self.ledger,
            settings,
            self.clock,
            outbox_at(self._outbox_directory(), self.fleet),
            remove=self._remove,
            drop=self._drop,
            stores=self._stores,
            burials=self.burials,
        )
        self.listener = Listener(self.coherence)
        self.fills = Fills(getattr(self.log, "announce", None), lambda: self.listener.connected, self.coherence)
        interval = config.local.cleanup_interval if config.local is not None else 30.0
        self._sweep_every = interval
        self._swept = time.monotonic()
        tick = min(interval, self.monitor.interval, settings.heartbeat if self.log.kind != "memory" else interval)
        self.housekeeper = Housekeeper(self._housekeep, tick, "tiercast-housekeeper")
        self.coherence.wake = self.housekeeper.wake if self.log.kind != "memory" else lambda: None
        self.coherence.digest = lambda: digest_of(self)
        self.coherence.filled = self.fills.filled
        self.coherence.observe = self.monitor.applied
        self.events = Events(self)
        self.coherence.travelled = self.events.travelled
        self.sweeper = Sweeper(self)
        self.events.purged = self.sweeper.soon
        self.monitor.listeners.wake = self.housekeeper.wake
        self.default = self.region(DEFAULT_REGION)
        for name in config.regions:
            self.region(name)
        _runtimes.add(self)

    # -- working ------------------------------------------------------------------------------

    def ready(self) -> None:
        """Refuse a closed manager; start, or after a fork start anew, what runs in the background.

        Raises:
            ManagerClosed: the manager was closed.
        """
        if self._begun and self._pid == os.getpid():
            return
        with self._lock:
            self.refuse_closed()
            if self._pid != os.getpid():
                self._pid, self._next_start = os.getpid(), 0.0
            if time.monotonic() < self._next_start:
                return
            heard = self.log.kind == "memory" or self.listener.start()
            kept = self.housekeeper.start()
            self.monitor.start()
            self._begun = heard and kept
            self._next_start = time.monotonic() + self.config.coherence.heartbeat

    def refuse_closed(self) -> None:
        """Raise ManagerClosed where the manager was closed; starts nothing."""
        if self.closed:
            message = "this CacheManager is closed; make a new one, or reset_instance() for the process's own"
            raise ManagerClosed(message)

    def _remove(self, removals: Iterable[Removal]) -> None:
        """Take what key records killed out of memory; the ledger's lock is held."""
        for name, scope, key, position, soft in removals:
            region = self._regions.get(name)
            if region is not None:
                region.drop_key((scope, key) if scope else key, position, soft=soft)

    def _drop(self) -> None:
        """Empty memory; the ledger's lock is held."""
        for region in self._regions.values():
            if region.memory is not None:
                region.watch.evicted_many("epoch", region.memory.clear())

    def burials(self, drafts: Sequence[Draft]) -> Sequence[Write]:
        """Return the L3 half of key records that carry no value."""
        if self.remote is None or not self.log.atomic_writes:
            return ()
        return burials(drafts, self.config.coherence.fence)

    # -- housekeeping ---------------------------------------------------------------------------

    def _housekeep(self) -> None:
        self.monitor.tick()
        if self.log.kind != "memory" and self.coherence.started:
            drive(self.coherence.follow_stores())
            drive(self.flush())
            if self.coherence.proven():
                drive(self.fills.repay())
            if self.remote is not None:
                drive(self.coherence.carry(self._carry))
        drive(self.sweeper.tick())
        if time.monotonic() - self._swept >= self._sweep_every:
            self._swept = time.monotonic()
            self.sweep()

    def _carry(self, todo: Sequence[tuple[Record, str]]) -> Plan[bool]:
        """Bury in L3 what key records of others killed there, and mark what soft ones made stale."""
        remote, fence = self.remote, self.config.coherence.fence
        assert remote is not None
        for record, target in todo:
            address = Address(record.region, *decode_target(target))
            if not record.soft:
                if (yield from remote.bury(address, record.epoch, record.position, fence)) is False:
                    return False
                continue
            for _ in range(MARKS):
                reading = yield from remote.get_many((address,), record.epoch)
                seen = reading.found.get(address)
                if reading.failed:
                    return False
                if seen is None or seen.born >= record.position or seen.flags & STALE:
                    break
                if (yield from remote.renew(address, seen, replace(seen, flags=seen.flags | STALE))):
                    break
        return True

    # -- counting ---------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """Return the flat figures of all regions together."""
        regions = list(self._regions.values())

        def total(*names: str) -> int:
            return sum(getattr(region.counters, name).value for region in regions for name in names)

        memories = [region.memory for region in regions if region.memory is not None]
        hits, misses = total("hits", "disk_hits", "remote_hits"), total("misses")
        size = sum(len(memory) for memory in memories)
        tiers = {"memory": bool(memories), "disk": bool(self._disks), self.remote_name: self.remote is not None}
        return {
            "hits": hits,
            "misses": misses,
            "hit_rate": hits / (hits + misses) if hits + misses else 0.0,
            "current_size": size,
            "total_keys": size,
            "evictions": total("evictions"),
            "expired": total("expired"),
            "invalidated": total("invalidated"),
            "loads": total("loads"),
            "load_errors": total("load_errors"),
            "stale_served": total("stale_served"),
            "sets": total("sets"),
            "fills": total("fills"),
            "fills_refused": total("fills_refused"),
            "local_hits": total("hits"),
            "disk_hits": total("disk_hits"),
            "remote_hits": total("remote_hits"),
            "memory_bytes": sum(memory.bytes for memory in memories)
            if any(memory.max_bytes for memory in memories)
            else None,
            "tracked_namespaces": len(regions),
            "storage_type": "+".join(name for name, there in tiers.items() if there),
        }

    def memory_estimate(self) -> int:
        """Return the bytes that all memory tiers take, roughly."""
        return sum(region.memory.estimate() for region in self.regions() if region.memory is not None)

    @property
    def remote_name(self) -> str:
        """What `stats` calls the remote tier."""
        return "redis" if self.connections is not None else "remote"

    # -- events -------------------------------------------------------------------------------------

    def event_targets(self, event: str, payload: Mapping[str, Any] | None) -> list[Target]:
        """Return what the configured strategies say that an event invalidates."""
        return event_targets(self.config.invalidation, event, payload)

    def entity_targets(self, entity: str, identity: Any) -> list[Target]:
        """Return what the configured strategies say belongs to an entity."""
        return entity_targets(self.config.invalidation, entity, identity)

    def scope_path(self, target: Target) -> str:
        """Return the scope path that a target names, checked against the configured trees."""
        return self.config.scopes.check_path(target.text)

    # -- ending -------------------------------------------------------------------------------------

    def close(self) -> Plan[None]:
        """Stop the threads, deregister, and give back files and connections.

        Raises:
            What a step raised first, the caller's cancellation included, once all were taken: nothing is left half closed.
        """
        with self._lock:
            if self.closed:
                return
            self.closed = True
            self._begun = False
        steps: list[Callable[[], Plan[None]]] = [
            partial(blocking, self.monitor.close),
            partial(blocking, self._forget),
            partial(blocking, self._stop),
        ]
        steps += [self.coherence.leave, *(disk.close for disk in self._disks.values())]
        if self.remote is not None:
            steps.append(self.remote.close)
        steps.append(partial(blocking, self.coherence.outbox.close))
        failure: BaseException | None = None
        for step in steps:
            for _ in range(2):  # what was broken off may not have begun
                try:
                    yield from step()
                    break
                except GeneratorExit:
                    raise
                except Exception as exc:  # noqa: BLE001  raised below
                    failure = failure or exc
                    break
                except BaseException as exc:  # noqa: BLE001  raised below
                    failure = failure or exc
        if failure is not None:
            raise failure

    def _forget(self) -> None:
        with self.ledger.lock:
            self.ledger.proven_until = float("-inf")
            self._drop()

    def _stop(self) -> None:
        self.listener.stop()
        self.housekeeper.stop()
        self.events.drain(self.config.coherence.drain_timeout)

    # -- forking ------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Hold the ledger still, so that the child does not inherit it half changed."""
        self._lock.acquire()
        self.ledger.lock.acquire()

    def after_fork_in_parent(self) -> None:
        self.ledger.lock.release()
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Keep what memory holds, unproven; everything that belongs to the parent is made anew."""
        self.ledger.lock.release()
        self._lock.release()
        self._begun = False
        self.flights.reset()
        self.workers.reset()
        self.fills.reset()
        self.events.forked()
        self.sweeper.forked()
        for region in self._regions.values():
            region.slots.reset()
            region.rng.seed()  # else all children draw the same jitter, and their entries end together
        self.monitor.forked()
        self.listener.forked()
        self.housekeeper.forked()
        self.coherence.forked()


_runtimes: weakref.WeakSet[Runtime] = weakref.WeakSet()
_forking: list[Runtime] = []


def _open_runtimes() -> list[Runtime]:
    while True:
        try:
            return [runtime for runtime in _runtimes if not runtime.closed]
        except RuntimeError:  # another thread makes a manager at this very moment
            continue


def positions() -> dict[Runtime, tuple[str, int]]:
    """Return where each manager of this process stands in its log."""
    return {runtime: runtime.coherence.position() for runtime in _open_runtimes()}


def _before_fork() -> None:
    _forking[:] = sorted(_open_runtimes(), key=id)
    for runtime in _forking:
        runtime.before_fork()


def _after_fork_in_parent() -> None:
    for runtime in reversed(_forking):
        runtime.after_fork_in_parent()
    _forking.clear()


def _after_fork_in_child() -> None:
    for runtime in reversed(_forking):
        runtime.after_fork_in_child()
    _forking.clear()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
