"""Fixtures that hand real Redis servers to tests.

Shared for the session, emptied for each test by its URL fixture; a test that stops, pauses or reconfigures
a server asks for one of its own:

    redis_server    redis_url             own_redis
    redis_cluster   redis_cluster_url     own_cluster
    redis_sentinel  redis_sentinel_url    own_sentinel

Without a server these tests are skipped, and fail where CI is set.

And the fixture `self_audit`, which looks after every test: `stale_served_total` is zero in each of them.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator

import pytest

import self_audit as audit
from servers import CAPABILITIES, RedisCluster, RedisSentinel, RedisServer, capabilities, find_server, in_ci

_served: list[str] = []
audit.install(_served.extend)
signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # a shell's background job ignores it, and so would what tests start


@pytest.fixture(autouse=True)
def self_audit(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """What was found to have been served dead; a test that provokes it on purpose empties the list."""
    before = audit.living()
    yield _served
    if request.node.get_closest_marker("mutant"):
        _served.clear()
        return
    for runtime in audit.living() - before:
        _served.extend(audit.dead_but_served(runtime))
    found = _served.copy()
    _served.clear()
    assert not found, "memory served what an invalidation had killed:\n" + "\n".join(found)


def _demand(what: str, *, fail: bool) -> None:
    if fail:
        pytest.fail(f"{what} (a failure, because CI is set)", pytrace=False)
    pytest.skip(what)


def pytest_report_header() -> str:
    path = find_server()
    if path is None:
        return "redis-server: none; see scripts/redis_server.py"
    shown = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout.split()
    version = next((word[2:] for word in shown if word.startswith("v=")), "of unknown version")
    return f"redis-server: {version} ({path})"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if capabilities.cache_info().currsize:
        missing = sorted(CAPABILITIES.keys() - capabilities())
        terminalreporter.write_line(f"redis-server lacks: {', '.join(missing) or 'nothing that tests ask for'}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        for name in marker.args:
            capability = CAPABILITIES[name]
            _need_server()
            if name not in capabilities():
                _demand(f"the server at hand lacks {name}", fail=in_ci() and capability.in_apt)


def _need_server() -> None:
    if find_server() is None:
        _demand("no redis-server is at hand", fail=in_ci())


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A server shared by the whole session; ask for `redis_url` to have it empty."""
    _need_server()
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of the shared server, which is empty now."""
    redis_server.execute("FLUSHALL")
    return redis_server.url


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A server for this test alone: to kill, to pause, to restart."""
    _need_server()
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[RedisCluster]:
    """Three masters without replicas, shared by the whole session."""
    _need_server()
    with RedisCluster() as cluster:
        yield cluster


@pytest.fixture
def redis_cluster_url(redis_cluster: RedisCluster) -> str:
    """The URL of the shared cluster (redis+cluster://...), which is empty now."""
    redis_cluster.flush()
    return redis_cluster.url


@pytest.fixture
def own_cluster() -> Iterator[RedisCluster]:
    """A cluster for this test alone."""
    _need_server()
    with RedisCluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def redis_sentinel() -> Iterator[RedisSentinel]:
    """A master, a replica and a Sentinel, shared by the whole session."""
    _need_server()
    with RedisSentinel() as sentinel:
        yield sentinel


@pytest.fixture
def redis_sentinel_url(redis_sentinel: RedisSentinel) -> str:
    """The URL by which the Sentinel names its master (redis+sentinel://...), which is empty now."""
    redis_sentinel.master.execute("FLUSHALL")
    return redis_sentinel.url


@pytest.fixture
def own_sentinel() -> Iterator[RedisSentinel]:
    """A master, a replica and a Sentinel for this test alone: to fail over."""
    _need_server()
    with RedisSentinel() as sentinel:
        yield sentinel
