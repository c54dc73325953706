"""What a run of the demo comes to: figures, tables and the verdict."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fleet_worker import TIERS
from rich.console import Console
from rich.table import Table

TITLES = {
    "memory": "memory (L1)",
    "disk": "disk (L2)",
    "remote": "Redis (L3)",
    "waited": "another's load",
    "origin": "origin",
}
SHARP = 1_000_000
"""Nanoseconds between two looks at a canary beyond which a worker was elsewhere, and its time says nothing."""


@dataclass
class Fault:
    """Something that was done to the fleet: when (monotonic nanoseconds), and what."""

    title: str
    at: int
    worst: int = 0
    older: int = 0


@dataclass
class Result:
    """All figures of a run."""

    begun: int
    seconds: float
    redis: bool
    max_staleness: float
    edits: int
    queued: int
    faults: list[Fault] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TIERS, 0))
    times: dict[str, list[int]] = field(default_factory=lambda: {tier: [] for tier in TIERS})
    older: list[tuple[int, int]] = field(default_factory=list)
    broken: list[tuple[int, str]] = field(default_factory=list)
    propagation: list[int] = field(default_factory=list)
    canaries: int = 0
    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    """What the library logged, each text once."""

    @property
    def reads(self) -> int:
        return sum(self.counts.values())

    def collect(self, directory: Path, workers: int) -> None:
        """Read what the processes wrote down."""
        self.failures += [path.read_text() for path in sorted(directory.glob("failure-*"))]
        logged = [line for path in sorted(directory.glob("log-*")) for line in path.read_text().splitlines()]
        self.warnings = list(dict.fromkeys(logged))
        seen: list[list[int]] = []
        for worker in range(workers):
            path = directory / f"report-{worker}.json"
            if not path.exists():
                self.failures.append(f"worker {worker} left no report")
                continue
            report: dict[str, Any] = json.loads(path.read_text())
            for tier in TIERS:
                self.counts[tier] += report["counts"][tier]
                self.times[tier] += report["times"][tier]
            self.older += [(begun, age) for begun, age in report["older"]]
            self.broken += [(begun, what) for begun, what in report["broken"]]
            seen += report["canaries"]
        self._collect_canaries(directory / "canaries", seen)
        for begun, age in self.older:
            for fault in reversed(self.faults):
                if begun >= fault.at:
                    fault.older += 1
                    fault.worst = max(fault.worst, age)
                    break
        if not self.reads:
            self.failures.append("nothing was read")

    def _collect_canaries(self, path: Path, seen: list[list[int]]) -> None:
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        sent = {int(number): int(at) for number, at in lines}
        self.canaries = len(sent)
        for number, alive, dead in seen:
            if number in sent and dead >= sent[number] and dead - max(alive, sent[number]) <= SHARP:
                self.propagation.append(dead - sent[number])

    @property
    def good(self) -> bool:
        return not self.failures and not self.broken


def quantile(values: list[int], part: float) -> float | None:
    """The value below which `part` of the values lie."""
    return sorted(values)[min(len(values) - 1, int(len(values) * part))] if values else None


def span(nanoseconds: float | None) -> str:
    """A time as people read it."""
    if nanoseconds is None:
        return "-"
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if nanoseconds >= size:
            return (
                f"{nanoseconds / size:.3g} {unit}" if nanoseconds < 100 * size else f"{nanoseconds / size:.0f} {unit}"
            )
    return f"{nanoseconds:.0f} ns"


def show(console: Console, result: Result) -> None:
    """Print the tables and the verdict."""
    console.print(_tiers(result))
    console.print(_summary(result))
    if result.faults:
        console.print(_faults(result))
    for begun, what in sorted(result.broken)[:5]:
        console.print(f"[red]broken promise[/] at {(begun - result.begun) / 1e9:.1f} s: {what}")
    if not result.faults:  # where something was done to the fleet, warnings are as they should be
        for warning in result.warnings[:5]:
            console.print("warning:", warning, style="yellow", markup=False)
    for failure in result.failures[:3]:
        console.print("failed:", failure, style="red", markup=False)
    if len(result.failures) > 3:
        console.print(f"… and {len(result.failures) - 3} more", style="red")
    verdict = "[bold green]every promise was kept[/]" if result.good else "[bold red]FAILED[/]"
    console.print(f"{verdict}: {len(result.broken)} violations in {result.reads:,} reads and {result.edits:,} edits")


def _tiers(result: Result) -> Table:
    table = Table(title="Where the answers came from", title_justify="left")
    table.add_column("tier")
    for name in ("reads", "share", "p50", "p99"):
        table.add_column(name, justify="right")
    for tier in TIERS:
        if tier == "remote" and not result.redis:
            continue
        count, times = result.counts[tier], result.times[tier]
        share = f"{100 * count / max(1, result.reads):.2f} %"
        table.add_row(TITLES[tier], f"{count:,}", share, span(quantile(times, 0.5)), span(quantile(times, 0.99)))
    return table


def _summary(result: Result) -> Table:
    table = Table(title="What it came to", title_justify="left", show_header=False)
    table.add_column(overflow="fold")
    table.add_column(justify="right")
    table.add_row("reads a second", f"{result.reads / result.seconds:,.0f}")
    loads = result.counts["origin"]
    spared = result.reads - loads
    table.add_row("loads that the origin was spared", f"{spared:,} ({100 * spared / max(1, result.reads):.2f} %)")
    table.add_row("edits, each invalidated", f"{result.edits:,}")
    if result.queued:
        table.add_row("… of them made while Redis was away, and queued", f"{result.queued:,}")
    p50, p99 = quantile(result.propagation, 0.5), quantile(result.propagation, 0.99)
    name = f"propagation p50 / p99 ({result.canaries:,} canaries, {len(result.propagation):,} sightings)"
    table.add_row(name, f"{span(p50)} / {span(p99)}")
    worst = max((age for _, age in result.older), default=0)
    name = "reads older than an edit acknowledged before they began"
    if result.redis:
        table.add_row(name, f"{len(result.older):,}")
        table.add_row("… the oldest of them, by", span(worst) if result.older else "-")
        ages = [age for _, age in result.older]
        table.add_row("… p50 / p99 of their ages", f"{span(quantile(ages, 0.5))} / {span(quantile(ages, 0.99))}")
        bound = f"violations: older by more than {result.max_staleness:g} s, or than what it knew"
    else:
        table.add_row(name, f"{len(result.older):,}")
        bound = "violations: any such read (the disk log has no delay)"
    colour = "red" if result.broken else "green"
    table.add_row(bound, f"[bold {colour}]{len(result.broken):,}[/]")
    return table


def _faults(result: Result) -> Table:
    table = Table(title="What was done to it, and what was read from then on to the next", title_justify="left")
    table.add_column("at", justify="right")
    table.add_column("fault", overflow="fold")
    table.add_column("older reads", justify="right")
    table.add_column("the oldest, by", justify="right")
    for fault in result.faults:
        at = f"{(fault.at - result.begun) / 1e9:.1f} s"
        table.add_row(at, fault.title, f"{fault.older:,}", span(fault.worst) if fault.older else "-")
    return table
