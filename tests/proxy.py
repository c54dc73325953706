"""A TCP proxy of threads and real sockets whose wire can be made faulty while connections are open."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit


class TcpProxy:
    """Stands in front of the server of `url`; reach it by `url` of its own. Thread-safe.

    It begins by passing everything. `blackhole` keeps what is under way and forwards nothing until
    `pass_through`, as a network that drops packets does; connections are still accepted. (A real one would leave
    connecting unanswered as well: `refuse` and `reset` are the loud faults.)
    """

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._changed = threading.Condition()
        self._mode = "pass"
        self._delay = 0.0
        self._cut_after: int | None = None
        self._closed = False
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None
        self.port = 0
        self.accepted = 0
        """How many connections have been accepted so far."""

    @property
    def url(self) -> str:
        credentials, at, _ = self._target.netloc.rpartition("@")
        return urlunsplit(self._target._replace(netloc=f"{credentials}{at}127.0.0.1:{self.port}"))

    def start(self) -> Self:
        self._listen()
        return self

    # Faults

    def pass_through(self) -> None:
        """Be a good wire again; what a blackhole held back arrives now."""
        with self._changed:
            self._mode, self._delay, self._cut_after = "pass", 0.0, None
            self._changed.notify_all()
        if self._listener is None:
            self._listen()

    def blackhole(self) -> None:
        """Forward nothing in either direction, and close nothing."""
        with self._changed:
            self._mode = "blackhole"

    def delay(self, seconds: float) -> None:
        """Hold each piece, in each direction, for so long."""
        self._delay = seconds

    def cut_mid_message(self, after: int = 1) -> None:
        """Let `after` bytes of the next reply pass, then reset that connection. Once."""
        self._cut_after = after

    def reset(self) -> None:
        """Reset all connections that are open now (the peers see ECONNRESET); new ones are taken."""
        with self._changed:
            pairs = list(self._pairs)
        for pair in pairs:
            self._drop(pair, abruptly=True)

    def refuse(self) -> None:
        """Take no new connections until `pass_through`; those that are open stay."""
        listener, self._listener = self._listener, None
        if listener is not None:
            _shut(listener)

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._pairs)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self.refuse()
        self.reset()
        for thread in self._threads:
            thread.join(10)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # How it does it

    def _listen(self) -> None:
        listener = socket.create_server(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        self._listener = listener
        self._spawn(self._accept, listener)

    def _spawn(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, name="tcp-proxy", daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection((self._target.hostname or "127.0.0.1", self._target.port or 6379), 5)
            except OSError:
                _shut(client, abruptly=True)
                continue
            server.settimeout(None)
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = (client, server)
            with self._changed:
                self.accepted += 1
                self._pairs.add(pair)
                closed = self._closed
            if closed:
                self._drop(pair, abruptly=True)
                return
            self._spawn(self._pump, pair, client, server, False)
            self._spawn(self._pump, pair, server, client, True)

    def _pump(
        self, pair: tuple[socket.socket, socket.socket], source: socket.socket, sink: socket.socket, replies: bool
    ) -> None:
        def dropped() -> bool:
            return self._closed or pair not in self._pairs

        cut = None
        with contextlib.suppress(OSError, ValueError):  # ValueError: poll() of a socket that was closed
            while cut is None and (data := source.recv(65536)):
                with self._changed:
                    if self._delay:
                        self._changed.wait_for(dropped, self._delay)
                    self._changed.wait_for(lambda: self._mode == "pass" or dropped())
                    if replies:
                        cut, self._cut_after = self._cut_after, None
                rest = memoryview(data)[:cut]
                while rest and not dropped():
                    # Never blocked in send(): a socket whose peer does not read could not be reset.
                    poll = select.poll()
                    poll.register(sink, select.POLLOUT)
                    if poll.poll(100):
                        rest = rest[sink.send(rest, socket.MSG_DONTWAIT) :]
        self._drop(pair, abruptly=cut is not None)

    def _drop(self, pair: tuple[socket.socket, socket.socket], *, abruptly: bool) -> None:
        with self._changed:
            if pair not in self._pairs:
                return
            self._pairs.discard(pair)
            self._changed.notify_all()
        for end in pair:
            _shut(end, abruptly=abruptly)


def _shut(end: socket.socket, *, abruptly: bool = False) -> None:
    """Close a socket under the thread that waits in it; `abruptly` sends RST instead of FIN."""
    with contextlib.suppress(OSError):
        if abruptly:
            # RST goes out when the thread in recv() has let go; shutting the sending side would send FIN before it.
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.shutdown(socket.SHUT_RD if abruptly else socket.SHUT_RDWR)
    end.close()
