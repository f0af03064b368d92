"""`icpo push-model`: a run's model with its card, as a folder or on the Hugging Face hub."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from icpo_core.common.console import Console


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "push-model",
        help="a run's model with tokenizer and model card, as a folder or on the hub",
        description="Weights, tokenizer and a card with method, digests of the data, a "
        "contamination report, evaluations with intervals, and the licence. Without --hub nothing "
        "leaves this machine.",
    )
    parser.add_argument("run", metavar="RUN", help="a run's folder, or RUN@ITERATION")
    parser.add_argument(
        "folder", type=Path, nargs="?", metavar="FOLDER",
        help="where to write it (default: models/RUN-ITERATION); must be empty or absent",
    )  # fmt: skip
    parser.add_argument(
        "--hub", metavar="OWNER/NAME", help="put the folder on the hub, under your login there"
    )
    parser.add_argument(
        "--public", action="store_true", help="with --hub: for everyone to see (default: private)"
    )
    parser.add_argument(
        "--licence", default="", metavar="ID",
        help="as apache-2.0 (default: what the base model's card names)",
    )  # fmt: skip
    parser.add_argument("--title", default="", help="name on the card (default: the run's)")
    parser.add_argument(
        "--evaluations", type=Path, default=Path("evaluations"), metavar="FOLDER",
        help="where `icpo eval` keeps what it made (default: evaluations)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(call=call)


def call(arguments: argparse.Namespace) -> int:
    from icpo_core.run.evaluations import run_at
    from icpo_core.views import export

    place, _, number = arguments.run.rpartition("@")
    if not (place and number.isdecimal()):
        place, number = arguments.run, ""
    run = run_at(Path(place))
    iteration = int(number) if number else export.newest(run)
    folder = arguments.folder or Path("models") / f"{run.paths.root.name}-{iteration}"
    export.write(run, iteration, folder, arguments.evaluations, arguments.licence, arguments.title)
    page = None
    if arguments.hub:
        page = export.upload(folder, arguments.hub, not arguments.public)
    names = sorted(one.name for one in folder.iterdir())
    if arguments.json:
        found = {"folder": str(folder), "iteration": iteration, "files": names, "hub": page}
        print(json.dumps(found))
    else:
        Console().print(f"{folder}: {', '.join(names)}", highlight=False, soft_wrap=True)
        if page:
            Console().print(page, highlight=False, soft_wrap=True)
    return 0
