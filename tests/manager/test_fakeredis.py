"""fakeredis clients as users' tests hand them over: nothing else has to be configured."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from servers import wait_until
from tiercast import (
    BarrierTimeout,
    CacheConfig,
    CacheManager,
    CoherenceConfig,
    DeliveryError,
    DistributedCacheConfig,
    InvalidationResult,
)
from tiercast.connections import RedisConnections

fakeredis = pytest.importorskip("fakeredis")

Maker = Callable[..., CacheManager]


@pytest.fixture
def server() -> Any:
    return fakeredis.FakeServer()


def both(**options: Any) -> tuple[Any, Any]:
    """The pair (client, asyncio client)."""
    return fakeredis.FakeRedis(**options), fakeredis.FakeAsyncRedis(**options)


@pytest.fixture(params=[fakeredis.FakeRedis, fakeredis.FakeAsyncRedis, both])
def make(request: pytest.FixtureRequest, server: Any) -> Iterator[Maker]:
    """Make managers of one fleet, each with a client of its own."""
    made: list[CacheManager] = []

    def manager(**options: Any) -> CacheManager:
        client = request.param(server=server, **options)
        coherence = CoherenceConfig(heartbeat=0.1, max_staleness=1.0)
        made.append(CacheManager(CacheConfig(distributed=DistributedCacheConfig(client=client), coherence=coherence)))
        return made[-1]

    yield manager
    server.connected = True
    for one in made:
        one.close()


@pytest.mark.parametrize("options", [{}, {"decode_responses": True}, {"db": 3}])
def test_a_fleet_lives_on_fakeredis(make: Maker, options: dict[str, Any]) -> None:
    """Two managers share values and invalidations, with coherence proven: fakeredis has no INFO and needs none."""
    one, other = make(**options), make(**options)
    one.coherence.start(5)
    assert one.set("k", ("v", 1), tags=["t"]).delivered
    assert other.get("k") == ("v", 1)
    assert one.invalidate_tags(["t"], barrier=5.0).delivered
    assert other.get("k") is None


async def test_a_fleet_lives_on_fakeredis_in_a_loop(make: Maker) -> None:
    """The same from asyncio."""
    one, other = make(), make()
    await one.coherence.start_async(5)
    assert (await one.aio.set("k", None)).delivered
    assert await other.aio.get("k", "nothing") is None
    assert await one.aio.delete("k", barrier=5.0)
    assert await other.aio.get("k", "nothing") == "nothing"


def test_both_errors_of_delivery_carry_the_result(make: Maker, server: Any) -> None:
    """`.result` says what became of the call; with `require_delivery` nothing is in force, else it waits."""
    cache = make()
    cache.set("k", "v")
    server.connected = False
    with pytest.raises(DeliveryError, match="cannot be reached") as refused:
        cache.invalidate_keys(["k"], require_delivery=True)
    with pytest.raises(BarrierTimeout, match="which waits in the outbox, within 0.05 s: the log") as late:
        cache.invalidate_keys(["k"], barrier=0.05)
    waiting = InvalidationResult(None, delivered=False, removed=None)
    assert [waiting, waiting] == [refused.value.result, late.value.result]


def test_a_purge_that_reaches_not_all_says_so(make: Maker, server: Any) -> None:
    """Erasure is no read: a remote tier that does not answer is an error; the next try goes through."""
    cache = make()
    cache.multi_set({"a": 1, "b": 2}, tags=["t"])
    server.connected = False
    with pytest.raises(DeliveryError, match="remote did not answer") as failed:
        cache.purge(tags=["t"])
    assert (False, 2) == (failed.value.result.delivered, failed.value.result.removed)
    assert cache.multi_get(["a", "b"]) == {}
    server.connected = True
    wait_until(lambda: not cache.coherence.status().waiting)
    assert "remote" in cache.purge(tags=["t"])


def test_fakeredis_without_lua_says_what_to_install() -> None:
    """The log is a script."""
    program = """
import sys
sys.modules["lupa"] = None
import fakeredis
from tiercast import BusUnavailable, CacheConfig, CacheManager, DistributedCacheConfig
with CacheManager(CacheConfig(distributed=DistributedCacheConfig(client=fakeredis.FakeRedis()))) as cache:
    try:
        cache.coherence.start(0.2)
    except BusUnavailable as exc:
        print(exc)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert "pip install 'fakeredis[lua]'" in done.stdout


def test_threads_that_connect_first_get_one_server() -> None:
    """fakeredis makes the server of a client that names none with its first connection, and not under a lock."""
    connections = RedisConnections(DistributedCacheConfig(client=fakeredis.FakeRedis()))
    before = dict(fakeredis.FakeServer._servers_map)
    assert [b"PONG"] == connections.execute([("PING",)])
    listener = connections.listen("bus")
    assert before == fakeredis.FakeServer._servers_map
    listener.close()
    connections.close()
