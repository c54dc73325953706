"""A process of a fleet for tests: does some work, says so, and stays until its input ends.

Run as a program: its argument is JSON {"redis", "name", "hits", "misses", "port"}.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def main() -> None:
    sys.path.append(str(Path(__file__).parent.parent))
    import self_audit
    from stacks import patient
    from tiercast import CacheConfig, CacheManager, MonitoringConfig

    self_audit.install()
    told = json.loads(sys.argv[1])
    exports = "port" in told
    config = CacheConfig(
        name=told["name"],
        distributed=patient(told["redis"]),
        monitoring=MonitoringConfig(prometheus_export=exports, export_port=told.get("port", 9090), check_interval=0.2),
    )
    with CacheManager(config) as cache:
        cache._runtime.sweeper.held += 1  # what dies stays where it is, to be looked at
        cache.coherence.start(20)
        cache.get_or_set(told.get("key", "k"), lambda: {"n": 1}, tags=["worker"])
        for _ in range(told["hits"]):
            cache.get(told.get("key", "k"))
        for number in range(told["misses"]):
            cache.get(f"absent{number}")
        cache.coherence.settle()
        exporter = cache.monitor.exporter
        if exporter is not None:
            exporter._published = float("-inf")
            exporter.publish()
        said = {"port": exporter.port if exporter else None, "stats": cache.stats()}
        say(json.dumps(said))
        for line in sys.stdin:
            if line.strip() == "beat":
                cache.coherence.settle()
            say("done")


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class Worker:
    """One such process, as a test sees it."""

    def __init__(self, environ: dict[str, str], **told: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__)), json.dumps(told)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environ,
        )
        self.said: dict[str, Any] = {}

    def wait(self) -> dict[str, Any]:
        """Wait until it has done its work; returns what it said of it."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the worker ended: {self.process.wait()}"
        self.said = json.loads(line)
        return self.said

    def beat(self) -> None:
        """Have it take a heartbeat."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("beat\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            assert self.process.wait(20) <= 0, "the worker failed"
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()


@contextlib.contextmanager
def working(environ: dict[str, str], count: int, **told: Any) -> Iterator[list[Worker]]:
    """Have several processes work side by side; a list as a value gives each its own item."""
    workers = []
    try:
        for number in range(count):
            own = {name: value[number] if isinstance(value, list) else value for name, value in told.items()}
            workers.append(Worker(environ, **own))
        for worker in workers:
            worker.wait()
        yield workers
    finally:
        for worker in workers:
            worker.close()


if __name__ == "__main__":
    main()
