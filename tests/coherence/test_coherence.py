"""The engine by itself, over a log whose answers are held back: who asks, who waits, and what is given up."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from servers import wait_until
from stacks import patient
from tiercast import CacheConfig, CacheManager, CoherenceConfig
from tiercast.clock import SystemClock
from tiercast.coherence.coherence import Coherence
from tiercast.coherence.ledger import Ledger
from tiercast.coherence.log import Beat, LogUnavailable, Pulse
from tiercast.coherence.memory_log import MemoryLog
from tiercast.coherence.notices import question
from tiercast.coherence.outbox import MemoryOutbox
from tiercast.coherence.records import Draft, Kind, encode_record
from tiercast.errors import BarrierTimeout
from tiercast.plans import Blocking, Plan, drive, drive_async

LONG = CoherenceConfig(heartbeat=30.0, max_staleness=60.0)
DRAFT = Draft(Kind.TAG, "", ("t",))


class SharedLog(MemoryLog):
    """A log in memory that several processes' engines share, that counts heartbeats and can hold them back."""

    def __init__(self) -> None:
        super().__init__(clock=SystemClock())
        self.kind = "redis"
        self.beats = 0
        self.away = False
        self.gate = threading.Event()
        self.gate.set()

    def beat(self, beat: Beat) -> Plan[Pulse]:
        self.beats += 1
        yield Blocking(self.gate.wait, 20.0)
        if self.away:
            raise LogUnavailable("away")
        return (yield from super().beat(beat))

    @contextmanager
    def holding(self) -> Iterator[None]:
        self.gate.clear()
        try:
            yield
        finally:
            self.gate.set()


@pytest.fixture
def log() -> SharedLog:
    return SharedLog()


@pytest.fixture
def process(log: SharedLog) -> Callable[..., Coherence]:
    """Make a process's engine over the log."""

    def make(settings: CoherenceConfig = LONG) -> Coherence:
        return Coherence(
            log, Ledger(1000, 1000), settings, SystemClock(), MemoryOutbox(), remove=lambda removals: None,
            drop=lambda: None,
        )  # fmt: skip

    return make


def unproven(engine: Coherence) -> Coherence:
    """An engine that has started, and whose proof has run out."""
    drive(engine.beat())
    engine.ledger.proven_until = float("-inf")
    return engine


def waiting(engine: Coherence) -> int:
    together = engine._together
    signals = (together._of_threads, together._of_tasks[0] if together._of_tasks else None)
    return sum(len(signal._callbacks) for signal in signals if signal is not None)


# -- proof -----------------------------------------------------------------------------------


def test_threads_that_find_memory_unproven_ask_once_together(log: SharedLog, process: Callable[..., Coherence]) -> None:
    """Forty readers that wake together make one heartbeat, and all may serve."""
    engine = unproven(process())
    before, answers = log.beats, []
    with log.holding():
        threads = [threading.Thread(target=lambda: answers.append(drive(engine.prove()))) for _ in range(40)]
        for thread in threads:
            thread.start()
        wait_until(lambda: waiting(engine) == 39)
    for thread in threads:
        thread.join(20)
    assert (log.beats - before, answers) == (1, [True] * 40)


async def test_tasks_that_find_memory_unproven_ask_once_together(
    log: SharedLog, process: Callable[..., Coherence]
) -> None:
    """So do ten thousand tasks."""
    engine = unproven(process())
    before = log.beats
    answers = await asyncio.gather(*(drive_async(engine.prove()) for _ in range(10_000)))
    assert (log.beats - before, all(answers)) == (1, True)


def test_where_the_log_is_away_one_heartbeat_fails_for_all(log: SharedLog, process: Callable[..., Coherence]) -> None:
    """Nobody asks a second time what has just failed."""
    engine = unproven(process())
    before, answers = log.beats, []
    log.away = True
    with log.holding():
        threads = [threading.Thread(target=lambda: answers.append(drive(engine.prove()))) for _ in range(10)]
        for thread in threads:
            thread.start()
        wait_until(lambda: waiting(engine) == 9)
    for thread in threads:
        thread.join(20)
    assert (log.beats - before, answers, engine.failure) == (1, [False] * 10, "away")


async def test_a_task_that_is_cancelled_leaves_the_heartbeat_to_another(
    log: SharedLog, process: Callable[..., Coherence]
) -> None:
    """Who waited for it asks by itself."""
    engine = unproven(process())
    with log.holding():
        first = asyncio.create_task(drive_async(engine.prove()))
        await asyncio.sleep(0)
        second = asyncio.create_task(drive_async(engine.prove()))
        while waiting(engine) < 1:
            await asyncio.sleep(0.001)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
    assert await asyncio.wait_for(second, 20)
    assert engine._together._of_tasks is None


