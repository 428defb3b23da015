"""Horizontal bars as SVG."""

from __future__ import annotations

from html import escape

ROW, LABEL, BAR, VALUE = 22, 150, 400, 70
"""Pixels: height of a row; widths of the name, the longest bar, and the number behind it."""


def bar_chart(title: str, values: dict[str, float], ours: str) -> str:
    """One bar for each name, the largest first; names that begin with `ours` in another colour."""
    rows = sorted(values.items(), key=lambda item: -item[1])
    height, width = ROW * (len(rows) + 2), LABEL + BAR + VALUE
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="13"><rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="8" y="{ROW - 5}" font-weight="bold">{escape(title)}</text>',
    ]
    for place, (name, value) in enumerate(rows):
        y, length = ROW * (place + 1.4), BAR * value / rows[0][1]
        colour = "#1f6f8b" if name.startswith(ours) else "#b8b8b8"
        parts.append(
            f'<text x="{LABEL - 8}" y="{y + 13:.0f}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="{LABEL}" y="{y:.0f}" width="{length:.1f}" height="{ROW - 6}" fill="{colour}"/>'
            f'<text x="{LABEL + length + 6:.1f}" y="{y + 13:.0f}">{value:,.0f}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"
