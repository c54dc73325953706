"""The tables and plots of docs/policies.md; its words are written by hand, around the markers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import plots
from policy_rows import ALL, table

PEERS = {
    "arc_oltp": {"optimum": (35.0, 59.8, 76.2), "arc": (17.6, 45.4, 67.3)},
    "scarab_recs": {"optimum": (33.8, 53.4, 75.0), "arc": (22.0, 40.8, 62.3)},
    "web12": {"optimum": (34.2, 58.5, 80.0), "arc": (16.9, 40.8, 70.9)},
    "lirs_gli": {"optimum": (17.71, 34.33, 53.15, 57.96)},
}
"""Percent at the same sizes: Belady's optimum, which knows the future, and ARC, which is patented and not here."""


def write(traces: Path, output: Path) -> None:
    """Put new tables between the markers of docs/policies.md; nothing where page or traces are not at hand."""
    page = output / "policies.md"
    found = table(traces) if traces.is_dir() else {}
    if not found or not page.exists():
        return
    text = page.read_text(encoding="utf-8")
    written = "\n".join(_lines(found))
    text = re.sub(
        r"(<!-- tables -->\n).*?(<!-- end of tables -->)",
        lambda match: match[1] + written + match[2],
        text,
        flags=re.DOTALL,
    )
    page.write_text(text, encoding="utf-8")
    for name, trace in found.items():
        values = {policy: trace["ratios"][policy] for policy in ALL}
        values["optimum"] = list(PEERS[name]["optimum"])
        plot = plots.lines(
            f"{name}: hit ratio in percent", trace["sizes"], values, "entries, or part of the distinct keys"
        )
        (output / "img" / f"policies-{name}.svg").write_text(plot, encoding="utf-8")


def _lines(found: dict[str, Any]) -> list[str]:
    out: list[str] = []
    for name, trace in found.items():
        sizes = trace["sizes"]
        out += [
            f"**{name}**: {trace['requests']:,} requests of {trace['unique']:,} keys.",
            "",
            f"| policy | {' | '.join(sizes)} | requests/s |",
            f"|---|{'---|' * (len(sizes) + 1)}",
        ]
        best = [max(trace["ratios"][policy][column] for policy in ALL) for column in range(len(sizes))]
        for policy in ALL:
            cells = [
                f"**{value:.1f}**" if value == best[column] else f"{value:.1f}"
                for column, value in enumerate(trace["ratios"][policy])
            ]
            out.append(f"| `{policy}` | {' | '.join(cells)} | {trace['rates'][policy]:,.0f} |")
        for other, values in PEERS[name].items():
            out.append(f"| *{other}* | {' | '.join(f'{value:.1f}' for value in values)} | |")
        out += ["", f"![{name}](img/policies-{name}.svg)", ""]
    return out
