"""`@stampede_protect`: one load for many callers, in the whole fleet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config import DEFAULT
from ..region import Ttl
from .cached import recipe_maker
from .decorated import Decorator
from .decorating import decorate, suggests
from .keying import KeyLike, TagsLike

if TYPE_CHECKING:
    from datetime import timedelta

    from ..manager import CacheManager


@suggests
def stampede_protect(
    key: KeyLike = None,
    ttl: Ttl = DEFAULT,
    lock_ttl: float | timedelta = 60,
    *,
    tags: TagsLike = (),
    scope: str | None = None,
    region: str | None = None,
    manager: CacheManager | None = None,
) -> Decorator:
    """Let one process of the fleet run an expensive function for a key while the others wait for its value.

    Every decorator holds stampedes back; this one says for how long.

    Args:
        key: as for `cached`, for example ``"dashboard:stats"``.
        ttl: how long a value stays fresh.
        lock_ttl: seconds after which another process may load instead of one that hangs.
        tags, scope, region, manager: as for `cached`.
    """
    make_recipe = recipe_maker(ttl, key=key, tags=tags, scope=scope, region=region, lock_ttl=lock_ttl, manager=manager)
    return lambda function: decorate(function, make_recipe)
