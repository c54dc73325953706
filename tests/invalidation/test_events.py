"""Events: what they invalidate, whom they tell, and how they travel."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from partner import Partner
from servers import RedisServer, wait_until
from stacks import STACKS, Async, Sync, config_of
from tiercast import (
    BarrierTimeout,
    CacheConfig,
    CacheManager,
    CoherenceConfig,
    EventBasedInvalidation,
    InvalidationError,
    PatternBasedInvalidation,
    ScopeConfig,
    ScopeError,
    ScopeLevel,
)
from tiercast.invalidation.travelling import DomainEvent, decode_event, encode_event

RULES = [
    EventBasedInvalidation(
        {
            "user.updated": ["user:{id}", "user:{id}:*", "tag:user:{id}"],
            "user.moved": ["scope:organization:{org}"],
            "price.changed": "tag:prices",
        }
    ),
    PatternBasedInvalidation({"user": ["user:{id}", "user:{id}:*"]}),
]
SCOPES = ScopeConfig([ScopeLevel("organization", "org_id", [ScopeLevel("user", "user_id")])])
PAGE = (Path(__file__).parents[2] / "docs" / "events.md").read_text(encoding="utf-8")


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Iterator[Sync | Async]:
    call = Sync() if request.param == "sync" else Async()
    yield call
    call.close()


@pytest.fixture(params=STACKS)
def cache(request: pytest.FixtureRequest, call: Sync, tmp_path: Path) -> Iterator[CacheManager]:
    url = request.getfixturevalue("redis_url") if "redis" in request.param else None
    config = config_of(
        request.param, tmp_path / "cache", url, invalidation=RULES, scopes=SCOPES, regions={"second": {}}
    )
    cache = CacheManager(config)
    yield cache
    call(cache.close)


@pytest.fixture
def alone() -> Iterator[CacheManager]:
    """A manager of memory alone."""
    with CacheManager(CacheConfig(invalidation=RULES, scopes=SCOPES)) as cache:
        yield cache


# What they invalidate


def test_an_event_invalidates_what_the_strategies_say(cache: CacheManager, call: Sync) -> None:
    """Keys, patterns and tags, in every region unless one is named; nothing else."""
    keys = ["user:7", "user:7:posts", "user:77", "card:7"]
    for region in ("default", "second"):
        call(cache.multi_set, dict.fromkeys(keys, 1), region=region)
    call(cache.set, "page", 1, tags=["user:7"])
    result = call(cache.handle_event, "user.updated", {"id": 7})
    assert result.delivered
    for region in ("default", "second"):
        assert {"user:77": 1, "card:7": 1} == call(cache.multi_get, keys, region=region)
    assert call(cache.get, "page") is None
    call(cache.multi_set, dict.fromkeys(keys, 2), region="second")
    call(cache.multi_set, dict.fromkeys(keys, 2))
    call(cache.invalidate_entity, "user", 7, region="second")
    assert set(keys) == set(call(cache.multi_get, keys))
    assert {"user:77", "card:7"} == set(call(cache.multi_get, keys, region="second"))


def test_an_event_of_a_scope_reaches_all_below_it(cache: CacheManager, call: Sync) -> None:
    """A scope target kills the scope and what lies below, and no neighbour."""
    for org, user in (("1", "a"), ("1", "b"), ("12", "a")):
        call(cache.set, "k", org, scope="user", org_id=org, user_id=user)
    call(cache.handle_event, "user.moved", {"org": "1"})
    found = [
        call(cache.get, "k", scope="user", org_id=org, user_id=user)
        for org, user in (("1", "a"), ("1", "b"), ("12", "a"))
    ]
    assert [None, None, "12"] == found


def test_an_id_that_looks_like_a_glob_is_only_an_id(cache: CacheManager, call: Sync) -> None:
    """The event of user "*" reaches no other user."""
    call(cache.multi_set, {"user:*": 1, "user:1": 1, "user:*:posts": 1, "user:1:posts": 1})
    call(cache.handle_event, "user.updated", {"id": "*"})
    assert {"user:1", "user:1:posts"} == set(
        call(cache.multi_get, ["user:*", "user:1", "user:*:posts", "user:1:posts"])
    )


@pytest.mark.parametrize("way", ["event", "entity"])
@pytest.mark.parametrize("user", ["ada@example.org", "New York", "a:b", "a/b", "*", "50%", "é", "#1"])
def test_an_event_reaches_what_decorated_functions_stored(alone: CacheManager, user: str, way: str) -> None:
    """Their templates encode what is odd in an argument; a target means that key as well as the one written by hand."""

    @alone.cached(key="user:{user_id}")
    def get_user(user_id: str) -> str:
        return user_id

    @alone.cached(key="user:{user_id}:posts")
    def posts(user_id: str) -> str:
        return user_id

    mine, others = ({get_user.cache_key(each), posts.cache_key(each)} for each in (user, "another"))
    by_hand = {f"user:{user}", f"user:{user}:cart"}
    assert [function(each) for function in (get_user, posts) for each in (user, "another")] == [user, "another"] * 2
    alone.multi_set(dict.fromkeys(by_hand, 1))
    if way == "event":
        alone.handle_event("user.updated", {"id": user})
    else:
        alone.invalidate_entity("user", user)
    assert others == set(alone.multi_get(mine | others | by_hand))


def test_an_event_reaches_the_tags_of_decorated_functions(alone: CacheManager) -> None:
    """Their templates encode as those of keys do."""

    @alone.cached(key="page of {user_id}", tags=("user:{user_id}",))
    def page(user_id: str) -> str:
        return user_id

    page("ada@example.org")
    alone.set("by hand", 1, tags=["user:ada@example.org"])
    alone.handle_event("user.updated", {"id": "ada@example.org"})
    assert {} == alone.multi_get([page.cache_key("ada@example.org"), "by hand"])


def test_an_unknown_event_is_ignored_and_counted(alone: CacheManager) -> None:
    """It appends nothing, raises nothing, and the strategy that did not know it counts it."""
    before, position = RULES[0].ignored.value, alone.position()
    assert alone.handle_event("weather.changed", {}, count=True).removed == 0
    assert alone.position() == position
    assert RULES[0].ignored.value == before + 1


def test_all_of_an_event_is_one_batch(alone: CacheManager) -> None:
    """Its records take consecutive positions in one append; so do those of a thousand tags."""
    alone.get("x")
    counters = alone._runtime.coherence.counters
    for invalidate in (
        lambda: alone.handle_event("user.updated", {"id": "a/b"}),
        lambda: alone.invalidate_tags([f"tag {number}" for number in range(1_000)]),
    ):
        appends = counters.appends.value
        invalidate()
        assert counters.appends.value == appends + 1


def test_a_view_handles_an_event_inside_its_scope_only(alone: CacheManager) -> None:
    """Keys, patterns and tags mean the view's; a scope outside of it is refused."""
    one, other = alone.scoped("user", org_id="1", user_id="1"), alone.scoped("user", org_id="1", user_id="2")
    for place in (one, other, alone):
        place.set("user:7", 1, tags=["user:7"])
    one.handle_event("user.updated", {"id": 7})
    assert [None, 1, 1] == [place.get("user:7") for place in (one, other, alone)]
    with pytest.raises(ScopeError, match="outside"):
        one.handle_event("user.moved", {"org": "1"})
    assert other.get("user:7") == 1


