"""The operations at module level as coroutines, on the process's one manager: ``from tiercast import aio``.

Any other operation of the manager is there under its plain name too: ``await aio.get(key)``.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from . import instance
from .coherence.result import InvalidationResult
from .decorators import build_cache_key as template_key
from .manager import CacheManager


async def build_cache_key(
    template: str, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, prefix: str = ""
) -> str:
    """As `tiercast.build_cache_key`."""
    return template_key(template, args, kwargs, prefix)


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
    if not hasattr(CacheManager, f"{name}_async"):
        raise AttributeError(f"there is no async operation {name!r}")
    operation = globals()[name] = _of_the_process(name)
    return operation


def __dir__() -> list[str]:
    twins = {name.removesuffix("_async") for name in dir(CacheManager) if name.endswith("_async")}
    return sorted(twins | globals().keys())


def _of_the_process(name: str) -> Callable[..., Any]:
    """Return an operation on whatever is the process's manager when it is called, not when it was imported."""
    twin = getattr(CacheManager, f"{name}_async")

    @functools.wraps(twin)
    def operation(*args: Any, **kwargs: Any) -> Any:
        return getattr(instance.get_cache().aio, name)(*args, **kwargs)

    @functools.wraps(twin)
    async def awaited(*args: Any, **kwargs: Any) -> Any:
        return await operation(*args, **kwargs)

    made: Any = awaited if inspect.iscoroutinefunction(twin) else operation
    signature = inspect.signature(twin)
    made.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])
    return made  # type: ignore[no-any-return]
