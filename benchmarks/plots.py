"""Bar and line plots as SVG text, by matplotlib; they differ only where figures do."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

COLOURS = ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#64748b", "#0f172a")
STYLE = {
    "svg.fonttype": "none",  # text stays text: it can be searched, and is drawn in the reader's own font
    "svg.hashsalt": "tiercast",
    "font.size": 9,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#e2e8f0",
}


def bars(title: str, values: Mapping[str, float], unit: str, ours: str = "tiercast") -> str:
    """Horizontal bars on a logarithmic scale, the shortest first."""
    ordered = sorted(values.items(), key=lambda item: item[1], reverse=True)
    with rc_context(STYLE):
        figure = Figure(figsize=(7.2, 0.8 + 0.27 * len(ordered)), layout="constrained")
        axes = figure.subplots()
        drawn = axes.barh(
            [name for name, _ in ordered],
            [value for _, value in ordered],
            color=[COLOURS[0] if ours in name else COLOURS[5] for name, _ in ordered],
        )
        axes.bar_label(drawn, [f"{value:,.0f} {unit}" for _, value in ordered], padding=4)
        axes.set_xscale("log")
        axes.set_xlim(ordered[-1][1] / 2, ordered[0][1] * 3)
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(f"{unit}, logarithmic; shorter is faster")
        axes.set_title(title)
        return _text(figure)


def lines(
    title: str, across: Sequence[str], values: Mapping[str, Sequence[float]], label: str, *, zero: bool = True
) -> str:
    """Lines over named places, with a legend."""
    with rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.4), layout="constrained")
        axes = figure.subplots()
        axes.set_prop_cycle(color=COLOURS)
        for name, line in values.items():
            axes.plot(range(len(across)), line, label=name)
        shown = range(0, len(across), max(1, len(across) // 8))
        axes.set_xticks(shown, [across[index] for index in shown])
        axes.set_xlabel(label)
        if zero:
            axes.set_ylim(bottom=0)
        axes.grid(axis="y")
        axes.set_title(title)
        figure.legend(loc="outside right upper", frameon=False)
        return _text(figure)


def _text(figure: Figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    # Without blanks at the ends of lines, which matplotlib leaves in paths.
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"
