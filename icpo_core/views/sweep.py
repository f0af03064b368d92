"""A sweep compared, from its runs' stored figures alone: a table with intervals, and a picture.

What finished runs came to is kept in `figures.json` beside `sweep.json`. With it the runs' folders
may go: they are compared as before, and not made again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from pydantic import TypeAdapter, ValidationError

from icpo_core.common.files import atomic_path, read_json, write_json
from icpo_core.common.text import line
from icpo_core.evaluation.scores import student
from icpo_core.run import metrics
from icpo_core.run.run import Run
from icpo_core.run.sweep import Sweep
from icpo_core.store.paths import RunPaths
from icpo_core.views.cost import devices
from icpo_core.views.curves import COLOURS, Line, Panel, picture

GOOD = 0.9
"""Share of the family's best final accuracy that a run is measured by getting to."""
LEVEL = 0.95
FIGURES = "figures.json"


@dataclass(frozen=True)
class Cost:
    """What was spent up to an iteration."""

    tokens: float
    """Sampled in training."""
    seconds: float
    """Of stages, evaluations aside."""
    device_seconds: float
    """As in `views.cost`."""


@dataclass(frozen=True)
class Finished:
    """What one run came to."""

    seed: int
    accuracy: dict[int, float]
    """Mean over benchmarks, by iteration."""
    cost: dict[int, Cost]
    """By iteration, where there is an accuracy."""
    entropy: float | None
    """Of the last update, nats."""
    iterations: int
    """Of the run, when it is finished."""

    @property
    def final(self) -> float:
        return list(self.accuracy.values())[-1]

    @property
    def whole(self) -> bool:
        return self.iterations in self.accuracy

    @property
    def sound(self) -> bool:
        """Whether what was read of a file is what a finished run comes to."""
        spent = [value for one in self.cost.values() for value in vars(one).values()]
        known = [*self.accuracy.values(), *spent, *([] if self.entropy is None else [self.entropy])]
        return (
            self.whole
            and self.cost.keys() == self.accuracy.keys()
            and all(map(math.isfinite, known))
        )

    def reaches(self, accuracy: float) -> int | None:
        """The first evaluated iteration with an accuracy; None: never."""
        return next((at for at, value in self.accuracy.items() if value >= accuracy), None)


@dataclass(frozen=True)
class Row:
    """One variant on one family."""

    family: str
    variant: str
    runs: list[Finished]
    target: float = 0.0
    """Accuracy that is asked for: `GOOD` of the family's best final mean."""
    first: list[Finished] = field(default_factory=list)
    """The runs of the family's first variant."""

    @property
    def reached(self) -> list[int | None]:
        return [one.reaches(self.target) for one in self.runs]

    def until(self, of: Callable[[Cost], float]) -> list[float]:
        """What runs spent until they reached the target; infinite where they never did."""
        return [
            math.inf if at is None else of(run.cost[at])
            for run, at in zip(self.runs, self.reached, strict=True)
        ]

    def difference(self) -> tuple[float, float] | None:
        """Final accuracy against the first variant, paired by seed: mean and half its interval."""
        theirs = {run.seed: run.final for run in self.first}
        pairs = [run.final - theirs[run.seed] for run in self.runs if run.seed in theirs]
        return interval(pairs) if pairs and self.runs is not self.first else None

    def as_json(self) -> dict[str, Any]:
        return {
            "family": self.family,
            "variant": self.variant,
            "seeds": [run.seed for run in self.runs],
            "accuracy": [run.accuracy for run in self.runs],
            "target": self.target,
            "reached": self.reached,
            "tokens": [_finite(value) for value in self.until(lambda cost: cost.tokens)],
            "seconds": [_finite(value) for value in self.until(lambda cost: cost.seconds)],
            "device_seconds": [
                _finite(value) for value in self.until(lambda cost: cost.device_seconds)
            ],
            "entropy": [run.entropy for run in self.runs],
            "difference": self.difference(),
        }


