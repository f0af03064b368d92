"""`icpo plan`: which stage would run next and why. Changes nothing."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "plan",
        help="which stage would run next and why",
        description="How every stage of a run stands, and why. Changes nothing.",
    )
    parser.add_argument("run", type=Path, help="folder of the run, as runs/demo")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(call=call)


def call(arguments: argparse.Namespace) -> int:
    from icpo_core import graph
    from icpo_core.run import Run

    run = Run.read(arguments.run)
    steps = graph.plan(run)
    if arguments.json:
        rows = [
            {
                "iteration": step.iteration,
                "stage": step.stage,
                "standing": step.status.standing,
                "reason": step.status.reason,
            }
            for step in steps
        ]
        print(json.dumps(rows, indent=2))
        return 0
    open_steps = [step for step in steps if not step.status.done]
    done = len(steps) - len(open_steps)
    console = Console()
    console.print(f"{arguments.run}: {done} of {len(steps)} stages are done", highlight=False)
    if not open_steps:
        return 0
    table = Table("iteration", "stage", "standing", "why", title="would run next")
    for step in open_steps[:SHOWN]:
        table.add_row(str(step.iteration), step.stage, step.status.standing, step.status.reason)
    console.print(table)
    if len(open_steps) > SHOWN:
        console.print(f"and {len(open_steps) - SHOWN} more (--json lists all)")
    return 0


SHOWN = 12
