"""`cache.monitor` and `cache.stats()`: figures, windows, health and alerts."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from servers import RedisServer, wait_until
from stacks import config_of
from tiercast import Alert, CacheConfig, CacheManager, LocalCacheConfig, MonitoringConfig
from tiercast.observing.checks import disk_space
from tiercast.testing.clock import FakeClock


@pytest.fixture
def cache() -> Iterator[CacheManager]:
    with CacheManager(CacheConfig(regions={"other": {}})) as manager:
        yield manager


def test_figures_are_nested(cache: CacheManager) -> None:
    """Hit rates, sizes and counts stand under the names that the documentation gives."""
    for number in range(4):
        cache.set(f"k{number}", number)
    for number in range(8):
        cache.get(f"k{number}")
    stats = cache.monitor.get_stats()
    assert stats["hit_rate"]["overall"] == stats["hit_rate"]["local"] == 0.5
    assert stats["hits"] == {"overall": 4, "local": 4, "disk": 0, "remote": 0}
    assert stats["misses"]["overall"] == 4
    assert stats["size"]["local"] == 4
    assert stats["sets"]["overall"] == 4
    assert stats["regions"]["default"]["hit_rate"]["local"] == 0.5
    assert stats["regions"]["other"]["hits"]["overall"] == 0
    assert stats["coherence"]["position"] == 4
    assert stats["stale_served_total"] == 0


@pytest.mark.parametrize("stack", ["memory", "memory+disk", "disk"])
def test_only_reads_of_values_count(stack: str, tmp_path: Path) -> None:
    """Asking whether a key is there, how long it lives, or to keep it longer, is no hit, no miss, and told to nobody."""
    told: list[str] = []
    with CacheManager(config_of(stack, tmp_path, None)) as cache:
        cache.set("k", 1)
        if stack == "memory+disk":
            cache._runtime.default.memory.clear()
        cache.listen(on_hit=lambda event: told.append(event.tier), on_miss=lambda _: told.append("miss"))
        for key, there in (("k", True), ("absent", False)):
            assert cache.contains(key) is there
            assert (cache.ttl(key) is not None) is there
            assert cache.touch(key, 100) is there
            assert cache.tag_cache_key(key, ["t"]) is there
            assert cache.delete(key) is there
        stats = cache.monitor.get_stats()
    assert (stats["hits"]["overall"], stats["misses"]["overall"], told) == (0, 0, [])


def test_flat_figures_have_the_known_names(cache: CacheManager) -> None:
    """`stats()` is flat and has the names that older systems had."""
    cache.set("k", 1)
    cache.get("k")
    cache.get("absent")
    stats = cache.stats()
    wanted = {
        "hits": 1, "misses": 1, "evictions": 0, "current_size": 1, "total_keys": 1, "storage_type": "memory",
        "hit_rate": 0.5, "tracked_namespaces": 2,
    }  # fmt: skip
    assert wanted == {name: stats[name] for name in wanted}
    assert isinstance(stats["hit_rate"], float)


def test_a_million_gets_from_eight_threads_count_a_million(cache: CacheManager) -> None:
    """Hits are counted exactly, also while they are sampled."""
    for number in range(100):
        cache.set(f"k{number}", number)

    def work() -> None:
        get = cache.get
        for number in range(125_000):
            get(f"k{number % 100}")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        cache.monitor._sampler.tick(cache._runtime.default)  # sampling goes on and off meanwhile
        time.sleep(0.01)
    for thread in threads:
        thread.join()
    assert cache.monitor.get_stats()["hits"]["local"] == 1_000_000
    assert cache.stats()["hits"] == 1_000_000


def test_after_sampling_hits_take_the_short_way_again(cache: CacheManager) -> None:
    """A burst of timed hits ends by itself, and nothing of it stays on the hit path."""
    cache.set("k", 1)
    region = cache._runtime.default
    assert region.told == [True]
    for _ in range(200):
        cache.get("k")
    assert region.told == []
    assert region.touched == region.plain_touched
    assert cache.monitor.get_stats()["latency_stats"]["local"]["count"] == 100


def test_hits_of_decorated_functions_have_latencies_at_once(cache: CacheManager) -> None:
    """They pass by what times hits; whoever asks for figures after the first hits gets numbers all the same."""
    function = cache.cached(key="k:{x}")(lambda x: x)
    assert [function(1), function(1), function(1)] == [1, 1, 1]
    assert cache.monitor.analyze_performance()["latency_stats"]["local"]["p95"] > 0
    assert cache.monitor.get_stats()["hits"]["local"] == 2


def test_evictions_are_counted_by_cause() -> None:
    """Each way out of memory has a count of its own."""
    clock = FakeClock()
    config = CacheConfig(local=LocalCacheConfig(max_size=10), regions={"r": {"ttl": 5}})
    with CacheManager(config, clock=clock) as cache:
        for number in range(13):
            cache.set(f"a{number}", number)
        cache.set("k", 1)
        cache.delete("k")
        cache.set("t", 1, tags=["tag"])
        cache.set("p:1", 1)
        cache.invalidate_tags(["tag"])
        cache.invalidate_pattern("p:*")
        cache.set("e", 1, region="r")
        cache.set("x", 1, region="r")
        cache.clear("r")
        cache.get("e", region="r")
        cache.get("t")
        cache.get("p:1")
        cache._runtime.sweep()
        cache.set("late", 1, region="r")
        clock.advance(6)
        cache.get("late", region="r")
        stats = cache.monitor.get_stats()
    found = {cause: count for cause, count in stats["evictions"].items() if count}
    assert found.pop("size") >= 3
    assert {"key": 1, "tag": 1, "pattern": 1, "region": 2, "expiry": 1} == {
        name: found[name] for name in ("key", "tag", "pattern", "region", "expiry")
    }


def test_bytes_are_a_cause_of_their_own() -> None:
    """An entry that goes for want of bytes is counted so, and the bytes held are told."""
    with CacheManager(CacheConfig(local=LocalCacheConfig(max_bytes=20_000))) as cache:
        for number in range(30):
            cache.set(f"k{number}", "x" * 1000)
        stats = cache.monitor.get_stats()
    assert stats["evictions"]["bytes"] > 0
    assert 0 < stats["size"]["local_bytes"] <= 20_000


def test_performance_is_of_the_window() -> None:
    """A window has the hit rates of that time only, and quantiles in milliseconds."""
    clock = FakeClock()
    with CacheManager(CacheConfig(), clock=clock) as cache:
        for number in range(50):
            cache.get(f"absent{number}")
        for _ in range(10):
            clock.advance(61)
            cache.monitor._slice()
        cache.set("k", 1)
        for _ in range(50):
            cache.get("k")
        clock.advance(30)
        recent, everything = cache.monitor.analyze_performance(300), cache.monitor.analyze_performance(time_window=3600)
        assert recent["hit_rates"]["overall"] == 1.0
        assert everything["hit_rates"]["overall"] == 0.5
        assert 300 <= recent["window"] < 400
        p95 = everything["latency_stats"]["local"]["p95"]
        assert 0 < p95 < 1
        assert cache.monitor.analyze_performance(timedelta(minutes=5))["hit_rates"] == recent["hit_rates"]
        assert everything["latency_stats"]["remote"]["p95"] is None
        with pytest.raises(ValueError, match="time_window must be greater than 0"):
            cache.monitor.analyze_performance(0)
        with pytest.raises(TypeError, match="time_window must be a number of seconds"):
            cache.monitor.analyze_performance("3600")  # type: ignore[arg-type]


def test_loads_are_timed_and_their_errors_counted(cache: CacheManager) -> None:
    """Loaders are counted with their time and their errors."""
    cache.get_or_set("k", lambda: time.sleep(0.02))
    with pytest.raises(ZeroDivisionError):
        cache.get_or_set("bad", lambda: 1 / 0)
    stats = cache.monitor.get_stats()
    assert stats["loads"]["overall"] == 2
    assert stats["loads"]["errors"] == stats["errors"]["loader"] == 1
    assert 0.019 <= stats["loads"]["seconds"] < 1
    assert stats["fills"]["stored"] == 1


def test_tiers_below_are_timed_and_their_bytes_counted(tmp_path: Path, redis_url: str) -> None:
    """Reads, writes and codecs of the tiers below memory have times and bytes."""
    with CacheManager(config_of("memory+disk+redis", tmp_path / "a", redis_url)) as first:
        first.set("k", {"value": "x" * 100})
        with CacheManager(config_of("redis", tmp_path, redis_url)) as second:
            assert second.get("k") == {"value": "x" * 100}
            stats = second.monitor.get_stats()
            assert stats["hits"] == {"overall": 1, "local": 0, "disk": 0, "remote": 1}
            assert stats["latency_stats"]["remote"]["get"]["count"] == 1
            assert stats["codec"]["remote"]["bytes_decoded"] > 100
            assert stats["codec"]["remote"]["decode_seconds"] > 0
            assert stats["tiers"]["remote"]["breaker"] == "closed"
        stats = first.monitor.get_stats()
        assert stats["size"]["disk"] == 1
        assert stats["size"]["disk_bytes"] > 0
        assert stats["latency_stats"]["disk"]["put"]["count"] >= 1


def test_without_monitoring_nothing_is_timed(tmp_path: Path) -> None:
    """`enabled=False` keeps the counters and takes no times."""
    config = config_of("memory+disk", tmp_path / "a", None, monitoring=MonitoringConfig(enabled=False))
    with CacheManager(config) as cache:
        cache.set("k", 1)
        cache.get("k")
        stats = cache.monitor.get_stats()
        assert stats["hits"]["local"] == 1
        assert stats["latency_stats"]["local"]["count"] == stats["latency_stats"]["disk"]["count"] == 0
        assert cache._runtime.default.told == []


def test_propagation_delay_is_measured_on_the_records_of_others(tmp_path: Path, redis_url: str) -> None:
    """How old the records of another process are when they come is known, by whose clock it is."""
    with (
        CacheManager(config_of("memory+redis", tmp_path, redis_url)) as one,
        CacheManager(config_of("memory+redis", tmp_path, redis_url)) as other,
    ):
        for manager in (one, other):
            manager.coherence.start()
        one.invalidate_tags(["t"])
        other.coherence.settle()
        same_host = other.monitor.get_stats()["coherence"]["propagation"]["same_host"]
        assert same_host["count"] == 1
        assert 0 <= same_host["p50"] < 5000
        assert one.monitor.get_stats()["coherence"]["propagation"]["same_host"]["count"] == 0


class TestHealth:
    def test_a_healthy_cache(self, tmp_path: Path, redis_url: str) -> None:
        """Every part of a working cache is true."""
        with CacheManager(config_of("memory+disk+redis", tmp_path / "a", redis_url)) as cache:
            health = cache.monitor.check_health()
            assert list(health) == [
                "overall", "local", "disk", "remote", "breaker", "bus", "proof", "outbox", "disk_space", "audit",
            ]  # fmt: skip
            assert all(health.values()), health["overall"].reason
            assert asyncio.run(cache.monitor.check_health_async())["overall"]

    def test_without_redis(self, tmp_path: Path, own_redis: RedisServer) -> None:
        """What is unhealthy is false and says why."""
        with CacheManager(config_of("memory+redis", tmp_path, own_redis.url)) as cache:
            assert cache.monitor.check_health()["overall"]
            own_redis.kill()
            cache.invalidate_tags(["t"])
            wait_until(lambda: not cache._runtime.listener.connected, what="an end of the bus")
            with cache._runtime.ledger.lock:
                cache._runtime.ledger.proven_until = float("-inf")  # as after max_staleness
            health = cache.monitor.check_health()
            wrong = {name for name, part in health.items() if not part}
            assert {"overall", "remote", "bus", "proof", "outbox"} <= wrong
            assert health["local"]
            for name in wrong:
                assert health[name].reason, name
            assert "outbox: invalidations wait" in health["overall"].reason
            own_redis.start()
            wait_until(lambda: cache.monitor.check_health()["overall"], what="recovery")

    def test_a_directory_that_may_not_be_looked_into(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is unhealthy with its reason; the check itself goes on."""

        def denied(path: Path) -> bool:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Path, "exists", denied)
        health = disk_space([str(tmp_path)], lambda path: None)
        assert not health
        assert "Permission denied" in health.reason

    def test_a_full_disk(self, tmp_path: Path) -> None:
        """Too little room is unhealthy before writes begin to fail."""

        def full(path: str) -> Any:
            return SimpleNamespace(f_bavail=10, f_frsize=4096)

        health = disk_space([str(tmp_path / "not" / "yet")], full)
        assert not health
        assert "only 0 MB are free" in health.reason

    def test_a_closed_manager(self) -> None:
        """A closed manager is unhealthy, not an error."""
        cache = CacheManager(CacheConfig())
        cache.close()
        assert not cache.monitor.check_health()["overall"]


