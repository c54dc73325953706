"""What tiercast assumes where nothing is said: one table of names, sizes and presets."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final


class Default(enum.Enum):
    """A value that was not given, where None means something else."""

    DEFAULT = "default"

    def __repr__(self) -> str:
        return "DEFAULT"


DEFAULT: Final = Default.DEFAULT
"""Not given. As a TTL of an operation: the region's. As a TTL of the configuration: see `CacheConfig.ttl`."""

DEFAULT_REGION = "default"
"""The region of whoever names none; what `regions` says of it holds for every region that does not say otherwise."""

MEBIBYTE = 1024 * 1024
DAY = 86_400.0

MEMORY_ENTRIES = 10_000
"""`max_size` of a memory tier, in entries."""
DISK_MEGABYTES = 1_024
"""`max_size` of a disk tier, in MB of 1024 x 1024 bytes."""
TTL = 300.0
"""Seconds that an entry lives where neither a region, a strategy nor a tier says anything."""
REDIS_URL = "redis://localhost:6379/0"

SHORTEST_SECRET = 8
"""Bytes that a secret which signs pickles has at least."""

POLICIES = ("lru", "s3fifo", "sieve", "lfu", "fifo", "random")
SERIALIZERS = ("json", "msgpack", "pickle", "protobuf")
LOCAL_TYPES = ("memory", "file")
REMOTE_TYPES = ("redis",)
BUSES = ("auto", "redis", "disk", "memory")
OUTAGE_MODES = ("load", "serve")
FAILOVER_MODES = ("new_epoch", "trust")

STRATEGIES: Mapping[str, str] = MappingProxyType(
    {
        "time": "tiercast.invalidation:TimeBasedInvalidation",
        "event": "tiercast.invalidation:EventBasedInvalidation",
        "pattern": "tiercast.invalidation:PatternBasedInvalidation",
    }
)
"""Strategies by the `type` that a mapping gives; others are named "package.module:Class", and loaded the same way."""

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "development": {"local": {"type": "memory"}, "disk": None, "distributed": None},
        "production": {
            "local": {"type": "memory"},
            "ttl": 3600,
            "ttl_jitter": 0.1,
            "grace": 300,
        },
    }
)

REGIONS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    # What `@memoize` keeps is for this process alone: values of any type, no serializer to refuse them.
    {"memoize": {"local": {"type": "memory"}, "disk": None, "distributed": None}}
)
"""What regions that tiercast itself names set, unless the configuration says otherwise."""

OPERATION_PARAMETERS = frozenset(
    {
        "as_of", "as_type", "barrier", "broadcast", "count", "default", "entity", "event", "glob", "id", "key", "keys",
        "loader", "lock_ttl", "mapping", "name", "pattern", "payload", "refresh", "region", "require_delivery", "scope",
        "self", "soft", "tags", "timeout", "ttl", "value",
    }
)  # fmt: skip
"""Parameters of operations, which no scope parameter and no scope level may be named like."""

ENVIRONMENT = "TIERCAST_"
"""What the variables that `CacheConfig.from_env` reads begin with."""
