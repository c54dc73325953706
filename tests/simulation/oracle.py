"""The oracle: what every value that a read hands out is judged by, from knowledge that no process has.

Every value says which version of its key it carries and is known by a number. For each value the oracle
keeps how many invalidations there had been when its load began; for each invalidation, what it covers and when
it was made; for each process, which invalidations it has applied or was told of. Sets of invalidations are the
bits of an integer.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import NamedTuple

from tiercast.coherence.records import Draft, Kind, Record

REGION = "default"
EPOCH = 1_000_000.0
"""Where the world's time begins."""


class Violation(AssertionError):
    """The library broke a promise; the message says which."""


class Name(NamedTuple):
    """A key of the simulated application: its scope, the key, and the tags that its values always carry."""

    scope: str
    key: str
    tags: tuple[str, ...]

    @property
    def place(self) -> dict[str, str]:
        """The scope as the operations take it: o:1/u:2 is o_id="1", u_id="2"."""
        levels = (level.split(":") for level in self.scope.split("/") if level)
        return {f"{level}_id": number for level, number in levels}

    def __str__(self) -> str:
        return f"{self.scope}|{self.key}"


@dataclass(slots=True)
class Value:
    """One value on its way through the caches.

    Attributes:
        born: how many invalidations there had been when its load began; -1 until that is known.
        own: the invalidations that its own writer made for it; they do not count against it.
        tagged: tags added to it later, each with the moment (a count of steps) at which that was reported done, with
            the number of invalidations there had been when it was asked for, and with the records that said so.
    """

    name: Name
    version: int
    born: int
    text: str
    own: int = 0
    tagged: dict[str, tuple[int, int, int]] = field(default_factory=dict)


@dataclass(slots=True)
class Reader:
    """What is known of a read when it begins."""

    known: int
    time: float
    step: int
    who: str


class Oracle:
    """Judge of one world.

    Args:
        names: the keys of the application.
        max_staleness: seconds; None: not judged (a configuration that prefers availability).
    """

    def __init__(self, names: Iterable[Name], max_staleness: float | None) -> None:
        self.names = tuple(names)
        self.max_staleness = max_staleness
        self.origin: dict[Name, int] = dict.fromkeys(self.names, 1)
        self.covered: dict[Name, int] = dict.fromkeys(self.names, 1)
        """The newest version of each key whose writing has been followed by an invalidation in the log."""
        self.values: list[Value] = []
        self.cover: dict[Name, int] = dict.fromkeys(self.names, 0)
        self.by_tag: dict[str, int] = {}
        self.times: list[float] = []
        self.told: list[str] = []
        self.local = 0
        """Invalidations that wait, or waited, in an outbox: known to their process alone."""
        self.by_position: dict[tuple[str, int], int] = {}
        self.before_epoch: dict[str, int] = {}
        self.reads = 0
        self._covers: dict[tuple[Kind, tuple[str, ...]], tuple[Name, ...]] = {}

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
        """Return the keys that a record kills by what they always are, worked out without the library."""
        found = self._covers.get((draft.kind, draft.targets))
        if found is None:
            found = tuple(
                name for name in self.names if any(_matches(draft, name, each) for each in draft.targets or ("",))
            )
            self._covers[draft.kind, draft.targets] = found
        return () if draft.soft or draft.region not in {"", REGION} else found

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
        self.told.append(f"#{number} {draft.kind.value} {','.join(draft.targets)} by {who}")
        if not harmless:
            for name in self.covers(draft):
                self.cover[name] |= bit
            if draft.kind is Kind.TAG and not draft.soft:
                for tag in draft.targets:
                    self.by_tag[tag] = self.by_tag.get(tag, 0) | bit
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

    # -- judging -----------------------------------------------------------------------------------

    def check(self, reader: Reader, name: Name, text: object) -> None:
        """Judge what a read returned.

        Raises:
            Violation: it should not have been.
        """
        self.reads += 1
        value = self.value_of(text)
        if value.name is not name:
            raise Violation(f"{reader.who} asked for {name} and got {text!r}")
        told = later = self.cover[name]
        for tag, (step, since, records) in value.tagged.items():
            if step <= reader.step:
                of_tag = self.by_tag.get(tag, 0) >> since << since
                later |= of_tag
                if records & reader.known:  # else this process has not heard of the tag yet
                    told |= of_tag
        born = max(value.born, 0)
        later = (later & ~value.own) >> born << born
        if not later:
            return
        if told := later & told & reader.known:
            raise Violation(
                f"(a) {reader.who} reads {text!r}, whose load began before {self._first(told)},"
                f" which that process knew of when the read began (step {reader.step})"
            )
        if self.max_staleness is not None:
            late = bisect_right(self.times, reader.time - self.max_staleness)
            if over := later & ((1 << late) - 1) & ~self.local:
                raise Violation(
                    f"(b) {reader.who} reads {text!r} at t={reader.time - EPOCH:.3f}, invalidated more than max_staleness"
                    f" ({self.max_staleness} s) before by {self._first(over)}"
                )

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
    if kind is Kind.ALL or (kind is Kind.REGION and target == REGION):
        return True
    if kind is Kind.TAG:
        return target in name.tags
    if kind is Kind.SCOPE:
        return not target or name.scope == target or name.scope.startswith(target + "/")
    if kind is Kind.PATTERN:
        scope, _, glob = target.partition("|")
        return scope == name.scope and fnmatchcase(name.key, glob)
    return target == str(name)
