"""A Redis Cluster: which node holds which key, followed through resharding and failover.

The routing is a plan over requests to single nodes, so that threads and tasks share it. One key at
most a command; a command without a key goes to any master, or to the one that is named.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from ..plans import Plan
from .base import Command, Unavailable, error_code
from .node import Node
from .target import Target

SLOTS: Final = 16_384
KEYLESS: Final = frozenset("PING INFO TIME SCAN DBSIZE ROLE CONFIG CLUSTER SCRIPT PUBLISH CLIENT WAIT FLUSHALL".split())
REDIRECTS: Final = 4
"""How often a command is sent on before the Cluster counts as unavailable."""


class Ask:
    """A request: some commands to each of some nodes. Answers replies, or Unavailable, node by node."""

    __slots__ = ("again", "parts", "timeout")

    def __init__(self, parts: Sequence[tuple[Node, Sequence[Command]]], timeout: float, *, again: bool) -> None:
        self.parts = parts
        self.timeout = timeout
        self.again = again

    def run(self) -> list[list[Any] | Unavailable]:
        answers: list[list[Any] | Unavailable] = []
        for node, commands in self.parts:
            try:
                answers.append(node.run(commands, self.timeout, again=self.again))
            except Unavailable as error:
                # The whole request fails with its first node, so that no two nodes are waited for.
                return [*answers, *[error] * (len(self.parts) - len(answers))]
        return answers

    async def run_async(self) -> list[list[Any] | Unavailable]:
        return await asyncio.gather(*(self._one(node, commands) for node, commands in self.parts))

    async def _one(self, node: Node, commands: Sequence[Command]) -> list[Any] | Unavailable:
        try:
            return await node.submit(commands, self.timeout, again=self.again)
        except Unavailable as error:
            return error


class Cluster:
    """The nodes of a Cluster and the map of its slots. Thread-safe.

    A connection stands for one life of its server as a master. So where a node became one, or ceased to be one, it is
    talked to on new connections.

    Args:
        target: some nodes to begin with.
        make: makes the Node for the target of a single server.
    """

    def __init__(self, target: Target, make: Callable[[Target], Node]) -> None:
        self._target = target
        self._make = make
        self._nodes: dict[tuple[str, int], Node] = {}
        self._slots: list[Node | None] = [None] * SLOTS
        self._stale = True

    @property
    def nodes(self) -> list[Node]:
        """Every node that was ever talked to."""
        return list(self._nodes.values())

    def masters(self) -> list[Node]:
        """The nodes that hold slots, in the order of their slots; empty before the first request."""
        return list(dict.fromkeys(node for node in self._slots if node is not None))

    def node_at(self, host: str, port: int) -> Node:
        """Return the node with that address."""
        node = self._nodes.get((host, port))
        if node is None:
            node = self._nodes.setdefault((host, port), self._make(self._target.at(host, port)))
        return node

    def node_for(self, key: str | bytes) -> Node | None:
        """Return the node that holds a key, where the map is known."""
        return self._slots[slot_of(key)]

    def run(self, commands: Sequence[Command], timeout: float, *, again: bool, master: int | None) -> Plan[list[Any]]:
        """Send each command to where its key is and return the replies in order.

        Args:
            commands: what to send. timeout: seconds for each round. again: see `Node.run`.
            master: index into `masters()` for commands without a key.

        Raises:
            Unavailable: a node that is needed does not answer.
        """
        if self._stale:
            yield from self.refresh(timeout)
        replies: list[Any] = [None] * len(commands)
        pending: list[tuple[int, Node, bool]] = [
            (index, self._route(command, master), False) for index, command in enumerate(commands)
        ]
        for _ in range(REDIRECTS):
            parts: dict[Node, list[tuple[int, bool]]] = {}
            for index, node, asking in pending:
                parts.setdefault(node, []).append((index, asking))
            answers = yield Ask(
                [(node, _with_asking(commands, wanted)) for node, wanted in parts.items()], timeout, again=again
            )
            pending = []
            for (node, wanted), answer in zip(parts.items(), answers, strict=True):
                if isinstance(answer, Unavailable):
                    self._stale = True
                    raise Unavailable(str(answer), dropped=answer.dropped)
                self._sort(node, wanted, answer, replies, pending)
            if not pending:
                return replies
        self._stale = True
        raise Unavailable("the Cluster keeps sending requests elsewhere")

    def _sort(
        self,
        node: Node,
        wanted: list[tuple[int, bool]],
        answer: list[Any],
        replies: list[Any],
        pending: list[tuple[int, Node, bool]],
    ) -> None:
        """File a node's replies; what it sends elsewhere goes to `pending`."""
        position = 0
        for index, asking in wanted:
            position += asking
            reply = answer[position]
            position += 1
            code = error_code(reply)
            if code in {"MOVED", "ASK"}:
                _, slot, address = str(reply).split(" ")[:3]
                host, _, port = address.rpartition(":")
                # An empty host means "the one you asked".
                other = self.node_at(host.strip("[]") or node.target.hosts[0][0], int(port))
                if code == "MOVED":
                    if other not in self.masters():
                        other.suspect()
                    node.suspect()
                    self._slots[int(slot)] = other
                    self._stale = True
                pending.append((index, other, code == "ASK"))
            else:
                replies[index] = reply

    def _route(self, command: Command, master: int | None) -> Node:
        name = command[0]
        if name in KEYLESS or master is not None:
            masters = self.masters()
            if not masters:
                raise Unavailable("no node of the Cluster answers")
            return masters[(master or 0) % len(masters)]
        if name in {"EVALSHA", "EVAL"}:
            key = command[3] if int(command[2]) else ""
        elif name == "XREAD":
            key = command[command.index("STREAMS") + 1]
        else:
            key = command[2] if name == "XINFO" else command[1]
        node = self._slots[slot_of(key)] or next(iter(self._nodes.values()), None)
        if node is None:
            raise Unavailable("no node of the Cluster answers")
        return node

    def refresh(self, timeout: float) -> Plan[None]:
        """Read the map from the first node that answers; the old map stays where none does."""
        known = [node for node in self.masters() if node.breaker.state == "closed"]
        seeds = known + [node for node in self.nodes if node not in known]
        seeds += [node for node in (self.node_at(*host) for host in self._target.hosts) if node not in seeds]
        for node in seeds:
            (answer,) = yield Ask([(node, [("CLUSTER", "SLOTS")])], timeout, again=True)
            if isinstance(answer, Unavailable):
                if not answer.dropped and node.breaker.state == "closed" and "answer in time" in str(answer):
                    break  # one timeout is all that a request can afford
                continue
            if isinstance(answer[0], list):
                self._learn(node, answer[0])
                return

    def _learn(self, asked: Node, ranges: list[Any]) -> None:
        slots: list[Node | None] = [None] * SLOTS
        for first, last, (host, port, *_), *_ in ranges:
            node = self.node_at((host or b"").decode() or asked.target.hosts[0][0], port)
            slots[first : last + 1] = [node] * (last - first + 1)
        before, self._slots = self.masters(), slots
        for node in set(before) ^ set(self.masters()):
            node.suspect()
        self._stale = False

    def close(self) -> None:
        """Close every connection of every node."""
        for node in self.nodes:
            node.close()
        self._stale = True


def _with_asking(commands: Sequence[Command], wanted: list[tuple[int, bool]]) -> list[Command]:
    sent: list[Command] = []
    for index, asking in wanted:
        if asking:
            sent.append(("ASKING",))
        sent.append(commands[index])
    return sent


def slot_of(key: str | bytes) -> int:
    """Return the slot of a key."""
    from redis.crc import key_slot

    return key_slot(key.encode() if isinstance(key, str) else key)
