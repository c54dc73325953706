"""Figures: what was counted, and the tree of what follows from it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from .histogram import NONE, Distribution

TIERS: Final = ("local", "disk", "remote")
QUANTILES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
Timings = Mapping[tuple[str, str], Distribution]


class Figures(dict[str, Any]):
    """A dict whose items are attributes too: `stats["hit_rate"]["overall"]` is `stats.hit_rate.overall`.

    The remote tier answers to "distributed" as well, which is what the configuration calls it.
    """

    __slots__ = ()

    def __missing__(self, name: str) -> Any:
        if name == "distributed" and "remote" in self:
            return self["remote"]
        raise KeyError(name)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"there is no figure {name!r} here, only {', '.join(self)}") from None


def at(figures: Mapping[str, Any], dotted: str) -> Any:
    """Return a figure by its dotted name ("hit_rate.overall"); None where there is none."""
    found: Any = figures
    for part in dotted.split("."):
        try:
            found = found[part]
        except (KeyError, TypeError, IndexError):
            return None
    return found


@dataclass(frozen=True, slots=True)
class Counts:
    """What was counted at one moment, for a region or for several together; it can be added and subtracted.

    Attributes:
        numbers: name to count. timings: (tier, operation) to durations.
    """

    numbers: Mapping[str, float] = field(default_factory=dict)
    timings: Timings = field(default_factory=dict)

    def __getitem__(self, name: str) -> float:
        return self.numbers.get(name, 0)

    def minus(self, earlier: Counts) -> Counts:
        """Return what came after an earlier moment."""
        if self is earlier:
            return Counts()
        return Counts(
            {name: value - earlier[name] for name, value in self.numbers.items()},
            {name: seen.minus(earlier.timings.get(name, NONE)) for name, seen in self.timings.items()},
        )

    def plus(self, other: Counts) -> Counts:
        """Return both together."""
        numbers, timings = dict(self.numbers), dict(self.timings)
        for name, value in other.numbers.items():
            numbers[name] = numbers.get(name, 0) + value
        for measured, seen in other.timings.items():
            timings[measured] = timings.get(measured, NONE).plus(seen)
        return Counts(numbers, timings)

    def starting(self, prefix: str) -> dict[str, float]:
        """Return the numbers whose names begin with a prefix, without it."""
        return {name.removeprefix(prefix): value for name, value in self.numbers.items() if name.startswith(prefix)}


def total(many: Iterable[Counts]) -> Counts:
    """Return several counts as one."""
    result = Counts()
    for each in many:
        result = result.plus(each)
    return result


def ratio(part: float, whole: float) -> float:
    """Return a part of a whole; 0.0 of nothing."""
    return part / whole if whole else 0.0


def hit_rates(counts: Counts) -> Figures:
    """Return, overall and for each tier, the part of the lookups it saw that it answered."""
    found = {tier: counts[f"hits.{tier}"] for tier in TIERS}
    left = sum(found.values()) + counts["misses"]
    rates = Figures(overall=ratio(sum(found.values()), left))
    for tier in TIERS:
        rates[tier] = ratio(found[tier], left)
        left -= found[tier]
    return rates


def latencies(timings: Timings) -> Figures:
    """Return, for each tier, p50, p95, p99, mean (milliseconds) and count of its reads, and of each operation by name.

    The quantiles are None where nothing was measured.
    """
    tree = Figures()
    for tier in TIERS:
        tree[tier] = quantiles(timings.get((tier, "get"), NONE))
    for (tier, operation), seen in sorted(timings.items()):
        tree.setdefault(tier, quantiles(seen))[operation] = quantiles(seen)
    return tree


def quantiles(seen: Distribution) -> Figures:
    """Return p50, p95, p99 and mean in milliseconds, and the count."""
    tree = Figures((name, milliseconds(seen.quantile(part))) for name, part in QUANTILES.items())
    tree["mean"] = milliseconds(seen.mean)
    tree["count"] = seen.count
    return tree


def milliseconds(seconds: float | None) -> float | None:
    """Return seconds as milliseconds."""
    return None if seconds is None else seconds * 1000


def tree_of(counts: Counts, sizes: Mapping[str, float | None]) -> Figures:
    """Return the nested figures of a region, or of all.

    Args:
        counts: since the process began.
        sizes: what the tiers hold now.
    """
    loads = counts.timings.get(("loader", "load"), NONE)
    evicted = counts.starting("evicted.")
    hits = Figures((tier, counts[f"hits.{tier}"]) for tier in TIERS)
    return Figures(
        hit_rate=hit_rates(counts),
        hits=Figures(overall=sum(hits.values()), **hits),
        misses=Figures(overall=counts["misses"]),
        size=Figures(sizes),
        evictions=Figures(
            overall=counts["evictions"],
            **{cause: evicted.pop(cause, 0) for cause in CAUSES},
            **evicted,
        ),
        fills=Figures(stored=counts["fills"], lost=counts["fills_lost"]),
        loads=Figures(
            overall=counts["loads"], errors=counts["load_errors"], seconds=loads.total, mean=milliseconds(loads.mean)
        ),
        sets=Figures(overall=counts["sets"]),
        stale_served=Figures(overall=counts["stale_served"], audited=counts["audit.stale"]),
        waits=Figures(flight=counts["waits.flight"], lease=counts["waits.lease"]),
        errors=Figures((tier, counts[f"errors.{tier}"]) for tier in (*TIERS, "loader")),
        corrupt=Figures(overall=counts["corrupt"]),
        codec=Figures(
            (tier, Figures(
                encode_seconds=counts.timings.get((tier, "encode"), NONE).total,
                decode_seconds=counts.timings.get((tier, "decode"), NONE).total,
                bytes_encoded=counts[f"bytes.{tier}.encode"],
                bytes_decoded=counts[f"bytes.{tier}.decode"],
            ))
            for tier in TIERS[1:]
        ),
        latency_stats=latencies(counts.timings),
    )  # fmt: skip


CAUSES: Final = (
    "size", "bytes", "expiry", "key", "tag", "scope", "pattern", "region", "all", "epoch", "floor", "policy",
    "namespace", "too_large",
)  # fmt: skip
"""Why an entry leaves memory: for want of room, past its end, by a record of that kind, with the epoch, …"""
