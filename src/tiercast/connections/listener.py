"""One connection that hears what is published: the bus's ear."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from .base import Unavailable
from .link import PIECE, Link
from .resp import ProtocolError, Replies


class Message(NamedTuple):
    """What was published."""

    channel: str
    data: bytes


class Listener(Protocol):
    """Subscribed to some channels from the moment it exists. One thread listens; any may close."""

    def get_message(self, timeout: float) -> Message | None:
        """Wait for the next message, `timeout` seconds at most; None where none came.

        Raises:
            Unavailable: the connection ended, or `close` was called: make a new listener, and catch up.
        """
        ...

    def ping(self) -> None:
        """Ask the server for a sign of life; it does not come back as a message but makes a dead connection fail."""
        ...

    def close(self) -> None:
        """End it; a thread that waits in `get_message` is woken."""
        ...

    def abandon(self) -> None:
        """Let go of it in a forked child, without a word to the server."""
        ...


class SocketListener:
    """A listener on a socket, whichever version of the protocol the server speaks on it."""

    def __init__(self, link: Link, channels: Sequence[str], timeout: float, *, sharded: bool) -> None:
        self._link = link
        self._sock = link.sock
        self._closed = False
        self._replies = Replies(pushes=True)
        self._channel = channels[0]
        verb, name = b"smessage" if sharded else b"message", channels[0].encode()
        self._begin = b"*3\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$" % (len(verb), verb, len(name), name)
        """What a message on the first channel begins with, in version 2 of the protocol."""
        link.keep_alive()
        try:
            self._subscribe(
                [channel.encode() for channel in channels], timeout, b"SSUBSCRIBE" if sharded else b"SUBSCRIBE"
            )
        except BaseException:
            self.close()
            raise

    def _subscribe(self, channels: list[bytes], timeout: float, verb: bytes) -> None:
        self._send(verb, *channels)
        deadline = time.monotonic() + timeout
        heard: set[bytes] = set()
        ready = self._replies.ready
        while not heard.issuperset(channels):
            # A message may come between two confirmations; it stays for get_message.
            for position, reply in enumerate(ready):
                if isinstance(reply, Exception):
                    raise Unavailable(f"Redis refuses the subscription: {reply}")
                if reply[0] == verb.lower():
                    heard.add(reply[1])
                    del ready[position]
                    break
            else:
                data = self._receive(deadline - time.monotonic())
                if not data:
                    raise Unavailable("Redis did not confirm the subscription in time")
                self._feed(data)

    def get_message(self, timeout: float) -> Message | None:
        deadline = time.monotonic() + timeout
        ready = self._replies.ready
        while True:
            while ready:
                reply = ready.pop(0)
                if isinstance(reply, list) and len(reply) == 3 and reply[0] in {b"message", b"smessage"}:
                    return Message(reply[1].decode("utf-8", "replace"), reply[2])
                if isinstance(reply, list) and reply[0] in {b"sunsubscribe", b"unsubscribe"}:
                    raise Unavailable("Redis ended the subscription: the channel's slot moved", dropped=True)
            data = self._receive(deadline - time.monotonic())
            if not data:
                return None
            if (message := self._sole(data)) is not None:
                return message
            self._feed(data)

    def _sole(self, data: bytes) -> Message | None:
        """Return the one whole message on the first channel that this is, as most of what arrives: no parser is needed."""
        begin = self._begin
        if not data.startswith(begin) or not self._replies.idle:
            return None
        end = data.find(b"\r\n", len(begin))
        if end < 0 or data[len(begin) : end] != b"%d" % (len(data) - end - 4):
            return None
        return Message(self._channel, data[end + 2 : -2])

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

    def ping(self) -> None:
        self._send(b"PING")

    def _send(self, *parts: bytes) -> None:
        payload = b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
        try:
            self._sock.sendall(payload)
        except OSError as error:
            raise Unavailable(f"the listener's connection broke: {error}", dropped=True) from error

    def close(self) -> None:
        self._closed = True
        self._link.close()

    def abandon(self) -> None:
        self._closed = True
        self._link.close(quiet=True)


class LocalListener:
    """A listener on a client without a socket (fakeredis)."""

    def __init__(self, client: Any, channels: Sequence[str]) -> None:
        self._closed = False
        self._pubsub = client.pubsub(ignore_subscribe_messages=True)
        self._pubsub.subscribe(*channels)
        self._pubsub.get_message(timeout=0)

    def get_message(self, timeout: float) -> Message | None:
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
                channel = message["channel"]
                data = message["data"]
                return Message(
                    channel.decode() if isinstance(channel, bytes) else channel,
                    data if isinstance(data, bytes) else str(data).encode(),
                )
            if remaining <= 0:
                return None
        raise Unavailable("the listener was closed", dropped=True)

    def ping(self) -> None:
        """There is nothing between it and its server."""

    def close(self) -> None:
        self._closed = True

    def abandon(self) -> None:
        self._closed = True
