"""`icpo data`: data sets from the hub or a file to Parquet that can be trained and tested on."""

from __future__ import annotations

import argparse
import sys
from typing import Any


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("data", help="prepare data sets", add_help=False)
    parser.add_argument("rest", nargs=argparse.REMAINDER)
    parser.set_defaults(call=call)


def call(arguments: argparse.Namespace) -> int:
    # Its options would pull transformers and math-verify into every `icpo --help`.
    from icpo.data.prepare import add_parser as add_prepare
    from icpo.flows.ui.arguments import Parser

    parser = Parser(prog="icpo data", description=__doc__)
    add_prepare(parser.add_subparsers(dest="what", required=True))
    rest = arguments.rest[1:] if arguments.rest[:1] == ["--"] else arguments.rest
    chosen = parser.parse_args(rest or ["--help"], namespace=argparse.Namespace())
    sys.stdout.flush()
    code: int = chosen.run(chosen)
    return code
