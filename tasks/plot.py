"""A run so far as one small SVG: accuracy, reward, acceptance and entropy over iterations.

Drawn by hand: it is made after every iteration, and a plotting library would take a tenth of the
iteration on a laptop. The report of a run is drawn by one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 760, 460
_MARGIN, _HEAD = 44, 58
_BETWEEN, _BELOW = 44, 52
"""Pixels between panels side by side, and below a panel."""
COLOURS = ("#2a6fdb", "#d9822b", "#2e9e5b", "#8e5bd0", "#c23b6b")
POINTS = 160
"""Points of a line; of a longer run the means of as many stretches are drawn."""

Row = dict[str, float]

PANELS: tuple[tuple[str, tuple[tuple[str, str], ...], bool], ...] = (
    ("accuracy, held out", (("accuracy/", ""),), True),
    ("mean reward", (("reward/on_policy", "on-policy"), ("reward/expert", "expert")), True),
    ("expert rollouts accepted", (("errs/acceptance", "share"),), True),
    ("entropy, nats", (("entropy", "policy"),), False),
)
"""Title, (figure or prefix of figures, its name in the legend), whether it is a share."""


def plot(rows: Sequence[Row], title: str) -> str:
    """SVG of a run's metrics (`run.metrics.read`); figures that are missing are left out."""
    wide = (WIDTH - 2 * _MARGIN - _BETWEEN) / 2
    high = (HEIGHT - _HEAD - 2 * _BELOW) / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#fff"/>',
        f'<text x="{_MARGIN}" y="24" font-size="14" font-weight="bold">{escape(title)}</text>',
    ]
    last = max((row["iteration"] for row in rows), default=1.0)
    for number, (name, figures, share) in enumerate(PANELS):
        left = _MARGIN + (number % 2) * (wide + _BETWEEN)
        top = _HEAD + (number // 2) * (high + _BELOW)
        lines = [line for key, label in figures for line in _lines(rows, key, label)]
        parts += _panel(name, lines, share, last, (left, top, wide, high))
    return "".join([*parts, "</svg>"])


def _lines(
    rows: Sequence[Row], key: str, label: str
) -> list[tuple[str, list[tuple[float, float]]]]:
    """Lines of a figure, or of every figure that begins with `key/`."""
    names = [key]
    if key.endswith("/"):
        names = sorted({name for row in rows for name in row if name.startswith(key)})
    found = []
    for name in names:
        points = [(row["iteration"], row[name]) for row in rows if math.isfinite(_of(row, name))]
        if points:
            found.append((label or name.removeprefix(key), _thinned(points)))
    return found


def _of(row: Row, name: str) -> float:
    return row.get(name, math.nan)


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    stride = math.ceil(len(points) / POINTS)
    groups = [points[at : at + stride] for at in range(0, len(points), stride)]
    return [
        (sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group))
        for group in groups
    ]


def _panel(
    name: str,
    lines: list[tuple[str, list[tuple[float, float]]]],
    share: bool,
    last: float,
    box: tuple[float, float, float, float],
) -> list[str]:
    left, top, wide, high = box
    highest = max((y for _, points in lines for _, y in points), default=1.0)
    ceiling = 1.0 if share else _round_up(highest)

    def place(x: float, y: float) -> str:
        return f"{left + wide * x / max(last, 1.0):.1f},{top + high * (1 - y / ceiling):.1f}"

    parts = [f'<text x="{left:.0f}" y="{top - 7:.0f}" fill="#333">{escape(name)}</text>']
    for part in (0.0, 0.5, 1.0):
        y = top + high * (1 - part)
        text = f"{part:.0%}" if share else f"{part * ceiling:g}"
        parts.append(
            f'<path d="M{left:.0f} {y:.1f}h{wide:.0f}" stroke="#ddd"/>'
            f'<text x="{left - 5:.0f}" y="{y + 4:.1f}" fill="#666" text-anchor="end">{text}</text>'
        )
    for at, anchor in ((0.0, "start"), (last, "end")):
        parts.append(
            f'<text x="{left + (wide if at else 0):.0f}" y="{top + high + 14:.0f}" fill="#666" '
            f'text-anchor="{anchor}">{at:.0f}</text>'
        )
    if not lines:
        parts.append(
            f'<text x="{left + wide / 2:.0f}" y="{top + high / 2 - 8:.0f}" fill="#888" '
            'text-anchor="middle">nothing yet</text>'
        )
    legend = left + wide
    for number, (label, points) in reversed(list(enumerate(lines))):
        colour = COLOURS[number % len(COLOURS)]
        corners = " ".join(place(x, y) for x, y in points)
        parts.append(
            f'<polyline points="{corners}" fill="none" stroke="{colour}" stroke-width="1.8"/>'
        )
        if len(points) <= 20:
            parts += [
                f'<circle cx="{spot.split(",")[0]}" cy="{spot.split(",")[1]}" r="2.4" '
                f'fill="{colour}"/>'
                for spot in corners.split(" ")
            ]
        value = f"{points[-1][1]:.0%}" if share else f"{points[-1][1]:.2f}"
        text = f"{label} {value}"
        parts.append(
            f'<text x="{legend:.0f}" y="{top - 7:.0f}" fill="{colour}" text-anchor="end">'
            f"{escape(text)}</text>"
        )
        legend -= 6.2 * len(text) + 14
    return parts


def _round_up(value: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value)
