"""Invalidation records: what they say, and how they look on the wire. Pure.

On the wire and in the logs a record is one JSON object (docs/protocol.md):

    {"v":1,"epoch":"5f0c…","position":42,"carried":41,
     "kind":"tag","region":"","targets":["users"],"soft":false,"origin":"web-1:71:9f","sent":1760000000.5}

The log gives `v`, `epoch` and `position`; a draft is the same object without them, so
that an append script has only to put three members after the opening brace (`stamp`).
`carried` is said on the bus only: how far L3 was clean as the message went out.
A message holds one record, or several of one batch, one a line.

Two readers, two rules. A *message* from the bus that is not understood is `Malformed`:
it moves nothing, and the log is read instead. A record *in the log* that is not
understood takes its place in the sequence as "everything": whoever wrote it may know a
kind that this version does not.
"""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, dataclass_transform

import orjson

from ..keys import decode_pattern_target, decode_target

T = TypeVar("T")

WIRE_VERSION = 1
"""The version written, and the only one read."""
MAX_RECORD = 64 * 1024
"""Bytes that one record may take on the wire."""
MAX_MESSAGE = 1024 * 1024
"""Bytes that one message, a batch of records, may take on the bus."""
MAX_POSITION = 2**53
"""Positions stay below it: beyond, JSON in other languages loses digits."""

_MAX_NAME = 256
"""Characters of an epoch or an origin."""
_SURELY_FITS = 8000
"""Characters that fit a record however they are escaped."""
_STAMPED = 160
"""Bytes that `stamp` may add to a draft at most; kept free when a draft is measured."""


class Kind(enum.Enum):
    """What a record matches. Key, pattern: within one region. The rest: every region unless one is named."""

    KEY = "key"
    TAG = "tag"
    SCOPE = "scope"
    PATTERN = "pattern"
    REGION = "region"
    ALL = "all"


_KINDS = {kind.value: kind for kind in Kind}
STAMPED_KINDS = frozenset({Kind.TAG, Kind.SCOPE, Kind.PATTERN, Kind.REGION, Kind.ALL})
"""The kinds that leave a stamp; keys are remembered by the ring alone."""


@dataclass_transform(frozen_default=True)
def written_once(cls: type[T]) -> type[T]:
    """Make a dataclass that is frozen for the type checkers alone: to make an object of one that is takes five times as long."""
    return dataclass(slots=True, unsafe_hash=True)(cls)


@written_once
class Draft:
    """A record that has no position yet.

    Attributes:
        kind: what the targets are.
        region: the region's plain name; "" means every region (never for KEY and PATTERN).
        targets: KEY: "scope|key" as `keys.encode_target` writes it. PATTERN: the same, the key part being
            a glob; it matches keys of exactly that scope, not of scopes below it. TAG: tags, unchanged.
            SCOPE: canonical scope paths ("" is the root), each with all below it. REGION: region
            names. ALL: empty.
        soft: marks stale instead of dead.
        origin: the member that appended it. sent: its wall clock, seconds.
    """

    kind: Kind
    region: str
    targets: tuple[str, ...]
    soft: bool = False
    origin: str = ""
    sent: float = 0.0


