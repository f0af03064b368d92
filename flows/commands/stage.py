"""`icpo stage`: one stage of one iteration, on what is stored."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.table import Table

from icpo_core.common import toml
from icpo_core.common.console import Console
from icpo_core.method.verdicts import changed
from icpo_core.run.run import Run


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "stage",
        help="one stage of one iteration, on stored Parquet",
        description="Run one stage of one iteration on what is stored. Without --force a stage "
        "that is done is left as it is. To try another setting, name a branch with --into: it "
        "shares what is stored without copying it, and the run stays as it is.",
    )
    parser.add_argument("stage", metavar="STAGE", help="which one, as verify")
    parser.add_argument("run", type=Path, help="folder of the run, as runs/demo")
    parser.add_argument("--iteration", type=int, required=True)
    parser.add_argument("--force", action="store_true", help="make it again though it is done")
    parser.add_argument(
        "-o", dest="overrides", action="append", default=[], metavar="SECTION.KEY=VALUE",
        help="change one key; one that changes results needs --into",
    )  # fmt: skip
    parser.add_argument(
        "--into", metavar="NAME",
        help="make the stage in a branch of the run, beside it, which differs from here on",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(call=call)


def call(arguments: argparse.Namespace) -> int:
    import asyncio

    from icpo.flows.prefect_compat.terminal import plain_errors, quiet_prefect
    from icpo_core.run.stages import STAGES

    if arguments.stage not in STAGES:
        raise ValueError(f"{arguments.stage}: no such stage; give one of {', '.join(STAGES)}")
    for text in arguments.overrides:
        toml.put({}, text)  # says what is wrong with it; Prefect would say which pattern it misses
    if Path(arguments.into or "").name != (arguments.into or ""):
        raise ValueError(
            f"--into {arguments.into}: give a name without slashes; the branch comes to stand "
            "beside the run"
        )
    before = _verdicts(arguments.run, arguments)
    quiet_prefect()
    from icpo.flows.stage import STAGE_FLOWS

    with plain_errors():
        reference = asyncio.run(
            STAGE_FLOWS[arguments.stage](
                run=str(arguments.run),
                iteration=arguments.iteration,
                overrides=arguments.overrides,
                force=arguments.force,
                into=arguments.into or "",
            )
        )
    after = _verdicts(Path(reference["path"]).parent.parent, arguments)
    changes = changed(before, after) if before is not None and after is not None else None
    if arguments.json:
        print(json.dumps(reference | ({} if changes is None else {"changed": changes}), indent=2))
    else:
        verb = "made" if reference["made"] else "kept"
        Console().print(
            f"{verb} {reference['stage']} of iteration {reference['iteration']} "
            f"({reference['reason']}): {reference['rows']} rows in {reference['path']}",
            highlight=False,
            soft_wrap=True,
        )
        if changes is not None:
            _show_changes(changes, Console())
        if arguments.into:
            branch = arguments.run.parent / arguments.into
            for command in (
                f"icpo diff {arguments.run} {branch}    # what that changes",
                f"icpo train {branch}    # go on from there",
            ):
                Console().print(f"  {command}", highlight=False, soft_wrap=True)
    return 0


def _verdicts(root: Path, arguments: argparse.Namespace) -> pa.Table | None:
    """The stored verdicts of the iteration, if stage `verify` is asked for and has been made."""
    if arguments.stage != "verify":
        return None
    run = Run.read(root)
    if run.store.manifest("verify", arguments.iteration) is None:
        return None
    return run.store.table("verify", arguments.iteration, "verdicts")


def _show_changes(changes: list[dict[str, Any]], console: Console) -> None:
    if not changes:
        console.print("no verdict changed")
        return
    table = Table("prompt", "sample", "gold", "answer", "before", "after")
    for row in changes[:SHOWN]:
        table.add_row(
            row["prompt_id"],
            f"{row['sample_index']} {row['origin']}",
            row["gold"],
            row["after"]["extracted"] or "",
            row["before"]["status"],
            f"{row['after']['status']} ({row['after']['detail']})",
        )
    console.print(f"{len(changes)} verdicts changed", highlight=False)
    console.print(table)
    if len(changes) > SHOWN:
        console.print(f"and {len(changes) - SHOWN} more (--json lists all)")


SHOWN = 20
