"""The six kinds of invalidation, and events, through the real log, between two real processes that keep every tier."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from partner import Partner
from servers import wait_until
from stacks import STACKS, config_of
from tiercast import CacheManager, CoherenceConfig, EventBasedInvalidation, ScopeConfig, ScopeLevel

SCOPES = ScopeConfig([ScopeLevel("organization", "org_id", [ScopeLevel("user", "user_id")])])
SHARED = tuple(stack for stack in STACKS if stack != "memory")
numbers = count()

Do = Callable[..., Any]


class Pair:
    """This process and another one, on one stack."""

    def __init__(self, stack: str, directory: Path, url: str | None) -> None:
        settings: dict[str, Any] = {
            "scopes": SCOPES,
            "name": f"pair {stack}",
            "regions": {"second": {}},
            "invalidation": [EventBasedInvalidation({"changed": "dead:{id}"})],
            "coherence": CoherenceConfig(heartbeat=0.02),  # barriers end with the others' heartbeats
        }
        self.cache = CacheManager(config_of(stack, directory, url, **settings))
        self.partner = Partner(stack, directory, url, **settings)
        self.cache.coherence.start(20.0)
        self.partner.do("call", "settled")

    def here(self, kind: str) -> Do:
        """Do an operation in this process."""

        def do(operation: str, *args: Any, **kwargs: Any) -> Any:
            if kind == "sync":
                return getattr(self.cache, operation)(*args, **kwargs)

            async def run() -> Any:
                return await getattr(self.cache, f"{operation}_async")(*args, **kwargs)

            return asyncio.run(run())

        return do

    def there(self, kind: str) -> Do:
        """Do an operation in the other process."""
        return lambda operation, *args, **kwargs: self.partner.do(kind, operation, *args, **kwargs)

    def close(self) -> None:
        with self.partner:
            self.cache.close()


@pytest.fixture(scope="module", params=SHARED)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    url = request.getfixturevalue("redis_server").url if "redis" in request.param else None
    made = Pair(request.param, tmp_path_factory.mktemp("pair") / "cache", url)
    yield made
    made.close()


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["to the other", "from the other"])
def ends(request: pytest.FixtureRequest, pair: Pair, kind: str) -> tuple[Do, Do]:
    """(who invalidates, who reads)."""
    here, there = pair.here(kind), pair.there(kind)
    return (here, there) if request.param == "to the other" else (there, here)


# Each kind: how the dead and the living are set, and what kills the dead.
Place = dict[str, Any]
KINDS: dict[str, tuple[Place, Place, Callable[[Do, str, Place], Any]]] = {
    "key": ({}, {}, lambda do, n, more: do("invalidate_keys", [f"dead:{n}"], **more)),
    "tag": ({"tags": ["a", "dead"]}, {"tags": ["a"]}, lambda do, n, more: do("invalidate_tags", ["dead"], **more)),
    "scope": (
        {"scope": "user", "org_id": "1", "user_id": "2"},
        {"scope": "user", "org_id": "12", "user_id": "2"},
        lambda do, n, more: do("evict_by_scope", "organization", org_id="1", **more),
    ),
    "pattern": ({}, {}, lambda do, n, more: do("invalidate_pattern", "dead:[0-9]*", **more)),
    "region": ({}, {"region": "second"}, lambda do, n, more: do("clear", "default", **more)),
    "everything": ({"region": "second"}, {}, lambda do, n, more: do("clear", **more)),
    "event": ({"region": "second"}, {}, lambda do, n, more: do("handle_event", "changed", {"id": n}, **more)),
}


def place(of: Place) -> Place:
    return {name: value for name, value in of.items() if name != "tags"}


@pytest.mark.parametrize("name", KINDS)
def test_an_invalidation_takes_effect_in_the_other_process(name: str, ends: tuple[Do, Do]) -> None:
    """When it has returned with a barrier, the other process serves the dead from no tier, and goes on serving the rest."""
    one, other = ends
    dead, living, invalidate = KINDS[name]
    n = str(next(numbers))
    one("set", f"dead:{n}", "old", **dead)
    one("set", f"living:{n}", "kept", **living)
    assert ("old", "kept") == (other("get", f"dead:{n}", **place(dead)), other("get", f"living:{n}", **place(living)))
    result = invalidate(one, n, {"barrier": 10.0})
    assert result.delivered
    assert isinstance(result.position, int)
    expected = (None, None) if name == "everything" else (None, "kept")
    for do in (other, one):
        assert expected == (do("get", f"dead:{n}", **place(dead)), do("get", f"living:{n}", **place(living)))


@pytest.mark.parametrize("name", KINDS)
def test_what_is_set_after_it_lives_in_both(name: str, ends: tuple[Do, Do]) -> None:
    """A value set after the invalidation is served by both processes, whatever the kind."""
    one, other = ends
    dead, _, invalidate = KINDS[name]
    n = str(next(numbers))
    other("set", f"dead:{n}", "old", **dead)
    invalidate(one, n, {"barrier": 10.0})
    other("set", f"dead:{n}", "new", barrier=10.0, **dead)
    assert ["new", "new"] == [do("get", f"dead:{n}", **place(dead)) for do in (one, other)]


@pytest.mark.parametrize("name", KINDS)
def test_what_was_computed_before_it_is_not_stored_after_it(name: str, ends: tuple[Do, Do]) -> None:
    """A `set(as_of=…)` of what was read before it leaves the key empty; one of what was read after it is kept."""
    one, other = ends
    dead, _, invalidate = KINDS[name]
    n = str(next(numbers))
    before = other("position")
    other("set", f"dead:{n}", "old", **dead)
    invalidate(one, n, {})
    other("set", f"dead:{n}", "late", as_of=before, **dead)
    assert [None, None] == [do("get", f"dead:{n}", **place(dead)) for do in (other, one)]
    other("set", f"dead:{n}", "true", as_of=other("position"), **dead)
    assert other("get", f"dead:{n}", **place(dead)) == "true"


def test_without_a_barrier_it_takes_effect_soon(pair: Pair, kind: str) -> None:
    """The bus, or on one host the log's own head, carries it without any waiting by the one who invalidates."""
    here, there = pair.here(kind), pair.there(kind)
    n = str(next(numbers))
    here("set", n, "old", tags=["soon"])
    assert there("get", n) == "old"
    here("invalidate_tags", ["soon"])
    if pair.cache._runtime.log.kind == "disk":
        assert there("get", n) is None
    wait_until(lambda: there("get", n) is None, 5.0, "the other process to hear of it")


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("way", ["get_or_set", "write_through", "cache_aside"])
def test_a_function_that_it_overtakes_stores_nothing(pair: Pair, kind: str, name: str, way: str) -> None:
    """Invalidated by another process while a function here loads or writes: its caller gets the value, and no tier keeps it."""
    here, there, cache = pair.here(kind), pair.there(kind), pair.cache
    dead, _, invalidate = KINDS[name]
    n = str(next(numbers))
    key, where = f"dead:{n}", place(dead)

    def sync(org_id: str = "1", user_id: str = "2") -> str:
        invalidate(there, n, {"barrier": 10.0})  # without one, this process may serve it until it hears of it
        return "old"

    async def coroutine(org_id: str = "1", user_id: str = "2") -> str:
        return sync()

    function = sync if kind == "sync" else coroutine
    if way == "get_or_set":
        answer = here("get_or_set", key, function, **dead)
    else:
        if way == "write_through":
            options = {option: value for option, value in dead.items() if option in ("scope", "region", "tags")}
            decorated = cache.write_through(key=key, **options)(function)
        else:
            decorated = cache.cache_aside(
                get_from_cache=lambda org_id, user_id: cache.get(key, **where),
                save_to_cache=lambda org_id, user_id, value: cache.set(key, value, **dead),
            )(function)
        answer = decorated() if kind == "sync" else asyncio.run(decorated())
    assert answer == "old"
    assert [None, None] == [do("get", key, **where) for do in (here, there)]


