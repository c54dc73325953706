"""The Redis log passes the shipped contract suite: on a server, in a Cluster, behind Sentinel."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tiercast.clock import SystemClock
from tiercast.coherence.redis_log import RedisLog
from tiercast.config import CoherenceConfig, DistributedCacheConfig
from tiercast.connections import RedisConnections
from tiercast.plans import drive
from tiercast.testing.log_contract import LogContract

MakeLog = Callable[[], RedisLog]


def make_logs(url: str) -> Iterator[MakeLog]:
    """Make handles, each with connections of its own as a process has them, and close them all."""
    opened: list[RedisConnections] = []

    def make() -> RedisLog:
        opened.append(
            RedisConnections(DistributedCacheConfig(connection_string=url, read_timeout=5.0, write_timeout=5.0))
        )
        return RedisLog(opened[-1], "contract", CoherenceConfig(), SystemClock())

    # The first epoch of all: a later one would speak of members that it cannot know.
    drive(make().read(("", 0)))
    yield make
    for connections in opened:
        connections.close()


class TestRedisLog(LogContract):
    @pytest.fixture
    def make_log(self, redis_url: str) -> Iterator[MakeLog]:
        yield from make_logs(redis_url)


class TestRedisLogInACluster(LogContract):
    @pytest.fixture
    def make_log(self, redis_cluster_url: str) -> Iterator[MakeLog]:
        yield from make_logs(redis_cluster_url)


class TestRedisLogBehindSentinel(LogContract):
    @pytest.fixture
    def make_log(self, redis_sentinel_url: str) -> Iterator[MakeLog]:
        yield from make_logs(redis_sentinel_url)
