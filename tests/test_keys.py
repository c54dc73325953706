"""Keys, scopes and regions are data: none can pass for another, none can widen a pattern (guarantee G8)."""

from __future__ import annotations

import time
from collections.abc import Callable
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tiercast import keys
from tiercast.globs import compile_glob, escape_glob

ODD = [
    "1/user:2",
    "*",
    "..\x00",
    "%2F",
    "%",
    "\ud800",
    "\ud83d\ude00",
    "\U0001f600",
    "\u202eabc",
    "اسم",
    "a|b",
    "#",
    "a b",
]
"""Ids that forged something in one cache or another."""

texts = st.text(st.characters(codec=None), min_size=1) | st.sampled_from(ODD) | st.text("a:/|%#*[]@\\5CF", min_size=1)
ids = texts | st.integers() | st.uuids()
levels = st.sampled_from(["organization", "user", "tenant"])
paths = st.lists(st.tuples(levels, ids), max_size=3)
regions = texts.filter(lambda name: len(keys.encode_part(name)) <= keys.MAX_REGION)


def path_of(pairs: list[tuple[str, object]]) -> str:
    """The canonical path of (level, id) pairs."""
    path = keys.ROOT
    for level, value in pairs:
        path = keys.scope_child(path, level, value)  # type: ignore[arg-type]
    return path


def meaning(pairs: list[tuple[str, object]]) -> tuple[tuple[str, str], ...]:
    """What a path says, without any encoding: 123 and "123" are the same id."""
    return tuple((level, str(value)) for level, value in pairs)


@given(regions, paths, texts, regions, paths, texts)
@example("a", [], "b:c", "a:b", [], "c")
@example("r", [("user", "1/user:2")], "k", "r", [("user", "1"), ("user", "2")], "k")
@example("r", [("user", "1")], "k", "r", [], "user:1|k")
@example("r", [], "%2F", "r", [], "/")
@example("r", [], "\ud83d\ude00", "r", [], "\U0001f600")
def test_two_entries_never_share_a_storage_key(
    region: str,
    pairs: list[tuple[str, object]],
    key: str,
    other_region: str,
    others: list[tuple[str, object]],
    other: str,
) -> None:
    """Storage keys are equal exactly where region, scope and key are."""
    same = (region, meaning(pairs), key) == (other_region, meaning(others), other)
    stored = keys.storage_key(region, path_of(pairs), key)
    assert same == (stored == keys.storage_key(other_region, path_of(others), other))


@given(regions, paths, texts)
def test_a_storage_key_can_be_read_back(region: str, pairs: list[tuple[str, object]], key: str) -> None:
    """parse_storage_key gives region, scope and key, but for what a hash stands for; no length but the stated one."""
    scope = path_of(pairs)
    stored = keys.storage_key(region, scope, key)
    read = keys.parse_storage_key(stored)
    assert len(stored) <= keys.MAX_STORAGE_KEY
    assert region == read.region
    assert read.scope in (scope, None)
    assert read.key in (key, None)
    assert ("#" in stored) == (read.key is None)
    assert stored == keys.target_storage_key(region, keys.encode_target(scope, key))
    assert not any(char.isspace() or char in "*?[]{}\\\x00" or "\ud800" <= char <= "\udfff" for char in stored)


@pytest.mark.parametrize("size", [10, 166, 167, 200, 100_000])
def test_long_keys_that_differ_only_at_the_end_stay_apart(size: int) -> None:
    """The hash of an over-long key covers all of it."""
    first, second = (keys.storage_key("region", "user:1", "k" * size + end) for end in "ab")
    assert first != second
    assert first.startswith("region:user:1|kkk")


@given(paths, texts, paths, texts)
def test_targets_are_injective_and_read_back(
    pairs: list[tuple[str, object]], key: str, others: list[tuple[str, object]], other: str
) -> None:
    """A target says one scope and one key (or glob), whatever is in them, and survives UTF-8."""
    for write, read in (
        (keys.encode_target, keys.decode_target),
        (keys.encode_pattern_target, keys.decode_pattern_target),
    ):
        target = write(path_of(pairs), key)
        assert (path_of(pairs), key) == read(target)
        assert target == target.encode().decode()
        assert (target == write(path_of(others), other)) == ((meaning(pairs), key) == (meaning(others), other))


