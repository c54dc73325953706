"""The third driver of the library's plans: many at once, one step at a time, in an order drawn from a seed.

A *step* is one atomic piece of I/O together with what its plan does until the next one; often the two are drawn
apart, so that other threads come between an effect and its answer. Time is a number that the scheduler moves.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import math
import random
from collections import Counter, deque
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from simulation.oracle import EPOCH, Violation
from simulation.steps import PATIENCE, Killed, Poll, Step, Unreachable
from tiercast.coherence.together import Enter
from tiercast.loading.flights import AwaitFlight, Join
from tiercast.loading.loads import Load
from tiercast.loading.workers import Spawn
from tiercast.plans import Blocking, Pause
from tiercast.signal import Signal, Wait

if TYPE_CHECKING:
    from simulation.process import Process
    from simulation.programs import Operation

Reply = tuple[bool, Any]
"""(whether it is to be thrown, what)."""


def nesting(plan: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Run a plan, and before each load that reads other keys, what it reads of them, as a part of that load."""
    reply: Any = None
    error: BaseException | None = None
    while True:
        try:
            request = plan.send(reply) if error is None else plan.throw(error)
        except StopIteration as stop:
            return stop.value
        error = None
        try:
            if type(request) is Load:
                yield from request.loader.reads(request.context)  # type: ignore[attr-defined]
            reply = yield request
        except BaseException as exc:
            error = exc


class Thread:
    """One line of execution in a simulated process: a plan, the request it waits for, and the reply it has got."""

    __slots__ = (
        "context",
        "name",
        "operation",
        "plan",
        "process",
        "ready",
        "reply",
        "request",
        "ticket",
        "tries",
        "unsubscribe",
        "until",
    )

    def __init__(self, process: Process, name: str, plan: Generator[Any, Any, Any]) -> None:
        self.process = process
        self.name = name
        self.plan: Generator[Any, Any, Any] | None = plan
        self.context = contextvars.copy_context()
        self.request: Any = None
        self.reply: Reply | None = None
        self.ready = False
        self.ticket = 0
        self.tries = 0
        self.until = 0.0
        self.operation: Operation | None = None
        self.unsubscribe: Callable[[], None] | None = None

    def __str__(self) -> str:
        doing = f" {self.operation}" if self.operation is not None else ""
        return f"{self.process}.{self.name}{doing}"


