"""What a simulated process asks for: one atomic piece of I/O, or a wait."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

from tiercast.coherence.log import Beat
from tiercast.coherence.records import Draft
from tiercast.tiers.entry import Address, Envelope

_whole = threading.RLock()


class Time(Protocol):
    """Whoever knows the world's time, in seconds."""

    now: float


PATIENCE = 1.0
"""Seconds after which a client gives up on an answer (`write_timeout`)."""


class Unreachable(Exception):
    """What a step raises whose request, or whose answer, was lost."""


class Killed(BaseException):
    """Thrown into the plans of a process that was killed, so that Python lets go of them; none of their I/O is done."""


class Step:
    """One piece of I/O that happens at one moment; the request of the models of log, tiers and bus.

    Args:
        place: "log", "remote", "disk" or "bus": what a fault may cut off.
        name: what it does, for whoever reads the interleaving.
        effect: does it at once and returns the reply.
        about: what it is about, shown with the name.
        retry: whether a lost answer makes the client send it again.
    """

    __slots__ = ("about", "effect", "name", "place", "retry")

    def __init__(
        self, place: str, name: str, effect: Callable[[], Any], about: object = "", *, retry: bool = False
    ) -> None:
        self.place = place
        self.name = name
        self.effect = effect
        self.about = about
        self.retry = retry

    def run(self) -> Any:
        """Do it here and now, in one piece even among threads: for the contract suites and the last look at a world."""
        with _whole:
            return self.effect()

    async def run_async(self) -> Any:
        return self.run()

    def __str__(self) -> str:
        return f"{self.place}.{self.name}({brief(self.about)})"


def brief(about: object) -> str:
    """Say what a step is about, for people."""
    if isinstance(about, Address):
        return f"{about.scope}|{about.key}"
    if isinstance(about, Draft):
        return f"{'soft ' * about.soft}{about.kind.value} {','.join(about.targets)}"
    if isinstance(about, Envelope):
        return f"{about.payload.decode(errors='replace')} born ({about.epoch}, {about.born})"
    if isinstance(about, Beat):
        return f"at ({about.epoch}, {about.applied})"
    if isinstance(about, list | tuple):
        return ", ".join(map(brief, about))
    return str(about)


class Poll:
    """The listener's wait for a message; answers one, None after `timeout` seconds, or `HUNG_UP`."""

    __slots__ = ("timeout",)

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout


HUNG_UP = object()
"""What `Poll` answers where the subscription is over."""


class ProcessClock:
    """The clocks of one simulated process: the world's time, each from an origin of its own."""

    __slots__ = ("_since_boot", "_skew", "_world")

    def __init__(self, world: Time, since_boot: float, skew: float) -> None:
        self._world = world
        self._since_boot = since_boot
        self._skew = skew

    def monotonic(self) -> float:
        return self._world.now + self._since_boot

    def wall(self) -> float:
        return self._world.now + self._skew