@given(texts)
def test_the_quick_way_and_the_thorough_way_encode_alike(text: str) -> None:
    """encode_part and encode_key undo with decode_part, and each keeps exactly what it says it keeps."""
    part, key = keys.encode_part(text), keys.encode_key(text)
    assert text == keys.decode_part(part) == keys.decode_part(key)
    assert not set(part) & set(":/|*?[]{}\\#@^")
    assert not set(key) & set("|*?[]{}\\#^")
    if text.isalnum():
        assert text == part == key


@pytest.mark.parametrize("text", ["", "nobar", "scope|", "scope|%zz", "scope|100%", "s|%FF"])
def test_broken_targets_are_refused(text: str) -> None:
    """A target from outside that says nothing is a ValueError, never a wrong key."""
    with pytest.raises(ValueError):
        keys.decode_target(text)


@pytest.mark.parametrize("text", ["", "region", "region:", "region:scope", ":s|k", "r:s|", "r:s|%"])
def test_what_is_no_storage_key_is_refused(text: str) -> None:
    """A foreign name in a store is a ValueError."""
    with pytest.raises(ValueError, match=r"storage key|percent"):
        keys.parse_storage_key(text)


@given(paths)
def test_ancestors_are_the_prefixes_of_a_path(pairs: list[tuple[str, object]]) -> None:
    """From the root to the path itself, one for each level, and the pairs can be read back."""
    path = path_of(pairs)
    expected = tuple(path_of(pairs[:depth]) for depth in range(len(pairs) + 1))
    assert expected == keys.ancestors(path)
    assert meaning(pairs) == keys.split_path(path)
    assert path == keys.validate_path(path)


def test_ancestors_as_in_the_docstring() -> None:
    """The root is the empty path."""
    assert ("", "a:1", "a:1/b:2") == keys.ancestors("a:1/b:2")
    assert ("",) == keys.ancestors("")


@pytest.mark.parametrize(
    "path", ["user", "user:", ":1", "user:1/", "/user:1", "user:1//user:2", "user:*", "user:a b", "user:%2f"]
)
def test_paths_that_are_not_canonical_are_refused(path: str) -> None:
    """There is one way to write a path; others are a ValueError."""
    with pytest.raises(ValueError, match="scope path"):
        keys.validate_path(path)


def test_ids_of_equal_text_are_equal() -> None:
    """123 and "123" are the same id, and so are a UUID and its text."""
    text = "12345678-1234-5678-1234-567812345678"
    assert keys.scope_child("", "user", 123) == keys.scope_child("", "user", "123")
    assert keys.scope_child("", "user", UUID(text)) == keys.scope_child("", "user", text)


@pytest.mark.parametrize(("value", "error"), [("", ValueError), (None, TypeError), (True, TypeError), (1.0, TypeError)])
def test_what_is_no_id_is_refused(value: object, error: type[Exception]) -> None:
    """Empty, None, bool and float ids name nobody."""
    with pytest.raises(error, match="an id must"):
        keys.identity(value)


@pytest.mark.parametrize(
    ("key", "error", "names"),
    [("", ValueError, "''"), (7, TypeError, "int: 7"), (b"k", TypeError, "b'k'"), (None, TypeError, "None")],
)
def test_a_bad_key_is_named(key: object, error: type[Exception], names: str) -> None:
    """Keys are non-empty str, and the message shows the one that is not."""
    with pytest.raises(error, match=names):
        keys.validate_key(key)


@pytest.mark.parametrize("key", [*ODD, "k" * 100_000])
def test_any_other_text_is_a_key(key: str) -> None:
    """Any Unicode, any length, any control character."""
    assert key == keys.validate_key(key)


@pytest.mark.parametrize("name", ["", "x" * 101, "*" * 40])
def test_region_names_are_bounded(name: str) -> None:
    """A region's encoded name fits into every storage key."""
    with pytest.raises(ValueError, match="1 to 100"):
        keys.validate_region(name)


# Globs


def parse_class(glob: str) -> tuple[bool, list[str], int] | None:
    """Read a class at the start of `glob`: (negated, the characters or "a-z" ranges, length), None where it is open."""
    at = 2 if glob[1:2] == "!" else 1
    begin = at
    items: list[str] = []
    while at < len(glob):
        if glob[at] == "]" and at > begin:
            break
        size = 2 if glob[at] == "\\" and at + 1 < len(glob) else 1
        items.append(glob[at : at + size])
        at += size
    else:
        return None
    members: list[str] = []
    while items:
        if len(items) > 2 and items[1] == "-":
            low, high = items[0][-1], items[2][-1]
            members.extend(chr(code) for code in range(ord(low), ord(high) + 1))
            items = items[3:]
        else:
            members.append(items.pop(0)[-1])
    return begin == 2, members, at + 1


