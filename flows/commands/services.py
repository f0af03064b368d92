"""`icpo up` and `icpo down`: Prefect server, work pool, worker and deployments on this machine."""

from __future__ import annotations

import argparse
import json
from typing import Any

from icpo.flows.ui.arguments import port
from icpo_core.common.console import Console


def add_parser(subparsers: Any) -> None:
    up = subparsers.add_parser(
        "up",
        help="Prefect server (if none is configured), work pool, worker and deployments",
        description="Make what is missing on this machine, then "
        "`prefect deployment run icpo/train` works. Repeating it does no harm.",
    )
    up.add_argument("--host", default="127.0.0.1", help="address of the server")
    up.add_argument("--port", type=port, default=4200)
    up.add_argument(
        "--database",
        metavar="URL",
        help="postgresql+asyncpg://user:password@host/name; better in the variable "
        "PREFECT_SERVER_DATABASE_CONNECTION_URL, which no list of processes shows "
        "(default: SQLite)",
    )
    up.add_argument(
        "--gpus", type=int, metavar="N", help="GPU slots of this machine (default: its GPUs)"
    )
    up.add_argument(
        "--notify",
        metavar="TYPE/NAME",
        help="notification block of Prefect that alarms go to, as slack-webhook/team",
    )
    up.add_argument(
        "--evaluate",
        action="store_true",
        help="evaluate checkpoints as they are published, not only at night",
    )
    up.add_argument("--json", action="store_true")
    up.set_defaults(call=call_up)
    down = subparsers.add_parser("down", help="end what `icpo up` started, and only that")
    down.add_argument("--json", action="store_true")
    down.set_defaults(call=call_down)


def call_up(arguments: argparse.Namespace) -> int:
    from icpo.flows.services.services import Wishes, up

    wishes = Wishes(
        arguments.host,
        arguments.port,
        arguments.database,
        arguments.gpus,
        arguments.notify,
        arguments.evaluate,
    )
    api = up(wishes, _say(arguments.json))
    if arguments.json:
        print(json.dumps({"api": api}))
    else:
        Console().print(
            "Start a run with `prefect deployment run icpo/train`, end all with `icpo down`.",
            highlight=False,
            soft_wrap=True,
        )
    return 0


def call_down(arguments: argparse.Namespace) -> int:
    from icpo.flows.services.services import down

    ended = down(_say(arguments.json))
    if arguments.json:
        print(json.dumps({"ended": ended}))
    elif not ended:
        Console().print("Nothing that `icpo up` started is running.")
    return 0


def _say(as_json: bool) -> Any:
    console = Console(stderr=as_json)
    return lambda line: console.print(line, highlight=False, soft_wrap=True)
