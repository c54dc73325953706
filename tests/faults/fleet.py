"""Four workers, what is done to them, and what came of it."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import watchdog
from faults.board import AUDIT, END, KEYS, QUIET, RUN, STATS, WORKERS, Board
from faults.worker import Settings, name_of, place_of
from redis_process import wait_until
from tiercast import CacheManager

SECONDS = float(os.environ.get("FAULT_SECONDS", "5"))
"""How long each kind of fault is injected."""
SEED = int(os.environ.get("FAULT_SEED", "20240"))
MAX_STALENESS = 1.5
HEARTBEAT = 0.3
TESTS = Path(__file__).resolve().parent.parent


@dataclass
class Report:
    """One line of the table that is printed in the end."""

    fault: str
    bound: float
    faults: int
    counts: dict[str, int]
    lost: int
    notes: str = ""

    @property
    def worst(self) -> float:
        return self.counts["worst"] / 1e9

    def line(self) -> str:
        get = self.counts.__getitem__
        return (
            f"{self.fault:34} {get('reads'):>9,} {get('hits'):>9,} {get('writes'):>6,} {self.faults:>6} {get('older'):>7,} "
            f"{self.worst:>8.3f} {self.bound:>6.1f} {get('broken'):>6} {self.lost:>5}   "
            f"{get('gaps')}/{get('epoch_changes')}/{get('drops')}/{get('replayed')}/{get('fills_refused')}"
        )


HEADING = (
    f"{'fault':34} {'reads':>9} {'in memory':>9} {'writes':>6} {'faults':>6} {'older':>7} {'worst s':>8} {'bound':>6} "
    f"{'broken':>6} {'lost':>5}   gaps/epochs/drops/replayed/refused"
)
REPORTS: list[Report] = []


@dataclass
class Fleet:
    """Four worker processes on two hosts (or, without Redis, on one), which run while the context is open.

    Args:
        directory: the run's own.
        urls: where each worker finds Redis; None: the disk log carries the invalidations.
        bound: seconds; the staleness that is promised.
        writers: how many of the workers write.
    """

    directory: Path
    urls: Sequence[str] | None
    bound: float = MAX_STALENESS
    mutant: str = ""
    writers: int = WORKERS
    seed: int = SEED
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    faults: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.board = Board.create(self.directory / "board")
        for host in (0, 1):
            (self.directory / f"host-{host}").mkdir()

    def settings(self, member: int) -> Settings:
        return Settings(
            directory=str(self.directory),
            member=member,
            seed=self.seed,
            url=self.urls[member % len(self.urls)] if self.urls else None,
            host=member % 2 if self.urls else 0,
            max_staleness=MAX_STALENESS,
            heartbeat=HEARTBEAT,
            bound=self.bound,
            mutant=self.mutant,
            writes=member < self.writers,
        )

    # -- workers ----------------------------------------------------------------------------

    def start(self, member: int) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, sys.path)])}
        with (self.directory / f"stderr-{member}").open("ab") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-W", "error", "-m", "faults.worker", self.settings(member).to_json()],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                start_new_session=True,
            )
        watchdog.guard_process(process.pid)
        self.processes[member] = process

    def kill(self, member: int) -> None:
        process = self.processes.pop(member)
        process.kill()
        watchdog.release_process(process.pid)
        process.wait()

    def signal(self, member: int, number: signal.Signals) -> None:
        os.kill(self.processes[member].pid, number)

    def __enter__(self) -> Self:
        for member in range(WORKERS):
            self.start(member)
        self.board.phase = RUN
        self.wait(lambda: all(self.board.stat(member, "reads") for member in range(WORKERS)), "reads by all")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            for process in self.processes.values():
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGCONT)
                    process.send_signal(signal.SIGUSR1)  # tracebacks of all threads
            time.sleep(0.3)
        for member in list(self.processes):
            self.kill(member)
        if kind is not None:
            sys.stdout.write(self.words())
        self.board.close()

    def wait(self, holds: Callable[[], object], what: str, seconds: float = 40.0) -> None:
        """Wait for something of the board while every worker lives."""

        def checked() -> bool:
            self.all_alive()
            return bool(holds())

        wait_until(checked, seconds, what)

    def all_alive(self) -> None:
        ended = {member: process.poll() for member, process in self.processes.items()}
        assert not any(status is not None for status in ended.values()), f"a worker ended: {ended}\n{self.words()}"

    def words(self) -> str:
        """What the workers left for whoever looks for the reason."""
        files = [self.directory / "broken", *(self.directory / f"stderr-{member}" for member in range(WORKERS))]
        return "\n".join(f"--- {file.name}\n{file.read_text()[-6000:]}" for file in files if file.exists())

    # -- injecting --------------------------------------------------------------------------

    def inject(self, *faults: Callable[[], None], least: float = 0.3, most: float = 1.0) -> None:
        """For the run's seconds, do one of the faults after the other at random moments."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            self.pause(least, most)
            self.random.choice(faults)()
            self.faults += 1
            self.all_alive()
        self.pause(least, most)

    def pause(self, least: float, most: float) -> None:
        time.sleep(self.random.uniform(least, most))

    # -- the end ----------------------------------------------------------------------------

    def finish(self, fault: str) -> Report:
        """Let everything settle, have every worker compare every key with the origin, and report."""
        board = self.board
        board.phase = QUIET
        self.wait(lambda: board.total("settled") == WORKERS, "workers that have settled")
        untold = [key for key in range(KEYS) if board.told[key] != board.committed[key]]
        assert not untold, f"nobody told the cache of {untold}"
        board.phase = AUDIT
        self.wait(lambda: board.total("audited") == WORKERS, "workers that have compared")
        board.phase = END
        for process in self.processes.values():
            assert process.wait(20) == 0, self.words()
        differing = board.total("differing") + self.differing_below()
        counts = {name: board.total(name) for name in STATS}
        counts["worst"] = max(board.stat(member, "worst") for member in range(WORKERS))
        report = Report(fault, self.bound, self.faults, counts, differing)
        REPORTS.append(report)
        return report

    def differing_below(self) -> int:
        """Keys of which a process that starts now finds another version on disk or in Redis than the origin's."""
        count = 0
        for host in sorted({self.settings(member).host for member in range(WORKERS)}):
            with CacheManager(self.settings(host).config()) as cache:
                for key in range(KEYS):
                    value = cache.get(name_of(key), **place_of(key))
                    count += value is not None and value["version"] != self.board.committed[key]
        return count

    def verify(self, report: Report) -> None:
        """The promises: no read beyond the bound, none older than what its process invalidated, nothing lost, no error."""
        counts = report.counts
        wrong = {name: counts[name] for name in ("broken", "errors") if counts[name]} | (
            {"lost": report.lost} if report.lost else {}
        )
        assert not wrong, f"{report.fault} (FAULT_SEED={self.seed}): {wrong}\n{self.words()}"
        assert counts["reads"] > 1000
        assert counts["writes"] > 100