class TestAlerts:
    def test_once_per_crossing_and_once_on_recovery(self) -> None:
        """A threshold's function is called when it is crossed and when that ends, and at no other time."""
        calls: list[tuple[str, float, bool]] = []
        alert = Alert(metric="hit_rate.overall", below=0.5, call=lambda a, v, c: calls.append((a.metric, v, c)))
        with CacheManager(CacheConfig(monitoring=MonitoringConfig(alerts=[alert]))) as cache:
            look = cache.monitor.check_alerts
            look()
            cache.get("absent")
            look()
            look()
            cache.set("k", 1)
            for _ in range(3):
                cache.get("k")
            look()
            look()
        assert calls == [("hit_rate.overall", 0.0, True), ("hit_rate.overall", 0.75, False)]

    def test_they_are_looked_at_in_the_background(self) -> None:
        """Nobody has to ask: thresholds are compared every `check_interval`."""
        crossed = threading.Event()
        alert = Alert(metric="misses.overall", above=0, call=lambda *_: crossed.set())
        with CacheManager(CacheConfig(monitoring=MonitoringConfig(alerts=[alert], check_interval=0.05))) as cache:
            cache.get("absent")
            assert crossed.wait(10)

    @pytest.mark.parametrize(
        ("metric", "says"),
        [
            ("coherence.provn", "no 'provn' (yet); did you mean 'proven'?"),
            ("coherance.proven", "did you mean 'coherence'?"),
        ],
    )
    def test_a_slip_in_a_name_is_heard_of(self, caplog: pytest.LogCaptureFixture, metric: str, says: str) -> None:
        """An alert on what is no figure would never be told: that is logged, once. What has no value yet is no slip."""
        alerts = [
            Alert(metric=name, below=1, call=print)
            for name in (metric, "latency_stats.distributed.p95", "hit_rate.overall")
        ]
        with (
            CacheManager(CacheConfig(monitoring=MonitoringConfig(alerts=alerts))) as cache,
            caplog.at_level(logging.WARNING, "tiercast.monitoring"),
        ):
            cache.monitor.check_alerts()
            cache.monitor.check_alerts()
        (message,) = [record.getMessage() for record in caplog.records]
        assert metric in message
        assert says in message

    def test_what_they_raise_is_counted(self, caplog: pytest.LogCaptureFixture) -> None:
        """A failing function is counted and logged, and looked at no more often than others."""

        def fail(*_: object) -> None:
            raise RuntimeError("made up")

        alerts = [Alert(metric="misses.overall", above=0, call=fail)]
        with CacheManager(CacheConfig(monitoring=MonitoringConfig(alerts=alerts))) as cache:
            cache.get("absent")
            with caplog.at_level(logging.WARNING, "tiercast.monitoring"):
                cache.monitor.check_alerts()
            assert cache.monitor._alerts.failures.value == 1
        assert "made up" in caplog.text


