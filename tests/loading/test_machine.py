"""Loading against a small model: hits, misses, stale values, loads that succeed, fail, take long and are cancelled."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, precondition, rule

from tiercast import CacheConfig, CacheManager
from tiercast.testing import FakeClock

TTL, GRACE, FIRST, LONGEST = 10.0, 20.0, 1.0, 8.0
KEYS = ["a", "b"]


class OriginDown(Exception):
    """What a failing load raises."""


@dataclass
class Entry:
    value: int
    expires: float
    soft: bool = False

    @property
    def keep(self) -> float:
        return self.expires + GRACE


@dataclass
class Load:
    """A load on its way: what it will answer, and what was known when it began."""

    value: int
    hard: int
    soft: int
    spare: Entry | None
    behind: bool
    waiting: list[Reader] = field(default_factory=list)
    """Those who ask for its outcome; the first leads, unless it runs behind."""
    sure: int = 0
    """How many of them asked before it began: for these its outcome is good whatever came meanwhile."""


@dataclass(eq=False)
class Reader:
    """One call of `get_or_set_async`, and what the model says of it."""

    task: asyncio.Task[Any]
    expected: Any = None
    done: bool = False


@dataclass
class Key:
    """What the model knows of a key. `hard` and `soft` count its invalidations; `version` is the origin's value."""

    version: int = 1
    hard: int = 0
    soft: int = 0
    entry: Entry | None = None
    load: Load | None = None
    pause: tuple[float, float] = (0.0, 0.0)


