"""What the page shows, read from runs as they lie on disk."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from icpo_core.config import LossSection
from icpo_core.evaluation.comparison import compare
from icpo_core.evaluation.registry import entry
from icpo_core.run import metrics, timeline
from icpo_core.run.evaluations import Point, history, rewards, run_at
from icpo_core.run.run import Run
from icpo_core.store import run_record
from icpo_core.views.cost import of_run
from icpo_core.views.model_card import recorded, settings
from icpo_core.views.report.ancestry import ancestry
from icpo_core.views.report.excerpts import excerpts

POINTS = 4000
"""Points of one figure over all runs; longer runs are thinned out evenly, the last one kept."""
SPANS = 6000
"""Spans of the timelines over all runs."""
EXCERPT_BYTES = 2_000_000
"""UTF-8 bytes of rollout text over all runs."""
DIGITS = 5


def gather(roots: Sequence[Path], evaluations: Path) -> dict[str, Any]:
    """Everything the page shows, as JSON.

    evaluations: folder of evaluations that stand beside runs; need not be there.
    Raises ValueError, naming the mend, for what is no run, or a run without a finished iteration.
    """
    runs = [run_at(root) for root in roots]
    names = _names(roots)
    shown = []
    for run, name in zip(runs, names, strict=True):
        rows = metrics.read(run.paths)
        if not rows:
            raise ValueError(
                f"{run.paths.root}: has no finished iteration yet; `icpo plan {run.paths.root}` "
                "shows what comes next"
            )
        config = run.config
        shown.append(
            {
                "name": name,
                "path": str(run.paths.root),
                "preset": config.preset or "icpo",
                "model": Path(config.model.path).name,
                "iterations": int(rows[-1]["iteration"]),
                "planned": config.run.iterations,
                "seed": config.run.seed,
                "made": _made_of(run, int(rows[-1]["iteration"])),
                "shaping": _shaping(config.loss),
                "group": [config.rollout.on_policy, config.rollout.expert],
                "figures": _figures(rows, POINTS // len(runs)),
                "timelines": _timelines(run, SPANS // len(runs)),
                "evaluations": [_point(point) for point in history(run, evaluations)],
                "lineage": ancestry(run, int(rows[-1]["iteration"])),
                "rollouts": [asdict(one) for one in excerpts(run, EXCERPT_BYTES // len(runs))],
            }
        )
    return {
        "made": time.strftime("%Y-%m-%d %H:%M", time.localtime()),
        "runs": shown,
        "comparisons": _comparisons(runs, names),
    }


def _made_of(run: Run, iteration: int) -> dict[str, str]:
    """Commit and libraries of the newest finished stage, digests of the data, every setting."""
    found = next(
        (
            one
            for number in range(iteration, -1, -1)
            for stage in ("update", "evaluate")
            if (one := run.store.finished(stage, number)) is not None
        ),
        None,
    )
    git, libraries = (found.git, found.libraries) if found else ({}, {})
    commit = str(git.get("commit") or "not known")[:12]
    data = recorded(run)
    return {
        "commit": f"{commit}, changed" if git.get("dirty") else commit,
        "hardware": _hardware(run),
        "cost": _cost(run),
        "libraries": ", ".join(f"{name} {version}" for name, version in libraries.items()),
        "data": ", ".join(f"{name} {str(digest)[:12]}" for name, digest in data.items()),
        "settings": settings(run.config),
    }


def _shaping(loss: LossSection) -> str:
    return "f(ρ) = ρ" if loss.expert == "unshaped" else f"f(ρ) = ρ/(ρ + {loss.expert_lambda:g})"


def _hardware(run: Run) -> str:
    """The machines of the run's attempts, each kind once, the newest last."""
    attempts = (run_record.read(run.paths) or {}).get("attempts", [])
    told = []
    for machine in (one["machine"] for one in attempts if "machine" in one):
        devices = Counter(machine["devices"])
        parts = [f"{count} × {name}" for name, count in devices.items()] or ["no GPU"]
        parts += [f"{machine['cores']} cores", f"{machine['memory'] / 2**30:.0f} GiB"]
        told.append(", ".join(parts))
    return "; ".join(dict.fromkeys(told)) or "not known"


def _cost(run: Run) -> str:
    """Wall and device time of all stages, and what was not paid again."""
    whole = of_run(run)[-1]
    parts = [f"{whole.seconds:,.0f} s", f"{whole.device_seconds:,.0f} device-seconds"]
    if whole.resumed_seconds:
        parts.append(f"{whole.resumed_seconds:,.0f} s kept by resuming")
    if whole.inherited_seconds:
        parts.append(f"{whole.inherited_seconds:,.0f} s from before the branch")
    return ", ".join(parts)


