"""Following the log: where one process stands, how it is proven, and how it catches up or begins anew.

Implementation notes.
    Proof is as of the *asking*: `proven_until` is the time read before the request went out,
    plus `max_staleness`, and only a heartbeat (a write) gives it.
    The snapshot may be taken before the bus is listening: whoever begins to listen catches
    up from the log afterwards, and positions are dense.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from ..errors import ManagerClosed
from ..keys import decode_target
from ..monitoring.counter import Counter
from ..plans import Plan
from .fleet import Fleet
from .log import Beat, Head, Log, LogUnavailable, Pulse, Snapshot, Tail, Write
from .protocols import Channel, Entry, Removal, SharedStore
from .records import Draft, Kind, Record
from .settling import Settling
from .together import Together, entered

if TYPE_CHECKING:
    from ..clock import Clock
    from ..config import CoherenceConfig
    from .ledger import Ledger
    from .outbox import Outbox

logger = logging.getLogger("tiercast.coherence")


class CoherenceCounters:
    """What coherence counted since the process began."""

    __slots__ = (
        "appends", "beats", "beats_failed", "drops", "duplicates", "epoch_changes", "gaps", "malformed",
        "queued", "records", "replayed",
    )  # fmt: skip

    def __init__(self) -> None:
        for name in self.__slots__:
            setattr(self, name, Counter())

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Counter: ...


class Following:
    """The part of `Coherence` that keeps this process, its host's stores and L3 where the log is."""

    def __init__(
        self,
        log: Log,
        ledger: Ledger,
        settings: CoherenceConfig,
        clock: Clock,
        outbox: Outbox,
        *,
        remove: Callable[[Iterable[Removal]], None],
        drop: Callable[[], None],
        stores: Sequence[SharedStore] = (),
        burials: Callable[[Sequence[Draft]], Sequence[Write]] = lambda drafts: (),
    ) -> None:
        self.log = log
        self.ledger = ledger
        self.settings = settings
        self.clock = clock
        self.outbox = outbox
        self.stores = stores
        self.burials = burials
        self.counters = CoherenceCounters()
        self.fleet = Fleet()
        self.started = False
        self.listen: Callable[[], Channel] | None = getattr(log, "listen", None)
        """Opens the bus (blocking); None where the log needs none."""
        self.span = math.inf if log.kind == "memory" else settings.max_staleness
        """Seconds that a proof holds; a log that no other process can write to needs none."""
        self.carried = 0
        self.log_time = 0.0
        self.head_seen = 0
        """The newest position that the log was seen at."""
        self.digest: Callable[[], str] = str
        self.observe: Callable[[Sequence[Record]], object] = lambda records: None
        """Called, under the ledger's lock, with the records that were applied."""
        self.filled: Callable[[str], None] = lambda name: None
        """Called with the name of a lease that was given back: a fill stands, or has failed."""
        self.note_disk: Callable[[], Plan[None]] | None = getattr(log, "note_disk", None)
        """Notes in the log that a store of this host takes part in the epoch; None where every store is in sight."""
        self.travelled: Callable[[bytes], bool] = lambda message: False
        """Called with a message that is no record; answers whether it is an event that travels. Must not wait."""
        self.wake: Callable[[], None] = lambda: None
        """Called, under the ledger's lock, when records were applied that stores or L3 have yet to follow: must only set a flag."""
        self.failure: str = "never asked"
        self._remove = remove
        self._drop = drop
        if isinstance(log.heads, tuple):  # a constant: such a log never shows that it moved
            ledger.head_word = log.heads[0]
        self._looked = float("-inf")
        """When the heartbeat was asked for that brought `fleet.seen`."""
        self._said = ("", 0)
        """Where this process said it was with its last heartbeat."""
        self._forked = float("-inf")
        """When this process was forked: what its parent loaded is not its own, as no barrier knows of it yet."""
        self._registered = ""
        """The epoch whose members name this process: the one that last answered it a heartbeat."""
        self._left = False
        """Whether this process has deregistered for good."""
        self._asks: Callable[[bytes], Plan[bool]] | None = getattr(log, "publish", None)
        self._together = Together()
        self._snapshot_asked = float("-inf")
        self._epoch_changed = float("-inf")
        self._settling = Settling(settings.origin_lag)

    # -- where this process stands --------------------------------------------------------

    def proven(self) -> bool:
        """Whether memory may be trusted now."""
        return self.started and self.clock.monotonic() < self.ledger.proven_until and not self.behind()

    def behind(self) -> bool:
        """Whether the log of this host is known, without I/O, to have moved (the disk log's mapped head)."""
        word = self.log.heads
        return word[0] != self.ledger.head_word

    def untold(self) -> bool:
        """Whether this process has come further since it last said how far it is."""
        return self._said != self.position()

    def outlives_outage(self, entry: Entry) -> bool:
        """Whether an unproven entry may be served: loaded here within `max_staleness`, and no record known to be missing."""
        recent = entry.begun > max(self.clock.monotonic() - self.settings.max_staleness, self._forked)
        return entry.own and recent and not self.behind()

    def position(self) -> tuple[str, int]:
        """Where this process stands: (epoch, position applied)."""
        ledger = self.ledger
        with ledger.lock:
            return ledger.epoch, ledger.applied

    # -- start, proof, catching up --------------------------------------------------------

    def prove(self) -> Plan[bool]:
        """Make sure that memory may be trusted, asking the log where need be; False where it cannot be reached."""
        if self.proven():
            return True
        try:
            if self.started and self.behind() and self.clock.monotonic() < self.ledger.proven_until:
                yield from self.catch_up()
            else:
                yield from self._beat_together()
        except LogUnavailable as exc:
            self.failure = str(exc)
            return False
        # Whatever has moved the head since was not there when the caller's read began.
        return self.started and self.clock.monotonic() < self.ledger.proven_until

    def _beat_together(self) -> Plan[None]:
        """Take a heartbeat, or wait for the one that another reader is taking: many may wake to an unproven memory."""
        place = yield from entered(self._together)
        if isinstance(place, str):
            if place:
                raise LogUnavailable(place)
            return
        outcome = None
        try:
            yield from self.beat()
            outcome = ""
        except LogUnavailable as exc:
            outcome = str(exc) or "the log cannot be reached"
            raise
        finally:
            self._together.over(place, outcome)

    def beat(self) -> Plan[None]:
        """Take one heartbeat: replay the outbox, renew the lease, read the tail, and so prove memory.

        Raises:
            LogUnavailable: the log cannot be reached.
        """
        if not self.started:
            yield from self._start()
        ledger = self.ledger
        with ledger.lock:
            sequence = ledger.local_sequence
        try:
            if self.outbox.waiting():
                yield from self.replay()
            # Looked at before the question: a sibling may replay a record after our pulse was answered.
            clear = not self.outbox.waiting()
            asked = self.clock.monotonic()
            said = self.position()
            pulse = yield from self._register(said, self.digest())
        except LogUnavailable:
            self.counters.beats_failed.add()
            raise
        self.counters.beats.add()
        if asked >= self._looked:
            self.fleet.seen, self._looked = pulse.members, asked
        self._said = said
        yield from self._follow(pulse.tail)
        with ledger.lock:
            if clear and self._unmark(sequence, pulse.tail.head):
                ledger.proven_until = max(ledger.proven_until, asked + self.span)
                self.failure = ""
            elif not clear:
                self.failure = self.outbox.trouble or "invalidations still wait in the outbox"

    def _unmark(self, sequence: int, head: Head) -> bool:
        """Forget the marks of what waited, and say whether this process has come as far as the log had; lock held.

        Args:
            sequence: the ledger's `local_sequence`, read before the outbox was found empty.
            head: the log's, which answered after that.
        """
        ledger = self.ledger
        if ledger.epoch != head.epoch or ledger.applied < head.position:
            return False
        ledger.clear_pending(sequence)
        return True

    def _register(self, position: tuple[str, int], digest: str = "") -> Plan[Pulse]:
        """Say where this process is, renew its lease, and read what came since.

        Raises:
            ManagerClosed: it has left meanwhile. Barriers would wait for a member that nobody keeps alive.
        """
        if not self._left:
            pulse = yield from self.log.beat(
                Beat(self.fleet.member, *position, 2 * self.settings.max_staleness, digest)
            )
            if self._left:  # while that was on its way
                yield from self.log.leave(self.fleet.member)
        if self._left:
            raise ManagerClosed("this CacheManager was closed while it worked")
        self._registered = pulse.tail.head.epoch
        return pulse

    def gone(self, member: str, since: float) -> bool:
        """Whether a process has left, or its heartbeats have ceased, by what was asked two heartbeats after `since`.

        After an outage all seem to have fallen silent until they are back; and one that was back since then lives.

        Args:
            member: its name.
            since: the monotonic time of the last sign of it, other than a heartbeat.
        """
        return self._looked >= since + 2 * self.settings.heartbeat and member not in self.fleet.live()

    def started_or_away(self) -> Plan[None]:
        """Start where that has not been done; while the log is away, that is left to the next who asks."""
        if not self.started:
            try:
                yield from self._start()
            except LogUnavailable as exc:
                self.failure = str(exc)

    def catch_up(self) -> Plan[None]:
        """Read what the log has after this process's position and apply it."""
        tail = yield from self.log.read(self.position())
        yield from self._follow(tail)

    def _start(self) -> Plan[None]:
        """Register, take a snapshot, and bring the host's stores to where the log is."""
        epoch, applied = self.position()
        pulse = yield from self._register((epoch, applied))
        if epoch:  # a forked child goes on from where its parent stood, and keeps its memory
            yield from self._follow(pulse.tail)
        else:
            yield from self._resync(epoch)
            # Where another thread or task began anew it may still be at this: a store that is behind the
            # snapshot vouches for nothing, and what it holds would be a miss.
            yield from self.follow_stores()
        self.started = True

    def _resync(self, before: str) -> Plan[None]:
        """Begin anew from a snapshot: the epoch changed, or the log does not reach back.

        `before`: the epoch when that was found out.
        """
        ledger = self.ledger
        while True:
            asked = self.clock.monotonic()
            snapshot = yield from self.log.snapshot()
            head = snapshot.head
            if head.epoch == self._registered:
                break
            # Found by an append, a read or a snapshot: its barriers do not know of this process yet.
            yield from self._register(self.position())
        with ledger.lock:
            stood = ledger.epoch, ledger.applied
            known = ledger.epoch == head.epoch and ledger.applied >= head.position and self.started
            if known or asked < self._snapshot_asked:
                return
            overtaken = before != head.epoch == ledger.epoch
            if not overtaken:
                self._begin_anew(snapshot, asked)
        if overtaken:
            # Another thread or task has begun anew meanwhile: what came since is followed, not dropped for again.
            yield from self.catch_up()
            return
        if self.started:  # told without the lock: a handler may read the cache
            logger.warning(
                "memory dropped: the log is at %s, this process was at %s",
                (head.epoch, head.position),
                stood,
                extra={"epoch": head.epoch, "position": head.position},
            )
        yield from self.follow_stores()

    def _begin_anew(self, snapshot: Snapshot, asked: float) -> None:
        """Empty memory and take over a snapshot; the ledger's lock is held."""
        ledger, head = self.ledger, snapshot.head
        if self.started:
            self.counters.drops.add()
            if ledger.epoch != head.epoch:
                self.counters.epoch_changes.add()
                self._epoch_changed = self.clock.monotonic()
        self._snapshot_asked = asked
        ledger.reset(head.epoch, head.position, snapshot.stamps, snapshot.floor)
        self._settling.begin(self.clock.monotonic(), head.position)
        self.carried = head.carried
        self.log_time = max(self.log_time, head.time)
        ledger.head_word = snapshot.word
        self._drop()

    def _follow(self, tail: Tail, *, last: bool = False) -> Plan[None]:
        """Apply a tail, or begin anew where it does not fit.

        It may have been asked for from a place that another thread or task has left meanwhile;
        so memory is given up only (`last`) for the answer to where this process is now.
        """
        ledger = self.ledger
        with ledger.lock:
            self.head_seen = tail.head.position
            epoch = ledger.epoch
            fits = tail.head.epoch == ledger.epoch and (
                ledger.applied >= tail.head.position
                or (tail.records is not None and self._apply(tail.records, tail.head.carried))
            )
            if fits:
                self.log_time = max(self.log_time, tail.head.time)
                if ledger.applied == tail.head.position:
                    ledger.head_word = tail.word
                self.carried = max(self.carried, min(tail.head.carried, ledger.applied))
        if fits:
            return
        if last or tail.head.epoch != epoch:
            yield from self._resync(epoch)
        else:
            yield from self._follow((yield from self.log.read(self.position())), last=True)

    def _apply(self, records: Sequence[Record], carried: int) -> bool:
        """Apply what is next, in order, and note what was carried by then; False at a gap. The ledger's lock is held."""
        ledger = self.ledger
        fresh = []
        for record in records:
            if record.position <= ledger.applied:
                continue
            if record.position != ledger.applied + 1:
                return False
            self._remove(ledger.apply(record))
            self.counters.records.add()
            fresh.append(record)
        if fresh:
            if self._settling.lag:
                self._settling.note(self.clock.monotonic(), ledger.applied)
            self.carried = max(self.carried, min(carried, ledger.applied))
            self.observe(fresh)
            if self.stores or self.carried < ledger.applied:
                self.wake()
        return True

    def replay(self) -> Plan[None]:
        """Append, in order, what waits in the outbox, also what a sibling that died left there."""
        while True:
            batch = self.outbox.claim()
            if not batch:
                return
            try:
                appended = yield from self.log.append(
                    [item.draft for item in batch], self.position(), self.burials([item.draft for item in batch])
                )
            except BaseException:
                self.outbox.release(batch)
                raise
            self.outbox.done(batch)
            self.counters.replayed.add()
            yield from self._follow(appended.tail)

    # -- bringing what shares this host, and L3, up to date --------------------------------

    def follow_stores(self) -> Plan[None]:
        """Bring the host's stores to this process's position, or empty them where that cannot be."""
        for store in self.stores:
            epoch, applied = self.position()
            at_epoch, at = store.applied()
            if at_epoch == epoch and at >= applied:
                continue
            tail = None
            if at_epoch == epoch:
                tail = yield from self.log.read((epoch, at))
            if tail is None or tail.records is None or tail.head.epoch != epoch:
                if at_epoch != epoch and self.note_disk is not None:  # before the store takes anything of this epoch
                    yield from self.note_disk()
                yield from store.drop(epoch, applied, (at_epoch, at))
                continue
            records = [record for record in tail.records if record.position <= applied]
            yield from store.apply(epoch, at, keys_of(records), applied)

    def carry(self, bury: Callable[[Sequence[tuple[Record, str]]], Plan[bool]]) -> Plan[None]:
        """Bury in L3 what key records killed there and publish how far that is done; one process of the fleet does it."""
        epoch, applied = self.position()
        if self.carried >= applied or not self.fleet.elected():
            return
        tail = yield from self.log.read((epoch, self.carried))
        if tail.records is None or tail.head.epoch != epoch:
            return
        records = [record for record in tail.records if record.position <= applied]
        todo = [(record, target) for record in records if record.kind is Kind.KEY for target in record.targets]
        if todo and not (yield from bury(todo)):
            return
        yield from self.log.carry(epoch, applied)
        with self.ledger.lock:
            if self.ledger.epoch == epoch:
                self.carried = max(self.carried, applied)

    def settled_position(self) -> int:
        """Return the position that was applied `origin_lag` seconds ago; the ledger's lock is held."""
        return self._settling.position(self.clock.monotonic(), self.ledger.applied)


def keys_of(records: Iterable[Record]) -> list[Removal]:
    """Return (region, scope, key, position, soft) for every key that the key records name."""
    return [
        (record.region, *decode_target(target), record.position, record.soft)
        for record in records
        if record.kind is Kind.KEY
        for target in record.targets
    ]
