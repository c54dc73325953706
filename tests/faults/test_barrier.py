"""After a barrier returned, no live process serves what was invalidated (G5): real processes, real delays."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faults.puppet import Puppet
from servers import RedisServer, TcpProxy
from tiercast import BarrierTimeout, CacheConfig, CacheManager

pytestmark = pytest.mark.fault

MAX_STALENESS = 0.8
COHERENCE = {"max_staleness": MAX_STALENESS, "heartbeat": 0.2}
LEASE = 2 * MAX_STALENESS


@pytest.fixture(params=["disk", "redis"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """What all processes of a fleet are told: by Redis, or by the disk log."""
    if request.param == "redis":
        return {"name": "barrier", "distributed": request.getfixturevalue("own_redis").url, "coherence": COHERENCE}
    return {"disk": str(tmp_path / "cache"), "coherence": COHERENCE}


@contextlib.contextmanager
def fleet(*configs: dict[str, Any]) -> Iterator[list[Puppet]]:
    with contextlib.ExitStack() as stack:
        puppets = [stack.enter_context(Puppet(**config)) for config in configs]
        for puppet in puppets:
            puppet.do("start")
        yield puppets


def test_when_it_returns_nobody_serves_the_old_value(config: dict[str, Any]) -> None:
    """Round after round, whatever the kind of invalidation: the next read of every process misses."""
    with fleet(config, config, config) as puppets, CacheManager(CacheConfig.from_dict(config)) as cache:
        for number in range(16):
            for puppet in puppets:
                assert puppet.do("load", "key", number, tags=["tag"]) == number
            kind = number % 4
            if kind == 0:
                cache.invalidate_keys(["key"], barrier=5.0)
            elif kind == 1:
                cache.invalidate_tags(["tag"], barrier=5.0)
            elif kind == 2:
                cache.invalidate_pattern("k*", barrier=5.0)
            else:
                cache.clear(barrier=5.0)
            assert [puppet.do("get", "key") for puppet in puppets] == [None, None, None]


def test_where_all_are_well_it_does_not_wait_for_heartbeats(config: dict[str, Any]) -> None:
    """Whoever is missing is asked, and says at once how far it is: here heartbeats are half a minute apart."""
    config = {**config, "coherence": {"max_staleness": 60.0, "heartbeat": 30.0}}
    with fleet(config, config, config), CacheManager(CacheConfig.from_dict(config)) as cache:
        cache.coherence.start()
        took = []
        for number in range(10):
            began = time.monotonic()
            cache.invalidate_keys([f"key:{number}"], barrier=20.0)
            took.append(time.monotonic() - began)
        assert sorted(took)[5] < 1.0
        assert max(took) < 10.0


def test_it_waits_for_who_hears_late(own_redis: RedisServer) -> None:
    """A process behind a slow wire still serves the old value when the invalidation returns, and not after the barrier."""
    config = {"name": "barrier", "distributed": own_redis.url, "coherence": {"max_staleness": 5.0, "heartbeat": 1.0}}
    with TcpProxy(own_redis.url) as wire, CacheManager(CacheConfig.from_dict(config)) as cache:
        slow = {**config, "distributed": {"connection_string": wire.url, "read_timeout": 2.0, "write_timeout": 4.0}}
        with fleet(slow) as (puppet,):
            assert puppet.do("load", "key", "old") == "old"
            wire.delay(0.3)
            cache.invalidate_keys(["key"])
            assert puppet.do("get", "key") == "old"
            cache.set("key", "new", barrier=10.0)
            wire.delay(0.0)
            assert puppet.do("get", "key") in {None, "new"}


def test_it_names_who_has_not_applied(config: dict[str, Any]) -> None:
    """A stopped process is named, and the result says that the record stands nonetheless."""
    with fleet(config, config) as (first, second), CacheManager(CacheConfig.from_dict(config)) as cache:
        cache.coherence.start()
        name = second.do("status")["member"]
        second.stop()
        with pytest.raises(BarrierTimeout) as raised:
            cache.invalidate_keys(["key"], barrier=1.2)
        second.resume()
        assert raised.value.missing == (name,)
        assert raised.value.result.delivered
        assert first.do("get", "key") is None
        cache.invalidate_keys(["key"], barrier=10.0)


def test_the_dead_hold_it_up_no_longer_than_their_lease(config: dict[str, Any]) -> None:
    """A process that was killed could be cut off and serving: its lease and `max_staleness` are waited out, no more."""
    with fleet(config, config) as (_, second), CacheManager(CacheConfig.from_dict(config)) as cache:
        cache.coherence.start()
        second.kill()
        began = time.monotonic()
        cache.invalidate_keys(["key"], barrier=LEASE + 2 * MAX_STALENESS + 2)
        assert time.monotonic() - began < LEASE + 2 * MAX_STALENESS + 1
        began = time.monotonic()
        cache.invalidate_keys(["key"], barrier=5.0)
        assert time.monotonic() - began < LEASE


def test_whom_it_cannot_reach_has_stopped_serving_when_it_returns(own_redis: RedisServer) -> None:
    """A live process behind a blackhole: the barrier returns only when that process can no longer trust its memory."""
    config = {"name": "barrier", "distributed": own_redis.url, "coherence": COHERENCE}
    with TcpProxy(own_redis.url) as wire, CacheManager(CacheConfig.from_dict(config)) as cache:
        with fleet({**config, "distributed": wire.url}) as (puppet,):
            cache.coherence.start()
            assert puppet.do("load", "key", "old") == "old"
            wire.blackhole()
            cache.invalidate_keys(["key"], barrier=LEASE + 2 * MAX_STALENESS + 2)
            assert puppet.do("load", "key", "new") == "new"
            wire.pass_through()


def test_it_returns_where_all_have_left(config: dict[str, Any]) -> None:
    """Who closed deregistered, and nobody waits for it."""
    with fleet(config) as (puppet,), CacheManager(CacheConfig.from_dict(config)) as cache:
        cache.coherence.start()
        assert puppet.process.stdin is not None
        puppet.process.stdin.close()
        assert puppet.process.wait(10) == 0
        began = time.monotonic()
        cache.invalidate_keys(["key"], barrier=5.0)
        assert time.monotonic() - began < LEASE
