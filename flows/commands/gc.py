"""`icpo gc`: what retention keeps of a run, what it removes, and the space of each."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.filesize import decimal
from rich.text import Text

from icpo_core.common.console import Console, Table

if TYPE_CHECKING:
    from icpo_core.run.retention import Holding
    from icpo_core.run.run import Run


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "gc",
        help="checkpoints: what is kept and why, what may go",
        description="Remove the weights and trainer states that the run's retention "
        "(checkpoint.keep_last, keep_every, keep_best) does not keep. Rollouts, verdicts and "
        "batches always stay, and removed weights can be made again from them.",
    )
    parser.add_argument("run", type=Path, help="folder of the run, as runs/demo")
    parser.add_argument("--dry-run", action="store_true", help="only say what would go")
    parser.add_argument(
        "-o", dest="overrides", action="append", default=[], metavar="CHECKPOINT.KEY=VALUE",
        help="retention for this once, as checkpoint.keep_last=1",
    )  # fmt: skip
    parser.add_argument(
        "--protect", type=int, nargs="+", default=[], metavar="N",
        help="iterations to keep whatever retention says, from now on",
    )  # fmt: skip
    parser.add_argument(
        "--unprotect", type=int, nargs="+", default=[], metavar="N", help="take that back"
    )
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(call=call)


def call(arguments: argparse.Namespace) -> int:
    from icpo_core.common.lock import RunLock
    from icpo_core.config import override
    from icpo_core.run.run import Run, stored_config

    run = Run.of(override(stored_config(arguments.run), arguments.overrides), arguments.run)
    if arguments.dry_run:
        return _report(run, arguments)
    with RunLock(run.paths.lock):
        return _report(run, arguments)


def _report(run: Run, arguments: argparse.Namespace) -> int:
    from icpo_core.run import retention

    pinned = (retention.protected(run.paths) | set(arguments.protect)) - set(arguments.unprotect)
    if strangers := set(arguments.protect) - set(retention.lineage(run)):
        raise ValueError(
            f"--protect {min(strangers)}: has no checkpoint; `icpo ls {run.paths.root}` lists "
            "the iterations"
        )
    holdings = retention.holdings(run, pinned)
    removals = retention.removals(run, holdings)
    space = {
        holding.iteration: retention.freed(
            run.paths,
            {key: names for key, names in removals.items() if key[1] == holding.iteration},
        )
        for holding in holdings
    }
    freed = retention.freed(run.paths, removals)
    if not arguments.dry_run:
        if pinned != retention.protected(run.paths):
            retention.protect(run.paths, pinned)
        run.store.prune(removals)
    if arguments.json:
        rows = [
            {
                "iteration": one.iteration,
                "weights": {"there": run.has_weights(one.iteration), "kept": one.weights},
                "state": {"there": one.has_state, "kept": one.state},
                "frees": space[one.iteration],
            }
            for one in holdings
        ]
        print(
            json.dumps(
                {"dry_run": arguments.dry_run, "frees": freed, "checkpoints": rows}, indent=2
            )
        )
        return 0
    _print(Console(), run, holdings, space, freed, arguments)
    return 0


def _print(
    console: Console,
    run: Run,
    holdings: list[Holding],
    space: dict[int, int],
    freed: int,
    arguments: argparse.Namespace,
) -> None:
    table = Table("iteration", "weights", "state", title=str(run.paths.root), title_justify="left")
    table.add_column("goes" if arguments.dry_run else "gone", justify="right")
    gone_before, goes = 0, Text("goes", "red")
    for one in holdings:
        going = bool(space[one.iteration])
        if not one.weights and not one.state and not going:
            gone_before += 1
            continue
        state = ", ".join(one.state) or (goes if one.has_state else Text("none", "dim"))
        table.add_row(
            str(one.iteration),
            ", ".join(one.weights) or (goes if going else Text("gone before", "dim")),
            state,
            decimal(space[one.iteration]) if going else "",
        )
    console.print(table)
    if gone_before:
        console.print(f"and {gone_before} more, whose weights went before", highlight=False)
    verb = "would be freed" if arguments.dry_run else "freed"
    console.print(f"{decimal(freed)} {verb}", highlight=False)
