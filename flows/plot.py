"""A picture of runs: accuracy and reward over the iterations."""

from __future__ import annotations

from pathlib import Path

from icpo_core.common.files import atomic_path
from icpo_core.run import metrics
from icpo_core.store.paths import RunPaths


def draw(roots: list[Path], out: Path) -> Path:
    """Draw runs into a PNG, side by side panels for accuracy, reward and acceptance.

    Raises ValueError for a run without figures.
    """
    # Takes a second to import.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.4), layout="constrained", dpi=110)
    accuracy, reward, steering = figure.subplots(1, 3)
    for number, root in enumerate(roots):
        colour = f"C{number}"
        rows = metrics.read(RunPaths(root))
        if not rows:
            raise ValueError(f"{root}: no figures here; `icpo ls` lists runs")
        for name in sorted({name for row in rows for name in row if name.startswith("accuracy/")}):
            points = [(row["iteration"], 100 * row[name]) for row in rows if name in row]
            label = f"{root.name} {name.partition('/')[2]}"
            accuracy.plot(*zip(*points, strict=True), marker="o", color=colour, label=label)
        for name, label in (("reward/on_policy", "bare"), ("reward/expert", "expert")):
            points = [(row["iteration"], row[name]) for row in rows if name in row]
            if points:
                style = "-" if label == "bare" else ":"
                line = zip(*points, strict=True)
                reward.plot(*line, style, color=colour, label=f"{root.name} {label}")
        points = [(row["iteration"], row["flips"]) for row in rows if "flips" in row]
        steering.plot(*zip(*points, strict=True), color=colour, label=root.name)
    accuracy.set(title="Accuracy, zero-shot (%)", xlabel="iteration", ylim=(0, 102))
    reward.set(title="Mean reward by prompt", xlabel="iteration", ylim=(0, 1.02))
    steering.set(title="Flips: wrong bare, right steered", xlabel="iteration")
    for axes in (accuracy, reward, steering):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=7)
    with atomic_path(out) as temporary:
        figure.savefig(temporary, format="png")
    return out
