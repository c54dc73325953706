"""One Redis server: the links that threads share, and the lanes of the event loops.

Implementation notes. Idle links lie in a list whose append and pop are atomic, so that a thread that
finds one takes no lock. Only when none is idle does the lock decide between opening one more and
waiting. A link that failed in any way is closed, never given back, since an answer that comes late
would be taken for the answer to the next command. `generation` grows when everything opened so far
is suspect (the server restarted, the master moved, close()); older links are closed when given back.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Final

from .base import Command, Unavailable
from .breaker import Breaker
from .lane import Lane
from .link import Link
from .resp import encode, spread
from .server import ServerInfo
from .target import Target

UNSURE_AFTER: Final = 1.0
"""Seconds idle after which a link is looked at before it is used (half a microsecond when it is not)."""
WHO: Final = encode((("INFO", "server"), ("INFO", "replication")), fuse=False)[0]


class _Busy(Unavailable):
    """All links are in use: says nothing about the server."""


class Node:
    """One server, or the master that Sentinels name. Thread-safe; loops get a lane each.

    Args:
        target: where it is; of kind "single" or "sentinel".
        limit: links at most for threads, and again for each event loop.
        connect_timeout: seconds to open a connection, where nobody waits for it with less.
        breaker: what refuses calls while the server does not answer.
        met: called with the life of the server, "run_id:master_replid", that each new connection leads to, before it
            is used.
        fuse: send runs of GET as MGET.
    """

    def __init__(
        self,
        target: Target,
        limit: int,
        connect_timeout: float,
        breaker: Breaker,
        *,
        met: Callable[[str], None],
        fuse: bool,
    ) -> None:
        self.target = target
        self.breaker = breaker
        self.fuse = fuse
        self._met = met
        self.connect_timeout = connect_timeout
        self.generation = 0
        self.opened = 0
        """Connections opened so far."""
        self.closed = False
        """Whether it was closed: what is asked of it nevertheless has a connection for itself, which is closed after it."""
        self.limit = limit
        self._master: tuple[tuple[str, int], ...] = ()
        self._begin()

    def _begin(self) -> None:
        self._idle: list[Link] = []
        self._made = 0
        self._waiting = 0
        self._free = threading.Condition(threading.Lock())
        self._lanes: dict[int, Lane] = {}
        self._links: weakref.WeakSet[Link] = weakref.WeakSet()
        """Every link that is open, those that threads use now included: a forked child must let go of them all."""

    # -- threads -------------------------------------------------------------------------------

    def run(self, commands: Sequence[Command], timeout: float, *, again: bool) -> list[Any]:
        """Send commands and return their replies, errors among them as values.

        Args:
            commands: sent in one piece.
            timeout: seconds for all of it, opening a connection included.
            again: send once more where the link turns out to have been closed by the server.

        Raises:
            Unavailable: no answer.
        """
        breaker = self.breaker
        if not breaker.admit():
            raise Unavailable(breaker.refusal)
        payload, shape = encode(commands, fuse=self.fuse)
        deadline = time.monotonic() + timeout
        try:
            try:
                replies = self._exchange(payload, len(shape), deadline)
            except Unavailable as error:
                if not (again and error.dropped):
                    raise
                self.suspect()
                replies = self._exchange(payload, len(shape), deadline)
        except _Busy:
            raise
        except Unavailable as error:
            breaker.failed(error)
            raise
        breaker.succeeded()
        return spread(replies, shape) if len(shape) != len(commands) else replies

    def _exchange(self, payload: bytes, count: int, deadline: float) -> list[Any]:
        link = self._take(deadline)
        try:
            replies = link.exchange(payload, count, deadline)
        except BaseException:
            # Also for KeyboardInterrupt and the like: the answer may still come.
            self._drop(link)
            raise
        link.used = deadline
        if self.closed or link.generation != self.generation:
            self._drop(link)
        else:
            self._idle.append(link)
            if self._waiting:
                with self._free:
                    self._free.notify()
        return replies

    def _take(self, deadline: float) -> Link:
        idle = self._idle
        while True:
            try:
                link = idle.pop()
            except IndexError:
                if not self._wait(deadline):
                    return self._open(deadline)
                continue
            # `used` is the deadline of its last exchange, which spares a look at the clock.
            if link.generation == self.generation and (link.used + UNSURE_AFTER > deadline or link.fits()):
                return link
            self._drop(link)

    def _wait(self, deadline: float) -> bool:
        """Wait for an idle link; False where the caller has been given leave to open one."""
        with self._free:
            self._waiting += 1
            try:
                while not self._idle:
                    if self._made < self.limit:
                        self._made += 1
                        return False
                    remaining = deadline - time.monotonic()
                    if remaining <= 0 or not self._free.wait(remaining):
                        raise _Busy(f"all {self.limit} connections to {self.breaker.name} are in use")
            finally:
                self._waiting -= 1
        return True

    def _open(self, deadline: float) -> Link:
        try:
            remaining = max(deadline - time.monotonic(), 0.001)
            return self.connect(min(remaining, self.connect_timeout), remaining)
        except BaseException:
            with self._free:
                self._made -= 1
                self._free.notify()
            raise

    def _drop(self, link: Link) -> None:
        link.close()
        with self._free:
            self._made -= 1
            self._free.notify()

    def connect(self, connect_timeout: float, timeout: float) -> Link:
        """Open a connection (blocking); a Sentinel is asked each time where the master is."""
        target = self.target
        if target.kind == "sentinel":
            target = target.find_master(timeout)
            if target.hosts != self._master:
                # What is open leads to the former master, which may go on answering with what it had.
                if self._master:
                    self.suspect()
                self._master = target.hosts
        generation = self.generation
        link = Link(target.connect(connect_timeout, timeout), generation)
        self._links.add(link)
        self.opened += 1
        try:
            info = ServerInfo.read(*link.exchange(WHO, 2, time.monotonic() + timeout))
        except BaseException:
            link.close()  # the exception may keep it for long
            raise
        self._met(f"{info.run_id}:{info.replication_id}")
        return link

    def suspect(self) -> None:
        """Use none of the links opened so far any more."""
        self.generation += 1
        while True:
            try:
                link = self._idle.pop()
            except IndexError:
                break
            self._drop(link)

    # -- event loops -----------------------------------------------------------------------------

    def submit(self, commands: Sequence[Command], timeout: float, *, again: bool) -> asyncio.Future[list[Any]]:
        """The twin of `run` for a task: returns a future of the running loop.

        Raises:
            Unavailable: at once where the breaker is open, else from the future.
        """
        breaker = self.breaker
        if not breaker.admit():
            raise Unavailable(breaker.refusal)
        loop = asyncio.get_running_loop()
        lane = self._lanes.get(id(loop))
        if lane is None or lane.loop() is not loop:
            lane = self._new_lane(loop)
        if not lane.watches:
            return loop.run_in_executor(None, lambda: self.run(commands, timeout, again=again))
        return lane.submit(commands, timeout, loop, again=again)

    def _new_lane(self, loop: asyncio.AbstractEventLoop) -> Lane:
        # Loops come and go (asyncio.run in a worker thread) and do not say goodbye.
        for key, lane in list(self._lanes.items()):
            former = lane.loop()
            if former is None or former.is_closed():
                self._lanes.pop(key, None)
                lane.dispose()
        lane = self._lanes[id(loop)] = Lane(self, loop)
        weakref.finalize(loop, lane.dispose).atexit = False
        return lane

    # -- the end ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Close every connection, from any thread; a later call opens one for itself."""
        self.closed = True
        self.suspect()
        for key, lane in list(self._lanes.items()):
            self._lanes.pop(key, None)
            lane.close()

    def after_fork(self) -> None:
        """Let go of the parent's connections without a word to the server: this is the child."""
        links, lanes = list(self._links), self._lanes
        self.generation += 1
        self.breaker.forget()
        self._begin()
        for link in links:
            link.close(quiet=True)
        for lane in lanes.values():
            lane.dispose(quiet=True)
