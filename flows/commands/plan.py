"""`icpo plan`: which stage would run next and why. Changes nothing."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from icpo_core.common.console import Console, Table

if TYPE_CHECKING:
    from icpo_core.run.plan import Step

SHOWN = 14
"""Stages listed without --all."""
COLOURS = {"missing": "default", "stale": "yellow", "damaged": "red"}


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "plan",
        help="which stage would run next and why",
        description="How every stage of a run stands, and why. Changes nothing. With -o, how it "
        "would stand if the configuration were changed so.",
    )
    parser.add_argument("run", type=Path, help="folder of the run, as runs/demo")
    parser.add_argument(
        "-o", dest="overrides", action="append", default=[], metavar="SECTION.KEY=VALUE",
        help="suppose that this key were changed",
    )  # fmt: skip
    parser.add_argument("--all", action="store_true", help="every stage, those that are done too")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(call=call)


def call(arguments: argparse.Namespace) -> int:
    from icpo_core.config import override
    from icpo_core.run.run import Run, stored_config
    from icpo_core.views.standings import plan_of

    run = Run.of(override(stored_config(arguments.run), arguments.overrides), arguments.run)
    steps = plan_of(run)
    if arguments.json:
        rows = [
            {
                "iteration": step.iteration,
                "stage": step.stage,
                "standing": step.status.standing,
                "reason": step.status.reason,
                "after": step.after,
            }
            for step in steps
        ]
        print(json.dumps(rows, indent=2))
        return 0
    _print(Console(), arguments, steps)
    return 0


def _print(console: Console, arguments: argparse.Namespace, steps: list[Step]) -> None:
    open_steps = [step for step in steps if not step.status.done]
    done = len(steps) - len(open_steps)
    console.print(f"{arguments.run}: {done} of {len(steps)} stages are done", highlight=False)
    listed = steps if arguments.all else open_steps[:SHOWN]
    if not listed:
        return
    title = "all stages" if arguments.all else "would be made, in this order"
    table = Table("iteration", "stage", "standing", "why", title=title, title_justify="left")
    for step in listed:
        colour = COLOURS.get(step.status.standing, "green")
        standing = Text(step.status.standing, colour)
        table.add_row(str(step.iteration), step.stage, standing, step.status.reason)
    console.print(table)
    if not arguments.all and len(open_steps) > SHOWN:
        console.print(f"and {len(open_steps) - SHOWN} more (--all lists them)")
    waiting = [step for step in steps if step.status.done and step.after]
    if waiting:
        console.print(
            f"{len(waiting)} stages that are done come after {waiting[0].after}: each is kept if "
            "what it reads comes out the same, and made again if not.",
            highlight=False,
            soft_wrap=True,
        )
