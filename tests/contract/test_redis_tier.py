"""The remote tier keeps the tier's contract: on one server, in a Cluster, on fakeredis."""

from __future__ import annotations

import pytest

from tiercast.config.settings import DistributedCacheConfig
from tiercast.connections import RedisConnections
from tiercast.testing import TierContract
from tiercast.tiers.redis import RedisTier


class RedisContract(TierContract):
    @pytest.fixture(autouse=True)
    def place(self, request):
        """Where Redis is, as arguments of DistributedCacheConfig."""
        self.options = {"connection_string": request.getfixturevalue(self.url)}

    def make_tier(self, tmp_path, clock):
        settings = DistributedCacheConfig(read_timeout=5, **self.options)
        return RedisTier(RedisConnections(settings, clock), "fleet", settings, clock)

    def plant(self, tier, address, data):
        tier.connections.execute([("SET", tier.key_of(address, "epoch-1"), data)])


class TestRedisTier(RedisContract):
    """One server."""

    url = "redis_url"


class TestRedisTierInACluster(RedisContract):
    """Three masters."""

    url = "redis_cluster_url"


class TestRedisTierOnFakeredis(RedisContract):
    """As in users' own tests."""

    @pytest.fixture(autouse=True)
    def place(self):
        fakeredis = pytest.importorskip("fakeredis")
        self.options = {"client": fakeredis.FakeRedis(server=fakeredis.FakeServer())}
