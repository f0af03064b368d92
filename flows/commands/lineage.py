"""`icpo lineage`: what a stored result was made from, and what was made from it."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text
from rich.tree import Tree

from icpo_core.common.console import Console

if TYPE_CHECKING:
    from icpo_core.views.lineage import Node


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "lineage",
        help="what a result was made from, down to model and data",
        description="The stages that a stored result was made from, and what those were made "
        "from, down to the base model and the data.",
    )
    parser.add_argument(
        "path", type=Path,
        help="anything in a run, as runs/demo/LATEST/model or runs/demo/it-0003/select; "
        "a run stands for its newest checkpoint",
    )  # fmt: skip
    parser.add_argument(
        "--depth", type=int, default=0, metavar="N", help="iterations to go back (default: 0)"
    )
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(call=call)


def call(arguments: argparse.Namespace) -> int:
    from icpo_core.run.run import Run
    from icpo_core.views import lineage

    root, stage, iteration = lineage.locate(arguments.path)
    run = Run.read(root)
    node = lineage.ancestors(run, stage, iteration, arguments.depth)
    below = lineage.descendants(run, stage, iteration)
    origins = lineage.origins(run.paths)
    if arguments.json:
        found = {"made_from": node.as_json(), "made_from_it": below, "branch_of": origins}
        print(json.dumps(found, indent=2))
        return 0
    console = Console()
    tree = Tree(_label(node, root))
    _grow(tree, node, root)
    console.print(tree)
    console.print(f"Made from it: {', '.join(below) if below else 'nothing yet'}", highlight=False)
    for origin in origins:
        changes = f" with {' '.join(origin['changes'])}" if origin["changes"] else ""
        console.print(f"Branch of {origin['run']} at {origin['at']}{changes}", highlight=False)
    return 0


def _grow(tree: Tree, node: Node, root: Path) -> None:
    if node.cut:
        return
    if node.inputs:
        read = "  ".join(f"{name} {str(digest)[:8]}" for name, digest in node.inputs.items())
        tree.add(Text(read, "dim"))
    for place in node.lost:
        tree.add(Text(f"{place} as it was then: replaced since", "red"))
    for parent in node.parents:
        _grow(tree.add(_label(parent, root)), parent, root)


def _label(node: Node, root: Path) -> Text:
    found = node.manifest
    name = Text.assemble((node.place, "bold"), " ", (found.fingerprint[:12], "dim"))
    if node.cut:
        return name.append(" …", "dim")
    policy = f"  policy {found.policy_version[:12]}" if found.policy_version else ""
    rows = f"  {found.rows} rows" if found.rows else ""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found.started))
    commit = found.git.get("commit", "")[:8] + ("+" if found.git.get("dirty") else "")
    code = f", code {commit}" if commit else ""
    where = f", in {node.run}" if node.run != str(root) else ""
    return name.append(policy + rows).append(f"  {when}, {found.seconds:.1f} s{code}{where}", "dim")
