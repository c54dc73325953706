"""How keys, scopes and regions are written down, so that no id can ever pass for something else. Pure.

    storage key   region ":" scope path "|" key         the name of an entry in L2 and L3
    target        scope path "|" key                    a key in an invalidation record
    scope path    level ":" id { "/" level ":" id }     "" is the root, called `global`

Every part is percent-encoded where it holds a separator or a glob character, which
makes each of these an injective function of its parts. What comes in as a *path*
or *scope* below is always the canonical path that `scope_child` builds, encoded
already; keys and ids come in as the user wrote them.

All functions are thread-safe and keep nothing but bounded caches.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple
from uuid import UUID

from .globs import Glob, compile_glob, ends_open, escape_glob

__all__ = [
    "MAX_REGION",
    "MAX_STORAGE_KEY",
    "ROOT",
    "Glob",
    "StorageKey",
    "ancestors",
    "compile_glob",
    "decode_part",
    "decode_pattern_target",
    "decode_target",
    "encode_key",
    "encode_part",
    "encode_part_until",
    "encode_pattern_target",
    "encode_target",
    "ends_open",
    "escape_glob",
    "identity",
    "parse_storage_key",
    "part_end",
    "scope_child",
    "split_path",
    "storage_key",
    "target_storage_key",
    "validate_key",
    "validate_path",
    "validate_region",
]

ROOT = ""
"""The path of the root scope, `global`."""
MAX_STORAGE_KEY = 200
"""Storage keys of more characters end in a hash instead of the key."""
MAX_REGION = 100
"""A region's encoded name may have this many characters, so that it is readable in every storage key."""

# What is refused in a part; "\s" is all of Unicode's whitespace, the ranges are C0, DEL with C1, and lone surrogates.
_UNPRINTABLE = r"\x00-\x1f\x7f-\x9f\ud800-\udfff"
_encode_odd_in_part = re.compile(rf"[%:/|*?\[\]{{}}\\#@^\s{_UNPRINTABLE}]+").sub
_encode_odd_in_key = re.compile(rf"[%|*?\[\]{{}}\\#^\s{_UNPRINTABLE}]+").sub
_encode_odd_in_glob = re.compile(rf"[%{_UNPRINTABLE}]+").sub
# Printable ASCII without the above. For ordinary keys this one possessive match (60 ns and 1 ns a character) is all
# the work there is; searching for an odd character costs three times as much, and so do translate and quote.
_plain_part = re.compile(r"[!\"$&'()+,\-.0-9;<=>A-Z_`a-z~]*+").fullmatch
_plain_key = re.compile(r"[!\"$&'()+,\-./0-9:;<=>@A-Z_`a-z~]*+").fullmatch
_decode_escapes = re.compile(r"(?:%[0-9A-Fa-f]{2})+|%").sub


def _escape(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass"))


def _unescape(match: re.Match[str]) -> str:
    escapes = match[0]
    if escapes == "%":
        raise ValueError("a percent sign that two hexadecimal digits do not follow")
    return bytes.fromhex(escapes.replace("%", "")).decode("utf-8", "surrogatepass")


def encode_part(text: str) -> str:
    """Encode a name or id so that it holds no separator, glob character, whitespace or control. Injective."""
    return text if _plain_part(text) else _encode_odd_in_part(_escape, text)


def part_end(between: str) -> str:
    """Return the character at which a part ends before the fixed text `between` and another part; "" for a separator.

    Where that text holds no separator ("{year}-{month}"), its first character is encoded in the part before it as well.
    """
    separated = not between or any(encode_part(each) != each for each in between if each != "%")
    return "" if separated else between[0]


def encode_part_until(text: str, end: str) -> str:
    """Encode a part that ends before the character `end` (see `part_end`)."""
    encoded = encode_part(text)
    return encoded.replace(end, "".join(f"%{byte:02X}" for byte in end.encode())) if end else encoded


def encode_key(text: str) -> str:
    """Encode a key; being the last part it keeps its ":", "/" and "@". Injective."""
    return text if _plain_key(text) else _encode_odd_in_key(_escape, text)


def decode_part(text: str) -> str:
    """Undo `encode_part` and `encode_key`.

    Raises:
        ValueError: a percent escape in it is broken.
    """
    return _decode_escapes(_unescape, text) if "%" in text else text


def encode_target(scope: str, key: str) -> str:
    """Write a key of a scope as the target of a record."""
    return f"{scope}|{key if _plain_key(key) else _encode_odd_in_key(_escape, key)}"


def decode_target(text: str) -> tuple[str, str]:
    """Read (scope, key) from the target of a key record.

    Raises:
        ValueError: it is no such target.
    """
    scope, bar, key = text.partition("|")
    if not bar or not key:
        raise ValueError(f"not a key target (scope|key): {_shown(text)}")
    return scope, decode_part(key)


def encode_pattern_target(scope: str, glob: str) -> str:
    """Write a glob over the keys of a scope as the target of a record; the glob's own characters stay."""
    return f"{scope}|{_encode_odd_in_glob(_escape, glob)}"


def decode_pattern_target(text: str) -> tuple[str, str]:
    """Read (scope, glob) from the target of a pattern record.

    Raises:
        ValueError: it is no such target.
    """
    return decode_target(text)


@lru_cache(maxsize=1024)
def _region_head(region: str) -> str:
    return f"{encode_part(region)}:"


def storage_key(region: str, scope: str, key: str) -> str:
    """Name an entry in L2 and L3; two different (region, scope, key) never share a name.

    Over-long names keep a readable head that ends in "#" and 128 bits of BLAKE2b of the whole; only
    there does injectivity rest on a hash. Costs about 0.3 µs for an ordinary key.
    """
    text = f"{_region_head(region)}{scope}|{key if _plain_key(key) else _encode_odd_in_key(_escape, key)}"
    return text if len(text) <= MAX_STORAGE_KEY else _hashed(text)


def target_storage_key(region: str, target: str) -> str:
    """Name the entry in L2 and L3 of a target as `encode_target` writes it; of another spelling, it names nothing."""
    text = _region_head(region) + target
    return text if len(text) <= MAX_STORAGE_KEY else _hashed(text)


def _hashed(text: str) -> str:
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return f"{text[: MAX_STORAGE_KEY - 33]}#{digest}"


class StorageKey(NamedTuple):
    """What a storage key says. `scope` and `key` are None where they were too long and a hash stands for them."""

    region: str
    scope: str | None
    key: str | None


def parse_storage_key(text: str) -> StorageKey:
    """Read a storage key.

    Raises:
        ValueError: it is none.
    """
    head, hashed, _ = text.partition("#")
    region, colon, rest = head.partition(":")
    scope, bar, key = rest.partition("|")
    if not colon or not region or not (hashed or (bar and key)):
        raise ValueError(f"not a storage key: {_shown(text)}")
    return StorageKey(decode_part(region), scope if bar else None, None if hashed else decode_part(key))


def identity(value: object) -> str:
    """Return the text of a scope's id: 123 and "123" are the same id.

    Raises:
        TypeError: it is neither str, int nor UUID (a bool is none either).
        ValueError: it is empty.
    """
    if isinstance(value, str):
        if not value:
            raise ValueError("an id must not be empty")
        return str.__str__(value)  # of a str enum the value, not its name
    if isinstance(value, int) and not isinstance(value, bool):
        return int.__repr__(value)
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"an id must be str, int or UUID, not {type(value).__name__}")


