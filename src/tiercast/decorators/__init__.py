"""The decorators: each caches what a function returns, under a key made of its arguments."""

from __future__ import annotations

from .cache_aside import cache_aside
from .cached import async_cached, cached
from .figures import FunctionStats
from .memoize import memoize
from .methods import DecoratorMethods
from .stampede_protect import stampede_protect
from .template import build_cache_key
from .write_through import write_through

__all__ = [
    "DecoratorMethods",
    "FunctionStats",
    "async_cached",
    "build_cache_key",
    "cache_aside",
    "cached",
    "memoize",
    "stampede_protect",
    "write_through",
]
