"""The one thread that listens: to the bus where there is one, and to time."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Final

from ..monitoring.counter import Counter
from ..plans import drive
from .log import LogUnavailable

if TYPE_CHECKING:
    from .coherence import Coherence
    from .protocols import Channel

logger = logging.getLogger("tiercast.coherence")

GATHERING: Final = 0.02
"""Seconds between the call for a job and the job, so that one serves all who call meanwhile."""
LOOK: Final = 0.05
"""Seconds between two looks at a log whose movement can be seen without I/O."""


class Listener:
    """A daemon thread that applies what the bus says and takes the heartbeats.

    It serves sync and async callers alike, never dies of what it hears, and is started
    anew in a forked child by whoever needs it there. While it does not run, nothing proves
    this process's memory but the readers themselves: unproven, never stale.
    """

    def __init__(self, coherence: Coherence) -> None:
        self._coherence = coherence
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._pid = 0
        self.heard = Counter()
        self.failures = Counter()
        self.connected = False
        self.failure = ""
        """Why the bus is not heard; "" where it is."""
        self._failing = False
        """Whether no thread could be had, and that was said."""
        self._channel: Channel | None = None

    def alive(self) -> bool:
        """Whether the thread runs in this process."""
        return self._pid == os.getpid() and self._thread is not None and self._thread.is_alive()

    def start(self) -> bool:
        """Start the thread where it does not run; False where no thread can be had."""
        if self.alive():
            return True
        with self._lock:
            if self.alive() or self._stop.is_set():
                return True
            thread = threading.Thread(target=self._run, name="tiercast-listener", daemon=True)
            try:
                thread.start()
            except RuntimeError as exc:
                self._coherence.failure = f"the listener thread cannot start: {exc}"
                if not self._failing:
                    logger.warning("%s; it is tried again", self._coherence.failure)
                self._failing = True
                return False
            self._thread, self._pid, self._failing = thread, os.getpid(), False
        return True

    def stop(self, timeout: float = 2.0) -> None:
        """End the thread and wait for it."""
        self._stop.set()
        channel, thread = self._channel, self._thread
        if thread is not None and self.alive() and thread is not threading.current_thread():
            if channel is not None:
                channel.close()  # wakes the thread that waits in it
            thread.join(timeout)

    def forked(self) -> None:
        """Forget the parent's thread and locks."""
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = None
        self._channel = None
        self.connected = False

    def _run(self) -> None:
        listen = self._coherence.listen
        failing = False
        while not self._stop.is_set():
            try:
                if listen is None:
                    self._beat()
                    if self._coherence.untold():
                        self._beat()
                    self._watch()
                else:
                    self._follow(listen)
                failing = False
            except Exception as exc:
                self.connected = False
                if self._stop.is_set():
                    return
                self.failures.add()
                self.failure = self._coherence.failure = f"{type(exc).__name__}: {exc}"
                if not failing:
                    expected = isinstance(exc, LogUnavailable | OSError)
                    logger.warning("the bus is away: %s", exc, exc_info=None if expected else exc)
                failing = True
                self._stop.wait(min(0.2, self._coherence.settings.heartbeat))

    def _watch(self) -> None:
        """Wait for the next heartbeat; it is taken early where the log has moved, so that barriers need not wait for it."""
        coherence = self._coherence
        due = time.monotonic() + coherence.settings.heartbeat
        while (left := due - time.monotonic()) > 0 and not self._stop.wait(min(left, LOOK)):
            if coherence.behind() or coherence.untold():
                return

    def _follow(self, listen: Callable[[], Channel]) -> None:
        """Listen until something breaks; whoever begins to listen catches up first."""
        with closing(listen()) as channel:
            self._channel = channel
            self._beat()
            self.connected, self.failure = True, ""
            heartbeat = self._coherence.settings.heartbeat
            due = time.monotonic() + heartbeat
            while not self._stop.is_set():
                for message in channel.poll(max(0.0, min(due - time.monotonic(), 0.25))):
                    self.heard.add()
                    drive(self._coherence.hear(message))
                if time.monotonic() >= due:
                    due = time.monotonic() + heartbeat
                    self._beat()

    def _beat(self) -> None:
        drive(self._coherence.beat())


REST = 0.02
"""Seconds between two jobs at least: what comes in so short a time is done together."""


class Housekeeper:
    """A daemon thread that runs a job when woken, and every `interval` seconds; what comes in quick succession is one job."""

    def __init__(self, job: Callable[[], None], interval: float, name: str) -> None:
        self._job = job
        self._interval = interval
        self._name = name
        self._wake = threading.Event()
        self._stopped = False
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._pid = 0
        self._failing = False
        """Whether no thread could be had, and that was said."""
        self.failures = Counter()

    def start(self) -> bool:
        """Start the thread where it does not run in this process; False where no thread can be had."""
        if self._pid == os.getpid() and self._thread is not None and self._thread.is_alive():
            return True
        with self._lock:
            if self._stopped or (self._pid == os.getpid() and self._thread is not None):
                return True
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError as exc:  # without it nothing is wrong, only later
                if not self._failing:
                    logger.warning("no housekeeping thread: %s", exc)
                self._failing = True
                return False
            self._thread, self._pid, self._failing = thread, os.getpid(), False
        return True

    def wake(self) -> None:
        """Have the job run soon."""
        if not self._wake.is_set():
            self._wake.set()

    def stop(self, timeout: float = 2.0) -> None:
        """End the thread and wait for it."""
        self._stopped = True
        self._wake.set()
        thread = self._thread
        if thread is not None and self._pid == os.getpid() and thread is not threading.current_thread():
            thread.join(timeout)

    def forked(self) -> None:
        """Forget the parent's thread and locks."""
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread = None

    def _run(self) -> None:
        failing = False
        while not self._stopped:
            if self._wake.wait(self._interval) and not self._stopped:
                time.sleep(GATHERING)
            self._wake.clear()
            if self._stopped:
                return
            try:
                self._job()
                failing = False
            except LogUnavailable:  # so it was for the listener, which says so
                self.failures.add()
            except Exception as exc:
                self.failures.add()
                if not failing:
                    logger.warning("housekeeping failed: %s", exc, exc_info=exc)
                failing = True
            time.sleep(REST)