def scope_child(parent: str, level: str, value: str | int | UUID) -> str:
    """Return the path of the scope `level` = `value` below the path `parent`.

    Raises:
        TypeError: the id is neither str, int nor UUID.
        ValueError: the id is empty.
    """
    part = f"{encode_part(level)}:{encode_part(identity(value))}"
    return f"{parent}/{part}" if parent else part


@lru_cache(maxsize=4096)
def ancestors(path: str) -> tuple[str, ...]:
    """Return every scope that holds `path`, from the root to `path` itself: "a:1/b:2" -> ("", "a:1", "a:1/b:2")."""
    if not path:
        return (ROOT,)
    ends = [at for at, char in enumerate(path) if char == "/"]
    return (ROOT, *(path[:end] for end in ends), path)


def split_path(path: str) -> tuple[tuple[str, str], ...]:
    """Return the (level, id) pairs of a path, decoded, outermost first; the root has none.

    Raises:
        ValueError: it is no canonical path.
    """
    if not path:
        return ()
    pairs = []
    for part in path.split("/"):
        level, colon, value = part.partition(":")
        pair = decode_part(level), decode_part(value)
        if not colon or not all(pair) or part != f"{encode_part(pair[0])}:{encode_part(pair[1])}":
            raise ValueError(f"not a scope path (level:id/level:id, percent-encoded): {_shown(path)}")
        pairs.append(pair)
    return tuple(pairs)


def validate_path(path: str) -> str:
    """Return a scope path that came from outside, if it is canonical.

    Raises:
        ValueError: it is not.
    """
    split_path(path)
    return path


def validate_key(key: object, what: str = "a key") -> str:
    """Return a key, or what else `what` says, as plain str.

    Raises:
        TypeError: it is no str.
        ValueError: it is empty.
    """
    if type(key) is str and key:
        return key
    if not isinstance(key, str):
        raise TypeError(f"{what} must be str, not {type(key).__name__}: {_shown(key)}")
    if not key:
        raise ValueError(f"{what} must not be empty: ''")
    return str.__str__(key)


def validate_region(name: object) -> str:
    """Return a region's name.

    Raises:
        TypeError: it is no str.
        ValueError: it is empty, or longer than `MAX_REGION` characters when encoded.
    """
    if not isinstance(name, str):
        raise TypeError(f"a region's name must be str, not {type(name).__name__}: {_shown(name)}")
    if not 0 < len(encode_part(name)) <= MAX_REGION:
        raise ValueError(f"a region's name must have 1 to {MAX_REGION} characters (percent-encoded): {_shown(name)}")
    return str.__str__(name)


def _shown(value: object) -> str:
    """Show a value in a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


_TAG_MARK = "\x1f"


def encode_tag(tag: str, within: str = "") -> str:
    """Return a tag as records and entries name it; `within` is the scope path that it is confined to.

    A tag stands for itself, but for one that begins with the mark of a confined tag; so no
    tag can be taken for a confined one. Scope paths hold no control characters.
    """
    if within:
        return f"{_TAG_MARK}{within}{_TAG_MARK}{tag}"
    return f"{_TAG_MARK}{_TAG_MARK}{tag}" if tag.startswith(_TAG_MARK) else tag


def is_confined_tag(name: str) -> bool:
    """Whether `encode_tag` wrote it for a scope."""
    return name.startswith(_TAG_MARK) and name[1:2] != _TAG_MARK
