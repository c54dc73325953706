"""The oracle: what every value that a read hands out is judged by, from knowledge that no process has.

Every value says which version of its key it carries and is known by a number. For each value the oracle
keeps how many invalidations there had been when its load began, and until when it is fresh; for each invalidation,
what it covers and when it was made; for each process, which invalidations it has applied or was told of. Sets of
invalidations are the bits of an integer.

The library says of each value whether it hands it out as fresh or as stale: `get` and `multi_get` hand out what is
fresh alone, and `get_or_set` tells the load that it is read in (`current_load().stale`). Both are held to it:

- (a) No read returns what a hard invalidation killed that the process knew of when the read began. Grace is no excuse,
  and what was stale when the read began and is handed out all the same is judged anew when that is decided: when a load
  failed meanwhile, or else at the end.
- (b) No read returns what a hard invalidation killed more than `max_staleness` before it began. The one excuse is the
  one of DESIGN 3b: the region has grace, and for the whole of the read the process could neither prove itself nor load
  (the loader failed in it, or so lately that it is left alone; it took longer than `hard_timeout`; or no slot was free).
  It excuses, as well, what only a barrier's return says that the process knows of (a): a barrier waits until who is
  cut off can prove nothing any more.
- (e) What is handed out as fresh is so by the same two rules, those of soft invalidations; it was not computed from what
  was handed out as stale; and its time had not run out when the read began.
- (f) What is handed out as stale is within its grace, and there was a reason not to wait for a load: a soft
  invalidation, a stale input, a failure, a timeout that has passed, or a flight on its way that brought it.

What is not promised (docs/coherence.md): a soft record marks nothing in L3 that is put there by who has not heard of it
(`Value.unmarked`).

That a value may be untrue because nothing could be proven (b) makes it no stale one: what is computed from it is born
before the record that this process lacks, and dies with it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import inf
from typing import NamedTuple

from tiercast.coherence.records import Draft, Kind, Record
from tiercast.tiers.entry import Address

REGION = "default"
SLACK = 0.001
"""Seconds by which deadlines that crossed several clocks may differ."""
EPOCH = 1_000_000.0
"""Where the world's time begins."""


class Violation(AssertionError):
    """The library broke a promise; the message says which."""


class Name(NamedTuple):
    """A key of the simulated application: its scope, the key, the tags that its values always carry, and its region."""

    scope: str
    key: str
    tags: tuple[str, ...]
    region: str = REGION

    @property
    def place(self) -> dict[str, str]:
        """The scope as the operations take it: o:1/u:2 is o_id="1", u_id="2"."""
        levels = (level.split(":") for level in self.scope.split("/") if level)
        return {f"{level}_id": number for level, number in levels}

    @property
    def target(self) -> str:
        """What a key record calls it."""
        return f"{self.scope}|{self.key}"

    @property
    def address(self) -> Address:
        """What the library calls it."""
        return Address(self.region, self.scope, self.key)

    def __str__(self) -> str:
        return self.target if self.region == REGION else f"{self.region}:{self.target}"


@dataclass(slots=True)
class Value:
    """One value on its way through the caches.

    Attributes:
        born: how many invalidations there had been when its load began; -1 until that is known.
        own: the invalidations that its own writer made for it; they do not count against it.
        tagged: tags added to it later, each with the moment (a count of steps) at which that was reported done, with
            the number of invalidations there had been when it was asked for, and with the records that said so.
        until: when it is no longer fresh; infinity until that is known.
        stale: whether it was computed from what was handed out as stale.
        known: the invalidations that the process which loaded it had applied then, by which the library dates it.
        unmarked: the soft key records that had come when it was put into L3, and of which who put it had not heard when
            it was sent: they may have been carried by then, and nobody marks it there any more.
    """

    name: Name
    version: int
    born: int
    text: str
    own: int = 0
    tagged: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    until: float = inf
    stale: bool = False
    known: int = -1
    unmarked: int = 0


@dataclass(slots=True)
class Reader:
    """What is known of a read when it begins, and of what happened meanwhile when it ends.

    Attributes:
        known: the invalidations that the process knew of. time, step: when. who: for the message of a violation.
        barred: those of them that it was held to by a barrier, and may not have heard of.
        joins: whether a load of the key was under way in the process then.
        unproven: whether the process could not prove itself, in all that time. failed: whether it could not load.
        reason: whether there was any other reason not to wait for a load.
        judged: the invalidations that the process had applied when it decided, at the earliest, to hand out what is stale.
    """

    known: int
    time: float
    step: int
    who: str
    barred: int = 0
    joins: bool = False
    unproven: bool = False
    failed: bool = False
    reason: bool = False
    judged: int = 0


