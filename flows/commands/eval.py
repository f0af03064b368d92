"""`icpo eval`: accuracy of models and runs on benchmarks, with intervals, and who is better."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from icpo_core.common.console import Console, Table


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "eval",
        help="evaluate models or runs on benchmarks",
        description="Evaluate models on benchmarks and compare them with the first. What was "
        "sampled before is found again: the same command twice samples once, and more samples "
        "add to those that are there.",
    )
    parser.add_argument(
        "targets", nargs="*", metavar="MODEL_OR_RUN",
        help="a model's folder, a hub id, a run's folder (its newest checkpoint), or RUN@ITERATION",
    )  # fmt: skip
    parser.add_argument(
        "--bench", action="extend", nargs="+", default=[], metavar="NAME",
        help="benchmarks: math500, aime2024, …, a group (math, ood, paper), a file, or NAME=FILE; "
        "default: a run's own",
    )  # fmt: skip
    parser.add_argument(
        "--protocol", nargs="+", default=[], metavar="NAME_OR_FILE",
        help="paper, greedy, quick, long, run (as in training) or a TOML file; several: a row "
        "each; default: run for a run, paper for a model",
    )  # fmt: skip
    parser.add_argument(
        "--after", default="", metavar="YYYY-MM",
        help="the model's cut-off: take the benchmarks that came out later, or mark those of "
        "--bench that did not",
    )  # fmt: skip
    parser.add_argument(
        "--list", action="store_true",
        help="sample nothing: the known benchmarks with their dates, with --after the newer ones",
    )  # fmt: skip
    parser.add_argument("--samples", type=int, metavar="K", help="samples a problem (avg@k)")
    parser.add_argument(
        "--budgets", type=int, nargs="+", metavar="TOKENS",
        help="accuracy at these numbers of tokens too, from the same samples, cut there",
    )  # fmt: skip
    parser.add_argument(
        "--judges", nargs="+", default=[], metavar="NAME",
        help="who judges: math, math-verify, or your own; several side by side on the same samples",
    )  # fmt: skip
    parser.add_argument(
        "--write", nargs="+", default=[], metavar="FORMAT",
        help="the samples as files of lighteval, lm-eval or inspect too, beside ours",
    )  # fmt: skip
    parser.add_argument(
        "--push", nargs="+", default=[], metavar="BOARD",
        help="the results as tables of mlflow, wandb or trackio, in project icpo-eval",
    )  # fmt: skip
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N problems")
    parser.add_argument("--seed", type=int, help="root of the sampling seeds")
    parser.add_argument(
        "-o", dest="overrides", action="append", default=[], metavar="SECTION.KEY=VALUE",
        help="change one key of the protocol, as sampling.temperature=1.0",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=Path("evaluations"), metavar="FOLDER",
        help="folder of all evaluations (default: evaluations)",
    )  # fmt: skip
    parser.add_argument(
        "--history", action="store_true",
        help="sample nothing: all stored evaluations of a run's checkpoints, and the best",
    )  # fmt: skip
    parser.add_argument(
        "--by", default="accuracy", metavar="METRIC",
        help="with --history: metric of the best checkpoint, as accuracy, pass@8, maj@8",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(call=call)


def call(arguments: argparse.Namespace) -> int:
    from icpo.flows.ui.table import fill, list_known, open_targets, show

    if arguments.list:
        known = list_known(arguments.after, Console(stderr=arguments.json))
        if arguments.json:
            print(json.dumps(known, indent=2))
        return 0
    if not arguments.targets:
        raise ValueError("name a model or a run: icpo eval MODEL --bench NAME; --list: benchmarks")
    if arguments.history:
        return _history(arguments)
    from icpo.flows.ui.counter import Counter
    from icpo_core.evaluation import boards

    boards.require(arguments.push)
    with Counter() as counter:
        table = fill(
            open_targets(arguments.targets),
            arguments.bench,
            arguments.protocol,
            overrides(arguments),
            arguments.out,
            counter.count,
            arguments.after,
            arguments.judges,
            arguments.write,
        )
    found = table.as_json()
    if arguments.push:
        boards.push(arguments.push, found, arguments.out)
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        show(table, Console())
    return 0


def overrides(arguments: argparse.Namespace) -> list[str]:
    """The options for single keys as overrides, those of `-o` last."""
    given = {
        "sampling.samples": arguments.samples,
        "sampling.limit": arguments.limit,
        "sampling.seed": arguments.seed,
        "sampling.budgets": arguments.budgets,
    }
    single = [f"{key}={value}" for key, value in given.items() if value is not None]
    return [*single, *arguments.overrides]


def _tops(found: dict[str, list[dict[str, Any]]], metric: str) -> Table:
    """The best checkpoint of each run, by benchmark and protocol."""
    grid = Table(title=f"best checkpoints by {metric}", title_justify="left")
    for column in ("benchmark", "protocol", "run", "iteration", metric):
        grid.add_column(column)
    tops = [(run, row) for run, rows in found.items() for row in rows if row["best"]]
    for run, row in sorted(tops, key=lambda one: (one[1]["benchmark"], one[1]["protocol"])):
        value = f"{100 * row[metric]:.1f}"
        grid.add_row(row["benchmark"], row["protocol"], run, str(row["iteration"]), value)
    return grid


def _history(arguments: argparse.Namespace) -> int:
    from icpo_core.run.evaluations import best, history, run_at

    found: dict[str, list[dict[str, Any]]] = {}
    console = Console(stderr=arguments.json)
    for text in arguments.targets:
        points = history(run_at(Path(text)), arguments.out)
        if arguments.bench:
            points = [one for one in points if one.benchmark in arguments.bench]
        rows = []
        grid = Table(title=f"{text}: {arguments.by} by checkpoint", title_justify="left")
        for column in ("benchmark", "protocol", "iteration", arguments.by, "95% interval", ""):
            grid.add_column(column)
        for name, protocol in dict.fromkeys((one.benchmark, one.protocol) for one in points):
            mine = [one for one in points if (one.benchmark, one.protocol) == (name, protocol)]
            top = best(mine, arguments.by)
            for one in mine:
                value = one.value(arguments.by)
                low, high = one.figures["interval"]
                rows.append(
                    {
                        "benchmark": name,
                        "protocol": protocol,
                        "iteration": one.iteration,
                        arguments.by: value,
                        "interval": [low, high],
                        "best": one is top,
                    }
                )
                grid.add_row(
                    name,
                    protocol,
                    str(one.iteration),
                    "" if value is None else f"{100 * value:.1f}",
                    f"[{100 * low:.1f}, {100 * high:.1f}]" if arguments.by == "accuracy" else "",
                    "best" if one is top else "",
                )
        if not rows:
            raise ValueError(f"{text}: no evaluation is stored; `icpo eval {text}` makes one")
        found[text] = rows
        console.print(grid)
    if len(found) > 1:
        console.print(_tops(found, arguments.by))
    if arguments.json:
        print(json.dumps(found, indent=2))
    return 0
