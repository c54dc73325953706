"""tiercast: memory, disk and Redis in tiers that never serve what was invalidated.

The names below are imported when they are first used, so that `import tiercast` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .coherence.result import InvalidationResult as InvalidationResult
    from .config import DEFAULT as DEFAULT
    from .config import Alert as Alert
    from .config import CacheConfig as CacheConfig
    from .config import CoherenceConfig as CoherenceConfig
    from .config import DistributedCacheConfig as DistributedCacheConfig
    from .config import LocalCacheConfig as LocalCacheConfig
    from .config import MonitoringConfig as MonitoringConfig
    from .config import RegionConfig as RegionConfig
    from .config import ScopeConfig as ScopeConfig
    from .config import ScopeLevel as ScopeLevel
    from .decorators.cache_aside import cache_aside as cache_aside
    from .decorators.cached import async_cached as async_cached
    from .decorators.cached import cached as cached
    from .decorators.memoize import memoize as memoize
    from .decorators.stampede_protect import stampede_protect as stampede_protect
    from .decorators.template import build_cache_key as build_cache_key
    from .decorators.write_through import write_through as write_through
    from .errors import BarrierTimeout as BarrierTimeout
    from .errors import BusUnavailable as BusUnavailable
    from .errors import ConfigError as ConfigError
    from .errors import DeliveryError as DeliveryError
    from .errors import InvalidationError as InvalidationError
    from .errors import KeyTemplateError as KeyTemplateError
    from .errors import LoadCycle as LoadCycle
    from .errors import LoadTimeout as LoadTimeout
    from .errors import ManagerClosed as ManagerClosed
    from .errors import ScopeError as ScopeError
    from .errors import SerializationError as SerializationError
    from .errors import TiercastError as TiercastError
    from .errors import UnknownKeyword as UnknownKeyword
    from .instance import get_cache as get_cache
    from .instance import get_cache_stats as get_cache_stats
    from .instance import invalidate_keys as invalidate_keys
    from .instance import invalidate_pattern as invalidate_pattern
    from .instance import invalidate_tags as invalidate_tags
    from .instance import tag_cache_key as tag_cache_key
    from .invalidation import EventBasedInvalidation as EventBasedInvalidation
    from .invalidation import PatternBasedInvalidation as PatternBasedInvalidation
    from .invalidation import TimeBasedInvalidation as TimeBasedInvalidation
    from .loading.context import NOT_MODIFIED as NOT_MODIFIED
    from .loading.context import LoadContext as LoadContext
    from .loading.context import current_load as current_load
    from .loading.writing import Position as Position
    from .manager import CacheManager as CacheManager
    from .monitoring.health import Health as Health
    from .monitoring.listeners import CacheEvent as CacheEvent
    from .observing.fleet import Process as Process

_HOMES = {
    "config": (
        "DEFAULT", "Alert", "CacheConfig", "CoherenceConfig", "DistributedCacheConfig", "LocalCacheConfig",
        "MonitoringConfig", "RegionConfig", "ScopeConfig", "ScopeLevel",
    ),
    "decorators": (
        "async_cached", "build_cache_key", "cache_aside", "cached", "memoize", "stampede_protect", "write_through",
    ),
    "errors": (
        "BarrierTimeout", "BusUnavailable", "ConfigError", "DeliveryError", "InvalidationError", "KeyTemplateError",
        "LoadCycle", "LoadTimeout", "ManagerClosed", "ScopeError", "SerializationError", "TiercastError",
        "UnknownKeyword",
    ),
    "instance": (
        "get_cache", "get_cache_stats", "invalidate_keys", "invalidate_pattern", "invalidate_tags", "tag_cache_key",
    ),
    "invalidation": ("EventBasedInvalidation", "PatternBasedInvalidation", "TimeBasedInvalidation"),
    "coherence.result": ("InvalidationResult",),
    "loading.context": ("NOT_MODIFIED", "LoadContext", "current_load"),
    "loading.writing": ("Position",),
    "manager": ("CacheManager",),
    "monitoring.health": ("Health",),
    "monitoring.listeners": ("CacheEvent",),
    "observing.fleet": ("Process",),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)  # noqa: PLE0605  the table above says it once


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is not None:
        value = getattr(import_module(f".{home}", __name__), name)
    elif name == "aio":
        value = import_module(".aio", __name__)
    elif name == "__version__":
        from importlib.metadata import version

        value = version("tiercast")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__", "aio"]
