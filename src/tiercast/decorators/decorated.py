"""The types of decorated functions, for type checkers and readers.

Implementation notes.
    These are protocols: at run time a decorated function is a function with attributes, a
    decorated method a descriptor (`method.py`). Type checkers see `__call__` and `__get__`. mypy
    shows decorators a classmethod, and a staticmethod, as the function inside; so a function
    whose first parameter is a class is taken for a classmethod's (as a function of a module it
    takes that parameter by position only), and a staticmethod is best called through its class.
"""

# mypy: disable-error-code=overload-overlap
# A coroutine function is a function, and a classmethod a callable: the narrower overload comes first, on purpose.

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

if TYPE_CHECKING:
    from ..coherence.result import InvalidationResult
    from .figures import FunctionStats, ReadyKey

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
C = TypeVar("C")
C_co = TypeVar("C_co", covariant=True)
R_co = TypeVar("R_co", covariant=True)


class Cached(Protocol[P, R_co]):
    """A decorated sync function, or a method bound to its object."""

    __name__: str
    __qualname__: str

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """The function as it was written."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Return the cached value, or run the function and keep what it returns."""

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> InvalidationResult:
        """Invalidate the entry of these arguments in every process."""

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Invalidate the entry of these arguments and load it anew."""

    def cache_key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the key of these arguments."""

    def clear(self) -> InvalidationResult:
        """Invalidate every entry of the function, or all that its template matches."""

    def stats(self) -> FunctionStats:
        """Return the function's hits, misses and loads."""


class AsyncCached(Protocol[P, R_co]):
    """A decorated async function, or a method bound to its object."""

    __name__: str
    __qualname__: str

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """The function as it was written."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]:
        """Return the cached value, or run the function and keep what it returns."""

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, InvalidationResult]:
        """Invalidate the entry of these arguments in every process."""

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]:
        """Invalidate the entry of these arguments and load it anew."""

    def cache_key(self, *args: P.args, **kwargs: P.kwargs) -> ReadyKey:
        """Return the key of these arguments; it may be awaited, and need not be."""

    def clear(self) -> Coroutine[Any, Any, InvalidationResult]:
        """Invalidate every entry of the function, or all that its template matches."""

    def stats(self) -> FunctionStats:
        """Return the function's hits, misses and loads; they may be awaited, and need not be."""


class CachedFunction(Cached[P, R_co], Protocol[P, R_co]):
    """A decorated sync function; in a class body, a method."""

    @overload
    def __get__(self, instance: None, owner: type[Any], /) -> CachedFunction[P, R_co]: ...
    @overload
    def __get__(
        self: CachedFunction[Concatenate[Any, Q], R_co], instance: object, owner: type[Any] | None = None, /
    ) -> Cached[Q, R_co]: ...
    def __get__(self, instance: Any, owner: type[Any] | None = None, /) -> Any:
        """Bind the method."""


class AsyncCachedFunction(AsyncCached[P, R_co], Protocol[P, R_co]):
    """A decorated async function; in a class body, a method."""

    @overload
    def __get__(self, instance: None, owner: type[Any], /) -> AsyncCachedFunction[P, R_co]: ...
    @overload
    def __get__(
        self: AsyncCachedFunction[Concatenate[Any, Q], R_co], instance: object, owner: type[Any] | None = None, /
    ) -> AsyncCached[Q, R_co]: ...
    def __get__(self, instance: Any, owner: type[Any] | None = None, /) -> Any:
        """Bind the method."""


class CachedOfClass(Cached[Concatenate[type[C_co], P], R_co], Protocol[C_co, P, R_co]):
    """A decorated sync function whose first parameter is a class; in a class body, a classmethod."""

    def __get__(self, instance: object, owner: type[Any] | None = None, /) -> Cached[P, R_co]:
        """Bind the classmethod."""


class AsyncCachedOfClass(AsyncCached[Concatenate[type[C_co], P], R_co], Protocol[C_co, P, R_co]):
    """A decorated async function whose first parameter is a class; in a class body, a classmethod."""

    def __get__(self, instance: object, owner: type[Any] | None = None, /) -> AsyncCached[P, R_co]:
        """Bind the classmethod."""


class CachedStatic(Protocol[P, R_co]):
    """A decorated `classmethod` or `staticmethod` object: what its class and objects hand out."""

    def __get__(self, instance: object, owner: type[Any] | None = None, /) -> Cached[P, R_co]: ...


class AsyncCachedStatic(Protocol[P, R_co]):
    """As `CachedStatic`, async."""

    def __get__(self, instance: object, owner: type[Any] | None = None, /) -> AsyncCached[P, R_co]: ...


class Decorator(Protocol):
    """A decorator for functions, methods, classmethods, staticmethods and properties, sync and async."""

    @overload
    def __call__(self, function: classmethod[Any, P, Coroutine[Any, Any, R]], /) -> AsyncCachedStatic[P, R]: ...
    @overload
    def __call__(self, function: classmethod[Any, P, R], /) -> CachedStatic[P, R]: ...
    @overload
    def __call__(self, function: staticmethod[P, Coroutine[Any, Any, R]], /) -> AsyncCachedStatic[P, R]: ...
    @overload
    def __call__(self, function: staticmethod[P, R], /) -> CachedStatic[P, R]: ...
    @overload
    def __call__(self, function: property, /) -> property: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[type[C], P], Coroutine[Any, Any, R]], /
    ) -> AsyncCachedOfClass[C, P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[type[C], P], R], /) -> CachedOfClass[C, P, R]: ...
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncCachedFunction[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> CachedFunction[P, R]: ...


class AsyncDecorator(Protocol):
    """A decorator for async functions, methods, classmethods and staticmethods."""

    @overload
    def __call__(self, function: classmethod[Any, P, Coroutine[Any, Any, R]], /) -> AsyncCachedStatic[P, R]: ...
    @overload
    def __call__(self, function: staticmethod[P, Coroutine[Any, Any, R]], /) -> AsyncCachedStatic[P, R]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[type[C], P], Coroutine[Any, Any, R]], /
    ) -> AsyncCachedOfClass[C, P, R]: ...
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncCachedFunction[P, R]: ...
