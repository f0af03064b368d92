"""What each ingredient of ICPO does on the small problem family, over seeds.

    python -m benchmarks.study --runs DIR [--seeds 5] [--out docs]

Trains every variant with every seed (about a minute each on two quiet cores; runs that are there
already are kept), evaluates 300 held-out problems at temperature 1 every 5 iterations, and writes
OUT/pictures/study.svg; prints the table of docs/study.md. Stages run in this process, without
Prefect.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, stdev

from scipy.stats import t as student

from icpo_core.common.files import atomic_path
from icpo_core.config import load
from icpo_core.run import loop, metrics, plan
from icpo_core.run.run import Run
from icpo_core.run.session import Session
from icpo_core.store.paths import RunPaths
from icpo_core.views.curves import COLOURS, Line, Panel, picture

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "configs" / "demo.toml"
ITERATIONS = 40
EVERY = 5
GOOD = 0.9
VARIANTS = {
    "icpo": [],
    "icpo, λ = 0.1": ["loss.expert_lambda=0.1"],
    "icpo-rs": ["preset=icpo-rs"],
    "icpo-no-errs": ["preset=icpo-no-errs"],
    "grpo": ["preset=grpo"],
}


@dataclass(frozen=True)
class Curve:
    """Accuracy of one run by iteration."""

    accuracy: dict[int, float]

    @property
    def reached(self) -> int | None:
        """First evaluated iteration at `GOOD` or more."""
        return next((at for at, value in self.accuracy.items() if value >= GOOD), None)

    @property
    def final(self) -> float:
        return list(self.accuracy.values())[-1]


def train(name: str, changes: list[str], seed: int, folder: Path) -> Curve:
    """Train one variant with one seed, or go on with it, and read its accuracies."""
    changes = [
        *changes,
        f"run.seed={seed}",
        f"run.directory={folder}",
        f"run.iterations={ITERATIONS}",
        f"evaluate.every={EVERY}",
        "checkpoint.keep_every=0",
    ]
    slug = name.replace(", λ = ", "-lambda-")
    run = Run.of(load(DEMO, changes, f"{slug}-seed{seed}"))
    if plan.first_open(plan.plan(run)) is not None:
        with Session(run) as session:
            loop.train(session, rerun=True)
    return read(run.paths)


def read(paths: RunPaths) -> Curve:
    rows = metrics.read(paths)
    return Curve(
        {
            int(row["iteration"]): row["accuracy/heldout"]
            for row in rows
            if "accuracy/heldout" in row
        }
    )


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half width of its 95% confidence interval by Student's t over seeds."""
    if len(values) < 2:
        return values[0], math.nan
    half = student.ppf(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return mean(values), float(half)


def draw(curves: dict[str, list[Curve]], out: Path) -> None:
    lines = []
    for colour, mine in zip(COLOURS, curves.values(), strict=False):
        values = {step: [curve.accuracy[step] for curve in mine] for step in mine[0].accuracy}
        means = [(step, mean(found)) for step, found in values.items()]
        low, high = ([(at, end(found)) for at, found in values.items()] for end in (min, max))
        lines.append(Line(means, colour, area=[*low, *reversed(high)]))
    head = list(zip(curves, COLOURS, strict=False))
    title = "zero-shot accuracy by iteration: mean over seeds, and their range"
    with atomic_path(out) as temporary:
        temporary.write_text(picture(head, [Panel(title, [], lines, share=True)]), "utf-8")


def table(curves: dict[str, list[Curve]]) -> list[str]:
    lines = [
        f"| variant | iterations to {GOOD:.0%} by seed | median "
        f"| accuracy at {ITERATIONS}, % (95% interval) |",
        "|---|---|---|---|",
    ]
    for name, mine in curves.items():
        reached = [curve.reached for curve in mine]
        words = " ".join("never" if at is None else str(at) for at in reached)
        middle = median(math.inf if at is None else at for at in reached)
        centre, half = interval([100 * curve.final for curve in mine])
        lines.append(
            f"| {name} | {words} | {'never' if math.isinf(middle) else f'{middle:g}'} "
            f"| {centre:.1f} ± {half:.1f} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--variant", action="append", choices=list(VARIANTS), help="only these")
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    chosen = arguments.variant or list(VARIANTS)
    curves: dict[str, list[Curve]] = {name: [] for name in chosen}
    for seed in range(arguments.seeds):
        for name in chosen:
            curve = train(name, VARIANTS[name], seed, arguments.runs)
            curves[name].append(curve)
            print(f"{name} seed {seed}: {curve.accuracy}", flush=True)
    lines = table(curves)
    print("\n".join(lines))
    draw(curves, arguments.out / "pictures" / "study.svg")
    if arguments.json:
        found = {name: [curve.accuracy for curve in mine] for name, mine in curves.items()}
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
