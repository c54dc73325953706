"""Strategies: what a time, an event or an entity invalidates, and nothing more."""

from __future__ import annotations

import math
import pickle
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tiercast import build_cache_key
from tiercast.coherence.records import Draft, Kind
from tiercast.config import CacheConfig, EntityRule, EventRule, ScopeConfig, ScopeLevel, TimeRule
from tiercast.errors import ConfigError, InvalidationError
from tiercast.invalidation import (
    EventBasedInvalidation,
    PatternBasedInvalidation,
    Target,
    TimeBasedInvalidation,
    entity_targets,
    event_targets,
    jittered,
    parse_target,
    parse_template,
)
from tiercast.invalidation.drafts import pattern_draft
from tiercast.keys import compile_glob, encode_part, scope_child

ids = st.text(st.characters(codec=None), min_size=1) | st.sampled_from(
    ["*", "1/user:2", "tag:x", "scope:a:1", "[a", "\\"]
)


# Time


def test_jitter_is_uniform_within_its_bounds() -> None:
    """apply_jitter(300) with 10 % lies in 270..330, and each tenth of that gets its share."""
    rule = TimeBasedInvalidation(default_ttl=300, ttl_jitter=0.1, random=Random(7))
    drawn = [rule.apply_jitter(300) for _ in range(10_000)]
    shares = [sum(int((ttl - 270) / 6) == tenth for ttl in drawn) for tenth in range(10)]
    assert all(270 <= ttl <= 330 for ttl in drawn)
    assert all(850 < share < 1150 for share in shares)


def test_no_jitter_changes_nothing() -> None:
    """With ttl_jitter=0, or without an end, the TTL is what it was; a timedelta becomes seconds."""
    assert TimeBasedInvalidation(ttl_jitter=0.0).apply_jitter(timedelta(minutes=1)) == 60.0
    assert jittered(math.inf, 0.1) == math.inf


@pytest.mark.parametrize("ttl", [0, -1, math.nan])
def test_jitter_of_no_ttl_is_refused(ttl: float) -> None:
    """0 and negative TTLs, and NaN, are no TTLs."""
    with pytest.raises(ValueError, match="positive"):
        TimeBasedInvalidation().apply_jitter(ttl)


@pytest.mark.parametrize("ttl", ["300", None, True])
def test_jitter_of_what_is_no_duration_is_refused(ttl: Any) -> None:
    """The message says what a TTL may be."""
    with pytest.raises(TypeError, match="a TTL must be a number of seconds or a timedelta, not"):
        TimeBasedInvalidation().apply_jitter(ttl)


@pytest.mark.parametrize(
    ("options", "names"),
    [({"default_ttl": 0}, "default_ttl"), ({"ttl_jitter": 1.0}, "ttl_jitter"), ({"ttl_jitter": True}, "ttl_jitter"),
     ({"sliding": 1}, "sliding"), ({"jitter": 0.1}, "did you mean 'ttl_jitter'"), ({"random": 4}, "random")],
)  # fmt: skip
def test_a_bad_option_is_named(options: dict[str, object], names: str) -> None:
    """Strategies are checked when made, as settings are."""
    with pytest.raises(ConfigError, match=names):
        TimeBasedInvalidation(**options)  # type: ignore[arg-type]


# Events and entities


def test_an_event_gives_its_patterns() -> None:
    """As in the documentation."""
    rule = EventBasedInvalidation({"user.updated": ["user:{id}*", "profile:{id}*"]})
    assert ["user:123*", "profile:123*"] == rule.handle_event("user.updated", {"id": "123"})
    assert ["user:123*", "profile:123*"] == rule.handle_event("user.updated", {"id": 123, "more": None})


def test_an_entity_gives_its_patterns() -> None:
    """As in the documentation."""
    rule = PatternBasedInvalidation({"user": ["user:{id}*"]})
    assert ["user:123*"] == rule.invalidate_entity("user", "123")


def test_unknown_names_are_ignored_and_counted() -> None:
    """An event or entity that nobody described invalidates nothing."""
    events, entities = EventBasedInvalidation({"a": ["x"]}), PatternBasedInvalidation({"a": ["x"]})
    assert [] == events.handle_event("b", {}) == entities.invalidate_entity("b", "1")
    assert ["x"] == events.handle_event("a") == entities.invalidate_entity("a", "1")
    assert events.ignored.value == entities.ignored.value == 1


@dataclass
class Account:
    """An object inside a payload."""

    number: int


def test_fields_look_into_mappings_and_objects() -> None:
    """{user.id} and {account.number} are found in what the payload holds; braces are doubled to be plain."""
    rule = EventBasedInvalidation({"e": "{user.id}:{account.number}:{{}}"})
    assert ["u1:7:{}"] == rule.handle_event("e", {"user": {"id": "u1"}, "account": Account(7)})


