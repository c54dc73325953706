"""What a cache is told: settings (frozen, checked when made), their sources, and scopes."""

from __future__ import annotations

from .cache import CacheConfig
from .checks import nearest, suggestion
from .defaults import DEFAULT, DEFAULT_REGION, Default
from .plugins import load_object
from .regions import RegionConfig, RegionDefaults
from .scopes import GLOBAL, ScopeConfig, ScopeLevel
from .settings import Alert, CoherenceConfig, DistributedCacheConfig, LocalCacheConfig, MonitoringConfig
from .strategies import EntityRule, EventRule, Strategy, TimeRule

__all__ = [
    "DEFAULT",
    "DEFAULT_REGION",
    "GLOBAL",
    "Alert",
    "CacheConfig",
    "CoherenceConfig",
    "Default",
    "DistributedCacheConfig",
    "EntityRule",
    "EventRule",
    "LocalCacheConfig",
    "MonitoringConfig",
    "RegionConfig",
    "RegionDefaults",
    "ScopeConfig",
    "ScopeLevel",
    "Strategy",
    "TimeRule",
    "load_object",
    "nearest",
    "suggestion",
]
