"""Users' tests hand in fakeredis where production has Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import fakeredis
import pytest

from tiercast import CacheConfig, CacheManager, DistributedCacheConfig

CLIENTS: dict[str, Callable[[fakeredis.FakeServer], Any]] = {
    "sync": lambda server: fakeredis.FakeRedis(server=server),
    "decoding": lambda server: fakeredis.FakeRedis(server=server, decode_responses=True),
    "asyncio": lambda server: fakeredis.FakeAsyncRedis(server=server),
    "both": lambda server: (fakeredis.FakeRedis(server=server), fakeredis.FakeAsyncRedis(server=server)),
}


@pytest.fixture(params=CLIENTS)
def pair(request: pytest.FixtureRequest) -> Iterator[list[CacheManager]]:
    server = fakeredis.FakeServer()
    config = [CacheConfig(distributed=DistributedCacheConfig(client=CLIENTS[request.param](server))) for _ in range(2)]
    managers = [CacheManager(each) for each in config]
    yield managers
    for manager in managers:
        manager.close()


def test_two_managers_share_what_is_true(pair: list[CacheManager]) -> None:
    """Nothing has to be set for it: values, loads and invalidations go through the fake server as through a real one."""
    one, other = pair
    assert one.set("key", {"name": "Ada"}, tags=["people"]).delivered
    one.get_or_set("loaded", lambda: 7)
    assert other.multi_get(["key", "loaded"]) == {"key": {"name": "Ada"}, "loaded": 7}
    assert one.coherence.status().proven
    assert one.invalidate_tags(["people"], barrier=5.0).delivered
    assert other.get("key") is None


async def test_tasks_likewise(pair: list[CacheManager]) -> None:
    """The async twins."""
    one, other = pair
    await one.set_async("key", "value")
    assert await other.get_async("key") == "value"
    await one.delete_async("key", barrier=5.0)
    assert await other.get_async("key") is None
