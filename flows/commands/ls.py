"""`icpo ls`: the runs of a folder, or the iterations of one run."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.filesize import decimal
from rich.text import Text

from icpo_core.common.console import Console, Table
from icpo_core.store.paths import RunPaths
from icpo_core.views import runs

COLOURS = {"running": "green", "stopped": "yellow", "damaged": "red"}


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "ls",
        help="runs, or the iterations of one",
        description="The runs of a folder, each in a line; of a run, its iterations.",
    )
    parser.add_argument(
        "path", type=Path, nargs="?", default=Path("runs"),
        help="folder of runs (default: runs), or of one run",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(call=call)


def call(arguments: argparse.Namespace) -> int:
    console = Console()
    if RunPaths(arguments.path).config.is_file():
        from icpo_core.run.run import Run
        from icpo_core.run.stages import STAGES
        from icpo_core.views import listing

        run = Run.read(arguments.path)
        found = listing.iterations(run)
        if arguments.json:
            rows = {
                number: {stage: asdict(line) for stage, line in stages.items()}
                for number, stages in found.items()
            }
            print(json.dumps(rows, indent=2))
            return 0
        pruned = any(line.pruned for stages in found.values() for line in stages.values())
        what = "rows, seconds" + ("; * retention removed files" if pruned else "")
        table = Table("iteration", title=f"{arguments.path}: {what}", title_justify="left")
        columns = [name for name, stage in STAGES.items() if stage.wanted(run.config)]
        for stage in columns:
            table.add_column(stage, justify="right")
        table.add_column("on disk", justify="right")
        for number, stages in found.items():
            cells = [
                Text.assemble(
                    f"{stages[stage].rows or ''} ", (f"{stages[stage].seconds:.1f}s", "dim")
                )
                if stage in stages
                else ""
                for stage in columns
            ]
            size = Text(decimal(sum(line.bytes for line in stages.values())))
            if any(line.pruned for line in stages.values()):
                size.append("*", "dim")
            table.add_row(str(number), *cells, size)
        console.print(table)
        return 0
    summaries = runs.summaries(arguments.path)
    if arguments.json:
        print(json.dumps([one.as_json() for one in summaries], indent=2))
    elif not summaries:
        console.print(f"{arguments.path}: no runs; `icpo train configs/demo.toml` makes one")
    else:
        console.print(_table(summaries))
    return 0


def _table(summaries: list[runs.Summary]) -> Table:
    table = Table("run", "iterations", "state", "accuracy", "on disk", "begun")
    for one in sorted(summaries, key=lambda one: one.created):
        name, state = Text(one.name, "bold"), Text(one.state, COLOURS.get(one.state, ""))
        if one.branch:
            changes = " ".join(one.branch["changes"])
            origin = f"\nfrom {one.branch['run']} at {one.branch['at']} {changes}"
            name.append(origin, "not bold dim")
        if one.detail:
            state.append(f"\n{one.detail}", "default dim")
        table.add_row(
            name,
            f"{one.done}/{one.iterations}",
            state,
            "\n".join(f"{bench} {value:.1%}" for bench, value in one.accuracy.items()),
            decimal(one.bytes),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(one.created)) if one.created else "",
        )
    return table
