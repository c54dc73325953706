"""Alerts: thresholds whose crossing, and recovery, are each told once."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..config.checks import suggestion
from .counter import Counter
from .figures import at

if TYPE_CHECKING:
    from ..config import Alert

logger = logging.getLogger("tiercast.monitoring")


class Alerts:
    """The configured thresholds and which of them are crossed. For one thread at a time."""

    def __init__(self, alerts: Sequence[Alert]) -> None:
        self._alerts = list(alerts)
        self._crossed = [False] * len(self._alerts)
        self._blind: set[str] = set()
        """Metrics of which it was said that there is no such figure."""
        self.failures = Counter()
        """Exceptions that users' functions raised."""

    def __len__(self) -> int:
        return len(self._alerts)

    def look(self, figures: Mapping[str, Any]) -> None:
        """Compare the figures with the thresholds and tell what crossed or recovered since the last look."""
        for index, alert in enumerate(self._alerts):
            value = figure(figures, alert.metric)
            if value is None:
                self._warn_of_nothing(figures, alert.metric)
                continue
            crossed = value > alert.above if alert.above is not None else value < (alert.below or 0.0)
            if crossed == self._crossed[index]:
                continue
            self._crossed[index] = crossed
            bound = f"above {alert.above}" if alert.above is not None else f"below {alert.below}"
            logger.log(
                logging.WARNING if crossed else logging.INFO,
                "%s is %s (%s %s)", alert.metric, value, "now" if crossed else "no longer", bound,
                extra={"metric": alert.metric, "value": value, "crossed": crossed},
            )  # fmt: skip
            try:
                alert.call(alert, value, crossed)
            except Exception as exc:
                self.failures.add()
                logger.warning("the function of the alert on %s failed: %s", alert.metric, exc, exc_info=exc)

    def _warn_of_nothing(self, figures: Mapping[str, Any], metric: str) -> None:
        """Say once that an alert looks at no figure: a name with a slip would never be heard of."""
        if metric in self._blind:
            return
        found: Any = figures
        for part in metric.split("."):
            if not isinstance(found, Mapping):
                return
            try:
                found = found[part]
            except KeyError:
                self._blind.add(metric)
                logger.warning(
                    "the alert on %s looks at nothing: the figures hold no %r (yet)%s",
                    metric, part, suggestion(part, map(str, found)), extra={"metric": metric},
                )  # fmt: skip
                return


def figure(figures: Mapping[str, Any], metric: str) -> float | None:
    """Return a figure that can be compared; None where there is none, or no lookup that a rate could be of."""
    value = at(figures, metric)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return float(value) if isinstance(value, bool) else None
    where, _, name = metric.rpartition("hit_rate.")
    if name and "hit_rate." in metric:
        above = figures if not where else at(figures, where.rstrip("."))
        lookups = (at(above, "hits.overall") or 0) + (at(above, "misses.overall") or 0) if above else 0
        return value if lookups else None
    return value
