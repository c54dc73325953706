"""`cache.listen`: users' callables."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from servers import wait_until
from stacks import config_of
from tiercast import CacheConfig, CacheManager, LocalCacheConfig


@pytest.fixture
def cache() -> Iterator[CacheManager]:
    with CacheManager(CacheConfig(local=LocalCacheConfig(max_size=3))) as manager:
        yield manager


def test_each_event_is_told(cache: CacheManager) -> None:
    """Hits, misses, fills, evictions, invalidations and errors are told with what they happened to."""
    events: list[Any] = []
    names = ("hit", "miss", "fill", "evict", "invalidate", "error")
    cache.listen(**{f"on_{name}": events.append for name in names})
    cache.get_or_set("k", lambda: 1)
    cache.get("k")
    cache.multi_get(["k", "absent"])
    with pytest.raises(ZeroDivisionError):
        cache.get_or_set("bad", lambda: 1 / 0)
    cache.delete("k")
    cache.invalidate_tags(["t"])
    for number in range(4):
        cache.set(f"s{number}", number)

    def told(name: str, *fields: str) -> list[Any]:
        return [tuple(getattr(each, field) for field in fields) for each in events if each.event == name]

    wait_until(lambda: len(told("evict")) == 2 and len(told("invalidate")) == 6, 10, "what is told in the background")
    assert told("hit", "region", "key", "tier") == [("default", "k", "local")] * 2
    assert told("miss", "key") == [("k",), ("absent",), ("bad",)]
    assert told("fill", "key") == [("k",)]
    assert told("evict", "key", "cause") == [("k", "key"), ("s0", "size")]
    assert told("invalidate", "cause", "position")[:2] == [("key", 1), ("tag", 2)]
    ((key, tier, error),) = told("error", "key", "tier", "error")
    assert (key, tier) == ("bad", "loader")
    assert isinstance(error, ZeroDivisionError)


def test_listening_ends(cache: CacheManager) -> None:
    """What `listen` returns ends it; calling that twice does no harm, and hits are what they were."""
    heard: list[Any] = []
    cache.set("k", 1)
    ends = cache.listen(on_hit=heard.append)
    cache.get("k")
    assert cache._runtime.default.told == [True]
    ends()
    ends()
    cache.get("k")
    assert len(heard) == 1
    assert cache._runtime.default.told == []


def test_a_failing_listener_harms_nobody(cache: CacheManager, caplog: pytest.LogCaptureFixture) -> None:
    """What a listener raises is counted and logged; the operation and the other listeners go on."""
    heard: list[Any] = []

    def fail(event: Any) -> None:
        raise RuntimeError("made up")

    cache.listen(on_hit=fail)
    cache.listen(on_hit=heard.append)
    cache.set("k", 1)
    with caplog.at_level(logging.WARNING, "tiercast.monitoring"):
        assert cache.get("k") == 1
    assert len(heard) == 1
    assert cache.monitor.get_stats()["listeners"]["errors"] == 1
    assert "made up" in caplog.text


def test_what_is_not_callable_is_refused(cache: CacheManager) -> None:
    """A listener must be callable."""
    with pytest.raises(TypeError, match="on_hit must be callable"):
        cache.listen(on_hit=1)  # type: ignore[arg-type]


def test_hits_of_decorated_functions_are_heard(cache: CacheManager) -> None:
    """A decorated function's hits are told like any other, and cost nothing once nobody listens."""
    heard: list[Any] = []

    @cache.cached(key="user:{user_id}")
    def load(user_id: int) -> int:
        return user_id

    for _ in range(3):
        load(1)
    ends = cache.listen(on_hit=heard.append)
    load(1)
    load(1)
    ends()
    load(1)
    assert [event.key for event in heard] == ["user:1", "user:1"]
    assert load.stats().hits == 5


def test_a_region_made_while_somebody_listens_is_heard(cache: CacheManager) -> None:
    """Listening reaches regions that are first used later."""
    heard: list[Any] = []
    cache.listen(on_hit=heard.append)
    cache.set("k", 1, region="later")
    cache.get("k", region="later")
    assert [(event.region, event.key) for event in heard] == [("later", "k")]


def test_tiers_below_are_heard(tmp_path: Path, redis_url: str) -> None:
    """A hit in Redis says so, and a tier that fails is told as an error."""
    events: list[Any] = []
    with CacheManager(config_of("redis", tmp_path, redis_url)) as cache:
        cache.listen(on_hit=events.append, on_error=events.append)
        cache.set("k", 1)
        cache.get("k")
        assert [(event.event, event.tier) for event in events] == [("hit", "remote")]