class Marks:
    """All hard, or all soft, invalidations: which of them cover what."""

    def __init__(self, names: Iterable[Name]) -> None:
        self.cover: dict[Name, int] = dict.fromkeys(names, 0)
        self.by_tag: dict[tuple[str, str], int] = {}
        self.keys = 0
        """Soft ones of keys, of which no stamp remains."""

    def note(self, draft: Draft, names: Iterable[Name], bit: int) -> None:
        """Note one that covers some keys by what they always are."""
        for name in names:
            self.cover[name] |= bit
        if draft.kind is Kind.KEY and draft.soft:
            self.keys |= bit
        elif draft.kind is Kind.TAG:
            for tag in draft.targets:
                self.by_tag[draft.region, tag] = self.by_tag.get((draft.region, tag), 0) | bit

    def later(self, value: Value, reader: Reader) -> tuple[int, int]:
        """Return those that came after a value's load began, and which of them the reader's process knew of."""
        told = later = self.cover[value.name]
        for tag, (step, since, records) in value.tagged.items():
            if step <= reader.step:
                of_tag = self.by_tag.get(("", tag), 0) | self.by_tag.get((value.name.region, tag), 0)
                of_tag = of_tag >> since << since
                later |= of_tag
                if records & reader.known:  # else this process has not heard of the tag yet
                    told |= of_tag
        born = max(value.born, 0)
        later = (later & ~value.own) >> born << born
        return later, later & told & reader.known


