"""`@memoize`: a function's values in the region `memoize`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..region import Ttl
from .cached import recipe_maker
from .decorated import Decorator
from .decorating import decorate
from .keying import KeyLike

if TYPE_CHECKING:
    from ..manager import CacheManager

REGION = "memoize"


def memoize(ttl: Ttl = 60, key: KeyLike = None, *, manager: CacheManager | None = None) -> Decorator:
    """Remember what a function returns, by its arguments, in the region `memoize`.

    That region is an ordinary one, so invalidations reach it; unless it is configured otherwise it
    has the process's memory and nothing below, and values of any type may be kept.

    Args:
        ttl: how long a value stays fresh, seconds.
        key: as for `cached`.
        manager: as for `cached`.
    """
    make_recipe = recipe_maker(ttl, key=key, region=REGION, manager=manager)
    return lambda function: decorate(function, make_recipe)
