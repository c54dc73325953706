"""What a region tells of its work, besides its counters."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager
from time import perf_counter
from typing import Any

from .counter import Counter, Sum
from .histogram import Histogram
from .listeners import CacheEvent, Listeners, event_of

Span = Callable[[str, dict[str, Any]], AbstractContextManager[Any]]
"""Opens a span: its name and attributes."""

Measured = tuple[str, str]
"""(tier, operation): "local", "disk", "remote", "loader"; "get", "put", "bury", "encode", "decode", "load"."""


class Hub:
    """What the regions of one manager share: listeners, spans, and where durations go besides the histograms.

    Attributes:
        listeners: who is told what.
        span: opens a span of a trace; None while nobody traces.
        sink: called with (region, tier, operation, seconds); None while nobody wants to know.
    """

    __slots__ = ("listeners", "sink", "span")

    def __init__(self) -> None:
        self.listeners = Listeners()
        self.span: Span | None = None
        self.sink: Callable[[str, str, str, float], object] | None = None


class Watch:
    """One region's histograms, causes and events. Thread-safe; nothing here is on the hit path.

    Args:
        region: its name.
        hub: what it shares with the other regions.
        timed: False: times are not taken.
    """

    __slots__ = ("causes", "failures", "hub", "listeners", "payload", "region", "timed", "timings")

    def __init__(self, region: str = "", hub: Hub | None = None, *, timed: bool = True) -> None:
        self.region = region
        self.hub = hub or Hub()
        self.listeners = self.hub.listeners
        self.timed = timed
        self.timings: dict[Measured, Histogram] = {}
        self.causes: dict[str, Counter] = {}
        """Why entries left memory, by cause."""
        self.failures: dict[str, Counter] = {}
        """Operations that failed, by tier ("loader" among them)."""
        self.payload: dict[Measured, Sum] = {}
        """Bytes that were encoded and decoded."""

    # -- times ------------------------------------------------------------------------------

    def histogram(self, tier: str, operation: str) -> Histogram:
        """Return the histogram of an operation, made on demand."""
        found = self.timings.get((tier, operation))
        return found if found is not None else self.timings.setdefault((tier, operation), Histogram())

    def observe(self, tier: str, operation: str, seconds: float) -> None:
        """Note how long an operation took."""
        self.histogram(tier, operation).observe(seconds)
        sink = self.hub.sink
        if sink is not None:
            sink(self.region, tier, operation, seconds)

    def span(self, name: str, attributes: dict[str, Any]) -> AbstractContextManager[Any]:
        """Open a span, where anybody traces."""
        return UNTRACED if self.hub.span is None else self.hub.span(name, attributes)

    def bytes_of(self, tier: str, operation: str) -> Sum:
        """Return the sum of the payloads of an operation, made on demand."""
        found = self.payload.get((tier, operation))
        return found if found is not None else self.payload.setdefault((tier, operation), Sum())

    @contextmanager
    def loading(self, address: Any) -> Iterator[None]:
        """Time a loader; what it raises is counted and told, and goes on."""
        began = perf_counter()
        try:
            with self.span("tiercast.load", {"tiercast.region": self.region}):
                yield
        except Exception as exc:
            self.failed("loader", address, exc)
            raise
        finally:
            if self.timed:
                self.observe("loader", "load", perf_counter() - began)

    # -- what happened ------------------------------------------------------------------------

    def hit(self, address: Any, tier: str) -> None:
        """Tell of a hit that took the slow path; called where somebody listens."""
        self.listeners.tell(event_of("hit", address, tier=tier))

    def missed(self, address: Any) -> None:
        """Tell of a miss."""
        if self.listeners.miss:
            self.listeners.tell(event_of("miss", address))

    def filled(self, address: Any) -> None:
        """Tell of a value that was loaded and stored."""
        if self.listeners.fill:
            self.listeners.tell(event_of("fill", address))

    def failed(self, tier: str, address: Any = None, error: BaseException | None = None, cause: str = "") -> None:
        """Count and tell of an operation that failed."""
        counter = self.failures.get(tier) or self.failures.setdefault(tier, Counter())
        counter.add()
        if self.listeners.error:
            place = address or (self.region, "", "")
            self.listeners.tell(event_of("error", place, tier=tier, cause=cause, error=error))

    def evicted(self, cause: str, local_key: Hashable = None) -> None:
        """Count an entry that left memory, and why; may be called under a lock: who listens is told later."""
        (self.causes.get(cause) or self.causes.setdefault(cause, Counter())).add()
        if self.listeners.evict:
            scope, key = local_key if isinstance(local_key, tuple) else ("", local_key)
            self.listeners.post(CacheEvent("evict", self.region, scope, str(key), tier="local", cause=cause))

    def evicted_many(self, cause: str, count: int) -> None:
        """Count entries that left memory together; nobody is told of each."""
        if count:
            (self.causes.get(cause) or self.causes.setdefault(cause, Counter())).add_many(count)


class _Untraced:
    """A span that is none."""

    __slots__ = ()

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exc: object) -> None:
        return None


UNTRACED: AbstractContextManager[Any] = _Untraced()