class Oracle:
    """Judge of one world.

    Args:
        names: the keys of the application.
        max_staleness: seconds; None: not judged (a configuration that prefers availability).
        grace: seconds. skew: how far the wall clocks differ by which deadlines travel, in seconds.
    """

    def __init__(
        self, names: Iterable[Name], max_staleness: float | None, *, grace: float = 0.0, skew: float = 0.0
    ) -> None:
        self.names = tuple(names)
        self.max_staleness = max_staleness
        self.grace = grace
        self.skew = skew + SLACK
        self.origin: dict[Name, int] = dict.fromkeys(self.names, 1)
        self.covered: dict[Name, int] = dict.fromkeys(self.names, 1)
        """The newest version of each key whose writing has been followed by an invalidation in the log."""
        self.values: list[Value] = []
        self.hard = Marks(self.names)
        self.soft = Marks(self.names)
        self.touches: dict[Name, list[float]] = {name: [] for name in self.names}
        """Until when each `touch` made what it touched fresh; infinity where that is open."""
        self.times: list[float] = []
        self.told: list[str] = []
        self.local = 0
        """Invalidations that wait, or waited, in an outbox: known to their process alone."""
        self.by_position: dict[tuple[str, int], int] = {}
        self.before_epoch: dict[str, int] = {}
        self.reads = 0
        self.stale_reads = 0
        self.excused = 0
        """Reads that only the outage rule's excuse let pass."""
        self._covers: dict[tuple[Kind, str, tuple[str, ...]], tuple[Name, ...]] = {}

    # -- the origin ----------------------------------------------------------------------------

    def write(self, name: Name) -> int:
        """Change the origin; returns the new version."""
        self.origin[name] += 1
        return self.origin[name]

    def load(self, name: Name, born: int, version: int | None = None) -> Value:
        """Return the value that a reader of the origin gets now; `born`: from `count` when the load began."""
        version = self.origin[name] if version is None else version
        number = len(self.values)
        value = Value(name, version, born, f"{number}={name}=v{version}")
        self.values.append(value)
        return value

    def value_of(self, text: object) -> Value:
        """Return the value that a read handed out.

        Raises:
            Violation: it is none.
        """
        number = str(text).partition("=")[0]
        if not number.isdigit() or int(number) >= len(self.values) or self.values[int(number)].text != text:
            raise Violation(f"a value came back that nobody stored: {text!r}")
        return self.values[int(number)]

    # -- invalidations ---------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """How many invalidations there have been."""
        return len(self.times)

    def covers(self, draft: Draft) -> tuple[Name, ...]:
        """Return the keys that a record kills, or marks, by what they always are, worked out without the library."""
        what = (draft.kind, draft.region, draft.targets)
        found = self._covers.get(what)
        if found is None:
            found = self._covers[what] = tuple(
                name
                for name in self.names
                if draft.region in {"", name.region}
                and any(_matches(draft, name, each) for each in draft.targets or ("",))
            )
        return found

    def invalidated(
        self, draft: Draft, time: float, record: Record | None = None, *, harmless: bool = False, who: str = ""
    ) -> int:
        """Note an invalidation and return its number.

        Args:
            draft: what it says.
            time: when it was made.
            record: its place in the log; None while it waits in an outbox.
            harmless: it makes no value untrue (a key record by which an entry gets another tag).
            who: for the message of a violation.
        """
        number = len(self.times)
        bit = 1 << number
        self.times.append(time)
        what = f"{'soft ' * draft.soft}{draft.kind.value} {','.join(draft.targets)}"
        self.told.append(f"#{number} {what} of {draft.region or 'every region'} by {who}")
        if not harmless:
            (self.soft if draft.soft else self.hard).note(draft, self.covers(draft), bit)
        if record is None:
            self.local |= bit
        else:
            self.by_position[record.epoch, record.position] = number
        return number

    def epoch_began(self, epoch: str) -> None:
        """Note that the log began an epoch: whoever is in it has dropped all that was born before."""
        self.before_epoch[epoch] = (1 << self.count) - 1 & ~self.local

    def upto(self, epoch: str, position: int) -> int:
        """Return the invalidations that whoever begins from a snapshot at a position is told of."""
        if not epoch:
            return 0
        mask = self.before_epoch.get(epoch, 0)
        for at in range(position, 0, -1):
            number = self.by_position.get((epoch, at))
            if number is None:
                break
            mask |= 1 << number
        return mask

    def made(self) -> int:
        """Return all invalidations so far."""
        return (1 << self.count) - 1

    # -- judging -----------------------------------------------------------------------------------

    def check(self, reader: Reader, name: Name, text: object, *, stale: bool = False) -> None:
        """Judge what a read returned, as `stale` or as fresh.

        Raises:
            Violation: it should not have been.
        """
        self.reads += 1
        value = self.value_of(text)
        if value.name is not name:
            raise Violation(f"{reader.who} asked for {name} and got {text!r}")
        outage = self.grace > 0.0 and reader.unproven and reader.failed
        later, told = self.hard.later(value, reader)
        if outage:
            self.excused += bool(told & reader.barred)
            told &= ~reader.barred
        if told:
            raise Violation(
                f"(a) {reader.who} reads {text!r}, whose load began before {self._first(told)},"
                f" which that process knew of when the read began (step {reader.step})"
            )
        if later and (over := self._over(later, reader)):
            if not outage:
                raise Violation(
                    f"(b) {reader.who} reads {text!r} at t={reader.time - EPOCH:.3f}, invalidated more than max_staleness"
                    f" ({self.max_staleness} s) before by {self._first(over)}"
                )
            self.excused += 1
        soft, told = self.soft.later(value, reader)
        told &= ~(value.unmarked & self.soft.keys)
        until = max(value.until, *self.touches[name], 0.0) + self.skew
        spare = stale and bool(told or reader.time > until)
        if spare and (killed := later & self.hard.cover[name] & reader.judged):
            raise Violation(f"(a) {reader.who} reads {text!r} as stale, when it had applied {self._first(killed)}")
        how = f"{reader.who} reads {text!r} at t={reader.time - EPOCH:.3f} as {'stale' if stale else 'fresh'}"
        if stale:
            self.stale_reads += 1
            if reader.time > until + self.grace:
                raise Violation(f"(f) {how}, {reader.time - until:.3f} s past its time, with {self.grace} s of grace")
            soft |= self.soft.cover[name] & ~value.known
            if not (soft or value.stale or reader.time <= until or reader.failed or reader.reason):
                raise Violation(f"(f) {how}, and nothing kept it from loading")
            return
        if outage:
            told &= ~reader.barred
        else:
            told |= self._over(soft, reader) & ~(value.unmarked & self.soft.keys)
        if told:
            raise Violation(f"(e) {how}, whose load began before {self._first(told)} (step {reader.step})")
        if value.stale:
            raise Violation(f"(e) {how}, computed from what was stale")
        if reader.time > until:
            raise Violation(f"(e) {how}, {reader.time - until:.3f} s past its time")

    def _over(self, later: int, reader: Reader) -> int:
        """Return those that were made longer before a read than any process may take to hear of them."""
        if self.max_staleness is None or not later:
            return 0
        late = bisect_right(self.times, reader.time - self.max_staleness)
        return later & ((1 << late) - 1) & ~self.local

    def _first(self, mask: int) -> str:
        number = (mask & -mask).bit_length() - 1
        return f"{self.told[number]} at t={self.times[number] - EPOCH:.3f}"

    def settled(self) -> list[Name]:
        """Return the keys whose last write was followed by an invalidation: all must agree on them in the end."""
        return [name for name in self.names if self.covered[name] >= self.origin[name]]

    def agrees(self, who: str, name: Name, text: object) -> None:
        """Judge what a read returned after everything has come to rest.

        Raises:
            Violation: it is not what the origin says.
        """
        value = self.value_of(text)
        if value.name is not name or value.version != self.origin[name]:
            raise Violation(f"(c) at rest {who} reads {text!r}, the origin has v{self.origin[name]} of {name}")


def _matches(draft: Draft, name: Name, target: str) -> bool:
    kind = draft.kind
    if kind is Kind.ALL or (kind is Kind.REGION and target == name.region):
        return True
    if kind is Kind.TAG:
        return target in name.tags
    if kind is Kind.SCOPE:
        return not target or name.scope == target or name.scope.startswith(target + "/")
    if kind is Kind.PATTERN:
        scope, _, glob = target.partition("|")
        return scope == name.scope and fnmatchcase(name.key, glob)
    return target == name.target
