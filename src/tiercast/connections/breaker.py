"""A circuit breaker: a server that does not answer is asked again only now and then."""

from __future__ import annotations

import logging
import threading

from ..clock import Clock

logger = logging.getLogger("tiercast.connections")

LONGEST = 4
"""The backoff ends at this many times the first pause: a server that is back is noticed within seconds."""


class Breaker:
    """Closed, open, half-open: after some failures in a row calls are refused, but for one probe per pause.

    Thread-safe; while it is closed, `admit` and `succeeded` are one comparison each and take no lock.

    Args:
        failures: this many in a row open it.
        reset: seconds until the first probe; doubled with each probe that fails, up to `LONGEST` times.
        clock: where the time comes from.
        name: what the log calls the server.
    """

    __slots__ = (
        "_clock",
        "_failures",
        "_lock",
        "_probing",
        "_reason",
        "_reset",
        "_row",
        "_until",
        "_wait",
        "name",
        "openings",
    )

    def __init__(self, failures: int, reset: float, clock: Clock, name: str = "redis") -> None:
        self._failures = failures
        self._reset = reset
        self._clock = clock
        self._lock = threading.Lock()
        self._row = 0
        self._wait = reset
        self._until = 0.0
        self._probing = False
        self._reason = ""
        self.name = name
        self.openings = 0
        """How many times it opened."""

    @property
    def state(self) -> str:
        """One of "closed", "open" and "half-open"."""
        if not self._until:
            return "closed"
        return "open" if self._clock.monotonic() < self._until and not self._probing else "half-open"

    @property
    def refusal(self) -> str:
        """What to say to whom `admit` refused: why the server counts as away."""
        return f"{self.name} does not answer; not asked" + (f" (last: {self._reason})" if self._reason else "")

    def admit(self) -> bool:
        """Say whether a call may go out now; an open breaker lets one probe out per pause."""
        if not self._until:
            return True
        with self._lock:
            if not self._until:
                return True
            now = self._clock.monotonic()
            if now < self._until:
                return False
            # A probe that never reports (its task was cancelled) holds the next one up for one pause only.
            self._until = now + self._wait
            self._probing = True
            return True

    def succeeded(self) -> None:
        """Note that the server answered."""
        if not self._row and not self._until:
            return
        with self._lock:
            reopened, self._row, self._until, self._wait, self._probing = self._until, 0, 0.0, self._reset, False
        if reopened:
            logger.info("%s answers again", self.name, extra={"server": self.name})

    def failed(self, reason: object = "") -> None:
        """Note that the server did not answer."""
        with self._lock:
            self._row += 1
            self._reason = str(reason)
            if self._until:
                if not self._probing:
                    return  # was under way when the breaker opened
                self._wait = min(self._wait * 2, self._reset * LONGEST)
            elif self._row < self._failures:
                return
            first = not self._until
            self._probing = False
            self._until = self._clock.monotonic() + self._wait
            if first:
                self.openings += 1
        if first:
            logger.warning(
                "%s does not answer; reads miss until it does: %s", self.name, reason, extra={"server": self.name}
            )

    def hint(self) -> None:
        """Let the next call probe at once: somebody else has just reached the server."""
        with self._lock:
            if self._until:
                self._until = min(self._until, self._clock.monotonic())
                self._wait = self._reset

    def forget(self) -> None:
        """Start afresh, with a new lock: this is a forked child."""
        self._lock = threading.Lock()
        self._row, self._until, self._wait, self._probing = 0, 0.0, self._reset, False
