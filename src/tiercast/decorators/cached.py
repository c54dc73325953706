"""`@cached`: a function's values, by its arguments."""

# mypy: disable-error-code=overload-overlap
# A coroutine function is a function, and a classmethod a callable: the narrower overload comes first, on purpose.

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Concatenate, overload

from ..config import DEFAULT
from ..region import Ttl, seconds_of
from .bound import Recipe
from .decorated import (
    AsyncCachedFunction,
    AsyncCachedOfClass,
    AsyncCachedStatic,
    AsyncDecorator,
    C,
    CachedFunction,
    CachedOfClass,
    CachedStatic,
    Decorator,
    P,
    R,
)
from .decorating import decorate, suggests
from .keying import Key, KeyLike, Tags, TagsLike
from .parameters import Parameters

if TYPE_CHECKING:
    from datetime import timedelta

    from ..manager import CacheManager


# Bare, the overloads are those of `Decorator`.
@overload
def cached(function: classmethod[Any, P, Coroutine[Any, Any, R]], /) -> AsyncCachedStatic[P, R]: ...
@overload
def cached(function: classmethod[Any, P, R], /) -> CachedStatic[P, R]: ...
@overload
def cached(function: staticmethod[P, Coroutine[Any, Any, R]], /) -> AsyncCachedStatic[P, R]: ...
@overload
def cached(function: staticmethod[P, R], /) -> CachedStatic[P, R]: ...
@overload
def cached(function: property, /) -> property: ...
@overload
def cached(function: Callable[Concatenate[type[C], P], Coroutine[Any, Any, R]], /) -> AsyncCachedOfClass[C, P, R]: ...
@overload
def cached(function: Callable[Concatenate[type[C], P], R], /) -> CachedOfClass[C, P, R]: ...
@overload
def cached(function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncCachedFunction[P, R]: ...
@overload
def cached(function: Callable[P, R], /) -> CachedFunction[P, R]: ...
@overload
def cached(
    ttl: Ttl = DEFAULT,
    *,
    key: KeyLike = None,
    tags: TagsLike = (),
    scope: str | None = None,
    region: str | None = None,
    max_items: int | None = None,
    version: int | str | None = None,
    manager: CacheManager | None = None,
) -> Decorator: ...
@suggests
def cached(
    ttl: Any = DEFAULT,
    *,
    key: KeyLike = None,
    tags: TagsLike = (),
    scope: str | None = None,
    region: str | None = None,
    max_items: int | None = None,
    version: int | str | None = None,
    manager: CacheManager | None = None,
) -> Any:
    """Cache what a sync or async function returns, under a key made of its arguments.

    Bare (`@cached`) or with arguments. One load runs for a key at a time; exceptions are not
    cached and reach the caller once.

    Args:
        ttl: how long a value stays fresh: seconds, a timedelta, None for "until invalidated".
        key: a template such as ``"user:{user_id}"``, or a function of the arguments that returns
            the key (it gets every positional parameter by position, defaults included). None: the
            function's module and name with all arguments; `self` and `cls` are left out, but a
            subclass has keys of its own.
        tags: templates, or a function of the arguments that returns tags; one with a parameter
            called ``result`` gets the value too. The function itself may add to `current_load().tags`.
        scope: a scope's name; its parameters are taken from the function's arguments by name.
        region: the region; None: the current one, at each call.
        max_items: how many entries of this function may stand in the process's memory, the
            least recently used going first. The tiers below keep theirs.
        version: parts the values of one release from another's: ``user:1@2``.
        manager: the manager; None: the process's, at the first call and again when it is reset.

    Raises:
        KeyTemplateError: a template cannot be read, or names what the function does not have.
        TypeError, ValueError: a generator function, a class, or an argument that cannot be.
    """
    function, ttl = bare(ttl)
    make_recipe = recipe_maker(
        ttl, key=key, tags=tags, scope=scope, region=region, max_items=max_items, version=version, manager=manager
    )
    return (lambda given: decorate(given, make_recipe)) if function is None else decorate(function, make_recipe)


@overload
def async_cached(function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncCachedFunction[P, R]: ...
@overload
def async_cached(
    ttl: Ttl = DEFAULT,
    *,
    key: KeyLike = None,
    tags: TagsLike = (),
    scope: str | None = None,
    region: str | None = None,
    max_items: int | None = None,
    version: int | str | None = None,
    manager: CacheManager | None = None,
) -> AsyncDecorator: ...
@suggests
def async_cached(
    ttl: Any = DEFAULT,
    *,
    key: KeyLike = None,
    tags: TagsLike = (),
    scope: str | None = None,
    region: str | None = None,
    max_items: int | None = None,
    version: int | str | None = None,
    manager: CacheManager | None = None,
) -> Any:
    """Cache what an async function returns: `cached`, which refuses sync functions.

    Raises:
        TypeError: the function is not async; and as `cached`.
    """
    function, ttl = bare(ttl)
    make_recipe = recipe_maker(
        ttl, key=key, tags=tags, scope=scope, region=region, max_items=max_items, version=version, manager=manager
    )

    def decorator(given: Any) -> Any:
        return decorate(given, make_recipe, only_async="async_cached")

    return decorator if function is None else decorator(function)


def bare(first: Any) -> tuple[Any, Any]:
    """Return (function, ttl) of a decorator's first argument, which is the function where it is used bare."""
    if callable(first) or isinstance(first, classmethod | staticmethod | property | functools.cached_property):
        return first, DEFAULT
    return None, first


def recipe_maker(
    ttl: Ttl,
    *,
    key: KeyLike,
    tags: TagsLike = (),
    scope: str | None = None,
    region: str | None = None,
    max_items: int | None = None,
    version: int | str | None = None,
    lock_ttl: float | timedelta | None = None,
    manager: CacheManager | None = None,
) -> Callable[[Callable[..., Any], Parameters], Recipe]:
    """Return what makes a function's recipe of a decorator's arguments; refuses durations that cannot be at once."""
    if ttl is not DEFAULT:
        seconds_of(ttl)
    if lock_ttl is not None:
        seconds_of(lock_ttl, "lock_ttl")

    def make_recipe(function: Callable[..., Any], parameters: Parameters) -> Recipe:
        return Recipe(
            key=Key.of(key, version, function, parameters),
            tags=Tags.of(tags, parameters),
            ttl=ttl,
            scope=scope,
            region=region,
            max_items=max_items,
            lock_ttl=lock_ttl,
            manager=manager,
        )

    return make_recipe
