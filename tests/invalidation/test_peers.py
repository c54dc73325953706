"""What other caches got wrong, by name; each was reported against a released version of a peer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stacks import STACKS, Async, Sync, config_of
from tiercast import CacheManager, ScopeConfig, ScopeLevel, TimeBasedInvalidation
from tiercast.testing import FakeClock

SCOPES = ScopeConfig([ScopeLevel("organization", "org_id", [ScopeLevel("user", "user_id")])])


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Iterator[Sync | Async]:
    call = Sync() if request.param == "sync" else Async()
    yield call
    call.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=STACKS)
def cache(request: pytest.FixtureRequest, call: Sync, clock: FakeClock, tmp_path: Path) -> Iterator[CacheManager]:
    url = request.getfixturevalue("redis_url") if "redis" in request.param else None
    made = CacheManager(config_of(request.param, tmp_path / "cache", url, scopes=SCOPES), clock=clock)
    yield made
    call(made.close)


def decorated(cache: CacheManager, call: Sync, key: str) -> tuple[Any, list[str], Callable[..., Any]]:
    """A function cached under a key, what it was asked, and how to call it."""
    asked: list[str] = []
    if call.kind == "sync":

        @cache.cached(key=key, tags=("user:{user_id}",))
        def get_user(user_id: Any, *, full: bool = False) -> str:
            asked.append(str(user_id))
            return f"user {user_id}"

        return get_user, asked, get_user

    @cache.cached(key=key, tags=("user:{user_id}",))
    async def get_user_async(user_id: Any, *, full: bool = False) -> str:
        asked.append(str(user_id))
        return f"user {user_id}"

    loop = call.loop  # type: ignore[attr-defined]
    return get_user_async, asked, lambda *args, **kwargs: loop.run_until_complete(get_user_async(*args, **kwargs))


@pytest.mark.parametrize("later", [5, 3600, None])
@pytest.mark.parametrize("order", ["first", "last"])
def test_a_60_s_key_lives_and_dies_with_its_tag_whatever_ttl_later_members_have(
    cache: CacheManager, call: Sync, clock: FakeClock, later: float | None, order: str
) -> None:
    """Peers kept a set of keys for each tag, which expired with the TTL of whoever was added last (or first)."""
    for key, ttl in (("k", 60), ("other", later)) if order == "first" else (("other", later), ("k", 60)):
        call(cache.set, key, 1, ttl, tags=["t"])
    clock.advance(50)
    cache.coherence.settle()
    assert call(cache.get, "k") == 1
    call(cache.invalidate_tags, ["t"])
    assert call(cache.get, "k") is None
    call(cache.set, "k", 2, 60, tags=["t"])
    clock.advance(59)
    cache.coherence.settle()
    assert call(cache.get, "k") == 2


def test_an_id_with_a_slash_does_not_forge_a_scope(cache: CacheManager, call: Sync) -> None:
    """Peers joined ids with "/", so organization "1/user:2" was user 2 of organization 1."""
    call(cache.set, "k", "theirs", scope="user", org_id="1", user_id="2")
    assert call(cache.get, "k", scope="organization", org_id="1/user:2") is None
    call(cache.set, "k", "forged", scope="organization", org_id="1/user:2")
    assert call(cache.get, "k", scope="user", org_id="1", user_id="2") == "theirs"
    call(cache.evict_by_scope, "organization", org_id="1/user:2")
    assert call(cache.get, "k", scope="user", org_id="1", user_id="2") == "theirs"
    call(cache.evict_by_scope, "organization", org_id="1")
    assert call(cache.get, "k", scope="user", org_id="1", user_id="2") is None


@pytest.mark.parametrize("key", [None, "user:{user_id}"])
def test_positional_and_keyword_arguments_make_one_key_and_users_never_share(
    cache: CacheManager, call: Sync, key: Any
) -> None:
    """`get_user("123")` and `get_user(user_id="123")` are one entry. Peers made two, or one for all users."""
    function, asked, get_user = decorated(cache, call, key)
    assert get_user("123") == get_user(user_id="123") == get_user("123", full=False) == "user 123"
    assert asked == ["123"]
    assert function.cache_key("123") == function.cache_key(user_id="123")
    assert get_user("124") == "user 124"
    assert get_user("12") == "user 12"
    assert get_user("*") == "user *"
    assert len({str(function.cache_key(user)) for user in ("123", "124", "12", "*", "123:", "1 23")}) == 6


def test_a_pattern_removes_what_the_decorators_stored(cache: CacheManager, call: Sync) -> None:
    """`invalidate_pattern("user:*")`: peers prefixed the keys of decorated functions, so that no pattern met them."""
    _, asked, get_user = decorated(cache, call, "user:{user_id}")
    for user in ("1", "2"):
        get_user(user)
    call(cache.set, "username:1", "kept")
    call(cache.invalidate_pattern, "user:*")
    for user in ("1", "2"):
        get_user(user)
    assert asked == ["1", "2", "1", "2"]
    assert call(cache.get, "username:1") == "kept"


def test_a_tag_removes_what_the_decorators_stored(cache: CacheManager, call: Sync) -> None:
    """Tags made from the arguments, one user's and not the next one's."""
    _, asked, get_user = decorated(cache, call, "user:{user_id}")
    for user in ("1", "2"):
        get_user(user)
    call(cache.invalidate_tags, ["user:1"])
    for user in ("1", "2"):
        get_user(user)
    assert asked == ["1", "2", "1"]


def test_jitter_is_applied(tmp_path: Path) -> None:
    """A peer computed the jitter and stored the TTL without it (test_time.py has the distribution, in every tier)."""
    config = config_of("memory+disk", tmp_path / "c", None, invalidation=[TimeBasedInvalidation(300, ttl_jitter=0.1)])
    with CacheManager(config, clock=FakeClock()) as cache:
        for number in range(50):
            cache.set(f"k{number}", 1)
        lefts = {round(cache.ttl(f"k{number}") or 0, 3) for number in range(50)}
    assert len(lefts) > 40
    assert all(270 <= left <= 330 for left in lefts)


def test_a_none_is_cached(cache: CacheManager, call: Sync) -> None:
    """Peers asked the origin again and again for what is not there."""
    asked: list[int] = []

    def load() -> None:
        asked.append(1)

    for _ in range(3):
        assert call(cache.get_or_set, "k", load) is None
    assert asked == [1]
    assert call(cache.contains, "k") is True
    assert call(cache.get, "k", "default") is None
