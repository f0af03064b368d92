"""`icpo data prepare`: the command line of `icpo.data.preparation`.

icpo data prepare --recipe dapo-17k --evaluation aime24.parquet amc23.parquet --out dapo.parquet
icpo data prepare mine.csv --column problem=question --column answer=gold --out mine.parquet
icpo data prepare --again dapo.manifest.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from icpo.data.preparation import Order, Prepared, again, prepare
from icpo.data.recipes import FIELDS, RECIPES
from icpo_core.common.console import Console, Table
from icpo_core.common.text import line
from icpo_core.config import PromptsSection, load

NAMED = 3
"""Removed rows of a kind that are named one by one."""

_DESCRIPTION: dict[str, Any] = {
    "description": "Make training problems, demonstrations or an evaluation set out of a data "
    "set. Every row that is removed has a reason, in OUT.removed.parquet.",
    "formatter_class": argparse.RawDescriptionHelpFormatter,
    "epilog": "recipes:\n"
    + "\n".join(f"  {name:12} {recipe.about}" for name, recipe in RECIPES.items()),
}


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """The sub-command `prepare`."""
    parser = subparsers.add_parser(
        "prepare", help="a data set from the hub or a file to cleaned Parquet", **_DESCRIPTION
    )
    return _with_arguments(parser)


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m icpo.data.prepare`: the same without the sub-command."""
    parser = argparse.ArgumentParser("python -m icpo.data.prepare", **_DESCRIPTION)
    arguments = _with_arguments(parser).parse_args(argv)
    return run(arguments)


