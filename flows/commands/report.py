"""`icpo report`: one HTML page of runs that opens from disk without network."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "report",
        help="one self-contained HTML page of runs: plots, evaluations, a browser of rollouts",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders, as runs/demo")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="default: report.html in the only run's folder, "
        "or here for several",
    )  # fmt: skip
    parser.add_argument(
        "--evaluations", type=Path, default=Path("evaluations"), metavar="FOLDER",
        help="where `icpo eval` keeps what it made (default: evaluations)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(call=call)


def call(arguments: argparse.Namespace) -> int:
    from icpo_core.views.report.page import write

    alone = arguments.runs[0] / "report.html" if len(arguments.runs) == 1 else Path("report.html")
    out = write(arguments.runs, arguments.out or alone, arguments.evaluations)
    found = {"report": str(out), "bytes": out.stat().st_size}
    print(json.dumps(found) if arguments.json else out)
    return 0
