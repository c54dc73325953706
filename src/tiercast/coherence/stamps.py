"""Stamps: the position at which each tag, scope and pattern was last invalidated. Pure; no lock of its own.

Implementation notes.
    A stamp costs the same whatever the number of entries; entries are judged when read.
    Hard and soft stamps are kept apart (`Marks`), because a later soft record must not hide
    an earlier hard one. A region or "everything" is the root scope of its reach.
    Each `Series` is in the order of positions, so that the oldest stamp, which is
    what goes when the bound is reached, is the first of six. What goes raises the floor:
    every entry born below it counts as dead (soft: stale), always the safe side.
    Beside the last position of a stamp the one before it is kept: whoever stores a value
    that was computed before its own record asks what came between.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Hashable, Iterator, Sequence
from typing import Generic, TypeVar

from ..keys import Glob, ancestors, compile_glob, encode_tag, is_confined_tag
from .records import Kind

K = TypeVar("K", bound=Hashable)


def audit(holds: bool, broken: str) -> None:
    """Raise AssertionError where an invariant does not hold; unlike `assert`, also under ``python -O``."""
    if not holds:
        raise AssertionError(broken)


class Series(Generic[K]):
    """The last position of each name, in the order of positions, and the one before it.

    Attributes:
        last: name to its greatest position, oldest first. previous: where there is one, the position before that.
    """

    __slots__ = ("last", "previous")

    def __init__(self) -> None:
        self.last: OrderedDict[K, int] = OrderedDict()
        self.previous: dict[K, int] = {}

    def set(self, name: K, position: int) -> bool:
        """Record a position; False where the name already has one as great."""
        last = self.last
        before = last.get(name)
        if before is None:
            last[name] = position
            return True
        if position <= before:
            return False
        self.previous[name] = before
        last[name] = position
        last.move_to_end(name)
        return True

    def oldest(self) -> int | None:
        """Return the least of the last positions."""
        return next(iter(self.last.values()), None)

    def pop_oldest(self) -> tuple[K, int]:
        """Forget the name with the least last position."""
        name, position = self.last.popitem(last=False)
        self.previous.pop(name, None)
        return name, position

    def between(self, name: K, after: int, own: Container[int]) -> bool:
        """Whether the name was, or may have been, recorded after a position by somebody else.

        A record later than the caller's own counts too: it kills whatever the caller would store.
        """
        last = self.last.get(name, 0)
        if last <= after:
            return False
        if last not in own:
            return True
        previous = self.previous.get(name, 0)
        # Two of the caller's own hide whatever came before them: not known, so it counts.
        return previous > after

    def clear(self) -> None:
        """Forget everything."""
        self.last.clear()
        self.previous.clear()

    def check(self) -> None:
        """Audit the order, and that nothing is kept of names that are gone."""
        positions = list(self.last.values())
        audit(positions == sorted(positions), "a series is out of order")
        for name, position in self.previous.items():
            audit(position < self.last[name], f"{name!r}: {position} is not before {self.last[name]}")


class Patterns:
    """The patterns of one region and scope.

    ``prefix*`` is looked up once per distinct length of a prefix. The rest is matched
    newest first, and only as far back as the entry has not yet been judged.
    """

    __slots__ = ("globs", "prefixes")

    def __init__(self) -> None:
        self.prefixes: dict[int, dict[str, int]] = {}
        self.globs: OrderedDict[tuple[str, str], tuple[int, int, Glob]] = OrderedDict()

    def set(self, glob: Glob, position: int, tick: int) -> None:
        """Record a pattern that has a greater position than every one before it."""
        if glob.kind == "prefix":
            self.prefixes.setdefault(len(glob.text), {})[glob.text] = position
        else:
            name = (glob.kind, glob.text)
            self.globs[name] = (position, tick, glob)
            self.globs.move_to_end(name)

    def pop(self, kind: str, text: str) -> None:
        """Forget a pattern."""
        if kind != "prefix":
            del self.globs[kind, text]
            return
        same_length = self.prefixes[len(text)]
        del same_length[text]
        if not same_length:
            del self.prefixes[len(text)]

    def match(self, key: str, born: int, since: int) -> bool:
        """Whether a pattern set after `born` matches; globs of ticks up to `since` were judged before."""
        for length, same_length in self.prefixes.items():
            if same_length.get(key[:length], 0) > born:
                return True
        for position, tick, glob in reversed(self.globs.values()):
            if position <= born or tick <= since:
                break
            if glob.match(key):
                return True
        return False

    def matching(self, key: str, after: int) -> Iterator[tuple[str, str]]:
        """Yield kind and text of each pattern set after a position that matches."""
        for length, same_length in self.prefixes.items():
            if same_length.get(key[:length], 0) > after:
                yield "prefix", key[:length]
        for name, (position, _, glob) in reversed(self.globs.items()):
            if position <= after:
                break
            if glob.match(key):
                yield name

    def __len__(self) -> int:
        return len(self.globs) + sum(map(len, self.prefixes.values()))


class Marks:
    """The hard, or the soft, stamps of one reach.

    Attributes:
        confined: whether a tag was invalidated inside a scope only (`keys.encode_tag`).
        newest: no stamp is later. floor: what was born below it counts as matched, because older stamps were let go.
        floor_hits: how often only the floor spoke against an entry.
    """

    __slots__ = ("by_scope", "confined", "floor", "floor_hits", "newest", "patterns", "scopes", "tags")

    def __init__(self) -> None:
        self.tags: Series[str] = Series()
        self.confined = False
        self.scopes: Series[str] = Series()
        self.patterns: Series[tuple[str, str, str]] = Series()
        self.by_scope: dict[str, Patterns] = {}
        self.newest = 0
        self.floor = 0
        self.floor_hits = 0

    def match(self, scope: str, key: str, born: int, tags: Sequence[str], since: int) -> bool:
        """Whether an entry is matched by a stamp later than `born`."""
        if self.newest <= born:
            return False
        if last := self.tags.last:
            for tag in tags:
                if last.get(tag, 0) > born:
                    return True
            if self.confined and scope and tags and any(last.get(tag, 0) > born for tag in confined(scope, tags)):
                return True
        if last := self.scopes.last:
            if last.get("", 0) > born:
                return True
            if scope and any(last.get(path, 0) > born for path in ancestors(scope)):
                return True
        if self.by_scope:
            patterns = self.by_scope.get(scope)
            if patterns is not None and patterns.match(key, born, since):
                return True
        if born < self.floor:
            self.floor_hits += 1
            return True
        return False

    def between(self, scope: str, key: str, tags: Sequence[str], after: int, own: Container[int]) -> bool:
        """Whether a stamp matches that is, or may be, later than a position and somebody else's."""
        if self.newest <= after:
            return False
        if after < self.floor:
            return True
        patterns = self.by_scope.get(scope)
        return (
            any(self.tags.between(tag, after, own) for tag in tags)
            or (self.confined and any(self.tags.between(tag, after, own) for tag in confined(scope, tags)))
            or any(self.scopes.between(path, after, own) for path in ancestors(scope))
            or (
                patterns is not None
                and any(
                    self.patterns.between((scope, *pattern), after, own) for pattern in patterns.matching(key, after)
                )
            )
        )

    def set_pattern(self, scope: str, text: str, position: int, tick: int) -> None:
        """Record a pattern.

        Raises:
            ValueError: it is no pattern.
        """
        glob = compile_glob(text)
        if self.patterns.set((scope, glob.kind, glob.text), position):
            self.by_scope.setdefault(scope, Patterns()).set(glob, position, tick)

    def __len__(self) -> int:
        return len(self.tags.last) + len(self.scopes.last) + len(self.patterns.last)

    def oldest(self) -> int | None:
        """Return the position of the oldest stamp."""
        heads = [at for at in (self.tags.oldest(), self.scopes.oldest(), self.patterns.oldest()) if at is not None]
        return min(heads, default=None)

    def pop_oldest(self) -> int:
        """Forget the oldest stamp; returns its position."""
        oldest = self.oldest()
        if self.tags.oldest() == oldest:
            return self.tags.pop_oldest()[1]
        if self.scopes.oldest() == oldest:
            return self.scopes.pop_oldest()[1]
        (scope, kind, text), position = self.patterns.pop_oldest()
        patterns = self.by_scope[scope]
        patterns.pop(kind, text)
        if not patterns:
            del self.by_scope[scope]
        return position

    def check(self) -> None:
        """Audit that the pattern index holds what the series holds, and that nothing is newer than `newest`."""
        for series in (self.tags, self.scopes, self.patterns):
            series.check()
            audit(max(series.last.values(), default=0) <= self.newest, "a stamp is newer than the newest")
        audit(self.floor <= self.newest, "the floor stands above every stamp")
        audit(sum(map(len, self.by_scope.values())) == len(self.patterns.last), "a pattern is not indexed")
        for (scope, kind, text), position in self.patterns.last.items():
            patterns = self.by_scope[scope]
            indexed = patterns.prefixes[len(text)][text] if kind == "prefix" else patterns.globs[kind, text][0]
            audit(indexed == position, f"pattern {text!r} is indexed at {indexed}, not {position}")


