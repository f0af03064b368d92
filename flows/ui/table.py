"""The table that a paper prints: models by benchmarks, with intervals, and models compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from icpo.data.benchmarks import gather
from icpo_core.common.console import Console
from icpo_core.common.console import Table as RichTable
from icpo_core.evaluation import exchange
from icpo_core.evaluation.benchmarks import Benchmark
from icpo_core.evaluation.comparison import Comparison, agreement, compare, holm, some
from icpo_core.evaluation.evaluator import Evaluation, Evaluator, Progress
from icpo_core.evaluation.protocol import RUN, Protocol, load
from icpo_core.evaluation.registry import ENTRIES, entry, month, newer_than
from icpo_core.evaluation.scores import shown
from icpo_core.evaluation.target import Target
from icpo_core.run.evaluations import target

DATA = "data"
"""Folder, below that of the evaluations, of what came from the hub."""
MARKS: dict[bool | None, str] = {True: " *", False: "", None: " ?"}
"""Behind a benchmark's name: is it older than the models' cut-off?"""


@dataclass(frozen=True)
class Table:
    """Evaluations of targets, in order, on benchmarks, in order."""

    rows: dict[str, dict[str, Evaluation]]
    """By target, then benchmark."""
    cutoff: str = ""
    """Month (YYYY-MM) of the models' training data; older benchmarks are marked."""
    budgets: dict[str, dict[str, dict[int, dict[str, Any]]]] = field(default_factory=dict)
    """Figures at smaller token budgets, by target, benchmark and budget."""
    judges: dict[str, dict[str, dict[str, Evaluation]]] = field(default_factory=dict)
    """The same samples by other judges, by target, benchmark and judge."""
    files: dict[str, dict[str, list[Path]]] = field(default_factory=dict)
    """What was written for other packages, by target and benchmark."""

    @property
    def benchmarks(self) -> list[str]:
        return list(dict.fromkeys(name for row in self.rows.values() for name in row))

    def older(self, name: str) -> bool | None:
        """Whether the models may have seen a benchmark; None where no day or cut-off is known."""
        newer = entry(name).newer(self.cutoff) if self.cutoff else None
        return None if newer is None else not newer

    def comparisons(self) -> dict[str, dict[str, Comparison]]:
        """Every target but the first against the first, by benchmark; p-values also as those of
        so many."""
        (_, first), *others = self.rows.items()
        found = {
            (label, name): compare(first[name].rewards, one.rewards)
            for label, row in others
            for name, one in row.items()
            if name in first
        }
        together = dict(zip(found, holm([one.p_value for one in found.values()]), strict=True))
        return {
            label: {
                name: replace(found[label, name], p_holm=together[label, name])
                for name in row
                if name in first
            }
            for label, row in others
        }

    def as_json(self) -> dict[str, Any]:
        return {
            "targets": [
                {
                    "target": label,
                    "mean": _mean(row),
                    "benchmarks": {
                        name: {
                            **one.figures,
                            "folder": str(one.folder),
                            "made": one.made,
                            "protocol": one.manifest.facts["protocol"],
                            "released": entry(name).day or None,
                            "older": self.older(name),
                            "cost": vars(one.cost),
                            "files": [
                                str(file) for file in self.files.get(label, {}).get(name, [])
                            ],
                            "budgets": self.budgets.get(label, {}).get(name, {}),
                            "judges": {
                                judge: {
                                    **said.figures,
                                    **vars(agreement(one.rewards, said.rewards)),
                                }
                                for judge, said in self.judges.get(label, {}).get(name, {}).items()
                            },
                        }
                        for name, one in row.items()
                    },
                }
                for label, row in self.rows.items()
            ],
            "comparisons": {
                label: {name: one.as_json() for name, one in row.items()}
                for label, row in self.comparisons().items()
            },
        }


