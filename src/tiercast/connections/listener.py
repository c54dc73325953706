"""One connection that hears what is published: the bus's ear."""

from __future__ import annotations

import time
from typing import Any, Protocol

from .base import Unavailable
from .link import PIECE, Link
from .resp import ProtocolError, Replies


class Listener(Protocol):
    """Subscribed to a channel from the moment it exists. One thread listens; any may close."""

    def get_message(self, timeout: float) -> bytes | None:
        """Wait for the next message, `timeout` seconds at most, and return what was published; None where none came.

        Raises:
            Unavailable: the connection ended, or `close` was called: make a new listener, and catch up.
        """
        ...

    def close(self) -> None:
        """End it; a thread that waits in `get_message` is woken."""
        ...

    def abandon(self) -> None:
        """Let go of it in a forked child, without a word to the server."""
        ...


class SocketListener:
    """A listener on a socket, whichever version of the protocol the server speaks on it."""

    def __init__(self, link: Link, channel: str, timeout: float, *, sharded: bool) -> None:
        self._link = link
        self._sock = link.sock
        self._closed = False
        self._replies = Replies(pushes=True)
        verb, name = b"smessage" if sharded else b"message", channel.encode()
        self._begin = b"*3\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$" % (len(verb), verb, len(name), name)
        """What a message begins with, in version 2 of the protocol."""
        link.keep_alive()
        try:
            self._subscribe(name, timeout, b"SSUBSCRIBE" if sharded else b"SUBSCRIBE")
        except BaseException:
            self.close()
            raise

    def _subscribe(self, channel: bytes, timeout: float, verb: bytes) -> None:
        payload = b"*2\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(verb), verb, len(channel), channel)
        try:
            self._sock.sendall(payload)
        except OSError as error:
            raise Unavailable(f"the listener's connection broke: {error}", dropped=True) from error
        deadline = time.monotonic() + timeout
        ready = self._replies.ready
        while not ready:
            data = self._receive(deadline - time.monotonic())
            if not data:
                raise Unavailable("Redis did not confirm the subscription in time")
            self._feed(data)
        reply = ready.pop(0)
        if isinstance(reply, Exception):
            raise Unavailable(f"Redis refuses the subscription: {reply}")

    def get_message(self, timeout: float) -> bytes | None:
        deadline = time.monotonic() + timeout
        replies, begin = self._replies, self._begin
        ready, size = replies.ready, len(begin)
        while True:
            while ready:
                reply = ready.pop(0)
                if isinstance(reply, list) and len(reply) == 3 and reply[0] in {b"message", b"smessage"}:
                    message: bytes = reply[2]
                    return message
                if isinstance(reply, list) and reply[0] in {b"sunsubscribe", b"unsubscribe"}:
                    raise Unavailable("Redis ended the subscription: the channel's slot moved", dropped=True)
            data = self._receive(deadline - time.monotonic())
            if not data:
                return None
            # One whole message, as most of what arrives, needs no parser.
            if data.startswith(begin) and replies.idle:
                end = data.find(b"\r\n", size)
                if end > 0 and data[size:end] == b"%d" % (len(data) - end - 4):
                    return data[end + 2 : -2]
            self._feed(data)

    def _receive(self, seconds: float) -> bytes:
        """Return what is there, waiting up to that long; b"" where nothing came."""
        if self._closed:
            raise Unavailable("the listener was closed", dropped=True)
        try:
            self._link.limit(max(seconds, 0.0005))
            data = self._sock.recv(PIECE)
        except TimeoutError:
            return b""
        except OSError as error:
            raise Unavailable(f"the listener's connection broke: {error}", dropped=True) from error
        if not data:
            raise Unavailable("Redis closed the listener's connection", dropped=True)
        return data

    def _feed(self, data: bytes) -> None:
        try:
            self._replies.feed(data)
        except ProtocolError as error:
            raise Unavailable(f"the listener's connection broke: {error}", dropped=True) from error

    def close(self) -> None:
        self._closed = True
        self._link.close()

    def abandon(self) -> None:
        self._closed = True
        self._link.close(quiet=True)


class LocalListener:
    """A listener on a client without a socket (fakeredis)."""

    def __init__(self, client: Any, channel: str) -> None:
        self._closed = False
        self._pubsub = client.pubsub(ignore_subscribe_messages=True)
        self._pubsub.subscribe(channel)
        self._pubsub.get_message(timeout=0)

    def get_message(self, timeout: float) -> bytes | None:
        from redis.exceptions import RedisError

        deadline = time.monotonic() + timeout
        while not self._closed:
            remaining = deadline - time.monotonic()
            try:
                # In short steps, so that close() is noticed: there is no socket to shut down.
                message = self._pubsub.get_message(timeout=max(min(remaining, 0.05), 0))
            except (RedisError, OSError, AttributeError) as error:
                raise Unavailable(f"the listener's connection broke: {error}", dropped=True) from error
            if message is not None and message["type"] in {"message", "smessage"}:
                data = message["data"]
                return data if isinstance(data, bytes) else str(data).encode()
            if remaining <= 0:
                return None
        raise Unavailable("the listener was closed", dropped=True)

    def close(self) -> None:
        self._closed = True

    def abandon(self) -> None:
        self._closed = True
