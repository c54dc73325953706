"""What Prometheus is told: metric families made of figures, and an HTTP server for them (extra "prometheus").

Nothing is counted here: a scrape reads the counters that are there anyway. Labels are the
cache's name, region, tier, operation and cause; never a key, a tag or a tenant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from .figures import TIERS, Counts, hit_rates, total
from .histogram import NONE, SMALLEST, Distribution

try:
    import prometheus_client
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
    from prometheus_client.registry import Collector
except ImportError as exc:  # pragma: no cover  the tests install every extra
    raise ImportError("exporting to Prometheus needs an extra: pip install 'tiercast[prometheus]'") from exc

BOUNDS: Final = tuple(SMALLEST * 4.0**step for step in range(17))
"""Seconds: every sixteenth bound of our own buckets, so that the counts are exact: 119 ns, 477 ns, … 512 s."""

COUNTERS: Final = {
    "cache_misses": ("misses", "Lookups that no tier answered"),
    "tiercast_sets": ("sets", "Values stored by set"),
    "tiercast_fills": ("fills", "Loaded values that were stored"),
    "tiercast_fills_lost": (
        "fills_lost",
        "Loaded values that were not stored, because something newer stood or came between",
    ),
    "tiercast_loads": ("loads", "Calls of loaders"),
    "tiercast_load_errors": ("load_errors", "Calls of loaders that raised"),
    "tiercast_grace_served": ("stale_served", "Values served past their deadline, as grace allows"),
    "tiercast_unreadable": ("corrupt", "Values from below that could not be decoded; they are misses"),
}
"""Families with a sample for each region: name to (figure, help)."""

COHERENCE_COUNTERS: Final = {
    "records": "Invalidation records applied",
    "appends": "Appends to the log",
    "beats": "Heartbeats answered",
    "beats_failed": "Heartbeats that failed",
    "gaps": "Gaps in what the bus brought, repaired from the log",
    "duplicates": "Messages of the bus that had been applied already",
    "drops": "Times that memory was dropped, because the log no longer reached back or was another",
    "epoch_changes": "Times that the log's server had restarted, failed over or lost its data",
    "queued": "Appends that had to wait in the outbox",
    "replayed": "Batches of the outbox that were replayed",
}
COHERENCE_GAUGES: Final = {
    "proven": ("Whether memory may be trusted now (the least of the processes)", min),
    "proven_age_seconds": ("Seconds since coherence was last proven (the most)", max),
    "lag_records": ("Records of the log that are known and not applied (the most)", max),
    "position": ("The position applied (the least)", min),
    "outbox_waiting": ("Whether invalidations wait for the log to come back (the most)", max),
    "members": ("Live processes of the fleet, as last heard (the most)", max),
    "breaker_open": ("Whether Redis is left alone for a moment, because it does not answer (the most)", max),
}
"""Gauges of a process: name to help, and how several processes are taken together."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one process has to say at one moment.

    Attributes:
        regions: what each has counted. sizes: for each region, what its tiers hold by tier.
        own: what is counted for all regions together. coherence: its counters. gauges: its state.
        delays: "same_host" and "other_hosts" to how old records were when they were applied.
    """

    regions: Mapping[str, Counts]
    sizes: Mapping[str, Mapping[str, float]]
    own: Counts
    coherence: Mapping[str, float]
    gauges: Mapping[str, float]
    delays: Mapping[str, Distribution] = field(default_factory=dict)


class CacheCollector(Collector):
    """A Prometheus collector over the snapshots of one or several processes of one cache.

    Args:
        name: the cache's name, in every sample as the label `cache`.
        snapshots: called at each scrape; answers (snapshot, whether its process lives) for each process.
    """

    def __init__(self, name: str, snapshots: Callable[[], Iterable[tuple[Snapshot, bool]]]) -> None:
        self._name = name
        self._snapshots = snapshots

    def describe(self) -> Iterable[Metric]:
        """Return nothing: names are known when scraped."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        found = list(self._snapshots())
        everyone = [snapshot for snapshot, _ in found]
        living = [snapshot for snapshot, lives in found if lives]
        names = dict.fromkeys(name for snapshot in everyone for name in snapshot.regions)
        regions = {name: total(each.regions[name] for each in everyone if name in each.regions) for name in names}
        yield from self._counted(regions)
        yield self._rates(regions)
        yield self._sizes(living)
        yield self._latencies(regions)
        yield from self._coherence(everyone, living)

    def _counter(self, name: str, help_text: str, *labels: str) -> CounterMetricFamily:
        return CounterMetricFamily(name, help_text, labels=("cache", *labels))

    def _counted(self, regions: Mapping[str, Counts]) -> Iterator[Metric]:
        hits = self._counter("cache_hits", "Lookups that a tier answered", "region", "tier")
        errors = self._counter("cache_errors", "Operations of a tier, or loaders, that failed", "region", "tier")
        evicted = self._counter("tiercast_evictions", "Entries that left memory, by cause", "region", "cause")
        waits = self._counter(
            "tiercast_waits", "Waits for a load of this process (flight), or another (lease)", "region", "kind"
        )
        codec = self._counter(
            "tiercast_codec_bytes", "Bytes of values encoded and decoded", "region", "tier", "operation"
        )
        for region, counts in regions.items():
            for tier in TIERS:
                hits.add_metric((self._name, region, tier), counts[f"hits.{tier}"])
            for tier in (*TIERS[1:], "loader"):
                errors.add_metric((self._name, region, tier), counts[f"errors.{tier}"])
            for cause, value in counts.starting("evicted.").items():
                evicted.add_metric((self._name, region, cause), value)
            for kind, value in counts.starting("waits.").items():
                waits.add_metric((self._name, region, kind), value)
            for place, value in counts.starting("bytes.").items():
                codec.add_metric((self._name, region, *place.split(".")), value)
        yield from (hits, errors, evicted, waits, codec)
        for name, (figure, help_text) in COUNTERS.items():
            family = self._counter(name, help_text, "region")
            for region, counts in regions.items():
                family.add_metric((self._name, region), counts[figure])
            yield family

    def _rates(self, regions: Mapping[str, Counts]) -> Metric:
        family = GaugeMetricFamily(
            "cache_hit_rate",
            "Part of the lookups seen that were answered, since the start",
            labels=("cache", "region", "tier"),
        )
        for region, counts in regions.items():
            for tier, rate in hit_rates(counts).items():
                family.add_metric((self._name, region, tier), rate)
        return family

    def _sizes(self, living: Iterable[Snapshot]) -> Metric:
        family = GaugeMetricFamily("cache_size", "Entries that a tier holds", labels=("cache", "region", "tier"))
        sums: dict[tuple[str, str], float] = {}
        for snapshot in living:
            for region, sizes in snapshot.sizes.items():
                for tier, value in sizes.items():
                    # What the processes of a host share (the disk) must not be counted once for each.
                    before = sums.get((region, tier), 0)
                    sums[region, tier] = before + value if tier == "local" else max(before, value)
        for (region, tier), value in sums.items():
            family.add_metric((self._name, region, tier), value)
        return family

    def _latencies(self, regions: Mapping[str, Counts]) -> Metric:
        family = HistogramMetricFamily(
            "cache_operation_latency_milliseconds",
            "Time of operations; reads of memory are sampled",
            labels=("cache", "region", "tier", "operation"),
        )
        for region, counts in regions.items():
            for (tier, operation), seen in sorted(counts.timings.items()):
                family.add_metric((self._name, region, tier, operation), buckets_of(seen, 1000.0), seen.total * 1000.0)
        return family

    def _coherence(self, everyone: list[Snapshot], living: list[Snapshot]) -> Iterator[Metric]:
        for name, help_text in COHERENCE_COUNTERS.items():
            family = self._counter(f"tiercast_coherence_{name}", help_text)
            family.add_metric((self._name,), sum(snapshot.coherence.get(name, 0) for snapshot in everyone))
            yield family
        for name, (help_text, together) in COHERENCE_GAUGES.items():
            gauge = GaugeMetricFamily(f"tiercast_{name}", help_text, labels=("cache",))
            values = [snapshot.gauges[name] for snapshot in living if name in snapshot.gauges]
            if values:
                gauge.add_metric((self._name,), together(values))
            yield gauge
        processes = GaugeMetricFamily("tiercast_processes", "Processes whose figures these are", labels=("cache",))
        processes.add_metric((self._name,), len(living))
        yield processes
        own = total(snapshot.own for snapshot in everyone)
        for name, figure, help_text in (
            ("tiercast_stale_served", "audit.stale", "Entries found to have been served dead: there should be none"),
            ("tiercast_audited", "audit.compared", "Entries of memory that were compared with Redis"),
            ("tiercast_listener_errors", "listeners.errors", "Exceptions raised by users' listeners"),
        ):
            family = self._counter(name, help_text)
            family.add_metric((self._name,), own[figure])
            yield family
        delays = HistogramMetricFamily(
            "tiercast_propagation_delay_seconds",
            "Age of other processes' records when applied here; across hosts an estimate, by two clocks",
            labels=("cache", "clock"),
        )
        for clock in ("same_host", "other_hosts"):
            seen = NONE
            for snapshot in everyone:
                seen = seen.plus(snapshot.delays.get(clock, NONE))
            delays.add_metric((self._name, clock), buckets_of(seen), seen.total)
        yield delays


def buckets_of(seen: Distribution, scale: float = 1.0) -> list[tuple[str, float]]:
    """Return cumulative buckets as the text format wants them."""
    found: list[tuple[str, float]] = [(f"{bound * scale:.6g}", seen.up_to(bound)) for bound in BOUNDS]
    return [*found, ("+Inf", seen.count)]


def serve(collector: CacheCollector, port: int, host: str) -> Any:
    """Serve a collector's families over HTTP in a daemon thread; returns the server, whose `server_port` is its port.

    Raises:
        OSError: the port is taken.
    """
    registry = prometheus_client.CollectorRegistry(auto_describe=False)
    registry.register(collector)
    server, _ = prometheus_client.start_http_server(port, host, registry)
    return server
