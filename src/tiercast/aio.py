"""The operations at module level as coroutines, on the process's one manager: ``from tiercast import aio``.

Any other operation of the manager is there under its plain name too: ``await aio.get(key)``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from . import instance
from .coherence.result import InvalidationResult
from .manager import CacheManager


async def get_cache() -> CacheManager:
    """As `tiercast.get_cache`."""
    return instance.get_cache()


async def get_cache_stats() -> dict[str, Any]:
    """As `tiercast.get_cache_stats`."""
    return instance.get_cache_stats()


async def invalidate_keys(keys: Iterable[str], **options: Any) -> InvalidationResult:
    """As `tiercast.invalidate_keys`."""
    return await instance.get_cache().invalidate_keys_async(keys, **options)


async def invalidate_pattern(glob: str, **options: Any) -> InvalidationResult:
    """As `tiercast.invalidate_pattern`."""
    return await instance.get_cache().invalidate_pattern_async(glob, **options)


async def invalidate_tags(tags: Iterable[str], **options: Any) -> InvalidationResult:
    """As `tiercast.invalidate_tags`."""
    return await instance.get_cache().invalidate_tags_async(tags, **options)


async def tag_cache_key(key: str, tags: Iterable[str], **options: Any) -> bool:
    """As `tiercast.tag_cache_key`."""
    return await instance.get_cache().tag_cache_key_async(key, tags, **options)


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(instance.get_cache().aio, name)
