"""Plans: what an operation does, written once, for sync and async callers alike.

A *plan* is a generator that yields the I/O it wants and is sent the outcome. It
holds every decision and performs no I/O itself; `drive` and `drive_async` perform
it. (The pattern is that of psycopg 3's generators and httpx's auth flow.)

A plan that is closed or thrown into runs its ``finally`` blocks, which may yield
further I/O; so a cancelled task still gives back what it holds.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Request(Protocol):
    """One piece of I/O that a plan wants done: for a thread, and for a task."""

    def run(self) -> Any:
        """Do it in this thread; what it raises is raised inside the plan."""

    async def run_async(self) -> Any:
        """Do it without holding up this event loop."""


Plan = Generator[Request, Any, T]


def drive(plan: Plan[T]) -> T:
    """Run a plan to its end in this thread and return what it returns."""
    try:
        request = next(plan)
        while True:
            try:
                reply = request.run()
            except BaseException as exc:  # noqa: BLE001  the plan decides what an error means
                request = plan.throw(exc)
            else:
                request = plan.send(reply)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


async def drive_async(plan: Plan[T]) -> T:
    """Run a plan to its end in this task and return what it returns."""
    try:
        request = next(plan)
        while True:
            try:
                reply = await request.run_async()
            except GeneratorExit as exc:  # the task was thrown away where it stood: nothing can be awaited any more
                _throw_away(plan, exc)
                raise
            except BaseException as exc:  # noqa: BLE001  the plan decides what an error means
                request = plan.throw(exc)
            else:
                request = plan.send(reply)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


def _throw_away(plan: Plan[Any], exc: GeneratorExit) -> None:
    """End a plan without the I/O that its clean-up wants; leases and the like end by themselves."""
    try:
        for _ in range(100):
            plan.throw(exc)
    except (StopIteration, GeneratorExit):
        return


class Threads:
    """The few threads in which tasks have blocking calls made; nothing that runs there waits for another task.

    Not the loop's own executor, whose threads may all belong to sync code that waits for a
    load which a task is leading; that task may need a thread to store what it loaded.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None

    async def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function in one of the threads, with the context copied."""
        with self._lock:
            executor = self._executor
            if executor is None:
                executor = self._executor = ThreadPoolExecutor(self._limit, "tiercast-io")
        run = partial(contextvars.copy_context().run, function, *args)
        return await asyncio.get_running_loop().run_in_executor(executor, run)

    def forked(self) -> None:
        """Forget, in a forked child, the parent's threads."""
        self._lock = threading.Lock()
        self._executor = None


_threads = Threads(8)

if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_threads.forked)


class Blocking:
    """A function that may wait for a lock or a disk: called here by a thread, off the loop by a task."""

    __slots__ = ("args", "function")

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.function = function
        self.args = args

    def run(self) -> Any:
        return self.function(*self.args)

    async def run_async(self) -> Any:
        return await _threads.call(self.function, *self.args)


def blocking(function: Callable[[], T]) -> Plan[T]:
    """Return a plan that wants a function called that may wait, and answers what it returns."""
    answer: T = yield Blocking(function)
    return answer


def done(value: T) -> Plan[T]:
    """Return a plan that wants nothing and answers `value`."""
    return value
    yield  # makes this a generator


class Pause:
    """A wait of some seconds that holds up no loop. One of 0 seconds is a loop's turn, and nothing to a thread."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def run(self) -> None:
        if self.seconds:  # a thread that sleeps for no time gives up its slice of a busy processor: milliseconds
            time.sleep(self.seconds)

    async def run_async(self) -> None:
        await asyncio.sleep(self.seconds)
