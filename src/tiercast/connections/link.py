"""One open connection and what a thread does with it."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from typing import Any, Final

from .base import Unavailable
from .resp import ProtocolError, Replies

PIECE: Final = 65536
"""Bytes asked of a socket at once; more while it fills them, for long values."""
LARGEST_PIECE: Final = 1 << 20


def unavailable(error: OSError | ProtocolError) -> Unavailable:
    """Say what a failure of a connection means."""
    if isinstance(error, TimeoutError):
        return Unavailable("Redis did not answer in time")
    if isinstance(error, OSError):
        return Unavailable(f"the connection to Redis broke: {error}", dropped=True)
    return Unavailable(str(error))


class Link:
    """A connected socket and the replies that arrive on it. For one thread, or one loop, at a time."""

    __slots__ = ("__weakref__", "_timeout", "generation", "replies", "sock", "used")

    def __init__(self, sock: socket.socket, generation: int = 0) -> None:
        self.sock = sock
        self.replies = Replies()
        self.generation = generation
        self.used = time.monotonic()
        self._timeout: float | None = None

    def exchange(self, payload: bytes, count: int, deadline: float) -> list[Any]:
        """Send `payload`, unless it is empty, and wait for `count` replies until `deadline` (`time.monotonic`).

        Raises:
            Unavailable: the link is of no more use and must be closed.
        """
        sock, replies = self.sock, self.replies
        remaining = deadline - time.monotonic()
        try:
            self.limit(remaining)
            if payload:
                sock.sendall(payload)
            piece = PIECE
            while True:
                data = sock.recv(piece)
                if not data:
                    raise Unavailable("Redis closed the connection", dropped=True)
                replies.feed(data)
                if len(replies.ready) >= count:
                    break
                piece = LARGEST_PIECE if len(data) == piece else PIECE
                self.limit(deadline - time.monotonic())
        except (OSError, ProtocolError) as error:
            raise unavailable(error) from error
        return self.take(count)

    def take(self, count: int) -> list[Any]:
        """Remove and return `count` replies that have arrived."""
        ready = self.replies.ready
        answers = ready[:count]
        del ready[:count]
        return answers

    def limit(self, seconds: float) -> None:
        """Let each use of the socket take so many seconds, give or take 4 %.

        Raises:
            TimeoutError: that is none.
        """
        # One system call less for each exchange while the limit stays about the same.
        if seconds <= 0:
            raise TimeoutError
        known = self._timeout
        if known is None or seconds < known * 0.96 or seconds > known * 1.04:
            self.sock.settimeout(seconds)
            self._timeout = seconds

    def free(self) -> None:
        """Have no use of the socket wait."""
        self.sock.settimeout(0)
        self._timeout = None

    def fits(self) -> bool:
        """Say whether an idle link is still open with nothing unread: a server that went away has closed it."""
        if not self.replies.idle:
            return False
        try:
            if hasattr(select, "poll"):
                poll = select.poll()
                poll.register(self.sock, select.POLLIN)
                return not poll.poll(0)
            return not select.select([self.sock], [], [], 0)[0]
        except (OSError, ValueError):
            return False

    def __del__(self) -> None:
        # Dropped with its owner: the descriptor is given back without a warning.
        self.sock.close()

    def keep_alive(self) -> None:
        """Have the kernel notice within about half a minute that the other side is gone, and others that this one is not."""
        if self.sock.family == getattr(socket, "AF_UNIX", None):
            return
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
                if hasattr(socket, name):
                    self.sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def end(self) -> None:
        """End the connection under whoever uses it, who then closes it."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def close(self, *, quiet: bool = False) -> None:
        """Close it; `quiet` after a fork, where the parent goes on using the same connection."""
        if not quiet:
            self.end()  # close() alone would leave it open while another thread waits in recv()
        with contextlib.suppress(OSError):
            self.sock.close()
