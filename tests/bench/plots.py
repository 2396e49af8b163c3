"""Bars as SVG: one for each subject, with a line from the least to the most. Small, and without a dependency."""

from collections.abc import Sequence
from html import escape
from typing import Final

from tests.bench.results import Row

OURS: Final = "Penstock"
WIDTH: Final = 760
LABELS: Final = 250
NUMBERS: Final = 130
"""Pixels kept free to the right of the longest bar."""
ROW: Final = 26
HEAD: Final = 34
STYLE: Final = """\
text{font:13px system-ui,sans-serif;fill:#24292f}.title{font-weight:600}.other{fill:#8c959f}.ours{fill:#0969da}
.spread{stroke:#24292f;stroke-width:1.5}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.spread{stroke:#e6edf3}.other{fill:#6e7681}.ours{fill:#4493f8}}"""


def draw(title: str, rows: Sequence[Row]) -> str:
    """A picture of the same value of several subjects."""
    height = HEAD + ROW * len(rows) + 8
    scale = (WIDTH - LABELS - NUMBERS) / (max(row["max"] for row in rows) or 1)
    bars = [_bar(row, HEAD + ROW * place, scale) for place, row in enumerate(rows)]
    return "\n".join(
        (
            '<svg xmlns="http://www.w3.org/2000/svg"',
            f' viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"',
            f' role="img" aria-label="{escape(title)}">',
            f"<style>{STYLE}</style>",
            f'<text class="title" x="8" y="20">{escape(title)}</text>',
            *bars,
            "</svg>\n",
        )
    )


def number(value: float) -> str:
    """A figure to three digits, thousands apart: 4,380, 38.2, 0.0583."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        # Three digits that were seen, not five that look it; but what is counted exactly stays.
        return f"{value:,.0f}" if abs(value) < 1000 else f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.1e}"


def _bar(row: Row, top: float, scale: float) -> str:
    low, high, middle = (row["min"] * scale, row["max"] * scale, row["median"] * scale)
    kind = "ours" if row["subject"].startswith(OURS) else "other"
    center = top + ROW / 2 - 3
    figure = escape(f"{number(row['median'])} {row['unit']}".strip())
    return (
        f'<text x="{LABELS - 8}" y="{center + 4}" text-anchor="end">{escape(row["subject"])}</text>'
        f'<rect class="{kind}" x="{LABELS}" y="{top}" width="{max(middle, 1):.1f}" height="{ROW - 8}" rx="2"/>'
        f'<path class="spread" d="M{LABELS + low:.1f} {center}H{LABELS + high:.1f}"/>'
        f'<text x="{LABELS + max(high, middle) + 6:.1f}" y="{center + 4}">{figure}</text>'
    )
