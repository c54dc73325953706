"""A process with a manager that does what a test tells it, one line of JSON at a time.

In the test: `Puppet(config)`, where `config` is what `CacheConfig.from_dict` reads. In the process:
`python -m faults.puppet CONFIG`.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import watchdog

TESTS = Path(__file__).resolve().parent.parent
ANSWER_SECONDS = 30.0


class PuppetError(Exception):
    """What an operation raised in the other process; the message begins with the error's class."""


class Puppet:
    """One process, started by the constructor and killed at the end of the context."""

    def __init__(self, **config: Any) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, sys.path)])}
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "faults.puppet", json.dumps(config)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        watchdog.guard_process(self.process.pid)

    def begin(self, operation: str, *args: Any, **kwargs: Any) -> None:
        """Have an operation done; `answer` waits for it."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([operation, args, kwargs]).encode() + b"\n")
        self.process.stdin.flush()

    def answer(self, seconds: float = ANSWER_SECONDS) -> Any:
        """What the operation that was begun returned.

        Raises:
            PuppetError: the operation raised.
            EOFError: the process ended.
            TimeoutError: neither.
        """
        output = self.process.stdout
        assert output is not None
        ready, _, _ = select.select([output], [], [], seconds)
        if not ready:
            raise TimeoutError(f"process {self.process.pid} has not answered within {seconds} s")
        line = output.readline()
        if not line:
            raise EOFError
        error, value = json.loads(line)
        if error:
            raise PuppetError(error)
        return value

    def do(self, operation: str, *args: Any, **kwargs: Any) -> Any:
        """Have an operation of the manager (or of `Hands`) done and return what it returned."""
        self.begin(operation, *args, **kwargs)
        return self.answer()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)  # the last of its threads may be answering still

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        watchdog.release_process(self.process.pid)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


class Hands:
    """In the process: what it can do besides the manager's operations."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache

    def load(self, key: str, value: Any, seconds: float = 0.0, **kwargs: Any) -> Any:
        """`get_or_set` with a loader that takes its time."""

        def loader() -> Any:
            time.sleep(seconds)
            return value

        return self.cache.get_or_set(key, loader, **kwargs)

    def start(self) -> None:
        self.cache.coherence.start(20.0)

    def settle(self) -> None:
        self.cache.coherence.settle(20.0)

    def status(self) -> dict[str, Any]:
        status = self.cache.coherence.status()
        return {name: getattr(status, name) for name in status.__slots__}

    def churn(self, rate: int, seed: int) -> None:
        """From now on invalidate `rate` times a second, ever new names of every kind, and read in between."""
        draw = random.Random(seed)

        def work() -> None:
            began, done = time.monotonic(), 0
            while True:
                for _ in range(int((time.monotonic() - began) * rate) - done):
                    done += 1
                    name = f"{seed}-{done}"
                    self.cache.get_or_set(f"key-{draw.randrange(2_000)}", lambda: "value", tags=[f"tag-{done % 100}"])
                    kind = done % 4
                    if kind == 0:
                        self.cache.invalidate_keys([f"key-{draw.randrange(2_000)}", name])
                    elif kind == 1:
                        self.cache.invalidate_tags([f"tag-{draw.randrange(100)}", name])
                    elif kind == 2:
                        self.cache.evict_by_scope("user", user_id=name)
                    else:
                        self.cache.invalidate_pattern(f"{name}*")
                time.sleep(0.01)

        threading.Thread(target=work, daemon=True).start()

    def figures(self) -> dict[str, Any]:
        """This process's resident memory (bytes), CPU seconds and position."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        position = self.cache.coherence.status().position
        return {"rss": pages * resource.getpagesize(), "cpu": time.process_time(), "position": position}

    def die_before(self, what: str, method: str) -> None:
        """SIGKILL this process when it is about to call a method of the runtime's `what`."""

        def die(*args: Any, **kwargs: Any) -> Any:
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(getattr(self.cache._runtime, what), method, die)

    def die_after(self, what: str, method: str) -> None:
        """The same when a method, which is a plan, has ended and its caller does not know yet."""
        whole: Callable[..., Iterator[Any]] = getattr(getattr(self.cache._runtime, what), method)

        def die(*args: Any, **kwargs: Any) -> Iterator[Any]:
            yield from whole(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(getattr(self.cache._runtime, what), method, die)


def plain(value: Any) -> Any:
    """What JSON can say of a result."""
    return {name: getattr(value, name) for name in ("position", "delivered")} if hasattr(value, "delivered") else value


def main() -> None:
    from tiercast import CacheConfig, CacheManager

    cache = CacheManager(CacheConfig.from_dict(json.loads(sys.argv[1])))
    hands = Hands(cache)
    for line in sys.stdin:
        operation, args, kwargs = json.loads(line)
        try:
            function = getattr(hands, operation, None) or getattr(cache, operation)
            answer = [None, plain(function(*args, **kwargs))]
        except Exception as exc:
            answer = [f"{type(exc).__name__}: {exc}", None]
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    cache.close()


if __name__ == "__main__":
    main()
