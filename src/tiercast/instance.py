"""The operations at module level, on the process's one manager."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .coherence.result import InvalidationResult
from .manager import CacheManager

MEGABYTE = 1024 * 1024


def get_cache() -> CacheManager:
    """Return the process's manager, made on the first call."""
    return CacheManager.get_instance()


def get_cache_stats() -> dict[str, Any]:
    """Return the figures of the process's manager: `CacheManager.stats()` with `size` and `memory_mb`.

    `memory_mb` is an estimate from some of the entries where no memory tier is bounded by bytes.
    """
    cache = get_cache()
    figures = cache.stats()
    return {**figures, "size": figures["current_size"], "memory_mb": cache._runtime.memory_estimate() / MEGABYTE}


def invalidate_keys(keys: Iterable[str], **options: Any) -> InvalidationResult:
    """`CacheManager.invalidate_keys` on the process's manager."""
    return get_cache().invalidate_keys(keys, **options)


def invalidate_pattern(glob: str, **options: Any) -> InvalidationResult:
    """`CacheManager.invalidate_pattern` on the process's manager."""
    return get_cache().invalidate_pattern(glob, **options)


def invalidate_tags(tags: Iterable[str], **options: Any) -> InvalidationResult:
    """`CacheManager.invalidate_tags` on the process's manager."""
    return get_cache().invalidate_tags(tags, **options)


def tag_cache_key(key: str, tags: Iterable[str], **options: Any) -> bool:
    """`CacheManager.tag_cache_key` on the process's manager."""
    return get_cache().tag_cache_key(key, tags, **options)
