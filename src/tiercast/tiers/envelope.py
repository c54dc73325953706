"""The bytes of one entry in L2 and L3: a text header that Lua can judge, then a binary body.

    offset  length  field
    0       3       b"TC1": magic and version
    3       1       flags, one hex digit: 1 STALE, 2 TOMBSTONE, 4 TYPED
    4       16      born
    20      16      end of the fence, ms since 1970 by the storing server's clock; 0 in L2
    36      16      keep_until, ms since 1970; all f: none
    52      16      fresh_until, likewise
    68      4       CRC-32 of everything from offset 36 on, itself left out
    72      …       the rest: numbers (`_REST`), lengths of the tags, texts, payload

The header's numbers are 16 lower-case hex digits, so that comparing text compares
numbers. Scripts may write flags, born and the fence's end; these three stand outside
the checksum. Whoever changes a deadline packs anew. The body's numbers are big-endian;
texts are UTF-8 with lone surrogates as they are (``surrogatepass``), their lengths
are counted in code points.

Deadlines are kept in whole milliseconds and rounded down, so no entry lives longer than
it was given; ``pack(unpack(data)) == data`` for whatever `pack` made.

A tombstone may be the header alone (68 bytes).
"""

from __future__ import annotations

import math
import struct
from binascii import Error as HexError
from binascii import crc32, hexlify, unhexlify
from typing import Final, NamedTuple

from .entry import STALE, TOMBSTONE, TYPED, Envelope

MAGIC: Final = b"TC1"
FLAGS_AT: Final = 3
BORN_AT: Final = 4
FENCE_AT: Final = 20
KEEP_AT: Final = 36
FRESH_AT: Final = 52
HEADER_SIZE: Final = 68
"""Where the header ends; a tombstone may end here."""

NEVER: Final = 0xFFFF_FFFF_FFFF_FFFF
"""The deadline of what has none, in the header's milliseconds."""

_BODY_AT: Final = 72
_NUMBERS: Final = struct.Struct(">QQQQ")
_CRC: Final = struct.Struct(">I")
# created, ttl, cost, codec, compressed; characters of epoch, version, scope, key; tags; bytes of all texts
_REST: Final = struct.Struct(">dddHBIIIIII")
_CHECKED_REST: Final = struct.Struct(">IdddHBIIIIII")
_COPIED: Final = 4096
"""Bytes up to which copying them costs less than a view of them."""
_isfinite: Final = math.isfinite
_TEXT_AT: Final = _BODY_AT + _REST.size
_FLAGS: Final = {b"%x" % flags: flags for flags in range((STALE | TOMBSTONE | TYPED) + 1)}
_STARTS: Final = tuple(b"%b%x" % (MAGIC, flags) for flags in range((STALE | TOMBSTONE | TYPED) + 1))
_FLAGS_OF: Final = {start: flags for flags, start in enumerate(_STARTS)}
_numbers: Final = _NUMBERS.unpack
_rest: Final = _CHECKED_REST.unpack_from
_LAST: Final = 1.8e16
"""Seconds; what ends later ends 570 million years from now."""


class EnvelopeError(Exception):
    """Bytes that are no envelope of this version: corrupt, truncated, foreign or newer."""


class Head(NamedTuple):
    """What the header says, read without the body and its checksum.

    Attributes:
        flags: STALE | TOMBSTONE | TYPED.
        born: see `Envelope`.
        fence: end of the fence, ms since 1970 by the storing server's clock.
        keep: `keep_until` in ms since 1970, or NEVER. fresh: `fresh_until` likewise.
    """

    flags: int
    born: int
    fence: int
    keep: int
    fresh: int


def pack(envelope: Envelope, fence: int = 0) -> bytes:
    """Return an envelope as bytes; `fence` is the end of its fence in ms since 1970.

    Raises:
        ValueError: a number is out of range (a negative born, a deadline that is NaN).
    """
    tags = envelope.tags
    texts = (envelope.epoch, envelope.version, envelope.scope, envelope.key)
    text = "".join((*texts, *tags)).encode("utf-8", "surrogatepass")
    try:
        start = _STARTS[envelope.flags]
        numbers = _NUMBERS.pack(
            envelope.born, fence, _milliseconds(envelope.keep_until), _milliseconds(envelope.fresh_until)
        )
        rest = _REST.pack(
            envelope.created, envelope.ttl, envelope.cost, envelope.codec, envelope.compressed,
            *map(len, texts), len(tags), len(text),
        )  # fmt: skip
    except (struct.error, IndexError) as exc:
        raise ValueError(f"a number of the envelope is out of range: {exc}") from exc
    if tags:
        rest += struct.pack(f">{len(tags)}I", *map(len, tags))
    header = hexlify(numbers)
    checksum = crc32(envelope.payload, crc32(text, crc32(rest, crc32(header[KEEP_AT - BORN_AT :]))))
    return b"".join((start, header, _CRC.pack(checksum), rest, text, envelope.payload))