def fill(
    targets: Sequence[Target],
    names: Sequence[str],
    protocols: Sequence[str],
    overrides: Sequence[str],
    root: Path,
    on_progress: Progress,
    after: str = "",
    judges: Sequence[str] = (),
    formats: Sequence[str] = (),
) -> Table:
    """Evaluate every target on every benchmark, as far as it is not done.

    names: as `icpo.data.benchmarks.gather` takes them; empty: the benchmarks of the run.
    protocols: presets or files, a row of the table each; empty: a run's own for a run, the paper's
    for a model. root: folder of all evaluations. after: the models' cut-off, YYYY-MM; without
    names, what is newer is taken. judges: who judges; the first one's verdicts are the table's, and
    the others' stand beside them. formats: of other packages, whose files are written beside the
    samples.

    Raises ValueError with one line for a user's mistake, WorkerError if an engine fails.
    """
    if after and not names:
        names = newer_than(month(after))
    changes = [*overrides, *(f"judging.verifier={one}" for one in judges[:1])]
    table = Table({}, after and month(after))
    evaluator: Evaluator | None = None
    try:
        for one in targets:
            for protocol in protocols or [""]:
                rules = protocol_of(one, protocol, changes)
                if evaluator is not None and evaluator.shares(rules):
                    evaluator.follow(rules)
                else:
                    if evaluator is not None:
                        evaluator.close()
                    evaluator = Evaluator(root, rules, on_progress)
                label = f"{one.label}, {rules.name}" if len(protocols) > 1 else one.label
                row = table.rows[label] = {}
                asked = benchmarks_of(one, names, root, rules)
                for bench in asked:
                    exchange.require(formats, bench)
                for bench in asked:
                    row[bench.name] = done = evaluator.evaluate(one, bench)
                    cuts = evaluator.at_budgets(one, bench, done)
                    table.budgets.setdefault(label, {})[bench.name] = cuts
                    for kind in formats:
                        said = evaluator.questions(one, bench)
                        file = exchange.write(kind, done, said, done.folder / kind)
                        table.files.setdefault(label, {}).setdefault(bench.name, []).append(file)
                    # A multiple choice is judged by its letter.
                    for judge in judges[1:] if bench.kind == "math" else ():
                        other = protocol_of(one, protocol, [*changes, f"judging.verifier={judge}"])
                        with Evaluator(root, other, on_progress) as second:
                            beside = table.judges.setdefault(label, {}).setdefault(bench.name, {})
                            beside[judge] = second.evaluate(one, bench)
    finally:
        if evaluator is not None:
            evaluator.close()
    return table


def protocol_of(one: Target, name: str, overrides: Sequence[str]) -> Protocol:
    """The protocol of a target; no name: its own, or the paper's. Raises ValueError as
    `protocol.load` does."""
    return load(name or (RUN if one.config else "paper"), list(overrides), one.config)


def benchmarks_of(
    one: Target, names: Sequence[str], root: Path, protocol: Protocol
) -> list[Benchmark]:
    """The benchmarks of a target. Raises ValueError if none is named and none is its own."""
    chosen = list(names)
    if not chosen and one.config is not None:
        chosen = [f"{bench.name}={bench.problems}" for bench in one.config.evaluate.benchmarks]
    if not chosen:
        raise ValueError(
            f"{one.label}: name what to evaluate on with --bench, as --bench paper or "
            "--bench math500=FILE"
        )
    return gather(chosen, root / DATA, protocol.prompting.option_seed)


def open_targets(texts: Sequence[str]) -> list[Target]:
    """The targets that these name. Raises ValueError for one that is not there, or stands twice."""
    found = [target(text) for text in texts]
    labels = [one.label for one in found]
    if len(set(labels)) < len(labels):
        raise ValueError(f"{labels[-1]}: stands twice; name each model once")
    return found


