"""A client that has no socket: fakeredis in users' tests. The same calls as `Node`, on the client's own connections."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

from .base import Command, Unavailable
from .breaker import Breaker
from .target import Target


class LocalNode:
    """Runs commands on one connection of the client's server, under a lock, in loops too: it never waits."""

    def __init__(self, target: Target, breaker: Breaker) -> None:
        self.target = target
        self.breaker = breaker
        self.generation = 0
        self.opened = 0
        self._lock = threading.Lock()
        self._connection: Any = None
        # fakeredis makes the server of a client that names none with the client's first connection; were those of two
        # threads the first, they could get two servers. Making one opens nothing.
        self._server = target.client.connection_pool.make_connection()._server

    def client(self) -> Any:
        """A sync client of the same server."""
        given = self.target.client
        pool = given.connection_pool
        if "asyncio" not in pool.connection_class.__mro__[-2].__module__ and hasattr(pool, "_fork_lock"):
            return given
        import fakeredis

        return fakeredis.FakeRedis(server=self._server, db=pool.connection_kwargs.get("db", 0))

    def run(self, commands: Sequence[Command], timeout: float, *, again: bool) -> list[Any]:
        """See `Node.run`."""
        from redis.exceptions import ConnectionError as RedisConnectionError
        from redis.exceptions import RedisError, ResponseError

        if not self.breaker.admit():
            raise Unavailable(self.breaker.refusal)
        replies: list[Any] = []
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self.client().connection_pool.make_connection()
                    self.opened += 1
                for command in commands:
                    self._connection.send_command(*command)
                    try:
                        replies.append(_flat(self._connection.read_response(disable_decoding=True)))
                    except ResponseError as error:
                        replies.append(_with_code(error))
            except (RedisConnectionError, RedisError, OSError) as error:
                self._connection = None
                self.breaker.failed(error)
                raise Unavailable(str(error), dropped=True) from error
        self.breaker.succeeded()
        return replies

    def submit(self, commands: Sequence[Command], timeout: float, *, again: bool) -> asyncio.Future[list[Any]]:
        """See `Node.submit`."""
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        future.set_result(self.run(commands, timeout, again=again))
        return future

    def suspect(self) -> None:
        """Use a new connection from now on."""
        self._connection = None

    close = suspect

    def after_fork(self) -> None:
        """The child has a copy of the server: nothing is shared."""
        self._lock = threading.Lock()
        self._connection = None


def _flat(reply: Any) -> Any:
    """Return a reply in the shape of protocol version 2."""
    if isinstance(reply, dict):
        return [_flat(part) for pair in reply.items() for part in pair]
    if isinstance(reply, (list, tuple, set)):
        return [_flat(part) for part in reply]
    if isinstance(reply, bool):
        return int(reply)
    if isinstance(reply, str):
        return reply.encode()
    return repr(reply).encode() if isinstance(reply, float) else reply


def _with_code(error: Exception) -> Exception:
    """Give an error its code back, which redis-py takes off the text of the errors that it knows; say what is missing."""
    from redis.exceptions import NoScriptError, ResponseError

    if "unknown command 'eval" in str(error):
        return ResponseError("fakeredis runs scripts only with its extra: pip install 'fakeredis[lua]'")
    return ResponseError(f"NOSCRIPT {error}") if isinstance(error, NoScriptError) else error
