"""`icpo diff`: two runs' configurations, figures and rows."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from icpo_core.common.console import Console, Table
from icpo_core.common.text import line

if TYPE_CHECKING:
    from icpo_core.views.diff import Differences, Rows

SHOWN = 20
"""Rows shown without --all."""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "diff",
        help="two runs: configurations, figures, rows",
        description="What two runs have not in common: keys of the configuration, the figures of "
        "the newest common iteration, and the rollouts that fared otherwise.",
    )
    parser.add_argument("a", type=Path, help="folder of a run")
    parser.add_argument("b", type=Path, help="folder of another")
    parser.add_argument(
        "--iteration", type=int, help="default: rows where the runs part, figures of the newest"
    )
    parser.add_argument("--all", action="store_true", help="every row that differs")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(call=call)


def call(arguments: argparse.Namespace) -> int:
    from icpo_core.run.run import Run
    from icpo_core.views import diff

    found = diff.between(Run.read(arguments.a), Run.read(arguments.b), arguments.iteration)
    if arguments.json:
        print(json.dumps(found.as_json(), indent=2))
        return 0
    console = Console()
    _print_config(console, found, arguments)
    if found.differ_at is None:
        console.print("Every stage that both have made the same.")
    else:
        same = f"The same until {found.same_until}; " if found.same_until else ""
        console.print(Text.assemble(same, (found.differ_at, "bold"), " differs first."))
    if found.rows is not None:
        _print_rows(console, found.rows, arguments)
    if found.figures:
        _print_figures(console, found, arguments)
    return 0


def _print_config(console: Console, found: Differences, arguments: argparse.Namespace) -> None:
    if not found.config:
        console.print("The configurations are the same.")
        return
    table = Table("key", str(arguments.a), str(arguments.b), title="configuration")
    table.title_justify = "left"
    for key, (a, b) in found.config.items():
        table.add_row(key, json.dumps(a), json.dumps(b))
    console.print(table)


def _print_rows(console: Console, rows: Rows, arguments: argparse.Namespace) -> None:
    only = f", {rows.only_a} only in a, {rows.only_b} only in b"
    console.print(
        f"Iteration {rows.iteration}: {len(rows.changes)} of {rows.common} common rollouts fared "
        f"otherwise{only if rows.only_a or rows.only_b else ''}.",
        highlight=False,
    )
    if not rows.changes:
        return
    table = Table("prompt", "rollout", "what", "a", "b", title="rows", title_justify="left")
    shown = rows.changes if arguments.all else rows.changes[:SHOWN]
    for change in shown:
        table.add_row(
            change.prompt_id[:12],
            f"{change.sample_index} {change.origin.replace('_', '-')}",
            "\n".join(change.a),
            "\n".join(_cell(value) for value in change.a.values()),
            "\n".join(_cell(value) for value in change.b.values()),
        )
    console.print(table)
    if len(shown) < len(rows.changes):
        console.print(f"and {len(rows.changes) - len(shown)} more (--all shows them)")


def _print_figures(console: Console, found: Differences, arguments: argparse.Namespace) -> None:
    table = Table(
        "figure", str(arguments.a), str(arguments.b), "change",
        title=f"figures of iteration {found.iteration}", title_justify="left",
    )  # fmt: skip
    for name, (a, b) in found.figures.items():
        if a == b:
            continue
        change = f"{b - a:+.4g}" if a is not None and b is not None else ""
        table.add_row(name, _cell(a), _cell(b), change)
    console.print(table if table.row_count else "Its figures are the same.")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = "—" if value is None else line(value)
    return text if len(text) <= 40 else text[:39] + "…"
