"""A run as it is on disk: its folder, its store, and its configuration at an iteration.

Frozen, cheap and safe to read anywhere: a notebook, a report, an alarm. What a process has open
beside it (lock, workers, judges) is a `Session`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from icpo_core.common import files
from icpo_core.config import Config, as_stored, load, override, stored
from icpo_core.models import folder as models
from icpo_core.store import eras, run_record
from icpo_core.store.eras import Era
from icpo_core.store.paths import RunPaths
from icpo_core.store.store import Store


def stored_config(root: Path) -> Config:
    """The configuration that the run at `root` was last run with.

    Raises ValueError if there is no run or its configuration cannot be read.
    """
    if root.is_file():
        raise ValueError(f"{root}: is a file; name a run's folder; `icpo ls` lists runs")
    paths = RunPaths(root)
    raw = run_record.read_copied(paths, paths.config)
    if raw is None:
        raise ValueError(f"{root}: no run here (no {paths.config.name}); `icpo ls` lists runs")
    return stored(raw, str(paths.config))


@dataclass(frozen=True)
class Policy:
    """Weights after an iteration."""

    folder: Path
    version: str
    """Digest of the weights."""
    proof: Path | None
    """The trainer's logprobs that an engine which holds them must give; none of the base model."""


@dataclass(frozen=True, eq=False)
class Run:
    """One run. `of` and `read` make one."""

    config: Config
    paths: RunPaths
    store: Store
    eras: tuple[Era, ...] = ()
    """What a branch has of the runs that it comes from."""
    stored: bool = False
    """Whether the configuration was read from the run's folder, and not given by the user."""
    _at: dict[int, Run] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, config: Config, root: Path | None = None, stored: bool = False) -> Run:
        """The run of a configuration, whether it is there or not. `root`: its folder, if it is not
        where the configuration says. stored: the configuration was read there.

        A run that is there keeps what it has of keys whose default has moved since.
        """
        paths = RunPaths(root or Path(config.run.directory) / config.run.name)
        if paths.exists():
            config = as_stored(config, run_record.read_copied(paths, paths.config) or {})
        known = eras.read(run_record.read(paths) or {})
        return cls(config, paths, Store(paths), tuple(known), stored)

    @classmethod
    def read(cls, root: Path) -> Run:
        """A run that exists, with the configuration it was last run with; writes nothing.

        Raises ValueError if there is no run or its configuration cannot be read.
        """
        return cls.of(stored_config(root), root, stored=True)

    @classmethod
    def named(
        cls, config: str | Path, overrides: list[str] | None = None, name: str | None = None
    ) -> Run:
        """The run of a TOML file, or the run of this folder, with changes to its configuration.

        Raises ValueError for a user's mistake.
        """
        path = Path(config)
        if not RunPaths(path).exists():
            return cls.of(load(path, overrides, name))
        folder = path.resolve()
        place = [
            f"run.directory={json.dumps(str(folder.parent))}",
            f"run.name={json.dumps(name or folder.name)}",
        ]
        kept = stored_config(path)
        return cls.of(override(kept, [*place, *(overrides or [])]), stored=True)

    # --- configuration by iteration -----------------------------------------------------------

    def at(self, iteration: int) -> Run:
        """This run with the configuration that an iteration belongs to: its own, or in a branch,
        for what was made before the branching, that of the run which it comes from."""
        for era in self.eras:
            if iteration <= era.last:
                if era.last not in self._at:
                    self._at[era.last] = Run(era.config, self.paths, self.store)
                return self._at[era.last]
        return self

    def config_at(self, iteration: int) -> Config:
        """The configuration that an iteration belongs to."""
        return self.at(iteration).config

    def same_era(self, one: int, other: int) -> bool:
        """Whether two iterations belong to one configuration."""
        return self.at(one) is self.at(other)

    @property
    def seed(self) -> int:
        return self.config.run.seed

    @property
    def mirror_url(self) -> str:
        """Where the run's copy is kept, if `run.mirror` is set."""
        return f"{self.config.run.mirror.rstrip('/')}/{self.paths.root.name}"

    # --- the base model -----------------------------------------------------------------------

    @cached_property
    def base_model(self) -> Path:
        """Folder of the policy at the start. Raises ValueError if it is not available."""
        return models.resolve(self.config.model.path)

    @cached_property
    def base_version(self) -> str:
        """Digest of the base model's weights."""
        return files.model_digest(self.base_model)

    @cached_property
    def model_settings(self) -> dict[str, str]:
        """Digests of what the base model's folder says beside its weights."""
        return {
            "tokenizer": models.tokenizer_digest(self.base_model),
            "model settings": models.settings_digest(self.base_model),
        }

    @cached_property
    def tokenizer(self) -> Any:
        return models.load_tokenizer(self.base_model)

    # --- policies -----------------------------------------------------------------------------

    def sampling_policy(self, iteration: int) -> int:
        """The iteration after whose update the policy is that an iteration's rollouts are sampled
        from; 0: the base model."""
        return max(0, iteration - 1 - self.config_at(iteration).rollout.off_policy_steps)

    def policy(self, iteration: int) -> Policy:
        """The policy after an iteration (0: the base model).

        Raises ValueError if the iteration's weights were not made or were pruned.
        """
        if iteration == 0:
            return Policy(self.base_model, self.base_version, None)
        found = self.store.manifest("update", iteration)
        if found is None or found.policy_version is None:
            raise ValueError(
                f"{self.paths.root}: iteration {iteration} has no update yet; "
                f"`icpo plan {self.paths.root}` shows what comes first"
            )
        if not self.has_weights(iteration):
            raise ValueError(
                f"{self.paths.root}: the weights of iteration {iteration} were pruned "
                "(checkpoint.keep_last, keep_every); choose another iteration"
            )
        folder = self.paths.stage("update", iteration) / "model"
        return Policy(folder, found.policy_version, folder / "probe.parquet")

    def require_whole_weights(self, iteration: int) -> None:
        """Read every byte of an update that is there; what is not as recorded is marked, so that it
        is made again when the run goes on. Raises ValueError, naming the file."""
        found = self.store.manifest("update", iteration)
        assert found is not None
        pruned = self.store.marks.pruned("update", iteration)
        for record in found.files:
            if record.name not in pruned:
                self.store.file("update", iteration, record.name)

    def has_weights(self, iteration: int) -> bool:
        """Whether the weights of a finished update are still there."""
        return "model/config.json" not in self.store.marks.pruned("update", iteration)

    def nearest_policy(self, iteration: int) -> Path:
        """Folder of the newest weights up to an iteration that are there: an engine may start with
        them and load others."""
        number = self.nearest_weights(iteration)
        return self.paths.stage("update", number) / "model" if number else self.base_model

    def nearest_weights(self, iteration: int) -> int:
        """The newest update up to an iteration whose weights are there; 0: the base model."""
        for number in range(iteration, 0, -1):
            if self.store.finished("update", number) is not None and self.has_weights(number):
                return number
        return 0
