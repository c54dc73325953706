"""The ear of a process on its fleet's channel in Redis."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Final

from ..connections import Listener, Unavailable
from ..plans import drive
from .log import LogUnavailable

if TYPE_CHECKING:
    from ..connections import RedisConnections

CANARY: Final = b'{"v":1,"canary":"'
"""What a canary begins with. It is a message without a position: whoever reads the channel passes over it."""
SILENCE: Final = 10.0
"""Seconds without any message after which the bus is asked to prove that it is heard."""
PATIENCE: Final = 3.0
"""Seconds within which one's own canary must be heard."""
SHARDED_FROM: Final = 7
"""The major version from which a Cluster can keep a channel on the nodes of its slot."""


class RedisBus:
    """One subscription to the bus; for one thread. Any failure ends it: open another, and catch up from the log.

    A connection may be open and deaf (half-open, or its subscription lost without a word). So
    a bus hears itself before it counts as open, and again whenever all has been silent.
    """

    def __init__(self, connections: RedisConnections, channel: str, listener: Listener, *, sharded: bool) -> None:
        self._connections = connections
        self._channel = channel
        self._listener = listener
        self._publish = "SPUBLISH" if sharded else "PUBLISH"
        self._kept: list[bytes] = []
        self._heard_at = time.monotonic()
        self._nonce = b""
        self._asked_at = 0.0

    @classmethod
    def open(cls, connections: RedisConnections, channel: str, patience: float = PATIENCE) -> RedisBus:
        """Subscribe, and return once the process has heard itself (blocking).

        Raises:
            LogUnavailable: no connection, a refusal, or silence for `patience` seconds.
        """
        try:
            sharded = connections.is_cluster and drive(connections.server_info(0)).release >= (SHARDED_FROM,)
            bus = cls(connections, channel, connections.listen(channel, sharded=sharded), sharded=sharded)
        except Unavailable as exc:
            raise LogUnavailable(f"cannot subscribe to {channel}: {exc}") from exc
        try:
            bus.sing()
            deadline = time.monotonic() + patience
            while bus._nonce:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise LogUnavailable(f"subscribed to {channel}, but a message to oneself was not heard")
                bus._kept += bus._hear(left)
        except BaseException:
            bus.close()
            raise
        return bus

    def poll(self, timeout: float) -> list[bytes]:
        """Wait for the next messages, `timeout` seconds at most; returns them as they were published.

        Raises:
            LogUnavailable: the subscription is over.
        """
        if self._kept:
            kept, self._kept = self._kept, []
            return kept
        messages = self._hear(timeout)
        if not messages:
            self._doubt(time.monotonic())
        return messages

    def sing(self) -> None:
        """Publish a message to oneself; it moves no position, and `poll` does not return it.

        Raises:
            LogUnavailable: it could not be published.
        """
        nonce = secrets.token_hex(8).encode()
        self._nonce, self._asked_at = nonce, time.monotonic()
        try:
            (reply,) = self._connections.execute([(self._publish, self._channel, CANARY + nonce + b'"}')])
        except Unavailable as exc:
            raise LogUnavailable(f"cannot publish to {self._channel}: {exc}") from exc
        if isinstance(reply, Exception):
            raise LogUnavailable(f"cannot publish to {self._channel}: {reply}") from reply

    def close(self) -> None:
        """End the subscription, from any thread."""
        self._listener.close()

    def _hear(self, timeout: float) -> list[bytes]:
        try:
            message = self._listener.get_message(timeout)
        except Unavailable as exc:
            raise LogUnavailable(f"the subscription to {self._channel} ended: {exc}") from exc
        if message is None:
            return []
        self._heard_at = time.monotonic()
        if not message.startswith(CANARY):
            return [message]
        if self._nonce and self._nonce in message:
            self._nonce = b""
        return []

    def _doubt(self, now: float) -> None:
        """Ask for a sign after a silence, and give up where none came."""
        if self._nonce:
            if now - self._asked_at > PATIENCE:
                raise LogUnavailable(f"subscribed to {self._channel}, but a message to oneself was not heard")
        elif now - self._heard_at > SILENCE:
            self.sing()
