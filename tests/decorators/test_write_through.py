"""`@write_through`: it stores what the function returned, unless something else wrote meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from tiercast.config import CacheConfig, LocalCacheConfig
from tiercast.decorators import cached, write_through
from tiercast.errors import KeyTemplateError, SerializationError
from tiercast.manager import CacheManager


@pytest.fixture
def update(manager, origin):
    @write_through(
        key="user:{user_id}",
        ttl=60,
        invalidate_patterns=["user:{user_id}:*"],
        invalidate_tags=["lists", "org:{org}"],
    )
    def update(user_id, org="a", before=lambda: None):
        before()
        return origin(user_id)

    return update


def test_the_readers_see_what_was_written(manager, update):
    @cached(key="user:{user_id}")
    def get_user(user_id):
        raise AssertionError

    assert update("1") == "value 1"
    assert get_user(1) == "value 1"
    assert 59 < manager.ttl("user:1") <= 60
    assert update(user_id=1) == "value 2"
    assert get_user(1) == "value 2"


def test_patterns_and_tags_are_invalidated(manager, update):
    manager.set("user:1:posts", "old")
    manager.set("user:2:posts", "kept")
    manager.set("list", "old", tags=["lists"])
    manager.set("org", "old", tags=["org:a"])
    update(1)
    assert manager.multi_get(["user:1:posts", "user:2:posts", "list", "org", "user:1"]) == {
        "user:2:posts": "kept", "user:1": "value 1",
    }  # fmt: skip


def test_tags_that_only_the_value_tells_are_invalidated(manager):
    manager.set("by author", "old", tags=["author:7"])
    manager.set("by other", "old", tags=["author:8"])

    @write_through(key="book:{book_id}", invalidate_tags=lambda book_id, result: [f"author:{result['author']}"])
    def update_book(book_id):
        return {"author": 7}

    update_book(1)
    assert not manager.contains("by author")
    assert manager.contains("by other")
    assert manager.get("book:1") == {"author": 7}


async def one():
    return 1


@pytest.mark.parametrize("made", [one, lambda: (each for each in ())], ids=["coroutine", "generator"])
def test_what_only_one_caller_could_use_is_not_stored(manager, made):
    manager.set("user:1", "old")

    @write_through(key="user:{user_id}")
    def update_user(user_id):
        return made()

    with pytest.raises(TypeError, match=r"update_user returned a (coroutine|generator), which can be"):
        update_user(1)
    assert not manager.contains("user:1")


def test_what_an_argument_brings_cannot_widen_a_pattern(manager, update):
    manager.set("user:1:posts", "kept")
    update("*")
    assert manager.get("user:1:posts") == "kept"


@pytest.mark.parametrize("meanwhile", ["invalidate_keys", "set", "write"])
def test_two_overlapping_writers_leave_the_key_empty(manager, update, meanwhile):
    """Nobody can tell whose value the origin holds: empty is right, either value may be wrong."""
    acts = {
        "invalidate_keys": lambda: manager.invalidate_keys(["user:1"]),
        "set": lambda: manager.set("user:1", "other"),
        "write": lambda: update(1),
    }
    assert update(1, before=acts[meanwhile]).startswith("value")
    assert manager.get("user:1", "empty") == "empty"


def test_a_function_that_raises_leaves_nothing_that_may_be_old(manager, update):
    """The write may have happened before it raised."""
    manager.set("user:1", "old")
    manager.set("user:1:posts", "old")

    def broken():
        raise ConnectionError

    with pytest.raises(ConnectionError):
        update(1, before=broken)
    assert manager.multi_get(["user:1", "user:1:posts"]) == {}


def test_a_function_that_returns_nothing_stores_nothing(manager):
    @write_through(key="user:{user_id}")
    def save(user_id): ...

    manager.set("user:1", "old")
    assert save(1) is None
    assert not manager.contains("user:1")


def test_a_key_that_cannot_be_made_fails_before_the_write(manager, update, origin):
    with pytest.raises(TypeError, match="parameter 'user_id'"):
        update(object())
    assert origin.calls == []
    with pytest.raises(KeyTemplateError, match="'id'"):
        write_through(key="user:{user_id}", invalidate_patterns="user:{id}:*")(lambda user_id: None)


async def test_async_writers_and_cancelled_ones(manager, origin):
    started = asyncio.Event()

    @write_through(key="user:{user_id}")
    async def save(user_id, wait=False):
        if wait:
            started.set()
            await asyncio.sleep(3600)
        return origin(user_id)

    assert await save(1) == "value 1" == await manager.get_async("user:1")
    await save.invalidate(1)
    assert not manager.contains("user:1")
    await save(1)
    task = asyncio.create_task(save(1, wait=True))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not manager.contains("user:1")


def test_a_value_that_cannot_be_stored_leaves_nothing_that_may_be_old(tmp_path):
    """The write has happened: what readers have of before is old, and so is what follows from it."""
    disk = LocalCacheConfig(type="file", directory=tmp_path)
    with CacheManager(CacheConfig(disk=disk)) as manager:

        @manager.write_through(key="user:{user_id}", invalidate_patterns="user:{user_id}:*", invalidate_tags="lists")
        def update(user_id):
            return object()

        manager.multi_set({"user:1": "old", "user:1:posts": "old"})
        manager.set("list", "old", tags=["lists"])
        with pytest.raises(SerializationError):
            update(1)
        assert manager.multi_get(["user:1", "user:1:posts", "list"]) == {}


def test_so_does_one_whose_tags_cannot_be_made(manager):
    @write_through(key="user:{user_id}", tags=lambda user_id, result: [result["org"]])
    def update(user_id):
        return {}

    manager.set("user:1", "old")
    with pytest.raises(KeyError):
        update(1)
    assert manager.get("user:1") is None


async def test_so_does_one_that_is_cancelled_while_its_value_is_stored(manager, monkeypatch):
    """Between the write and the record that would tell of it the caller may be cancelled, by a timeout say."""
    storing = asyncio.Event()

    @write_through(key="user:{user_id}", invalidate_patterns="user:{user_id}:*")
    async def update(user_id):
        return "new"

    async def set_async(*args, **options):
        storing.set()
        await asyncio.Event().wait()

    await manager.multi_set_async({"user:1": "old", "user:1:posts": "old"})
    monkeypatch.setattr(manager, "set_async", set_async)
    task = asyncio.create_task(update(1))
    await storing.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert manager.multi_get(["user:1", "user:1:posts"]) == {}


def test_write_through_on_a_method(manager):
    class Users:
        @write_through(key="user:{user_id}")
        def save(self, user_id, name):
            return name

    assert Users().save(1, "n") == "n" == manager.get("user:1")
    Users().save.invalidate(1, "n")
    assert not manager.contains("user:1")
