"""`@cache_aside`, `@memoize` and `@stampede_protect`: what each does besides caching."""

from __future__ import annotations

import pytest

from tiercast import CacheConfig, CacheManager
from tiercast.decorators import cache_aside, memoize, stampede_protect


def test_with_a_key_it_is_cached(manager, origin):
    @cache_aside(key="user:{user_id}", ttl=300)
    def get_user(user_id):
        return origin(user_id)

    assert [get_user(1), get_user("1")] == ["value 1"] * 2
    assert 299 < manager.ttl("user:1") <= 300
    get_user.invalidate(1)
    assert get_user(1) == "value 2"


def test_callbacks_are_asked_first_and_told_last(origin):
    """None is a miss; the arguments come in one form, whatever the caller wrote."""
    store, asked = {}, []

    def get_from_cache(user_id, lang):
        asked.append((user_id, lang))
        return store.get(user_id)

    @cache_aside(
        get_from_cache=get_from_cache, save_to_cache=lambda user_id, lang, value: store.update({user_id: value})
    )
    def get_user(user_id, lang="en"):
        return origin(user_id)

    assert [get_user(1), get_user(user_id=1), get_user(1, "en")] == ["value 1"] * 3
    assert (asked, store) == ([(1, "en")] * 3, {1: "value 1"})
    assert get_user.stats() == (2, 1, 1)
    assert get_user.refresh(1) == "value 2"
    assert store == {1: "value 2"}
    with pytest.raises(TypeError, match="no key of its own"):
        get_user.invalidate(1)
    with pytest.raises(TypeError, match="no key of its own"):
        get_user.clear()


@pytest.mark.parametrize("several", [False, True])
def test_a_set_inside_save_to_cache_loses_to_what_was_invalidated_during_the_load(manager, origin, several):
    """The value was read before the invalidation: it is handed to the caller and not stored; nor by `multi_set`."""
    invalidating = [True, False]

    def load(user_id):
        value = origin(user_id)
        if invalidating.pop(0):
            manager.invalidate_keys([f"user:{user_id}"])
        return value

    get_user = cache_aside(
        get_from_cache=lambda user_id: manager.get(f"user:{user_id}"),
        save_to_cache=lambda user_id, value: (
            manager.multi_set({f"user:{user_id}": value, "other": value}, ttl=60)
            if several
            else manager.set(f"user:{user_id}", value, ttl=60)
        ),
    )(load)
    assert get_user(1) == "value 1"
    assert manager.get("user:1") is None
    assert manager.contains("other") is several
    assert get_user(1) == "value 2"
    assert manager.get("user:1") == "value 2"
    assert get_user(1) == "value 2"


def test_callbacks_may_use_any_manager(manager, origin):
    """Not only the process's: each stores as of where it stood itself at the miss, and refuses what it saw die since."""
    with CacheManager(CacheConfig()) as own, CacheManager(CacheConfig()) as late:
        acts = [lambda: None, lambda: own.invalidate_keys(["user:2"])]

        def save(user_id, value):
            own.set(f"user:{user_id}", value)
            late.set(f"user:{user_id}", value)  # used for the first time: where it stood at the miss, nobody knows

        def load(user_id):
            value = origin(user_id)
            acts.pop(0)()
            return value

        get_user = cache_aside(get_from_cache=lambda user_id: own.get(f"user:{user_id}"), save_to_cache=save)(load)
        assert [get_user(1), get_user(1), get_user(2)] == ["value 1", "value 1", "value 2"]
        assert own.multi_get(["user:1", "user:2"]) == {"user:1": "value 1"}
        assert late.multi_get(["user:1", "user:2"]) == {"user:2": "value 2"}


def test_an_exception_stores_nothing(manager):
    saved = []

    @cache_aside(get_from_cache=lambda: None, save_to_cache=saved.append)
    def broken():
        raise ConnectionError

    with pytest.raises(ConnectionError):
        broken()
    assert saved == []


async def test_callbacks_of_an_async_function_may_be_async_or_not(manager, origin):
    async def get_from_cache(x):
        return await manager.get_async(f"k:{x}")

    async def save_to_cache(x, value):
        await manager.set_async(f"k:{x}", value)

    for save in (save_to_cache, lambda x, value: manager.set(f"k:{x}", value)):
        await manager.delete_async("k:1")

        @cache_aside(get_from_cache=get_from_cache, save_to_cache=save)
        async def get(x):
            return origin(x)

        assert await get(1) == await get(1) == manager.get("k:1")
        assert get.stats() == (1, 1, 1)
    assert origin.calls == [1, 1]


async def acallback(*args): ...


def test_what_does_not_go_together_is_refused():
    with pytest.raises(TypeError, match="neither"):
        cache_aside(get_from_cache=lambda: None)
    with pytest.raises(TypeError, match="takes no key"):
        cache_aside("k", get_from_cache=lambda: None, save_to_cache=lambda value: None)
    with pytest.raises(TypeError, match="is async"):
        cache_aside(get_from_cache=acallback, save_to_cache=lambda value: None)(lambda: None)


def test_memoize_keeps_values_of_any_type_by_reference(manager):
    @memoize(ttl=60)
    def make(name):
        return object()

    assert make("a") is make("a")
    assert make("a") is not make("b")
    assert make.stats() == (2, 2, 2)


def test_stampede_protect_hands_its_lock_ttl_on(manager, origin, monkeypatch):
    asked = []
    real = type(manager).get_or_set
    monkeypatch.setattr(
        type(manager), "get_or_set", lambda self, *args, **kwargs: asked.append(kwargs) or real(self, *args, **kwargs)
    )

    @stampede_protect(key="dashboard:stats", ttl=300, lock_ttl=30)
    def dashboard():
        return origin("dashboard")

    assert [dashboard(), dashboard()] == ["value 1"] * 2
    assert [each["lock_ttl"] for each in asked] == [30]
    with pytest.raises(ValueError):
        stampede_protect(lock_ttl=0)
