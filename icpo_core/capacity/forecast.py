"""What a run would take on a machine, all in one: placement, memory, disk, time, and what helps."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from icpo_core.capacity import memory
from icpo_core.capacity.machine import Machine, Rates
from icpo_core.capacity.memory import Layout, Load
from icpo_core.config import Config
from icpo_core.method.problems import read_problems
from icpo_core.method.templates import Template
from icpo_core.models.architecture import Shape, shape_of
from icpo_core.models.folder import load_tokenizer
from icpo_core.run.run import stored_config
from icpo_core.store import tables
from icpo_core.store.paths import RunPaths, pattern_of
from icpo_core.store.store import Store
from icpo_core.workers.launcher import slots
from icpo_core.workers.placement import Placement, place

LOOKED_AT = 1000
"""Problems whose prompts are measured at most."""
RECENT = 5
"""Iterations of a run whose rates are averaged."""


@dataclass(frozen=True)
class Lengths:
    """Bare prompts of the run's problems, tokens."""

    problems: int
    """How many were looked at."""
    mean: float
    longest: int


@dataclass(frozen=True)
class Forecast:
    """What a run would take on a machine."""

    shape: Shape
    prompts: Lengths | None
    """None where model or problems are not on disk."""
    placement: Placement
    loads: list[Load]
    disk: dict[str, float]
    seconds: dict[str, float] | None
    """An iteration by stage; None without rates."""
    changes: list[str]
    """What makes it fit, as -o options; empty where it does or nothing helps."""

    def as_json(self) -> dict[str, Any]:
        """For programs: everything in bytes and seconds."""
        return {
            "parameters": self.shape.parameters,
            "prompts": asdict(self.prompts) if self.prompts else None,
            "engines": self.placement.engines,
            "ranks": self.placement.ranks,
            "memory": [
                {"stage": load.stage, "room": load.room, "parts": load.parts} for load in self.loads
            ],
            "disk": self.disk,
            "seconds": self.seconds,
            "changes": self.changes,
        }


def placement_on(config: Config, machine: Machine) -> Placement:
    """Raises ValueError where the devices do not hold what the run asks for."""
    hosts = slots(Path(config.update.hostfile)) if config.update.hostfile else {}
    return place(config, [str(number) for number in range(machine.devices.count)], hosts)


def forecast(config: Config, machine: Machine) -> Forecast:
    """Raises ValueError as `placement_on` does, and where the model's shape is not known."""
    shape, placement = shape_of(config.model.path), placement_on(config, machine)
    prompts, rates = lengths(config), machine.rates
    if prompts and rates.prompt_tokens is None:
        rates = rates.model_copy(update={"prompt_tokens": prompts.mean})
        machine = machine.model_copy(update={"rates": rates})
    layout = Layout(len(placement.engines), placement.ranks, placement.shared)
    loads = memory.memory(shape, config, machine, layout)
    fits, rows = all(load.fits for load in loads), _rows(config)
    return Forecast(
        shape,
        prompts,
        placement,
        loads,
        memory.disk(shape, config, machine.rates, rows),
        memory.seconds(shape, config, machine, layout, rows),
        [] if fits else memory.what_helps(shape, config, machine, layout),
    )


def lengths(config: Config) -> Lengths | None:
    """Of the bare prompts of problems that are spread evenly over the set; fetches nothing."""
    model, problems = Path(config.model.path), Path(config.prompts.problems)
    if not (model.is_dir() and problems.is_file()):
        return None
    try:
        template = Template(load_tokenizer(model), config.prompts)
        texts = read_problems(str(problems))["problem"].to_pylist()
    except ValueError:
        return None  # `doctor` says of model and problems what is wrong with them
    texts = texts[:: -(-len(texts) // LOOKED_AT)]
    ids = template.tokenize([template.render(text) for text in texts])
    found = [len(one) for one in ids]
    return Lengths(len(found), sum(found) / len(found), max(found))


def measured(root: Path, ranks: int) -> Rates | None:
    """Rates of a run that is there and was trained by so many ranks, over its last iterations;
    None before its first is whole."""
    paths = RunPaths(root)
    if not paths.config.is_file():
        return None
    config, store = stored_config(root), Store(paths)
    rows = sampled = sampling = prompts = trained = training = 0.0
    for iteration in [number for number in paths.iterations() if number][-RECENT:]:
        rollout, update = store.manifest("rollout", iteration), store.manifest("update", iteration)
        if rollout is None or update is None or not rollout.facts["tokens"]:
            continue
        for part in sorted(paths.stage("select", iteration).glob(pattern_of("batch"))):
            batch = tables.read("batch", part, ["prompt_ids", "response_ids"])
            rows += batch.num_rows
            prompts += _tokens(batch, "prompt_ids")
            trained += _tokens(batch, "prompt_ids") + _tokens(batch, "response_ids")
        training += update.facts["timing"]["step"]
        sampled += rollout.facts["tokens"]
        sampling += rollout.facts["sampling_seconds"]
    if not (sampled and sampling and trained and training):
        return None
    return Rates(
        sample_tokens_per_second=sampled / sampling / config.rollout.engine.tensor_parallel,
        train_tokens_per_second=trained * memory.passes(config) / training / ranks,
        prompt_tokens=prompts / rows,
        response_tokens=(trained - prompts) / rows,
    )


def _tokens(table: pa.Table, name: str) -> int:
    return sum(len(chunk.flatten()) for chunk in table[name].chunks)


def _rows(config: Config) -> dict[str, int]:
    """Problems of the benchmarks that are on disk."""
    there = {}
    for one in config.evaluate.benchmarks:
        if Path(one.problems).is_file():
            there[one.name] = read_problems(one.problems).num_rows
    return there
