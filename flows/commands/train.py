"""`icpo train`: a run in this process, or on with one that was stopped."""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icpo.flows.commands.init import CONFIGURATION
from icpo.flows.ui.waiting import Waiting
from icpo_core.common.console import Console

if TYPE_CHECKING:
    from icpo_core.config import Config
    from icpo_core.run.run import Run


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "train",
        help="train, or go on with a run that was stopped",
        description="Train in this process, against the configured Prefect API or an embedded one. "
        "The same command again goes on where the run stopped.",
    )
    parser.add_argument(
        "config", nargs="?", default="",
        help=f"TOML file of the run, or a run's folder, to go on (default: {CONFIGURATION}); or, "
        "with --model, a data set: a name as gsm8k, a file or a folder",
    )  # fmt: skip
    parser.add_argument(
        "-o", dest="overrides", action="append", default=[], metavar="SECTION.KEY=VALUE",
        help="change one key, as run.seed=1 or preset=grpo",
    )  # fmt: skip
    parser.add_argument(
        "--model",
        help="a first run without a configuration: the folder or hub id of a model, for the data "
        "set that is named; the configuration is written into the run",
    )
    parser.add_argument("--run", metavar="NAME", help="name of the run (default: the file's)")
    parser.add_argument(
        "--rerun",
        action="store_true",
        help="make again, in place, what a changed configuration or data set makes otherwise",
    )
    parser.add_argument(
        "--plain", action="store_true", help="without Prefect: no server, no UI, no alarms"
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.set_defaults(call=call)


def call(arguments: argparse.Namespace) -> int:
    from icpo_core.run.run import Run

    if arguments.run == "":
        raise ValueError("--run: is empty; give the run a name, as --run first")
    if not arguments.plain:
        from icpo.flows.prefect_compat.terminal import require_answering

        require_answering()
    if not arguments.config:
        if not Path(CONFIGURATION).is_file():
            raise ValueError(
                f"no {CONFIGURATION} here: name a configuration, as icpo train configs/demo.toml, "
                "or make a folder of your own with icpo init NAME"
            )
        arguments.config = CONFIGURATION
    if arguments.model is not None:
        arguments.config = _started(arguments)
    elif Path(arguments.config).suffix != ".toml" and not Path(arguments.config).is_dir():
        from icpo.flows.start import is_data

        if is_data(arguments.config):
            raise ValueError(
                f"{arguments.config}: is a data set; name a model, too: "
                f"icpo train {arguments.config} --model Qwen/Qwen3-0.6B"
            )
    run = Run.named(arguments.config, arguments.overrides, arguments.run)
    with Waiting(f"{run.config.run.name}: looks at model and data") as waiting:
        _train(arguments, run, waiting)
    root = run.paths.root
    from icpo.flows.ui.summary import as_json, show

    if arguments.json:
        print(json.dumps(as_json(root), indent=2))
    else:
        show(root, Console(), prefect=not arguments.plain)
    return 0


def _started(arguments: argparse.Namespace) -> str:
    """The configuration of a first run: of a data set and a model."""
    from icpo.data.recipes import RECIPES
    from icpo.flows import start
    from icpo_core.common import toml
    from icpo_core.config import RunSection
    from icpo_core.run.run import Run
    from icpo_core.store.paths import RunPaths

    if not start.names_data(arguments.config):
        known = ", ".join(sorted(RECIPES.keys() - {"columns"}))
        raise ValueError(
            f"{arguments.config}: is no data set; --model is for icpo train DATA --model MODEL, "
            f"DATA a file or folder of problems or one of {known}; else set it by "
            "-o model.path=MODEL"
        )
    changes: dict[str, Any] = {}
    for override in arguments.overrides:
        toml.put(changes, override)
    name = arguments.run or Path(arguments.config).stem
    root = Path(changes.get("run", {}).get("directory", RunSection().directory)) / name
    if RunPaths(root).exists():  # by what it has stored, under the rules for a stored run
        start.require_same(Run.read(root), arguments.config, arguments.model)
        return str(root)
    console = Console(stderr=True)
    with Waiting(f"{arguments.config}: is prepared for a first run"):
        return str(
            start.configuration(
                arguments.config,
                arguments.model,
                root,
                lambda line: console.print(line, soft_wrap=True, highlight=False),
            )
        )


def _train(arguments: argparse.Namespace, run: Run, waiting: Waiting) -> None:
    from icpo_core.common.lock import RefusedError, require_free
    from icpo_core.method import published
    from icpo_core.run import plan, sources, trust
    from icpo_core.store.paths import MANIFEST
    from icpo_core.workers import pool as workers

    # What the run will refuse it refuses now, and not when a Prefect server has started.
    if not arguments.plain:
        from icpo.flows.prefect_compat.settings import prepare_process

        prepare_process()
    trust.require(run)
    for note in sources.require(run):
        Console(stderr=True).print(f"{run.config.model.path}: {note}", soft_wrap=True)
    if run.config.verify.pool:
        _require_pool(run.config, arguments.plain)
    for note in published.notes(run.config):
        Console(stderr=True).print(note, soft_wrap=True, highlight=False)
    require_free(run.paths.lock)
    steps = plan.plan(run)
    if not arguments.rerun:
        plan.require_same(run, steps)
    if arguments.rerun or plan.first_open(steps) is not None:
        workers.require(run.config)
    waiting.now("the run opens" if arguments.plain else "the flow starts, with Prefect")
    try:
        (_plain if arguments.plain else _flow)(arguments)
    except RefusedError:
        raise
    except BaseException:
        if run.paths.record.is_file():
            finished = any(run.paths.root.glob(f"it-*/*/{MANIFEST}"))
            kept = f"What is finished is kept in {run.paths.root}. " if finished else ""
            Console(stderr=True).print(
                f"{kept}To go on: {again(arguments)}",
                soft_wrap=True,
                highlight=False,
            )
        raise


def _require_pool(config: Config, plain: bool) -> None:
    if plain:
        words = f"verify.pool = {config.verify.pool} is Prefect's: with --plain all is judged here"
        Console(stderr=True).print(words, soft_wrap=True, highlight=False)
        return
    from icpo.flows.services import judging

    judging.require_server(config)


def _flow(arguments: argparse.Namespace) -> None:
    from icpo.flows.prefect_compat.terminal import plain_errors, quiet_prefect

    quiet_prefect()
    from icpo.flows.train import train

    with plain_errors():
        asyncio.run(
            train(arguments.config, arguments.overrides, arguments.run or "", arguments.rerun)
        )


def _plain(arguments: argparse.Namespace) -> None:
    from icpo.flows.ui.progress import Watcher
    from icpo_core.run import loop
    from icpo_core.run.run import Run
    from icpo_core.run.session import Session

    run = Run.named(arguments.config, arguments.overrides, arguments.run)
    with Watcher() as watcher, Session(run, watcher) as session:
        loop.train(session, arguments.rerun)


def again(arguments: argparse.Namespace) -> str:
    """The command that goes on with this run."""
    words = ["icpo", "train", arguments.config]
    for override in arguments.overrides:
        words += ["-o", override]
    words += ["--run", arguments.run] if arguments.run else []
    words += ["--rerun"] if arguments.rerun else []
    words += ["--plain"] if arguments.plain else []
    words += ["--json"] if arguments.json else []
    return shlex.join(words)