def confined(scope: str, tags: Sequence[str]) -> Iterator[str]:
    """Yield the names under which an entry's tags may have been invalidated inside its scope or one above it."""
    for path in ancestors(scope)[1:]:
        for tag in tags:
            yield encode_tag(tag, path)


class Stamps:
    """The stamps of one reach: a region's own, or those of every region.

    Args:
        bound: how many stamps, hard and soft together, are kept.
    """

    __slots__ = ("bound", "hard", "soft")

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self.hard = Marks()
        self.soft = Marks()

    def set(self, kind: Kind, target: str, position: int, *, soft: bool) -> None:
        """Record a tag or a scope; the root scope stands for the whole reach."""
        marks = self.soft if soft else self.hard
        if kind is Kind.TAG:
            marks.tags.set(target, position)
            marks.confined = marks.confined or is_confined_tag(target)
        else:
            marks.scopes.set(target, position)
        self._grown(marks, position)

    def set_pattern(self, scope: str, text: str, position: int, tick: int, *, soft: bool) -> None:
        """Record a pattern over the keys of exactly one scope.

        Raises:
            ValueError: it is no pattern.
        """
        marks = self.soft if soft else self.hard
        marks.set_pattern(scope, text, position, tick)
        self._grown(marks, position)

    def raise_floor(self, floor: int) -> None:
        """Count everything born below `floor` as dead."""
        self.hard.floor = max(self.hard.floor, floor)
        self.hard.newest = max(self.hard.newest, floor)

    def forget(self, before: int) -> int:
        """Forget the stamps set before a position, because nothing born before them is left; returns how many."""
        forgotten = 0
        for marks in (self.hard, self.soft):
            while (oldest := marks.oldest()) is not None and oldest < before:
                marks.pop_oldest()
                forgotten += 1
        return forgotten

    def __len__(self) -> int:
        return len(self.hard) + len(self.soft)

    def check(self) -> None:
        """Audit the bound and both halves."""
        audit(len(self) <= self.bound, f"{len(self)} stamps, {self.bound} allowed")
        self.hard.check()
        self.soft.check()

    def _grown(self, marks: Marks, position: int) -> None:
        marks.newest = max(marks.newest, position)
        while len(self) > self.bound:
            hard, soft = self.hard.oldest(), self.soft.oldest()
            older = self.hard if soft is None or (hard is not None and hard <= soft) else self.soft
            older.floor = max(older.floor, older.pop_oldest())
