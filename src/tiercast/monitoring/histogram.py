"""Histograms of durations with logarithmic buckets, which can be added and subtracted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .counter import Counter, Sum

SMALLEST = 1e-7
"""Seconds: the upper bound of bucket 0; shorter times are not told apart."""
PER_OCTAVE = 8
"""Buckets for each doubling: a quantile is off by 4.5 % at most."""
MOST = 32 * PER_OCTAVE
"""The last bucket: everything beyond seven minutes."""


def bucket_of(seconds: float) -> int:
    """Return the bucket of a duration."""
    if not seconds > SMALLEST:
        return 0
    return min(math.ceil(math.log2(seconds / SMALLEST) * PER_OCTAVE), MOST)


def upper_bound(bucket: int) -> float:
    """Return the longest duration (seconds) that belongs to a bucket."""
    return SMALLEST * 2.0 ** (bucket / PER_OCTAVE)


@dataclass(frozen=True, slots=True)
class Distribution:
    """What a histogram held at one moment.

    Attributes:
        buckets: bucket to how many durations; only those that have any.
        total: the sum of the durations, in seconds.
    """

    buckets: Mapping[int, int] = field(default_factory=dict)
    total: float = 0.0

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
        wanted = max(1, math.ceil(part * self.count))
        seen = 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= wanted:
                return upper_bound(bucket) * 2.0 ** (-0.5 / PER_OCTAVE)
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
        return Distribution(buckets, self.total + other.total)

    def minus(self, earlier: Distribution) -> Distribution:
        """Return what came after an earlier state of the same histogram."""
        if not earlier.buckets:
            return self
        left = {bucket: count - earlier.buckets.get(bucket, 0) for bucket, count in self.buckets.items()}
        return Distribution(
            {bucket: count for bucket, count in left.items() if count > 0}, max(0.0, self.total - earlier.total)
        )


NONE = Distribution()


def merged(distributions: Iterable[Distribution]) -> Distribution:
    """Return several distributions as one."""
    result = NONE
    for each in distributions:
        result = result.plus(each)
    return result


class Histogram:
    """Durations as they come in, from any number of threads, exactly. Not for the hit path (about 0.4 µs)."""

    __slots__ = ("_buckets", "_sum")

    def __init__(self) -> None:
        self._buckets: dict[int, Counter] = {}
        self._sum = Sum()

    def observe(self, seconds: float) -> None:
        """Note a duration."""
        bucket = bucket_of(seconds)
        counter = self._buckets.get(bucket)
        if counter is None:
            counter = self._buckets.setdefault(bucket, Counter())  # atomic: two threads get the same one
        counter.add()
        self._sum.add(seconds)

    def read(self) -> Distribution:
        """Return what it holds now."""
        return Distribution({bucket: counter.value for bucket, counter in list(self._buckets.items())}, self._sum.value)