def _with_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument(
        "source",
        nargs="?",
        help="file (Parquet, Arrow, JSON, CSV; packed or not), folder, glob or hub id "
        "(default: the recipe's)",
    )
    parser.add_argument("--out", type=Path, help="Parquet file to write")
    parser.add_argument("--recipe", default="columns", help="shape of the data set (see below)")
    parser.add_argument(
        "--column", action="append", default=[], metavar="FIELD=NAME",
        help=f"where a field is found; fields: {', '.join(FIELDS)}; "
        "names may be paths, as reward_model.ground_truth or prompt.-1.content",
    )  # fmt: skip
    parser.add_argument(
        "--as", dest="purpose", default="training",
        choices=["training", "demonstrations", "evaluation"],
        help="what the rows are for (default: training)",
    )  # fmt: skip
    parser.add_argument(
        "--evaluation", action="extend", nargs="+", default=[], metavar="FILE",
        help="evaluation sets whose problems must not be in the result",
    )  # fmt: skip
    parser.add_argument("--language", default="en", help="language to keep, or any (default: en)")
    parser.add_argument("--solutions", action="store_true", help="only rows with a solution")
    parser.add_argument(
        "--config", type=Path, metavar="RUN.toml",
        help="a run's configuration: its benchmarks are evaluation sets, its model's tokenizer and "
        "prompts tell which problems are too long",
    )  # fmt: skip
    parser.add_argument("--tokenizer", help="count prompts by this model's tokenizer and templates")
    parser.add_argument("--max-prompt-tokens", type=int, help="longest bare prompt (default: 4096)")
    parser.add_argument("--config-name", help="configuration of the hub data set")
    parser.add_argument("--split", help="split of the hub data set (default: the recipe's)")
    parser.add_argument("--revision", help="commit, branch or tag of the hub data set")
    parser.add_argument(
        "--streaming", action=argparse.BooleanOptionalAction, default=None,
        help="read the hub data set without a copy on disk (default: the recipe's)",
    )  # fmt: skip
    parser.add_argument("--limit", type=int, help="only the first so many rows")
    parser.add_argument("--workers", type=int, default=0, help="judge processes (default: cores)")
    parser.add_argument("--again", type=Path, metavar="MANIFEST", help="make the same rows again")
    parser.add_argument("--json", action="store_true", help="print the manifest as JSON")
    parser.set_defaults(run=run)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Exit status: 0, or 2 after one line that says what to mend."""
    try:
        if arguments.again:
            made = again(arguments.again, arguments.out, arguments.workers)
        elif arguments.out is None:
            raise ValueError("name the file to write with --out FILE.parquet")
        else:
            console = Console(stderr=arguments.json)
            made = prepare(
                _order(arguments),
                arguments.out,
                arguments.workers,
                say=lambda said: console.print(said, soft_wrap=True),
            )
    except ValueError as error:
        print(f"icpo data prepare: {line(error)}", file=sys.stderr)
        return 2
    if arguments.json:
        print(json.dumps(made.manifest, indent=2))
    else:
        show(made, Console())
    return 0


def show(made: Prepared, console: Console) -> None:
    """Print what was removed, why, and where the rest is."""
    rows, order = made.manifest["rows"], made.manifest["order"]
    removed = pq.read_table(made.removed).to_pylist()
    table = Table(title=f"{order['source'] or order['recipe']} → {made.problems}")
    table.add_column("")
    table.add_column("rows", justify="right")
    table.add_column("share", justify="right")
    table.add_column("for example", overflow="fold")
    table.add_row("read", f"{rows['read']:,}", "", "", end_section=True)
    for reason, count in rows["removed"].items():
        first = next(entry for entry in removed if entry["reason"] == reason)
        example = f"{first['id']}: {first['detail']}" if first["detail"] else first["id"]
        share = f"{count / rows['read']:.2%}"
        table.add_row(reason, f"{count:,}", share, line(example, 100))
    table.add_section()
    table.add_row("kept", f"{rows['kept']:,}", f"{rows['kept'] / rows['read']:.2%}", "")
    console.print(table)
    for reason in ("not_text", "wrong_solution"):
        for entry in [entry for entry in removed if entry["reason"] == reason][:NAMED]:
            named = entry["detail"] if reason == "not_text" else f"{entry['id']}: {entry['detail']}"
            console.print(line(f"{reason}: {named}", 400), soft_wrap=True)
    for what, count in made.manifest["mended"].items():
        console.print(f"mended: {count:,} × {what}")
    if made.manifest["several_answers"]:
        console.print(f"{made.manifest['several_answers']:,} rows have several right answers.")
    if made.manifest["solutions_without_an_answer"]:
        console.print(
            f"{made.manifest['solutions_without_an_answer']:,} solutions show no final answer and "
            "were not judged against their gold."
        )
    if order["purpose"] != "evaluation" and not order["evaluations"]:
        console.print(
            "No evaluation set was named: only known fingerprints were looked for. "
            "Name yours with --evaluation or --config."
        )
    if order["purpose"] == "training" and not order["tokenizer"]:
        console.print("Prompts were not counted: no --tokenizer or --config.")
    console.print(f"why each row went: {made.removed}\nto make it again: --again "
                  f"{made.manifest_file}", soft_wrap=True)  # fmt: skip


def _order(arguments: argparse.Namespace) -> Order:
    columns = {}
    for text in arguments.column:
        name, separator, path = text.partition("=")
        if not separator or not name or not path:
            raise ValueError(f"--column {text}: write FIELD=NAME, as problem=question")
        columns[name] = path
    prompts, tokenizer = PromptsSection(), arguments.tokenizer
    evaluations: list[str] = list(arguments.evaluation)
    if arguments.config:
        config = load(arguments.config)
        prompts, tokenizer = config.prompts, tokenizer or config.model.path
        evaluations += [benchmark.problems for benchmark in config.evaluate.benchmarks]
        evaluations += config.prompts.exclude
    if arguments.max_prompt_tokens:
        if not tokenizer:
            raise ValueError("--max-prompt-tokens needs --tokenizer MODEL (or --config RUN.toml)")
        prompts = prompts.model_copy(update={"max_tokens": arguments.max_prompt_tokens})
    if arguments.limit is not None and arguments.limit < 1:
        raise ValueError(f"--limit {arguments.limit}: must be at least 1")
    return Order(
        source=arguments.source,
        recipe=arguments.recipe,
        columns=columns,
        purpose=arguments.purpose,
        evaluations=tuple(dict.fromkeys(evaluations)),
        language=arguments.language,
        solutions=arguments.solutions,
        tokenizer=tokenizer,
        prompts=prompts,
        config=arguments.config_name,
        split=arguments.split,
        revision=arguments.revision,
        streaming=arguments.streaming,
        limit=arguments.limit,
    )


if __name__ == "__main__":
    sys.exit(main())
