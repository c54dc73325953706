"""What must hold when everything has come to rest, and one seed from beginning to end."""

from __future__ import annotations

import contextvars
import logging
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from simulation.oracle import Name, Violation
from simulation.process import Process
from simulation.programs import NOTHING, Loader
from simulation.settings import Settings, drawn
from simulation.world import World, plans_handed_out
from tiercast.loading.loads import Load
from tiercast.loading.reading import Want
from tiercast.loading.stale import HEAD_START
from tiercast.loading.workers import Spawn
from tiercast.plans import Pause
from tiercast.region import MISS
from tiercast.signal import Wait

PATIENCE = 90.0
"""Seconds of the world's time in which everything has to come to rest."""


class Failed(AssertionError):
    """A seed's world broke a promise; `story` is the interleaving in words."""

    def __init__(self, settings: Settings, steps: int, reason: BaseException, story: str) -> None:
        super().__init__(f"seed {settings.seed}, step {steps}: {reason}")
        self.settings = settings
        self.steps = steps
        self.reason = reason
        self.story = story

    def __str__(self) -> str:
        replay = f"PYTHONPATH=src:tests python -m simulation {self.settings.seed} 1 1000"
        return (
            f"{self.args[0]}\n{self.settings}\n{self.story}\nreplay a seed whose settings were all drawn with: {replay}"
        )


