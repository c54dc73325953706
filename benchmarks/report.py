"""What a run becomes: lines for the terminal, JSON, docs/benchmarks.md and its plots."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import plots
import stampede_rows
from measure import Row, Settings

PACKAGES = (
    "tiercast", "redis", "orjson", "diskcache", "cachetools", "cachebox", "theine", "moka-py", "lru-dict",
    "dogpile.cache", "cashews", "aiocache", "async-lru",
)  # fmt: skip
NOTES = Path(__file__).with_name("notes.md")
"""What figures alone do not say: read before the tables, and kept by hand."""


def machine(settings: Settings) -> dict[str, Any]:
    """Where it ran: nothing that names this very machine."""
    found: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "python": f"{platform.python_implementation()} {platform.python_version()} ({platform.python_compiler()})",
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "redis-server": _redis_version(settings),
    }
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    named = re.search(r"model name\s*:\s*(.+)", text)
    return named[1].strip() if named else platform.processor()


def _redis_version(settings: Settings) -> str | None:
    if settings.redis is None:
        return None
    with settings.redis.client() as client:
        return str(client.info("server")["redis_version"])


def verdict(row: Row) -> str:
    if row.target is None:
        return ""
    return "met" if row.met else "missed"


def figure(row: Row) -> str:
    """The figure with its quartiles, as short as they allow."""

    def short(value: float) -> str:
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"

    if row.unit == "%":
        return f"{row.figure.middle:.2f} %"
    text = f"{short(row.figure.middle)}{' ' if len(row.unit) > 1 else ''}{row.unit}"
    if row.figure.low == row.figure.high:
        return text
    return f"{text} ({short(row.figure.low)}-{short(row.figure.high)})"


def target(row: Row) -> str:
    if row.target is None:
        return ""
    sign = "=" if row.exact else "≤" if row.at_most else "≥"
    return f"{sign} {row.target:,g}"


def line(row: Row) -> str:
    """One line for the terminal."""
    return f"{verdict(row):7}{row.number:18}{figure(row):28}{target(row):11}{row.measured:30} {row.what}"


def markdown(
    rows: Sequence[Row], parts: Mapping[str, float], below: Mapping[str, float], where: Mapping[str, Any], command: str
) -> str:
    """docs/benchmarks.md."""
    judged = [row for row in rows if row.target is not None]
    missed = [row for row in judged if not row.met]
    out = [
        "# Benchmarks",
        "",
        "<!-- Written by `make bench`. What is said around the tables comes from benchmarks/notes.md. -->",
        "",
        *_notes("before"),
        f"Of {len(judged)} figures that have a target, {len(judged) - len(missed)} meet it and {len(missed)} miss it.",
        "",
        "| row | what : beside what | figure (quartiles) | target | | in themselves |",
        "|---|---|---|---|---|---|",
    ]
    out += [
        f"| {row.number} | {_cell(row.what)}{f'; {row.note}' if row.note else ''} | {figure(row)} | {target(row)} "
        f"| {'**missed**' if verdict(row) == 'missed' else verdict(row)} | {row.measured} |"
        for row in rows
        if not _peer(row)
    ]
    out += ["", "## Peers without a target", "", *_notes("peers")]
    out += ["| what : beside what | quotient (quartiles) | in themselves |", "|---|---|---|"]
    out += [
        f"| {_cell(row.what)}{f' ({row.note})' if row.note else ''} | {figure(row)} | {row.measured} |"
        for row in rows
        if _peer(row)
    ]
    out += [
        "",
        "![Hits in memory](img/hits.svg)",
        "",
        "![Hits of decorated functions](img/decorated.svg)",
        "",
        "![Awaited hits](img/awaited.svg)",
        "",
        "![Growth](img/growth.svg)",
        "",
        "## Where the time of a hit goes",
        "",
        "| part | ns |",
        "|---|---|",
        *(f"| {name} | {value:.0f} |" for name, value in parts.items()),
        f"| **together** | **{sum(parts.values()):.0f}** |",
        "",
        "## Where the time of a hit below goes",
        "",
        *_notes("below"),
        "| part | µs |",
        "|---|---|",
        *(f"| {name.strip()} | {value:.2f} |" for name, value in below.items()),
        "",
        *_notes("after"),
        "## Where this was measured",
        "",
        f"    {command}",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in where.items() if value is not None),
        "",
    ]
    return "\n".join(out)


def _peer(row: Row) -> bool:
    return row.target is None and not row.number.startswith(("14", "15", "19"))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _notes(part: str) -> list[str]:
    """One part of the notes: what stands below its `<!-- part -->`."""
    if not NOTES.exists():
        return []
    pieces = re.split(r"<!-- (\w+) -->\n", NOTES.read_text(encoding="utf-8"))
    found = dict(zip(pieces[1::2], pieces[2::2], strict=True)).get(part, "").strip()
    return [found, ""] if found else []


def draw(settings: Settings, directory: Path) -> None:
    """The plots of what was measured."""
    directory.mkdir(parents=True, exist_ok=True)
    figures = settings.figures
    titles = {
        "hits": "One hit in memory",
        "decorated": "One hit of a decorated function",
        "awaited": "One awaited hit in memory",
    }
    for name, title in titles.items():
        if name in figures:
            values = {each: seconds * 1e9 for each, seconds in figures[name].items()}
            (directory / f"{name}.svg").write_text(plots.bars(title, values, "ns"), encoding="utf-8")
    if "growth" in figures:
        growth = figures["growth"]
        across = [f"{size:,}" for size in growth["sizes"]]
        values = {name: [each / growth[name][0] for each in growth[name]] for name in ("get", "set")}
        text = plots.lines(
            "Growth against a dict of the same size (first size = 1)", across, values, "entries in memory"
        )
        (directory / "growth.svg").write_text(text, encoding="utf-8")
    if "stampede" in figures:
        stampede_rows.draw(figures["stampede"], directory)
