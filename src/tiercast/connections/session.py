"""A connection of one's own, for what a server keeps with it from one request to the next (WATCH)."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any

from .base import Unavailable
from .link import PIECE, Link, unavailable
from .resp import ProtocolError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from .node import Node


class Session:
    """One connection to one server, outside the pool, for threads and for tasks of any loop.

    Whoever has taken it has it alone, and nobody waits for it. What fails on it
    closes it; its state is lost with it. Nothing is sent again.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._lock = threading.Lock()
        self._link: Link | None = None

    def take(self) -> threading.Lock | None:
        """Take it; answers what to `release` it with, None where somebody else has it."""
        lock = self._lock
        return lock if lock.acquire(blocking=False) else None

    def release(self, taken: threading.Lock) -> None:
        """Give it back, from any thread; in a child that was forked meanwhile, what it took is its parent's."""
        if self._node.closed:
            self.drop()
        taken.release()

    def usable(self) -> bool:
        """Whether it is open, nothing has made it suspect since, and the server answers as far as is known."""
        link = self._link
        return (
            link is not None
            and link.generation == self._node.generation
            and not self._node.closed
            and self._node.breaker.state == "closed"
        )

    def connect(self, timeout: float) -> Link:
        """Return a connection for `use` (blocking), within `timeout` seconds.

        Raises:
            Unavailable: no connection.
        """
        node = self._node
        if node.closed or node.breaker.state != "closed":
            raise Unavailable("no connection is opened now")
        try:
            link = node.connect(min(timeout, node.connect_timeout), timeout)
        except Unavailable:
            raise
        except Exception as error:  # a user's credential provider may raise anything
            raise Unavailable(f"cannot connect: {error!r}") from error
        link.keep_alive()
        return link

    def use(self, link: Link) -> None:
        """Use a connection from now on. Not done by `connect`: whoever asked for it may have gone before it was open."""
        self.drop()
        self._link = link

    def tell(self, payload: bytes) -> None:
        """Send, and leave the replies to the next `ask`.

        Raises:
            Unavailable: it was not sent as it should.
        """
        link = self._link
        try:
            if link is None or link.sock.send(payload) != len(payload):
                raise OSError("the connection takes no more")
        except OSError as error:
            self.drop()
            raise unavailable(error) from error

    def ask(self, payload: bytes, count: int, deadline: float) -> Ask:
        """Return the request that sends (nothing, where `payload` is empty) and answers the next `count` replies.

        `deadline` is by `time.monotonic`.

        It raises Unavailable as requests to a pool do, and answers None where this loop cannot use the connection.
        """
        return Ask(self, payload, count, deadline)

    def drop(self) -> None:
        """Close the connection."""
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def close(self) -> None:
        """Close the connection, also from a thread that has not taken the session: who has it closes what was ended here.

        A loop that waits for a socket would never hear of its end, and might take the next one of its number for it.
        """
        link, taken = self._link, self.take()
        if taken is not None:
            self.drop()
            self.release(taken)
        elif link is not None:
            link.end()

    def forked(self) -> None:
        """Forget, in a forked child, the parent's connection, which its node closes."""
        self._lock = threading.Lock()
        self._link = None

    async def _exchange_async(self, payload: bytes, count: int, deadline: float) -> list[Any] | None:
        loop, link = asyncio.get_running_loop(), self._open_link()
        if isinstance(link.sock, ssl.SSLSocket) or type(loop).add_reader is asyncio.AbstractEventLoop.add_reader:
            return None
        link.free()
        sock, replies = link.sock, link.replies
        try:
            while payload:
                try:
                    payload = payload[sock.send(payload) :]
                except BlockingIOError:
                    await _ready(loop.add_writer, loop.remove_writer, sock, deadline)
            while len(replies.ready) < count:
                try:
                    data = sock.recv(PIECE)
                except BlockingIOError:
                    await _ready(loop.add_reader, loop.remove_reader, sock, deadline)
                    continue
                if not data:
                    raise Unavailable("Redis closed the connection", dropped=True)
                replies.feed(data)
        except (OSError, ProtocolError) as error:
            raise unavailable(error) from error
        return link.take(count)

    def _open_link(self) -> Link:
        link = self._link
        if link is None:
            raise Unavailable("the connection was closed", dropped=True)
        return link


async def _ready(
    add: Callable[..., object], remove: Callable[[socket.socket], object], sock: socket.socket, deadline: float
) -> None:
    """Wait until the socket may be ready, at most to the deadline (`time.monotonic`).

    Whoever waited tries once more then: a loop that was kept busy meanwhile finds what had come in time.

    Raises:
        TimeoutError: the deadline had passed before.
    """
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    loop = asyncio.get_running_loop()
    waiting = loop.create_future()
    timer = loop.call_later(remaining, _wake, waiting)
    add(sock, _wake, waiting)
    try:
        await waiting
    finally:
        remove(sock)
        timer.cancel()


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


class Ask:
    """See `Session.ask`."""

    __slots__ = ("_count", "_deadline", "_payload", "_session")

    def __init__(self, session: Session, payload: bytes, count: int, deadline: float) -> None:
        self._session = session
        self._payload = payload
        self._count = count
        self._deadline = deadline

    def run(self) -> list[Any] | None:
        session = self._session
        try:
            replies = session._open_link().exchange(self._payload, self._count, self._deadline)
        except BaseException as error:
            session.drop()
            self._note(error)
            raise
        session._node.breaker.succeeded()
        return replies

    async def run_async(self) -> list[Any] | None:
        session = self._session
        try:
            replies = await session._exchange_async(self._payload, self._count, self._deadline)
        except BaseException as error:  # a task that was cancelled too: the answer may still come
            session.drop()
            self._note(error)
            raise
        session._node.breaker.succeeded()
        return replies

    def _note(self, error: BaseException) -> None:
        if isinstance(error, Unavailable) and not error.dropped:
            self._session._node.breaker.failed(error)
