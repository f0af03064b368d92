"""`icpo schema`: the configuration's keys, for an editor."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "schema",
        help="JSON Schema of the TOML file, for an editor",
        description="Print the JSON Schema of a configuration. Save it, and name it in the first "
        "line of the TOML file, for an editor with taplo (Even Better TOML): "
        "#:schema ./icpo.schema.json",
    )
    parser.set_defaults(call=call)


def call(arguments: argparse.Namespace) -> int:
    from icpo_core.config.schema import schema

    print(json.dumps(schema(), indent=2))
    return 0
