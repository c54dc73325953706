"""Another real process with a manager of a stack, which does what a test tells it, sync or async.

In the test: `Partner(stack, directory, url, **more)`; the process runs this file. Calls and answers
are pickled, one after another, over its standard streams.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import select
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import watchdog
from self_audit import dead_but_served

ANSWER_SECONDS = 30.0


class Partner:
    """The process; started by the constructor, killed at the end of the context.

    Args:
        stack, directory, url: as for `stacks.config_of`.
        more: further settings; they travel by pickle.
    """

    def __init__(self, stack: str, directory: Path, url: str | None, **more: Any) -> None:
        here = str(Path(__file__).resolve().parent)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([here, *filter(None, sys.path)])}
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", __file__],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        watchdog.guard_process(self.process.pid)
        self._send((stack, directory, url, more))
        self._receive()

    def do(self, kind: str, operation: str, *args: Any, **kwargs: Any) -> Any:
        """Have an operation of the manager done: kind "sync", or "async" for its twin; "call": a function of (manager).

        Raises:
            what the operation raised there.
        """
        self._send((kind, operation, args, kwargs))
        return self._receive()

    def _send(self, message: Any) -> None:
        assert self.process.stdin is not None
        pickle.dump(message, self.process.stdin)
        self.process.stdin.flush()

    def _receive(self, patience: float = ANSWER_SECONDS) -> Any:
        output = self.process.stdout
        assert output is not None
        ready, _, _ = select.select([output], [], [], patience)
        if not ready:
            raise TimeoutError(f"process {self.process.pid} has not answered within {patience} s")
        raised, value = pickle.load(output)
        if raised is not None:
            raise raised
        return value

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        served: list[str] = []
        if kind is None:  # else the test says what is wrong; a process that was stopped or killed cannot be asked
            with contextlib.suppress(TimeoutError, OSError, EOFError):
                self._send(("call", "served_dead", (), {}))
                served = self._receive(2.0)
        self.process.kill()
        watchdog.release_process(self.process.pid)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        assert not served, served


def settled(cache: Any) -> None:
    """Start, and listen."""
    cache.coherence.start(20.0)


def caught_up(cache: Any) -> None:
    """Apply all that was published until now."""
    cache.coherence.settle()


def served_dead(cache: Any) -> list[str]:
    """What memory would serve although it is dead: nothing, in any test."""
    return dead_but_served(cache._runtime)


def served_wrongly(cache: Any) -> None:
    """Serve a deleted key, as only an error of the library could."""
    from test_self_audit import revived

    cache.set("k", "old")
    with revived(cache):
        cache.delete("k")


def held(cache: Any) -> dict[str, int]:
    """How many entries each region's memory holds."""
    return {region.name: len(region.memory) for region in cache._runtime.regions() if region.memory is not None}


def main() -> None:
    from stacks import config_of
    from tiercast import CacheManager

    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what is printed does not mix with the answers
    stack, directory, url, more = pickle.load(requests)
    cache = CacheManager(config_of(stack, directory, url, **more))
    heard: list[tuple[str, Any]] = []
    cache.heard = heard  # type: ignore[attr-defined]
    loop = asyncio.new_event_loop()
    message: Any = (None, None)
    while True:
        pickle.dump(message, answers)
        answers.flush()
        try:
            kind, operation, args, kwargs = pickle.load(requests)
        except EOFError:
            return
        try:
            if kind == "call":
                value = globals()[operation](cache, *args, **kwargs)
            elif kind == "sync":
                value = getattr(cache, operation)(*args, **kwargs)
            else:
                value = loop.run_until_complete(getattr(cache, f"{operation}_async")(*args, **kwargs))
            message = (None, value)
        except Exception as exc:
            message = (exc, None)


def hear(cache: Any, event_glob: str, how: str) -> None:
    """Note the events that arrive, by `on` or by `subscribe`; or have them handled here."""
    if how == "handle":
        cache.events.subscribe(event_glob, cache.handle_event)
    elif how == "on":
        cache.on(event_glob, lambda event, payload: cache.heard.append((event, dict(payload))))
    else:
        cache.events.subscribe(event_glob, lambda event, payload: cache.heard.append((event, dict(payload))))


def heard(cache: Any) -> list[tuple[str, Any]]:
    """The events noted so far."""
    return list(cache.heard)


if __name__ == "__main__":
    main()