def simulate(seed: int, remember: int = 400, **fixed: Any) -> Counter[str]:
    """Live through one seed's world and return what happened.

    Raises:
        Failed: a promise was broken.
    """
    settings = drawn(seed, **fixed)
    with plans_handed_out(settings.regions), quiet():
        world = World(replace(settings, names=settings.names), remember)
        try:
            world.run()
            come_to_rest(world)
            judge(world)
        except Exception as exc:
            raise Failed(settings, world.steps, exc, world.story(remember)) from exc
        finally:
            for process in list(world.processes):
                for thread in list(process.threads):
                    world.kill(thread)
    return world.counted()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the library from telling the log of every gap."""
    logger = logging.getLogger("tiercast")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def come_to_rest(world: World) -> None:
    """Mend what is broken and let every process finish what it does, replay, catch up and carry."""
    world.closing = True
    world.note("world", "everything is mended")
    world.settings = replace(world.settings, flaky=0.0, messages={})
    world.faults.heal()
    while world.limbo:
        world.arrive_late()
    deadline = world.now + PATIENCE
    while not at_rest(world):
        if world.now > deadline:
            raise Violation(f"it does not come to rest: {unrest(world)}")
        world.faults.heal()
        for _ in range(20):
            if not world.turn() and not world.skip():
                world.pass_time(0.05)
    world.pass_time(0.0)


def at_rest(world: World) -> bool:
    return len(world.processes) == len(world.settings.hosts) and not unrest(world)


def unrest(world: World) -> str:
    """Say what still goes on; "" for nothing."""
    state = world.log.state
    for process in world.processes:
        coherence = process.coherence
        if any(thread.name not in {"listener", "keeper"} for thread in process.threads):
            busy = [f"{thread} wants {thread.request}" for thread in process.threads if thread.operation is not None]
            return f"{process} is still at work: {busy}"
        if not coherence.started or process.outbox.waiting():
            return f"{process} has not started, or its outbox is not empty"
        if state is None or len(state.parts) < 4 or state.run != world.log.run:
            return "nobody has asked the log"
        if coherence.position() != (state.epoch, state.position) or not coherence.proven():
            return f"{process} is at {coherence.position()}, the log at {(state.epoch, state.position)}"
        if process.disk is not None and process.disk.applied() != (state.epoch, state.position):
            return f"the disk of {process.host.name} is at {process.disk.applied()}"
        if process.remote is not None and (state.carried, coherence.carried) != (state.position,) * 2:
            return f"carried {state.carried}, known to {process}: {coherence.carried}, of {state.position}"
    members = {process.coherence.fleet.member for process in world.processes}
    for name, token in world.values.held():
        if token.rpartition("/")[0] in members:
            return f"nobody loads, and {token} has the lease {name}"
    return ""


def drive(world: World, plan: Generator[Any, Any, Any], beating: Process | None = None) -> Any:
    """Run a plan to its end with nothing else going on, but for the heartbeats of one process while it waits."""
    try:
        request = next(plan)
        for _ in range(1_000):
            if type(request) is Pause:
                world.pass_time(request.seconds)
                reply = None
            elif type(request) is Wait and not request.signal.fired:
                world.pass_time(request.timeout)
                if beating is not None:
                    drive(world, beating.coherence.beat())
                reply = request.signal.fired
            elif type(request) is Load:
                list(request.loader.reads(request.context))
                while isinstance(reply := request.loader.proceed(request.context), float):
                    pass
            elif type(request) is Spawn:
                request.flight.loop = None
                contextvars.copy_context().run(drive, world, request.make(), beating)
                reply = True
            else:
                reply = request.run()
            request = plan.send(reply)
    except StopIteration as stop:
        return stop.value
    raise Violation("an operation does not end")


def judge(world: World) -> None:
    """Look at everything that anybody serves.

    Raises:
        Violation: (c) somebody does not agree with the origin, or (d) a load is not stored, or not found by others.
    """
    world.settings = replace(world.settings, failing_loads=0.0, derived=0.0)
    settled = world.oracle.settled()
    for process in world.processes:
        for name in settled:
            agree(world, process, name)
    for host in world.hosts.values():
        newcomer = Process(world, "fresh", host, 1)
        for name in settled:
            agree(world, newcomer, name)
        drive(world, newcomer.coherence.leave())
    # The dead have been missed for long enough, and what was stored for a short time is over.
    world.pass_time(max(2 * world.settings.max_staleness, 3.0) + world.settings.skew + 0.1)
    for _ in range(2):
        world.pass_time(HEAD_START[1] + 0.1)  # the owner of a key may refresh first what a soft record marked
        for process in world.processes:
            with process.runtime.ledger.lock:
                for region in process.runtime.regions():
                    region.memory.clear()
            drive(world, process.coherence.beat())
            for name in world.oracle.names:
                load(world, process, name)
    for process in world.processes:
        drive(world, process.coherence.beat())
        for name in world.oracle.names[-world.settings.memory :]:
            region = process.region_of(name)
            if region.memory.get(region.local_key(name.address)) is None:
                raise Violation(f"(d) at rest {process} loaded {name} twice, and it is not in its memory")
    for host in world.hosts.values():
        # What the log's own floor makes doubtful to who starts is loaded once more; then nobody needs to.
        for life in (2, 3):
            newcomer = Process(world, "fresh", host, life)
            drive(world, newcomer.coherence.beat())
            world.pass_time(world.settings.origin_lag)
            for name in world.oracle.names:
                found = look(world, newcomer, name)
                if found is NOTHING:
                    load(world, newcomer, name)
                    world.pass_time(HEAD_START[1] + 0.1)
                    load(world, newcomer, name)
                elif name in settled:
                    world.oracle.agrees(str(newcomer), name, found)
                if life == 3 and found is NOTHING and newcomer.region_of(name).below:
                    raise Violation(f"(d) at rest {name} was loaded, and who starts on {host.name} finds it nowhere")
            drive(world, newcomer.coherence.leave())
    for process in list(world.processes):
        world.retire(process)
    world.log.check()


def agree(world: World, process: Process, name: Name) -> object:
    """Read without loading, and compare with the origin."""
    found = look(world, process, name)
    if found is not NOTHING:
        world.oracle.agrees(str(process), name, found)
    return found


def look(world: World, process: Process, name: Name) -> object:
    found = process.operations.get(name.key, NOTHING, region=name.region, **name.place)
    return drive(world, found) if isinstance(found, Generator) else found


def load(world: World, process: Process, name: Name) -> None:
    want = Want(Loader(world, name, 300.0), 300.0, name.tags)
    plan = process.operations.get_or_set(
        name.key, want.loader, want.ttl, tags=want.tags, region=name.region, **name.place
    )
    found = drive(world, plan, process) if isinstance(plan, Generator) else plan
    if found is MISS:
        raise Violation(f"(d) {process} loaded {name} and got nothing")
    world.oracle.agrees(str(process), name, found) if name in world.oracle.settled() else None
