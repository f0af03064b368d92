"""`icpo probe`: is this model steerable, measured before hours are spent on it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icpo_core.common.console import Console, Table

if TYPE_CHECKING:
    from icpo_core.evaluation.exploration import Explored, Flips
    from icpo_core.evaluation.steerability import Probe


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "probe",
        help="is a model steerable: zero-shot against k-shot, flips, reach of expert rollouts",
        description="Measure what the method needs: that worked examples make the model solve "
        "what it does not solve without, and that the bare prompt gives such rollouts a "
        "probability that can be learned from. Ends in a sentence: steer, or why not.",
    )
    parser.add_argument(
        "target", metavar="MODEL", help="a model's folder, a hub id, a run, RUN@ITERATION, or the "
        "TOML file of a run to come",
    )  # fmt: skip
    parser.add_argument(
        "--config", type=Path, metavar="RUN.toml",
        help="problems, demonstrations, prompts and sampling of this run (MODEL may be this file)",
    )  # fmt: skip
    parser.add_argument("--problems", metavar="FILE", help="training problems to probe on")
    parser.add_argument("--demonstrations", metavar="FILE", help="pool of worked examples")
    parser.add_argument(
        "--shots", type=int, nargs="+", default=[0, 1, 2, 4], metavar="K",
        help="numbers of worked examples (default: 0 1 2 4)",
    )  # fmt: skip
    parser.add_argument(
        "--temperatures", type=float, nargs="+", default=[], metavar="T",
        help="explore: edit distance and flips of worked examples beside these temperatures",
    )  # fmt: skip
    parser.add_argument("--limit", type=int, default=128, help="problems drawn (default: 128)")
    parser.add_argument("--samples", type=int, default=4, help="samples a problem (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="draws problems and samples")
    parser.add_argument(
        "-o", dest="overrides", action="append", default=[], metavar="SECTION.KEY=VALUE",
        help="change one key of the protocol, as sampling.max_tokens=1024",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("evaluations"), metavar="FOLDER")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(call=call)


def call(arguments: argparse.Namespace) -> int:
    from icpo.flows.ui.counter import Counter
    from icpo_core import config
    from icpo_core.evaluation import benchmarks, protocol
    from icpo_core.evaluation.evaluator import Evaluator
    from icpo_core.evaluation.exploration import explore
    from icpo_core.evaluation.steerability import NAME, probe
    from icpo_core.run.evaluations import target

    place, run = arguments.target, None
    if place.endswith(".toml"):
        run = config.load(Path(place))
        place = run.model.path
    if arguments.config:
        run = config.load(arguments.config)
    chosen = target(place)
    run = run or chosen.config
    problems = arguments.problems or (run.prompts.problems if run else None)
    pool = arguments.demonstrations or (run.prompts.demonstrations if run else None)
    for what, value in (("problems", problems), ("demonstrations", pool)):
        if not value:
            raise ValueError(f"name a file with --{what}, or a run's TOML file with --config")
    assert problems is not None
    if min(arguments.shots) < 0 or max(arguments.shots) < 1:
        raise ValueError("--shots: give numbers of examples, at least one of them above 0")
    if arguments.limit < 2 or arguments.samples < 1:
        raise ValueError("--limit must be at least 2 and --samples at least 1")
    if min(arguments.temperatures, default=1.0) <= 0:
        raise ValueError("--temperatures: give numbers above 0")
    raw: dict[str, Any] = protocol.of_rollouts(run) if run else {"sampling": {"temperature": 1.0}}
    given = [
        f"sampling.samples={arguments.samples}",
        f"sampling.seed={arguments.seed}",
        f"prompting.demonstrations={pool}",
        *arguments.overrides,
    ]
    rules = protocol.build({"name": NAME, **raw}, given, NAME)
    drawn = benchmarks.read(Path(problems).stem, problems).drawn(arguments.limit, arguments.seed)
    with Counter() as counter, Evaluator(arguments.out, rules, counter.count) as evaluator:
        expert_lambda = run.loss.expert_lambda if run else config.LossSection().expert_lambda
        found = probe(evaluator, chosen, drawn, arguments.shots, expert_lambda)
        ways = []
        if arguments.temperatures:
            ways = explore(evaluator, chosen, drawn, arguments.shots, arguments.temperatures)
    if arguments.json:
        explored = {"exploration": [one.as_json() for one in ways]} if ways else {}
        print(json.dumps(found.as_json() | explored, indent=2))
    else:
        show(found, Console())
        if ways:
            show_exploration(ways, Console())
    return 0


def show(found: Probe, console: Console) -> None:
    """Print what was measured, and the sentence."""

    from icpo_core.evaluation.scores import shown

    grid = Table(title=f"{found.target} with k worked examples", title_justify="left")
    for column in (
        "k",
        "cut",
        "accuracy [95%]",
        "gained",
        "lost",
        "p",
        "format",
        "tokens",
        "diverse",
    ):
        grid.add_column(column, justify="right")
    for one in found.shots:
        figures, against = one.evaluation.figures, one.against_bare
        grid.add_row(
            str(one.k) if one.shown == one.k else f"{one.k} ({one.shown:.1f})",
            _percent(figures["truncated"]),
            shown(figures),
            _percent(one.gained),
            _percent(one.lost),
            f"{against.p_value:.2g}" if against else "",
            _percent(figures["format"]),
            f"{figures['mean_tokens']:.0f}",
            "" if one.diversity is None else f"{one.diversity:.2f}",
        )
    console.print(grid)
    if found.reach is not None:
        reach = found.reach
        console.print(
            f"{reach.rollouts} accepted rollouts of k = {found.best} under the bare prompt: "
            f"probability {reach.token:.3g} a token, {reach.whole:.2g} the whole (median), "
            f"{reach.rarest:.2g} the rarest step",
            highlight=False,
            soft_wrap=True,
        )
    console.print(found.sentence, highlight=False, soft_wrap=True)


def show_exploration(ways: list[Explored], console: Console) -> None:
    """Print what examples and temperatures reach beside the bare prompt."""

    from icpo_core.evaluation.scores import shown

    grid = Table(title="away from the bare prompt's rollouts", title_justify="left", box=None)
    for column in ("k", "T", "accuracy [95%]", "gained", "lost", "dist", "div"):
        grid.add_column(column, justify="right")
    for one in ways:
        figures = one.evaluation.figures
        grid.add_row(
            str(one.k),
            f"{one.temperature:g}",
            shown(figures),
            _flips(one.gained),
            _flips(one.lost),
            "" if one.distance is None else f"{one.distance:.2f}",
            "" if one.diversity is None else f"{one.diversity:.2f}",
        )
    console.print(grid)


def _flips(found: Flips | None) -> str:
    if found is None:
        return ""
    low, high = found.interval
    return f"{100 * found.share:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
