"""Rows 1-4 and 16-18: hits in memory."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from statistics import median
from typing import Any

import aiocache
import async_lru
import cachebox
import cachetools
import cashews
import dogpile.cache
import lru
import moka_py
import theine
from measure import (
    Row,
    Settings,
    Spread,
    awaiting,
    both,
    calling,
    compare,
    in_turn,
    in_turn_async,
    quotient,
    shown,
)

from tiercast import CacheConfig, CacheManager, LocalCacheConfig, ScopeConfig, ScopeLevel
from tiercast.config import MonitoringConfig

COUNT = 1000
KEYS = [f"user:{number}" for number in range(COUNT)]
TTL = 300
SIZE = 10_000
SCOPES = ScopeConfig([ScopeLevel("organization", "org_id", [ScopeLevel("user", "user_id")])])


def memory_manager(**more: Any) -> CacheManager:
    """A manager of memory alone, with all that is on by default."""
    return CacheManager(CacheConfig(scopes=SCOPES, **more))


def ttl_cache() -> tuple[cachetools.TTLCache[Any, Any], threading.RLock]:
    return cachetools.TTLCache(SIZE, TTL), threading.RLock()


def locked_get(cache: Any, lock: threading.RLock) -> Callable[[str], Any]:
    """Cachetools as its documentation says to share it between threads."""

    def get(key: str) -> Any:
        with lock:
            return cache.get(key)

    return get


def hits(settings: Settings) -> Iterator[Row]:
    """Rows 1 and 17, and the table of peers."""
    ours = memory_manager()
    with_disk = CacheManager(CacheConfig(disk=LocalCacheConfig(type="file", directory=settings.directory / "hits")))
    for cache in (ours, with_disk):
        for key in KEYS:
            cache.set(key, key)
    for key in KEYS:
        ours.set(key, key, scope="user", org_id="o1", user_id="u1")
    view = ours.scoped("user", org_id="o1", user_id="u1")
    for key in KEYS:
        view.get(key)
    get = ours.get

    def with_keywords(key: str) -> Any:
        return get(key, scope="user", org_id="o1", user_id="u1")

    cache, lock = ttl_cache()
    own_lru = cachetools.LRUCache[Any, Any](SIZE)
    plain: dict[str, str] = {}
    for key in KEYS:
        cache[key] = own_lru[key] = plain[key] = key

    def dict_get(key: str) -> Any:
        return plain.get(key)

    calls: dict[str, Callable[[Any], Any]] = {
        "tiercast": get,
        "disk log": with_disk.get,
        "view": view.get,
        "keywords": with_keywords,
        "TTLCache": locked_get(cache, lock),
        "LRUCache": locked_get(own_lru, lock),
        "dict": dict_get,
        **peer_gets(),
    }
    taken = in_turn({name: calling(call, KEYS) for name, call in calls.items()}, settings.rounds(300))
    settings.figures["hits"] = {name: median(times) for name, times in taken.items()}
    yield compare("1", "`get`, hit in memory : cachetools.TTLCache under an RLock", taken, "tiercast", "TTLCache", 0.5)
    yield compare("1.disk", "the same on the disk log : the same", taken, "disk log", "TTLCache", 0.6)
    yield compare("1.dict", "`get`, hit in memory : a Python function around dict.get", taken, "tiercast", "dict", 5.0)
    yield compare(
        "1.own", "the same : cachetools.LRUCache under an RLock, which has no TTL", taken, "tiercast", "LRUCache", 0.75,
        note="own code stays on the hit path only where it beats the library by a quarter",
    )  # fmt: skip
    yield compare("17.view", "`get` of a bound view : a plain `get`", taken, "view", "tiercast", 1.3)
    yield compare(
        "17.keywords", "`get` with scope and ids as keywords : a plain `get`", taken, "keywords", "tiercast", 4.0
    )
    for name in peer_gets():
        yield Row(
            f"1.{name}", f"`get`, hit in memory : {name}", quotient(taken, "tiercast", name),
            measured=both(taken, "tiercast", name),
        )  # fmt: skip
    ours.close()
    with_disk.close()


def peer_gets() -> dict[str, Callable[[str], Any]]:
    """The look-ups of libraries without a lock of their own to add, filled with the keys."""
    box = cachebox.TTLCache(SIZE, TTL)
    the = theine.Cache(SIZE)
    moka = moka_py.Moka(SIZE, ttl=TTL)
    dogpile_region = dogpile.cache.make_region().configure("dogpile.cache.memory", expiration_time=TTL)
    plain_lru = lru.LRU(SIZE)
    for key in KEYS:
        box[key] = plain_lru[key] = key
        the.set(key, key, timedelta(seconds=TTL))
        moka.set(key, key)
        dogpile_region.set(key, key)
    return {
        "cachebox.TTLCache": box.get,
        "theine": the.get,
        "moka-py": moka.get,
        "lru-dict (no TTL)": plain_lru.get,
        "dogpile.cache": dogpile_region.get,
    }


def decorated(settings: Settings) -> Iterator[Row]:
    """Row 2."""
    manager = memory_manager()
    cache, lock = ttl_cache()

    def load(user_id: int) -> int:
        return user_id

    calls: dict[str, Callable[[Any], Any]] = {
        "tiercast": manager.cached(ttl=TTL, key="user:{user_id}")(load),
        "cachebox": cachebox.cached(cachebox.TTLCache(SIZE, TTL))(load),
        "cachetools": cachetools.cached(cache, lock=lock)(load),
        "lru_cache": functools.lru_cache(SIZE)(load),
        "theine": theine.Memoize(SIZE, timedelta(seconds=TTL))(load),
        "moka-py": moka_py.cached(maxsize=SIZE, ttl=TTL)(load),
    }
    numbers = list(range(COUNT))
    batches = {name: calling(call, numbers) for name, call in calls.items()}
    words = [f"id-{number}" for number in numbers]
    batches["text"] = calling(calls["tiercast"], words)
    taken = in_turn(batches, settings.rounds(300))
    settings.figures["decorated"] = {name: median(times) for name, times in taken.items()}
    yield compare(
        "2", "`@cached` hit, `user:{user_id}` : cachebox.cached(TTLCache)", taken, "tiercast", "cachebox", 0.8
    )
    yield compare("2.cachetools", "the same : cachetools.cached(TTLCache, RLock)", taken, "tiercast", "cachetools", 0.3)
    for name in ("lru_cache", "theine", "moka-py"):
        note = "in C, without TTL, lock or invalidation" if name == "lru_cache" else ""
        yield Row(f"2.{name}", f"the same : {name}", quotient(taken, "tiercast", name), note=note,
                  measured=both(taken, "tiercast", name))  # fmt: skip
    yield Row("2.text", "the same with a str : with an int", quotient(taken, "text", "tiercast"),
              measured=both(taken, "text", "tiercast"))  # fmt: skip
    many = list(range(100_000))
    manager_of_many = memory_manager(local=LocalCacheConfig(max_size=200_000))
    remembered = manager_of_many.cached(ttl=TTL, key="user:{user_id}")(load)
    box_of_many = cachebox.cached(cachebox.TTLCache(200_000, TTL))(load)
    for number in many:
        remembered(number)
        box_of_many(number)
    taken = in_turn(
        {"tiercast": calling(remembered, many), "cachebox": calling(box_of_many, many)}, settings.rounds(200)
    )
    yield Row(
        "2.many", "the same over 100,000 arguments, more than keys are remembered of : cachebox",
        quotient(taken, "tiercast", "cachebox"), measured=both(taken, "tiercast", "cachebox"),
    )  # fmt: skip
    manager.close()
    manager_of_many.close()


def awaited(settings: Settings) -> Iterator[Row]:
    """Rows 3 and 4."""
    yield from asyncio.run(_awaited(settings))


async def _awaited(settings: Settings) -> list[Row]:
    manager = memory_manager()
    plain = {key: key for key in KEYS}
    theirs = cashews.Cache()
    theirs.setup("mem://", size=SIZE)
    aio = aiocache.SimpleMemoryCache()
    for key in KEYS:
        manager.set(key, key)
        await theirs.set(key, key, expire=TTL)
        await aio.set(key, key, ttl=TTL)

    async def bare(key: str) -> Any:
        return plain.get(key)

    async def load(user_id: int) -> int:
        return user_id

    numbers = list(range(COUNT))
    calls: dict[str, tuple[Any, list[Any], int]] = {
        "tiercast": (manager.get_async, KEYS, 1000),
        "bare": (bare, KEYS, 1000),
        "cashews": (theirs.get, KEYS, 100),
        "aiocache": (aio.get, KEYS, 100),
        "@tiercast": (manager.cached(ttl=TTL, key="user:{user_id}")(load), numbers, 1000),
        "@cashews": (theirs(ttl=TTL, key="user:{user_id}")(load), numbers, 30),
        "@async_lru": (async_lru.alru_cache(maxsize=SIZE, ttl=TTL)(load), numbers, 500),
    }
    for name in ("@tiercast", "@cashews", "@async_lru"):
        for number in numbers:
            await calls[name][0](number)
    taken = await in_turn_async(
        {name: awaiting(call, given, times) for name, (call, given, times) in calls.items()}, settings.rounds(150)
    )
    settings.figures["awaited"] = {name: median(times) for name, times in taken.items()}
    rows = [
        compare("3", "`get_async`, hit in memory : cashews mem", taken, "tiercast", "cashews", 0.12),
        compare("3.bare", "the same : a bare coroutine around dict.get", taken, "tiercast", "bare", 4.0),
        Row("3.aiocache", "the same : aiocache memory", quotient(taken, "tiercast", "aiocache"),
            measured=both(taken, "tiercast", "aiocache")),
        compare("4", "`@cached` async hit : cashews' decorator on mem", taken, "@tiercast", "@cashews", 0.03),
        Row("4.async-lru", "the same : async_lru.alru_cache(ttl=)", quotient(taken, "@tiercast", "@async_lru"),
            measured=both(taken, "@tiercast", "@async_lru")),
    ]  # fmt: skip
    await manager.close_async()
    await theirs.close()
    return rows


def sampling(settings: Settings) -> Iterator[Row]:
    """Row 16: hits while one in a hundred is timed."""
    managers = {rate: CacheManager(CacheConfig(monitoring=MonitoringConfig(sample_rate=rate))) for rate in (0.0, 0.01)}
    for cache in managers.values():
        for key in KEYS:
            cache.set(key, key)
    region = managers[0.01].current_region()
    arm = _arming()
    plain = calling(managers[0.0].get, KEYS, 3000)
    timed = calling(managers[0.01].get, KEYS, 3000)

    def sampled() -> float:
        if arm is not None:
            arm(region, 30)  # as the housekeeper does: of the next hits as many are timed as the rate asks for
        return timed()

    taken = in_turn({"sampled": sampled, "plain": plain}, settings.rounds(400))
    yield compare("16", "hits of which one in 100 is timed : none", taken, "sampled", "plain", 1.05)
    for cache in managers.values():
        cache.close()


def _arming() -> Any:
    try:
        from tiercast.observing.sampling import arm
    except ImportError:
        return None
    return arm


def several(settings: Settings) -> Iterator[Row]:
    """Row 18."""
    count = 10_000
    manager = memory_manager(local=LocalCacheConfig(max_size=count))
    keys = [f"user:{number}" for number in range(count)]
    manager.multi_set(dict.fromkeys(keys, 1))

    def many(_: Any) -> None:
        manager.multi_get(keys)

    taken = in_turn({"multi": calling(many, [0], 1), "get": calling(manager.get, keys, count)}, settings.rounds(100))
    quotients = [one / count / other for one, other in zip(taken["multi"], taken["get"], strict=True)]
    yield Row(
        "18", "`multi_get` of 10,000 keys in memory : `get` of each", Spread.of(quotients), 0.8,
        measured=f"{shown(median(taken['multi']) / count)} : {shown(median(taken['get']))} a key",
    )  # fmt: skip
    manager.close()
