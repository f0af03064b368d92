"""The curves of runs as one SVG: accuracy, reward, steering, entropy and length by iteration.

Drawn by hand, in a few milliseconds: the flow does it after every iteration, and a plotting library
would cost that process 60 MB and a tenth of an iteration.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import filter as matching
from itertools import cycle
from pathlib import Path

from icpo_core.common.files import atomic_path
from icpo_core.common.text import html
from icpo_core.run import metrics
from icpo_core.store.paths import RunPaths

PANELS: tuple[tuple[str, tuple[str, ...], bool], ...] = (
    ("accuracy, zero-shot", ("accuracy/*",), True),
    ("mean reward", ("reward/on_policy", "reward/expert"), True),
    ("flips: solved only with demonstrations", ("flips",), False),
    ("expert rollouts accepted", ("errs/acceptance",), True),
    ("entropy, nats", ("entropy",), False),
    ("length, tokens", ("length/on_policy", "length/expert"), False),
)
"""Title, patterns of figures, whether they are shares: the axis is 0 to 100%."""
POINTS = 160
"""Points of a line; of a longer run the means of as many stretches are drawn."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d1f", "#7f7f7f")
"""Those of the report."""
DASHES = (("", "—"), ("6 4", "- -"), ("2 3", "···"), ("10 3 2 3", "—·—"))
"""Dash array, and how a legend writes it."""
GREY = "#666"
WIDTH, LEFT, RIGHT, BETWEEN, BELOW, LINE = 760, 46, 24, 52, 40, 16
"""Pixels: the picture, its margins, between panels, below one; the height of a line of text."""

Points = Sequence[tuple[float, float]]
Words = list[tuple[str, str]]
"""Texts with their colours."""


@dataclass(frozen=True)
class Line:
    points: Points
    colour: str
    dash: str = ""
    area: Points = ()
    """Corners of what is shaded behind the line."""


@dataclass(frozen=True)
class Panel:
    title: str
    legend: Words
    lines: Sequence[Line]
    share: bool


def write(roots: Sequence[Path], out: Path) -> Path:
    """Draw runs into a file. Raises ValueError for a run without figures or another format."""
    if out.suffix != ".svg":
        raise ValueError(f"{out}: the picture is an SVG; give a name that ends in .svg")
    runs: dict[str, list[dict[str, float]]] = {}
    for root in roots:
        name = root.resolve().name
        runs[str(root) if name in runs else name] = rows = metrics.read(RunPaths(root))
        if not rows:
            raise ValueError(f"{root}: no figures here; `icpo ls` lists runs")
    with atomic_path(out) as temporary:
        temporary.write_text(of_runs(runs), "utf-8")
    return out


