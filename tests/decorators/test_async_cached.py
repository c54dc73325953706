"""The decorators on async functions."""

from __future__ import annotations

import asyncio
import inspect

import pytest

from tiercast.decorators import async_cached, cached, memoize, stampede_protect
from tiercast.loading.context import current_load

pytestmark = pytest.mark.usefixtures("manager")

DECORATORS = [cached, cached(ttl=60, key="k:{x}"), async_cached, async_cached(key="k:{x}"), memoize, memoize(), memoize(60, "k:{x}"),
              stampede_protect("k:{x}")]  # fmt: skip


@pytest.mark.parametrize("decorator", DECORATORS)
async def test_every_decorator_takes_an_async_function(decorator, origin):
    @decorator
    async def get(x):
        await asyncio.sleep(0)
        return origin(x)

    assert inspect.iscoroutinefunction(get)
    assert [await get(1), await get(x=1)] == ["value 1"] * 2
    assert (await get.invalidate(1)).delivered is True
    assert await get(1) == "value 2"
    assert await get.refresh(1) == "value 3"
    assert await get(1) == "value 3"
    await get.clear()
    assert await get(1) == "value 4"
    assert (await get.stats()).loads == get.stats().loads == 4
    assert await get.cache_key(1) == get.cache_key(1)
    assert await get.__wrapped__(1) == "value 5"


async def test_tasks_share_one_load(origin):
    @cached(key="slow")
    async def slow():
        await asyncio.sleep(0.01)
        return origin("slow")

    assert await asyncio.gather(*(slow() for _ in range(50))) == ["value 1"] * 50
    assert slow.stats() == (49, 1, 1)


async def test_an_exception_reaches_the_caller_and_is_not_cached():
    @cached(key="broken")
    async def broken():
        raise ConnectionError

    for _ in (1, 2):
        with pytest.raises(ConnectionError):
            await broken()
    assert broken.stats() == (0, 2, 2)


async def test_tags_and_scopes_and_load_context(manager, origin):
    @cached(key="s", scope="organization", tags=["all"])
    async def settings(org_id):
        current_load().tags.append(f"inside:{org_id}")
        return origin(org_id)

    assert [await settings("a"), await settings("a"), await settings("b")] == ["value 1", "value 1", "value 2"]
    await manager.invalidate_tags_async(["inside:a"])
    assert [await settings("a"), await settings("b")] == ["value 3", "value 2"]
    await manager.invalidate_tags_async(["all"])
    assert [await settings("a"), await settings("b")] == ["value 4", "value 5"]


async def test_stacked_async_functions_load_once(origin):
    @cached(ttl=10)
    @cached(ttl=20)
    async def get(x):
        return origin(x)

    assert [await get(1), await get(1)] == ["value 1"] * 2
    await get.invalidate(1)
    assert await get(1) == "value 2"
