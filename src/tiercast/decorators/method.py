"""Methods: what a decorated function is inside a class, and bound to an object.

Implementation notes.
    A plain function would bind faster, but its attributes would not know the object that they
    were reached through: `repository.get.invalidate(1)` has to mean this repository. So the class
    holds a descriptor, and binding makes a `functools.partial`, whose call is C.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import MethodType
from typing import Any

from ..plans import drive, drive_async
from .bound import Site
from .figures import ReadyKey

NAMES = ("cache_key", "clear", "invalidate", "refresh", "stats")
"""The operations that are attributes of every decorated function."""
WITHOUT_ARGUMENTS = ("clear", "stats")
LIKE_A_FUNCTION = ("__code__", "__defaults__", "__kwdefaults__")
"""By these `inspect.iscoroutinefunction` knows an async method in its class, and mocks of the class what to await."""


def operations(site: Site) -> dict[str, Callable[..., Any]]:
    """Return the operations on a decorated function by name; coroutine functions where it is async."""
    if site.is_async:

        async def invalidate_async(*args: Any, **kwargs: Any) -> Any:
            return await drive_async(site.invalidation(args, kwargs))

        async def refresh_async(*args: Any, **kwargs: Any) -> Any:
            return await site.refresh_async(args, kwargs)

        async def clear_async() -> Any:
            return await drive_async(site.clearing())

        def ready_key(*args: Any, **kwargs: Any) -> ReadyKey:
            return ReadyKey(site.key_of(args, kwargs))

        made: tuple[Callable[..., Any], ...] = (ready_key, clear_async, invalidate_async, refresh_async, site.stats)
    else:

        def invalidate(*args: Any, **kwargs: Any) -> Any:
            return drive(site.invalidation(args, kwargs))

        def refresh(*args: Any, **kwargs: Any) -> Any:
            return site.refresh(args, kwargs)

        def clear() -> Any:
            return drive(site.clearing())

        def cache_key(*args: Any, **kwargs: Any) -> str:
            return site.key_of(args, kwargs)

        made = (cache_key, clear, invalidate, refresh, site.stats)
    return dict(zip(NAMES, made, strict=True))


class Method:
    """A decorated method in its class: a descriptor that binds, and a function that takes the receiver first.

    Args:
        function: the generated function. of_class: whether it binds to the class, as a classmethod does.
    """

    __qualname__: str

    def __init__(self, function: Callable[..., Any], site: Site, *, of_class: bool) -> None:
        functools.update_wrapper(self, function)
        for name in LIKE_A_FUNCTION:
            setattr(self, name, getattr(function, name))
        self.__wrapped__ = site.function
        self._function = function
        self._of_class = of_class
        self._tiercast_site = site
        for name, operation in operations(site).items():
            setattr(self, name, operation if name in WITHOUT_ARGUMENTS else functools.partial(self._applied, operation))

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if self._of_class:
            return BoundMethod(self._function, owner if owner is not None else type(instance))
        return self if instance is None else BoundMethod(self._function, instance)

    def _applied(self, operation: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call an operation that was not reached through an object: the receiver is the first argument.

        From Python 3.13 on `classmethod` no longer hands its class to what it wraps; then the
        class that defines the method stands in.
        """
        site = self._tiercast_site
        if site.parameters.receiver == "cls" and not (args and isinstance(args[0], type)):
            args = (self._defining_class(), *args)
        return operation(*args, **kwargs)

    def _defining_class(self) -> Any:
        found: Any = sys.modules.get(self.__module__)
        for name in self.__qualname__.split(".")[:-1]:
            found = getattr(found, name, None)
        if not isinstance(found, type):
            message = f"the class of {self.__qualname__} cannot be told; put the decorator above @classmethod"
            raise TypeError(message)
        return found

    def __reduce__(self) -> str:
        return self.__qualname__  # by its name, as functions are

    def __repr__(self) -> str:
        return f"<decorated method {self.__qualname__}>"


class BoundMethod(functools.partial):  # type: ignore[type-arg]
    """A decorated method bound to its object or class; its operations take the arguments without it."""

    def __getattr__(self, name: str) -> Any:
        if name in NAMES:
            operation = getattr(self.func, name)
            return operation if name in WITHOUT_ARGUMENTS else functools.partial(operation, self.args[0])
        if name == "__self__":
            return self.args[0]
        if name == "__wrapped__":
            return MethodType(self.func._tiercast_site.function, self.args[0])  # type: ignore[attr-defined]
        return getattr(self.func, name)

    @property
    def __func__(self) -> Callable[..., Any]:
        return self.func

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return self.func.__doc__

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BoundMethod):
            return NotImplemented
        return self.func is other.func and self.args[0] is other.args[0]

    def __hash__(self) -> int:
        return hash((id(self.func), id(self.args[0])))

    def __reduce__(self) -> Any:
        return getattr, (self.args[0], self.func.__name__)

    def __repr__(self) -> str:
        return f"<decorated method {self.func.__qualname__} of {self.args[0]!r}>"
