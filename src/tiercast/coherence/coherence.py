"""Coherence: what keeps one process's tiers agreeing with the log.

Implementation notes.
    Everything that touches the ledger happens under `ledger.lock`, which is never held
    across I/O and never while user code runs. Operations are plans; the listener thread and
    any number of callers run them side by side, so each step that a plan takes after I/O
    looks at the ledger anew: a tail or a snapshot that is older than what the ledger has is
    a no-op, whoever brought it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from ..errors import BarrierTimeout, BusUnavailable, DeliveryError
from ..keys import decode_target
from ..plans import Blocking, Pause, Plan
from .following import Following
from .inbox import Apply, Duplicate, meaning_of
from .log import LogUnavailable, Write
from .notices import announced, question, questioned
from .records import Draft, Kind, Malformed, decode_message, split, written_once
from .result import InvalidationResult
from .together import Together

logger = logging.getLogger("tiercast.coherence")

ANYTHING = 1 << 62
"""A position after every other: a record that waits in the outbox kills whatever is there."""


@written_once
class Delivery:
    """What became of an append.

    Attributes:
        epoch, position: where the last of the records stands; position is None while it waits in the outbox.
        written: whether the L3 half was done with it.
        local: the local sequence number up to which marks of waiting records do not concern an entry that was
            made with this one: its own mark where it waits, else those of what was in the log before it.
        time: the log's, in seconds, when it answered; 0 where the record waits.
    """

    epoch: str
    position: int | None
    written: bool = False
    local: int = 0
    time: float = 0.0

    @property
    def delivered(self) -> bool:
        return self.position is not None


class Coherence(Following):
    """One process's part in the fleet. Thread-safe and loop-safe; no I/O until first used.

    Args:
        log: the fleet's log.
        ledger: this process's ledger.
        settings: the coherence settings.
        clock: where the time comes from.
        outbox: where records wait while the log is away.
        remove: called under the ledger's lock with what key records take out of memory.
        drop: called under the ledger's lock when memory must be emptied.
        stores: the host's stores that follow the log.
        burials: answers the L3 half of appending key records (nothing where there is no L3).
    """

    # -- the bus --------------------------------------------------------------------------

    def hear(self, message: bytes) -> Plan[None]:
        """Take one message from the bus; positions move by records in order only."""
        ledger, most = self.ledger, self.settings.max_message_bytes
        epoch, applied = self.position()
        meaning = meaning_of(message, epoch, applied, most, self.fleet.member.encode())
        if isinstance(meaning, Apply):
            with ledger.lock:
                if ledger.epoch == epoch and self._apply(meaning.records, meaning.records[-1].carried):
                    return
        elif isinstance(meaning, Duplicate):
            self.counters.duplicates.add()
            return
        elif isinstance(meaning, Malformed):
            if len(message) <= most and (yield from self._noticed(message)):
                return
            if not self.counters.malformed.value:  # one line is enough: whoever may publish could fill the disk
                logger.warning("a malformed message on the bus; the log is read instead: %s", meaning.reason)
            self.counters.malformed.add()
        else:
            self.counters.gaps.add()
        try:
            yield from self.catch_up()
        except LogUnavailable as exc:
            # It is known that records are missing: nothing is proven, and what the message itself says counts.
            self.failure = str(exc)
            records = decode_message(message, most)
            with ledger.lock:
                ledger.proven_until = -math.inf
                if not isinstance(records, Malformed):
                    self._mark(records)

    def _noticed(self, message: bytes) -> Plan[bool]:
        """Take a message that is no record; False where it is nothing that is known."""
        if (name := announced(message)) is not None:
            self.filled(name)
        elif (asked := questioned(message)) is not None:
            yield from self._acknowledge(*asked)
        else:
            return self.travelled(message)
        return True

    def _acknowledge(self, epoch: str, position: int) -> Plan[None]:
        """Say at once how far this process is: a barrier waits for it. One heartbeat answers all who wait."""
        for _ in range(2):  # the first may be what brings it that far
            if self._said[0] == epoch and self._said[1] >= position:
                return
            try:
                yield from self.beat()
            except LogUnavailable as exc:
                self.failure = str(exc)
                return

    # -- appending ------------------------------------------------------------------------

    def append(
        self, drafts: Sequence[Draft], writes: Sequence[Write] = (), *, epoch: str | None = None, require: bool = False
    ) -> Plan[Delivery]:
        """Append records and return once this process has applied them.

        While the log cannot be reached they are applied to this process, wait in the
        outbox, and are replayed in order; `require` raises DeliveryError instead and
        queues nothing.

        Args:
            drafts: the records.
            writes: the L3 half, for a log that does it in the same step.
            epoch: the one that the values of `writes` say they are of, "" of a process that had not begun; None where
                there are only burials. Values are left to the caller, as `Delivery.written` says, where another
                epoch has begun: under its name nobody would believe them.
            require: raise rather than queue.
        """
        now = self.clock.wall()
        drafts = [part for draft in drafts for part in split(self._signed(draft, now))]
        self.counters.appends.add()
        try:
            if not self.started:
                yield from self._start()
            with self.ledger.lock:
                local = self.ledger.local_sequence
            if self.outbox.waiting():
                yield from self.replay()
            sent = self.ledger.marked and not self.outbox.waiting()
            since = self.position()
            appended = yield from self.log.append(drafts, since, writes if epoch in (None, since[0]) else ())
        except LogUnavailable as exc:
            self.failure = str(exc)
            if require:
                message = f"the log cannot be reached ({exc}); nothing was queued because require_delivery=True"
                raise DeliveryError(message, result=InvalidationResult(None, delivered=False)) from exc
            return (yield from self._queue(drafts))
        try:
            yield from self._follow(appended.tail)
        except LogUnavailable as exc:
            # The log has the records, this process cannot apply them: until its next heartbeat they count as waiting.
            self.failure = str(exc)
            self._mark(drafts)
        head = appended.tail.head
        if sent:
            with self.ledger.lock:
                self._unmark(local, head)
        return Delivery(head.epoch, appended.position, appended.written, local, head.time)

    def _signed(self, draft: Draft, now: float) -> Draft:
        return Draft(draft.kind, draft.region, draft.targets, draft.soft, self.fleet.member, now)

    def _queue(self, drafts: Sequence[Draft]) -> Plan[Delivery]:
        # Queued before it is marked: a heartbeat that finds nothing waiting takes the marks away.
        yield Blocking(self.outbox.put, drafts)
        self.counters.queued.add()
        epoch, local = self._mark(drafts)
        return Delivery(epoch, None, local=local)

    def _mark(self, drafts: Sequence[Draft]) -> tuple[str, int]:
        """Let records kill here all but what is loaded after them, and prove nothing before they are applied."""
        ledger = self.ledger
        local = 0
        with ledger.lock:
            for draft in drafts:
                local = ledger.mark_pending(draft)
                if draft.kind is Kind.KEY:
                    self._remove(
                        (draft.region, *decode_target(target), ANYTHING, draft.soft) for target in draft.targets
                    )
            return ledger.epoch, local

    # -- the members of the fleet -----------------------------------------------------------

    def barrier(self, delivery: Delivery, timeout: float) -> Plan[None]:
        """Wait until every live process has applied a record.

        A process whose lease has lapsed may, cut off, go on serving what it loaded by
        itself for `max_staleness`; so that is waited out where one is met.

        Raises:
            BarrierTimeout: naming the members that have not.
        """
        began = ask_at = self.clock.monotonic()
        pause = 0.0005
        missing: list[str] = ["the log (it cannot be reached)"]
        while delivery.delivered:
            try:
                missing = yield from self._not_applied(delivery, self.clock.monotonic() - began)
            except LogUnavailable as exc:
                self.failure = str(exc)
            if not missing:
                return
            now = self.clock.monotonic()
            left = began + timeout - now
            if left <= 0:
                break
            if self._asks is not None and now >= ask_at:
                # Not all who are missing may hear it: they say how far they are with their next heartbeat.
                ask_at = now + self.settings.heartbeat
                yield from self._asks(question(delivery.epoch, delivery.position or 0))
            yield Pause(min(left, pause))
            pause = min(2 * pause, 0.02)
        what = f"position {delivery.position}" if delivery.delivered else "the record, which waits in the outbox,"
        message = f"not every live process has applied {what} within {timeout} s: {', '.join(missing)}"
        raise BarrierTimeout(message, missing=missing)

    def _not_applied(self, delivery: Delivery, waited: float) -> Plan[list[str]]:
        # A heartbeat, and not only a look at the members: its answer says whose members they are.
        pulse = yield from self._register(self.position(), self.digest())
        yield from self._follow(pulse.tail)
        epoch = pulse.tail.head.epoch
        limit = self.settings.max_staleness
        missing = []
        # A lease is of two `max_staleness`, and one that has lapsed is waited for as long again.
        changed = self.clock.monotonic() - self._epoch_changed < 3 * limit
        if waited < limit and (changed or epoch != delivery.epoch):
            # The log began a new life: processes of the one before may still serve, and are not listed.
            missing.append("(whoever ran before this epoch)")
        for member in pulse.members:
            reached = member.epoch == epoch and (epoch != delivery.epoch or member.applied >= (delivery.position or 0))
            if reached or member.name == self.fleet.member:
                continue
            if member.lapsed < 0 or (member.lapsed < limit and waited < limit):
                missing.append(member.name)
        return missing

    def settle(self) -> Plan[None]:
        """Return once all that was published before the call is applied here.

        Raises:
            BusUnavailable: the log cannot be reached.
        """
        try:
            yield from self.beat()
        except LogUnavailable as exc:
            self.failure = str(exc)
            message = f"cannot settle: {exc}"
            raise BusUnavailable(message) from exc

    def leave(self) -> Plan[None]:
        """Deregister for good, so that barriers do not wait for a process that closed."""
        self._left = True
        if self.started:
            try:
                yield from self.log.leave(self.fleet.member)
            except LogUnavailable as exc:
                logger.info("could not deregister; the lease will lapse", extra={"reason": str(exc)})
        yield from self.log.close()

    def forked(self) -> None:
        """Forget, in a forked child, what was the parent's: it is unproven and unregistered until its own first heartbeat."""
        self._together = Together()
        if self.log.kind == "memory":  # its child's log is its own, and begins anew by itself
            return
        self.fleet.begin()
        self.started = False
        self._registered = ""
        self._forked = self.clock.monotonic()
        self._snapshot_asked = float("-inf")
        self.ledger.proven_until = float("-inf")