def test_a_forked_child_waits_for_nobody(log: SharedLog, process: Callable[..., Coherence]) -> None:
    """Whoever was asking at the fork is not there."""
    engine = unproven(process())
    with log.holding():
        thread = threading.Thread(target=lambda: drive(engine.prove()))
        thread.start()
        wait_until(lambda: engine._together._of_threads is not None)
        engine.forked()
        assert engine._together._of_threads is None
    thread.join(20)


def test_a_forked_child_calls_nothing_its_own_that_its_parent_loaded(process: Callable[..., Coherence]) -> None:
    """No barrier knows of it before its first heartbeat; until then it serves, unproven, what it loaded itself."""

    def loaded() -> SimpleNamespace:
        return SimpleNamespace(own=True, begun=engine.clock.monotonic())

    engine = unproven(process())
    inherited = loaded()
    assert engine.outlives_outage(inherited)
    engine.forked()
    assert not engine.outlives_outage(inherited)
    assert engine.outlives_outage(loaded())


async def test_a_thread_does_not_wait_for_a_task(log: SharedLog, process: Callable[..., Coherence]) -> None:
    """A sync call on the very thread of the loop whose task is asking would wait for ever."""
    engine = unproven(process())
    before = log.beats
    task = asyncio.create_task(drive_async(engine.prove()))
    while log.beats == before:
        await asyncio.sleep(0)
    assert drive(engine.prove()) is True
    assert log.beats - before == 2
    assert await task


def acquired(lock: Any) -> bool:
    """Whether a lock can be had within a second."""
    if not lock.acquire(timeout=1.0):
        return False
    lock.release()
    return True