class Scheduler:
    """Runs threads.

    Args:
        seed: draws everything.
        split: how often an effect and its answer are two steps.
        pace: mean seconds that a step takes.

    Attributes:
        now: the world's time. steps: how many there have been.
        running: the thread whose effect or code is being run. operation: what it did that for.
        limbo: effects whose requester has given up on them and that may still come.
    """

    def __init__(self, seed: int, *, split: float, pace: float, remember: int = 400) -> None:
        self.random = random.Random(seed)
        self.draw = self.random.random
        self.split = split
        self.pace = pace
        self.now = EPOCH
        self.steps = 0
        self.counts: Counter[str] = Counter()
        self.threads: list[Thread] = []
        """Those that are ready."""
        self.running: Thread | None = None
        self.operation: Operation | None = None
        self.limbo: list[tuple[Thread, Operation | None, Step]] = []
        self.arriving_late = False
        self.trace: deque[tuple[int, float, object, object, object]] = deque(maxlen=remember)
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._ordinal = 0
        self._perform: dict[type, Callable[[Thread, Any], Reply | None]] = {
            Step: self._io,
            Blocking: self._blocking,
            Join: lambda thread, request: (False, thread.context.run(request.run)),
            Enter: lambda thread, request: (False, request.run()),
            Spawn: self._spawn,
            Load: self._load,
            Poll: self._poll,
            AwaitFlight: self._awaited,
            Wait: self._waited,
            Pause: lambda thread, request: (False, None),
        }

    # -- time --------------------------------------------------------------------------------

    def at(self, seconds: float, what: Callable[[], None]) -> None:
        """Have something done after so many seconds."""
        self._ordinal += 1
        heapq.heappush(self._timers, (self.now + seconds, self._ordinal, what))

    def pass_time(self, seconds: float) -> None:
        """Let time go on for everybody."""
        self.now += seconds
        timers = self._timers
        while timers and timers[0][0] <= self.now:
            heapq.heappop(timers)[2]()

    def skip(self) -> bool:
        """Go to the next moment at which something happens; False where nothing ever will."""
        if not self._timers:
            return False
        self.pass_time(max(0.0, self._timers[0][0] - self.now))
        return True

    # -- threads -----------------------------------------------------------------------------

    def start(self, thread: Thread) -> Thread:
        """Let a thread begin; its first step is what it does until its first request."""
        thread.process.threads.append(thread)
        thread.reply = (False, None)
        self._make_ready(thread)
        return thread

    def turn(self) -> bool:
        """Let one thread that is ready take its step; False where none can."""
        threads = self.threads
        for _ in range(6):
            if not threads:
                return False
            thread = threads[int(self.draw() * len(threads))]
            if thread.process.paused_until <= self.now:
                break
        else:
            return False
        self.steps += 1
        self.pass_time(self.draw() * 2 * self.pace)
        if not thread.ready or thread.plan is None:  # killed, or its wait ended otherwise, as time went on
            return True
        self.running = thread
        self.operation = thread.operation
        if thread.reply is None:
            reply = self._perform[type(thread.request)](thread, thread.request)
            if reply is None:
                return True
            thread.reply = reply
            if self.draw() < self.split and type(thread.request) is Step:
                return True
        self._resume(thread)
        return True

    def _resume(self, thread: Thread) -> None:
        """Hand a thread its reply and run it to its next request."""
        assert thread.reply is not None
        assert thread.plan is not None
        throws, value = thread.reply
        thread.reply = None
        thread.tries = 0
        self.running = thread
        try:
            thread.request = thread.context.run(thread.plan.throw if throws else thread.plan.send, value)
        except StopIteration:
            self._end(thread)
        except Violation:
            raise
        except asyncio.CancelledError:
            self._end(thread)
        except Exception as exc:
            raise Violation(f"{thread} raised {type(exc).__name__}: {exc}") from exc
        else:
            self._wait_for(thread)

    def _end(self, thread: Thread) -> None:
        thread.plan = None
        self._make_unready(thread)
        thread.process.threads.remove(thread)

    def _wait_for(self, thread: Thread) -> None:
        """Note what a thread waits for now."""
        request = thread.request
        kind = type(request)
        thread.ticket += 1
        if kind is Pause:
            self._make_unready(thread)
            self._wake_after(thread, request.seconds)
        elif kind is AwaitFlight:
            if request.own:
                thread.context.run(request.flights.hold, request.flight)
            thread.until = math.inf if request.timeout is None else self.now + request.timeout
            self._wait_signal(thread, request.flight.signal, min(request.look, thread.until - self.now))
        elif kind is Wait:
            self._wait_signal(thread, request.signal, request.timeout)
        elif kind is Poll:
            self._make_unready(thread)
            if thread.process.inbox or thread.process.hung_up:
                self._make_ready(thread)
            else:
                self._wake_after(thread, request.timeout)
        else:
            self._make_ready(thread)

    def _wake_after(self, thread: Thread, seconds: float) -> None:
        ticket = thread.ticket
        self.at(seconds, lambda: self._make_ready(thread) if thread.ticket == ticket else None)

    def _wait_signal(self, thread: Thread, signal: Signal, timeout: float | None) -> None:
        self._make_unready(thread)
        ticket = thread.ticket

        def wake() -> None:
            if thread.ticket == ticket:
                self._make_ready(thread)

        signal.subscribe(wake)
        thread.unsubscribe = lambda: signal.unsubscribe(wake)
        if timeout is not None and not thread.ready:
            self.at(timeout, wake)

    def _make_ready(self, thread: Thread) -> None:
        if not thread.ready and thread.plan is not None:
            thread.ready = True
            self.threads.append(thread)

    def _make_unready(self, thread: Thread) -> None:
        if thread.ready:
            thread.ready = False
            self.threads.remove(thread)

    def hear(self, process: Process) -> None:
        """Wake a process's listener: something is in its inbox, or the line went dead."""
        for thread in process.threads:
            if type(thread.request) is Poll:
                self._make_ready(thread)

    # -- performing requests -----------------------------------------------------------------

    def _io(self, thread: Thread, step: Step) -> Reply | None:
        fate = thread.process.fate(step)
        if fate == "done":
            self.note(thread, step)
            return False, step.effect()
        self.counts[f"{step.place} {fate}"] += 1
        self.note(thread, f"{step} — {fate}")
        if fate == "answer lost":
            step.effect()
        elif fate == "late":
            self._delay(thread, step)
        thread.tries += 1
        if step.retry and thread.tries == 1:
            return None  # the client sends it again
        if fate == "late":  # nothing says that it failed but that no answer comes
            thread.reply = (True, Unreachable())
            thread.ticket += 1
            self._make_unready(thread)
            self._wake_after(thread, PATIENCE)
            return None
        return True, Unreachable()

    def arrive_late(self) -> None:
        """Let one effect come about whose requester has long given up."""
        thread, self.operation, step = self.limbo.pop(int(self.draw() * len(self.limbo)))
        self.running = thread
        self.counts["arrived late"] += 1
        self.note(thread, f"{step} — arrives late")
        self.arriving_late = True
        step.effect()
        self.arriving_late = False

    def _blocking(self, thread: Thread, request: Blocking) -> Reply:
        self.note(thread, getattr(request.function, "__name__", request.function))
        try:
            return False, request.function(*request.args)
        except Exception as exc:
            return True, exc

    def _spawn(self, thread: Thread, request: Spawn) -> Reply:
        if not request.waited and self.draw() < 0.05:
            thread.process.refused = self.steps
            self.counts["background refused a load"] += 1
            return False, False
        request.flight.loop = None
        spawned = Thread(thread.process, "worker", nesting(request.make()))
        spawned.context = thread.context.copy()
        self.counts["spawned"] += 1
        self.start(spawned)
        return False, True

    def _load(self, thread: Thread, request: Load) -> Reply | None:
        """Read the origin, now or after a while; answer now or after a while."""
        loader: Any = request.loader
        try:
            done = loader.proceed(request.context)
        except Exception as exc:
            thread.process.could_not_load(loader.name.address)
            return True, exc
        if isinstance(done, float):
            thread.ticket += 1
            self._make_unready(thread)
            self._wake_after(thread, done)
            return None
        self.note(thread, f"loaded {done}")
        return False, done

    def _poll(self, thread: Thread, request: Poll) -> Reply:
        return False, thread.process.next_message()

    def _waited(self, thread: Thread, request: Wait) -> Reply:
        self._leave(thread)
        return False, request.signal.fired

    def _awaited(self, thread: Thread, request: AwaitFlight) -> Reply | None:
        """As `AwaitFlight.run`: look up from time to time whether it is any use to wait longer."""
        signal = request.flight.signal
        if signal.fired or request.stuck() or self.now >= thread.until:
            self._leave(thread)
            return False, signal.fired
        if thread.unsubscribe is not None:
            thread.unsubscribe()
        thread.ticket += 1
        self._wait_signal(thread, signal, min(request.look, thread.until - self.now))
        return None

    def _leave(self, thread: Thread) -> None:
        if thread.unsubscribe is not None:
            thread.unsubscribe()
            thread.unsubscribe = None
        if type(thread.request) is AwaitFlight:
            thread.context.run(thread.request.flights.left, thread.request.flight, synchronous=True)

    # -- what happens to threads -----------------------------------------------------------------

    def cancel(self, thread: Thread) -> None:
        """Cancel a task where it waits; its clean-up goes on as further steps."""
        self.note(thread, "cancelled")
        if thread.reply is None:
            self._leave(thread)
            if type(thread.request) is Step:
                self._may_arrive(thread, thread.request)
        thread.ticket += 1
        thread.reply = (True, asyncio.CancelledError())
        self._make_ready(thread)

    def _may_arrive(self, thread: Thread, step: Step) -> None:
        """Decide whether a request whose caller is gone is under way already and arrives."""
        # But for a `set`: it says "true as of now", and whoever broke it off has to know that its outcome is open.
        exclusive = thread.operation is not None and thread.operation.exclusive
        if step.place != "origin" and not exclusive and self.draw() < 0.5:
            self._delay(thread, step)

    def _delay(self, thread: Thread, step: Step) -> None:
        """Have a request arrive at any time, or never; but for a lease's, which nobody gives back after hours."""
        if step.name != "take":
            self.limbo.append((thread, thread.operation, step))

    def kill(self, thread: Thread) -> None:
        """End a thread at once; whatever it would still do is not done."""
        if type(thread.request) is Step and thread.reply is None and thread.ready:
            self._may_arrive(thread, thread.request)
        self._make_unready(thread)
        thread.ticket += 1
        plan, thread.plan = thread.plan, None
        for _ in range(100):
            if plan is None:
                return
            try:
                thread.context.run(plan.throw, Killed())
            except (StopIteration, Killed):
                return
        raise AssertionError("a killed plan does not end")

    # -- telling --------------------------------------------------------------------------------

    def note(self, who: object, what: object) -> None:
        """Remember what happened, for whoever reads the interleaving of a failing seed."""
        doing = who.operation if type(who) is Thread else None
        self.trace.append((self.steps, self.now, who, doing, what))

    def story(self, last: int = 60) -> str:
        """Return the last steps in words."""
        lines = []
        for step, now, who, doing, what in list(self.trace)[-last:]:
            name = f"{who.process}.{who.name} {doing or ''}" if type(who) is Thread else str(who)
            lines.append(f"{step:6d} t={now - EPOCH:9.4f}  {name:38} {what}")
        return "\n".join(lines)
