"""Logs in Redis as tests use them: opened as a process has them, called as plain functions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from servers import RedisServer
from tiercast.clock import SystemClock
from tiercast.coherence.log import Appended, Head, Write
from tiercast.coherence.records import Draft, Kind
from tiercast.coherence.redis_log import RedisLog
from tiercast.config import CoherenceConfig, DistributedCacheConfig
from tiercast.connections import RedisConnections
from tiercast.plans import Plan, drive

NOWHERE = ("", 0)

Opener = Callable[..., RedisLog]


def open_log(url: str, fleet: str = "shop", **changes: Any) -> RedisLog:
    """A log as one process of a fleet has it."""
    remote = DistributedCacheConfig(
        connection_string=url,
        read_timeout=2.0,
        write_timeout=5.0,
        connect_timeout=5.0,
        breaker_failures=1000,
        breaker_reset=0.1,
    )
    return RedisLog(RedisConnections(remote), fleet, CoherenceConfig(**changes), SystemClock())


@contextlib.contextmanager
def opening() -> Iterator[Opener]:
    """Give a function that opens logs; close their connections in the end."""
    logs: list[RedisLog] = []

    def make(url: str, fleet: str = "shop", **changes: Any) -> RedisLog:
        logs.append(open_log(url, fleet, **changes))
        return logs[-1]

    yield make
    for log in logs:
        log._connections.close()


def key(name: str, region: str = "default", *, soft: bool = False) -> Draft:
    return Draft(Kind.KEY, region, (f"|{name}",), soft, origin="h:1:x", sent=1.5)


def tag(*names: str, region: str = "", soft: bool = False) -> Draft:
    return Draft(Kind.TAG, region, names, soft)


def head(log: RedisLog) -> Head:
    return drive(log.read(NOWHERE)).head


def append(log: RedisLog, *drafts: Draft, since: tuple[str, int] = NOWHERE, writes: tuple[Write, ...] = ()) -> Appended:
    return drive(log.append(drafts, since, writes))


def raw(server: RedisServer) -> Any:
    return server.client(decode_responses=False)


def count_requests(plan: Plan[Any]) -> int:
    """Run a plan and count what it asks for."""
    requests = 0
    reply = None
    try:
        while True:
            request = plan.send(reply)
            requests += 1
            reply = request.run()
    except StopIteration:
        return requests


def blob(born: int = 0, payload: bytes = b"value", fence: int = 0) -> bytes:
    return b"TC10%016x%016x" % (born, fence) + b"f" * 32 + payload