def test_tags_added_later_count_in_the_other_process(pair: Pair, kind: str) -> None:
    """`tag_cache_key` in one process, `invalidate_tags` in the other."""
    here, there = pair.here(kind), pair.there(kind)
    n = str(next(numbers))
    here("set", n, "old")
    assert there("get", n) == "old"
    assert here("tag_cache_key", n, [f"late {n}"], barrier=10.0) is True
    assert [here("get", n), there("get", n)] == ["old", "old"]
    there("invalidate_tags", [f"late {n}"], barrier=10.0)
    assert [here("get", n), there("get", n)] == [None, None]
    assert there("tag_cache_key", n, ["again"]) is False


def test_a_purge_empties_the_other_processs_memory(pair: Pair, kind: str) -> None:
    """Not only is nothing served: the other process gives up the values themselves, as soon as it hears of it."""
    here, there = pair.here(kind), pair.there(kind)
    scope = {"scope": "user", "org_id": "erase", "user_id": str(next(numbers))}
    long_key = "k" * 500  # its name in the tiers below is a hash
    here("clear", barrier=10.0)
    pair.partner.do("sync", "sweep")
    for key in ("a", "b", long_key):
        here("set", key, "personal", **scope)
        assert there("get", key, **scope) == "personal"
    here("set", "a", "another's", scope="user", org_id="keep", user_id="1")
    counts = here("purge", scope="organization", org_id="erase")
    runtime = pair.cache._runtime
    tiers = {"local": runtime.default.memory, "disk": runtime.disks(), "remote": runtime.remote}
    assert counts == {name: 3 for name, tier in tiers.items() if tier is not None and tier != []}
    pair.partner.do("call", "caught_up")
    assert [None] * 3 == [there("get", key, **scope) for key in ("a", "b", long_key)]
    if runtime.log.kind == "redis":
        wait_until(lambda: not any(pair.partner.do("call", "held").values()), 10.0, "the other process to sweep")
    assert here("get", "a", scope="user", org_id="keep", user_id="1") == "another's"
