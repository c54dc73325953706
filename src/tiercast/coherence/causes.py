"""Which record kills an entry: for those who explain and count; judging itself is `judging.py`. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..globs import compile_glob
from ..keys import ancestors, decode_pattern_target, decode_target, encode_tag
from .records import Kind, Record

if TYPE_CHECKING:
    from .ledger import Ledger
    from .stamps import Marks


class Cause(NamedTuple):
    """Why an entry is dead.

    Attributes:
        kind: "key", "tag", "scope", "pattern", "region", "all", "epoch" or "floor".
        position: the latest such record's; 0 where none is known.
        target: what it named.
        soft: whether it marks stale instead of dead.
    """

    kind: str
    position: int = 0
    target: str = ""
    soft: bool = False


def cause_of(
    ledger: Ledger, region: str, scope: str, key: str, epoch: str, born: int, tags: Sequence[str]
) -> Cause | None:
    """Return why the ledger's rule has an entry dead or stale; None where it is alive. The ledger's lock is held."""
    if epoch != ledger.epoch:
        return Cause("epoch")
    view = ledger.region(region)
    for soft in (False, True):
        series = ledger.soft if soft else ledger.hard
        position = series.last.get((region, scope, key), 0)
        if position > born:
            return Cause("key", position, key, soft)
        for stamps, whole in ((view.stamps, "region"), (ledger.everywhere, "all")):
            marks = stamps.soft if soft else stamps.hard
            found = _stamped(marks, whole, scope, key, born, tags)
            if found is not None:
                return found._replace(soft=soft)
    return None


def _stamped(marks: Marks, whole: str, scope: str, key: str, born: int, tags: Sequence[str]) -> Cause | None:
    if marks.newest <= born:
        return None
    names = {encode_tag(tag, path): tag for path in ancestors(scope)[1:] for tag in tags} if marks.confined else {}
    for name in (*tags, *names):
        position = marks.tags.last.get(name, 0)
        if position > born:
            return Cause("tag", position, names.get(name, name))
    for path in ancestors(scope):
        position = marks.scopes.last.get(path, 0)
        if position > born:
            return Cause("scope" if path else whole, position, path)
    patterns = marks.by_scope.get(scope)
    for kind, text in patterns.matching(key, born) if patterns is not None else ():
        return Cause("pattern", marks.patterns.last[scope, kind, text], f"{text}*" if kind == "prefix" else text)
    return Cause("floor", marks.floor) if born < marks.floor else None


def matching(records: Iterable[Record], region: str, scope: str, key: str, tags: Sequence[str]) -> Record | None:
    """Return the first record that matches an entry, by what the records themselves say; None where none does.

    Independent of the ledger, so that it can be used to check it.
    """
    paths = ancestors(scope)
    names = {*tags, *(encode_tag(tag, path) for path in paths[1:] for tag in tags)}
    for record in records:
        if record.region and record.region != region:
            continue
        if _names(record, region, scope, key, paths, names):
            return record
    return None


def _names(record: Record, region: str, scope: str, key: str, paths: Sequence[str], names: set[str]) -> bool:
    kind, targets = record.kind, record.targets
    if kind is Kind.ALL:
        return True
    if kind is Kind.REGION:
        return region in targets
    if kind is Kind.TAG:
        return not names.isdisjoint(targets)
    if kind is Kind.SCOPE:
        return not set(paths).isdisjoint(targets)
    for target in targets:
        try:
            if kind is Kind.KEY:
                if decode_target(target) == (scope, key):
                    return True
                continue
            within, glob = decode_pattern_target(target)
        except ValueError:
            return True  # what cannot be read counts as its whole region
        if within == scope and compile_glob(glob).match(key):
            return True
    return False
