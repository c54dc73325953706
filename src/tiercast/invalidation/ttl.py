"""Invalidation by time: how long entries live, and the jitter that keeps them from dying all at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from random import Random

import attrs

from ..config import checks

_SOURCE = Random()
# Workers forked from one parent would otherwise all draw the same jitter, and their entries die together.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_SOURCE.seed)


def jittered(ttl: float, fraction: float, random: Callable[[], float] = _SOURCE.random) -> float:
    """Return a TTL drawn uniformly from `ttl` ± `fraction`; `math.inf` stays what it is. Thread-safe.

    Args:
        ttl: seconds.
        fraction: from 0 to below 1.
        random: answers numbers from 0 to below 1.
    """
    return ttl * (1.0 + fraction * (2.0 * random() - 1.0)) if fraction else ttl


def kept(seconds: float, cap: float, fraction: float, random: Callable[[], float] = _SOURCE.random) -> float:
    """Return how long a tier keeps an entry whose end is `seconds` away, where its own TTL is `cap`.

    A jittered TTL of the cap's own length is left as it was drawn: cut at the cap, half of such entries would end
    together. What lives longer is kept for the cap, jittered too.
    """
    return seconds if seconds <= cap * (1.0 + fraction) else jittered(cap, fraction, random)


@checks.refuse_unknown
@attrs.frozen
class TimeBasedInvalidation:
    """Entries live for a time. Thread-safe.

    Attributes:
        default_ttl: seconds that an entry lives where its region and its caller say nothing; None: until invalidated.
        ttl_jitter: the part of a TTL by which it varies, either way.
        sliding: whether a read renews it.
        random: the source of jitter.
    """

    default_ttl: float | None = attrs.field(
        default=300.0, converter=checks.optional_seconds, validator=checks.optional(checks.positive)
    )
    ttl_jitter: float = attrs.field(default=0.1, validator=checks.jitter)
    sliding: bool = attrs.field(default=False, validator=checks.flag)
    random: Random = attrs.field(default=_SOURCE, eq=False, repr=False, validator=checks.instance_of(Random))

    def __reduce__(self) -> tuple[type[TimeBasedInvalidation], tuple[float | None, float, bool]]:
        # Without the source: processes that are sent one state would all draw the same jitter.
        return TimeBasedInvalidation, (self.default_ttl, self.ttl_jitter, self.sliding)

    def apply_jitter(self, ttl: float | timedelta) -> float:
        """Return a lifetime in seconds, drawn uniformly from `ttl` ± `ttl_jitter`.

        Raises:
            TypeError, ValueError: the TTL is no duration, or not positive.
        """
        length = checks.duration(ttl, "a TTL")
        if not length > 0:
            raise ValueError(f"a TTL must be positive, not {ttl!r}")
        return jittered(length, self.ttl_jitter, self.random.random)