def interval(values: list[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95% interval by Student's t; NaN for a single value."""
    if len(values) < 2:
        return values[0], math.nan
    half = student(len(values) - 1, LEVEL) * stdev(values) / math.sqrt(len(values))
    return mean(values), half


def rows(sweep: Sweep, folder: Path) -> list[Row]:
    """Of the runs that are finished, by family and variant. Raises ValueError if there is none."""
    found: dict[tuple[str, str], list[Finished]] = {}
    runs_ = _finished(sweep, folder)
    for member in sweep.members(folder):
        if (run := runs_.get(member.name)) is not None:
            found.setdefault((member.family, member.variant), []).append(run)
    if not found:
        raise ValueError(f"{folder}: no run of this sweep is finished")
    made = []
    for family in dict.fromkeys(family for family, _ in found):
        mine = {variant: runs for (of, variant), runs in found.items() if of == family}
        best = max(mean(run.final for run in runs) for runs in mine.values())
        first = mine.get(next(iter(sweep.variants)), [])
        made += [Row(family, name, runs, GOOD * best, first) for name, runs in mine.items()]
    return made


_KEPT = TypeAdapter(dict[str, Finished])


def kept(folder: Path) -> dict[str, Finished]:
    """What runs of a sweep came to, by name, whether or not they are still there. Raises ValueError
    if the file is damaged."""
    path = folder / FIGURES
    if not path.is_file():
        return {}
    try:
        found = _KEPT.validate_python(read_json(path))
        wrong = next((name for name, one in found.items() if not one.sound), None)
    except ValidationError as error:
        first = error.errors()[0]
        wrong = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except RecursionError:
        wrong = "nested too deeply"
    if wrong is not None:
        raise ValueError(
            f"{path}: is damaged ({line(wrong)}); remove it, and it is made again of the runs that "
            "are there"
        )
    return found


def keep(sweep: Sweep, folder: Path) -> None:
    """Write down what the finished runs came to."""
    write_json(folder / FIGURES, _KEPT.dump_python(_finished(sweep, folder), mode="json"))


def _finished(sweep: Sweep, folder: Path) -> dict[str, Finished]:
    """The runs that are finished, by name; of those that are not there, what is kept."""
    found, old = {}, kept(folder)
    for member in sweep.members(folder):
        run = finished(folder / member.name)
        if run is None or not run.whole:
            run = old.get(member.name)
        if run is not None:
            found[member.name] = run
    return found


def finished(root: Path) -> Finished | None:
    """What a run has come to; None if it has no evaluation."""
    paths = RunPaths(root)
    if not paths.config.is_file():
        return None
    config = Run.read(root).config
    accuracy: dict[int, float] = {}
    cost: dict[int, Cost] = {}
    tokens = seconds = busy = 0.0
    entropy = None
    for row in metrics.read(paths):
        at = int(row["iteration"])
        tokens += row.get("rollout/tokens", 0.0)
        for name, value in row.items():
            stage = name.removeprefix("seconds/")
            if stage == name or stage == "evaluate":
                continue
            seconds += value
            busy += value * devices(config, stage)
        entropy = row.get("entropy", entropy)
        cost[at] = Cost(tokens, seconds, busy)
        if values := [value for name, value in row.items() if name.startswith("accuracy/")]:
            accuracy[at] = mean(values)
    if not accuracy:
        return None
    spent = {at: cost[at] for at in accuracy}
    return Finished(config.run.seed, accuracy, spent, entropy, config.run.iterations)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


HEAD = (
    "variant", "seeds", "iters", "tokens", "seconds", "device-s", "final, %", "vs first, %",
    "entropy",
)  # fmt: skip
"""Columns. Iterations by seed, and in the median sampled tokens, seconds and device-seconds, are
those until the target; the rest is of the end."""


def table(found: list[Row]) -> list[list[str]]:
    """Cells of `HEAD` for each row. Of what a run spent, the median over seeds."""
    return [
        [
            row.variant,
            str(len(row.runs)),
            " ".join("never" if at is None else str(at) for at in row.reached),
            _middle(row.until(lambda cost: cost.tokens)),
            _middle(row.until(lambda cost: cost.seconds)),
            _middle(row.until(lambda cost: cost.device_seconds)),
            _plus_minus(*interval([run.final for run in row.runs])),
            "" if row.difference() is None else _plus_minus(*row.difference(), sign="+"),  # type: ignore[misc]
            _entropy(row),
        ]
        for row in found
    ]


def title(mine: list[Row]) -> str:
    """Of the table of one family."""
    return f"{mine[0].family}: what it takes to {mine[0].target:.1%}, {GOOD:.0%} of the best"


def markdown(found: list[Row]) -> str:
    """The tables, one a family."""
    parts = []
    for family in dict.fromkeys(row.family for row in found):
        mine = [row for row in found if row.family == family]
        parts.append(f"**{title(mine)}**\n")
        parts.append("| " + " | ".join(HEAD) + " |")
        parts.append("|" + "---|" * len(HEAD))
        parts += ["| " + " | ".join(cells) + " |" for cells in table(mine)]
        parts.append("")
    return "\n".join(parts)


def draw(found: list[Row], out: Path) -> None:
    """Accuracy by iteration: mean over seeds and their range, a panel a family."""
    variants = list(dict.fromkeys(row.variant for row in found))
    colours = {name: COLOURS[at % len(COLOURS)] for at, name in enumerate(variants)}
    panels = []
    for family in dict.fromkeys(row.family for row in found):
        lines = []
        for row in (row for row in found if row.family == family):
            steps = sorted(set.intersection(*(set(run.accuracy) for run in row.runs)))
            values = {at: [run.accuracy[at] for run in row.runs] for at in steps}
            means = [(at, mean(some)) for at, some in values.items()]
            low, high = ([(at, end(some)) for at, some in values.items()] for end in (min, max))
            lines.append(Line(means, colours[row.variant], area=[*low, *reversed(high)]))
        panels.append(Panel(f"{family}: accuracy, mean and range over seeds", [], lines, True))
    with atomic_path(out) as temporary:
        temporary.write_text(picture(list(colours.items()), panels), "utf-8")


def _middle(values: list[float]) -> str:
    """The median, written short; `never` where it is."""
    ordered = sorted(values)
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    middle = (low + high) / 2
    return f"{middle:,.0f}" if math.isfinite(middle) else "never"


def _plus_minus(centre: float, half: float, sign: str = "") -> str:
    around = "" if math.isnan(half) else f" ± {100 * half:.1f}"
    return f"{100 * centre:{sign}.1f}{around}"


def _entropy(row: Row) -> str:
    values = [run.entropy for run in row.runs if run.entropy is not None]
    return f"{mean(values):.3f}" if values else ""
