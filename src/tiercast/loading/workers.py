"""Background work: bounded daemon threads for sync callers, tasks for async ones."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from ..monitoring.counter import Counter
from ..plans import Plan, drive, drive_async

logger = logging.getLogger("tiercast.loading")


class Workers:
    """Runs plans in the background, in a copy of the caller's context. They never keep the interpreter alive.

    Args:
        limit: threads at the most; they are started when needed.
        backlog: plans that may wait; more are refused (a refresh that is not done now is done at the next read).
    """

    def __init__(self, limit: int = 8, backlog: int = 1_000) -> None:
        self._limit = limit
        self._backlog = backlog
        self.failed = Counter()
        self.reset()

    def reset(self) -> None:
        """Forget threads and what waits: in a forked child they are the parent's."""
        self._queue: queue.Queue[tuple[contextvars.Context, Callable[[], Plan[Any]]]] = queue.Queue(self._backlog)
        self._lock = threading.Lock()
        self._threads = 0
        self._idle = 0
        self._busy = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    def submit(self, make: Callable[[], Plan[Any]]) -> bool:
        """Run the plan in a worker thread, soon; False where too many wait."""
        with self._lock:
            try:
                self._queue.put_nowait((contextvars.copy_context(), make))
            except queue.Full:
                return False
            self._busy += 1
            if self._idle < self._queue.qsize() and self._threads < self._limit:
                self._threads += 1
                thread = threading.Thread(target=self._work, name="tiercast-worker", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # no threads to be had, or the interpreter is shutting down
                    self._threads -= 1
                    if not self._threads:
                        self._queue.get_nowait()
                        self._busy -= 1
                        return False
        return True

    def spawn(self, make: Callable[[], Plan[Any]]) -> bool:
        """Run the plan as a task of the running loop."""
        task = asyncio.get_running_loop().create_task(self._run_async(make))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    def _work(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
            context, make = self._queue.get()
            with self._lock:
                self._idle -= 1
            try:
                context.run(_drive, make)
            except Exception as exc:  # noqa: BLE001  a background failure is counted and logged, and ends nothing
                self._failed(exc)
            finally:
                with self._lock:
                    self._busy -= 1

    async def _run_async(self, make: Callable[[], Plan[Any]]) -> None:
        try:
            await drive_async(make())
        except Exception as exc:  # noqa: BLE001  as above
            self._failed(exc)

    def _failed(self, exc: Exception) -> None:
        self.failed.add()
        logger.warning("background load failed: %s", exc, exc_info=exc)

    def drain(self, timeout: float) -> bool:
        """Wait until nothing runs any more, for `timeout` seconds at the most."""
        deadline = time.monotonic() + timeout
        while self._busy and time.monotonic() < deadline:
            time.sleep(0.005)
        return not self._busy

    async def drain_async(self, timeout: float) -> bool:
        """As `drain`; the tasks of this loop that do not end in time are cancelled."""
        here = asyncio.get_running_loop()
        tasks = {task for task in self._tasks if task.get_loop() is here}
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=timeout)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=1.0)
        return await asyncio.to_thread(self.drain, timeout)


def _drive(make: Callable[[], Plan[Any]]) -> None:
    drive(make())


class Spawn:
    """The request to run a plan in the background; answers whether it was accepted."""

    __slots__ = ("make", "workers")

    def __init__(self, workers: Workers, make: Callable[[], Plan[Any]]) -> None:
        self.workers = workers
        self.make = make

    def run(self) -> bool:
        return self.workers.submit(self.make)

    async def run_async(self) -> bool:
        return self.workers.spawn(self.make)
