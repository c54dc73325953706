"""The demo keeps its promises, sees it when they are broken, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from servers import find_server

ROOT = Path(__file__).resolve().parents[2]
FLEET = ROOT / "examples" / "fleet.py"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Its temporary directories lie where the test can see what is left of them."""
    path = os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": path, "COLUMNS": "100", "NO_COLOR": "1"}


@pytest.fixture
def nothing_left(tmp_path: Path) -> Iterator[None]:
    """After the test no process is left that was started in the test's directory, and no file."""
    yield
    assert [] == processes_of(tmp_path)
    assert [] == list(tmp_path.iterdir())


def processes_of(directory: Path) -> list[str]:
    """The command lines of live processes whose environment or arguments name a directory (Linux)."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            words = (process / "environ").read_bytes() + command
        except OSError:  # it ended, or is somebody else's
            continue
        if command and str(directory).encode() in words and int(process.name) != os.getpid():
            found.append(command.replace(b"\0", b" ").decode(errors="replace"))
    return found


def run(environment: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, FLEET, *options], env=environment, capture_output=True, text=True, timeout=100, check=False
    )


def reads_of(text: str) -> int:
    found = re.search(r"violations in ([\d,]+) reads", text)
    assert found, text
    return int(found[1].replace(",", ""))


@pytest.mark.usefixtures("nothing_left")
class TestFleet:
    def test_without_redis_nothing_is_ever_older(self, environment: dict[str, str]) -> None:
        """Four processes over the disk log serve no read that is older than an acknowledged edit."""
        done = run(environment, "--no-redis", "--seconds", "2")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "without Redis, as asked" in done.stdout
        assert "every promise was kept: 0 violations" in done.stdout
        assert re.search(r"reads older than an edit acknowledged before they began\s+│\s+0 │", done.stdout)
        assert reads_of(done.stdout) > 1_000
        assert done.stderr == ""

    def test_with_redis_the_promise_is_kept(self, environment: dict[str, str], redis_server: object) -> None:
        """The same over Redis, with figures for all three tiers."""
        done = run(environment, "--seconds", "2")
        assert done.returncode == 0, done.stdout + done.stderr
        for row in ("memory (L1)", "disk (L2)", "Redis (L3)", "origin", "propagation p50 / p99"):
            assert row in done.stdout
        assert "every promise was kept: 0 violations" in done.stdout
        assert reads_of(done.stdout) > 1_000

    def test_the_check_sees_what_was_not_invalidated(self, environment: dict[str, str]) -> None:
        """An editor that tells the cache nothing is found out: violations are counted, and the demo fails."""
        done = run(environment, "--no-redis", "--seconds", "2", "--mute")
        assert done.returncode == 1, done.stdout + done.stderr
        assert "FAILED" in done.stdout
        assert "broken promise at" in done.stdout

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    @pytest.mark.parametrize("redis", [False, True])
    def test_ctrl_c_leaves_nothing_behind(
        self, environment: dict[str, str], number: signal.Signals, redis: bool, request: pytest.FixtureRequest
    ) -> None:
        """Ctrl-C, which a terminal sends to every process of the group, ends them all."""
        if redis:
            request.getfixturevalue("redis_server")
        options = [] if redis else ["--no-redis"]
        with subprocess.Popen(
            [sys.executable, FLEET, *options],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            assert process.stdout is not None
            assert "workers" in process.stdout.readline()
            time.sleep(1.0)  # whatever it is doing then
            if number is signal.SIGINT:
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)
            rest = process.stdout.read()
            assert process.wait(30) == 130, rest
        assert "nothing is left behind" in rest
        assert "Traceback" not in rest

    @pytest.mark.parametrize("started", [1, 2, 3])
    def test_no_process_is_interrupted_half_started(self, environment: dict[str, str], started: int) -> None:
        """What ends the parent while it starts its processes ends it when they are started, without a traceback of theirs."""
        with subprocess.Popen(
            [sys.executable, FLEET, "--no-redis"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            deadline = time.monotonic() + 60
            while len(spawned(process.pid)) < started:
                assert time.monotonic() < deadline
            process.send_signal(signal.SIGTERM)
            rest, _ = process.communicate(timeout=60)
        assert process.returncode == 130, rest
        assert "nothing is left behind" in rest
        assert "Traceback" not in rest

    def test_a_worker_that_dies_is_a_failure(self, environment: dict[str, str], tmp_path: Path) -> None:
        """A run in which a process was killed from outside does not pass for a good one."""
        with subprocess.Popen(
            [sys.executable, FLEET, "--no-redis"], env=environment, stdout=subprocess.PIPE, text=True
        ) as process:
            deadline = time.monotonic() + 60
            while len(children := spawned(process.pid)) < 5:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            os.kill(children[0], signal.SIGKILL)
            rest, _ = process.communicate(timeout=60)
        assert process.returncode == 1, rest
        assert "FAILED" in rest

    @pytest.mark.fault
    @pytest.mark.parametrize("options", [(), ("--no-redis",)], ids=["redis", "disk"])
    def test_chaos_breaks_no_promise(
        self, environment: dict[str, str], options: tuple[str, ...], request: pytest.FixtureRequest
    ) -> None:
        """With Redis killed, emptied and paused, connections cut and a worker stopped, no read is older than promised."""
        if not options:
            request.getfixturevalue("redis_server")
        done = run(environment, "--chaos", *options)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "is stopped (SIGSTOP)" in done.stdout
        assert "every promise was kept: 0 violations" in done.stdout


def spawned(pid: int) -> list[int]:
    """The processes of the demo that hold a cache: its children that multiprocessing spawned."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.skipif(find_server() is None, reason="no redis-server is at hand")
def test_without_a_server_it_says_so(environment: dict[str, str], tmp_path: Path) -> None:
    """Where TIERCAST_REDIS_SERVER names none that runs, the demo works without Redis, and says so."""
    done = run({**environment, "TIERCAST_REDIS_SERVER": str(tmp_path / "none")}, "--seconds", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "without Redis, because no redis-server was found" in done.stdout.replace("\n", " ")
