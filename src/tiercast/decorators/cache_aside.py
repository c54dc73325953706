"""`@cache_aside`: look into the cache, else load and store; with a key, or with callbacks of the user's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, overload

from ..config import DEFAULT
from ..loading.context import as_of
from ..loading.loads import is_async
from ..plans import Plan, drive, drive_async
from ..region import Ttl
from ..runtime import positions
from .bound import Arguments, Keywords, Recipe, Site
from .cached import recipe_maker
from .decorated import Decorator
from .decorating import decorate, suggests
from .keying import KeyLike, TagsLike
from .parameters import Parameters, function_name
from .requests import Call

if TYPE_CHECKING:
    from ..manager import CacheManager

Callback = Callable[..., Any]


@overload
def cache_aside(
    key: KeyLike = None,
    ttl: Ttl = DEFAULT,
    *,
    tags: TagsLike = (),
    scope: str | None = None,
    region: str | None = None,
    manager: CacheManager | None = None,
) -> Decorator: ...
@overload
def cache_aside(
    *, get_from_cache: Callback, save_to_cache: Callback, manager: CacheManager | None = None
) -> Decorator: ...
@suggests
def cache_aside(
    key: KeyLike = None,
    ttl: Ttl = DEFAULT,
    *,
    get_from_cache: Callback | None = None,
    save_to_cache: Callback | None = None,
    tags: TagsLike = (),
    scope: str | None = None,
    region: str | None = None,
    manager: CacheManager | None = None,
) -> Any:
    """Look into the cache, else run the function and store what it returned.

    With a `key` it is `cached`. With callbacks, those are the cache:
    ``get_from_cache(*arguments)`` answers the value, None meaning a miss, and
    ``save_to_cache(*arguments, value)`` stores it. They get the function's positional
    parameters by position (`self` too), and may be async where the function is. Inside
    `save_to_cache` a `set` or `multi_set` of a manager takes the position of the miss by itself, so that a value
    which was invalidated while it was being loaded is not stored. Concurrent misses are not joined,
    since the key is the callbacks' own.

    Args:
        key, ttl, tags, scope, region, manager: as for `cached`.
        get_from_cache, save_to_cache: the callbacks; both or neither, and then without a key.

    Raises:
        TypeError: one callback without the other, callbacks together with a key, or an async
            callback for a sync function.
    """
    if get_from_cache is None and save_to_cache is None:
        make_recipe = recipe_maker(ttl, key=key, tags=tags, scope=scope, region=region, manager=manager)
        return lambda function: decorate(function, make_recipe)
    if get_from_cache is None or save_to_cache is None:
        message = "cache_aside needs get_from_cache and save_to_cache, or neither of them"
        raise TypeError(message)
    if key is not None or ttl is not DEFAULT or tags or scope is not None or region is not None:
        message = "cache_aside with callbacks takes no key, ttl, tags, scope or region: the callbacks decide"
        raise TypeError(message)

    def make_callback_recipe(function: Callable[..., Any], parameters: Parameters) -> Recipe:
        for callback in (get_from_cache, save_to_cache):
            if is_async(callback) and not is_async(function):
                message = f"{function_name(callback)} is async, but {parameters.function} is not"
                raise TypeError(message)
        return Recipe(key=None, manager=manager)

    def make_call(site: Site) -> Callable[..., Any]:
        aside = Aside(site, get_from_cache, save_to_cache)
        site.refresh, site.refresh_async = aside.anew, aside.anew_async  # type: ignore[method-assign]
        return aside.call_async if site.is_async else aside.call

    return lambda function: decorate(function, make_callback_recipe, make_call=make_call)


class Aside:
    """What a call of a function with callbacks does."""

    __slots__ = ("get_from_cache", "save_to_cache", "site")

    def __init__(self, site: Site, get_from_cache: Callback, save_to_cache: Callback) -> None:
        self.site = site
        self.get_from_cache = get_from_cache
        self.save_to_cache = save_to_cache

    def call(self, args: Arguments, kwargs: Keywords) -> Any:
        return drive(self.plan(args, kwargs))

    async def call_async(self, args: Arguments, kwargs: Keywords) -> Any:
        return await drive_async(self.plan(args, kwargs))

    def anew(self, args: Arguments, kwargs: Keywords) -> Any:
        return drive(self.load(*self.site._normal(*args, **kwargs)))

    async def anew_async(self, args: Arguments, kwargs: Keywords) -> Any:
        return await drive_async(self.load(*self.site._normal(*args, **kwargs)))

    def plan(self, args: Arguments, kwargs: Keywords) -> Plan[Any]:
        """Ask the user's cache, and load where it answers None."""
        found = yield Call(self.get_from_cache, *args, **kwargs)
        if found is not None:
            self.site.hits.add()
            return found
        self.site.misses.add()
        return (yield from self.load(args, kwargs))

    def load(self, args: Arguments, kwargs: Keywords) -> Plan[Any]:
        """Run the function and hand what it returned to the user's cache, as of the time before it ran."""
        site = self.site
        missed = positions()  # of all: which manager the callbacks use is their affair
        site.loads.add()
        value = yield Call(site.function, *args, **kwargs)
        with as_of(missed):
            yield Call(self.save_to_cache, *args, value, **kwargs)
        return value
