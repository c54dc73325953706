"""Calling a user's loader from a plan."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .context import LoadContext, _current, entered

if TYPE_CHECKING:
    from .workers import Workers


class Load:
    """The request to call a loader; answers what it returned and raises what it raised.

    From sync code the loader runs in this thread. From async code an async loader runs in
    this task and a sync one in a worker thread, with the context copied.
    """

    __slots__ = ("context", "loader", "workers")

    def __init__(self, loader: Callable[[], Any], context: LoadContext, workers: Workers) -> None:
        self.loader = loader
        self.context = context
        self.workers = workers

    def run(self) -> Any:
        with entered(self.context):
            value = self._load()
        if inspect.isawaitable(value):
            refuse_async(self.loader, value)
        return value

    async def run_async(self) -> Any:
        token = _current.set(self.context)
        try:
            if is_async(self.loader):
                return await self.loader()
            value = await self.workers.call(self._load)
            return await value if inspect.isawaitable(value) else value
        finally:
            try:
                _current.reset(token)
            except ValueError:  # the task was thrown away, and what it left is finalised elsewhere
                pass

    def _load(self) -> Any:
        """Call a sync loader. A GeneratorExit of its own would say that its task was thrown away, and another has to load."""
        try:
            return self.loader()
        except GeneratorExit as exc:
            raise RuntimeError("the loader raised GeneratorExit") from exc


def raised_by_loader(exc: BaseException) -> bool:
    """Whether what ends a load in the background, and is no `Exception`, was raised by the loader: pytest's failures, say.

    Else the task that leads it was cancelled, or its loop ends. A worker thread is stopped by nobody.
    """
    if isinstance(exc, GeneratorExit):  # a task that was thrown away where it stood; by any thread, at any time
        return False
    if asyncio._get_running_loop() is None:
        return True
    if isinstance(exc, asyncio.CancelledError):
        task = asyncio.current_task()  # the loader waited for another that was cancelled, unless this one was
        return task is not None and not task.cancelling()
    return not isinstance(exc, KeyboardInterrupt | SystemExit)


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it makes a coroutine, as far as can be seen without calling."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def refuse_async(loader: Callable[[], Any], value: Any = None) -> None:
    """Raise the TypeError of an async loader in a sync call."""
    if inspect.iscoroutine(value):
        value.close()
    name = getattr(loader, "__qualname__", repr(loader))
    message = f"the loader {name} is async and cannot run in a sync call; use the `…_async` operation"
    raise TypeError(message)
