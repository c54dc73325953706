"""What the network delivers after its sender has given up."""

from __future__ import annotations

import pytest

from servers import RedisServer, TcpProxy, wait_until
from tiercast import CacheConfig, CacheManager, CoherenceConfig, DeliveryError, DistributedCacheConfig

BRISK = CoherenceConfig(max_staleness=1.5, heartbeat=0.3)


def manager(url: str) -> CacheManager:
    remote = DistributedCacheConfig(connection_string=url, write_timeout=0.5, breaker_reset=0.2)
    return CacheManager(CacheConfig(name="late", distributed=remote, coherence=BRISK))


@pytest.mark.parametrize("require", [True, False])
def test_a_set_that_arrives_after_its_sender_gave_up_brings_no_value(own_redis: RedisServer, require: bool) -> None:
    """Its record may take a place in the log; its value is older than what others have set since."""
    with TcpProxy(own_redis.url) as wire, manager(wire.url) as cut, manager(own_redis.url) as other:
        for cache in (cut, other):
            cache.coherence.start()
        wire.blackhole()
        try:
            assert not cut.set("key", "older", require_delivery=require).delivered
        except DeliveryError:
            assert require
        other.set("key", "newer")
        position = other.coherence.status().position
        wire.pass_through()
        wait_until(lambda: other.coherence.status().position > position, 10, "the late record")
        for cache in (cut, other):
            cache.coherence.settle()
            assert cache.get("key") in {None, "newer"}
