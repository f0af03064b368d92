"""`icpo trust`: follow what a run of somebody else's chooses."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from icpo_core.common.console import Console


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "trust",
        help="follow what a run's own files choose: programs, hosts, addresses, code",
        description="A run's folder can name interpreters, hosts, servers, code and places to "
        "write to. What you did not choose yourself is not followed until you have read it here. "
        "Shows each such value, and keeps beside the run that you agree.",
    )
    parser.add_argument("run", type=Path, help="folder of the run, as runs/demo")
    parser.add_argument("--dry-run", action="store_true", help="only show them")
    parser.set_defaults(call=call)


def call(arguments: argparse.Namespace) -> int:
    from icpo_core.run import trust
    from icpo_core.run.run import Run

    run, console = Run.read(arguments.run), Console()
    missing = trust.missing(run)
    for name, value in trust.asked(run).items():
        state = "not trusted" if name in missing else "trusted"
        console.print(f"{name} = {value}  ({state})", soft_wrap=True)
    if not missing:
        console.print(f"{arguments.run}: nothing to trust")
    elif not arguments.dry_run:
        trust.seal(run)
        console.print(f"{arguments.run}: trusted from now on")
    return 0
