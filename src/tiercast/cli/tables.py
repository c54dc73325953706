"""Tables for terminals of any width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from ..observing.fleet import Process
from .session import escape

WIDE = 120
"""Columns from which on a table shows everything."""


def table(*columns: str, right: Sequence[str] = (), title: str | None = None) -> Table:
    """Return an empty table; `right` columns are of numbers."""
    made = Table(box=None, pad_edge=False, title=title, title_justify="left", header_style="bold")
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return made


def fleet_table(name: str, fleet: Sequence[Process], width: int) -> Table:
    """Return the processes of a fleet, with as many figures as there is room for."""
    live = sum(process.alive for process in fleet)
    numbers = ["position", "lag", "proven", "hits", "L1", "L2", "L3", "entries", "lookups", "errors", "heard"]
    columns = ["process", "state", "position", "lag", "proven", "hits", "entries", "version"]
    if width >= WIDE:
        columns = [
            "process", "state", "position", "lag", "proven", "hits", "L1", "L2", "L3", "lookups", "entries", "errors",
            "outbox", "heard", "epoch", "version",
        ]  # fmt: skip
    gone = f", {len(fleet) - live} gone" if live < len(fleet) else ""
    made = table(*columns, right=numbers, title=f"fleet [bold]{escape(name)}[/bold]: {live} live{gone}")
    for process in fleet:
        lookups = process.hits + process.misses
        cells = {
            "process": escape(f"{process.host}:{process.pid}"),
            "state": state_of(process),
            "position": str(process.position),
            "lag": "?" if process.lag is None else str(process.lag),
            "proven": seconds(process.proven_age),
            "hits": percent(process.hit_rates.get("overall") if lookups else None),
            "L1": percent(process.hit_rates.get("local") if lookups else None),
            "L2": percent(process.hit_rates.get("disk") if lookups else None),
            "L3": percent(process.hit_rates.get("remote") if lookups else None),
            "lookups": str(lookups),
            "entries": str(process.sizes.get("local", "")),
            "errors": str(process.errors),
            "outbox": "waiting" if process.waiting else "empty",
            "heard": seconds(process.heard),
            "epoch": escape(process.epoch[:8]),
            "version": escape(process.version) or "?",
        }
        made.add_row(*(cells[column] for column in columns))
    return made


def state_of(process: Process) -> str:
    """Return in one word how a process is."""
    if not process.alive:
        return "[red]gone[/red]"
    if process.lag is None:
        return "[yellow]behind[/yellow]"
    return "[yellow]queueing[/yellow]" if process.waiting else "[green]live[/green]"


def percent(part: float | None) -> str:
    """Return a part of one as a percentage."""
    return "-" if part is None else f"{part:.1%}"


def seconds(number: float | None) -> str:
    """Return a duration in the unit that suits it."""
    if number is None:
        return "-"
    if number == float("inf"):
        return "no end"
    for limit, unit, size in ((1.0, "ms", 0.001), (120.0, "s", 1.0), (7200.0, "min", 60.0), (172_800.0, "h", 3600.0)):
        if abs(number) < limit:
            return f"{number / size:.{0 if unit == 'ms' else 1}f} {unit}"
    return f"{number / 86_400:.1f} d"


def size(count: int) -> str:
    """Return bytes in the unit that suits them."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1024 or unit == "GB":
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError


def totals(fleet: Sequence[Process]) -> dict[str, Any]:
    """Return the figures of the live processes together."""
    living = [process for process in fleet if process.alive]
    hits, misses = sum(each.hits for each in living), sum(each.misses for each in living)
    return {
        "processes": len(living),
        "hits": hits,
        "misses": misses,
        "hit_rate": hits / (hits + misses) if hits + misses else 0.0,
        "entries": sum(each.sizes.get("local", 0) for each in living),
        "errors": sum(each.errors for each in living),
        "most_lag": max((each.lag for each in living if each.lag is not None), default=None),
        "oldest_proof": max((each.proven_age for each in living if each.proven_age is not None), default=None),
        "outbox_waiting": any(each.waiting for each in living),
        "versions": sorted({each.version for each in living if each.version}),
    }