class Loading(RuleBasedStateMachine):
    """The cache beside the model. Values are the origin's version at the beginning of the load."""

    readers = Bundle("readers")

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.cache = CacheManager(
            CacheConfig(ttl=TTL, grace=GRACE, retry_backoff=(FIRST, LONGEST), lock_ttl=1e6), clock=self.clock
        )
        self.loop = asyncio.new_event_loop()
        self.keys = {name: Key() for name in KEYS}
        self.running: dict[str, list[tuple[int, asyncio.Future[None]]]] = {name: [] for name in KEYS}
        self.all: list[Reader] = []

    # -- driving ------------------------------------------------------------------------------

    def pump(self) -> None:
        """Let every task go on until all wait."""

        async def turns() -> None:
            for _ in range(40):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())

    def run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)

    async def loader(self, name: str) -> int:
        version, future = self.keys[name].version, self.loop.create_future()
        self.running[name].append((version, future))
        try:
            await future
        finally:
            self.running[name].remove((version, future))
        return version

    # -- the model ------------------------------------------------------------------------------

    def standing(self, key: Key) -> Entry | None:
        """The entry that is there now, fresh or not."""
        if key.entry is not None and self.clock.monotonic() >= key.entry.keep:
            key.entry = None
        return key.entry

    def fresh(self, entry: Entry | None) -> bool:
        return entry is not None and not entry.soft and self.clock.monotonic() < entry.expires

    def begin(self, key: Key, readers: list[Reader], *, behind: bool = False) -> None:
        key.load = Load(key.version, key.hard, key.soft, self.standing(key), behind, readers, len(readers))

    def again(self, key: Key, readers: list[Reader]) -> None:
        """Readers whose flight was of no use get what was set meanwhile, or load once more, together."""
        entry = self.standing(key)
        if not readers or entry is None or not (entry.soft or self.fresh(entry)):
            if readers:
                self.begin(key, readers)
            return
        for reader in readers:
            self.answer(reader, entry.value)
        if not self.fresh(entry) and self.clock.monotonic() >= key.pause[0]:
            self.begin(key, [], behind=True)

    def answer(self, reader: Reader, value: Any) -> None:
        reader.expected, reader.done = value, True

    # -- what happens -----------------------------------------------------------------------------

    @rule(target=readers, name=st.sampled_from(KEYS))
    def read(self, name: str) -> Any:
        """Hit, miss or stale."""
        key = self.keys[name]
        reader = Reader(self.loop.create_task(self.cache.get_or_set_async(name, partial(self.loader, name))))
        reader.task.add_done_callback(lambda task: task.cancelled() or task.exception())
        self.all.append(reader)
        entry = self.standing(key)
        if entry is not None and (self.fresh(entry) or self.clock.monotonic() < key.pause[0]):
            self.answer(reader, entry.value)
        elif entry is not None and entry.soft:
            self.answer(reader, entry.value)
            if key.load is None:
                self.begin(key, [], behind=True)
        elif key.load is not None:
            key.load.waiting.append(reader)
        else:
            self.begin(key, [reader])
        self.pump()
        return multiple() if reader.done else reader

    @precondition(lambda self: any(key.load for key in self.keys.values()))
    @rule(data=st.data(), ok=st.booleans())
    def end_a_load(self, data: st.DataObject, ok: bool) -> None:
        """A load, quick or slow, succeeds or fails."""
        name = data.draw(st.sampled_from([name for name, key in self.keys.items() if key.load]))
        key = self.keys[name]
        load, key.load = key.load, None
        assert load is not None
        ((version, future),) = self.running[name]
        assert version == load.value
        if ok:
            future.set_result(None)
            self._succeeded(key, load)
        else:
            future.set_exception(OriginDown(name))
            self._failed(key, load)
        self.pump()

    def _succeeded(self, key: Key, load: Load) -> None:
        alive = load.hard == key.hard
        if alive:
            key.entry = Entry(load.value, self.clock.monotonic() + TTL, soft=load.soft != key.soft)
        key.pause = (0.0, 0.0)
        served = len(load.waiting) if alive else load.sure
        for reader in load.waiting[:served]:
            self.answer(reader, load.value)
        self.again(key, load.waiting[served:])

    def _failed(self, key: Key, load: Load) -> None:
        spare = load.spare
        servable = spare is not None and load.hard == key.hard and self.clock.monotonic() < spare.keep
        if servable:
            pause = min(max(FIRST, key.pause[1] * 2), LONGEST)
            key.pause = (self.clock.monotonic() + pause, pause)
        for reader in load.waiting:
            self.answer(reader, spare.value if servable and spare is not None else OriginDown)

    @rule(reader=consumes(readers))
    def cancel(self, reader: Reader) -> None:
        """A caller gives up; where it led, one of those who wait leads."""
        if reader.done:
            return
        reader.task.cancel()
        self.answer(reader, asyncio.CancelledError)
        for key in self.keys.values():
            load = key.load
            if load is not None and reader in load.waiting:
                place = load.waiting.index(reader)
                load.waiting.remove(reader)
                load.sure -= place < load.sure
                if place == 0 and not load.behind:
                    key.load = None
                    self.again(key, load.waiting)
        self.pump()

    @rule(name=st.sampled_from(KEYS))
    def write(self, name: str) -> None:
        """The origin changes, and the key is invalidated."""
        key = self.keys[name]
        key.version += 1
        self.run(self.cache.invalidate_keys_async([name]))
        key.hard += 1
        key.entry = None

    @rule(name=st.sampled_from(KEYS))
    def put(self, name: str) -> None:
        """The origin changes, and the new value is set."""
        key = self.keys[name]
        key.version += 1
        self.run(self.cache.set_async(name, key.version))
        key.hard += 1
        key.entry = Entry(key.version, self.clock.monotonic() + TTL)

    @rule(name=st.sampled_from(KEYS))
    def mark(self, name: str) -> None:
        """The origin changes, and the key is marked stale."""
        key = self.keys[name]
        key.version += 1
        self.run(self.cache.invalidate_keys_async([name], soft=True))
        key.soft += 1
        if key.entry is not None:
            key.entry.soft = True

    @rule(seconds=st.sampled_from([0.5, 1.0, 4.0, 9.0, 15.0]))
    def expire(self, seconds: float) -> None:
        """Time passes."""
        self.clock.advance(seconds)

    @rule(name=st.sampled_from(KEYS))
    def get(self, name: str) -> None:
        """`get` answers what is fresh, and nothing else."""
        entry = self.standing(self.keys[name])
        expected = entry.value if entry is not None and self.fresh(entry) else None
        assert self.run(self.cache.get_async(name)) == expected

    # -- what always holds --------------------------------------------------------------------------

    @invariant()
    def answers_are_the_model_s(self) -> None:
        for reader in self.all:
            assert reader.task.done() == reader.done
            if not reader.done:
                continue
            if reader.task.cancelled():
                assert reader.expected is asyncio.CancelledError
            elif reader.task.exception() is not None:
                assert type(reader.task.exception()) is reader.expected
            else:
                assert reader.task.result() == reader.expected
        self.all = [reader for reader in self.all if not reader.done]

    @invariant()
    def one_load_per_key(self) -> None:
        """A loader runs exactly where the model says so, once."""
        for name, key in self.keys.items():
            assert [version for version, _ in self.running[name]] == ([key.load.value] if key.load else [])

    @invariant()
    def what_is_held_fits_together(self) -> None:
        runtime = self.cache._runtime
        assert runtime.default.memory is not None
        runtime.default.memory.check()
        assert len(runtime.flights) == sum(key.load is not None for key in self.keys.values())
        assert runtime.default.slots.free == 64 - len(runtime.flights)

    def teardown(self) -> None:
        async def end() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.cache.close_async()
            await asyncio.get_running_loop().shutdown_default_executor()

        self.loop.run_until_complete(end())
        self.loop.close()


TestLoading = Loading.TestCase
TestLoading.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