def matches(glob: str, key: str) -> bool:
    """The rules of globs, one character at a time and with all the backtracking there is."""
    if not glob:
        return not key
    if glob[0] == "*":
        return matches(glob[1:], key) or (key != "" and matches(glob, key[1:]))
    if not key:
        return False
    if glob[0] == "?":
        return matches(glob[1:], key[1:])
    if glob[0] == "[" and (found := parse_class(glob)):
        negated, members, size = found
        return (key[0] in members) != negated and matches(glob[size:], key[1:])
    size = 2 if glob[0] == "\\" and len(glob) > 1 else 1
    return glob[size - 1] == key[0] and matches(glob[size:], key[1:])


globs = st.text("ab-z!^]*?[\\:\n&|~", max_size=10)


@given(globs, st.text("abmz-!^][*?\\:\n&|~", max_size=8))
@example("[]", "[]")
@example("[!]", "[!]")
@example("[!]]", "a")
@example("[]a]", "]")
@example("[z-a]", "b")
@example("[!z-a]", "b")
@example("[a\\-z]", "-")
@example("a*b*", "a\nb")
@example("a\\", "a\\")
@example("[a-c-e]", "-")
def test_globs_match_as_the_reference_does(glob: str, key: str) -> None:
    """The compiled glob and the naive matcher agree, whatever kind of glob it became."""
    assert matches(glob, key) == compile_glob(glob).match(key)


@given(globs)
def test_the_kind_of_a_glob_says_what_it_matches(glob: str) -> None:
    """A literal matches its text alone, a prefix whatever begins with it."""
    compiled = compile_glob(glob)
    if compiled.kind == "literal":
        assert matches(glob, compiled.text)
        assert not compiled.match(compiled.text + "a")
    elif compiled.kind == "prefix":
        assert compiled.match(compiled.text)
        assert matches(glob, compiled.text + "\nany*thing")


@pytest.mark.parametrize(
    ("glob", "kind", "text"),
    [("user:1", "literal", "user:1"), (r"user:\*", "literal", "user:*"), ("user:*", "prefix", "user:"), ("*", "prefix", ""),
     ("a**", "prefix", "a"), ("a*b", "regex", "a*b"), ("a?", "regex", "a?"), ("", "literal", "")],
)  # fmt: skip
def test_kinds_of_globs(glob: str, kind: str, text: str) -> None:
    """Literals become key records and prefixes are matched by length; so the kinds matter."""
    compiled = compile_glob(glob)
    assert (kind, text) == (compiled.kind, compiled.text)


@given(texts)
def test_an_escaped_text_matches_itself_alone(text: str) -> None:
    """An id such as "*" put into a glob widens nothing."""
    compiled = compile_glob(escape_glob(text))
    assert ("literal", text) == (compiled.kind, compiled.text)


def test_globs_are_case_sensitive() -> None:
    """USER is not user."""
    assert not compile_glob("user:*").match("USER:1")


def seconds(call: Callable[..., object], *args: str) -> float:
    """The best of three timings of one call."""
    best = float("inf")
    for _ in range(3):
        begun = time.perf_counter()
        call(*args)
        best = min(best, time.perf_counter() - begun)
    return best


@pytest.mark.parametrize(
    "glob", ["*a" * 60 + "*b", "a*" * 60 + "b", "*" + "a" * 60 + "*b", "*?" * 60 + "b", "*[ab]" * 60 + "c"]
)
def test_no_glob_takes_exponential_time(glob: str) -> None:
    """Eight times the key costs nowhere near the power of the number of stars (8**2 would be 64)."""
    match = compile_glob(glob).match
    small, large = seconds(match, "a" * 2_000), seconds(match, "a" * 16_000)
    assert large < 40 * max(small, 1e-4)


@pytest.mark.parametrize("glob", ["[", "[!", "\\[[", "[a]", "*["])
def test_compiling_is_linear_in_the_glob(glob: str) -> None:
    """A run of brackets that never close is looked at once, not once for each (8**2 would be 64)."""
    compile_anew = compile_glob.__wrapped__
    small, large = (seconds(compile_anew, glob * size + "\\]") for size in (250, 2_000))
    assert large < 40 * max(small, 1e-4)
    assert compile_glob("[" * 2_000 + "\\]").match("[" * 2_000 + "]")
