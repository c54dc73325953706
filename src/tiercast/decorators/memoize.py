"""`@memoize`: a function's values in the region `memoize`."""

# mypy: disable-error-code=overload-overlap
# A coroutine function is a function: the narrower overload comes first, on purpose.

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, overload

from ..region import Ttl
from .cached import bare, recipe_maker
from .decorated import AsyncCachedFunction, CachedFunction, Decorator, P, R
from .decorating import decorate, suggests
from .keying import KeyLike

if TYPE_CHECKING:
    from ..manager import CacheManager

REGION = "memoize"
TTL = 60


@overload
def memoize(function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncCachedFunction[P, R]: ...
@overload
def memoize(function: Callable[P, R], /) -> CachedFunction[P, R]: ...
@overload
def memoize(ttl: Ttl = TTL, key: KeyLike = None, *, manager: CacheManager | None = None) -> Decorator: ...
@suggests
def memoize(ttl: Any = TTL, key: KeyLike = None, *, manager: CacheManager | None = None) -> Any:
    """Remember what a function returns, by its arguments, in the region `memoize`. Bare, or with arguments.

    That region is an ordinary one, so invalidations reach it; unless it is configured otherwise it
    has the process's memory and nothing below, and values of any type may be kept.

    Args:
        ttl: how long a value stays fresh, seconds.
        key: as for `cached`.
        manager: as for `cached`.
    """
    function, _ = bare(ttl)
    make_recipe = recipe_maker(ttl if function is None else TTL, key=key, region=REGION, manager=manager)
    return (lambda given: decorate(given, make_recipe)) if function is None else decorate(function, make_recipe)
