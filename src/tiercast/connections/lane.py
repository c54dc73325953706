"""How the tasks of one event loop talk to one server: together.

Implementation notes. All commands that tasks issue in one turn of the loop wait in a queue until the
turn ends; then they leave as one batch on one link, or as several batches on a few links. A link has
one batch under way; what is issued meanwhile forms the next one. The replies are parsed in the
callback that the loop makes when the socket is readable, and wake the waiting tasks; there is no task,
no timer and no lock per request. A cancelled task's reply is read and thrown away with the batch.

Sockets are watched with `add_reader`, not wrapped in transports: a transport whose loop was closed
without notice cannot be closed any more, and warns. Connections are opened by a thread of their own,
since the connecting code is redis-py's blocking one, and because a batch may give up waiting while
the connection goes on being made.

Everything here runs on its loop's thread, `dispose` aside.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from .base import Command, Unavailable
from .link import LARGEST_PIECE, Link, unavailable
from .resp import ProtocolError, encode, spread

if TYPE_CHECKING:
    from .node import Node

LINKS: Final = 4
"""Links of one loop to one server."""
BATCH: Final = 1_000
"""Commands in one batch, unless one request alone has more."""
BATCH_BYTES: Final = 1 << 20
"""A batch takes no further request once its arguments are as long as this."""
PATIENCE: Final = 8
"""A batch whose bytes keep coming is given this many times its timeout."""
AGAIN = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class _Request:
    """Commands of one task, and the future it waits for; `since` is the end of the turn that issued them.

    A turn may be long (10,000 tasks that begin): that is this loop's time, and not the server's.
    """

    __slots__ = ("again", "commands", "future", "since")

    def __init__(self, commands: Sequence[Command], future: asyncio.Future[list[Any]], again: bool) -> None:
        self.commands = commands
        self.future = future
        self.since = 0.0
        self.again = again


class _Batch:
    """Requests under way on one link. `moved` counts the pieces that came, or left late."""

    __slots__ = ("begun", "count", "fused", "moved", "payload", "requests", "shape", "timeout", "timer")

    def __init__(self, requests: list[_Request], timeout: float, begun: float, *, fuse: bool) -> None:
        commands = [command for request in requests for command in request.commands]
        payload, self.shape = encode(commands, fuse=fuse)
        self.payload = memoryview(payload)
        self.count = len(self.shape)
        self.fused = self.count != len(commands)
        self.requests = requests
        self.timeout = timeout
        self.begun = begun
        self.moved = 0
        self.timer: asyncio.TimerHandle | None = None

    def answer(self, replies: list[Any]) -> None:
        """Wake each task with its own replies."""
        if self.fused:
            replies = spread(replies, self.shape)
        position = 0
        for request in self.requests:
            size = len(request.commands)
            if not request.future.done():
                request.future.set_result(replies[position : position + size])
            position += size


class Lane:
    """The links of one event loop to one server. For that loop's thread, unless said otherwise."""

    def __init__(self, node: Node, loop: asyncio.AbstractEventLoop) -> None:
        self.node = node
        self.loop: Callable[[], asyncio.AbstractEventLoop | None] = weakref.ref(loop)
        self._queues: dict[float, deque[_Request]] = {}
        self._idle: list[Link] = []
        self._links: dict[Link, _Batch | None] = {}
        self._opening = 0
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self.watches = type(loop).add_reader is not asyncio.AbstractEventLoop.add_reader
        """Whether the loop can watch sockets; Windows' proactor loop cannot, and gets threads."""

    def submit(
        self, commands: Sequence[Command], timeout: float, loop: asyncio.AbstractEventLoop, *, again: bool
    ) -> asyncio.Future[list[Any]]:
        """Queue commands for the end of this turn of the loop."""
        future: asyncio.Future[list[Any]] = loop.create_future()
        queue = self._queues.get(timeout)
        if queue is None:
            queue = self._queues[timeout] = deque()
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._turn_ends)
        queue.append(_Request(commands, future, again))
        return future

    # -- sending ---------------------------------------------------------------------------------

    def _turn_ends(self) -> None:
        """Send what the turn's tasks issued."""
        self._scheduled = False
        now = asyncio.get_running_loop().time()
        for queue in self._queues.values():
            for request in reversed(queue):
                if request.since:
                    break
                request.since = now
        self._flush()

    def _flush(self) -> None:
        """Send what waits, on as many links as there are."""
        loop = asyncio.get_running_loop()
        for timeout, queue in self._queues.items():
            while queue:
                if not self._idle:
                    self._want_links(loop)
                    break
                if self._idle[-1].generation != self.node.generation:
                    self._forget(self._idle[-1])
                    continue
                requests = self._next(queue)
                if requests:
                    self._send(self._idle.pop(), requests, timeout, loop)

    def _next(self, queue: deque[_Request]) -> list[_Request]:
        requests: list[_Request] = []
        commands = length = 0
        while queue and commands < BATCH and length < BATCH_BYTES:
            request = queue.popleft()
            if request.future.done():
                continue
            requests.append(request)
            for command in request.commands:
                commands += 1
                if command[0] != "GET":
                    length += sum(len(part) for part in command if part.__class__ is bytes)
        return requests

    def _send(self, link: Link, requests: list[_Request], timeout: float, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        batch = _Batch(requests, timeout, now, fuse=self.node.fuse)
        self._links[link] = batch
        # Whoever had to wait for a link still gets its answer, or none, within twice the timeout.
        due = max(min(now + timeout, (requests[0].since or now) + 1.7 * timeout), now + timeout / 4)
        batch.timer = loop.call_at(due, self._overdue, link, batch, 0, 0)
        self._write(link, batch)

    def _write(self, link: Link, batch: _Batch) -> None:
        try:
            while batch.payload:
                sent = link.sock.send(batch.payload)
                batch.payload = batch.payload[sent:]
        except AGAIN:
            asyncio.get_running_loop().add_writer(link.sock, self._writable, link, batch)
        except OSError as error:
            self._lost(link, unavailable(error))

    def _writable(self, link: Link, batch: _Batch) -> None:
        asyncio.get_running_loop().remove_writer(link.sock)
        if self._links.get(link) is batch:
            batch.moved += 1
            self._write(link, batch)

    # -- receiving -------------------------------------------------------------------------------

    def _readable(self, link: Link) -> None:
        secure = isinstance(link.sock, ssl.SSLSocket)
        came = False
        try:
            while True:
                data = link.sock.recv(LARGEST_PIECE if not link.replies.idle else 1 << 18)
                if not data:
                    self._lost(link, Unavailable("Redis closed the connection", dropped=True))
                    return
                came = True
                link.replies.feed(data)
                # What TLS has decrypted already makes no socket readable.
                if not (secure and link.sock.pending()):  # type: ignore[attr-defined]
                    break
        except AGAIN:
            pass
        except (OSError, ProtocolError) as error:
            self._lost(link, unavailable(error))
            return
        batch = self._links.get(link)
        if not came or link.replies.idle:
            return  # TLS's own business, or a message to nobody
        if batch is None:
            self._lost(link, Unavailable("Redis answered unasked"))
            return
        batch.moved += 1
        if len(link.replies.ready) >= batch.count:
            self._done(link, batch)

    def _done(self, link: Link, batch: _Batch) -> None:
        if batch.timer is not None:
            batch.timer.cancel()
        replies = link.take(batch.count)
        self.node.breaker.succeeded()
        self._links[link] = None
        if self.node.closed or link.generation != self.node.generation:
            self._forget(link)
        else:
            self._idle.append(link)
        if any(self._queues.values()):
            self._flush()  # first: the server works while this loop wakes the tasks
        batch.answer(replies)

    # -- failing ---------------------------------------------------------------------------------

    def _overdue(self, link: Link, batch: _Batch, seen: int, looks: int) -> None:
        """Give a batch up, unless its bytes are on their way or this loop was too busy to look.

        The selector is asked twice more after the deadline, so that an answer that lies there is found.
        """
        if self._links.get(link) is not batch:
            return
        loop = asyncio.get_running_loop()
        if batch.moved != seen and loop.time() - batch.begun < PATIENCE * batch.timeout:
            batch.timer = loop.call_later(batch.timeout / 4, self._overdue, link, batch, batch.moved, 0)
        elif looks < 2:
            batch.timer = loop.call_later(0, self._overdue, link, batch, seen, looks + 1)
        else:
            self._lost(link, Unavailable("Redis did not answer in time"))

    def _lost(self, link: Link, error: Unavailable) -> None:
        """A link is of no more use; what was on it fails, or is sent once more where that is safe."""
        batch = self._links.get(link)
        self._forget(link)
        if batch is None:
            return
        if batch.timer is not None:
            batch.timer.cancel()
        if error.dropped:
            self._suspect()
            once_more = [request for request in batch.requests if request.again]
            batch.requests = [request for request in batch.requests if not request.again]
            for request in reversed(once_more):
                request.again = False
                self._queues[batch.timeout].appendleft(request)
        if batch.requests:
            self.node.breaker.failed(error)
            _refuse(batch.requests, error)
            self._refuse_queued(error)
        self._flush()

    def _suspect(self) -> None:
        """The server closed a link: the idle ones are closed too, or soon will be."""
        for link in list(self._idle):
            if not link.fits():
                self._forget(link)

    def _refuse_queued(self, error: Unavailable) -> None:
        """What waited while a batch failed would exceed its time if it now failed likewise."""
        now = asyncio.get_running_loop().time()
        refused = not self._could_send()
        for timeout, queue in self._queues.items():
            while queue and (refused or now - (queue[0].since or now) > 0.7 * timeout):
                _refuse([queue.popleft()], error)

    def _could_send(self) -> bool:
        return self.node.breaker.state == "closed" or bool(self._idle)

    def _forget(self, link: Link) -> None:
        self._links.pop(link, None)
        if link in self._idle:
            self._idle.remove(link)
        loop = self.loop()
        if loop is not None and not loop.is_closed():
            loop.remove_reader(link.sock)
            loop.remove_writer(link.sock)
        link.close()

    # -- opening ---------------------------------------------------------------------------------

    def _want_links(self, loop: asyncio.AbstractEventLoop) -> None:
        waiting = sum(map(len, self._queues.values()))
        wanted = min(min(LINKS, self.node.limit) - len(self._links), 1 + waiting // BATCH)
        while self._opening < wanted:
            self._opening += 1
            thread = threading.Thread(target=self._open, args=(loop,), name="tiercast-connect", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                self._opened(None, Unavailable(f"cannot start a thread to connect: {error}"))
                return
        if self._timer is None and not self._links:
            self._arm(loop)

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        dues = [(queue[0].since or loop.time()) + timeout for timeout, queue in self._queues.items() if queue]
        self._timer = loop.call_at(min(dues), self._starved, 0) if dues else None

    def _starved(self, looks: int) -> None:
        """No link came in time for what waits for the first one; looked at twice more, as in `_overdue`."""
        self._timer = None
        if self._links:
            return
        loop = asyncio.get_running_loop()
        if looks < 2:
            self._timer = loop.call_later(0, self._starved, looks + 1)
            return
        error = Unavailable("Redis did not answer in time")
        refused = False
        for timeout, queue in self._queues.items():
            while queue and queue[0].since and queue[0].since + timeout <= loop.time():
                _refuse([queue.popleft()], error)
                refused = True
        if refused:
            self.node.breaker.failed(error)
        self._arm(loop)

    def _open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Open one link (in a thread of its own) and hand it to the loop."""
        link: Link | None = None
        error: Unavailable | None = None
        try:
            link = self.node.connect(self.node.connect_timeout, self.node.connect_timeout)
            link.sock.setblocking(False)
        except Unavailable as exc:
            error = exc
        except Exception as exc:  # noqa: BLE001  a user's credential provider may raise anything; counted as no answer
            error = Unavailable(f"cannot connect: {exc!r}")
        try:
            loop.call_soon_threadsafe(self._opened, link, error)
        except RuntimeError:  # the loop was closed meanwhile
            if link is not None:
                link.close()

    def _opened(self, link: Link | None, error: Unavailable | None) -> None:
        self._opening -= 1
        if link is not None and self._closed:
            link.close()
        elif link is not None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            asyncio.get_running_loop().add_reader(link.sock, self._readable, link)
            self._links[link] = None
            self._idle.append(link)
            self._flush()
            if self.node.closed and link in self._idle:  # whoever wanted it has gone
                self._forget(link)
        elif error is not None:
            waiting = [request for queue in self._queues.values() for request in queue]
            if waiting:
                self.node.breaker.failed(error)
            if not self._links and not self._opening:
                for queue in self._queues.values():
                    queue.clear()
                _refuse(waiting, error)

    # -- the end ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the links on the loop's own thread; may be called from any."""
        loop = self.loop()
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if loop is None or loop.is_closed():
            self.dispose()
        elif loop is running or not loop.is_running():
            self._close()
        else:
            try:
                loop.call_soon_threadsafe(self._close)
            except RuntimeError:  # it was closed this moment
                self.dispose()

    def _close(self) -> None:
        self._closed = True
        error = Unavailable("the connections were closed", dropped=True)
        for link, batch in list(self._links.items()):
            self._forget(link)
            if batch is not None:
                if batch.timer is not None:
                    batch.timer.cancel()
                _refuse(batch.requests, error)
        for queue in self._queues.values():
            _refuse(queue, error)
            queue.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def dispose(self, *, quiet: bool = False) -> None:
        """Close the sockets of a loop that is gone, or (`quiet`) that stayed in the parent process."""
        self._closed = True
        for link in list(self._links):
            link.close(quiet=quiet)
        self._links.clear()
        self._idle.clear()


def _refuse(requests: Sequence[_Request] | deque[_Request], error: Unavailable) -> None:
    for request in requests:
        if not request.future.done():
            # One each: a raised exception carries the traceback of whoever raised it.
            request.future.set_exception(Unavailable(str(error), dropped=error.dropped))