@pytest.mark.parametrize(
    "payload", [None, {}, {"id": None}, {"id": ""}, {"id": True}, {"id": ["1"]}, {"id": 1.0}, [("id", 1)]]
)
def test_a_missing_or_odd_field_is_named(payload: object) -> None:
    """InvalidationError says which event, which target and which field; an empty id would widen a glob."""
    rule = EventBasedInvalidation({"user.updated": ["all", "user:{id}*"]})
    with pytest.raises(InvalidationError, match=r"user\.updated") as caught:
        rule.handle_event("user.updated", payload)  # type: ignore[arg-type]
    if not isinstance(payload, list):
        assert "'user:{id}*'" in str(caught.value)
        assert "'id'" in str(caught.value)


def test_an_id_that_is_none_is_refused() -> None:
    """An entity without an id is InvalidationError, not everything."""
    with pytest.raises(InvalidationError, match="entity 'user'"):
        PatternBasedInvalidation({"user": ["user:{id}*"]}).invalidate_entity("user", "")


@pytest.mark.parametrize(
    "target",
    ["", 3, "user:{id", "user:{}", "user:{0}", "user:{id!r}", "user:{id:>3}", "user:{_id}", "user:{a[b]}", "user:[{id}]",
     "user:[a{id}", "user:\\{id}", "tag:", "tag:user:*", "scope:", "scope:{level}:1", "scope:user", "scope:user:*",
     "scope:user:%{id}"],
)  # fmt: skip
def test_a_bad_target_is_refused_when_made(target: object) -> None:
    """Whatever could not be escaped, or says nothing, fails at the start and not at the first event."""
    with pytest.raises(InvalidationError, match="event 'e'"):
        EventBasedInvalidation({"e": [target]})  # type: ignore[list-item]


@pytest.mark.parametrize("targets", [None, ["user"], {"e": None}, {3: ["a"]}, {"": ["a"]}, {"e": {"a": "b"}}])
def test_what_is_no_mapping_of_targets_is_refused(targets: object) -> None:
    """The shape is checked too."""
    for cls in (EventBasedInvalidation, PatternBasedInvalidation):
        with pytest.raises(InvalidationError):
            cls(targets)  # type: ignore[arg-type]


def test_entities_have_only_an_id() -> None:
    """A field that no entity can fill is refused when made."""
    with pytest.raises(InvalidationError, match=r"entity 'user'.*\{org\}"):
        PatternBasedInvalidation({"user": ["user:{org}:{id}"]})


# Targets


@pytest.mark.parametrize(
    ("text", "target"),
    [("user:1", Target("key", "user:1")), (r"user:\*", Target("key", "user:*")), ("user:*", Target("pattern", "user:*")),
     ("tag:user:1", Target("tag", "user:1")), ("tag:*", Target("tag", "*")), (r"\tag:x", Target("key", "tag:x")),
     ("scope:organization:1/user:2", Target("scope", "organization:1/user:2")), ("scope:global", Target("scope", ""))],
)  # fmt: skip
def test_targets_as_written(text: str, target: Target) -> None:
    """Literal globs are keys; tags are exact; scopes are canonical paths."""
    assert target == parse_target(text)


@pytest.mark.parametrize(
    ("glob", "kind", "target"),
    [("user:1", Kind.KEY, "|user:1"), (r"user:\*", Kind.KEY, "|user:%2A"), ("user:*", Kind.PATTERN, "|user:*"),
     ("user:?", Kind.PATTERN, "|user:?")],
)  # fmt: skip
def test_a_glob_without_wildcards_is_a_key_record(glob: str, kind: Kind, target: str) -> None:
    """What spells one key leaves no stamp behind."""
    assert pattern_draft("default", "", glob) == Draft(kind, "default", (target,))


@given(ids)
@example("tag:other")
@example("scope:global")
@example("\\tag:x")
@example("ada@example.org")
def test_a_value_matches_itself_alone(value: str) -> None:
    """G8: in every place a value stands for itself, as it is and as decorators spell it; it makes no tag, no other scope, no wider glob."""
    spellings = dict.fromkeys((value, encode_part(value)))
    places: dict[str, set[Target]] = {
        "{id}": {Target("key", each) for each in spellings},
        "k:{id}": {Target("key", f"k:{each}") for each in spellings},
        "tag:t:{id}": {Target("tag", f"t:{each}") for each in spellings},
        "scope:user:{id}": {Target("scope", scope_child("", "user", value))},
    }
    for template, expected in places.items():
        assert expected == set(entity_targets([PatternBasedInvalidation({"e": template})], "e", value))
    for template, end in (("k:{id}:*", ":"), ("{id}*", "")):
        targets = entity_targets([PatternBasedInvalidation({"e": template})], "e", value)
        globs = [compile_glob(target.text) for target in targets if target.kind == "pattern"]
        assert len(globs) == len(targets) == len(spellings)
        begin = "k:" if end else ""
        assert {("prefix", f"{begin}{each}{end}") for each in spellings} == {(glob.kind, glob.text) for glob in globs}