def of_runs(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """SVG of the metrics (`run.metrics.read`) of runs by name; figures that are missing are left
    out. Colours tell the figures of one run apart; of several, the runs, and dashes the figures."""
    several = len(runs) > 1
    found = sorted({name for rows in runs.values() for row in rows for name in row})
    panels = []
    for title, patterns, share in PANELS:
        lines, legend = [], []
        for at, key in enumerate(key for one in patterns for key in matching(found, one)):
            label = (key.partition("/")[2] or key).replace("on_policy", "on-policy")
            dash, mark = DASHES[at % len(DASHES)] if several else ("", "")
            for number, rows in enumerate(runs.values()):
                colour = COLOURS[(number if several else at) % len(COLOURS)]
                there = [row for row in rows if math.isfinite(row.get(key, math.nan))]
                if points := _thinned([(row["iteration"], row[key]) for row in there]):
                    lines.append(Line(points, colour, dash))
                    newest = (f"{label} {_written(points[-1][1], share)}", colour)
                    legend.append((f"{mark} {label}", GREY) if several else newest)
        panels.append(Panel(title, list(dict.fromkeys(legend)), lines, share))
    last = max((row["iteration"] for rows in runs.values() for row in rows), default=0)
    names = zip(runs, cycle(COLOURS) if several else ["#000"], strict=False)
    return picture([*names, (f"until iteration {last:.0f}", GREY)], panels)


def _written(value: float, share: bool) -> str:
    return f"{value:.0%}" if share else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _thinned(points: Points) -> Points:
    stride = math.ceil(len(points) / POINTS) or 1
    groups = [points[at : at + stride] for at in range(0, len(points), stride)]
    return [(sum(x) / len(x), sum(y) / len(y)) for x, y in (zip(*g, strict=True) for g in groups)]


def picture(head: Words, panels: Sequence[Panel]) -> str:
    """SVG of those panels that have lines, below a title or the legend of their colours."""
    panels = [panel for panel in panels if panel.lines] or panels[:1]
    columns = min(2, len(panels))
    wide = (WIDTH - LEFT - RIGHT - BETWEEN * (columns - 1)) / columns
    last = max((x for panel in panels for line in panel.lines for x, _ in line.points), default=1.0)
    heads = _rows(head, WIDTH - LEFT - RIGHT)
    texts = [[[(panel.title, "#222")], *_rows(panel.legend, wide)] for panel in panels]
    above, high = LINE * max(map(len, texts)), 0.46 * wide
    first, step = 38 + LINE * len(heads), above + high + BELOW
    height = first - 12 + step * math.ceil(len(panels) / columns)
    parts = [_texts(heads, LEFT, 26, 'font-size="13" font-weight="bold"')]
    for at, panel in enumerate(panels):
        left, top = LEFT + at % columns * (wide + BETWEEN), first + at // columns * step
        parts.append(_texts(texts[at], left, top))
        parts.append(_panel(panel, last, left, top + above, wide, high))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" '
        f'width="{WIDTH}" height="{height:.0f}" font-family="sans-serif" font-size="11" '
        f'stroke-linejoin="round">'
        f'<rect width="{WIDTH}" height="{height:.0f}" rx="6" fill="#fff"/>{"".join(parts)}</svg>'
    )


def _rows(words: Words, width: float) -> list[Words]:
    """Words in as many rows as they need, at 7 pixels a letter."""
    each = max(1, int(width / 7 / max((len(text) + 2 for text, _ in words), default=1)))
    return [words[at : at + each] for at in range(0, len(words), each)]


def _texts(rows: Sequence[Words], x: float, y: float, style: str = "") -> str:
    lines = []
    for at, row in enumerate(rows):
        spans = [f'<tspan fill="{fill}">{html(text)}</tspan>' for text, fill in row]
        text = '<tspan dx="12"> </tspan>'.join(spans)
        lines.append(f'<text x="{x:.1f}" y="{y + LINE * at:.1f}" {style}>{text}</text>')
    return "".join(lines)


def _panel(panel: Panel, last: float, left: float, top: float, wide: float, high: float) -> str:
    """Axes and lines. Ticks stand at steps of 1, 2 or 5 times a power of ten."""
    highest = max((y for line in panel.lines for _, y in line.points), default=1.0)
    step = 0.25 if panel.share else _round_up(highest / 4)
    ticks = 4 if panel.share else max(1, math.ceil(highest / step))

    def place(x: float, y: float) -> tuple[float, float]:
        return left + wide * x / max(last, 1.0), top + high * (1 - y / step / ticks)

    def path(points: Points) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))

    parts = []
    for number in range(ticks + 1):
        x, y = place(0, number * step)
        name = [(_written(number * step, panel.share), GREY)]
        parts.append(_texts([name], x - 5, y + 4, 'text-anchor="end"'))
        parts.append(f'<path d="M{x:.0f} {y:.1f}h{wide:.0f}" stroke="#ddd"/>')
    for at in range(0, math.floor(last) + 1, max(1, round(_round_up(50 * last / wide)))):
        x, y = place(at, 0)
        parts.append(_texts([[(str(at), GREY)]], x, y + LINE, 'text-anchor="middle"'))
    for line in panel.lines:
        area, corners = path(line.area), path(line.points)
        if area:
            parts.append(f'<polygon points="{area}" fill="{line.colour}" opacity="0.12"/>')
        style = f'fill="none" stroke="{line.colour}" stroke-width'
        parts.append(f'<polyline points="{corners}" {style}="1.8" stroke-dasharray="{line.dash}"/>')
        if len(line.points) <= 20:
            dots = "".join(f"M{corner}h0" for corner in corners.split())
            parts.append(f'<path d="{dots}" {style}="5" stroke-linecap="round"/>')
    return "".join(parts)


def _round_up(value: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value)
