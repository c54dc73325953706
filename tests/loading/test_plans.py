"""The two drivers of plans, where they end early."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Generator
from typing import Any

import pytest

from tiercast.plans import Blocking, Pause, Plan, drive, drive_async


class Forever:
    """A request that is never answered, on no loop in particular."""

    def run(self) -> None:
        raise AssertionError

    async def run_async(self) -> None:
        await self

    def __await__(self) -> Generator[None, None, None]:
        while True:
            yield


def plan(seen: list[str]) -> Plan[str]:
    """A plan whose clean-up wants I/O, as that of a lease does."""
    try:
        yield Forever()
    finally:
        seen.append("ends")
        yield Pause(0)
        seen.append("cleaned up")
    return "done"


async def test_a_cancelled_task_still_cleans_up() -> None:
    """What the plan wants done in its `finally` is done."""
    seen: list[str] = []
    task = asyncio.create_task(drive_async(plan(seen)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["ends", "cleaned up"]


def test_a_coroutine_that_is_thrown_away_ends_quietly() -> None:
    """It can await nothing any more: its plan ends without that I/O, and Python has nothing to complain of."""
    seen: list[str] = []
    coroutine = drive_async(plan(seen))
    coroutine.send(None)
    assert seen == []
    coroutine.close()
    del coroutine
    gc.collect()
    assert seen == ["ends"]


def test_errors_reach_the_plan() -> None:
    """What I/O raises is raised where the plan waits for it, for both drivers."""

    def fails() -> None:
        raise OSError("disk")

    def brave() -> Plan[str]:
        try:
            yield Blocking(fails)
        except OSError as exc:
            return str(exc)
        return ""

    assert drive(brave()) == "disk"
    assert asyncio.run(drive_async(brave())) == "disk"


async def test_blocking_calls_leave_the_loop_with_the_context() -> None:
    """In a thread of their own kind, and with the caller's context variables."""
    import contextvars

    variable = contextvars.ContextVar[str]("variable")
    variable.set("here")

    def look() -> Plan[Any]:
        return (yield Blocking(lambda: (variable.get(), threading.current_thread().name)))

    value, name = await drive_async(look())
    assert (value, name.startswith("tiercast-io")) == ("here", True)