def test_scope_parameters_confine_an_event_as_a_view_does(cache: CacheManager, call: Sync) -> None:
    """Events and entities take scope parameters like every operation."""
    places: list[dict[str, Any]] = [{"org_id": "1", "user_id": "1"}, {"org_id": "1", "user_id": "2"}, {}]
    for invalidate, subject in (
        (cache.handle_event, ("user.updated", {"id": 7})),
        (cache.invalidate_entity, ("user", 7)),
    ):
        for place in places:
            call(cache.set, "user:7", 1, tags=["user:7"], **place)
        call(invalidate, *subject, scope="user", org_id="1", user_id="1")
        assert [None, 1, 1] == [call(cache.get, "user:7", **place) for place in places]
    with pytest.raises(ScopeError, match="outside"):
        call(cache.handle_event, "user.moved", {"org": "1"}, scope="user", org_id="1", user_id="1")


# Handlers of this process


def test_handlers_are_told_after_the_invalidation(cache: CacheManager, call: Sync) -> None:
    """As a decorator or by a plain call, for a name or a glob, sync or async; each finds the entry gone."""
    told: list[tuple[Any, ...]] = []
    done = threading.Event()

    @cache.on("user.updated")
    def first(event: str, payload: Any) -> None:
        told.append(("sync", event, payload["id"], cache.get("user:7")))

    async def second(event: str, payload: Any) -> None:
        told.append(("async", event, payload["id"], await cache.get_async("user:7")))
        done.set()

    assert cache.on("user.*", second) is second
    cache.on("price.*", first)
    call(cache.set, "user:7", 1)
    call(cache.handle_event, "user.updated", {"id": "7"})
    assert done.wait(10.0)
    assert [("async", "user.updated", "7", None), ("sync", "user.updated", "7", None)] == sorted(told)
    cache.events.off(first)
    call(cache.handle_event, "user.updated", {"id": "8"})
    wait_until(lambda: len(told) == 3, 10.0, "the async handler")
    assert told[2][:3] == ("async", "user.updated", "8")


