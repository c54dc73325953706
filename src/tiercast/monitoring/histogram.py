"""Histograms of durations with logarithmic buckets, which can be added and subtracted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import ceil, exp2, log2

from .counter import Counter

PER_OCTAVE = 8
"""Buckets for each doubling: a quantile is off by 4.5 % at most."""
SMALLEST = 2.0**-23
"""Seconds (119 ns): the upper bound of the first bucket; shorter times are not told apart."""
FIRST = -23 * PER_OCTAVE
LAST = 9 * PER_OCTAVE
"""The last bucket: everything beyond 512 seconds."""


def bucket_of(seconds: float) -> int:
    """Return the bucket of a duration."""
    if not seconds > SMALLEST:
        return FIRST
    return min(ceil(log2(seconds) * PER_OCTAVE), LAST)


def upper_bound(bucket: int) -> float:
    """Return the longest duration (seconds) that belongs to a bucket."""
    return exp2(bucket / PER_OCTAVE)


def middle(bucket: int) -> float:
    """Return the geometric middle (seconds) of a bucket."""
    return exp2((bucket - 0.5) / PER_OCTAVE)


@dataclass(frozen=True, slots=True)
class Distribution:
    """What a histogram held at one moment.

    Attributes:
        buckets: bucket to how many durations; only those that have any.
    """

    buckets: Mapping[int, int] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """The sum of the durations, in seconds; from the middles of the buckets, so 4.5 % off at most and mostly far less."""
        return sum(middle(bucket) * count for bucket, count in self.buckets.items())

    @property
    def count(self) -> int:
        """How many durations."""
        return sum(self.buckets.values())

    @property
    def mean(self) -> float | None:
        """Seconds; None where there are none."""
        count = self.count
        return self.total / count if count else None

    def quantile(self, part: float) -> float | None:
        """Return the duration (seconds) that `part` (0 to 1) of all do not exceed; None where there are none.

        The geometric middle of its bucket, so at most 4.5 % off.
        """
        wanted = max(1, ceil(part * self.count))
        seen = 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= wanted:
                return middle(bucket)
        return None

    def up_to(self, seconds: float) -> int:
        """Return how many durations lie in buckets that end at `seconds` or before."""
        return sum(count for bucket, count in self.buckets.items() if upper_bound(bucket) <= seconds * (1 + 1e-9))

    def plus(self, other: Distribution) -> Distribution:
        """Return both together."""
        if not other.buckets:
            return self
        buckets = dict(self.buckets)
        for bucket, count in other.buckets.items():
            buckets[bucket] = buckets.get(bucket, 0) + count
        return Distribution(buckets)

    def minus(self, earlier: Distribution) -> Distribution:
        """Return what came after an earlier state of the same histogram."""
        if not earlier.buckets:
            return self
        left = {bucket: count - earlier.buckets.get(bucket, 0) for bucket, count in self.buckets.items()}
        return Distribution({bucket: count for bucket, count in left.items() if count > 0})


NONE = Distribution()


def merged(distributions: Iterable[Distribution]) -> Distribution:
    """Return several distributions as one."""
    result = NONE
    for each in distributions:
        result = result.plus(each)
    return result


class Histogram:
    """Durations as they come in, from any number of threads, each counted. No lock; about 0.2 µs."""

    __slots__ = ("_buckets",)

    def __init__(self) -> None:
        self._buckets: dict[int, Counter] = {}

    def observe(self, seconds: float, times: int = 1) -> None:
        """Note a duration, or several that took so long on average."""
        try:
            counter = self._buckets[ceil(log2(seconds) * PER_OCTAVE)]
        except (KeyError, ValueError):  # the first of its bucket; out of range; no time at all
            counter = self._buckets.setdefault(bucket_of(seconds), Counter())  # atomic: two threads get the same one
        if times == 1:
            counter.add()
        else:
            counter.add_many(times)

    def read(self) -> Distribution:
        """Return what it holds now."""
        return Distribution({bucket: counter.value for bucket, counter in list(self._buckets.items())})
