"""G8: ids, keys, tags and region names are data. None reaches another scope, region or key, in any tier."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from stacks import config_of
from tiercast import CacheManager, EventBasedInvalidation, ScopeConfig, ScopeLevel
from tiercast.keys import encode_part, escape_glob, storage_key
from tiercast.plans import drive
from tiercast.tiers.entry import Address

SCOPES = ScopeConfig(
    [
        ScopeLevel("organization", "org_id", [ScopeLevel("user", "user_id", [ScopeLevel("session", "session_id")])]),
        ScopeLevel("tenant", "tenant_id"),
    ]
)
WAYS = {
    "global": (),
    "organization": ("org_id",),
    "user": ("org_id", "user_id"),
    "session": ("org_id", "user_id", "session_id"),
    "tenant": ("tenant_id",),
}
ODD = [
    "1", "1/user:2", "*", "..\x00", "%2F", "a|b", "a:b", "a/b", "global", "?", "[a]", "\\", "#", "{x}", "\x1f", "user:2",
    "1|k", "|", "%", " ", "\ud800", "k" * 300, "k" * 299 + "l", "\uff4b", "é", "e\u0301",
]  # fmt: skip
texts = st.sampled_from(ODD) | st.text(st.characters(codec=None), min_size=1, max_size=12)
ids = texts | st.integers(0, 20)
regions = st.sampled_from(["default", "a", "a:b", "a|b", "a/b", "*", "default:x", "é", "%3A", "a%3Ab"])


class Place(NamedTuple):
    """Where an entry is: what a caller writes."""

    region: str
    scope: str
    ids: tuple[Any, ...]
    key: str

    @property
    def params(self) -> dict[str, Any]:
        return dict(zip(WAYS[self.scope], self.ids, strict=True))

    @property
    def path(self) -> str:
        return SCOPES.resolve(self.scope, self.params)

    @property
    def where(self) -> dict[str, Any]:
        return {"region": self.region, "scope": self.scope, **self.params}


@st.composite
def places(draw: st.DrawFn) -> Place:
    scope = draw(st.sampled_from(sorted(WAYS)))
    return Place(draw(regions), scope, tuple(draw(ids) for _ in WAYS[scope]), draw(texts))


@pytest.fixture(scope="module", params=["one server", "cluster"])
def cache(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[CacheManager]:
    server = request.getfixturevalue("redis_server" if request.param == "one server" else "redis_cluster")
    rule = EventBasedInvalidation(
        {"key": "{key}", "below": "{key}:*", "tag": "tag:{key}", "org": "scope:organization:{key}"}
    )
    config = config_of(
        "memory+disk+redis",
        tmp_path_factory.mktemp("isolation") / "cache",
        server.url,
        name="isolation *:{x}",
        scopes=SCOPES,
        invalidation=[rule],
    )
    with CacheManager(config) as cache:
        yield cache


def inside(path: str, above: str) -> bool:
    """Whether a scope path is another, or lies below it."""
    return path.split("/")[: len(above.split("/"))] == above.split("/") or not above


def forget(cache: CacheManager, *, disk: bool) -> None:
    """Empty this process's memory, so that what lies below has to answer; and with `disk` what lies on the disk."""
    runtime = cache._runtime
    with runtime.ledger.lock:
        for region in runtime.regions():
            region.memory.clear()  # type: ignore[union-attr]
    if disk:
        for store in runtime.disks():
            store.store.cache.clear()
        epoch, position = runtime.coherence.position()
        for store in runtime.disks():
            drive(store.drop(epoch, position))


def invalidations(place: Place, tag: str) -> dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """Every way to kill what stands at a place: name to operation, arguments, keywords."""
    key, where = place.key, place.where
    event = {"region": place.region}
    ways: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
        "delete": ("delete", (key,), where),
        "keys": ("invalidate_keys", ([key],), where),
        "pattern": ("invalidate_pattern", (escape_glob(key),), where),
        "glob": ("invalidate_pattern", (f"[{key[0]}]{escape_glob(key[1:])}",), where),
        "tag": ("invalidate_tags", ([tag],), {}),
        "purge": ("purge", (), {"pattern": escape_glob(key), **where}),
        "tag event": ("handle_event", ("tag", {"key": tag}), {}),
    }
    if key[0] in "]!^-\\[":
        del ways["glob"]
    if place.scope == "global":
        ways["key event"] = ("handle_event", ("key", {"key": key}), event)
    else:
        ways["scope"] = ("evict_by_scope", (place.scope,), place.params)
        ways["scope purge"] = ("purge", (), {"scope": place.scope, **place.params})
        if place.scope == "organization":
            ways["scope event"] = ("handle_event", ("org", {"key": place.ids[0]}), {})
    return ways


