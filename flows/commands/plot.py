"""`icpo plot`: the curves of one run or several as an SVG."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("plot", help="the curves of runs as an SVG")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--out", type=Path, default=Path("icpo.svg"), help="default: icpo.svg")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(call=call)


def call(arguments: argparse.Namespace) -> int:
    from icpo_core.views import curves

    out = curves.write(arguments.runs, arguments.out)
    print(json.dumps({"picture": str(out)}) if arguments.json else out)
    return 0
