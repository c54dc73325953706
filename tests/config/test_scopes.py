"""Scopes: how parameters become a path, and every way in which they cannot."""

from __future__ import annotations

import pickle
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiercast.config import ScopeConfig, ScopeLevel
from tiercast.config.defaults import OPERATION_PARAMETERS
from tiercast.errors import ConfigError, ScopeError

SCOPES = ScopeConfig(
    [
        ScopeLevel("organization", "org_id", [ScopeLevel("user", "user_id", [ScopeLevel("session", "session_id")])]),
        ScopeLevel("tenant", "tenant_id"),
    ]
)


@pytest.mark.parametrize(
    ("scope", "params", "path"),
    [
        (None, {}, ""),
        ("global", {}, ""),
        ("organization", {"org_id": "o1"}, "organization:o1"),
        ("user", {"user_id": "u1", "org_id": "o1"}, "organization:o1/user:u1"),
        (None, {"user_id": "u1", "org_id": "o1"}, "organization:o1/user:u1"),
        (None, {"tenant_id": 7}, "tenant:7"),
        ("tenant", {"tenant_id": "7"}, "tenant:7"),
        ("tenant", {"tenant_id": UUID(int=1)}, "tenant:00000000-0000-0000-0000-000000000001"),
        ("tenant", {"tenant_id": "1/user:2"}, "tenant:1%2Fuser%3A2"),
        ("session", {"org_id": 1, "user_id": 2, "session_id": "*"}, "organization:1/user:2/session:%2A"),
    ],
)
def test_a_scope_becomes_a_path(scope: str | None, params: dict[str, object], path: str) -> None:
    """Named, or inferred from exactly the parameters given; the second time from the cache."""
    assert path == SCOPES.resolve(scope, params)
    assert path == SCOPES.resolve(scope, params)


@pytest.mark.parametrize(
    ("scope", "params", "says"),
    [
        ("usr", {"org_id": 1}, "unknown scope 'usr'; did you mean 'user'"),
        ("usr", {}, "unknown scope 'usr'; did you mean 'user'"),
        ("zzz", {}, "unknown scope 'zzz'; the configuration has organization, "),
        (5, {"org_id": 1}, "unknown scope 5"),
        ([], {}, "unknown scope"),
        ("user", {"user_id": 1}, "needs 'org_id', the id of its level 'organization'"),
        ("user", {}, "needs 'org_id'"),
        (None, {"user_id": 1}, "scope 'user' needs 'org_id', the id of its level 'organization'"),
        (None, {"org_id": 1, "session_id": 1}, "scope 'session' needs 'user_id', the id of its level 'user'"),
        (None, {"org_id": 1, "tenant_id": 1}, "takes no 'tenant_id'"),
        ("organization", {"org_id": 1, "user_id": 1}, "takes no 'user_id'"),
        ("global", {"org_id": 1}, "'global' takes no 'org_id'"),
        (None, {"ttl_seconds": 5}, "unknown keyword 'ttl_seconds'; did you mean 'ttl'"),
        ("tenant", {"tenant_id": 1, "tagz": 5}, "unknown keyword 'tagz'; did you mean 'tags'"),
        (None, {"tenantid": 5}, "unknown keyword 'tenantid'; did you mean 'tenant_id'"),
        (None, {"timeout": 5}, "this operation takes no 'timeout'"),
        (None, {"zzz": 5}, r"unknown keyword 'zzz' \(scope parameters are org_id, "),
        ("usr", {"zzz": 5}, "unknown scope 'usr'; did you mean 'user'"),
        ("tenant", {"tenant_id": None}, "level 'tenant': tenant_id=None"),
        ("tenant", {"tenant_id": ""}, "level 'tenant': tenant_id=''.*empty"),
        ("tenant", {"tenant_id": True}, "tenant_id=True.*bool"),
        ("tenant", {"tenant_id": 1.0}, "tenant_id=1.0.*float"),
        ("user", {"org_id": 1, "user_id": True}, "user_id=True.*bool"),
        ("tenant", {"tenant_id": [1]}, "tenant_id=.*list"),
        ("user", {"org_id": 1, "user_id": b"1"}, "level 'user': user_id=.*bytes"),
    ],
)
def test_a_bad_scope_names_level_and_parameter(scope: str | None, params: dict[str, object], says: str) -> None:
    """Also after good ids that are equal to the bad ones were resolved (1 == True == 1.0)."""
    SCOPES.resolve("tenant", {"tenant_id": 1})
    SCOPES.resolve("user", {"org_id": 1, "user_id": 1})
    with pytest.raises(ScopeError, match=says):
        SCOPES.resolve(scope, params)