def test_logging_is_quiet_by_default() -> None:
    """The library's logger has a handler that says nothing, so that nothing is printed where logging is not set up."""
    with CacheManager(CacheConfig()):
        pass
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger("tiercast").handlers)


def test_a_forked_child_counts_anew(tmp_path: Path) -> None:
    """What was counted before a fork is the parent's, so that adding up the workers of a host counts nothing twice."""
    import os

    with CacheManager(CacheConfig()) as cache:
        cache.set("k", 1)
        for _ in range(10):
            cache.get("k")
        child = os.fork()
        if not child:
            try:
                cache.set("k", 1)
                cache.get("k")
                stats = cache.monitor.get_stats()
                os._exit(0 if stats["hits"]["local"] == 1 and stats["sets"]["overall"] == 1 else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert cache.monitor.get_stats()["hits"]["local"] == 10


def test_async_twins_answer_the_same(cache: CacheManager) -> None:
    """Every method has a twin for tasks."""
    cache.set("k", 1)
    cache.get("k")

    async def ask() -> tuple[Any, Any, Any]:
        return (
            await cache.monitor.get_stats_async(),
            await cache.monitor.analyze_performance_async(time_window=60),
            await cache.fleet_async(),
        )

    stats, performance, fleet = asyncio.run(ask())
    assert stats["hits"] == cache.monitor.get_stats()["hits"]
    assert performance["hit_rates"]["overall"] == 1.0
    assert [process.self for process in fleet] == [True]
