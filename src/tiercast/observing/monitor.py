"""`cache.monitor`: what this process's cache does, whether it works, and who is told."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..config.checks import duration
from ..monitoring.alerts import Alerts
from ..monitoring.counter import Counter
from ..monitoring.figures import Counts, Figures, hit_rates, latencies, total, tree_of
from ..monitoring.histogram import Histogram
from ..monitoring.listeners import CacheEvent
from ..monitoring.slices import Moment, Slices
from ..monitoring.watch import Hub, Watch
from ..plans import Plan, drive, drive_async
from .audit import Audit
from .checks import check
from .gather import coherence_figures, counts_of, sizes_of, uncounted_tiers
from .sampling import Sampler, arm

if TYPE_CHECKING:
    from ..coherence.records import Record
    from ..region import Duration, Region
    from ..runtime import Runtime
    from .exporter import Exporter

logger = logging.getLogger("tiercast.monitoring")

RECENT = 300.0
"""Seconds that `recent` in the statistics looks back."""
SHORTEST = 0.25
"""Seconds between two ticks at the least, however often the thread is woken."""


class Monitor:
    """Figures, health and alerts of one manager. Thread-safe and loop-safe; every method has an `…_async` twin."""

    def __init__(self, runtime: Runtime) -> None:
        settings = runtime.config.monitoring
        self._runtime = runtime
        self._settings = settings
        self._hub = Hub()
        self.listeners = self._hub.listeners
        self.listeners.changed = self._listened
        self.propagation = {"same": Histogram(), "other": Histogram()}
        """How old records of other processes were when they were applied here, by whose clock it was."""
        self.audit = Audit(runtime, settings.audit_rate if settings.enabled else 0.0)
        self.exporter: Exporter | None = None
        self._sampler = Sampler(settings.sample_rate if settings.enabled else 0.0)
        self._alerts = Alerts(settings.alerts)
        self._lock = threading.Lock()
        self._slices = Slices(settings.window, runtime.clock.monotonic())
        self._baseline: Moment = {}
        self._looked = time.monotonic()
        self._ticked = float("-inf")
        self.failures = Counter()
        """Exceptions in what the monitor does in the background."""

    # -- what users ask -----------------------------------------------------------------------

    def get_stats(self) -> Figures:
        """Return what this process's cache has done since it began, nested: ``stats["hit_rate"]["overall"]``.

        The same tree stands under `regions` for each region, and under `recent` are the rates of
        the last five minutes. Counts are exact; sizes are of now; None says that nobody measures it.
        """
        return drive(self._get_stats())

    async def get_stats_async(self) -> Figures:
        """As `get_stats`."""
        return await drive_async(self._get_stats())

    def analyze_performance(self, time_window: Duration = 3600.0) -> Figures:
        """Return hit rates and latencies of the last `time_window` seconds.

        `hit_rates.overall`, `.local`, …; `latency_stats.local.p95`, … in milliseconds (None where
        nothing was measured), of reads for each tier and of each operation by its name, such as
        `latency_stats.remote.put.p99`. `window` says how many seconds are really covered.

        Raises:
            TypeError, ValueError: the window is no duration, or not greater than 0.
        """
        window = duration(time_window, "time_window")
        if not window > 0:
            message = f"time_window must be greater than 0 seconds, not {time_window!r}"
            raise ValueError(message)
        covered, counts, moment = self._since(window)
        loads = counts.timings.get(("loader", "load"))
        return Figures(
            window=covered,
            hit_rates=hit_rates(counts),
            latency_stats=latencies(counts.timings),
            throughput=Figures(
                (name, sum(counts[each] for each in names) / covered if covered else 0.0)
                for name, names in RATES.items()
            ),
            loads=Figures(overall=counts["loads"], errors=counts["load_errors"], seconds=loads.total if loads else 0.0),
            regions=Figures(
                (name, Figures(hit_rates=hit_rates(each), latency_stats=latencies(each.timings)))
                for name, each in moment.items()
            ),
        )

    async def analyze_performance_async(self, time_window: Duration = 3600.0) -> Figures:
        """As `analyze_performance`."""
        return self.analyze_performance(time_window)

    def check_health(self) -> Figures:
        """Return `overall` and each part's `Health`: true where it works; else false, with its `reason`.

        Parts: local, disk, remote, breaker, bus, proof, outbox, disk_space, audit; those that the configuration has.
        """
        return drive(check(self._runtime))

    async def check_health_async(self) -> Figures:
        """As `check_health`."""
        return await drive_async(check(self._runtime))

    # -- figures --------------------------------------------------------------------------------

    def moment(self) -> dict[str, Counts]:
        """Return what each region has counted in this process."""
        baseline = self._baseline
        found = {}
        for region in self._runtime.regions():
            self._sampler.ensure(region)
            counts = counts_of(region)
            before = baseline.get(region.name)
            found[region.name] = counts if before is None else counts.minus(before)
        return found

    def own(self) -> Counts:
        """Return what is counted for all regions together only."""
        audit, listeners = self.audit, self.listeners
        return Counts(
            {
                "audit.compared": audit.compared.value,
                "audit.stale": audit.stale.value,
                "audit.unknown": audit.unknown.value,
                "listeners.errors": listeners.errors.value,
                "listeners.lost": listeners.lost.value,
                "alerts.errors": self._alerts.failures.value,
            }
        )

    def _get_stats(self) -> Plan[Figures]:
        runtime = self._runtime
        moment = self.moment()
        own = self.own()
        sizes = yield from self._sizes()
        tree = tree_of(total([*moment.values(), own]), sizes)
        covered, recent, _ = self._since(RECENT)
        regions = {region.name: region for region in runtime.regions()}
        tree["recent"] = Figures(
            window=covered,
            hit_rate=hit_rates(recent),
            hits=Figures(overall=sum(recent.starting("hits.").values())),
            misses=Figures(overall=recent["misses"]),
            latency_stats=latencies(recent.timings),
        )
        tree["stale_served_total"] = self.audit.stale.value
        tree["coherence"] = coherence_figures(runtime)
        tree["tiers"] = Figures(uncounted_tiers(runtime))
        tree["audit"] = Figures(own.starting("audit."), newer=self.audit.newer.value)
        tree["listeners"] = Figures(own.starting("listeners."))
        tree["regions"] = Figures((name, tree_of(each, sizes_of([regions[name]]))) for name, each in moment.items())
        return tree

    def _sizes(self) -> Plan[dict[str, float | None]]:
        sizes = sizes_of(self._runtime.regions())
        disks = self._runtime.disks()
        if disks:
            sizes["disk"] = sizes["disk_bytes"] = 0
        for disk in disks:
            usage = yield from disk.usage()
            for name, value in (("disk", usage.entries), ("disk_bytes", usage.bytes)) if usage is not None else ():
                sizes[name] = (sizes[name] or 0) + value
        if self._runtime.remote is not None:
            sizes["remote"] = None  # counting what a fleet keeps in Redis would mean to walk it
        return sizes

    def _since(self, window: float) -> tuple[float, Counts, dict[str, Counts]]:
        """Return the seconds covered, and what was counted in them: in all, and by region."""
        now = self._runtime.clock.monotonic()
        moment = self.moment()
        with self._lock:
            began, before = self._slices.since(now, window)
        by_region = {name: each.minus(before[name]) if name in before else each for name, each in moment.items()}
        return now - began, total(by_region.values()), by_region

    # -- working ----------------------------------------------------------------------------------

    def watch(self, region: str) -> Watch:
        """Return what a new region tells of its work."""
        return Watch(region, self._hub, timed=self._settings.enabled)

    @property
    def interval(self) -> float:
        """Seconds between two ticks at the most."""
        every = self._slices.every
        return min(self._settings.check_interval, every) if self._settings.enabled or len(self._alerts) else every

    def start(self) -> None:
        """Begin to export, where that is configured; called at the first use and again in a forked child."""
        serves = self._settings.prometheus_export
        if self.exporter is None and (serves or os.environ.get("PROMETHEUS_MULTIPROC_DIR")):
            try:
                from .exporter import Exporter

                self.exporter = Exporter(self._runtime, serves=serves)
            except ImportError:
                if serves:
                    raise
        if self.exporter is not None:
            self.exporter.start()

    def register(self, registry: Any) -> None:
        """Have the application's own Prometheus registry give this cache's figures too (extra "prometheus")."""
        from .exporter import Exporter

        if self.exporter is None:
            self.exporter = Exporter(self._runtime, serves=False)
        registry.register(self.exporter.collector)

    def instrument(self, *, tracer_provider: Any = None, meter_provider: Any = None) -> Callable[[], None]:
        """Tell OpenTelemetry (extra "otel"): metrics, and spans `get_or_set`, tier and loader, one within the other.

        Args:
            tracer_provider, meter_provider: None: the global ones.

        Returns:
            What ends the spans and durations, when called.
        """
        from ..monitoring.opentelemetry import Instruments, instrument

        def sizes() -> dict[str, float]:
            return {region.name: sizes_of([region])["local"] or 0 for region in self._runtime.regions()}

        name = self._runtime.config.name
        return instrument(self._hub, Instruments(name, self.moment, sizes, meter_provider), name, tracer_provider)

    def tick(self) -> None:
        """Do what is due; called in the background, about once a heartbeat and when something was posted."""
        self.listeners.flush()
        if time.monotonic() - self._ticked < SHORTEST:
            return
        self._ticked = time.monotonic()
        try:
            self._sample()
            self._slice()
            if len(self._alerts) and time.monotonic() - self._looked >= self._settings.check_interval:
                self._looked = time.monotonic()
                self.check_alerts()
            if self.exporter is not None:
                self.exporter.publish()
        except Exception as exc:  # what watches must not stop what works
            self.failures.add()
            logger.warning("monitoring failed: %s", exc, exc_info=exc)

    def _sample(self) -> None:
        if not self._settings.enabled:
            return
        for region in self._runtime.regions():
            self._sampler.tick(region)
        if self._settings.audit_rate:
            drive(self.audit.look())

    def _slice(self) -> None:
        now = self._runtime.clock.monotonic()
        with self._lock:
            due = self._slices.due(now)
        if due:
            moment = self.moment()
            with self._lock:
                self._slices.add(now, moment)

    def check_alerts(self) -> None:
        """Compare the figures with the configured thresholds now."""
        self._alerts.look(self.get_stats())

    def applied(self, records: Sequence[Record]) -> None:
        """Note records that were applied; called under the ledger's lock."""
        runtime = self._runtime
        me = runtime.coherence.fleet.member
        for record in records:
            if record.origin and record.origin != me and record.sent > 0:
                same = record.origin.rsplit(":", 2)[0] == me.rsplit(":", 2)[0]
                self.propagation["same" if same else "other"].observe(max(0.0, runtime.clock.wall() - record.sent))
            if self.listeners.invalidate:
                self.listeners.post(
                    CacheEvent(
                        "invalidate", record.region, cause=record.kind.value, position=record.position,
                        targets=record.targets, origin=record.origin,
                    )
                )  # fmt: skip

    def _listened(self) -> None:
        """Have hits told, or told no more, and decorated functions read accordingly."""
        from ..decorators.bound import rebind

        for region in self._runtime.regions():
            arm(region, 0)
        rebind(self._runtime)

    def enter(self, region: Region) -> None:
        """Begin to watch a new region: its first hits are timed."""
        if self._settings.enabled or self.listeners.hit:
            self._sampler.tick(region)

    def close(self) -> None:
        """Tell what waits to be told and stop exporting."""
        self.listeners.flush()
        if self.exporter is not None:
            self.exporter.close()

    def forked(self) -> None:
        """Begin to count anew in a forked child: what was counted before is the parent's."""
        self._lock = threading.Lock()
        self.listeners.forked()
        self._baseline = {}
        self._baseline = self.moment()
        self._slices = Slices(self._settings.window, self._runtime.clock.monotonic())
        if self.exporter is not None:
            self.exporter.forked()


RATES = {
    "lookups": ("hits.local", "hits.disk", "hits.remote", "misses"),
    "hits": ("hits.local", "hits.disk", "hits.remote"),
    "misses": ("misses",),
    "loads": ("loads",),
    "sets": ("sets",),
}
"""What `throughput` gives per second."""
