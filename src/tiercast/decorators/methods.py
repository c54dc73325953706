# mypy: disable-error-code=overload-overlap
# A coroutine function is a function: the narrower overload comes first, on purpose.

"""The decorators as methods of a manager."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, cast, overload

from ..config import DEFAULT
from .cache_aside import cache_aside as make_aside
from .cached import async_cached as make_async_cached
from .cached import cached as make_cached
from .decorated import AsyncCachedFunction, AsyncDecorator, CachedFunction, Decorator, P, R
from .decorating import suggests
from .memoize import memoize as make_memoized
from .stampede_protect import stampede_protect as make_protected
from .write_through import write_through as make_writing

if TYPE_CHECKING:
    from datetime import timedelta

    from ..manager import CacheManager
    from ..region import Ttl
    from .keying import KeyLike, TagsLike


class DecoratorMethods:
    """The decorators, bound to this manager instead of the process's; arguments are those of `tiercast.decorators`."""

    def _decorating(self) -> CacheManager:
        return cast("CacheManager", self)  # the only class that this is mixed into

    @overload
    def cached(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncCachedFunction[P, R]: ...
    @overload
    def cached(self, function: Callable[P, R], /) -> CachedFunction[P, R]: ...
    @overload
    def cached(
        self,
        ttl: Ttl = DEFAULT,
        *,
        key: KeyLike = None,
        tags: TagsLike = (),
        scope: str | None = None,
        region: str | None = None,
        max_items: int | None = None,
        version: int | str | None = None,
    ) -> Decorator: ...
    def cached(self, ttl: Any = DEFAULT, **options: Any) -> Any:
        """Cache what a sync or async function returns: `tiercast.cached` on this manager."""
        return make_cached(ttl, manager=self._decorating(), **options)

    @overload
    def async_cached(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncCachedFunction[P, R]: ...
    @overload
    def async_cached(
        self,
        ttl: Ttl = DEFAULT,
        *,
        key: KeyLike = None,
        tags: TagsLike = (),
        scope: str | None = None,
        region: str | None = None,
        max_items: int | None = None,
        version: int | str | None = None,
    ) -> AsyncDecorator: ...
    def async_cached(self, ttl: Any = DEFAULT, **options: Any) -> Any:
        """Cache what an async function returns: `tiercast.async_cached` on this manager."""
        return make_async_cached(ttl, manager=self._decorating(), **options)

    @overload
    def cache_aside(
        self,
        key: KeyLike = None,
        ttl: Ttl = DEFAULT,
        *,
        tags: TagsLike = (),
        scope: str | None = None,
        region: str | None = None,
    ) -> Decorator: ...
    @overload
    def cache_aside(self, *, get_from_cache: Callable[..., Any], save_to_cache: Callable[..., Any]) -> Decorator: ...
    def cache_aside(self, key: KeyLike = None, ttl: Ttl = DEFAULT, **options: Any) -> Any:
        """Look into the cache, else load and store: `tiercast.cache_aside` on this manager."""
        return make_aside(key, ttl, manager=self._decorating(), **options)

    @suggests
    def write_through(
        self,
        key: KeyLike = None,
        ttl: Ttl = DEFAULT,
        invalidate_patterns: str | Iterable[str] = (),
        invalidate_tags: TagsLike = (),
        *,
        tags: TagsLike = (),
        scope: str | None = None,
        region: str | None = None,
    ) -> Decorator:
        """Store what a function that writes returned: `tiercast.write_through` on this manager."""
        return make_writing(
            key,
            ttl,
            invalidate_patterns,
            invalidate_tags,
            tags=tags,
            scope=scope,
            region=region,
            manager=self._decorating(),
        )

    @suggests
    def stampede_protect(
        self,
        key: KeyLike = None,
        ttl: Ttl = DEFAULT,
        lock_ttl: float | timedelta = 60,
        *,
        tags: TagsLike = (),
        scope: str | None = None,
        region: str | None = None,
    ) -> Decorator:
        """Let one process load for a key: `tiercast.stampede_protect` on this manager."""
        return make_protected(key, ttl, lock_ttl, tags=tags, scope=scope, region=region, manager=self._decorating())

    @overload
    def memoize(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncCachedFunction[P, R]: ...
    @overload
    def memoize(self, function: Callable[P, R], /) -> CachedFunction[P, R]: ...
    @overload
    def memoize(self, ttl: Ttl = 60, key: KeyLike = None) -> Decorator: ...
    @suggests
    def memoize(self, ttl: Any = 60, key: KeyLike = None) -> Any:
        """Remember what a function returns: `tiercast.memoize` on this manager."""
        return make_memoized(ttl, key, manager=self._decorating())
