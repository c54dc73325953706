"""`RedisConnections`: everything that tiercast sends to Redis goes through one of these."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..clock import Clock, SystemClock
from ..plans import Plan, drive, drive_async
from .base import NOT_NOW, Command, Script, Unavailable, error_code, is_read
from .breaker import Breaker
from .cluster import Cluster
from .listener import Listener, LocalListener, SocketListener
from .local import LocalNode
from .node import Node
from .server import ServerInfo
from .session import Session
from .target import Target, from_client, from_url

if TYPE_CHECKING:
    from ..config.settings import DistributedCacheConfig


class Commands:
    """A request: some Redis commands in one round trip; answers their replies in order.

    A reply is what version 2 of the protocol makes it (bytes, int, None, list); an error reply is a
    value, a `redis.exceptions.ResponseError` whose text begins with the error's code. A script that
    the server does not know is sent whole, within the same request.

    Raises:
        Unavailable: no connection, no answer in time, breaker open, or an answer that says "not now".
    """

    __slots__ = ("_again", "_commands", "_connections", "_node", "_timeout")

    def __init__(
        self,
        connections: RedisConnections,
        commands: Sequence[Command],
        timeout: float | None = None,
        *,
        retry: bool | None = None,
        node: int | None = None,
    ) -> None:
        if timeout is None or retry is None:
            reads = is_read(commands)
            timeout = (connections.read_timeout if reads else connections.write_timeout) if timeout is None else timeout
            retry = reads if retry is None else retry
        self._connections = connections
        self._commands = commands
        self._timeout = timeout
        self._again = retry
        self._node = node

    def run(self) -> list[Any]:
        single = self._connections.single
        if single is None:
            return drive(self._routed())
        replies = single.run(self._commands, self._timeout, again=self._again)
        return drive(self._repaired(replies)) if _troubled(replies) else replies

    async def run_async(self) -> list[Any]:
        single = self._connections.single
        if single is None:
            return await drive_async(self._routed())
        replies = await single.submit(self._commands, self._timeout, again=self._again)
        return await drive_async(self._repaired(replies)) if _troubled(replies) else replies

    def _send(self, commands: Sequence[Command]) -> Plan[list[Any]]:
        cluster = self._connections.cluster
        if cluster is not None:
            return cluster.run(commands, self._timeout, again=self._again, master=self._node)
        return _ask(Commands(self._connections, commands, self._timeout, retry=self._again))

    def _routed(self) -> Plan[list[Any]]:
        replies = yield from self._send(self._commands)
        if _troubled(replies):
            replies = yield from self._repaired(replies)
        return replies

    def _repaired(self, replies: list[Any]) -> Plan[list[Any]]:
        """Send unknown scripts whole, and raise where an answer says that this server is not the one to ask now."""
        unknown: list[int] = []
        wholes: list[Command] = []
        for index, reply in enumerate(replies):
            code = error_code(reply)
            if code == "NOSCRIPT" and (whole := Script.whole(self._commands[index])) is not None:
                unknown.append(index)
                wholes.append(whole)
            elif code in NOT_NOW:
                if code in {"READONLY", "MASTERDOWN"}:
                    # A master that became a replica: whoever opens a connection anew finds its successor.
                    self._connections.suspect()
                raise Unavailable(str(reply))
        if wholes:
            for index, reply in zip(unknown, (yield from self._send(wholes)), strict=True):
                replies[index] = reply
        return replies


def _ask(request: Commands) -> Plan[list[Any]]:
    replies: list[Any] = yield request
    return replies


def _troubled(replies: list[Any]) -> bool:
    for reply in replies:  # a plain loop: it runs for every GET
        if isinstance(reply, Exception):
            return True
    return False


class RedisConnections:
    """The process's connections to one Redis: single server, Sentinel, or Cluster.

    For any number of threads, event loops and forked children: threads share a pool, each loop has
    links of its own, a child inherits none. The constructor opens nothing.

    Args:
        settings: where Redis is, its timeouts and limits.
        clock: for the circuit breaker; sockets are timed by the machine's own monotonic clock.

    Raises:
        ConfigError: the connection string or client makes no sense.
    """

    def __init__(self, settings: DistributedCacheConfig, clock: Clock | None = None) -> None:
        self._settings = settings
        self._clock = clock or SystemClock()
        self.read_timeout = float(settings.read_timeout)
        self.write_timeout = float(settings.write_timeout)
        self._listeners: weakref.WeakSet[Listener] = weakref.WeakSet()
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        if settings.client is not None:
            self.target = from_client(settings.client)
        elif settings.connection_string:
            self.target = from_url(settings.connection_string)
        else:
            self.target = from_url("redis://localhost:6379/0")
        self.lives: frozenset[str] = frozenset()
        """Every life of a server that a connection led to: who compares it after a reply sees that the server was restarted."""
        self.single: Node | LocalNode | None = None
        self.cluster: Cluster | None = None
        if self.target.kind == "cluster":
            self.cluster = Cluster(self.target, self._make_node)
        elif self.target.kind == "client":
            self.single = LocalNode(self.target, self._make_breaker(self.target))
        else:
            self.single = self._make_node(self.target)
        _every.add(self)

    def _make_breaker(self, target: Target) -> Breaker:
        settings = self._settings
        return Breaker(settings.breaker_failures, float(settings.breaker_reset), self._clock, target.name)

    def _make_node(self, target: Target) -> Node:
        settings = self._settings
        return Node(
            target,
            settings.max_connections,
            float(settings.connect_timeout),
            self._make_breaker(target),
            met=self._met,
            fuse=self.target.kind != "cluster",
        )

    def _met(self, life: str) -> None:
        with _meeting:
            if life not in self.lives:
                self.lives |= {life}

    @property
    def is_cluster(self) -> bool:
        """Whether keys are spread over several servers."""
        return self.cluster is not None

    @property
    def is_local(self) -> bool:
        """Whether the server is an object of this process (fakeredis): it has one life, and no INFO to tell of it."""
        return self.target.kind == "client"

    @property
    def name(self) -> str:
        """What messages call the server; holds no password."""
        return self.target.name

    @property
    def breakers(self) -> list[Breaker]:
        """The circuit breakers, one a server."""
        return [node.breaker for node in self._nodes()]

    @property
    def breaker(self) -> Breaker:
        """The breaker of the single server; in a Cluster one that is not closed, if there is one."""
        breakers = self.breakers or [self._make_breaker(self.target)]
        return next((breaker for breaker in breakers if breaker.state != "closed"), breakers[0])

    def _nodes(self) -> Sequence[Node | LocalNode]:
        if self.cluster is not None:
            return self.cluster.nodes
        return [self.single] if self.single is not None else []

    # -- asking ----------------------------------------------------------------------------------

    def commands(
        self, *commands: Command, timeout: float | None = None, retry: bool | None = None, node: int | None = None
    ) -> Commands:
        """Return the request that sends commands.

        Args:
            commands: one or more; each names one key at most.
            timeout: seconds for all of it; None: `read_timeout` where all only read, else `write_timeout`.
            retry: whether they may be sent again on a new connection when it is not known whether
                they were executed; None: where all only read.
            node: which of a Cluster's masters gets the commands without a key (`master_count`).
        """
        return Commands(self, commands, timeout, retry=retry, node=node)

    def gets(self, names: Sequence[str]) -> Commands:
        """Return the request that reads the values of some keys."""
        return Commands(self, [("GET", name) for name in names], self.read_timeout, retry=True)

    def execute(self, commands: Sequence[Command], timeout: float | None = None) -> list[Any]:
        """Send commands from this thread; see `Commands`."""
        return Commands(self, commands, timeout).run()

    async def execute_async(self, commands: Sequence[Command], timeout: float | None = None) -> list[Any]:
        """Send commands from this task; see `Commands`."""
        return await Commands(self, commands, timeout).run_async()

    def eval(self, script: Script, keys: Sequence[str], *args: str | bytes | float) -> Commands:
        """Return the request that runs one script; it is not repeated where its outcome is unknown."""
        return Commands(self, (script.call(keys, *args),))

    def script(self, text: str) -> Script:
        """Return a script for `eval`, or for `script.call` among other commands."""
        return Script(text)

    def master_count(self) -> Plan[int]:
        """Answer how many servers hold keys."""
        if self.cluster is None:
            return 1
        if not self.cluster.masters():
            yield from self.cluster.refresh(self.read_timeout)
        if not self.cluster.masters():
            raise Unavailable("no node of the Cluster answers")
        return len(self.cluster.masters())

    def server_info(self, node: int | None = None) -> Plan[ServerInfo]:
        """Answer who the server is; what it refuses to say is "". Raises Unavailable."""
        sections = [("INFO", section) for section in ("server", "replication", "memory")]
        replies = yield self.commands(*sections, node=node)
        return ServerInfo.read(*replies)

    def listen(self, channel: str, *, sharded: bool = False) -> Listener:
        """Connect and subscribe, on a connection of its own (blocking).

        Args:
            channel: what to hear.
            sharded: use SSUBSCRIBE at the node of the channel's slot (a Cluster of Redis 7).

        Raises:
            Unavailable: no connection, or the server refuses the subscription.
        """
        single = self.single
        if isinstance(single, LocalNode):
            return LocalListener(single.client(), channel)
        if self.cluster is not None:
            drive(self.cluster.refresh(self.read_timeout))
            masters = self.cluster.masters()
            single = (self.cluster.node_for(channel) if sharded else None) or next(iter(masters), None)
            if single is None:
                raise Unavailable("no node of the Cluster answers")
        if single is None:
            raise Unavailable("nowhere to listen")
        timeout = float(self._settings.connect_timeout)
        listener = SocketListener(single.connect(timeout, timeout), channel, timeout, sharded=sharded)
        self._listeners.add(listener)
        single.breaker.hint()
        return listener

    def session(self) -> Session | None:
        """Return a connection of one's own, not yet open; None where there is not one server with sockets."""
        if not isinstance(self.single, Node):
            return None
        session = Session(self.single)
        self._sessions.add(session)
        return session

    # -- the end ---------------------------------------------------------------------------------

    def suspect(self) -> None:
        """Use no connection again that is open now."""
        for node in self._nodes():
            node.suspect()

    def close(self) -> None:
        """Close all connections, from any thread; those of running loops are closed by their loops. Used again, it reconnects."""
        for listener in list(self._listeners):
            listener.close()
        if self.cluster is not None:
            self.cluster.close()
        for node in self._nodes():
            node.close()
        for session in list(self._sessions):
            session.close()

    async def close_async(self) -> None:
        """The twin of `close`; those of this loop are closed when it returns."""
        self.close()
        await asyncio.sleep(0)

    def _after_fork(self) -> None:
        for listener in list(self._listeners):
            listener.abandon()
        self._listeners = weakref.WeakSet()
        for node in self._nodes():
            node.after_fork()
        for session in list(self._sessions):
            session.forked()


_meeting = threading.Lock()
_every: weakref.WeakSet[RedisConnections] = weakref.WeakSet()


def _after_fork() -> None:
    global _meeting  # noqa: PLW0603  the parent's may be held for ever
    _meeting = threading.Lock()
    for connections in list(_every):
        connections._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
