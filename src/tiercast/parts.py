"""The parts of a manager, made as its configuration says: connections, log, tiers, regions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from .coherence.log import LogUnavailable
from .coherence.memory_log import MemoryLog
from .config import DEFAULT_REGION, load_object
from .errors import ConfigError
from .loading.slots import Slots
from .observing.measured import MeasuredSerializer, MeasuredTier
from .plans import Plan
from .region import Region
from .serialization import Serializer
from .tiers.adapter import SyncTier
from .tiers.memory import MemoryTier

if TYPE_CHECKING:
    from .clock import Clock
    from .coherence.coherence import Coherence
    from .coherence.ledger import Ledger
    from .coherence.log import Log
    from .config import CacheConfig, DistributedCacheConfig, LocalCacheConfig, RegionConfig
    from .connections import RedisConnections
    from .loading.flights import Flights
    from .loading.leases import Fills, LeaseStore
    from .loading.workers import Workers
    from .monitoring.watch import Watch
    from .observing.monitor import Monitor
    from .tiers.base import Tier
    from .tiers.disk import DiskTier


class Parts:
    """The part of `Runtime` that knows what is made of which setting. Nothing here does I/O or starts a thread."""

    config: CacheConfig
    clock: Clock
    fleet: str
    monitor: Monitor
    flights: Flights
    workers: Workers
    connections: RedisConnections | None
    remote: Tier | None
    ledger: Ledger
    log: Log
    leases: LeaseStore | None
    fills: Fills
    coherence: Coherence
    _lock: threading.RLock
    _disks: dict[str, DiskTier]
    _regions: dict[str, Region]

    def _connections(self) -> RedisConnections | None:
        distributed = self.config.remote
        if distributed is None or distributed.type != "redis":
            return None
        from .connections import RedisConnections

        return RedisConnections(distributed, self.clock)

    def _remote(self) -> Tier | None:
        distributed = self.config.remote
        if distributed is None:
            return None
        if self.connections is None:
            return tier_of(distributed.type, "remote", self.clock)
        from .tiers.redis import RedisTier

        limit = self.config.coherence.max_load_time
        return RedisTier(
            self.connections, self.fleet, distributed, self.clock,
            max_load_time=limit, keeps=self._keeps("remote"), first_seen=self._first_seen,
        )  # fmt: skip

    def _first_seen(self, epoch: str, lives: Sequence[str]) -> Plan[int | None]:
        try:
            return (yield from self.log.first_seen(epoch, lives))
        except LogUnavailable:
            return None

    def _log(self) -> Log:
        settings = self.config.coherence
        bus = settings.bus
        directory = self._log_directory()
        if bus == "auto":
            bus = "redis" if self.connections is not None else "disk" if directory is not None else "memory"
        if bus == "redis":
            from .coherence.redis_log import RedisLog

            assert self.connections is not None
            return RedisLog(self.connections, self.fleet, settings, self.clock)
        if bus == "disk":
            from .coherence.disk_log import DiskLog

            assert directory is not None
            return DiskLog(directory, stamps=settings.stamps, carries=self.remote is not None, clock=self.clock)
        # Nobody but this process reads it, and each append applies what came before it: as many as there are threads do.
        return MemoryLog(retention=1000, clock=self.clock)

    def _log_directory(self) -> str | None:
        """Return the directory of the disk log: that of the first file tier."""
        for name in (None, *self.config.regions):
            disk = self.config.region(name).disk
            if disk is not None and disk.type == "file":
                return disk.directory
        return None

    def _outbox_directory(self) -> str | None:
        directory = self.config.coherence.outbox_directory or self._log_directory()
        return None if directory is None or self.log.kind == "memory" else str(directory)

    def _leases(self) -> LeaseStore | None:
        if self.connections is not None:
            return self.remote  # type: ignore[return-value]
        return self.log if self.log.kind == "disk" else None  # type: ignore[return-value]

    def _disk(self, local: LocalCacheConfig) -> Tier:
        if local.type != "file":
            return tier_of(local.type, "disk", self.clock)
        directory = str(local.directory)
        found = self._disks.get(directory)
        if found is None:
            from .tiers.disk import DiskTier

            found = self._disks[directory] = DiskTier(directory, local, self.clock, self._keeps("disk"))
        return found

    def _keeps(self, tier: str) -> Callable[[str, float], float]:
        """Return what tells a tier how long it keeps an entry of a region."""
        return lambda region, seconds: self.region(region).kept(tier, seconds)

    @property
    def _stores(self) -> Sequence[DiskTier]:
        return _Stores(self._disks)

    def region(self, name: str | None) -> Region:
        """Return a region, made on demand; None: the default region.

        Raises:
            TypeError, ValueError: the name is no str, or is empty.
        """
        name = DEFAULT_REGION if name is None else name
        found = self._regions.get(name)
        if found is not None:
            return found
        if not isinstance(name, str):
            message = f"a region is named by a str, not {name!r}"
            raise TypeError(message)
        if not name:
            message = "a region's name must not be empty"
            raise ValueError(message)
        with self._lock:
            found = self._regions.get(name)
            if found is None:
                found = self._make_region(name, self.config.region(name))
                with self.ledger.lock:
                    self._regions = {**self._regions, name: found}
        return found

    def regions(self) -> list[Region]:
        """Return the regions that are configured or were used."""
        return list(self._regions.values())

    def disks(self) -> list[DiskTier]:
        """Return the disk tiers, one a directory."""
        return list(self._disks.values())

    def region_names(self) -> list[str]:
        """Return the names of the regions that are configured or were used."""
        return list(self._regions)

    def _make_region(self, name: str, settings: RegionConfig) -> Region:
        memory = disk = None
        serializers: dict[str, Serializer] = {}
        local = settings.local
        if local is not None:
            memory = MemoryTier(
                local.entry_limit, local.byte_limit, local.policy, lock=self.ledger.lock, clock=self.clock
            )
        watch = self.monitor.watch(name)
        if settings.disk is not None:
            disk = MeasuredTier(self._disk(settings.disk), watch)
            serializers["disk"] = self._serializer(settings, settings.disk, watch, "disk")
        remote = (
            MeasuredTier(self.remote, watch) if settings.distributed is not None and self.remote is not None else None
        )
        if settings.distributed is not None:
            serializers["remote"] = self._serializer(settings, settings.distributed, watch, "remote")
        region = Region(
            name,
            settings,
            coherence=self.coherence,
            clock=self.clock,
            flights=self.flights,
            slots=Slots(settings.max_concurrent_loads),
            workers=self.workers,
            memory=memory,
            disk=disk,
            remote=remote,
            serializers=serializers,
            leases=self.leases,
            fills=self.fills,
            strict=Serializer("json", max_value_bytes=settings.value_limit) if settings.strict_values else None,
            watch=watch,
        )
        self.monitor.enter(region)
        return region

    def _serializer(
        self, settings: RegionConfig, tier: LocalCacheConfig | DistributedCacheConfig, watch: Watch, name: str
    ) -> Serializer:
        make = partial(MeasuredSerializer, watch, name) if watch.timed else Serializer
        return make(
            tier.serializer,
            compress_above=getattr(tier, "compress_above", None),
            max_value_bytes=settings.value_limit,
            secret=tier.secret,
        )


def tier_of(given: Any, name: str, clock: Clock) -> Tier:
    """Return a user's own tier: an instance, a class or "package.module:Class", of a `Tier` or a `SimpleStore`.

    Raises:
        ConfigError: it has the methods of neither.
    """
    if isinstance(given, str):
        given = load_object(given)
    if isinstance(given, type):
        given = given()
    if hasattr(given, "put_if_newer"):
        given.name = name
        return given  # type: ignore[no-any-return]
    if all(callable(getattr(given, method, None)) for method in ("get", "set", "delete")):
        return SyncTier(given, name=name, clock=clock)
    message = f"{given!r} is no tier: it needs get, set and delete (tiers.adapter.SimpleStore) or put_if_newer (tiers.base.Tier)"
    raise ConfigError(message)


class _Stores(Sequence["DiskTier"]):
    """The disk tiers as coherence sees them: whatever has been opened by now."""

    def __init__(self, disks: Mapping[str, DiskTier]) -> None:
        self._disks = disks

    def __len__(self) -> int:
        return len(self._disks)

    def __getitem__(self, index: Any) -> Any:
        return list(self._disks.values())[index]