def test_what_a_handler_raises_is_its_own_affair(
    cache: CacheManager, call: Sync, caplog: pytest.LogCaptureFixture
) -> None:
    """It is counted and logged; the invalidation stands, and the other handlers are told."""
    told: list[str] = []

    @cache.on("price.changed")
    def breaks(event: str, payload: Any) -> None:
        raise LookupError("broken")

    @cache.on("price.changed")
    async def breaks_too(event: str, payload: Any) -> None:
        raise LookupError("broken as well")

    cache.on("price.changed", lambda event, payload: told.append(event))
    call(cache.set, "page", 1, tags=["prices"])
    assert call(cache.handle_event, "price.changed").delivered
    assert call(cache.get, "page") is None
    assert told == ["price.changed"]
    wait_until(lambda: cache.events.failed.value == 2, 10.0, "both to have failed")
    assert "breaks" in caplog.text
    assert "price.changed" in caplog.text


def test_handlers_are_told_of_what_no_strategy_knows(alone: CacheManager) -> None:
    """A handler may be all that an event has."""
    told: list[Any] = []
    alone.on("*", lambda event, payload: told.append((event, payload)))
    alone.handle_event("weather.changed", {"to": "rain"})
    alone.handle_event("tick")
    assert told == [("weather.changed", {"to": "rain"}), ("tick", {})]


def test_an_event_that_cannot_be_rendered_tells_nobody(alone: CacheManager) -> None:
    """InvalidationError before anything happened."""
    told: list[str] = []
    alone.on("*", lambda event, payload: told.append(event))
    alone.set("user:7", 1)
    with pytest.raises(InvalidationError, match="'id'"):
        alone.handle_event("user.updated", {})
    with pytest.raises(InvalidationError, match="JSON"):
        alone.handle_event("user.updated", {"id": "7", "by": object()}, broadcast=True)
    with pytest.raises(InvalidationError, match=r"tiercast\."):
        alone.handle_event("tiercast.purged", {}, broadcast=True)
    assert told == []
    assert alone.get("user:7") == 1


