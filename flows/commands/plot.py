"""`icpo plot`: accuracy and reward of one run or several as a PNG."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("plot", help="accuracy and reward of runs as a PNG")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--out", type=Path, default=Path("icpo.png"), help="default: icpo.png")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(call=call)


def call(arguments: argparse.Namespace) -> int:
    from flows.plot import draw

    out = draw(arguments.runs, arguments.out)
    print(json.dumps({"picture": str(out)}) if arguments.json else out)
    return 0
