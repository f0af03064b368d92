"""`icpo completion`: what a shell needs to complete commands and options."""

from __future__ import annotations

import argparse
from typing import Any

SHELLS = ("bash", "zsh", "tcsh")


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "completion",
        help="completion of commands and options, for a shell",
        description='Print a completion script. bash: eval "$(icpo completion bash)" in ~/.bashrc; '
        "zsh: icpo completion zsh > _icpo, in a folder of $fpath.",
    )
    parser.add_argument("shell", choices=SHELLS)
    parser.set_defaults(call=call)


def call(arguments: argparse.Namespace) -> int:
    import shtab

    from icpo.flows.cli import parser

    print(shtab.complete(parser(), shell=arguments.shell))
    return 0
