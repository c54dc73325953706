"""`@cached` on functions: hits, loads, invalidation, tags, scopes, versions and what it refuses."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest

import tiercast
from tiercast.config import CacheConfig, LocalCacheConfig
from tiercast.decorators import DecoratorMethods, async_cached, build_cache_key, cached, memoize, stampede_protect
from tiercast.decorators.bound import unbind
from tiercast.decorators.namespace import Namespace
from tiercast.errors import LoadCycle, ScopeError
from tiercast.loading.context import current_load
from tiercast.manager import CacheManager


def test_a_value_is_loaded_once(manager, origin):
    """Bare, with arguments, by position and by name: one entry."""

    @cached
    def bare(user_id):
        return origin(user_id)

    assert [bare(1), bare(1), bare(user_id=1)] == ["value 1"] * 3

    @cached(60, key="user:{user_id}")
    def get_user(user_id, verbose=False):
        return origin(user_id)

    assert [get_user("9"), get_user(user_id="9"), get_user(9)] == ["value 2"] * 3
    assert manager.get("user:9") == "value 2"
    assert origin.calls == [1, "9"]


def test_different_users_never_share_an_entry(manager, origin):
    @cached(key="user:{user_id}:{part}")
    def get(user_id, part=""):
        return origin(user_id, part)

    answers = [get("1", "2:3"), get("1:2", "3"), get("*"), get("1"), get("%2A")]
    assert len(set(answers)) == len(answers)


def test_none_is_a_value(manager):
    calls = []
    get = cached(key="none:{0}")(calls.append)
    assert [get(1), get(1)] == [None, None]
    assert calls == [1]


def test_the_attributes_invalidate_refresh_and_count(manager, origin):
    @cached(key="user:{user_id}")
    def get_user(user_id):
        """Get a user."""
        return origin(user_id)

    assert get_user(1) == "value 1"
    assert get_user.invalidate(user_id="1").delivered is True
    assert get_user(1) == "value 2"
    assert get_user.refresh(1) == "value 3"
    assert get_user(1) == "value 3"
    assert get_user(2) == "value 4"
    get_user.clear()
    assert [get_user(1), get_user(2)] == ["value 5", "value 6"]
    assert get_user.stats() == (1, 6, 6)
    assert get_user.cache_key(user_id=1) == "user:1"
    assert get_user.__wrapped__(7) == "value 7"
    assert (get_user.__name__, get_user.__doc__) == ("get_user", "Get a user.")
    assert str(inspect.signature(get_user)) == "(user_id)"


def test_figures_are_exact(manager, origin):
    @cached(key="n:{n}")
    def get(n):
        return origin(n)

    for n in (1, 1, 2, 1, 2):
        get(n)
    assert (get.stats().hits, get.stats().misses, get.stats().loads) == (3, 2, 2)
    assert get.stats().hit_rate == 0.6
    assert [get.stats()[name] for name in ("hits", "misses", "loads", "hit_rate")] == [3, 2, 2, 0.6]
    assert dict(get.stats()) == {"hits": 3, "misses": 2, "loads": 2, "hit_rate": 0.6}
    assert "hits" in get.stats()
    assert "evictions" not in get.stats()
    assert (get.stats()[0], get.stats()[1:], 3 in get.stats()) == (3, (2, 2), True)
    with pytest.raises(TypeError, match="indices"):
        get.stats()["evictions"]


def test_clear_reaches_this_function_only(manager, origin):
    @cached
    def one(x):
        return origin(x)

    @cached
    def one_more(x):
        return origin(x)

    @cached(key=lambda x: f"made:{x}")
    def made(x):
        return origin(x)

    for function in (one, one_more, made):
        function(1)
    one.clear()
    one_more(1), made(1)
    assert len(origin.calls) == 3
    one(1)
    assert len(origin.calls) == 4
    made.clear()
    one(1), one_more(1)
    assert len(origin.calls) == 4
    made(1)
    assert len(origin.calls) == 5


def test_an_exception_reaches_the_caller_once_and_is_not_cached(manager):
    calls = []

    @cached(key="broken")
    def broken():
        calls.append(1)
        message = "no database"
        raise ConnectionError(message)

    with pytest.raises(ConnectionError, match="no database") as caught:
        broken()
    assert calls == [1]
    assert "broken" in {frame.name for frame in traceback.extract_tb(caught.value.__traceback__)}
    with pytest.raises(ConnectionError):
        broken()
    assert calls == [1, 1]
    assert broken.stats() == (0, 2, 2)


def test_patterns_tags_and_keys_by_hand_reach_what_the_decorator_stored(manager, origin):
    @cached(key="user:{user_id}", tags=("users", "org:{org}"))
    def get_user(user_id, org="a"):
        return origin(user_id)

    for number, invalidate in enumerate([
        lambda: manager.invalidate_pattern("user:*"),
        lambda: manager.invalidate_keys(["user:1"]),
        lambda: manager.invalidate_tags(["users"]),
        lambda: manager.invalidate_tags(["org:a"]),
        lambda: manager.invalidate_keys([build_cache_key("user:{user_id}", kwargs={"user_id": 1})]),
    ]):  # fmt: skip
        get_user(1)
        assert len(origin.calls) == number + 1
        invalidate()
    get_user(1)
    assert len(origin.calls) == 6


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (5, r"the tags of .*load must be templates, or a function of its arguments, not 5"),
        ([5], "a key or tag template must be a str, not 5"),
        (lambda user_id: None, r"the function of tags of .*load must return several str, not None"),
        (lambda user_id, result: None, r"the function of tags of .*load must return several str, not None"),
    ],
)
def test_tags_that_are_none_are_refused(manager, tags, message):
    with pytest.raises(TypeError, match=message):

        @cached(key="t:{user_id}", tags=tags)
        def load(user_id):
            return user_id

        load(1)


def test_tags_may_be_one_string_a_function_or_come_from_the_value(manager, origin):
    @cached(key="a:{x}", tags="t:{x}")
    def one_string(x):
        return origin(x)

    @cached(key="b:{x}", tags=lambda x: [f"t:{x}"])
    def of_arguments(x):
        return origin(x)

    @cached(key="c:{x}", tags=lambda x, result: f"t:{len(result) and x}")
    def of_value(x):
        return origin(x)

    @cached(key="d:{x}")
    def from_inside(x):
        current_load().tags.append(f"t:{x}")
        return origin(x)

    functions = (one_string, of_arguments, of_value, from_inside)
    for function in functions:
        function(1)
    manager.invalidate_tags(["t:1"])
    for function in functions:
        function(1)
    assert len(origin.calls) == 8


def test_the_function_may_say_how_long_its_value_lives_and_that_it_is_not_kept(manager, origin):
    @cached(key="x:{x}")
    def get(x):
        current_load().keep = x != "forget"
        current_load().ttl = 7
        return origin(x)

    get("forget"), get("forget"), get("keep"), get("keep")
    assert origin.calls == ["forget", "forget", "keep"]
    assert 6 < manager.ttl("x:keep") <= 7


def test_scope_parameters_come_from_the_arguments(manager, origin):
    @cached(key="settings", scope="user")
    def settings(org_id, user_id="u"):
        return origin(org_id, user_id)

    assert settings("o1") == settings("o1", "u") == settings(org_id="o1", user_id="u") == "value 1"
    assert settings("o2") == "value 2"
    assert settings.stats() == (2, 2, 2)
    assert manager.get("settings", scope="user", org_id="o1", user_id="u") == "value 1"
    manager.evict_by_scope("organization", org_id="o1")
    assert [settings("o1"), settings("o2")] == ["value 3", "value 2"]
    settings.invalidate("o2")
    assert settings("o2") == "value 4"
    settings.clear()
    assert [settings("o1"), settings("o2")] == ["value 5", "value 6"]


def test_a_scope_that_the_function_cannot_fill_is_an_error(manager):
    @cached(key="k", scope="user")
    def lacking(org_id): ...

    with pytest.raises(ScopeError, match=r"'user_id', which is no parameter of .*lacking"):
        lacking("o1")

    @cached(key="k", scope="usr")
    def unknown(org_id): ...

    with pytest.raises(ScopeError, match="user"):
        unknown("o1")


def test_regions_are_named_or_the_current_one(manager, origin):
    @cached(key="k", region="short")
    def named():
        return origin("named")

    @cached(key="k")
    def current():
        return origin("current")

    named()
    assert manager.get("k") is None
    assert manager.get("k", region="short") == "value 1"
    assert 0 < manager.ttl("k", region="short") <= 5
    with manager.cache_context("short"):
        assert [current(), current()] == ["value 1", "value 1"]
    assert [current(), current()] == ["value 2", "value 2"]
    assert [named(), named()] == ["value 1", "value 1"]
    assert current.stats() == (3, 1, 1)


def test_versions_do_not_meet(manager, origin):
    def get(x):
        return origin(x)

    old, new = cached(version=1)(get), cached(version=2)(get)
    assert [old(1), new(1), old(1), new(1)] == ["value 1", "value 2", "value 1", "value 2"]


def test_max_items_evicts_the_functions_own_least_recent(manager, origin):
    @cached(key="few:{x}", max_items=2)
    def few(x):
        return origin(x)

    @cached(key="many:{x}")
    def many(x):
        return origin(x)

    for x in range(5):
        many(x)
    few(1), few(2), few(1), few(3)
    assert manager.contains("few:1")
    assert not manager.contains("few:2")
    assert all(manager.contains(f"many:{x}") for x in range(5))
    with pytest.raises(ValueError):
        cached(max_items=0)(lambda: None)


def test_threads_that_enter_a_namespace_at_once_keep_its_bound():
    """No entry leaves twice, none is lost, and as many stay as there is room for."""
    space = Namespace(10)
    with ThreadPoolExecutor(8) as pool:
        gone = pool.map(lambda part: [old for x in range(2000) for old in space.admit((part, x))], range(8))
    left = [address for part in gone for address in part]
    assert len(space) == 10
    assert len(set(left)) == len(left) == 8 * 2000 - 10


def test_decorated_on_decorated_loads_once_and_invalidates_both(manager, origin):
    """The same key twice is one entry, not a cycle; different keys are two, both invalidated."""

    @cached(ttl=10)
    @cached(ttl=20)
    def same(x):
        return origin(x)

    @cached(key="outer:{x}")
    @stampede_protect(key="inner:{x}", ttl=100)
    def two(x):
        return origin(x)

    @cached(key="k:{x}")
    @stampede_protect(key="k:{x}", ttl=100)
    def equal(x):
        return origin(x)

    for function in (same, two, equal):
        before = len(origin.calls)
        function(1), function(x=1)
        assert len(origin.calls) == before + 1
        function.invalidate(1)
        function(1)
        assert len(origin.calls) == before + 2
        function.clear()
        function(1)
        assert len(origin.calls) == before + 3


def test_other_decorators_between_keep_the_signature(manager, origin):
    def loud(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return function(*args, **kwargs).upper()

        return wrapper

    @cached(key="user:{user_id}")
    @loud
    def get(user_id, *, lang="en"):
        return origin(user_id, lang)

    assert [get(1), get(user_id=1), get("1")] == ["VALUE 1"] * 3
    with pytest.raises(TypeError, match=r"get\(\) missing 1 required positional argument: 'user_id'"):
        get()
    with pytest.raises(TypeError, match="unexpected keyword argument 'x'"):
        get(1, x=1)


def test_every_kind_of_parameter_reaches_the_function(manager):
    @cached
    def every(a, /, b, c=3, *rest, d, e=5, **more):
        return (a, b, c, rest, d, e, more)

    assert every(1, 2, d=4) == (1, 2, 3, (), 4, 5, {})
    assert every(1, b=2, d=4, f=6, a=7) == (1, 2, 3, (), 4, 5, {"f": 6, "a": 7})
    assert every(1, 2, 33, 44, d=4, e=55) == (1, 2, 33, (44,), 4, 55, {})
    assert every.stats().loads == 3

    @cached(key="by-name")
    def by_name(*, x, y=2):
        return x + y

    assert by_name(x=1) == 3


def test_recursion_over_other_keys_works_and_over_the_same_key_is_a_cycle(manager):
    @cached
    def fibonacci(n):
        return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

    assert fibonacci(12) == 144
    assert fibonacci.stats().loads == 13

    @cached(key="loop")
    def loop():
        return loop()

    with pytest.raises(LoadCycle):
        loop()


def test_threads_share_one_load(manager):
    entered, started, go = threading.Barrier(9), threading.Event(), threading.Event()
    calls, answers = [], []

    @cached(key="slow")
    def slow():
        calls.append(1)
        started.set()
        go.wait(10)
        return "done"

    def ask():
        entered.wait(10)
        answers.append(slow())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    entered.wait(10)
    assert started.wait(10)
    go.set()
    for thread in threads:
        thread.join(10)
    assert (calls, answers) == ([1], ["done"] * 8)
    assert (slow.stats().misses, slow.stats().loads) == (1, 1)


def add(a, b):
    return a + b


def generator():
    yield 1


async def async_generator():
    yield 1


@pytest.mark.parametrize("function", [generator, async_generator, functools.partial(generator)])
@pytest.mark.parametrize("decorator", [cached, cached(ttl=1), memoize, memoize(), stampede_protect()])
def test_generators_are_refused(decorator, function):
    with pytest.raises(TypeError, match="is a generator function"):
        decorator(function)


def test_a_function_that_returns_a_generator_is_refused_at_the_call(manager):
    with pytest.raises(TypeError, match="returned a generator"):
        cached(key="g")(lambda: (i for i in ()))()


async def coroutine():
    return 1


def test_a_function_that_returns_a_coroutine_is_refused_at_the_call(manager):
    @cached(key="c")
    def sync():
        return coroutine()

    @cached(key="a")
    async def unawaited():
        return coroutine()

    with pytest.raises(TypeError, match=r"sync returned a coroutine, .*; decorate the async function"):
        sync()
    with pytest.raises(TypeError, match="unawaited returned a coroutine"):
        asyncio.run(unawaited())


@pytest.mark.parametrize(
    "name", ["cached", "async_cached", "cache_aside", "write_through", "stampede_protect", "memoize"]
)
def test_an_unknown_keyword_names_the_nearest(manager, name):
    for decorator in (getattr(tiercast, name), getattr(manager, name)):
        with pytest.raises(
            TypeError, match=rf"{name}\(\) got an unexpected keyword argument 'ttl_seconds'; did you mean 'ttl'"
        ):
            decorator(ttl_seconds=60)
        assert "ttl" in inspect.signature(decorator).parameters


def test_what_is_no_function_is_refused(manager):
    class Thing: ...

    with pytest.raises(TypeError, match="is a class"):
        cached(key="x")(Thing)
    with pytest.raises(TypeError, match="only functions"):
        cached(key="x")(3)
    with pytest.raises(TypeError, match="no name of its own"):
        cached()(functools.partial(add, 1))
    assert cached(key="{b}")(functools.partial(add, 1))(2) == 3
    with pytest.raises(TypeError, match="no signature"):
        cached(max)
    with pytest.raises(TypeError, match="for async functions"):
        async_cached(lambda: None)


@pytest.mark.parametrize(
    ("ttl", "error"), [(0, ValueError), (-1, ValueError), ("60", TypeError), (float("nan"), ValueError)]
)
def test_a_ttl_that_cannot_be_is_refused_when_the_decorator_runs(ttl, error):
    with pytest.raises(error, match="ttl"):
        cached(ttl=ttl)


def test_a_key_function_gets_the_arguments_in_one_form(manager):
    seen = []

    @cached(key=lambda *args, **kwargs: seen.append((args, kwargs)) or "k")
    def get(a, b=2, *, c=3):
        return 1

    get(1), get(a=1, b=2), get(1, c=3)
    assert seen == [((1, 2), {"c": 3})] * 3
    with pytest.raises(TypeError, match="a key is a str"):
        cached(key=lambda: 3)(lambda: None)()


def test_the_process_manager_is_asked_for_again_after_a_reset(manager, origin):
    @cached(key="k")
    def get():
        return origin("k")

    assert [get(), get()] == ["value 1", "value 1"]
    CacheManager.reset_instance()
    assert [get(), get()] == ["value 2", "value 2"]
    assert CacheManager.get_instance().get("k") == "value 2"


def test_a_function_may_be_bound_to_a_manager_of_its_own(manager, origin):
    with CacheManager(manager.config) as own:

        @cached(key="k", manager=own)
        def get():
            return origin("k")

        assert [get(), get()] == ["value 1", "value 1"]
        assert own.get("k") == "value 1"
        assert manager.get("k") is None
        CacheManager.reset_instance()
        assert get() == "value 1"


def test_the_decorators_are_methods_of_a_manager_too(manager, origin):
    """Bound to it; mixed into a bare class here as it is into the manager."""

    class Mixed(DecoratorMethods):
        def _decorating(self):
            return own

    def load():
        return origin()

    with CacheManager(manager.config) as own:
        mixed = Mixed()
        functions = [
            mixed.cached(load),
            mixed.cached(key="a")(load),
            mixed.cache_aside("b", 60)(load),
            mixed.stampede_protect("c", 60, 30)(load),
            mixed.memoize(60, "d")(load),
            mixed.memoize(load),
        ]
        for function in functions:
            assert function() == function()
        assert len(origin.calls) == len(functions)
        assert mixed.write_through("a")(lambda: "written")() == own.get("a") == "written"
        assert manager.stats()["current_size"] == 0
        with pytest.raises(TypeError, match="for async functions"):
            mixed.async_cached(lambda: None)


def test_a_function_follows_the_manager_that_was_set(manager, origin):
    @cached(key="k")
    def get():
        return origin()

    get()
    with CacheManager(manager.config) as other:
        CacheManager.set_instance(other)
        unbind()
        assert [get(), get()] == ["value 2", "value 2"]
        assert other.get("k") == "value 2"
        CacheManager.set_instance(manager)
        unbind()
        assert get() == "value 1"


def test_hits_go_on_where_the_log_has_a_new_head(manager, origin, monkeypatch):
    """The disk log's mapped head is another object once its file was replaced."""

    @cached(key="k")
    def get():
        return origin()

    get()
    region = manager.current_region()
    old, region.heads = region.heads, list(region.heads)
    old[0] = -2
    get()
    monkeypatch.setattr(type(manager), "get_or_set", None)
    assert get() == "value 1"


def test_a_region_with_another_policy_is_told_of_hits(origin):
    CacheManager.reset_instance()
    config = CacheConfig(name="decorators", local=LocalCacheConfig(policy="s3fifo"), regions={"plain": {}})
    manager = CacheManager.get_instance(config)

    @cached(key="k")
    def get():
        return origin()

    assert [get() for _ in range(4)] == ["value 1"] * 4
    entry = manager.current_region().memory.get("k")
    assert entry.visits > 0
    assert manager.stats()["hits"] == 3
    CacheManager.reset_instance()


def test_values_are_copied_where_the_region_copies(origin):
    CacheManager.reset_instance()
    CacheManager.get_instance(CacheConfig(name="decorators", local=LocalCacheConfig(copy_on_read=True)))

    @cached(key="k")
    def get():
        return [origin()]

    get().append("mutated")
    assert get() == ["value 1"]
    CacheManager.reset_instance()


def test_a_sync_function_works_inside_a_loop(manager, origin):
    get = cached(key="k:{0}")(origin.__call__)

    async def main():
        return [get(1), get(1)]

    assert asyncio.run(main()) == ["value 1"] * 2
