"""Bar and line plots as SVG text, without a plotting library: they are small, and differ only where figures do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

COLOURS = ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#64748b")
STYLE = "font-family:system-ui,sans-serif;font-size:12px"


def _page(width: int, height: int, title: str, body: Sequence[str]) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" style="{STYLE};background:#ffffff"',
            f' width="{width}" height="{height}" role="img" aria-label="{escape(title)}">',
            f'<text x="12" y="22" style="font-size:15px;font-weight:600" fill="#0f172a">{escape(title)}</text>',
            *body,
            "</svg>",
            "",
        ]
    )


def bars(title: str, values: Mapping[str, float], unit: str, ours: str = "tiercast") -> str:
    """Horizontal bars on a logarithmic scale, the shortest first."""
    ordered = sorted(values.items(), key=lambda item: item[1])
    low = 10 ** math.floor(math.log10(ordered[0][1]))
    span = max(1e-9, math.log10(ordered[-1][1] / low))
    body = []
    for row, (name, value) in enumerate(ordered):
        y = 40 + 26 * row
        length = 8 + 380 * math.log10(value / low) / span
        colour = COLOURS[0] if ours in name else COLOURS[5]
        body += [
            f'<text x="200" y="{y + 14}" text-anchor="end" fill="#0f172a">{escape(name)}</text>',
            f'<rect x="208" y="{y}" width="{length:.0f}" height="19" rx="3" fill="{colour}"/>',
            f'<text x="{214 + length:.0f}" y="{y + 14}" fill="#334155">{value:,.3g} {escape(unit)}</text>',
        ]
    body.append(f'<text x="208" y="{56 + 26 * len(ordered)}" fill="#64748b">logarithmic; shorter is faster</text>')
    return _page(700, 66 + 26 * len(ordered), title, body)


def lines(
    title: str, across: Sequence[str], values: Mapping[str, Sequence[float]], label: str, *, zero: bool = True
) -> str:
    """Lines over named places, with a legend."""
    top = max(max(line) for line in values.values()) * 1.1 or 1.0
    bottom = 0.0 if zero else min(min(line) for line in values.values()) * 0.9
    left, width, height = 56, 420, 240
    body = []
    for step in range(5):
        value = bottom + (top - bottom) * step / 4
        y = 40 + height - height * step / 4
        body.append(f'<line x1="{left}" y1="{y:.0f}" x2="{left + width}" y2="{y:.0f}" stroke="#e2e8f0"/>')
        body.append(f'<text x="{left - 6}" y="{y + 4:.0f}" text-anchor="end" fill="#64748b">{value:.3g}</text>')
    places = [left + width * index / max(1, len(across) - 1) for index in range(len(across))]
    shown = range(0, len(across), max(1, len(across) // 8))
    body += [
        f'<text x="{places[index]:.0f}" y="{58 + height}" text-anchor="middle" fill="#64748b">{escape(across[index])}</text>'
        for index in shown
    ]
    for number, (name, line) in enumerate(values.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(
            f"{x:.1f},{40 + height - height * (value - bottom) / (top - bottom):.1f}"
            for x, value in zip(places, line, strict=True)
        )
        body.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        body.append(f'<text x="{left + width + 14}" y="{52 + 20 * number}" fill="{colour}">{escape(name)}</text>')
    body.append(f'<text x="{left}" y="{78 + height}" fill="#64748b">{escape(label)}</text>')
    return _page(640, 90 + height, title, body)
