"""The card of a run's model: method, data, contamination, evaluations, licence."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from icpo_core.common.files import sha256_file
from icpo_core.common.keys import slice_of
from icpo_core.common.text import code, line
from icpo_core.config import Config
from icpo_core.evaluation import benchmarks
from icpo_core.evaluation.registry import entry
from icpo_core.evaluation.scores import shown
from icpo_core.method import gym
from icpo_core.method.near_duplicates import NearDuplicates
from icpo_core.method.problems import read_problems
from icpo_core.run.evaluations import Point, history
from icpo_core.run.run import Run

PAPER = "https://arxiv.org/abs/2510.26519"
cell = partial(code, cell=True)
"""Somebody else's words in a table."""
NAMED = 5
"""Problems of a benchmark that are named one by one."""


@dataclass(frozen=True)
class Overlap:
    """A benchmark against the problems that the run was shown."""

    benchmark: str
    data: str
    """Which: `prompts.problems` or `prompts.demonstrations`."""
    checked: int
    """Problems of the benchmark that were looked at; 0: they could not be."""
    found: tuple[str, ...]
    """Ids of those that are, or nearly are, among the data."""
    why: str = ""
    """Why nothing could be looked at."""


def contamination(config: Config, recorded: dict[str, str | None]) -> list[Overlap]:
    """Near-duplicates of each of the run's benchmarks in its problems and demonstrations.

    recorded: digests of the files that the run read, by key; a file that is another now says
    nothing of the run.
    """
    prompts, found = config.prompts, []
    texts: dict[str, tuple[list[str], str]] = {}
    for key, path in (
        ("prompts.problems", prompts.problems),
        ("prompts.demonstrations", prompts.demonstrations),
    ):
        if path and recorded.get(key):
            why = _not_as_read(path, recorded[key])
            texts[key] = ([] if why else read_problems(path)["problem"].to_pylist(), why)
    for one in config.evaluate.benchmarks:
        why = _not_as_read(one.problems, recorded.get(f"benchmark {one.name}"))
        problems = () if why else benchmarks.read(one.name, one.problems).problems
        for key, (data, missing) in texts.items():
            if why or missing:
                found.append(Overlap(one.name, key, 0, (), why or missing))
                continue
            near = NearDuplicates(data).find([problem.problem for problem in problems])
            ids = tuple(
                problem.id for problem, places in zip(problems, near, strict=True) if places
            )
            found.append(Overlap(one.name, key, len(problems), ids))
    return found


def _not_as_read(path: str, digest: str | None) -> str:
    if path.startswith(gym.PREFIX):
        return "" if gym.digest(path) == digest else f"{path} is made by another version"
    file = Path(path)
    if not file.is_file():
        return f"{file.name} is not there any more"
    return "" if sha256_file(file) == digest else f"{file.name} is not what the run read"


def recorded(run: Run) -> dict[str, str | None]:
    """Digests of the data that a run read, by key, from the manifests of its stages."""
    found: dict[str, str | None] = {}
    for stage in ("prompts", "evaluate"):
        for number in run.paths.iterations():
            if (made := run.store.finished(stage, number)) is not None:
                found |= made.inputs
    return {
        key: value
        for key, value in found.items()
        if value and key.startswith(("prompts.", "benchmark ", "tokenizer"))
    }


def card(run: Run, iteration: int, evaluations: Path, licence: str, title: str = "") -> str:
    """The card, Markdown with the hub's metadata, of the policy after an iteration.

    evaluations: folder of evaluations that stand beside runs. licence: an identifier of the hub,
    as `apache-2.0`. Paths of this machine are left out; only the files' names are told.
    """
    from huggingface_hub import EvalResult, ModelCardData

    config, policy = run.config_at(max(1, iteration)), run.policy(iteration)
    model, name = config.model.path, title or run.paths.root.name
    points = history(run, evaluations)
    mine = [one for one in points if one.iteration == iteration]
    digests, update = recorded(run), run.store.manifest("update", iteration)
    data = ModelCardData(
        license=licence,
        base_model=None if Path(model).is_dir() else model,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["icpo", "reinforcement-learning", "rlvr"],
        model_name=name,
        eval_results=[
            EvalResult(
                task_type="text-generation",
                dataset_type=entry(one.benchmark).hub or one.benchmark,
                dataset_name=one.benchmark,
                metric_type="accuracy",
                metric_name=f"avg@{one.figures['k']}, {one.protocol}",
                metric_value=round(100 * one.figures["accuracy"], 2),
            )
            for one in mine
        ]
        or None,
    )
    shown_model = Path(model).name if Path(model).is_dir() else model
    parts = [
        f"---\n{data.to_yaml()}\n---\n",
        f"# {line(title) if title else code(name)}\n",
        f"{code(shown_model)} after {iteration} of {config.run.iterations} iterations of "
        f"In-Context Steered Policy Optimization ([paper]({PAPER})), preset "
        f"{code(config.preset or 'none')}.\n",
        f"## Method\n\n{_method(config)}\n",
        f"<details><summary>Every setting</summary>\n\n```json\n{settings(config)}\n```\n"
        "</details>\n",
        f"## Data\n\n{_data(config, digests)}\n",
        f"## Contamination\n\n{_contamination(contamination(config, digests))}\n",
        f"## Evaluation\n\n{_evaluation(mine, points)}\n",
        f"## Provenance\n\n- weights: `{policy.version}`",
        f"- seed {config.run.seed}",
    ]
    if update is not None:
        parts.append(f"- code: `{update.git.get('commit', 'not known')}`")
        parts.append(
            "- libraries: "
            + ", ".join(f"{name} {found}" for name, found in update.libraries.items())
        )
    parts.append(
        f"\n## Licence\n\n`{licence}`. The licences of base model and data hold beside it.\n"
    )
    return "\n".join(parts)


