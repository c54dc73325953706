"""`cache.coherence`: whether memory can be trusted now, and why not."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .coherence.log import LogUnavailable
from .config.checks import duration
from .errors import BusUnavailable
from .plans import Pause, Plan, drive, drive_async

if TYPE_CHECKING:
    from .region import Duration
    from .runtime import Runtime


@dataclass(frozen=True, slots=True)
class CoherenceStatus:
    """Where this process stands.

    Attributes:
        log: "memory", "disk" or "redis".
        proven: whether memory may be trusted now. proven_age: seconds since that was last asked
            and answered; None where it never was.
        listening: whether the bus is heard (True where the log needs none).
        epoch, position: what this process has applied. carried: up to where L3 is cleared of what died.
        waiting: whether invalidations wait in the outbox. failure: the last failure; "" for none.
        member: this process's name in the fleet. members: the names of the live ones, as last heard.
        counters: what coherence counted, by name.
    """

    log: str
    proven: bool
    proven_age: float | None
    listening: bool
    epoch: str
    position: int
    carried: int
    waiting: bool
    failure: str
    member: str
    members: tuple[str, ...]
    counters: dict[str, int]


class CoherenceView:
    """A manager's coherence, as its user sees it."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def status(self) -> CoherenceStatus:
        """Return where this process stands now; no I/O."""
        coherence, runtime = self._runtime.coherence, self._runtime
        epoch, position = coherence.position()
        proven_until = runtime.ledger.proven_until
        age = None
        if coherence.span != float("inf") and proven_until != float("-inf"):
            age = runtime.clock.monotonic() - (proven_until - coherence.span)
        return CoherenceStatus(
            log=runtime.log.kind,
            proven=coherence.proven(),
            proven_age=age,
            listening=runtime.listener.connected or coherence.listen is None,
            epoch=epoch,
            position=position,
            carried=coherence.carried,
            waiting=coherence.outbox.waiting(),
            failure=coherence.failure or runtime.listener.failure,
            member=coherence.fleet.member,
            members=tuple(coherence.fleet.live()),
            counters={name: getattr(coherence.counters, name).value for name in coherence.counters.__slots__},
        )

    async def status_async(self) -> CoherenceStatus:
        """As `status`."""
        return self.status()

    def settle(self, timeout: Duration = 5.0) -> None:
        """Return once all that was published before the call is applied here.

        Raises:
            BusUnavailable: the log did not answer within `timeout` seconds.
            TypeError, ValueError: the timeout is no duration, or negative.
        """
        drive(self._until(timeout, listening=False))

    async def settle_async(self, timeout: Duration = 5.0) -> None:
        """As `settle`."""
        await drive_async(self._until(timeout, listening=False))

    def start(self, timeout: Duration = 5.0) -> None:
        """Connect, listen, and prove memory now, rather than with the first read.

        Raises:
            BusUnavailable: that did not succeed within `timeout` seconds; the message says what was tried.
            TypeError, ValueError: as `settle`.
        """
        drive(self._until(timeout, listening=True))

    async def start_async(self, timeout: Duration = 5.0) -> None:
        """As `start`."""
        await drive_async(self._until(timeout, listening=True))

    def _until(self, timeout: Duration, *, listening: bool) -> Plan[None]:
        runtime, coherence = self._runtime, self._runtime.coherence
        patience = duration(timeout, "timeout")
        if not patience >= 0:
            raise ValueError(f"timeout must be 0 seconds (ask once) or more, not {timeout!r}")
        runtime.ready()
        deadline = time.monotonic() + patience
        beaten = False
        while True:
            try:
                if not beaten:
                    yield from coherence.beat()
                    beaten = True
                listener = runtime.listener
                heard = not listening or coherence.listen is None or listener.connected
                if heard and coherence.proven():
                    return
                if heard:
                    beaten = False
                missing = "a heartbeat was answered, but " + (
                    "memory is not proven yet"
                    if heard
                    else f"nothing is heard on the bus ({listener.failure or 'silence'})"
                )
            except LogUnavailable as exc:
                missing = coherence.failure = str(exc)
            if time.monotonic() >= deadline:
                message = f"coherence was not proven within {patience:g} s ({runtime.log.kind} log): {missing}"
                raise BusUnavailable(message)
            yield Pause(0.02)