@given(ids, ids)
def test_a_value_between_wildcards_is_literal(value: str, other: str) -> None:
    """In a glob with wildcards all around, the value matches only its own text, in either spelling."""
    spelled = parse_template("?:{id}:*:[ab]").render(lambda field: value)
    globs = [compile_glob(text) for text in spelled]
    assert globs[0].match(f"x:{value}:\n:a")
    assert globs[-1].match(f"x:{encode_part(value)}:\n:a")
    begins = [text.split(":", maxsplit=1)[0] for text in (value, encode_part(value))]
    if other.split(":", maxsplit=1)[0] not in begins:
        assert not any(glob.match(f"x:{other}:\n:a") for glob in globs)


@given(ids, ids)
@pytest.mark.parametrize("template", ["k:{a}:{b}", "{a}-{b}", "{a}/x/{b}:y", "tag:{a}xy{b}"])
def test_a_target_names_what_the_decorators_template_makes(template: str, a: str, b: str) -> None:
    """Whatever the values: one of its spellings is the key, or the tag, that a decorated function has for them."""
    rule = EventBasedInvalidation({"e": template})
    targets = {target.text for target in event_targets([rule], "e", {"a": a, "b": b})}
    assert build_cache_key(template.removeprefix("tag:"), kwargs={"a": a, "b": b}) in targets


def test_targets_of_several_strategies_are_gathered_once() -> None:
    """Each strategy adds its targets; repetitions are dropped; strategies of another kind are passed over."""
    rules = [TimeBasedInvalidation(), EventBasedInvalidation({"e": ["a", "b*"]}), EventBasedInvalidation({"e": ["a"]})]
    assert [Target("key", "a"), Target("pattern", "b*")] == event_targets(rules, "e", {})
    assert [] == entity_targets(rules, "e", UUID(int=1))


def test_strategies_of_ones_own_are_held_to_text() -> None:
    """A user's strategy that answers nonsense is an InvalidationError."""

    class Own:
        def handle_event(self, event: str, payload: object = None) -> list[object]:
            return [None]

    with pytest.raises(InvalidationError, match="text"):
        event_targets([Own()], "e", {})


# With the configuration


def test_strategies_are_what_the_configuration_asks_for() -> None:
    """Each kind is told by what it can do."""
    assert isinstance(TimeBasedInvalidation(), TimeRule)
    assert isinstance(EventBasedInvalidation({}), EventRule)
    assert isinstance(PatternBasedInvalidation({}), EntityRule)
    assert not isinstance(EventBasedInvalidation({}), TimeRule)


def test_a_time_rule_sets_what_regions_do_not() -> None:
    """TTL, jitter and sliding come from the strategy where neither configuration nor region says otherwise."""
    rule = TimeBasedInvalidation(default_ttl=120, ttl_jitter=0.2, sliding=True)
    config = CacheConfig(invalidation=[rule], regions={"short": {"ttl": 5, "ttl_jitter": 0.0}})
    assert (120.0, 0.2, True) == (config.region().ttl, config.region().ttl_jitter, config.region().sliding)
    assert (5.0, 0.0, True) == tuple(getattr(config.region("short"), name) for name in ("ttl", "ttl_jitter", "sliding"))
    with pytest.raises(ConfigError, match="two strategies"):
        CacheConfig(invalidation=[rule, rule])


def test_scope_targets_are_checked_against_the_trees() -> None:
    """A path that no scope can have would match nothing; it is refused with the right one."""
    scopes = ScopeConfig([ScopeLevel("organization", "org_id", [ScopeLevel("user", "user_id")])])
    CacheConfig(scopes=scopes, invalidation=[EventBasedInvalidation({"e": "scope:organization:{o}/user:{u}"})])
    with pytest.raises(ConfigError, match=r"invalidation\.0.*organization/user"):
        CacheConfig(scopes=scopes, invalidation=[EventBasedInvalidation({"e": "scope:user:{u}"})])


def test_strategies_are_equal_by_value_and_travel_to_other_processes() -> None:
    """Two equal configurations make one manager; multiprocessing's spawn pickles them."""
    for rule in (
        TimeBasedInvalidation(60, 0.5, True),
        EventBasedInvalidation({"e": ["a:{id}"]}),
        PatternBasedInvalidation({"e": ["a:{id}"]}),
    ):
        assert rule == pickle.loads(pickle.dumps(rule))
    assert EventBasedInvalidation({"e": ["a"]}) != EventBasedInvalidation({"e": ["b"]})


def test_a_scope_that_is_none_is_shown_as_it_was_written() -> None:
    """The message says how scopes are written."""
    with pytest.raises(
        InvalidationError, match=r"'scope:user:\{org\}:\{id\}': a scope is written scope:level:\{id\}/level:\{id\}"
    ):
        EventBasedInvalidation({"e": ["scope:user:{org}:{id}"]})