NAMES = [
    "delete", "glob", "key event", "keys", "pattern", "purge", "scope", "scope event", "scope purge", "tag", "tag event",
]  # fmt: skip

A = Place("default", "global", (), "k")
COMMON = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@COMMON
@given(one=places(), two=places())
@example(A, A._replace(region="a"))
@example(Place("default", "organization", ("1/user:2",), "k"), Place("default", "user", ("1", "2"), "k"))
@example(Place("default", "organization", ("1",), "k"), Place("default", "tenant", ("1",), "k"))
@example(Place("default", "organization", ("1|k",), "k"), Place("default", "organization", ("1",), "k|k"))
@example(A._replace(region="a:b"), Place("a", "global", (), "b:k"))
def test_no_two_places_share_a_stored_key(cache: CacheManager, one: Place, two: Place) -> None:
    """Different (region, scope path, key) have different names in memory, on disk and in Redis, and each keeps its own value."""
    assume((one.region, one.path, one.key) != (two.region, two.path, two.key))
    runtime = cache._runtime
    addresses = [(place.region, place.path, place.key) for place in (one, two)]
    assert storage_key(*addresses[0]) != storage_key(*addresses[1])
    remote: Any = runtime.remote
    full = [remote.key_of(Address(*each), "epoch") for each in addresses]
    local = [(each[0], runtime.region(each[0]).local_key(Address(*each))) for each in addresses]
    assert full[0] != full[1]
    assert local[0] != local[1]
    cache.set(one.key, "one", **one.where)
    cache.set(two.key, "two", **two.where)
    for disk in (None, False, True):
        if disk is not None:
            forget(cache, disk=disk)
        assert ("one", "two") == (cache.get(one.key, **one.where), cache.get(two.key, **two.where))


@COMMON
@given(one=places(), two=places(), tags=st.tuples(texts, texts), name=st.sampled_from(NAMES), below=st.booleans())
@example(
    Place("default", "organization", ("*",), "k"),
    Place("default", "organization", ("1",), "k"),
    ("a", "b"),
    "scope event",
    False,
)
@example(
    Place("default", "organization", ("1",), "k"),
    Place("default", "organization", ("12",), "k"),
    ("a", "b"),
    "scope purge",
    False,
)
@example(A._replace(key="*"), A._replace(key="other"), ("a", "b"), "key event", True)
@example(A._replace(key="a*"), A._replace(key="ab"), ("\x1f", "\x1forganization:1\x1f"), "tag", True)
def test_no_invalidation_of_one_kills_another(
    cache: CacheManager, one: Place, two: Place, tags: tuple[str, str], name: str, below: bool
) -> None:
    """Whatever kills the one, by key, glob, tag, scope or event, leaves the other alone in every tier; and does kill the one."""
    assume((one.region, one.path, one.key) != (two.region, two.path, two.key))
    assume(tags[0] != tags[1])
    ways = invalidations(one, tags[0])
    assume(name in ways)
    assume(not (name.startswith("scope") and inside(two.path, one.path)))
    # An event means its id as written by hand and as decorated functions write it; no other id is written so by either.
    assume(not (name == "key event" and two.key == encode_part(one.key)))
    assume(not (name == "tag event" and tags[1] == encode_part(tags[0])))
    cache.set(one.key, "one", tags=[tags[0]], **one.where)
    cache.set(two.key, "two", tags=[tags[1]], **two.where)
    operation, args, kwargs = ways[name]
    getattr(cache, operation)(*args, **kwargs)
    if below:
        forget(cache, disk=True)
    assert (None, "two") == (cache.get(one.key, **one.where), cache.get(two.key, **two.where))


@COMMON
@given(one=places(), two=places(), tag=texts)
def test_a_views_operations_stay_inside_it(cache: CacheManager, one: Place, two: Place, tag: str) -> None:
    """A tag, a glob or clear() of a view kills nothing outside its scope, though it carries the same tag and key."""
    assume(not inside(two.path, one.path))
    view = cache.scoped(one.scope, **one.params)
    for do in (lambda: view.invalidate_tags([tag]), lambda: view.invalidate_pattern("*"), view.clear):
        with cache.cache_context("default"):
            view.set(one.key, "one", tags=[tag])
            cache.set(one.key, "two", tags=[tag], scope=two.scope, **two.params)
            do()
            assert view.get(one.key) is None
            assert cache.get(one.key, scope=two.scope, **two.params) == "two"
