"""Where background work runs: bounded daemon threads for sync callers, tasks for async ones."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..monitoring.counter import Counter
from ..plans import Plan, drive, drive_async
from .flights import ABANDONED, running_loop

if TYPE_CHECKING:
    from .flights import Flight

logger = logging.getLogger("tiercast.loading")

LINGER = 10.0
"""Seconds after which a thread that has nothing to do ends."""


class Pool:
    """Daemon threads that are started when needed and never keep the interpreter alive. Thread-safe.

    Args:
        limit: threads at the most. backlog: jobs that may wait for one.
    """

    def __init__(self, limit: int, backlog: int) -> None:
        self._limit = limit
        self._backlog = backlog
        self.reset()

    def reset(self) -> None:
        """Forget threads and jobs: in a forked child they are the parent's."""
        self._changed = threading.Condition(threading.Lock())
        self._jobs: deque[Callable[[], None]] = deque()
        self._threads = 0
        self._idle = 0
        self.busy = 0
        """Jobs that run or wait."""

    def submit(self, job: Callable[[], None]) -> bool:
        """Run a job, which must not raise, in a thread; False where no more may wait."""
        with self._changed:
            if self._idle <= len(self._jobs):
                if self._threads < self._limit:
                    self._start()
                elif len(self._jobs) >= self._backlog:
                    return False
            if not self._threads:
                return False
            self._jobs.append(job)
            self.busy += 1
            self._changed.notify_all()
            return True

    def _start(self) -> None:
        thread = threading.Thread(target=self._work, name="tiercast-worker", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no threads to be had, or the interpreter is shutting down
            return
        self._threads += 1

    def _work(self) -> None:
        changed = self._changed
        while True:
            with changed:
                while not self._jobs:
                    self._idle += 1
                    told = changed.wait(LINGER)
                    self._idle -= 1
                    if not told and not self._jobs:
                        self._threads -= 1
                        return
                job = self._jobs.popleft()
            job()
            del job
            with changed:
                self.busy -= 1
                if not self.busy:
                    changed.notify_all()

    def drain(self, timeout: float) -> bool:
        """Wait until nothing runs any more, for `timeout` seconds at the most."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.busy, timeout)


class Workers:
    """Runs plans and loaders away from their caller, in a copy of the caller's context. Thread-safe and loop-safe.

    Three bounds: refreshes that nobody waits for have `limit` threads, and `backlog` of them may
    wait or be tasks (a refresh that is not done now is done at the next read). Loads that
    somebody waits for, and the sync loaders of async callers, begin at once: there are no more
    of them than callers and loads that hang, and beyond `most` they are refused.
    """

    def __init__(self, limit: int = 8, backlog: int = 1_000, most: int = 512) -> None:
        self._backlog = backlog
        self._behind = Pool(limit, backlog)
        self._waited = Pool(most, 0)
        self._loaders = Pool(most, 0)
        self.failed = Counter()
        self.reset()

    def reset(self) -> None:
        """Forget what runs: in a forked child it is the parent's."""
        for pool in (self._behind, self._waited, self._loaders):
            pool.reset()
        self._lock = threading.Lock()
        self._inherited = getattr(self, "_tasks", None)
        """A fork's tasks of the parent: let go, they would complain that nobody runs them."""
        self._tasks: set[asyncio.Task[Any]] = set()

    def submit(self, make: Callable[[], Plan[Any]], *, waited: bool = False) -> bool:
        """Run a plan in a worker thread; False where too many wait."""
        context = contextvars.copy_context()

        def job() -> None:
            try:
                context.run(_drive, make)
            except Exception as exc:  # noqa: BLE001  a background failure is counted and logged, and ends nothing
                self._failed(exc)

        return (self._waited if waited else self._behind).submit(job)

    def spawn(self, make: Callable[[], Plan[Any]], over: Callable[[], None], *, waited: bool = False) -> bool:
        """Run a plan as a task of the running loop; False where too many run. `over`: called when the task has ended."""
        with self._lock:
            self._tasks = {task for task in self._tasks if not task.get_loop().is_closed()}
            if not waited and len(self._tasks) >= self._backlog:
                return False
        task = asyncio.get_running_loop().create_task(self._run_async(make), name="tiercast-worker")
        with self._lock:
            self._tasks.add(task)
        task.add_done_callback(self._ended)
        task.add_done_callback(lambda _: over())
        return True

    def _ended(self, task: asyncio.Task[Any]) -> None:
        with self._lock:
            self._tasks.discard(task)

    async def _run_async(self, make: Callable[[], Plan[Any]]) -> None:
        try:
            await drive_async(make())
        except Exception as exc:  # noqa: BLE001  as above
            self._failed(exc)

    def _failed(self, exc: Exception) -> None:
        self.failed.add()
        logger.warning("background load failed: %s", exc, exc_info=exc)

    async def call(self, function: Callable[[], Any]) -> Any:
        """Call a sync function in a thread, with the context copied; for loaders.

        Not in the loop's own executor: its few threads may all be waiting for a flight whose
        leader needs one of them.
        """
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()
        future: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()

        def job() -> None:
            outcome: tuple[Any, BaseException | None]
            try:
                outcome = context.run(function), None
            except BaseException as exc:  # noqa: BLE001  raised where the caller is
                outcome = None, exc
            try:
                loop.call_soon_threadsafe(_settle, future, outcome)
            except RuntimeError:  # the loop closed meanwhile
                pass

        if not self._loaders.submit(job):
            return await asyncio.to_thread(function)
        value, error = await future
        if error is not None:
            raise error
        return value

    def drain(self, timeout: float) -> bool:
        """Wait until nothing runs any more, for `timeout` seconds at the most; then tasks are cancelled.

        The tasks of a loop that runs in this very thread cannot end while we wait: they are cancelled at once.
        """
        until = time.monotonic() + timeout
        here = running_loop()
        for task in self._running(here):
            task.cancel()
        while self._elsewhere(here) and time.monotonic() < until:
            time.sleep(0.005)
        for task in self._elsewhere(here):
            try:
                task.get_loop().call_soon_threadsafe(task.cancel)
            except RuntimeError:  # closed since
                pass
        return self._drain_threads(until)

    def _drain_threads(self, until: float) -> bool:
        done = [pool.drain(max(0.0, until - time.monotonic())) for pool in (self._behind, self._waited)]
        return all(done)

    def _running(self, loop: asyncio.AbstractEventLoop | None) -> set[asyncio.Task[Any]]:
        with self._lock:
            return {task for task in self._tasks if task.get_loop() is loop}

    def _elsewhere(self, here: asyncio.AbstractEventLoop | None) -> list[asyncio.Task[Any]]:
        """Return the tasks of other loops that can still come to an end."""
        with self._lock:
            return [task for task in self._tasks if task.get_loop() is not here and task.get_loop().is_running()]

    async def drain_async(self, timeout: float) -> bool:
        """As `drain`, for whoever closes from a loop: its tasks are waited for as well."""
        until = time.monotonic() + timeout
        tasks = self._running(asyncio.get_running_loop())
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=timeout)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=1.0)
        return await asyncio.to_thread(self.drain, max(0.0, until - time.monotonic()))


def _drive(make: Callable[[], Plan[Any]]) -> None:
    drive(make())


def _settle(future: asyncio.Future[Any], outcome: Any) -> None:
    if not future.done():  # whoever asked may have been cancelled
        future.set_result(outcome)


class Spawn:
    """The request to lead a flight in the background; answers whether it was accepted.

    Args:
        workers: where.
        make: makes the plan that leads it.
        flight: the flight.
        waited: whether somebody waits for it.
    """

    __slots__ = ("flight", "make", "waited", "workers")

    def __init__(self, workers: Workers, make: Callable[[], Plan[Any]], flight: Flight, *, waited: bool) -> None:
        self.workers = workers
        self.make = make
        self.flight = flight
        self.waited = waited

    def run(self) -> bool:
        self.flight.loop = None
        return self.workers.submit(self.make, waited=self.waited)

    async def run_async(self) -> bool:
        self.flight.loop = running_loop()
        return self.workers.spawn(self.make, self._over, waited=self.waited)

    def _over(self) -> None:
        # A task that is cancelled before its first step does nothing at all.
        if not self.flight.signal.fired:
            self.flight.table.land(self.flight, ABANDONED)
