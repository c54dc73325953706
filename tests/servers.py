"""Real servers for the tests: one Redis, a Cluster, a Sentinel with master and replica, and a faulty wire.

Each starts on free ports of 127.0.0.1 in a temporary directory of its own, is a context manager, and ends only
the processes it started; a watchdog ends them where the test process cannot. Not thread-safe, except that
`execute` may be called from any thread.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import NamedTuple, Self

import pytest
import redis

from proxy import TcpProxy
from redis_process import START_SECONDS, RedisServer, find_server, wait_until

__all__ = [
    "CAPABILITIES",
    "RedisCluster",
    "RedisSentinel",
    "RedisServer",
    "TcpProxy",
    "capabilities",
    "find_server",
    "in_ci",
    "needs",
    "wait_until",
]

needs = pytest.mark.needs
"""`@needs("tls")`: the test needs a capability of the server; see CAPABILITIES."""


def in_ci() -> bool:
    """Whether a missing server is a failure rather than a reason to skip."""
    return os.environ.get("CI", "").lower() in {"1", "true", "yes"}


class RedisCluster:
    """Masters that share the slots, each with as many replicas as asked for; `nodes` lists masters first."""

    def __init__(self, *, masters: int = 3, replicas: int = 0, options: Mapping[str, str] | None = None) -> None:
        settings = {"cluster-enabled": "yes", "cluster-node-timeout": "1500", **(options or {})}
        self.nodes = [RedisServer(options=settings) for _ in range(masters * (1 + replicas))]
        self.masters = self.nodes[:masters]
        self.replicas = self.nodes[masters:]

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    @property
    def ok(self) -> bool:
        """Whether each node knows all the others, and who serves which slots."""

        def info(node: RedisServer) -> dict[str, str]:
            return {name: str(value) for name, value in node.execute("CLUSTER INFO").items()}

        wanted = {"cluster_state": "ok", "cluster_known_nodes": str(len(self.nodes)), "cluster_slots_ok": "16384"}
        return all(wanted.items() <= info(node).items() for node in self.nodes) and all(
            node.execute("INFO", "replication").get("master_link_status") == "up" for node in self.replicas
        )

    def start(self) -> Self:
        """Start the nodes, make them one, and wait until all agree."""
        for node in self.nodes:
            node.start()
        share = len(self.masters)
        for number, node in enumerate(self.nodes):
            node.execute("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if node is not self.nodes[0]:
                node.execute("CLUSTER", "MEET", "127.0.0.1", self.nodes[0].port)
            if number < share:
                # Not ADDSLOTSRANGE, which Redis 6.2 does not know.
                node.execute("CLUSTER", "ADDSLOTS", *range(self._first_slot(number), self._first_slot(number + 1)))
        for number, replica in enumerate(self.replicas):
            master = self.masters[number % share].execute("CLUSTER", "MYID")
            wait_until(functools.partial(self._replicate, replica, master), what="a replica that knows its master")
        self.wait_ok()
        return self

    def wait_ok(self, seconds: float = START_SECONDS) -> None:
        """Wait until every node is content."""
        wait_until(lambda: self.ok, seconds, "cluster_state:ok")

    def flush(self) -> None:
        """Empty every master."""
        for node in self.masters:
            node.execute("FLUSHALL")

    def master_of(self, key: str) -> RedisServer:
        """The node among the first masters that was given the key's slot."""
        slot = self.nodes[0].execute("CLUSTER", "KEYSLOT", key)
        return next(node for number, node in enumerate(self.masters) if slot < self._first_slot(number + 1))

    def _first_slot(self, number: int) -> int:
        return 16_384 * number // len(self.masters)

    def close(self) -> None:
        for node in self.nodes:
            node.close()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @staticmethod
    def _replicate(replica: RedisServer, master: str) -> bool:
        return bool(replica.execute("CLUSTER", "REPLICATE", master))


SENTINEL_HURRIES = ("info-period", 500, "publish-period", 250, "ping-period", 200, "tilt-period", 1000)
"""Milliseconds. Pings that are as far apart as `down-after` make it fail over twice on a busy machine; what it takes for
a jump of the clock there stops it for `tilt-period`, by default 30 s."""