def show(table: Table, console: Console) -> None:
    """Print accuracies with intervals, what else there is to see, and the comparisons."""
    names = table.benchmarks
    grid = RichTable(title="accuracy in percent [95% interval, by problem]", title_justify="left")
    grid.add_column("")
    for name in names:
        known, mark = entry(name), MARKS[table.older(name)] if table.cutoff else ""
        since = known.released[:7] + " or later" * known.bound
        grid.add_column(f"{name}{mark}\nsince {since}" if since else name + mark)
    if len(names) > 1:
        grid.add_column("mean", justify="right")
    for label, row in table.rows.items():
        cells = [_cell(row[name]) if name in row else "" for name in names]
        mean = [f"{100 * _mean(row):.1f}"] if len(names) > 1 else []
        grid.add_row(label, *cells, *mean)
    console.print(grid)
    if table.cutoff:
        console.print(
            f"* public by {table.cutoff}: a model with this cut-off may have seen it; "
            "? its day is not known",
            highlight=False,
        )
    for label, row in table.rows.items():
        for name, one in row.items():
            figures = one.figures
            extra = [
                f"{kind}@{k} {100 * found['value']:.1f}"
                for kind in ("pass", "maj", "cons")
                for k, found in list(figures[f"{kind}@k"].items())[-1:]
                if figures["k"] > 1
            ]
            extra += [
                f"{what} {100 * figures[what]:.1f}"
                for what in ("format", "truncated", "no_answer", "unjudged")
                if figures[what] or what == "format"
            ]
            made = f"{one.made} samples made" if one.made else "found again"
            console.print(
                f"{label} {name}: {'  '.join(extra)}  {figures['mean_tokens']:.0f} tokens; {made} "
                f"in {one.folder}",
                highlight=False,
                soft_wrap=True,
            )
            for line in _beside(table, label, name):
                console.print(f"  {line}", highlight=False, soft_wrap=True)
    comparisons = table.comparisons()
    count = sum(map(len, comparisons.values()))
    for label, against in comparisons.items():
        for name, change in against.items():
            low, high = change.interval
            together = f" ({change.p_holm:.2g} as one of {count})" if count > 1 else ""
            console.print(
                f"{label} against {next(iter(table.rows))} on {name}: "
                f"{100 * change.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}], "
                f"p = {change.p_value:.2g}{together}, {len(change.gained)} problems gained"
                f"{some(change.gained)}, {len(change.lost)} lost{some(change.lost)}",
                highlight=False,
                soft_wrap=True,
            )


def _cell(one: Evaluation) -> str:
    """Accuracy, samples a problem, and what these cost: seconds of what was sampled for it."""
    cost, k = one.cost, one.figures["k"]
    seconds = f", {cost.seconds:.0f} s" if cost.made == cost.tokens else ""
    if 0 < cost.made < cost.tokens:
        seconds = f", {cost.made:,} of them in {cost.seconds:.0f} s"
    return f"{shown(one.figures)}\navg@{k}, {cost.tokens:,} tokens{seconds}"


def _beside(table: Table, label: str, name: str) -> Iterator[str]:
    """A line each token budget and each other judge of an evaluation."""
    one = table.rows[label][name]
    for budget, figures in table.budgets.get(label, {}).get(name, {}).items():
        yield f"at {budget:,} tokens {shown(figures)}, {figures['truncated']:.1%} cut"
    for file in table.files.get(label, {}).get(name, []):
        yield f"written: {file}"
    for judge, said in table.judges.get(label, {}).get(name, {}).items():
        found = agreement(one.rewards, said.rewards)
        yield (
            f"judged by {judge} {shown(said.figures)}, {found.share:.1%} of the verdicts alike; "
            f"right for it alone: {len(found.only_second)} problems{some(found.only_second)}; "
            f"wrong for it alone: {len(found.only_first)}{some(found.only_first)}"
        )


def list_known(cutoff: str, console: Console) -> list[dict[str, Any]]:
    """Print the registry, or what of it is newer than a month; the same for JSON."""
    names = newer_than(month(cutoff)) if cutoff else list(ENTRIES)
    grid = RichTable("benchmark", "problems", "answers", "since", "from")
    rows = []
    for one in map(entry, names):
        place = ", ".join(filter(None, [one.hub or one.home, one.config, one.hub and one.split]))
        sizes = " or ".join(map(str, one.sizes))
        since = one.day or "not known"
        grid.add_row(one.name, sizes, one.answers, since, place)
        rows.append({**vars(one), "sizes": list(one.sizes), "card": one.card})
    console.print(grid)
    return rows


def _mean(row: dict[str, Evaluation]) -> float:
    total: float = sum(one.figures["accuracy"] for one in row.values())
    return total / len(row)
