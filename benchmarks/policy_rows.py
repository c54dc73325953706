"""Rows 14 and 15: hit ratios on published traces, by the real memory tier."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from measure import Row, Settings, Spread
from replay import read_trace, replay_tier, size_of

TRACES = {"arc_oltp": "arc_oltp.keys.gz", "scarab_recs": "scarab_recs.keys.gz", "web12": "web12.keys.gz",
          "lirs_gli": "lirs_gli.keys.gz"}  # fmt: skip
LRU_OLTP = {250: 16.47, 500: 23.45, 1000: 32.83, 2000: 42.47}
"""LRU on arc_oltp: published with Caffeine, and exact."""
ARC_OLTP = {250: 21.46, 500: 30.61, 1000: 39.06, 2000: 46.17}
"""ARC on arc_oltp (Megiddo and Modha, FAST 2003), measured in Caffeine's simulator."""
BEST_SCARAB = {"0.1%": 22.0, "1%": 42.0, "10%": 62.0}
OWN = ("lru", "s3fifo", "sieve")
ALL = ("lru", "s3fifo", "sieve", "lfu", "fifo", "random")
PARTS = ("0.1%", "1%", "10%")


def ratios(settings: Settings) -> Iterator[Row]:
    """Rows 14 and 15; nothing where the traces are not at hand."""
    for name in ("arc_oltp",) if settings.quick else ("arc_oltp", "scarab_recs"):
        path = settings.traces and Path(settings.traces) / TRACES[name]
        if not path or not path.exists():
            yield Row("14" if name == "arc_oltp" else "15", f"hit ratio, {name}", Spread.exactly(0.0),
                      unit="", note="not measured: --traces DIRECTORY names the traces; they are not part of this repository")  # fmt: skip
            continue
        keys = read_trace(path)
        yield from _oltp(settings, keys) if name == "arc_oltp" else _scarab(settings, keys)


def _oltp(settings: Settings, keys: list[str]) -> Iterator[Row]:
    sizes = (1000,) if settings.quick else tuple(LRU_OLTP)
    found = {(policy, size): replay_tier(keys, policy, size).ratio for policy in ("lru", "s3fifo") for size in sizes}
    for size in sizes:
        yield Row(f"14.{size}", f"hit ratio of lru on arc_oltp at {size} entries, percent (exactly)",
                  Spread.exactly(found["lru", size]), LRU_OLTP[size], exact=True, unit="%")  # fmt: skip
    for size in sizes:
        best = max(OWN, key=lambda policy: found.get((policy, size), 0.0))
        yield Row(
            f"14.{size}.best", f"hit ratio of our best policy ({best}) there; target: what ARC finds, less one point",
            Spread.exactly(found[best, size]), ARC_OLTP[size] - 1, at_most=False, unit="%",
        )  # fmt: skip


def _scarab(settings: Settings, keys: list[str]) -> Iterator[Row]:
    unique = len(set(keys))
    for part in PARTS:
        found = replay_tier(keys, "s3fifo", size_of(part, unique))
        yield Row(
            f"15.{part}", f"hit ratio of our best policy (s3fifo) on scarab_recs at {part} of its keys",
            Spread.exactly(found.ratio), BEST_SCARAB[part], at_most=False, unit="%",
        )  # fmt: skip


def table(traces: Path) -> dict[str, Any]:
    """Every policy on every trace: what docs/policies.md shows, with the requests a second of each."""
    result: dict[str, Any] = {}
    for name, file in TRACES.items():
        path = traces / file
        if not path.exists():
            continue
        keys = read_trace(path)
        unique = len(set(keys))
        sizes = ["250", "500", "1000", "2000"] if name == "lirs_gli" else list(PARTS)
        rows = {policy: [replay_tier(keys, policy, size_of(size, unique)) for size in sizes] for policy in ALL}
        result[name] = {
            "requests": len(keys), "unique": unique, "sizes": sizes,
            "ratios": {policy: [found.ratio for found in line] for policy, line in rows.items()},
            "rates": {policy: line[-1].rate for policy, line in rows.items()},
        }  # fmt: skip
    return result
