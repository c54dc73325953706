"""The settings of tiers, coherence and monitoring: frozen, and checked when they are made.

Durations are seconds or `timedelta` and are kept as float seconds. Whatever cannot
be is a ConfigError that names the field.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs

from . import checks, defaults
from .checks import FieldError, optional_path, optional_seconds, refuse_unknown, seconds
from .urls import hide_password, problem_of


def _secret(value: str | bytes | None) -> bytes | None:
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value


def _check_secret(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None and not (isinstance(value, bytes) and value):
        raise FieldError((attribute.name,), "must be text or bytes and not empty")


def _check_pickle(serializer: object, secret: bytes | None) -> None:
    if serializer == "pickle" and secret is None:
        raise FieldError(("secret",), "is needed with serializer='pickle': unsigned pickles are never read")
    if serializer == "pickle" and secret is not None and len(secret) < defaults.SHORTEST_SECRET:
        problem = f"must have at least {defaults.SHORTEST_SECRET} bytes with serializer='pickle', not {len(secret)}"
        raise FieldError(("secret",), problem)


@refuse_unknown
@attrs.frozen(kw_only=True)
class LocalCacheConfig:
    """A tier in this process (type "memory") or on this host's disk (type "file", or a tier of your own).

    Attributes:
        type: "memory"; "file"; or a tier of your own for the place of the disk tier: "package.module:Class",
            a class or an instance.
        max_size: memory: entries (None: 10,000). Disk: MB of 1024 x 1024 bytes (None: 1,024, or what
            `max_bytes` says).
        max_bytes: bytes. Memory: a second bound beside the entries (None: none). Disk: instead of `max_size`.
        max_size_mb: another way to write `max_bytes`, in MB.
        ttl: caps how long this tier keeps an entry, whatever the entry's own TTL is; None: no cap.
        policy: what leaves a full memory tier: a name, "package.module:Class", or a `cachetools.Cache` (class or
            instance). A disk tier ignores it.
        directory: where a disk tier lives; None: the user's cache directory, below the configuration's name.
        serializer: the codec of a disk tier: a name, "package.module:Class" or a codec.
        secret: signs and checks pickles on disk.
        cleanup_interval: seconds between removals of the expired, in the background.
        copy_on_read: memory keeps a deep copy of the value, and hands out another to each reader.
        freeze: memory hands out values made read-only.
    """

    type: Any = attrs.field(default="memory", validator=checks.plugin(defaults.LOCAL_TYPES))
    max_size: int | None = attrs.field(default=None, validator=checks.optional(checks.count()))
    max_bytes: int | None = attrs.field(default=None, validator=checks.optional(checks.count()))
    max_size_mb: float | None = attrs.field(default=None, validator=checks.optional(checks.positive))
    ttl: float | None = attrs.field(
        default=None, converter=optional_seconds, validator=checks.optional(checks.positive)
    )
    policy: Any = attrs.field(default="lru", validator=checks.plugin(defaults.POLICIES))
    directory: str | None = attrs.field(
        default=None, converter=optional_path, validator=checks.optional(checks.writable_directory)
    )
    serializer: Any = attrs.field(default="json", validator=checks.plugin(defaults.SERIALIZERS))
    secret: bytes | None = attrs.field(default=None, converter=_secret, validator=_check_secret, repr=False)
    cleanup_interval: float = attrs.field(default=30.0, converter=seconds, validator=checks.positive)
    copy_on_read: bool = attrs.field(default=False, validator=checks.flag)
    freeze: bool = attrs.field(default=False, validator=checks.flag)

    def __attrs_post_init__(self) -> None:
        bounds = {"max_bytes": self.max_bytes, "max_size_mb": self.max_size_mb}
        if not self.is_memory:
            bounds = {"max_size": self.max_size, **bounds}
            _check_pickle(self.serializer, self.secret)
        given = [name for name, value in bounds.items() if value is not None]
        if len(given) > 1:
            raise FieldError((given[-1],), f"says the same as {given[0]}: give one of them")
        if self.copy_on_read and self.freeze:
            raise FieldError(("freeze",), "needs no copy_on_read: what is read-only need not be copied")

    @property
    def is_memory(self) -> bool:
        """Whether this is a memory tier."""
        return isinstance(self.type, str) and self.type == "memory"

    @property
    def entry_limit(self) -> int | None:
        """The most entries that the tier may hold; None for a disk tier, which is bounded by bytes."""
        return (self.max_size or defaults.MEMORY_ENTRIES) if self.is_memory else None

    @property
    def byte_limit(self) -> int | None:
        """The most bytes that the tier may hold; None for a memory tier that is bounded by entries alone."""
        if self.max_bytes is not None:
            return self.max_bytes
        if self.max_size_mb is not None:
            return max(1, int(self.max_size_mb * defaults.MEBIBYTE))
        if self.is_memory:
            return None
        return (self.max_size or defaults.DISK_MEGABYTES) * defaults.MEBIBYTE


def _check_connection(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is None:
        return
    problem = problem_of(value) if isinstance(value, str) else "must be text"
    if problem:
        raise FieldError((attribute.name,), f"{problem}, not {hide_password(value)}")


def _check_client(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    clients = value if isinstance(value, tuple) else (value,)
    plain = (str, bytes, bool, int, float, list, dict, set)
    if value is not None and (
        len(clients) not in {1, 2} or any(client is None or isinstance(client, plain) for client in clients)
    ):
        raise FieldError(
            (attribute.name,), f"must be a Redis client or a pair (client, asyncio client), not {hide_password(value)}"
        )


@refuse_unknown
@attrs.frozen(kw_only=True)
class DistributedCacheConfig:
    """The tier that the fleet shares (L3).

    Attributes:
        enabled: None: on where a connection (or a tier of your own) is given.
        type: "redis"; or a tier of your own: "package.module:Class", a class or an instance.
        connection_string: redis://, rediss://, unix://, redis+sentinel://host:port,…/service/db or
            redis+cluster://host:port,…
        client: instead of it, a ready redis-py client, sync or asyncio, or the pair (sync, asyncio).
        ttl: seconds; caps how long this tier keeps an entry, whatever the entry's own TTL is; None: no cap.
        serializer: the codec: a name, "package.module:Class" or a codec.
        read_timeout: seconds that one read may take before it is a miss.
        write_timeout: seconds that one write may take.
        connect_timeout: seconds that connecting may take.
        max_connections: connections that one process opens at most, for each event loop and for its threads.
        breaker_failures: after so many failures in a row the tier is left alone.
        breaker_reset: seconds until it is tried again.
        compress_above: payloads of more bytes are compressed; None: none are.
        max_value_bytes: larger payloads are refused with SerializationError.
        secret: signs and checks pickles.
        prefix: what all keys in Redis begin with; None: the configuration's name. Fleets that differ in it do not
            see each other.
    """

    enabled: bool | None = attrs.field(default=None, validator=checks.optional(checks.flag))
    type: Any = attrs.field(default="redis", validator=checks.plugin(defaults.REMOTE_TYPES))
    connection_string: str | None = attrs.field(default=None, validator=_check_connection, repr=hide_password)
    client: Any = attrs.field(default=None, validator=_check_client)
    ttl: float | None = attrs.field(
        default=3600.0, converter=optional_seconds, validator=checks.optional(checks.positive)
    )
    serializer: Any = attrs.field(default="json", validator=checks.plugin(defaults.SERIALIZERS))
    read_timeout: float = attrs.field(default=0.25, converter=seconds, validator=checks.positive)
    write_timeout: float = attrs.field(default=1.0, converter=seconds, validator=checks.positive)
    connect_timeout: float = attrs.field(default=1.0, converter=seconds, validator=checks.positive)
    max_connections: int = attrs.field(default=50, validator=checks.count())
    breaker_failures: int = attrs.field(default=5, validator=checks.count())
    breaker_reset: float = attrs.field(default=2.0, converter=seconds, validator=checks.positive)
    compress_above: int | None = attrs.field(default=1024, validator=checks.optional(checks.count(0)))
    max_value_bytes: int = attrs.field(default=64 * defaults.MEBIBYTE, validator=checks.count())
    secret: bytes | None = attrs.field(default=None, converter=_secret, validator=_check_secret, repr=False)
    prefix: str | None = attrs.field(default=None, validator=checks.optional(checks.text))

    def __attrs_post_init__(self) -> None:
        if self.client is not None and self.connection_string is not None:
            raise FieldError(("client",), "is given, and connection_string too: give one of them")
        if self.enabled and not self._reachable:
            raise FieldError(
                ("connection_string",), f"is needed where enabled=True (or client=), such as {defaults.REDIS_URL!r}"
            )
        _check_pickle(self.serializer, self.secret)

    @property
    def _reachable(self) -> bool:
        own = not (isinstance(self.type, str) and self.type == "redis")
        return own or self.connection_string is not None or self.client is not None

    @property
    def is_on(self) -> bool:
        """Whether the tier is used."""
        return self._reachable if self.enabled is None else self.enabled


@refuse_unknown
@attrs.frozen(kw_only=True)
class CoherenceConfig:
    """How invalidations travel, and what is served while they cannot.

    Attributes:
        bus: which log carries them: "redis", "disk", "memory" (this process alone), or "auto": the first of these
            that the configuration has a tier for.
        max_staleness: seconds; the bound on staleness in any failure. Memory is not served longer than this after
            the last proof that all invalidations were applied.
        heartbeat: seconds between proofs; below `max_staleness`.
        on_outage: while nothing can be proven, "load" asks the origin, "serve" goes on serving until the TTL.
        max_load_time: seconds; a load that takes longer is served and not kept.
        origin_lag: seconds that the origin's readers may be behind its writers (read replicas, late commits): a
            load that begins so soon after an invalidation is served and not kept.
        failover: "new_epoch" drops what is cached when Redis restarts or fails over; "trust" is for those who run
            Redis with WAIT, or accept lost invalidations.
        key_ring: key invalidations that a process remembers.
        stamps: tags, scopes and patterns that are remembered for each region.
        retention: seconds that the Redis log keeps records for those who missed them.
        outbox_directory: where invalidations wait while Redis is away; None: the disk tier's directory, or memory
            where there is none.
        canary_timeout: seconds that the first message to oneself may take.
        drain_timeout: seconds that close() waits for background work and the outbox.
        max_message_bytes: larger messages on the bus are not read; the log is read instead.
    """

    bus: str = attrs.field(default="auto", validator=checks.choice(defaults.BUSES))
    max_staleness: float = attrs.field(default=5.0, converter=seconds, validator=checks.positive)
    heartbeat: float = attrs.field(default=1.0, converter=seconds, validator=checks.positive)
    on_outage: str = attrs.field(default="load", validator=checks.choice(defaults.OUTAGE_MODES))
    max_load_time: float = attrs.field(default=600.0, converter=seconds, validator=checks.positive)
    origin_lag: float = attrs.field(default=0.0, converter=seconds, validator=checks.not_negative)
    failover: str = attrs.field(default="new_epoch", validator=checks.choice(defaults.FAILOVER_MODES))
    key_ring: int = attrs.field(default=100_000, validator=checks.count())
    stamps: int = attrs.field(default=100_000, validator=checks.count())
    retention: float = attrs.field(default=3600.0, converter=seconds, validator=checks.positive)
    outbox_directory: str | None = attrs.field(
        default=None, converter=optional_path, validator=checks.optional(checks.writable_directory)
    )
    canary_timeout: float = attrs.field(default=2.0, converter=seconds, validator=checks.positive)
    drain_timeout: float = attrs.field(default=5.0, converter=seconds, validator=checks.positive)
    max_message_bytes: int = attrs.field(default=defaults.MEBIBYTE, validator=checks.count(1024))

    def __attrs_post_init__(self) -> None:
        if self.heartbeat >= self.max_staleness:
            raise FieldError(
                ("heartbeat",), f"must be below max_staleness ({self.max_staleness:g} s), not {self.heartbeat:g} s"
            )

    @property
    def fence(self) -> float:
        """Seconds for which nothing older may come back to L3 after a `set` or `delete`."""
        return self.max_load_time + self.max_staleness


def _check_call(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    if not callable(value):
        raise FieldError((attribute.name,), f"must be callable, not {checks.shown(value)}")


@refuse_unknown
@attrs.frozen(kw_only=True)
class Alert:
    """A threshold whose crossing, and recovery, are each told once.

    Attributes:
        metric: a figure of `monitor.get_stats()`, by its dotted name, such as "hit_rate.overall".
        above, below: the figure is wrong where it is greater, or less; give one of them.
        call: called with (alert, value, crossed) in the background; what it raises is counted and logged.
    """

    metric: str = attrs.field(validator=checks.text)
    call: Callable[[Alert, float, bool], object] = attrs.field(validator=_check_call)
    above: float | None = attrs.field(default=None, validator=checks.optional(checks.not_negative))
    below: float | None = attrs.field(default=None, validator=checks.optional(checks.not_negative))

    def __attrs_post_init__(self) -> None:
        if (self.above is None) == (self.below is None):
            raise FieldError(("above",), "or below must be given, and not both")


def _alerts(value: Sequence[Alert]) -> tuple[Alert, ...]:
    return tuple(value) if isinstance(value, (list, tuple)) else value  # type: ignore[return-value]


def _check_alerts(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, tuple) or not all(isinstance(alert, Alert) for alert in value):
        raise FieldError((attribute.name,), f"must be a list of Alert, not {checks.shown(value)}")


@refuse_unknown
@attrs.frozen(kw_only=True)
class MonitoringConfig:
    """What is measured, and who is told.

    Attributes:
        enabled: False keeps the counters and measures no times.
        prometheus_export: serve the figures over HTTP on `export_port`.
        export_port: the port; 0: any free one. export_host: the address that it listens on.
        sample_rate: the part of L1 hits whose time is taken.
        audit_rate: the part of L1 hits that is compared with L3 in the background.
        alerts: thresholds.
        window: seconds of history that `analyze_performance` can look back.
        check_interval: seconds between looks at the thresholds.
    """

    enabled: bool = attrs.field(default=True, validator=checks.flag)
    prometheus_export: bool = attrs.field(default=False, validator=checks.flag)
    export_port: int = attrs.field(default=9090, validator=checks.count(0))
    export_host: str = attrs.field(default="127.0.0.1", validator=checks.text)
    sample_rate: float = attrs.field(default=0.01, validator=checks.fraction)
    audit_rate: float = attrs.field(default=0.001, validator=checks.fraction)
    alerts: tuple[Alert, ...] = attrs.field(default=(), converter=_alerts, validator=_check_alerts)
    window: float = attrs.field(default=3600.0, converter=seconds, validator=checks.positive)
    check_interval: float = attrs.field(default=10.0, converter=seconds, validator=checks.positive)

    def __attrs_post_init__(self) -> None:
        if self.export_port > 65_535:
            raise FieldError(("export_port",), f"must be a port (0 to 65535), not {self.export_port}")
