"""What OpenTelemetry is told, through the SDK's in-memory exporters."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from stacks import config_of
from tiercast import CacheManager


class Telemetry:
    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])

    def spans(self) -> list[Any]:
        found = sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time)
        self.exporter.clear()
        return found

    def metrics(self) -> dict[str, list[Any]]:
        data = self.reader.get_metrics_data()
        scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics]
        return {metric.name: list(metric.data.data_points) for scope in scopes for metric in scope.metrics}


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    telemetry = Telemetry()
    yield telemetry
    telemetry.tracers.shutdown()
    telemetry.meters.shutdown()


def test_a_load_is_a_trace(tmp_path: Path, redis_url: str, telemetry: Telemetry) -> None:
    """get_or_set → tier → loader are spans of one trace; the spans that a loader opens lie in the loader's."""
    own = telemetry.tracers.get_tracer("the application")
    with CacheManager(config_of("memory+disk+redis", tmp_path / "a", redis_url)) as cache:
        cache.coherence.start()
        end = cache.monitor.instrument(tracer_provider=telemetry.tracers, meter_provider=telemetry.meters)

        def load() -> int:
            with own.start_as_current_span("query"):
                return 1

        cache.get_or_set("secret", load)
        spans = telemetry.spans()
        names = [span.name for span in spans]
        root = spans[0]
        assert names[0] == "tiercast.get_or_set"
        assert root.parent is None
        assert names.index("tiercast.disk.get") < names.index("tiercast.remote.get") < names.index("tiercast.load")
        assert {"tiercast.remote.put", "tiercast.disk.put"} <= set(names)
        assert {span.context.trace_id for span in spans} == {root.context.trace_id}
        by_name = {span.name: span for span in spans}
        for name in ("tiercast.disk.get", "tiercast.remote.get", "tiercast.load", "tiercast.remote.put"):
            assert by_name[name].parent.span_id == root.context.span_id
        assert by_name["query"].parent.span_id == by_name["tiercast.load"].context.span_id
        remote = by_name["tiercast.remote.get"]
        assert remote.kind is SpanKind.CLIENT
        assert remote.attributes["db.system.name"] == "redis"
        assert remote.attributes["tiercast.region"] == "default"
        assert "secret" not in str([(span.name, dict(span.attributes)) for span in spans])
        end()
        cache.get_or_set("other", load)
        assert [span.name for span in telemetry.spans()] == ["query"]


def test_tasks_do_not_mix_their_spans(tmp_path: Path, redis_url: str, telemetry: Telemetry) -> None:
    """Loads of many tasks at once each make a trace of their own."""

    async def work(cache: CacheManager) -> None:
        async def load() -> int:
            await asyncio.sleep(0.01)
            return 1

        await asyncio.gather(*(cache.get_or_set_async(f"k{number}", load) for number in range(20)))

    with CacheManager(config_of("memory+redis", tmp_path, redis_url)) as cache:
        cache.coherence.start()
        cache.monitor.instrument(tracer_provider=telemetry.tracers, meter_provider=telemetry.meters)
        asyncio.run(work(cache))
    traces: dict[int, list[str]] = {}
    for span in telemetry.spans():
        traces.setdefault(span.context.trace_id, []).append(span.name)
    loads = [names for names in traces.values() if "tiercast.get_or_set" in names]
    assert len(loads) == 20
    for names in loads:
        assert names.count("tiercast.get_or_set") == names.count("tiercast.load") == 1


def test_an_error_is_in_its_span(tmp_path: Path, telemetry: Telemetry) -> None:
    """What a loader raises marks its span and that of the operation."""
    with CacheManager(config_of("memory", tmp_path, None)) as cache:
        cache.monitor.instrument(tracer_provider=telemetry.tracers, meter_provider=telemetry.meters)
        with pytest.raises(ZeroDivisionError):
            cache.get_or_set("k", lambda: 1 / 0)
    spans = {span.name: span for span in telemetry.spans()}
    for name in ("tiercast.get_or_set", "tiercast.load"):
        assert spans[name].status.status_code is StatusCode.ERROR
        assert spans[name].events[0].attributes["exception.type"] == "ZeroDivisionError"


def test_metrics_are_read_when_collected(tmp_path: Path, redis_url: str, telemetry: Telemetry) -> None:
    """The SDK's reader sees the counts as they are then, and the durations of what was done."""
    with CacheManager(config_of("memory+redis", tmp_path, redis_url)) as cache:
        cache.monitor.instrument(tracer_provider=telemetry.tracers, meter_provider=telemetry.meters)
        cache.get_or_set("k", lambda: 1)
        for _ in range(5):
            cache.get("k")
        cache.delete("k")
        found = telemetry.metrics()

    def value(name: str, **attributes: str) -> float:
        wanted = {f"tiercast.{key}": each for key, each in attributes.items()}
        return sum(point.value for point in found[name] if wanted.items() <= dict(point.attributes).items())

    assert value("tiercast.hits", tier="local") == 5
    assert value("tiercast.misses") == 1
    assert value("tiercast.loads", region="default") == 1
    assert value("tiercast.evictions", cause="key") == 1
    assert value("tiercast.hit_rate", tier="overall") == pytest.approx(5 / 6)
    durations = {(dict(point.attributes)["tiercast.tier"], dict(point.attributes)["tiercast.operation"]): point.count
                 for point in found["tiercast.operation.duration"]}  # fmt: skip
    assert durations["loader", "load"] == 1
    assert durations["remote", "get"] >= 1
    labels = {label for points in found.values() for point in points for label in dict(point.attributes)}
    assert labels == {"tiercast.cache", "tiercast.region", "tiercast.tier", "tiercast.operation", "tiercast.cause"}
