"""Globs over keys: `*`, `?`, `[a-z]`, `[!x]` and backslash escapes. Pure; part of the layer of `keys`.

A glob is matched against the whole key as the user wrote it, case-sensitively.
`*` and `?` match any character, `:`, `/` and line breaks included. A `]` that comes
first in a class stands for itself, a class that is never closed is a plain `[`,
a range that runs backwards holds nothing, and a backslash at the very end is a
plain backslash. These are the rules of `fnmatch`, plus the escapes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

_replace_special = re.compile(r"[*?\[\]\\]").sub


@dataclass(frozen=True, slots=True)
class Glob:
    """A compiled glob.

    Attributes:
        kind: "literal" matches `text` and nothing else, "prefix" what starts with `text`,
            "regex" whatever the glob in `text` matches.
        text: the key or prefix, unescaped; for "regex" the glob itself.
        match: answers whether a key matches; at most O(length of the key x length of the glob).
    """

    kind: Literal["literal", "prefix", "regex"]
    text: str
    match: Callable[[str], bool] = field(compare=False, repr=False)


def escape_glob(text: str) -> str:
    """Return the glob that matches `text` and nothing else."""
    return _replace_special(r"\\\g<0>", text)


def ends_open(pattern: str) -> bool:
    """Answer whether what follows `pattern` could be read as part of a class or an escape in it."""
    at = 0
    while at < len(pattern):
        if pattern[at] == "[":
            at = _class(pattern, at + 1)[0]
            if not at:
                return True
        elif pattern[at] == "\\":
            at += 2
        else:
            at += 1
    return at > len(pattern)


@lru_cache(maxsize=1024)
def compile_glob(pattern: str) -> Glob:
    """Compile a glob; every text is a valid one. Costs tens of microseconds once, then a look-up.

    The runs between two stars have a fixed length each, so the leftmost place where a run fits is
    always a right one, and none is ever reconsidered: each is an atomic group. That keeps matching
    from being exponential (the same idea as in CPython's `fnmatch.translate`).
    """
    runs: list[list[str | None]] = [[]]  # per run: literal characters, or None for what only a regex can say
    sources: list[list[str]] = [[]]
    closes = True  # where one class never closes, no later one does: looking once keeps compiling linear
    at = 0
    while at < len(pattern):
        if pattern[at] == "*":
            runs.append([])
            sources.append([])
            at += 1
            continue
        end, source = _class(pattern, at + 1) if closes and pattern[at] == "[" else (0, "")
        if end:
            literal, at = None, end
        else:
            closes = closes and pattern[at] != "["
            literal, source, at = _character(pattern, at)
        runs[-1].append(literal)
        sources[-1].append(source)
    literals = ["".join(char for char in run if char is not None) for run in runs]
    if all(None not in run for run in runs):
        if len(runs) == 1:
            return _literal(literals[0])
        if not any(literals[1:]):
            return _prefix(literals[0])
    return _regex(pattern, ["".join(source) for source in sources])


def _character(pattern: str, at: int) -> tuple[str | None, str, int]:
    """Read "?", an escape or a plain character: (its literal character or None, its regex, where the next begins)."""
    char = pattern[at]
    if char == "?":
        return None, ".", at + 1
    if char == "\\" and at + 1 < len(pattern):
        at += 1
        char = pattern[at]
    return char, re.escape(char), at + 1


def _class(pattern: str, at: int) -> tuple[int, str]:
    """Read a class whose "[" has been read: (where the next element begins, its regex); (0, "") if it never closes."""
    negated = pattern[at : at + 1] == "!"
    start = at = at + negated
    members: list[tuple[str, bool]] = []  # (character, whether it was escaped)
    while at < len(pattern):
        char = pattern[at]
        if char == "]" and at > start:
            break
        escaped = char == "\\" and at + 1 < len(pattern)
        if escaped:
            at += 1
        members.append((pattern[at], escaped))
        at += 1
    else:
        return 0, ""
    return at + 1, _class_source(members, negated)


def _class_source(members: list[tuple[str, bool]], negated: bool) -> str:
    """Write a class as a regex. Nothing in it matches nothing; the negation of that matches any one character."""
    parts = []
    at = 0
    while at < len(members):
        low = members[at][0]
        if at + 2 < len(members) and members[at + 1] == ("-", False):
            high = members[at + 2][0]
            if low <= high:
                parts.append(f"{re.escape(low)}-{re.escape(high)}")
            at += 3
        else:
            parts.append(re.escape(low))
            at += 1
    if not parts:
        return "." if negated else r"(?!)"
    return f"[{'^' if negated else ''}{''.join(parts)}]"


def _literal(text: str) -> Glob:
    return Glob("literal", text, lambda key: key == text)


def _prefix(text: str) -> Glob:
    return Glob("prefix", text, lambda key: key.startswith(text))


def _regex(pattern: str, sources: list[str]) -> Glob:
    first, *rest = sources
    source = first
    if rest:
        *middle, last = rest
        source += "".join(f"(?>.*?{run})" for run in middle if run) + f".*{last}"
    fullmatch = re.compile(source, re.DOTALL).fullmatch
    return Glob("regex", pattern, lambda key: fullmatch(key) is not None)
