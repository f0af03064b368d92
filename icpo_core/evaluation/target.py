"""A model that is evaluated, with all that is needed for it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from icpo_core.common import files
from icpo_core.config import Config
from icpo_core.models import folder as models


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