good = st.text(min_size=1) | st.integers() | st.uuids()


@given(good, good, good, good)
def test_two_users_never_share_a_path(org: object, user: object, other_org: object, other_user: object) -> None:
    """G8: paths are equal exactly where the ids' texts are."""
    first = SCOPES.resolve("user", {"org_id": org, "user_id": user})
    second = SCOPES.resolve("user", {"org_id": other_org, "user_id": other_user})
    assert ((str(org), str(user)) == (str(other_org), str(other_user))) == (first == second)
    assert first == SCOPES.check_path(first)


@given(
    st.none() | st.text() | st.integers(),
    st.dictionaries(st.sampled_from(["org_id", "user_id", "x"]), st.none() | st.text() | st.floats()),
)
def test_nothing_but_scope_errors(scope: object, params: dict[str, object]) -> None:
    """Whatever is asked for is a path or a ScopeError."""
    try:
        assert isinstance(SCOPES.resolve(scope, params), str)  # type: ignore[arg-type]
    except ScopeError:
        pass


def test_levels_can_be_asked_for() -> None:
    """What views and decorators need to know."""
    assert ("organization", "user", "session", "tenant") == SCOPES.names
    assert ("org_id", "user_id") == SCOPES.params("user")
    assert frozenset({"org_id", "user_id"}) == SCOPES.paramset("user")
    assert ("organization", "user") == SCOPES.ancestry("user")
    assert () == SCOPES.params(None) == SCOPES.params("global")
    assert "user" == SCOPES.level_of(["user_id", "org_id"])
    assert "global" == SCOPES.level_of([])
    assert SCOPES.level_of(["user_id"]) is None
    assert SCOPES.is_param("session_id")
    assert not SCOPES.is_param("ttl")


@pytest.mark.parametrize(
    "path", ["user:1", "organization:1/session:2", "nothing:1", "organization:", "organization:1/user:*"]
)
def test_paths_that_no_scope_can_have_are_refused(path: str) -> None:
    """A path of a record or target is checked against the trees."""
    with pytest.raises(ScopeError):
        SCOPES.check_path(path)


@pytest.mark.parametrize("name", ["", "a:b", "a/b", "a b", "a*", "global", "ttl", 5, None])
def test_bad_level_names_are_refused(name: object) -> None:
    """A name must not look like a path, nor like a parameter of an operation."""
    with pytest.raises(ConfigError, match=r"ScopeLevel\.name"):
        ScopeLevel(name, "x_id")  # type: ignore[arg-type]


@pytest.mark.parametrize("param", ["", "a-b", "class", "1x", "a:b", *sorted(OPERATION_PARAMETERS)])
def test_bad_parameters_are_refused(param: str) -> None:
    """A parameter is a keyword argument beside those of the operations."""
    with pytest.raises(ConfigError, match=r"ScopeLevel\.param"):
        ScopeLevel("x", param)


@pytest.mark.parametrize(
    "levels",
    [[ScopeLevel("a", "x"), ScopeLevel("a", "y")], [ScopeLevel("a", "x", [ScopeLevel("b", "x")])], ["a"], None, "abc"],
)
def test_ambiguous_trees_are_refused(levels: object) -> None:
    """Names and parameters are each unique."""
    with pytest.raises(ConfigError, match=r"ScopeConfig\.levels"):
        ScopeConfig(levels)  # type: ignore[arg-type]


def test_any_depth() -> None:
    """A tree of 300 levels is a tree."""
    level = ScopeLevel("l0", "p0")
    for depth in range(1, 300):
        level = ScopeLevel(f"l{depth}", f"p{depth}", [level])
    scopes = ScopeConfig([level])
    assert 299 == scopes.resolve("l0", {f"p{depth}": depth for depth in range(300)}).count("/")


def test_without_trees_global_is_all_there_is() -> None:
    """And trees are equal by value, and travel to other processes."""
    assert "" == ScopeConfig().resolve(None, {})
    with pytest.raises(ScopeError, match="unknown keyword 'org_id'"):
        ScopeConfig().resolve(None, {"org_id": 1})
    assert SCOPES == pickle.loads(pickle.dumps(SCOPES))
    assert "tenant:1" == pickle.loads(pickle.dumps(SCOPES)).resolve("tenant", {"tenant_id": 1})


def test_an_unknown_keyword_is_a_type_error_too() -> None:
    """As of any function that is called with one; a wrong scope is none."""
    with pytest.raises(TypeError, match="did you mean 'ttl'"):
        SCOPES.resolve(None, {"ttl_seconds": 5})
    with pytest.raises(ScopeError) as missing:
        SCOPES.resolve("tenant", {})
    assert not isinstance(missing.value, TypeError)
