"""What Prometheus scrapes: from one process, from four, and after forks."""

from __future__ import annotations

import json
import os
import re
import socket
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from fleet_worker import working
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from servers import wait_until
from stacks import config_of
from tiercast import CacheConfig, CacheManager, MonitoringConfig, ScopeConfig, ScopeLevel

FORBIDDEN = ("key", "tag", "scope", "tenant", "user")
DASHBOARD = Path(__file__).parent.parent.parent / "docs" / "grafana.json"


def scrape(port: int | None) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return parsed(answer.read().decode())


def parsed(text: str) -> dict[str, Any]:
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(families: dict[str, Any], name: str, **labels: str) -> float:
    """The sum of a family's samples that carry the labels; `name` is the sample's."""
    return sum(
        sample.value
        for family in families.values()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_one_process_serves_its_figures(tmp_path: Path, redis_url: str) -> None:
    """`prometheus_export` serves all figures from the first use until the end, in the text format."""
    monitoring = MonitoringConfig(prometheus_export=True, export_port=0)
    cache = CacheManager(config_of("memory+disk+redis", tmp_path / "a", redis_url, monitoring=monitoring))
    assert cache.monitor.exporter is None, "no port before the first use"
    with cache:
        cache.set("k", {"a": 1})
        cache.coherence.settle()  # proven: each get is a hit of memory, and the first hits are all timed
        for _ in range(9):
            cache.get("k")
        cache.get("absent")
        port = cache.monitor.exporter.port
        found = scrape(port)
        assert value(found, "cache_hits_total", tier="local") == 9
        assert value(found, "cache_misses_total") == 1
        assert value(found, "cache_errors_total") == 0
        assert value(found, "cache_hit_rate", tier="overall", region="default") == 0.9
        assert value(found, "cache_size", tier="local") == 1
        # A tick in between has timed a few look-ups of its own.
        assert value(found, "cache_operation_latency_milliseconds_count", tier="local", operation="get") >= 9
        assert value(found, "cache_operation_latency_milliseconds_count", tier="remote", operation="get") == 1
        assert value(found, "tiercast_proven") == 1
        assert value(found, "tiercast_stale_served_total") == 0
    with pytest.raises(OSError, match="refused"):
        scrape(port)


def test_histograms_are_cumulative() -> None:
    """Buckets grow up to the count, as the format demands."""
    with CacheManager(CacheConfig()) as cache:
        for number in range(50):
            cache.get_or_set(f"k{number}", lambda: 1)
        registry = CollectorRegistry()
        cache.monitor.register(registry)
        found = parsed(generate_latest(registry).decode())
    samples = [
        sample
        for sample in found["cache_operation_latency_milliseconds"].samples
        if sample.labels["tier"] == "loader" and sample.name.endswith("_bucket")
    ]
    counts = [sample.value for sample in samples]
    assert counts == sorted(counts)
    assert samples[-1].labels["le"] == "+Inf"
    assert counts[-1] == 50
    bounds = [float(sample.labels["le"]) for sample in samples]
    assert bounds == sorted(set(bounds))


def test_no_label_holds_what_users_bring() -> None:
    """Keys, tags and tenants are in no label and no sample's name, whatever they are."""
    scopes = ScopeConfig([ScopeLevel("tenant", "tenant_id")])
    with CacheManager(CacheConfig(scopes=scopes)) as cache:
        cache.set("secret-key", 1, tags=["secret-tag"], tenant_id="secret-tenant")
        cache.get("secret-key", tenant_id="secret-tenant")
        cache.invalidate_tags(["secret-tag"])
        registry = CollectorRegistry()
        cache.monitor.register(registry)
        text = generate_latest(registry).decode()
    assert "secret" not in text
    labels = {label for family in parsed(text).values() for sample in family.samples for label in sample.labels}
    assert labels == {"cache", "region", "tier", "kind", "cause", "operation", "le", "clock"} - (
        set() if "cause" in labels else {"cause"}
    )
    assert labels.isdisjoint(FORBIDDEN)


def test_four_workers_are_scraped_as_one(environ: dict[str, str], redis_url: str, tmp_path: Path) -> None:
    """With PROMETHEUS_MULTIPROC_DIR, a scrape of the one port gives the sum of four processes, exactly."""
    environ["PROMETHEUS_MULTIPROC_DIR"] = str(tmp_path / "metrics")
    port = free_port()
    hits = [100, 200, 300, 400]
    with working(environ, 4, redis=redis_url, name="four", hits=hits, misses=[1, 2, 3, 4], port=port) as workers:
        assert [worker.said["port"] for worker in workers].count(port) == 1
        total = sum(worker.said["stats"]["local_hits"] for worker in workers)
        assert total >= 1000
        found = scrape(port)
        assert value(found, "cache_hits_total", tier="local") == total
        assert value(found, "cache_misses_total") == sum(worker.said["stats"]["misses"] for worker in workers)
        assert value(found, "tiercast_processes") == 4
        assert value(found, "cache_size", tier="local") == 4
        assert value(found, "tiercast_members") == 4
        assert value(found, "tiercast_loads_total") == sum(worker.said["stats"]["loads"] for worker in workers)
        server = next(worker for worker in workers if worker.said["port"] == port)
        server.close()
        # Another takes the port over; counters do not go back, gauges are of those that live.
        wait_until(lambda: value(scrape(port), "tiercast_processes") == 3, what="another worker on the port")
        after = scrape(port)
        assert value(after, "cache_hits_total", tier="local") == total
        assert value(after, "cache_size", tier="local") == 3
        workers.remove(server)


def test_four_workers_on_ports_of_their_own(environ: dict[str, str], redis_url: str) -> None:
    """Without it, each process serves itself, on the next free port."""
    port = free_port()
    with working(environ, 4, redis=redis_url, name="own", hits=[10, 20, 30, 40], misses=0, port=port) as workers:
        ports = [worker.said["port"] for worker in workers]
        assert len(set(ports)) == 4
        assert min(ports) >= port
        for worker in workers:
            found = scrape(worker.said["port"])
            assert value(found, "cache_hits_total", tier="local") == worker.said["stats"]["local_hits"]
            assert value(found, "tiercast_processes") == 1


def test_an_applications_registry_shows_all_workers(
    environ: dict[str, str], redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry that the application serves itself has the figures of every worker too."""
    environ["PROMETHEUS_MULTIPROC_DIR"] = str(tmp_path)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    with working(environ, 2, redis=redis_url, name="tiercast", hits=[5, 6], misses=0) as workers:
        with CacheManager(config_of("memory+redis", tmp_path, redis_url)) as cache:
            registry = CollectorRegistry()
            cache.monitor.register(registry)
            cache.set("mine", 1)
            cache.get("mine")
            found = parsed(generate_latest(registry).decode())
        wanted = 1 + sum(worker.said["stats"]["local_hits"] for worker in workers)
        assert value(found, "cache_hits_total", tier="local") == wanted


def test_a_forked_worker_serves_itself() -> None:
    """A child does not keep its parent's port, and counts nothing of its parent's."""
    monitoring = MonitoringConfig(prometheus_export=True, export_port=0)
    with CacheManager(CacheConfig(monitoring=monitoring)) as cache:
        cache.set("k", 1)
        cache.get("k")
        parent = cache.monitor.exporter.port
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            try:
                cache.get("absent")
                port = cache.monitor.exporter.port
                found = scrape(port)
                os.write(writer, json.dumps([port, value(found, "cache_hits_total")]).encode())
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        port, hits = json.loads(os.read(reader, 1000))
        os.close(reader)
        os.close(writer)
        assert port != parent
        assert hits == 0
        assert value(scrape(parent), "cache_hits_total") == 1


def test_the_dashboard_names_what_is_exported(tmp_path: Path, redis_url: str) -> None:
    """Every metric that the Grafana dashboard asks for is one that a running exporter gives."""
    monitoring = MonitoringConfig(prometheus_export=True, export_port=0)
    with CacheManager(config_of("memory+disk+redis", tmp_path / "a", redis_url, monitoring=monitoring)) as cache:
        cache.set("k", 1)
        cache.delete("k")
        cache.get_or_set("j", lambda: 1)
        cache.get("j")
        families = scrape(cache.monitor.exporter.port)
    given = {sample.name for family in families.values() for sample in family.samples}
    dashboard = json.loads(DASHBOARD.read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    assert len(asked) >= 15
    named = {name for text in asked for name in re.findall(r"\b(?:cache|tiercast)_[a-z_]+", text)}
    assert named <= given
    assert len(named) >= 15
