"""One load per key for all processes of a fleet, measured with real ones; also when the leader is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import watchdog
from loaders import eventually

PROCESSES, THREADS, TASKS = 4, 8, 200
PROGRAM = Path(__file__).parent.parent / "stampede.py"
STACKS = ["memory+redis", "memory+disk+redis", "memory+disk"]


class Fleet:
    """The processes of one stampede."""

    def __init__(
        self, stack: str, directory: Path, url: str | None, *, lock_ttl: float = 60, max_staleness: float = 5
    ) -> None:
        self.directory = directory
        told = {
            "stack": stack,
            "directory": str(directory),
            "url": url,
            "lock_ttl": lock_ttl,
            "max_staleness": max_staleness,
            "threads": THREADS,
            "tasks": TASKS,
        }
        self.processes = [
            subprocess.Popen(
                [sys.executable, str(PROGRAM), json.dumps(told)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONWARNINGS": "error"},
            )
            for _ in range(PROCESSES)
        ]
        for process in self.processes:
            watchdog.guard_process(process.pid)

    def go(self) -> None:
        """Let all begin at once."""
        for process in self.processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()

    @property
    def loads(self) -> list[int]:
        """The process ids of those who called the loader, one for each call."""
        return [int(path.name.split("-")[1]) for path in self.directory.glob("load-*")]

    def release(self) -> None:
        """Let the loaders end."""
        (self.directory / "release").touch()

    def kill(self, pid: int) -> None:
        (leader,) = (process for process in self.processes if process.pid == pid)
        leader.send_signal(signal.SIGKILL)
        leader.wait()
        self.processes.remove(leader)
        leader.stdin.close()  # type: ignore[union-attr]
        leader.stdout.close()  # type: ignore[union-attr]

    def outcomes(self) -> list[dict[str, Any]]:
        """Wait for those that live and return what they say."""
        return [json.loads(process.communicate(timeout=60)[0].splitlines()[-1]) for process in self.processes]

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()
            watchdog.release_process(process.pid)


@pytest.fixture(params=STACKS)
def stack(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(request: pytest.FixtureRequest, stack: str) -> str | None:
    return request.getfixturevalue("redis_url") if "redis" in stack else None


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    return tmp_path


def test_one_load_for_all(stack: str, url: str | None, directory: Path) -> None:
    """4 processes of 8 threads and 200 tasks on one cold key: exactly one load, and all get its value."""
    fleet = Fleet(stack, directory, url)
    try:
        fleet.go()
        eventually(lambda: fleet.loads)
        with pytest.raises(AssertionError):
            eventually(lambda: len(fleet.loads) > 1, 0.7)
        fleet.release()
        outcomes = fleet.outcomes()
    finally:
        fleet.close()
    (leader,) = fleet.loads
    assert [outcome["answers"] for outcome in outcomes] == [[leader] * (THREADS + TASKS)] * PROCESSES
    assert sum(outcome["loads"] for outcome in outcomes) == 1


@pytest.mark.fault
@pytest.mark.parametrize(("lock_ttl", "max_staleness"), [(3, 20), (600, 2)], ids=["lease", "membership"])
def test_two_where_the_leader_is_killed(
    stack: str, url: str | None, directory: Path, lock_ttl: float, max_staleness: float
) -> None:
    """The leader dies by SIGKILL: when its lease ends, or it counts as dead, exactly one other loads for all."""
    fleet = Fleet(stack, directory, url, lock_ttl=lock_ttl, max_staleness=max_staleness)
    try:
        fleet.go()
        eventually(lambda: fleet.loads)
        (first,) = fleet.loads
        fleet.kill(first)
        eventually(lambda: len(fleet.loads) == 2)
        with pytest.raises(AssertionError):
            eventually(lambda: len(fleet.loads) > 2, 0.7)
        fleet.release()
        outcomes = fleet.outcomes()
    finally:
        fleet.close()
    (second,) = set(fleet.loads) - {first}
    assert [outcome["answers"] for outcome in outcomes] == [[second] * (THREADS + TASKS)] * (PROCESSES - 1)
    assert len(fleet.loads) == 2
