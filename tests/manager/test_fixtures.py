"""The shipped fixtures, and what memory-only regions may be told to do with values."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tiercast import CacheConfig, CacheManager, LocalCacheConfig, SerializationError, cached
from tiercast.testing import FakeClock

calls: list[str] = []


@cached(ttl=300, key="profile:{user_id}")
def profile(user_id: str) -> dict[str, str]:
    calls.append(user_id)
    return {"id": user_id}


def test_module_level_decorators_use_the_fixtures_manager(
    tiercast_manager: CacheManager, tiercast_clock: FakeClock
) -> None:
    """A decorated function caches in the fixture's manager, on the fixture's clock."""
    calls.clear()
    assert profile("7") == {"id": "7"} == profile("7")
    assert calls == ["7"]
    assert tiercast_manager.get("profile:7") == {"id": "7"}
    tiercast_clock.advance(timedelta(minutes=5))
    assert profile("7") == {"id": "7"}
    assert calls == ["7", "7"]


def test_the_next_test_starts_empty(tiercast_manager: CacheManager) -> None:
    """Nothing of another test is left."""
    assert tiercast_manager.get("profile:7") is None
    assert CacheManager.get_instance() is tiercast_manager


def test_strict_values_refuse_what_production_would() -> None:
    """`strict_values=True` makes a region of memory alone refuse what a tier below could not give back."""
    with CacheManager(CacheConfig(distributed=None, strict_values=True)) as cache:
        cache.set("k", {"fine": (1, 2)})
        with pytest.raises(SerializationError, match="inner"):
            cache.set("k", {"inner": object()})
        assert cache.get("k") == {"fine": (1, 2)}


def test_values_are_handed_out_by_reference() -> None:
    """By default every reader gets the one object that `set` took."""
    with CacheManager(CacheConfig(distributed=None)) as cache:
        value = [1]
        cache.set("k", value)
        assert cache.get("k") is value


def test_copy_on_read() -> None:
    """`copy_on_read` keeps what a reader does to the value from the others."""
    with CacheManager(CacheConfig(local=LocalCacheConfig(copy_on_read=True), distributed=None)) as cache:
        cache.set("k", {"a": [1]})
        cache.get("k")["a"].append(2)
        assert cache.get("k") == {"a": [1]}
        cache.get_or_set("k", dict)["a"].append(3)
        assert cache.multi_get(["k"]) == {"k": {"a": [1]}}


def test_copy_on_read_keeps_what_was_set() -> None:
    """Nor does it matter what becomes of the object that was set, loaded or set as of a position."""
    with CacheManager(CacheConfig(local=LocalCacheConfig(copy_on_read=True), distributed=None)) as cache:
        value = [1]
        cache.set("set", value)
        cache.multi_set({"several": value})
        cache.set("since", value, as_of=cache.position())
        cache.get_or_set("loaded", lambda: value)
        value.append(2)
        kept = cache.multi_get(["set", "several", "since", "loaded"])
        assert kept == {"set": [1], "several": [1], "since": [1], "loaded": [1]}


def test_freeze() -> None:
    """`freeze` hands out values that cannot be changed."""
    with CacheManager(CacheConfig(local=LocalCacheConfig(freeze=True), distributed=None)) as cache:
        cache.set("k", {"a": [1]})
        got = cache.get("k")
        assert got["a"] == (1,)
        with pytest.raises(TypeError):
            got["a"] = 2
        with pytest.raises(TypeError):
            cache.get_or_set("l", lambda: {"b": 1})["b"] = 2
