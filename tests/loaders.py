"""Loaders that tests hold still, and callers of every kind."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from typing import Any, Self

PATIENCE = 20.0
"""Seconds after which a test gives up waiting."""


def eventually(holds: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait until a condition holds; fails where it does not."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it did not come to hold"
        time.sleep(0.002)


async def eventually_async(holds: Callable[[], object], seconds: float = PATIENCE) -> None:
    """As `eventually`, on a loop."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it did not come to hold"
        await asyncio.sleep(0.002)


def last_served(old: object, read: Callable[[], object]) -> float:
    """Read until the old value is served no more; returns the `time.monotonic` at which the last read began that got it."""
    until, last = time.monotonic() + PATIENCE, -math.inf
    while True:
        began = time.monotonic()
        if read() != old:
            return last
        assert began < until, f"{old!r} is served for ever"
        last = began
        time.sleep(0.002)


class Gate:
    """A loader that says when it began and ends when told: with a value, or by raising."""

    def __init__(self) -> None:
        self.calls = 0
        self.running = 0
        self.most = 0
        """The most loads that ran at one time."""
        self.outcome: Any = "loaded"
        self._open = threading.Event()
        self._lock = threading.Lock()

    def load(self) -> Any:
        self._began()
        try:
            assert self._open.wait(PATIENCE)
            return self._answer()
        finally:
            self._ended()

    async def load_async(self) -> Any:
        self._began()
        try:
            await eventually_async(self._open.is_set)
            return self._answer()
        finally:
            self._ended()

    def open(self, outcome: Any = "loaded") -> None:
        """Let every load end."""
        self.outcome = outcome
        self._open.set()

    def _began(self) -> None:
        with self._lock:
            self.calls += 1
            self.running += 1
            self.most = max(self.most, self.running)

    def _ended(self) -> None:
        with self._lock:
            self.running -= 1

    def _answer(self) -> Any:
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


class Crowd:
    """Threads that each call something, and what came of it."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.outcomes: list[Any] = []

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> threading.Thread:
        def run() -> None:
            try:
                outcome = function(*args, **kwargs)
            except BaseException as exc:
                outcome = exc
            self.outcomes.append(outcome)

        thread = threading.Thread(target=run, daemon=True)
        self.threads.append(thread)
        thread.start()
        return thread

    def join(self) -> list[Any]:
        """Wait for all of them and return what they answered or raised."""
        for thread in self.threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a caller still waits"
        return self.outcomes


class Loop:
    """An event loop that runs in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def start(self, coroutine: Any) -> Any:
        """Run a coroutine there; returns a future of `concurrent.futures`."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def close(self) -> None:
        async def end() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.get_running_loop().shutdown_default_executor()

        self.start(end()).result(PATIENCE)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(PATIENCE)
        self.loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
