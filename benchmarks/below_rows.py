"""Rows 5-9: what happens below memory, each beside the two libraries that it is made of."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from statistics import median
from time import perf_counter
from typing import Any

import cashews
import diskcache
import orjson
import redis
import redis.asyncio
from measure import Row, Settings, both, calling, compare, in_turn, in_turn_async, quotient

from tiercast import CacheConfig, CacheManager, DistributedCacheConfig, LocalCacheConfig

COUNT = 200
SMALL_MEMORY = LocalCacheConfig(max_size=10)
"""So that a read of 200 keys in turn finds none of them in memory, and promotes each."""


def value_of(size: int, number: int) -> dict[str, Any]:
    """A plain JSON value of about so many bytes."""
    value: dict[str, Any] = {
        "id": number,
        "name": f"user {number}",
        "active": True,
        "score": number / 7,
        "tags": ["a", "b"],
    }
    value["text"] = "x" * max(0, size - len(orjson.dumps(value)) - 10)
    return value


KILO = {f"user:{number}": value_of(1000, number) for number in range(COUNT)}


def disk_rows(settings: Settings) -> Iterator[Row]:
    """Row 5: found on disk, decoded and promoted."""
    directory = settings.directory / "disk-rows"
    manager = CacheManager(
        CacheConfig(local=SMALL_MEMORY, disk=LocalCacheConfig(type="file", directory=directory / "ours"))
    )
    bare = CacheManager(CacheConfig(name="bare", local=LocalCacheConfig(type="file", directory=directory / "bare")))
    theirs = diskcache.Cache(str(directory / "theirs"))
    for key, value in KILO.items():
        manager.set(key, value)
        bare.set(key, value)
        theirs.set(key, orjson.dumps(value))
    keys = list(KILO)

    def read_theirs(key: str) -> Any:
        return orjson.loads(theirs.get(key))

    assert manager.get(keys[0]) == read_theirs(keys[0]) == KILO[keys[0]]
    taken = in_turn(
        {
            "ours": calling(manager.get, keys, 25),
            "theirs": calling(read_theirs, keys, 100),
            "alone": calling(bare.get, keys, 25),
        },
        settings.rounds(600),
    )
    yield compare(
        "5", "hit on disk, 1 kB JSON, decoded and promoted : diskcache.get + orjson.loads", taken, "ours", "theirs", 2.0,
        known=3.7,
    )  # fmt: skip
    yield Row("5.alone", "the same without memory above it : the same", quotient(taken, "alone", "theirs"),
              measured=both(taken, "alone", "theirs"))  # fmt: skip
    manager.close()
    bare.close()
    theirs.close()


def manager_on_redis(settings: Settings, name: str, **more: Any) -> CacheManager:
    return CacheManager(
        CacheConfig(
            name=name,
            local=SMALL_MEMORY,
            distributed=DistributedCacheConfig(connection_string=settings.redis.url, compress_above=None),
            **more,
        )
    )


def remote_rows(settings: Settings) -> Iterator[Row]:
    """Rows 6 and 8: found in Redis."""
    manager = manager_on_redis(settings, "remote")
    client = redis.Redis.from_url(settings.redis.url)
    for key, value in KILO.items():
        manager.set(key, value)
        client.set(f"bare:{key}", orjson.dumps(value))
    names = [f"bare:{key}" for key in KILO]
    keys = list(KILO)

    def read_theirs(name: str) -> Any:
        return orjson.loads(client.get(name))  # type: ignore[arg-type]

    connections = manager._runtime.connections
    assert connections is not None

    def read_link(name: str) -> Any:
        return connections.commands(("GET", name)).run()[0]

    hundreds = [keys[:100], keys[100:]]
    hundreds_of_names = [names[:100], names[100:]]

    def read_many(some: list[str]) -> Any:
        return [orjson.loads(value) for value in client.mget(some)]  # type: ignore[union-attr, arg-type]

    assert manager.get(keys[0]) == read_theirs(names[0])
    assert len(manager.multi_get(hundreds[1])) == 100
    taken = in_turn(
        {
            "get": calling(manager.get, keys, 15),
            "redis get": calling(read_theirs, names, 15),
            "link": calling(read_link, names, 15),
            "bare": calling(client.get, names, 15),
            "multi_get": calling(manager.multi_get, hundreds, 1),
            "mget": calling(read_many, hundreds_of_names, 2),
        },
        settings.rounds(500),
    )
    yield compare("6", "hit in Redis, sync, 1 kB JSON : redis-py get + orjson.loads", taken, "get", "redis get", 1.25,
                  known=1.4)  # fmt: skip
    yield Row(
        "6.link", "a bare GET on tiercast's own connections : redis-py get", quotient(taken, "link", "bare"),
        measured=both(taken, "link", "bare"),
    )  # fmt: skip
    yield compare("8", "`multi_get` of 100 keys of 1 kB from Redis : mget + orjson.loads", taken, "multi_get", "mget",
                  1.5, known=3.0)  # fmt: skip
    manager.close()
    client.close()


def set_rows(settings: Settings) -> Iterator[Row]:
    """Row 9: a set through all tiers."""
    directory = settings.directory / "set-rows"
    manager = CacheManager(
        CacheConfig(
            name="sets",
            disk=LocalCacheConfig(type="file", directory=directory / "ours"),
            distributed=DistributedCacheConfig(connection_string=settings.redis.url, compress_above=None),
        )
    )
    client = redis.Redis.from_url(settings.redis.url)
    theirs = diskcache.Cache(str(directory / "theirs"))
    items = list(KILO.items())

    def set_ours(item: tuple[str, Any]) -> None:
        manager.set(*item)

    def set_theirs(item: tuple[str, Any]) -> None:
        key, value = item
        data = orjson.dumps(value)
        client.set(f"sets:{key}", data, ex=300)
        theirs.set(key, data, expire=300)

    taken = in_turn(
        {"ours": calling(set_ours, items, 2), "theirs": calling(set_theirs, items, 5)}, settings.rounds(400)
    )
    yield compare(
        "9", "`set` through memory, disk and Redis : redis-py set + diskcache.set of the same bytes", taken, "ours",
        "theirs", 1.2, known=3.0,
    )  # fmt: skip
    manager.close()
    client.close()
    theirs.close()


def concurrent_rows(settings: Settings) -> Iterator[Row]:
    """Row 7: a thousand tasks, each reading a key of its own from Redis."""
    yield from asyncio.run(_concurrent_rows(settings))


async def _concurrent_rows(settings: Settings) -> list[Row]:
    count = 1000
    small = {f"user:{number}": value_of(200, number) for number in range(2 * count)}
    manager = manager_on_redis(settings, "concurrent")
    client = redis.asyncio.Redis(
        connection_pool=redis.asyncio.BlockingConnectionPool.from_url(settings.redis.url, max_connections=50)
    )
    peer = cashews.Cache()
    peer.setup(settings.redis.url)
    await manager.multi_set_async(small)
    for key, value in small.items():
        await client.set(f"bare:{key}", orjson.dumps(value))
        await peer.set(f"cashews:{key}", value)
    halves = itertools.cycle([list(small)[:count], list(small)[count:]])

    async def read_theirs(key: str) -> Any:
        return orjson.loads(await client.get(f"bare:{key}"))

    async def read_peer(key: str) -> Any:
        return await peer.get(f"cashews:{key}")

    def batch(read: Any) -> Any:
        async def run() -> float:
            keys = next(halves)
            began = perf_counter()
            values = await asyncio.gather(*(read(key) for key in keys))
            taken = perf_counter() - began
            assert values[0] == small[keys[0]]
            assert len(values) == count
            return taken / count

        return run

    taken = await in_turn_async(
        {"ours": batch(manager.get_async), "redis": batch(read_theirs), "cashews": batch(read_peer)},
        settings.rounds(40),
    )
    rows = [
        compare(
            "7", "1,000 concurrent async hits in Redis, 200 B JSON : redis.asyncio, BlockingConnectionPool(50)", taken,
            "ours", "redis", 0.25, known=0.45,
        ),
        compare("7.cashews", "the same : cashews on Redis", taken, "ours", "cashews", 0.2, known=0.35),
    ]  # fmt: skip
    settings.figures["concurrent"] = {name: median(times) for name, times in taken.items()}
    await manager.close_async()
    await client.aclose()
    await peer.close()
    return rows
