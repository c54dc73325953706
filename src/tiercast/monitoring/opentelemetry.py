"""What OpenTelemetry is told: metrics and spans, by its semantic conventions (extra "otel").

Counts are observable instruments, read when the SDK collects; durations are recorded as they
come. Attributes are region, tier, operation and cause; never a key, a tag or a tenant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .figures import TIERS, Counts, hit_rates

try:
    from opentelemetry import metrics, trace
    from opentelemetry.metrics import CallbackOptions, Observation
    from opentelemetry.trace import SpanKind
except ImportError as exc:  # pragma: no cover  the tests install every extra
    raise ImportError("OpenTelemetry needs an extra: pip install 'tiercast[otel]'") from exc

if TYPE_CHECKING:
    from .watch import Hub

Moment = Callable[[], Mapping[str, Counts]]
SCOPE = "tiercast"


class Instruments:
    """The metrics of one cache.

    Args:
        name: the cache's name, the attribute `tiercast.cache`.
        moment: answers what each region has counted. sizes: answers what each region's memory holds.
        provider: the meter provider; None: the global one.
    """

    def __init__(
        self, name: str, moment: Moment, sizes: Callable[[], Mapping[str, float]], provider: Any = None
    ) -> None:
        self._name = name
        self._moment = moment
        self._sizes = sizes
        meter = metrics.get_meter(SCOPE, meter_provider=provider)
        counter = meter.create_observable_counter
        counter("tiercast.hits", [self._hits], unit="{lookup}", description="Lookups that a tier answered")
        counter("tiercast.misses", [self._one("misses")], unit="{lookup}", description="Lookups that no tier answered")
        counter("tiercast.errors", [self._errors], unit="{error}", description="Operations or loaders that failed")
        counter(
            "tiercast.evictions", [self._evictions], unit="{entry}", description="Entries that left memory, by cause"
        )
        counter("tiercast.loads", [self._one("loads")], unit="{load}", description="Calls of loaders")
        counter("tiercast.fills", [self._one("fills")], unit="{value}", description="Loaded values that were stored")
        counter(
            "tiercast.fills.lost",
            [self._one("fills_lost")],
            unit="{value}",
            description="Loaded values that were not stored",
        )
        meter.create_observable_gauge(
            "tiercast.hit_rate", [self._rates], unit="1", description="Part of lookups answered"
        )
        meter.create_observable_up_down_counter(
            "tiercast.size", [self._held], unit="{entry}", description="Entries that memory holds"
        )
        self._duration = meter.create_histogram(
            "tiercast.operation.duration", unit="s", description="Time of operations of tiers, codecs and loaders"
        )

    def record(self, region: str, tier: str, operation: str, seconds: float) -> None:
        """Record a duration."""
        self._duration.record(seconds, self._place(region, tier) | {"tiercast.operation": operation})

    def _place(self, region: str, tier: str = "") -> dict[str, str]:
        place = {"tiercast.cache": self._name, "tiercast.region": region}
        return place | {"tiercast.tier": tier} if tier else place

    def _one(self, figure: str) -> Callable[[CallbackOptions], Iterator[Observation]]:
        def observe(options: CallbackOptions) -> Iterator[Observation]:
            for region, counts in self._moment().items():
                yield Observation(counts[figure], self._place(region))

        return observe

    def _hits(self, options: CallbackOptions) -> Iterator[Observation]:
        for region, counts in self._moment().items():
            for tier in TIERS:
                yield Observation(counts[f"hits.{tier}"], self._place(region, tier))

    def _errors(self, options: CallbackOptions) -> Iterator[Observation]:
        for region, counts in self._moment().items():
            for tier, value in counts.starting("errors.").items():
                yield Observation(value, self._place(region, tier))

    def _evictions(self, options: CallbackOptions) -> Iterator[Observation]:
        for region, counts in self._moment().items():
            for cause, value in counts.starting("evicted.").items():
                yield Observation(value, self._place(region) | {"tiercast.cause": cause})

    def _rates(self, options: CallbackOptions) -> Iterator[Observation]:
        for region, counts in self._moment().items():
            for tier, rate in hit_rates(counts).items():
                yield Observation(rate, self._place(region, tier))

    def _held(self, options: CallbackOptions) -> Iterator[Observation]:
        for region, size in self._sizes().items():
            yield Observation(size, self._place(region, "local"))


def instrument(hub: Hub, instruments: Instruments, name: str, provider: Any = None) -> Callable[[], None]:
    """Have operations traced and their durations recorded; returns what ends that.

    Args:
        hub: what the regions share.
        instruments: where durations go.
        name: the cache's name.
        provider: the tracer provider; None: the global one.
    """
    tracer = trace.get_tracer(SCOPE, tracer_provider=provider)

    @contextmanager
    def span(title: str, attributes: dict[str, Any]) -> Iterator[Any]:
        kind = SpanKind.CLIENT if "db.system.name" in attributes else SpanKind.INTERNAL
        attributes = {"tiercast.cache": name, **attributes}
        with tracer.start_as_current_span(title, kind=kind, attributes=attributes) as opened:
            yield opened

    hub.span = span
    hub.sink = instruments.record

    def end() -> None:
        if hub.span is span:
            hub.span = hub.sink = None

    return end
