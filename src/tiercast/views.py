"""Views: the same operations, confined to a scope, or under their plain names as coroutines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .errors import ScopeError
from .invalidations import Invalidations
from .loading.hits import bind_gets

if TYPE_CHECKING:
    from .manager import CacheManager
    from .region import Region


class ScopedView(Invalidations):
    """A manager's operations confined to one scope, tags included. Make one with `CacheManager.scoped`.

    Keys, patterns, tags and `clear()` act inside the scope and nowhere else; tags and
    `clear()` reach what lies below it too. Thread-safe and loop-safe; cheap to make.
    """

    def __init__(self, manager: CacheManager, path: str) -> None:
        self._manager = manager
        self._runtime = manager._runtime
        self._path = path
        self._uses = 0

    def _locate(self, region: str | None, scope: str | None, params: Mapping[str, Any]) -> tuple[Region, str]:
        if scope is not None or params:
            self._manager.config.scopes.check_known(params)
            given = ", ".join(filter(None, [scope and f"scope={scope!r}", *params]))
            message = f"this view is confined to {self._path!r}; take scope parameters ({given}) to the manager"
            raise ScopeError(message)
        self._uses += 1
        if self._uses == 3:  # many a view is made for one or two reads; this one is worth a `get` of its own
            bind_gets(self, ScopedView, self._runtime.default, self._path, self._manager._current)
        return self._manager.current_region(region), self._path

    @property
    def aio(self) -> Aio:
        """The same operations under their plain names as coroutines."""
        return Aio(self)

    def __repr__(self) -> str:
        return f"<ScopedView {self._path!r}>"


class Aio:
    """An object's `…_async` operations under their plain names: ``await cache.aio.get(key)``."""

    __slots__ = ("_operations",)

    def __init__(self, operations: Any) -> None:
        self._operations = operations

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_"):
            twin = getattr(self._operations, f"{name}_async", None)
            if twin is not None:
                return twin
        message = f"there is no async operation {name!r}"
        raise AttributeError(message)

    def __dir__(self) -> list[str]:
        return [name.removesuffix("_async") for name in dir(self._operations) if name.endswith("_async")]