@written_once
class Record(Draft):
    """A record in the log."""

    epoch: str = ""
    position: int = 0
    carried: int = field(default=0, compare=False)
    """Up to where L3 was clean when the record was published; 0 where nothing was said. Not part of the record."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """A message that says nothing this version can rely on; `reason` is for the operator."""

    reason: str


class _RefusedError(ValueError):
    """What a mapping lacks to be a record."""


def check_draft(draft: Draft) -> None:
    """Refuse a draft that no log should take.

    Raises:
        ValueError: saying which part cannot be.
    """
    kind = draft.kind
    if not draft.region and (kind is Kind.KEY or kind is Kind.PATTERN):
        raise _RefusedError(f"a {kind.value} record names its region")
    if (kind is Kind.ALL) == bool(draft.targets):
        raise _RefusedError(f"a record of kind {kind.value} with {len(draft.targets)} targets")
    if kind is Kind.KEY:
        for target in draft.targets:
            if "%" in target or not -1 < target.find("|") < len(target) - 1:
                decode_target(target)  # which refuses what is none; for plain ones the call would be most of the check
    elif kind is Kind.PATTERN:
        for target in draft.targets:
            decode_pattern_target(target)


def encode_draft(draft: Draft) -> bytes:
    """Return a draft as the append scripts and the disk log take it: a JSON object that names no place.

    Raises:
        ValueError: the draft cannot be, or is longer than `MAX_RECORD` (see `split`).
    """
    check_draft(draft)
    data = _dump(
        {
            "kind": draft.kind.value,
            "region": draft.region,
            "targets": draft.targets,
            "soft": draft.soft,
            "origin": draft.origin,
            "sent": draft.sent,
        }
    )
    if len(data) > MAX_RECORD - _STAMPED:
        raise ValueError(f"a record of {len(data)} bytes is longer than {MAX_RECORD - _STAMPED}")
    return data


def stamp(draft: bytes, epoch: str, position: int, carried: int | None = None) -> bytes:
    """Return an encoded draft with its place in the log, and in a message with how far L3 is clean."""
    said = b"" if carried is None else b'"carried":%d,' % carried
    return b'{"v":%d,"epoch":%b,"position":%d,%b%b' % (WIRE_VERSION, _dump(epoch), position, said, draft[1:])


def placed(drafts: Sequence[Draft], epoch: str, after: int) -> tuple[Record, ...]:
    """Return the records that drafts became which follow upon position `after`."""
    return tuple(
        [
            Record(each.kind, each.region, each.targets, each.soft, each.origin, each.sent, epoch, position)
            for position, each in enumerate(drafts, after + 1)
        ]
    )


def encode_record(record: Record) -> bytes:
    """Return a record as it travels on the bus.

    Raises:
        ValueError: as `encode_draft`.
    """
    return stamp(encode_draft(record), record.epoch, record.position, record.carried)


def split(draft: Draft) -> list[Draft]:
    """Cut a draft with many targets into several that each fit `MAX_RECORD`.

    Raises:
        ValueError: one target alone is longer than a record may be.
    """
    if len(draft.region) + len(draft.origin) + sum(map(len, draft.targets)) + len(draft.targets) < _SURELY_FITS:
        return [draft]
    room = MAX_RECORD - _STAMPED - len(_dump([draft.region, draft.origin])) - 160
    drafts: list[Draft] = []
    targets: list[str] = []
    size = 0
    for target in draft.targets:
        length = len(_dump(target)) + 1
        if length > room:
            what = f"a {draft.kind.value} of {length} bytes (encoded)"
            raise ValueError(f"{what} is too long for a record, which takes {room}: {target[:60]!r}…")
        if size + length > room:
            drafts.append(replace(draft, targets=tuple(targets)))
            targets, size = [], 0
        targets.append(target)
        size += length
    drafts.append(replace(draft, targets=tuple(targets)))
    return drafts


def decode_message(
    data: bytes | bytearray | memoryview | str, most: int = MAX_MESSAGE
) -> tuple[Record, ...] | Malformed:
    """Return the records of one bus message of at most so many bytes, one a line, or why it cannot be relied on. Never raises."""
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else bytes(data)
    if len(raw) > most:
        return Malformed(f"{len(raw)} bytes")
    records = []
    for line in raw.split(b"\n") if b"\n" in raw else (raw,):
        if len(line) > MAX_RECORD:
            return Malformed(f"a record of {len(line)} bytes")
        try:
            fields = _load(line)
            epoch = fields.get("epoch", "")
            if type(epoch) is not str or not 0 < len(epoch) <= _MAX_NAME:
                raise _refused("epoch", epoch)
            records.append(_record(fields, epoch, fields.get("position")))
        except (ValueError, RecursionError) as exc:
            return Malformed(str(exc) or type(exc).__name__)
    return tuple(records)


def decode_logged(data: bytes | str, epoch: str, position: int) -> Record:
    """Return a record that stands in the log at `position`; what is not understood becomes "everything". Never raises.

    Args:
        data: the encoded draft or record; a place that it names itself is ignored.
        epoch: the log's.
        position: where the log says that it stands.
    """
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    try:
        return _record(_load(raw), epoch, position)
    except (ValueError, RecursionError):
        return Record(Kind.ALL, "", (), epoch=epoch, position=position)


def _record(fields: Mapping[str, Any], epoch: str, position: Any) -> Record:
    """Return what the fields say; one plain sequence of checks, since every process runs it for every message."""
    get = fields.get
    version, kind = get("v"), get("kind", "")
    if type(version) is not int or version != WIRE_VERSION:
        raise _RefusedError(f"version {version!r}")
    if type(position) is not int or not 0 < position < MAX_POSITION:
        raise _RefusedError(f"position {position!r}")
    if type(kind) is not str or kind not in _KINDS:
        raise _refused("kind", kind)
    targets, soft, sent = get("targets", []), get("soft", False), get("sent", 0.0)
    if type(targets) is not list:
        raise _RefusedError("targets are not a list of strings")
    for target in targets:
        if type(target) is not str:
            raise _RefusedError("targets are not a list of strings")
    if type(soft) is not bool:
        raise _RefusedError(f"soft {soft!r}")
    if type(sent) not in (int, float) or not math.isfinite(sent):
        raise _RefusedError(f"sent {sent!r}")
    region, origin, carried = get("region", ""), get("origin", ""), get("carried", 0)
    if type(region) is not str:
        raise _refused("region", region)
    if type(origin) is not str:
        raise _refused("origin", origin)
    if type(carried) is not int or not 0 <= carried < MAX_POSITION:
        raise _RefusedError(f"carried {carried!r}")
    record = Record(
        _KINDS[kind], region, tuple(targets), soft, origin[:_MAX_NAME], float(sent), epoch, position, carried
    )
    check_draft(record)
    return record


def _refused(name: str, value: object) -> _RefusedError:
    return _RefusedError(f"{name} {str(value)[:60]!r}")


def _dump(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:
        # orjson refuses lone surrogates, which tags and keys may hold like any other text
        return json.dumps(value, separators=(",", ":")).encode()


def _load(data: bytes) -> Mapping[str, Any]:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        if b"\\u" not in data:
            raise
        value = json.loads(data)
    if type(value) is not dict:
        raise _RefusedError("not a JSON object")
    return value