def test_a_logging_handler_may_read_the_cache(log: SharedLog, process: Callable[..., Coherence]) -> None:
    """Not even in the midst of a heartbeat of the same thread does it wait for that, and no lock is held meanwhile."""
    engine = unproven(process())
    told: list[tuple[bool, bool]] = []

    class Reads(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            free: list[bool] = []
            other = threading.Thread(target=lambda: free.append(acquired(engine.ledger.lock)))
            other.start()
            other.join()
            told.append((free[0], drive(engine.prove())))

    handler = Reads()
    logger = logging.getLogger("tiercast.coherence")
    logger.addHandler(handler)
    try:
        log._forked()  # another life, for which memory is dropped with a word in the log
        reader = threading.Thread(target=lambda: told.append((True, drive(engine.prove()))), daemon=True)
        reader.start()
        reader.join(20)
    finally:
        logger.removeHandler(handler)
    assert told == [(True, True), (True, True)]


# -- what is given up, and what is not -------------------------------------------------------


class HandingOver:
    """A lock that lets something else happen just as it is given back, once it was told what."""

    def __init__(self, lock: Any) -> None:
        self.lock = lock
        self.then: Callable[[], None] | None = None

    def __enter__(self) -> None:
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()
        if self.then is not None:
            then, self.then = self.then, None
            then()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_two_threads_that_start_together_begin_anew_once(
    log: SharedLog, process: Callable[..., Coherence], moment: str
) -> None:
    """What one of them brought is followed by the other: memory is not dropped for a log that moved on meanwhile."""
    engine, other = process(), process()
    lock: Any = HandingOver(engine.ledger.lock)
    engine.ledger.lock = lock
    snapshot = log.snapshot

    def late() -> Any:
        log.snapshot = snapshot  # type: ignore[method-assign]
        found = yield from snapshot()
        if moment == "before":
            overtake()
        else:
            lock.then = overtake
        return found

    def overtake() -> None:
        """What the other thread does while this one has its snapshot in hand: start, and come to stand one behind it."""
        engine.ledger.reset(*behind)
        engine.started = True

    drive(other.append([DRAFT]))
    behind = other.position()
    drive(other.append([DRAFT]))
    log.snapshot = late  # type: ignore[method-assign]
    drive(engine.beat())
    drive(engine.catch_up())
    assert engine.position() == other.position()
    assert engine.counters.drops.value == 0


class Behind:
    """A host's store that stands behind the log, as its last process left it."""

    def __init__(self, epoch: str) -> None:
        self.at = (epoch, 0)

    def applied(self) -> tuple[str, int]:
        return self.at

    def apply(self, epoch: str, after: int, keys: Any, upto: int) -> Plan[bool]:
        self.at = (epoch, upto)
        yield Blocking(time.sleep, 0.0)
        return True


def test_who_starts_while_another_thread_begins_anew_waits_for_the_stores(
    log: SharedLog, process: Callable[..., Coherence]
) -> None:
    """Else what a disk holds since before this process would be misses, for as long as the other takes to get there."""
    drive(process().append([DRAFT]))
    engine = process()
    store = Behind(drive(log.snapshot()).head.epoch)
    engine.stores = [store]  # type: ignore[list-item]
    snapshot = log.snapshot

    def late() -> Any:
        found = yield from snapshot()
        engine._begin_anew(found, engine.clock.monotonic())  # the other thread has come thus far
        return found

    log.snapshot = late  # type: ignore[method-assign]
    assert drive(engine.prove())
    assert store.at == engine.position()
    assert engine.position()[1] == 1


def test_an_answer_that_was_overtaken_gives_nothing_up(log: SharedLog, process: Callable[..., Coherence]) -> None:
    """Asked from a place that the process has left since, the log tells nothing; it is asked once more from here."""
    engine, other = unproven(process()), unproven(process())
    drive(other.append([DRAFT]))
    late = drive(log.read(("another", 0)))
    assert late.records is None
    drive(engine._follow(late))
    assert (engine.position(), engine.counters.drops.value) == (other.position(), 0)


def test_a_log_that_no_longer_reaches_back_costs_memory(log: SharedLog, process: Callable[..., Coherence]) -> None:
    """Then, and when the epoch changes, it is dropped."""
    engine = unproven(process())
    for _ in range(3):
        drive(process().append([DRAFT]))
    log.read = lambda since: iter_none(log)  # type: ignore[assignment, method-assign]
    drive(engine._follow(drive(iter_none(log))))
    assert (engine.counters.drops.value, engine.position()[1]) == (1, 3)


def iter_none(log: SharedLog) -> Any:
    tail = yield from MemoryLog.read(log, ("another", 0))
    return tail


@pytest.mark.parametrize("met_by", ["snapshot", "append", "read"])
def test_a_new_life_of_the_log_counts_with_whoever_is_in_it(
    log: SharedLog, process: Callable[..., Coherence], met_by: str
) -> None:
    """A process is among the members before it follows a new epoch, whatever told it of that, not a heartbeat later.

    If it is cut off then, a barrier still waits for it.
    """
    engine = process() if met_by == "snapshot" else unproven(process())
    snapshot = log.snapshot

    def late() -> Any:
        log.snapshot = snapshot  # type: ignore[method-assign]
        log._forked()
        return snapshot()

    if met_by == "snapshot":  # it has registered in the life before
        log.snapshot = late  # type: ignore[method-assign]
    else:
        log._forked()
    drive(engine.catch_up() if met_by == "read" else engine.append([DRAFT]))
    log.snapshot = snapshot  # type: ignore[method-assign]
    other = process()
    drive(other.append([DRAFT]))
    assert engine.position()[0] == other.position()[0]
    assert engine.fleet.member in {member.name for member in drive(log.members())}
    with pytest.raises(BarrierTimeout, match=engine.fleet.member):
        drive(other.barrier(drive(other.append([DRAFT])), 0.01))


# -- the bus ---------------------------------------------------------------------------------


def test_whom_a_barrier_waits_for_says_at_once_how_far_it_is(log: SharedLog, process: Callable[..., Coherence]) -> None:
    """One heartbeat for all who ask for the same position; none where it was said already."""
    engine, other = unproven(process()), unproven(process())
    delivery = drive(other.append([DRAFT]))
    before = log.beats
    asked = question(delivery.epoch, delivery.position or 0)
    for _ in range(5):
        drive(engine.hear(asked))
    said = {member.name: member.applied for member in drive(log.members())}
    assert said[engine.fleet.member] == delivery.position
    assert log.beats - before == 2, "one that brings it there, and one that says so"


def test_whoever_hears_the_next_records_asks_redis_nothing(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a message says suffices, and it says that nothing is left to carry to L3 either."""
    config = CacheConfig(coherence=LONG, distributed=patient(redis_url))
    with CacheManager(config) as one, CacheManager(config) as two:
        for manager in (one, two):
            manager.coherence.start(20)
        asked: list[str] = []
        call = two._runtime.log._call  # type: ignore[attr-defined]

        def counted(operation: str, *rest: Any, **more: Any) -> Any:
            asked.append(operation)
            return call(operation, *rest, **more)

        monkeypatch.setattr(two._runtime.log, "_call", counted)
        for number in range(100):
            one.invalidate_keys([f"key:{number}"])
            one.invalidate_tags([f"tag:{number}"])
        wait_until(lambda: two.position() == one.position())
        two._runtime._housekeep()
        assert (asked, two._runtime.coherence.carried) == ([], two.position().position)


def test_a_message_longer_than_the_setting_is_not_read(log: SharedLog, process: Callable[..., Coherence]) -> None:
    """It is counted as malformed, and the log says what there is to know."""
    engine = unproven(process(CoherenceConfig(max_message_bytes=1024)))
    other = unproven(process())
    long = Draft(Kind.TAG, "", tuple(f"tag:{number}" for number in range(200)))
    drive(other.append([long]))
    (record,) = drive(log.read((engine.position()[0], 0))).records or ()
    drive(engine.hear(encode_record(record)))
    assert (engine.counters.malformed.value, engine.position()) == (1, other.position())
    drive(engine.hear(b'{"v":1,"fill":"' + b"x" * 2000 + b'"}'))
    assert engine.counters.malformed.value == 2
