"""tiercast: memory, disk and Redis in tiers that never serve what was invalidated."""

from __future__ import annotations

from .config import (
    DEFAULT,
    Alert,
    CacheConfig,
    CoherenceConfig,
    DistributedCacheConfig,
    LocalCacheConfig,
    MonitoringConfig,
    RegionConfig,
    ScopeConfig,
    ScopeLevel,
)
from .errors import (
    BarrierTimeout,
    BusUnavailable,
    ConfigError,
    DeliveryError,
    InvalidationError,
    KeyTemplateError,
    LoadCycle,
    LoadTimeout,
    ManagerClosed,
    ScopeError,
    SerializationError,
    TiercastError,
)
from .invalidation import EventBasedInvalidation, PatternBasedInvalidation, TimeBasedInvalidation
from .invalidation.result import InvalidationResult
from .loading.context import NOT_MODIFIED, LoadContext, current_load
from .loading.writing import Position
from .manager import CacheManager
from .region import MISS

__all__ = [
    "DEFAULT",
    "MISS",
    "NOT_MODIFIED",
    "Alert",
    "BarrierTimeout",
    "BusUnavailable",
    "CacheConfig",
    "CacheManager",
    "CoherenceConfig",
    "ConfigError",
    "DeliveryError",
    "DistributedCacheConfig",
    "EventBasedInvalidation",
    "InvalidationError",
    "InvalidationResult",
    "KeyTemplateError",
    "LoadContext",
    "LoadCycle",
    "LoadTimeout",
    "LocalCacheConfig",
    "ManagerClosed",
    "MonitoringConfig",
    "PatternBasedInvalidation",
    "Position",
    "RegionConfig",
    "ScopeConfig",
    "ScopeError",
    "ScopeLevel",
    "SerializationError",
    "TiercastError",
    "TimeBasedInvalidation",
    "current_load",
]


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version

        return version("tiercast")
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
