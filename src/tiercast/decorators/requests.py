"""The requests of the decorators' own plans: an operation of a manager, and a function of the user's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..manager import CacheManager


class Operation:
    """The request to call an operation of a manager: the plain one in a thread, its twin in a task."""

    __slots__ = ("args", "kwargs", "manager", "name")

    def __init__(self, manager: CacheManager, name: str, *args: Any, **kwargs: Any) -> None:
        self.manager = manager
        self.name = name
        self.args = args
        self.kwargs = kwargs

    def run(self) -> Any:
        return getattr(self.manager, self.name)(*self.args, **self.kwargs)

    async def run_async(self) -> Any:
        return await getattr(self.manager, f"{self.name}_async")(*self.args, **self.kwargs)


class Call:
    """The request to call a function of the user's: sync in a thread, awaited in a task where it answers so."""

    __slots__ = ("args", "function", "kwargs")

    def __init__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self.function = function
        self.args = args
        self.kwargs = kwargs

    def run(self) -> Any:
        return self.function(*self.args, **self.kwargs)

    async def run_async(self) -> Any:
        value = self.function(*self.args, **self.kwargs)
        return await value if hasattr(value, "__await__") else value
