"""`icpo judge`: the samples of another package's evaluation, by our judges."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icpo_core.common.console import Console

if TYPE_CHECKING:
    from icpo_core.evaluation.exchange import Answered
    from icpo_core.evaluation.protocol import Protocol
    from icpo_core.grading.extraction import Mode
    from icpo_core.grading.pool import Judges

NAMED = 8


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "judge",
        help="judge the samples of lighteval, lm-eval or inspect",
        description="Give verdicts on the responses in another package's file: lighteval details "
        "(.parquet), lm-eval samples (.jsonl) or an inspect log (.json). Samples nothing.",
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument(
        "--judges", nargs="+", default=["math"], metavar="NAME",
        help="math (default), math-verify, or your own; several side by side",
    )  # fmt: skip
    parser.add_argument(
        "--extraction", default="boxed_or_last", choices=["boxed", "boxed_or_last"],
        help="where an answer is looked for (default: boxed_or_last)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(call=call)


def call(arguments: argparse.Namespace) -> int:
    from icpo_core.evaluation import exchange
    from icpo_core.evaluation.protocol import build
    from icpo_core.evaluation.scores import shown

    read = {file: exchange.read(file) for file in arguments.files}
    for file, (_, problems) in read.items():
        if not problems:
            raise ValueError(f"{file}: holds no problem")
    # Names that nobody has are told as of any protocol.
    rules = {name: build({}, [f"judging.verifier={name}"], "--judges") for name in arguments.judges}
    console = Console(stderr=arguments.json)
    with contextlib.ExitStack() as stack:
        judges: dict[tuple[str, str], Judges] = {}

        def judge(name: str, extraction: Mode) -> Judges:
            verifier = "math" if extraction == "choice" else name
            if (verifier, extraction) not in judges:
                made = _judges(rules[name], verifier, extraction)
                judges[verifier, extraction] = stack.enter_context(made)
            return judges[verifier, extraction]

        found = []
        for file, (kind, problems) in read.items():
            choice = exchange.kind_of(problems) == "choice"
            extraction: Mode = "choice" if choice else arguments.extraction
            names = dict.fromkeys(metric for one in problems for metric in one.scores)
            theirs = {
                metric: {one.id: one.scores[metric] for one in problems if metric in one.scores}
                for metric in names
            }
            means = {metric: sum(one.values()) / len(one) for metric, one in theirs.items()}
            said = ", ".join(f"{metric} {100 * mean:.1f}" for metric, mean in means.items())
            _print(console, f"{file.name}: {kind}, {len(problems)} problems, theirs: {said}")
            ours = {}
            for name in arguments.judges:
                ours[name] = one = _ours(file.stem, problems, judge(name, extraction), theirs)
                differ = [
                    f"apart from {metric} on {len(ids)}{_some(ids)}"
                    for metric, ids in one["apart"].items()
                ]
                _print(console, f"  {name} {shown(one)}  {'; '.join(differ)}")
            found.append(
                {
                    "file": str(file),
                    "format": kind,
                    "problems": len(problems),
                    "theirs": means,
                    "ours": ours,
                }
            )
    if arguments.json:
        print(json.dumps(found, indent=2))
    return 0


def _judges(protocol: Protocol, verifier: str, extraction: Mode) -> Judges:
    from icpo_core.common import plugins
    from icpo_core.grading.pool import Judges

    judging = protocol.judging
    return Judges(
        judging.workers,
        judging.seconds,
        judging.memory_mb,
        protocol.grading.model_copy(update={"extraction": extraction}),
        verifier,
        digest=plugins.source_digest(verifier),
    )


def _ours(
    name: str,
    problems: Sequence[Answered],
    judges: Judges,
    theirs: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """Our figures, and the problems on which each of their scores is another."""
    from icpo_core.evaluation.comparison import accuracies
    from icpo_core.evaluation.exchange import judged
    from icpo_core.evaluation.scores import scores

    samples, questions = judged(name, problems, judges)
    figures, means = scores(samples, questions)[name], accuracies(samples)
    return {
        **{key: figures[key] for key in ("accuracy", "interval", "no_answer", "unjudged")},
        "apart": {
            metric: [one for one, said in values.items() if abs(means[one] - said) > 1e-9]
            for metric, values in theirs.items()
        },
    }


def _print(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)


def _some(ids: list[str]) -> str:
    more = ", …" if len(ids) > NAMED else ""
    return f" ({', '.join(ids[:NAMED])}{more})" if ids else ""
