"""What is evaluated: a model's folder, a model of the hub, or a run after some iteration."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from icpo_core import files, models
from icpo_core.config import Config
from icpo_core.paths import RunPaths
from icpo_core.run import Run


@dataclass(frozen=True)
class Target:
    """A model with all that is needed to evaluate it."""

    label: str
    """What it is called, as `runs/demo@20` or `Qwen/Qwen3-1.7B`."""
    folder: Path
    """Weights and tokenizer, in Hugging Face format."""
    version: str
    """Digest of the weights."""
    probe: Path | None = None
    """The trainer's logprobs that an engine with these weights must give; a run's only."""
    config: Config | None = None
    """Configuration of the run it comes from."""
    iteration: int | None = None

    @cached_property
    def tokenizer(self) -> Any:
        return models.load_tokenizer(self.folder)

    @cached_property
    def architecture(self) -> str:
        """Digest of its configuration and tokenizer: models that one engine can hold in turn."""
        config = files.sha256_file(self.folder / "config.json")
        return files.canonical_digest([config, models.tokenizer_digest(self.folder)])


def target(text: str) -> Target:
    """The target that `text` names: `FOLDER`, `OWNER/MODEL`, `RUN` (its newest checkpoint) or
    `RUN@ITERATION` (0: the untrained model).

    Raises ValueError with one line that names the mend.
    """
    place, _, number = text.rpartition("@")
    if place and number.isdecimal() and RunPaths(Path(place)).record.is_file():
        return of_run(Run.read(Path(place)), int(number))
    if RunPaths(Path(text)).record.is_file():
        run = Run.read(Path(text))
        whole = checkpointed(run)
        return of_run(run, whole[-1] if whole else 0)
    folder = models.resolve(text)
    return Target(text, folder, files.model_digest(folder))


def run_at(root: Path) -> Run:
    """The run in a folder, to be read. Raises ValueError if there is none; a model's folder, which
    has a config.json too, is none."""
    if not RunPaths(root).record.is_file():
        raise ValueError(f"{root}: no run here; `icpo ls` lists runs")
    return Run.read(root)


def of_run(run: Run, iteration: int) -> Target:
    """A run after an iteration. Raises ValueError if its weights are not there."""
    folder, version, probe = run.policy(iteration)
    return Target(f"{run.paths.root}@{iteration}", folder, version, probe, run.config, iteration)


def checkpointed(run: Run) -> list[int]:
    """Iterations whose checkpoint is finished and whose weights are kept, ascending."""
    return [
        number
        for number in run.paths.iterations()
        if number
        and run.store.finished("checkpoint", number) is not None
        and (run.paths.stage("update", number) / "model" / "config.json").is_file()
    ]
