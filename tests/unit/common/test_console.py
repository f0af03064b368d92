"""Long tables, which are laid out here, as Rich lays them out."""

from __future__ import annotations

import io
import random

import pytest
from rich.text import Text

from icpo_core.common import console
from icpo_core.common.console import Console, Table

CELLS = (
    "128", "", "it-0007", "two words", "é", "漢字", "\x1b[31mred", "x" * 30,
    Text.assemble("128 ", ("1.0s", "dim")), Text("漢", "bold"), Text(""), "ends ",
    Text(" both ", "red"), Text("\x07 bell"),
)  # fmt: skip


def shown(width: int, rows: int, seed: int, cells: tuple[str | Text, ...], terminal: bool) -> str:
    draw, out = random.Random(seed), io.StringIO()
    table = Table("run", title="many", title_justify="left")
    table.add_column("right", justify="right")
    table.add_column("styled", style="cyan", justify=draw.choice(["left", "right"]))
    for _ in range(rows):
        style = draw.choice([None] * 20 + ["bold"])
        table.add_row(*draw.choices(cells, k=3), style=style, end_section=draw.random() < 0.05)
    Console(file=out, width=width, force_terminal=terminal).print(table)
    return out.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("width", [20, 24, 60, 76, 120])
def test_many_rows_look_as_few(width: int, terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(2):
        for cells in (CELLS, CELLS[:3], (*CELLS, "two\nlines"), (*CELLS, "a\tb")):
            given = width, 120, seed, cells, terminal
            monkeypatch.setattr(console, "MANY", 100)
            laid = shown(*given)
            monkeypatch.setattr(console, "MANY", 1000)
            assert laid == shown(*given)


def test_the_layout_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the test before would compare Rich with itself."""
    asked = []
    laid = console._laid
    monkeypatch.setattr(console, "_laid", lambda *given: asked.append(given) or laid(*given))
    shown(60, 120, 0, CELLS[:6], True)
    shown(24, 120, 0, CELLS[:3], True)
    assert len(asked) > 0.8 * 2 * 3 * 120
