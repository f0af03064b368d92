"""`icpo stage`: one stage, of one iteration or of several, on what is stored."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icpo_core.common.console import Console, Table

if TYPE_CHECKING:
    import pyarrow as pa

    Stored = tuple[str, pa.Table | None]


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "stage",
        help="one stage of one iteration or of several, on stored Parquet",
        description="Run one stage of an iteration on what is stored. Without --force a stage "
        "that is done is left as it is. To try another setting, name a branch with --into: it "
        "shares what is stored without copying it, and the run stays as it is.",
    )
    parser.add_argument("stage", metavar="STAGE", help="which one, as verify")
    parser.add_argument("run", type=Path, help="folder of the run, as runs/demo")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--iteration", type=int)
    which.add_argument(
        "--iterations", metavar="A-B", help="all from A to B, each from what is stored of it"
    )
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
    from icpo_core.common import toml
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
    first, last = _range(arguments)
    stored = {
        number: _stored(arguments.run, arguments, number) for number in range(first, last + 1)
    }
    quiet_prefect()
    from icpo.flows.stage import STAGE_FLOWS

    with plain_errors():
        references = asyncio.run(
            STAGE_FLOWS[arguments.stage](
                run=str(arguments.run),
                iteration=first,
                overrides=arguments.overrides,
                force=arguments.force,
                into=arguments.into or "",
                last=last if last > first else 0,
            )
        )
    found = []
    for reference in references:
        number = reference["iteration"]
        now = _stored(Path(reference["path"]).parent.parent, arguments, number)
        found.append(_compared(reference, stored[number], now))
    if arguments.json:
        print(json.dumps(found[0] if arguments.iteration is not None else found, indent=2))
        return 0
    console = Console()
    for one in found:
        _say(console, one)
    if changes := [row for one in found for row in one.get("changed") or []]:
        _show_changes(changes, console)
    elif arguments.stage == "verify" and any("changed" in one for one in found):
        console.print("no verdict changed")
    if arguments.into:
        branch = arguments.run.parent / arguments.into
        for command in (
            f"icpo diff {arguments.run} {branch}    # what that changes",
            f"icpo train {branch}    # go on from there",
        ):
            console.print(f"  {command}", highlight=False, soft_wrap=True)
    return 0


def _range(arguments: argparse.Namespace) -> tuple[int, int]:
    """The first and the last iteration. Raises ValueError for what is no range."""
    from icpo_core.run.stages import STAGES

    if arguments.iterations is None:
        lowest = 0 if STAGES[arguments.stage].of_start else 1
        if arguments.iteration < lowest:
            raise ValueError(f"--iteration: input should be greater than or equal to {lowest}")
        return arguments.iteration, arguments.iteration
    first, dash, last = arguments.iterations.partition("-")
    if not (dash and first.isdigit() and last.isdigit() and int(first) <= int(last)):
        raise ValueError(f"--iterations {arguments.iterations}: write A-B, for example 1-40")
    return int(first), int(last)


def _stored(root: Path, arguments: argparse.Namespace, iteration: int) -> Stored | None:
    """What is stored of the stage, if it has been made: its content's digest, its verdicts."""
    from icpo_core.run.run import Run

    run = Run.read(root)
    found = run.store.manifest(arguments.stage, iteration)
    if found is None:
        return None
    verify = arguments.stage == "verify"
    return found.content(), run.store.table("verify", iteration, "verdicts") if verify else None


def _compared(reference: dict[str, Any], before: Stored | None, after: Stored | None) -> Any:
    """The reference, with what is another than before."""
    import pyarrow.compute as pc

    from icpo_core.method.verdicts import changed

    if before is None or after is None:
        return reference
    found = reference | {"same_content": before[0] == after[0]}
    if before[1] is not None and after[1] is not None:
        found["changed"] = changed(before[1], after[1])
        found["mean_reward"] = [pc.mean(one["reward"]).as_py() for one in (before[1], after[1])]
    return found


def _say(console: Console, one: dict[str, Any]) -> None:
    """A line for one iteration."""
    verb = "made" if one["made"] else "kept"
    line = (
        f"{verb} {one['stage']} of iteration {one['iteration']} ({one['reason']}): "
        f"{one['rows']} rows in {one['path']}"
    )
    if "changed" in one:
        old, new = one["mean_reward"]
        line += f"; {len(one['changed'])} changed, mean reward {old:.3f} to {new:.3f}"
    elif "same_content" in one:
        line += "; as before" if one["same_content"] else "; another result than before"
    console.print(line, highlight=False, soft_wrap=True)


def _show_changes(changes: list[dict[str, Any]], console: Console) -> None:
    table = Table("prompt", "sample", "gold", "answer", "before", "after")
    for row in changes[:SHOWN]:
        before, after = row["before"], row["after"]
        table.add_row(
            row["prompt_id"],
            f"{row['sample_index']} {row['origin']}",
            row["gold"],
            after["extracted"] or "",
            f"{before['status']} {before['reward']:g}",
            f"{after['status']} {after['reward']:g} ({after['detail']})",
        )
    console.print(f"{len(changes)} verdicts changed", highlight=False)
    console.print(table)
    if len(changes) > SHOWN:
        console.print(f"and {len(changes) - SHOWN} more (--json lists all)")


SHOWN = 20