def _method(config: Config) -> str:
    rollout, prompts, select, loss = config.rollout, config.prompts, config.select, config.loss
    said = [
        f"{prompts.batch_size} problems an iteration; for each, {rollout.on_policy} rollouts from "
        f"the bare prompt and {rollout.expert} expert rollouts"
    ]
    if rollout.expert and rollout.expert_source == "in_context":
        said[0] += (
            f", sampled by the same policy behind {prompts.k} worked example(s) and trained on "
            "behind the bare prompt (implicit expert forcing)"
        )
    if rollout.expert:
        said.append(f"expert rollouts with a reward below {select.delta:g}: `{select.errs}` (ERRS)")
        said.append(f"annealed expert bonus: `{select.bonus}`")
    if select.tuning_buffer:
        said.append(
            "expert rollouts have no part in their group; those of problems that no bare rollout "
            f"solves are fine-tuned on by cross-entropy, {select.tuning_buffer} at a time"
        )
    if loss.distills:
        shown = {"demonstrations": "worked examples", "solution": "the problem's solution"}
        teachers = {
            "policy": "the same policy",
            "start": "the start",
            "average": f"its slow average (decay {loss.distill.decay:g})",
        }
        fades = f", fading ({loss.distill.schedule})" if loss.distill.horizon else ""
        said.append(
            f"self-distillation with weight {loss.distill.coefficient:g}{fades}: reverse KL to "
            f"{teachers[loss.distill.teacher]} behind "
            f"{shown[loss.distill.context]}; terms with advantages have weight "
            f"{loss.policy_coefficient:g}"
        )
    said.append(f"rewards by {code(config.verify.verifier)}; advantage {code(select.advantage)}")
    said.append(
        f"policy loss {code(loss.policy)}, expert loss `{loss.expert}` with lambda "
        f"{loss.expert_lambda:g}, learning rate {config.update.learning_rate:g}"
    )
    return "\n".join(f"- {one}" for one in said)


def settings(config: Config) -> str:
    """The configuration without what is operational or a place."""
    sections = {
        name: slice_of(part)
        for name in type(config).model_fields
        if isinstance(part := getattr(config, name), BaseModel)
    }
    return json.dumps({name: part for name, part in sections.items() if part}, indent=1)


def _data(config: Config, digests: dict[str, str | None]) -> str:
    names = {
        "prompts.problems": Path(config.prompts.problems).name,
        "prompts.demonstrations": Path(config.prompts.demonstrations or "").name,
    } | {f"benchmark {one.name}": Path(one.problems).name for one in config.evaluate.benchmarks}
    rows = [
        f"| {cell(key)} | {cell(names.get(key, ''))} | {cell(value)} |"
        for key, value in digests.items()
    ]
    return "\n".join(["| what | file | sha256 |", "|---|---|---|", *rows])


def _contamination(overlaps: list[Overlap]) -> str:
    if not overlaps:
        return "The run has no benchmark of its own, so nothing was compared."
    rows = [
        "Problems of a benchmark that are, or nearly are, among the data (13 words in a row).\n"
    ]
    rows += ["| benchmark | data | found |", "|---|---|---|"]
    for one in overlaps:
        some = ", ".join(cell(name) for name in one.found[:NAMED])
        more = ", …" if len(one.found) > NAMED else ""
        found = f"{len(one.found)} of {one.checked}" + (f": {some}{more}" if some else "")
        why = cell(one.why) if one.why else found
        rows.append(f"| {cell(one.benchmark)} | {one.data} | {why} |")
    return "\n".join(rows)


def _evaluation(mine: list[Point], points: list[Point]) -> str:
    if not mine:
        return "None is stored: `icpo eval RUN` makes one."
    base = {(one.benchmark, one.protocol): one for one in points if one.iteration == 0}
    rows = [
        "Accuracy in percent with its 95% interval, problems drawn.\n",
        "| benchmark | public since | protocol | samples a problem | this model | base model |",
        "|---|---|---|---|---|---|",
    ]
    for one in mine:
        before = base.get((one.benchmark, one.protocol))
        beside = shown(before.figures) if before else ""
        rows.append(
            f"| {cell(one.benchmark)} | {entry(one.benchmark).day or 'not known'} "
            f"| {cell(one.protocol)} "
            f"| {one.figures['k']} | {shown(one.figures)} | {beside} |"
        )
    return "\n".join(rows)


def licence_of(folder: Path) -> str | None:
    """The licence that the base model's own card names."""
    from huggingface_hub import ModelCard

    card = folder / "README.md"
    said: Any = ModelCard.load(card).data.license if card.is_file() else None
    return str(said) if said else None
