"""A fleet under edits: four workers look airports up through three tiers while an editor changes them.

    python examples/fleet.py [--chaos] [--seconds 20] [--no-redis]

The airports (some 28,000) of the package airportsdata stand in an SQLite file whose answers take about 5 ms. Workers read
them by Zipf's law through memory, disk and Redis; with Redis, two workers each play one host with a disk of its own.
An editor commits changes and invalidates them by key, tag and pattern. Every single read is compared with the last
edit that had been acknowledged before it began. Ends with 1 where a promise was broken, a process died, or nothing
was read; Ctrl-C leaves nothing behind.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Self

import airportsdata
from fleet_board import Board, Origin
from fleet_editor import edit
from fleet_report import Fault, Result, show
from fleet_server import Server, find_server
from fleet_worker import TIERS, Settings, run, work
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

AIRPORTS = 28_298
PATIENCE = 10.0
"""Seconds that processes may take to end by themselves."""
ENDING = (signal.SIGTERM, signal.SIGHUP)
"""What ends the demo as Ctrl-C does."""

Plan = list[tuple[float, str, Callable[[], object]]]
"""What happens to the fleet: (part of the time that has passed, what, how)."""


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="how long the fleet works (default: 20)")
    parser.add_argument("--workers", type=int, default=4, help="worker processes (default: 4)")
    parser.add_argument("--threads", type=int, default=4, help="reading threads of each (default: 4)")
    parser.add_argument("--edits", type=float, default=50.0, help="edits a second (default: 50)")
    parser.add_argument("--no-redis", action="store_true", help="memory and disk only, with the disk log as the bus")
    parser.add_argument("--chaos", action="store_true", help="kill Redis, cut connections and stop a worker meanwhile")
    parser.add_argument(
        "--mute", action="store_true", help="edit, but invalidate nothing: shows that the check sees it"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the look-ups and edits")
    args = parser.parse_args(given)
    if args.seconds <= 0 or args.workers < 1 or args.threads < 1 or args.edits <= 0:
        parser.error("--seconds, --workers, --threads and --edits must be positive")
    return args


class Fleet:
    """The processes of one run, and what they share. Leave its context, and nothing of it is left."""

    def __init__(self, args: argparse.Namespace, console: Console) -> None:
        self.args = args
        self.console = console
        self.processes: list[BaseProcess] = []
        self.server: Server | None = None
        self.faults: list[Fault] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _build(self) -> None:
        args = self.args
        directory = Path(tempfile.mkdtemp(prefix="tiercast-fleet-"))
        self._stack.callback(shutil.rmtree, directory, ignore_errors=True)
        binary = None if args.no_redis else find_server()
        if binary is not None:
            self.server = Server(binary, directory / "redis")
            self._stack.callback(self.server.kill)
            self.server.start()
        self._introduce()
        airports = airportsdata.load()
        if len(airports) != AIRPORTS:
            self.console.print(f"[yellow]airportsdata {version('airportsdata')} has {len(airports):,} airports[/]")
        Origin.build(directory / "origin.sqlite3", airports).close()
        self.settings = Settings(
            directory=directory,
            redis_url=self.server.url if self.server else None,
            airports=len(airports),
            workers=args.workers,
            max_staleness=2.0 if args.chaos or args.mute else 5.0,
            heartbeat=0.5 if args.chaos or args.mute else 1.0,
            edits=args.edits,
            threads=args.threads,
            mute=args.mute,
            seed=args.seed,
            parent=os.getpid(),
        )
        self.board: Board = self.settings.board()
        self._stack.callback(self.board.close)
        self._stack.callback(self._end_processes)
        context = multiprocessing.get_context("spawn")
        resource_tracker.ensure_running()  # it unblocks SIGINT as it starts
        with shielded_children():
            for member in range(args.workers + 1):
                task = work if member < args.workers else edit
                name = f"worker-{member}" if task is work else "editor"
                process = context.Process(target=run, args=(task, self.settings, member), name=name)
                process.start()
                self.processes.append(process)

    def _introduce(self) -> None:
        workers, say = self.args.workers, self.console.print
        if self.server is not None:
            say(
                f"{workers} workers on two played hosts; memory, disk and Redis {self.server.version}; Redis is the bus"
            )
            return
        why = "as asked" if self.args.no_redis else "because no redis-server was found (make fetches one)"
        say(f"{workers} workers; memory and disk [bold]without Redis[/], {why}; the disk log is the bus")

    def wait_until_ready(self) -> None:
        """Wait until every worker has proven its cache.

        Raises:
            RuntimeError: one ended, or takes too long.
        """
        deadline = time.monotonic() + 60
        while self.board.total("ready") < self.settings.workers:
            dead = [process.name for process in self.processes if not process.is_alive()]
            if dead or time.monotonic() > deadline:
                self._show_failures()
                raise RuntimeError(f"not ready: {', '.join(dead) or 'the workers take too long'}")
            time.sleep(0.02)

    def _show_failures(self) -> None:
        for path in sorted(self.settings.directory.glob("failure-*")):
            self.console.print(path.read_text(), markup=False)

    def watch(self) -> Result:
        """Let the fleet work, do to it what the plan says, and return what came of it."""
        plan = self.chaos() if self.args.chaos else []
        total = self.args.seconds
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), TimeRemainingColumn(compact=True))
        begun = time.monotonic()
        self.board["go"] = 1
        with Progress(*columns, console=self.console, expand=True, refresh_per_second=5) as progress:
            task = progress.add_task(self.describe(), total=total)
            while (passed := time.monotonic() - begun) < total and all(p.is_alive() for p in self.processes):
                while plan and passed >= plan[0][0] * total:
                    _, title, do = plan.pop(0)
                    progress.console.print(f"[dim]{passed:5.1f} s[/]  {title}")
                    self.faults.append(Fault(title, time.monotonic_ns()))
                    do()
                progress.update(task, completed=passed, description=self.describe())
                time.sleep(0.05)
            progress.update(task, completed=total, description=self.describe())
        seconds = time.monotonic() - begun
        result = Result(
            begun=int(begun * 1e9),
            seconds=seconds,
            redis=self.server is not None,
            max_staleness=self.settings.max_staleness,
            edits=self.board["edits"],
            queued=self.board["queued"],
            faults=self.faults,
        )
        result.failures += [f"{p.name} died ({p.exitcode})" for p in self.processes if not p.is_alive()]
        self._end_processes()
        result.failures += [f"{p.name} ended with {p.exitcode}" for p in self.processes if p.exitcode]
        result.collect(self.settings.directory, self.settings.workers)
        return result

    def describe(self) -> str:
        board = self.board
        reads = sum(board.total(tier) for tier in TIERS)
        spared = 100 * (1 - board.total("origin") / reads) if reads else 0.0
        return f"{reads:,} reads, {spared:.1f} % spared, {board['edits']:,} edits, {board.total('broken')} violations"

    def chaos(self) -> Plan:
        """What is done to the fleet, and when."""
        stopped = random.Random(self.args.seed).choice(self.processes[: self.settings.workers])
        pause = (self.settings.max_staleness + 1) / self.args.seconds
        plan: Plan = [
            (0.22, f"{stopped.name} is stopped (SIGSTOP)", lambda: os.kill(stopped.pid or 0, signal.SIGSTOP)),
            (min(0.9, 0.22 + pause), f"{stopped.name} goes on", lambda: os.kill(stopped.pid or 0, signal.SIGCONT)),
        ]
        server = self.server
        if server is not None:
            plan += [
                (0.08, "subscribers are cut off (CLIENT KILL TYPE pubsub)", lambda: cut(server, "pubsub")),
                (0.15, "everyone is cut off (CLIENT KILL TYPE normal)", lambda: cut(server, "normal")),
                (0.45, "Redis is paused (SIGSTOP): nothing answers", server.pause),
                (min(0.9, 0.45 + pause), "Redis goes on", server.resume),
                (0.7, "Redis is killed (SIGKILL)", server.kill),
                (0.8, "Redis is started, empty", server.start),
                (0.9, "Redis is killed and started empty at once", server.restart),
            ]
        return sorted(plan, key=lambda step: step[0])

    def _end_processes(self) -> None:
        """Ask the processes to end, and make those that do not."""
        self.board["stop"] = 1
        for process in self.processes:
            if process.is_alive():
                os.kill(process.pid or 0, signal.SIGCONT)
        deadline = time.monotonic() + PATIENCE
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        for process in self.processes:
            if process.is_alive():
                process.kill()
                process.join()


@contextmanager
def shielded_children() -> Iterator[None]:
    """Start processes inside: the parent ends them in order, all or none of them started.

    Ctrl-C, which a terminal sends to every process of the group, is kept from them for good; from the parent, and
    with it what else ends it, until they are started.
    """
    came: list[int] = []
    handlers = {number: signal.signal(number, lambda number, frame: came.append(number)) for number in ENDING}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if came:
        raise KeyboardInterrupt


def cut(server: Server, kind: str) -> None:
    """Close all connections of a kind, as a network does."""
    server.execute("CLIENT", "KILL", "TYPE", kind)


def interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    args = arguments()
    console = Console(highlight=False)
    for number in ENDING:
        signal.signal(number, interrupt)
    try:
        with Fleet(args, console) as fleet:
            fleet.wait_until_ready()
            result = fleet.watch()
    except KeyboardInterrupt:
        console.print("stopped; nothing is left behind")
        return 130
    except RuntimeError as exc:
        console.print(f"[bold red]FAILED[/]: {exc}")
        return 1
    show(console, result)
    return 0 if result.good else 1


if __name__ == "__main__":
    sys.exit(main())
