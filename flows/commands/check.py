"""`icpo check`: every byte of a run against what was recorded."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.text import Text

from icpo_core.common.console import Console
from icpo_core.store.paths import RunPaths


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "check",
        help="hash every file of a run and name what is damaged",
        description="Read every byte of a run again and compare it with what was recorded. What "
        "is damaged is named and marked, and is made again, with just what depends on it, when "
        "the run goes on. Exit status 1 if anything is.",
    )
    parser.add_argument("run", type=Path, help="folder of the run, as runs/demo")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(call=call)


def call(arguments: argparse.Namespace) -> int:
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    from icpo_core.run import integrity

    paths = RunPaths(arguments.run)
    if not paths.exists() and not paths.iterations():
        raise ValueError(f"{arguments.run}: no run here; `icpo ls` lists runs")
    watched = Console(file=sys.stderr)
    bar = Progress(
        BarColumn(bar_width=30), DownloadColumn(), TransferSpeedColumn(),
        console=watched, transient=True, disable=not watched.is_terminal,
    )  # fmt: skip
    with bar:
        task = bar.add_task("")
        damages = integrity.check(
            paths, lambda done, all_: bar.update(task, completed=done, total=all_)
        )
    if arguments.json:
        rows = [{"file": str(one.file), "what": one.what, "mend": one.mend} for one in damages]
        print(json.dumps(rows, indent=2))
        return int(bool(damages))
    console = Console()
    for one in damages:
        console.print(
            Text.assemble((str(one.file), "red"), f": {one.what}; {one.mend}"), soft_wrap=True
        )
    if any(not one.mended for one in damages):
        console.print(f"To mend: icpo train {arguments.run}", highlight=False, soft_wrap=True)
    elif not damages:
        console.print(f"{arguments.run}: every file is as it was recorded", highlight=False)
    return int(bool(damages))