def unpack(data: bytes) -> Envelope:
    """Return the envelope that `pack` was given, its deadlines in whole milliseconds.

    Raises:
        EnvelopeError: the bytes are corrupt, truncated, foreign or of a newer version; nothing else is raised.
    """
    # Written out, without `peek` and its names: this is most of what a hit of a tier below computes.
    try:
        flags = _FLAGS_OF[data[:BORN_AT]]
        born, _, keep, fresh = _numbers(unhexlify(data[BORN_AT:HEADER_SIZE]))
        if len(data) == HEADER_SIZE and flags & TOMBSTONE:
            return _bare(flags, born, keep, fresh)
        checksum, created, ttl, cost, codec, compressed, epochs, versions, scopes, keys, count, size = _rest(
            data, HEADER_SIZE
        )
        body = data[_BODY_AT:] if len(data) < _COPIED else memoryview(data)[_BODY_AT:]
        if crc32(body, crc32(data[KEEP_AT:HEADER_SIZE])) != checksum:
            raise EnvelopeError("the checksum does not match")
        start = _TEXT_AT + 4 * count
        if start + size > len(data) or compressed > 1:
            raise EnvelopeError("the lengths do not fit")
        text = data[start : start + size].decode("utf-8", "surrogatepass")
        lengths = struct.unpack_from(f">{count}I", data, _TEXT_AT) if count else ()
    except (struct.error, HexError, UnicodeDecodeError) as exc:
        raise EnvelopeError(f"cannot be read: {exc}") from exc
    except KeyError:
        peek(data)  # says what is wrong
        raise EnvelopeError("unknown flags") from None
    version_at = epochs
    scope_at = version_at + versions
    key_at = scope_at + scopes
    at = key_at + keys
    tags: tuple[str, ...] = ()
    if count:
        pieces = []
        for length in lengths:
            pieces.append(text[at : at + length])
            at += length
        tags = tuple(pieces)
    # NaN fails every comparison; a deadline or cost of NaN would make an entry immortal.
    if at != len(text) or not (_isfinite(created) and ttl >= 0.0 and cost >= 0.0):
        raise EnvelopeError("the lengths or numbers do not fit")
    return Envelope(
        text[:version_at], born, created, math.inf if fresh == NEVER else fresh / 1000.0,
        math.inf if keep == NEVER else keep / 1000.0, ttl, cost, text[scope_at:key_at], tags, codec,
        compressed == 1, flags, text[version_at:scope_at], text[key_at : key_at + keys], data[start + size :],
    )  # fmt: skip


def peek(data: bytes) -> Head:
    """Return what the header says; the body may be missing (68 bytes are enough) and is not looked at.

    Raises:
        EnvelopeError: these bytes do not begin like an envelope of this version.
    """
    if data[:FLAGS_AT] != MAGIC:
        raise EnvelopeError(f"begins with {data[:FLAGS_AT]!r}: foreign, or of another version")
    flags = _FLAGS.get(data[FLAGS_AT:BORN_AT])
    if flags is None:
        raise EnvelopeError("unknown flags")
    try:
        return Head(flags, *_NUMBERS.unpack(unhexlify(data[BORN_AT:HEADER_SIZE])))
    except (struct.error, HexError) as exc:
        raise EnvelopeError(f"the header cannot be read: {exc}") from exc


def tombstone(born: int, fence: int) -> bytes:
    """Return the shortest tombstone: nothing is here, and nothing born before `born` may come until `fence` (ms)."""
    return b"%b%x%b" % (MAGIC, TOMBSTONE, hexlify(_NUMBERS.pack(born, fence, 0, 0)))


def _bare(flags: int, born: int, keep: int, fresh: int) -> Envelope:
    """Return what a tombstone without a body stands for."""
    return Envelope("", born, 0.0, _seconds(fresh), _seconds(keep), 0.0, 0.0, "", (), 0, False, flags, "", "", b"")


def _milliseconds(moment: float) -> int:
    """Return the last whole millisecond that is not after `moment` (seconds); NEVER for infinity."""
    if moment == math.inf:
        return NEVER
    if moment <= 0.0:
        return 0
    if moment >= _LAST:
        return NEVER - 1
    count = int(moment * 1000.0)
    # The product is rounded: without these two, 1.001 s would become 1000 ms, and lose one more at each renewal.
    if (count + 1) / 1000.0 <= moment:
        count += 1
    elif count / 1000.0 > moment:
        count -= 1
    return count


def _seconds(milliseconds: int) -> float:
    return math.inf if milliseconds == NEVER else milliseconds / 1000.0
