"""`icpo sweep`: variants over seeds and problem families, and how they compare."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icpo_core.common.console import Console, Table

if TYPE_CHECKING:
    from icpo_core.run.sweep import Sweep


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "sweep",
        help="train variants over seeds and problem families, and compare them",
        description="Train every variant of every configuration with every seed, and compare: "
        "iterations, sampled tokens and seconds to 90% of the best final accuracy, and the final "
        "accuracy with 95% intervals, paired by seed. The same command again goes on where it "
        "stopped; `icpo sweep FOLDER` does, too.",
    )
    parser.add_argument(
        "configs", nargs="+", metavar="CONFIG",
        help="TOML files, one a family of problems; or the folder of a sweep, to go on with",
    )  # fmt: skip
    parser.add_argument(
        "--vary", action="append", default=[], metavar="KEY=A,B",
        help="a grid's axis, as preset=icpo,grpo; more make a grid",
    )  # fmt: skip
    parser.add_argument(
        "--variant", action="append", default=[], metavar="NAME: KEY=A KEY=B",
        help="a variant by name, with its changes; the first is what others are compared with",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 0 to N-1 (3)")
    parser.add_argument(
        "-o", dest="overrides", action="append", default=[], metavar="SECTION.KEY=VALUE",
        help="change one key of all runs",
    )  # fmt: skip
    parser.add_argument("--into", type=Path, help="the sweep's folder (default: runs/sweep)")
    parser.add_argument(
        "--jobs", type=int, default=0, metavar="N",
        help="N runs at a time, as flow runs of the deployment icpo/train on the workers that "
        "`icpo up` starts (default: one after another, in this process)",
    )  # fmt: skip
    parser.add_argument("--plain", action="store_true", help="without Prefect")
    parser.add_argument("--table", action="store_true", help="train nothing: compare what is there")
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON")
    parser.set_defaults(call=call)


def call(arguments: argparse.Namespace) -> int:
    from icpo_core.views import sweep as view

    folder, given = _asked(arguments)
    if not arguments.table:
        given.keep(folder)
        if failed := _train(arguments, given, folder):
            raise ValueError(f"{folder}: {len(failed)} runs failed: {', '.join(sorted(failed))}")
    found = view.rows(given, folder)
    view.keep(given, folder)
    (folder / "sweep.md").write_text(view.markdown(found), "utf-8")
    view.draw(found, folder / "sweep.svg")
    if arguments.json:
        print(json.dumps([row.as_json() for row in found], indent=2))
        return 0
    console = Console()
    for family in dict.fromkeys(row.family for row in found):
        mine = [row for row in found if row.family == family]
        grid = Table(*view.HEAD, title=view.title(mine), title_justify="left")
        for cells in view.table(mine):
            grid.add_row(*cells)
        console.print(grid)
    console.print(f"table    {folder / 'sweep.md'}\npicture  {folder / 'sweep.svg'}")
    return 0


def _asked(arguments: argparse.Namespace) -> tuple[Path, Sweep]:
    """The sweep's folder, and the sweep."""
    from icpo_core.run import sweep

    first, *others = arguments.configs
    if (Path(first) / sweep.FILE).is_file():
        changes = arguments.vary or arguments.variant or arguments.overrides or arguments.into
        if others or changes:
            raise ValueError(f"{first}: is a sweep; go on with it alone, without changes")
        given = sweep.Sweep.read(Path(first))
        if not arguments.table:
            given.require_trusted(Path(first))
        return Path(first), given
    variants = dict(map(sweep.variant, arguments.variant))
    if arguments.vary:
        variants |= sweep.grid(arguments.vary)
    if len(variants) < 1:
        raise ValueError("nothing varies: give --vary KEY=A,B or --variant 'NAME: KEY=A'")
    if arguments.seeds < 1:
        raise ValueError(f"--seeds {arguments.seeds}: give 1 or more")
    slugs = [sweep.slug(name) for name in variants]
    if len(set(slugs)) < len(slugs):
        raise ValueError("two variants would have one folder: give them other names by --variant")
    stems = [Path(config).stem for config in arguments.configs]
    if len(set(stems)) < len(stems):
        raise ValueError("two configurations have one name, and would share folders: rename one")
    given = sweep.Sweep(
        configs=arguments.configs,
        variants=variants,
        seeds=list(range(arguments.seeds)),
        overrides=arguments.overrides,
    )
    return arguments.into or Path("runs/sweep"), given


def _train(arguments: argparse.Namespace, given: Sweep, folder: Path) -> list[str]:
    import asyncio

    from icpo.flows.prefect_compat.terminal import plain_errors, quiet_prefect
    from icpo.flows.sweep import missing, sweep

    open_, all_ = missing(given, folder), len(list(given.members(folder)))
    Console(stderr=True).print(f"{folder}: {len(open_)} of {all_} runs are to be made")
    if not open_:
        return []
    if arguments.plain:
        from icpo.flows.ui.progress import Watcher
        from icpo_core.run import loop
        from icpo_core.run.session import Session

        for member in open_:
            with Watcher() as watcher, Session(member.run(), watcher) as session:
                loop.train(session)
        return []
    quiet_prefect()
    with plain_errors():
        return asyncio.run(sweep(str(folder), arguments.jobs))