def _names(roots: Sequence[Path]) -> list[str]:
    """The runs' names, by as much of their paths as makes them differ."""
    paths = [root.resolve() for root in roots]
    if len(set(paths)) < len(paths):
        raise ValueError(f"{roots[-1]}: a run stands twice; name each once")
    for depth in range(1, 1 + max(len(path.parts) for path in paths)):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return names


def _figures(rows: list[dict[str, float]], points: int) -> dict[str, list[float | None]]:
    """Columns by name, None where an iteration lacks the figure."""
    stride = max(1, math.ceil(len(rows) / max(2, points)))
    kept = rows[::stride]
    # An evaluation is rare, so none is thinned out.
    rare = [row for row in rows if any(name.startswith("accuracy/") for name in row)]
    chosen = {row["iteration"]: row for row in [*kept, *rare, rows[-1]]}
    ordered = [chosen[iteration] for iteration in sorted(chosen)]
    names = sorted({name for row in ordered for name in row})
    return {name: [_short(row.get(name)) for row in ordered] for name in names}


def _timelines(run: Run, budget: int) -> list[dict[str, Any]]:
    """What ran when, of iterations evenly spread, the last one among them: within a budget of
    spans. Each span: lane, name, beginning (seconds from the iteration's), seconds."""
    numbers = run.paths.iterations()
    most = len(timeline.spans(timeline.manifests(run.store, numbers[-1]))) if numbers else 0
    stride = max(1, math.ceil(len(numbers) * max(1, most) / budget))
    shown = []
    for number in numbers[::-1][::stride][::-1]:
        spans = timeline.spans(timeline.manifests(run.store, number))[: max(1, budget)]
        if spans:
            begin = min(one.started for one in spans)
            rows = [
                [one.lane, one.name, _short(one.started - begin), _short(one.seconds)]
                for one in spans
            ]
            shown.append({"iteration": number, "spans": rows})
    return shown


def _short(value: float | None) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    short = float(f"{value:.{DIGITS}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def _point(point: Point) -> dict[str, Any]:
    figures = point.figures
    low, high = figures["interval"]
    return {
        "benchmark": point.benchmark,
        "protocol": point.protocol,
        "iteration": point.iteration,
        "accuracy": _short(figures["accuracy"]),
        "interval": [_short(low), _short(high)],
        "problems": figures["problems"],
        "k": figures["k"],
        "more": {
            f"{kind}@{k}": _short(found["value"])
            for kind in ("pass", "maj", "cons")
            for k, found in list(figures[f"{kind}@k"].items())[-1:]
            if figures["k"] > 1
        },
        "format": _short(figures["format"]),
        "truncated": _short(figures["truncated"]),
        "tokens": _short(figures["mean_tokens"]),
        "private": entry(point.benchmark).private,
    }


def _comparisons(runs: Sequence[Run], names: Sequence[str]) -> list[dict[str, Any]]:
    """Each run's last evaluation in training against that of the first run, by benchmark."""
    last = [_last_rewards(run) for run in runs]
    found = []
    for name, mine in zip(names[1:], last[1:], strict=True):
        for benchmark in [one for one in last[0] if one in mine]:
            (first_at, first), (at, other) = last[0][benchmark], mine[benchmark]
            if not set(first["prompt_id"].to_pylist()) & set(other["prompt_id"].to_pylist()):
                continue
            change = compare(first, other)
            found.append(
                {
                    "benchmark": benchmark,
                    "from": f"{names[0]}@{first_at}",
                    "to": f"{name}@{at}",
                    "difference": _short(change.difference),
                    "interval": [_short(one) for one in change.interval],
                    "p": _short(change.p_value),
                    "gained": len(change.gained),
                    "lost": len(change.lost),
                    "problems": change.problems,
                }
            )
    return found


def _last_rewards(run: Run) -> dict[str, tuple[int, pa.Table]]:
    """By benchmark: the last iteration that was evaluated in training, and its rewards."""
    for number in reversed(run.paths.iterations()):
        found = run.store.finished("evaluate", number)
        if found is not None:
            facts = [name for name in found.facts if name.startswith("accuracy/")]
            names = [name.removeprefix("accuracy/") for name in facts]
            return {name: (number, rewards(run, number, name)) for name in names}
    return {}