def test_a_barrier_that_fails_does_not_silence_the_handlers(
    alone: CacheManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record stands; the handlers are told, then the error is raised."""
    told: list[str] = []
    alone.on("price.changed", lambda event, payload: told.append(event))

    def late(*_: Any) -> Iterator[Any]:
        raise BarrierTimeout("late", missing=["somebody"])
        yield

    monkeypatch.setattr(alone._runtime.coherence, "barrier", late)
    with pytest.raises(BarrierTimeout):
        alone.handle_event("price.changed", {}, barrier=0.1)
    assert told == ["price.changed"]


@pytest.mark.parametrize("wrong", [("", print), (None, print), (3, print)])
def test_a_hook_needs_a_name(alone: CacheManager, wrong: tuple[Any, Any]) -> None:
    """No name, no hook; and no handler that cannot be called."""
    for register in (alone.on, alone.events.subscribe):
        with pytest.raises((TypeError, ValueError), match="event"):
            register(*wrong)
        with pytest.raises(TypeError, match="callable"):
            register("name", 42)
    with pytest.raises((TypeError, ValueError), match="event"):
        alone.on(wrong[0])


def test_an_async_handler_runs_in_the_loop_it_was_registered_in() -> None:
    """Also where the event is handled by a sync call of another thread: what it holds belongs to that loop."""

    async def scenario() -> None:
        loops: list[Any] = []
        told = asyncio.Event()
        with CacheManager(CacheConfig()) as cache:

            @cache.on("e")
            async def handler(event: str, payload: Any) -> None:
                loops.append(asyncio.get_running_loop())
                told.set()

            await asyncio.to_thread(cache.handle_event, "e", {})
            await asyncio.wait_for(told.wait(), 10.0)
            told.clear()
            cache.handle_event("e", {})  # sync, on the loop's own thread: not waited for, and no deadlock
            await asyncio.wait_for(told.wait(), 10.0)
            assert loops == [asyncio.get_running_loop()] * 2
            cache.handle_event("e", {})
            await asyncio.sleep(0)

    asyncio.run(scenario())


def test_a_sync_handler_does_not_hold_up_the_loop() -> None:
    """It runs in a worker thread."""

    async def scenario() -> None:
        threads: list[int] = []
        async with CacheManager(CacheConfig()) as cache:
            cache.on("e", lambda event, payload: threads.append(threading.get_ident()))
            await cache.handle_event_async("e", {})
        assert threads
        assert threads[0] != threading.get_ident()

    asyncio.run(scenario())


# Events that travel


@pytest.fixture
def fleet(redis_url: str, tmp_path: Path) -> Iterator[tuple[CacheManager, Partner]]:
    more: dict[str, Any] = {
        "invalidation": RULES,
        "scopes": SCOPES,
        "name": "shop",
        "coherence": CoherenceConfig(heartbeat=0.1),
    }
    config = config_of("memory+redis", tmp_path / "cache", redis_url, **more)
    with CacheManager(config) as cache, Partner("memory+redis", tmp_path / "cache", redis_url, **more) as partner:
        cache.coherence.start(20.0)
        partner.do("call", "settled")
        yield cache, partner


def heard(partner: Partner, number: int) -> list[Any]:
    wait_until(lambda: len(partner.do("call", "heard")) >= number, 10.0, f"{number} events")
    return partner.do("call", "heard")  # type: ignore[no-any-return]


@pytest.mark.parametrize("how", ["on", "subscribe"])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_broadcast_reaches_the_handlers_of_other_processes(
    fleet: tuple[CacheManager, Partner], how: str, kind: str
) -> None:
    """Handlers of `on` and of `subscribe` alike, in order, and only where `broadcast` is asked for."""
    cache, partner = fleet
    own: list[str] = []
    cache.on("user.*", lambda event, payload: own.append(event))
    cache.events.subscribe("user.*", lambda event, payload: own.append("arrived"))
    partner.do("call", "hear", "user.*", how)
    call = Sync() if kind == "sync" else Async()
    call(cache.handle_event, "user.updated", {"id": "quiet"})
    for number in range(20):
        call(cache.handle_event, "user.updated", {"id": UUID(int=number)}, broadcast=True)
    call.close()
    expected = [("user.updated", {"id": str(UUID(int=number))}) for number in range(20)]
    assert expected == heard(partner, 20)
    assert own == ["user.updated"] * 21  # one's own message is not heard again


def test_a_service_that_only_emits_events_invalidates(fleet: tuple[CacheManager, Partner]) -> None:
    """One process hands what arrives to handle_event; the entry dies in every process, and its own hooks are told once."""
    cache, partner = fleet
    partner.do("call", "hear", "user.*", "on")
    partner.do("call", "hear", "user.*", "handle")
    cache.set("user:7", "old", barrier=10.0)
    assert partner.do("sync", "get", "user:7") == "old"
    connections: Any = cache._runtime.connections
    message = b'{"event": "user.updated", "payload": {"id": "7"}}'
    connections.execute([("PUBLISH", "tiercast:{shop}:bus", message)])
    wait_until(lambda: cache.get("user:7") is None, 10.0, "the event to be handled")
    assert [("user.updated", {"id": "7"})] == heard(partner, 1)


@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="no redis-cli is at hand")
def test_the_documented_redis_cli_line_publishes_an_event(
    fleet: tuple[CacheManager, Partner], redis_server: RedisServer
) -> None:
    """What docs/events.md tells an operator to type arrives."""
    cache, _ = fleet
    (line,) = re.findall(r"<!-- tested: tests/invalidation/test_events\.py -->\n```sh\n(.*?)```", PAGE, re.DOTALL)
    told: list[Any] = []
    arrived = threading.Event()

    def handler(event: str, payload: Any) -> None:
        told.append((event, dict(payload)))
        arrived.set()

    cache.events.subscribe("user.*", handler)
    done = subprocess.run(
        ["sh", "-euc", line], env={"PATH": "/usr/bin:/bin", "REDIS_URL": redis_server.url}, capture_output=True,
        text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert arrived.wait(10.0)
    assert told == [("user.updated", {"id": "123"})]


def test_strange_messages_move_nothing(fleet: tuple[CacheManager, Partner]) -> None:
    """What is neither record nor event is counted as malformed, an event as none; memory goes on being served."""
    cache, _ = fleet
    cache.set("k", 1)
    connections: Any = cache._runtime.connections
    malformed = cache._runtime.coherence.counters.malformed
    before, position = malformed.value, cache.position()
    for message in (
        b"{}",
        b"[]",
        b'{"event":3}',
        b'{"event":""}',
        b'{"v":2,"event":"e"}',
        b'{"event":"e","payload":[1]}',
    ):
        connections.execute([("PUBLISH", "tiercast:{shop}:bus", message)])
    for message in (b'{"event":"e"}', b'{"event":"tiercast.unknown"}', b'{"event":"e","payload":null,"more":1}'):
        connections.execute([("PUBLISH", "tiercast:{shop}:bus", message)])
    wait_until(lambda: cache.events.heard.value == 2, 10.0, "the events")
    assert malformed.value == before + 6
    assert cache.position() == position
    assert cache.get("k") == 1


def test_a_handler_that_broadcasts_the_event_again_starts_no_avalanche(fleet: tuple[CacheManager, Partner]) -> None:
    """What is handled because it arrived is not sent on, though its handler asks for that."""
    cache, partner = fleet
    partner.do("call", "hear", "price.*", "on")
    cache.events.subscribe("price.*", lambda event, payload: cache.handle_event(event, payload, broadcast=True))
    connections: Any = cache._runtime.connections
    connections.execute([("PUBLISH", "tiercast:{shop}:bus", b'{"event":"price.changed"}')])
    heard(partner, 1)
    wait_until(lambda: cache.events.heard.value == 1, 10.0, "the event")
    cache.events.drain(10.0)
    assert len(partner.do("call", "heard")) == 1


def test_unsubscribing_ends_it(fleet: tuple[CacheManager, Partner]) -> None:
    """What `subscribe` returned is called, and nothing more arrives."""
    cache, _ = fleet
    told: list[str] = []
    end = cache.events.subscribe("*", lambda event, payload: told.append(event))
    connections: Any = cache._runtime.connections
    connections.execute([("PUBLISH", "tiercast:{shop}:bus", b'{"event":"one"}')])
    wait_until(lambda: told == ["one"], 10.0, "the first")
    end()
    connections.execute([("PUBLISH", "tiercast:{shop}:bus", b'{"event":"two"}')])
    wait_until(lambda: cache.events.heard.value == 2, 10.0, "the second")
    cache.events.drain(10.0)
    assert told == ["one"]


def test_without_a_bus_a_broadcast_stays_here(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Memory and disk logs have no bus: the handlers here are told, and with the disk log the log says once that it ends here."""
    for stack in ("memory", "memory+disk"):
        told: list[str] = []
        with CacheManager(config_of(stack, tmp_path / "cache", None)) as cache:
            cache.on("e", lambda event, payload, told=told: told.append(event))
            for _ in range(2):
                assert cache.handle_event("e", {}, broadcast=True).delivered
        assert told == ["e", "e"]
    assert caplog.text.count("reaches no other process") == 1


def test_while_redis_is_away_a_broadcast_is_lost_and_counted(own_redis: RedisServer, tmp_path: Path) -> None:
    """The invalidation waits in the outbox, the message does not."""
    with CacheManager(config_of("memory+redis", tmp_path, own_redis.url, invalidation=RULES, scopes=SCOPES)) as cache:
        cache.set("page", 1, tags=["prices"])
        own_redis.kill()
        result = cache.handle_event("price.changed", {}, broadcast=True)
        assert result.delivered is False
        assert cache.get("page") is None
        assert cache.events.lost.value == 1


# On the wire


@pytest.mark.parametrize(
    "event", [DomainEvent("a", {"b": [1, None, "ü"]}, "me"), DomainEvent("ünï.cödé"), DomainEvent("tiercast.purged")]
)
def test_an_event_survives_the_wire(event: DomainEvent) -> None:
    """What is sent is what arrives."""
    assert decode_event(encode_event(event)) == event


def test_the_wire_is_bounded() -> None:
    """An event of more than 64 KiB is refused by who sends, and passed over by who hears."""
    with pytest.raises(InvalidationError, match="bytes"):
        encode_event(DomainEvent("e", {"x": "y" * 70_000}))
    assert decode_event(b'{"event":"e","payload":{"x":"%b"}}' % (b"y" * 70_000)) is None
    assert decode_event(b"[" * 60_000) is None
    assert decode_event(b"\xff\xfe") is None
