"""`@write_through`: a function that writes to the origin, and whose value goes into the cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..config import DEFAULT
from ..plans import Plan, drive, drive_async
from ..region import Ttl
from .bound import Arguments, Keywords, Site
from .cached import recipe_maker
from .decorated import Decorator
from .decorating import decorate, suggests
from .keying import KeyLike, Tags, TagsLike
from .requests import Call, Operation
from .returned import refuse_once

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..manager import CacheManager


@suggests
def write_through(
    key: KeyLike = None,
    ttl: Ttl = DEFAULT,
    invalidate_patterns: str | Iterable[str] = (),
    invalidate_tags: TagsLike = (),
    *,
    tags: TagsLike = (),
    scope: str | None = None,
    region: str | None = None,
    manager: CacheManager | None = None,
) -> Decorator:
    """Run a function that writes, then store what it returned and invalidate what follows from it.

    The value is stored only if nothing else wrote or invalidated the key since the function
    began: two writers that overlap leave the key empty rather than wrong. A function that
    returns None has nothing to store: its key is invalidated. Where it raises, the write may have
    happened all the same, so the key, the patterns and the tags are invalidated, and nothing is stored;
    so they are where what it returned cannot be stored, and where the call is cancelled.

    Args:
        key: of the entry to write, as for `cached`: the template of the function that reads it.
        ttl: how long the value stays fresh.
        invalidate_patterns: globs, with fields as in a key: ``"user:{user_id}:*"``. What an argument
            brings matches itself only. One that matches the key itself leaves the key empty.
        invalidate_tags: templates, or a function of the arguments (and of the ``result``), as the `tags` of `cached`.
        tags, scope, region, manager: as for `cached`.
    """
    make_recipe = recipe_maker(ttl, key=key, tags=tags, scope=scope, region=region, manager=manager)

    def make_call(site: Site) -> Callable[..., Any]:
        patterns = (invalidate_patterns,) if isinstance(invalidate_patterns, str) else tuple(invalidate_patterns)
        writer = Writer(
            site,
            patterns=Tags.of(patterns, site.parameters),
            tags=Tags.of(invalidate_tags, site.parameters),
        )
        site.refresh, site.refresh_async = writer.anew, writer.anew_async  # type: ignore[method-assign]
        return writer.call_async if site.is_async else writer.call

    return lambda function: decorate(function, make_recipe, make_call=make_call)


class Writer:
    """What a call of a function that writes does."""

    __slots__ = ("patterns", "site", "tags")

    def __init__(self, site: Site, *, patterns: Tags, tags: Tags) -> None:
        self.site = site
        self.patterns = patterns
        self.tags = tags

    def call(self, args: Arguments, kwargs: Keywords) -> Any:
        return drive(self.plan(args, kwargs))

    async def call_async(self, args: Arguments, kwargs: Keywords) -> Any:
        return await drive_async(self.plan(args, kwargs))

    def anew(self, args: Arguments, kwargs: Keywords) -> Any:
        return self.call(*self.site._normal(*args, **kwargs))

    async def anew_async(self, args: Arguments, kwargs: Keywords) -> Any:
        return await self.call_async(*self.site._normal(*args, **kwargs))

    def plan(self, args: Arguments, kwargs: Keywords) -> Plan[Any]:
        """Take the position, write, store as of it, invalidate. What a key cannot be made of fails before the write."""
        site = self.site
        manager, place = site.manager(), site.place(args, kwargs)
        key, tags = site.key_of(args, kwargs), site.tags_of(args, kwargs)
        patterns, outdated = self.following(args, kwargs)
        position = yield Operation(manager, "position")
        site.loads.add()
        site.misses.add()
        try:
            value = yield Call(site.function, *args, **kwargs)
            refuse_once(value, site.parameters.function)
            if (of_value := self.tags.of_value) is not None:
                outdated = of_value(*args, **kwargs, result=value)
            if value is None:
                yield Operation(manager, "invalidate_keys", (key,), **place)
            else:
                made = site.recipe.tags.of_value
                if made is not None:
                    tags = (*tags, *made(*args, **kwargs, result=value))
                yield Operation(manager, "set", key, value, site.recipe.ttl, tags=tags, as_of=position, **place)
            yield from self.invalidate(patterns, outdated, place)
        except BaseException:  # of the function, or where its value cannot be stored, or whoever called was cancelled
            yield Operation(manager, "invalidate_keys", (key,), **place)
            yield from self.invalidate(patterns, outdated, place)
            raise
        return value

    def following(self, args: Arguments, kwargs: Keywords) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the patterns and the tags that a call invalidates, whatever it returns."""
        patterns, tags = self.patterns.of_arguments, self.tags.of_arguments
        return (
            patterns(*args, **kwargs) if patterns is not None else (),
            tags(*args, **kwargs) if tags is not None else (),
        )

    def invalidate(self, patterns: tuple[str, ...], tags: tuple[str, ...], place: dict[str, Any]) -> Plan[None]:
        """Invalidate the patterns where the entry lies, and the tags everywhere."""
        manager = self.site.manager()
        for pattern in patterns:
            yield Operation(manager, "invalidate_pattern", pattern, **place)
        if tags:
            yield Operation(manager, "invalidate_tags", tags)
