"""Plans: what an operation does, written once, for sync and async callers alike.

A *plan* is a generator that yields the I/O it wants and is sent the outcome. It
holds every decision and performs no I/O itself; `drive` and `drive_async` perform
it. (The pattern is that of psycopg 3's generators and httpx's auth flow.)

A plan that is closed or thrown into runs its ``finally`` blocks, which may yield
further I/O; so a cancelled task still gives back what it holds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
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
            except BaseException as exc:  # noqa: BLE001  the plan decides what an error means
                request = plan.throw(exc)
            else:
                request = plan.send(reply)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


class Blocking:
    """A function that may wait for a lock or a disk: called here by a thread, off the loop by a task."""

    __slots__ = ("args", "function")

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.function = function
        self.args = args

    def run(self) -> Any:
        return self.function(*self.args)

    async def run_async(self) -> Any:
        return await asyncio.to_thread(self.function, *self.args)


def done(value: T) -> Plan[T]:
    """Return a plan that wants nothing and answers `value`."""
    return value
    yield  # makes this a generator


class Pause:
    """A wait of some seconds that holds up no loop."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def run(self) -> None:
        time.sleep(self.seconds)

    async def run_async(self) -> None:
        await asyncio.sleep(self.seconds)
