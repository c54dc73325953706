"""What the operations on a decorated function answer without I/O: figures and keys."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple


class FunctionStats(NamedTuple):
    """What one decorated function's calls came to, exactly, since it was decorated.

    A figure is read as an attribute or, as in the dicts of the manager, by its name: ``stats["hits"]``;
    ``dict(stats)`` is such a dict.

    Attributes:
        hits: calls answered without running the function, those that waited for another's load included.
        misses: calls (of `refresh` too) that ran it, or failed.
        loads: how often it ran, in the background and by `refresh` included.
    """

    hits: int
    misses: int
    loads: int

    @property
    def hit_rate(self) -> float:
        """Hits in all calls, 0.0 to 1.0; 0.0 before the first."""
        calls = self.hits + self.misses
        return self.hits / calls if calls else 0.0

    def keys(self) -> tuple[str, ...]:
        """Return the names of the figures."""
        return (*self._fields, "hit_rate")

    def __contains__(self, name: object) -> bool:
        return name in self.keys() if isinstance(name, str) else tuple.__contains__(self, name)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str) and key in self.keys():
            return getattr(self, key)
        return tuple.__getitem__(self, key)  # a NamedTuple knows no super()

    def __await__(self) -> Generator[Any, None, FunctionStats]:
        return self
        yield  # makes this a generator: the figures of an async function may be awaited, and need not be


class ReadyKey(str):
    """A key that may be awaited, and need not be: what `cache_key` of an async function returns."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, str]:
        return str(self)
        yield