class RedisSentinel:
    """A master, its replica, and one Sentinel (quorum 1) that watches them under the name `service`."""

    service = "mymaster"

    def __init__(self) -> None:
        self.servers = [RedisServer(), RedisServer()]
        self.sentinel = RedisServer(sentinel=True)

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self.sentinel.port}/{self.service}/0"

    @property
    def master(self) -> RedisServer:
        """The server that the Sentinel names as master now."""
        _, port = self.sentinel.execute("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)
        return next(server for server in self.servers if server.port == int(port))

    @property
    def replica(self) -> RedisServer:
        """The other one."""
        master = self.master
        return next(server for server in self.servers if server is not master)

    def start(self) -> Self:
        """Start all three and wait until a failover would be possible."""
        master, replica = self.servers
        master.start()
        replica.start()
        replica.execute("REPLICAOF", "127.0.0.1", master.port)
        # Into the file, as the Sentinel will: whoever restarts is what it was last told to be.
        replica.execute("CONFIG REWRITE")
        self.sentinel.options = {
            "sentinel": [
                f"monitor {self.service} 127.0.0.1 {master.port} 1",
                f"down-after-milliseconds {self.service} 1000",
                f"failover-timeout {self.service} 5000",
            ]
        }
        self.sentinel.start()
        # It looks every 10 s, and waits 8 s before it tells an old master what it is now. Redis 6.2 cannot be hurried.
        with contextlib.suppress(redis.ResponseError):
            self.sentinel.execute("SENTINEL DEBUG", *SENTINEL_HURRIES)
        self._wait_replica()
        return self

    def failover(self, seconds: float = 60.0) -> RedisServer:
        """Have the Sentinel promote the replica; returns the new master once the old one follows it."""
        old = self.master
        self._wait_replica(seconds)
        wait_until(lambda: self.sentinel.execute("SENTINEL", "FAILOVER", self.service), seconds, "an accepted failover")
        new = self.wait_failover(old, seconds)
        wait_until(lambda: old.execute("INFO", "replication")["role"] == "slave", seconds, "the old master's demotion")
        return new

    def wait_failover(self, old: RedisServer, seconds: float = 60.0) -> RedisServer:
        """Wait until another than `old` is master, as after `old.kill()`; returns it."""
        wait_until(lambda: self.master is not old, seconds, "another master")
        new = self.master
        wait_until(lambda: new.execute("INFO", "replication")["role"] == "master", seconds, "the promotion")
        return new

    def close(self) -> None:
        for server in (self.sentinel, *self.servers):
            server.close()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wait_replica(self, seconds: float = START_SECONDS) -> None:
        def good() -> bool:
            with self.sentinel.client() as client:
                flags = [seen["flags"] for seen in client.sentinel_slaves(self.service)]
            return flags == ["slave"] and self.replica.execute("INFO", "replication")["master_link_status"] == "up"

        wait_until(good, seconds, "a replica that can be promoted")


class Capability(NamedTuple):
    """What a server may lack. `in_apt`: the distribution's server (7.0) has it, so that in CI its lack is a failure."""

    probe: Callable[[RedisServer], object]
    in_apt: bool


def _speaks_tls(server: RedisServer) -> bool:
    """Whether the binary was built with it; those without know its settings all the same."""
    try:
        with RedisServer(tls=True, binary=server.binary):
            return True
    except RuntimeError:
        return False


CAPABILITIES: dict[str, Capability] = {
    "tls": Capability(_speaks_tls, in_apt=True),
    "spublish": Capability(lambda server: server.execute("SPUBLISH", "probe", "") is not None, in_apt=True),
    "hexpire": Capability(
        lambda server: server.execute("HPEXPIRE", "probe", 1, "FIELDS", 1, "f") is not None, in_apt=False
    ),
}


@functools.cache
def capabilities() -> frozenset[str]:
    """What the server at hand has of CAPABILITIES; starts one to ask, once."""

    def probes() -> Iterator[str]:
        with RedisServer() as server:
            for name, capability in CAPABILITIES.items():
                with contextlib.suppress(redis.ResponseError):
                    if capability.probe(server):
                        yield name

    return frozenset(probes())
