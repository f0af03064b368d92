"""A piece of work, which is one stage of one iteration, and how it stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

from icpo_core.store import manifest
from icpo_core.store.manifest import Manifest


class Standing(StrEnum):
    """How a piece of work stands."""

    DONE = "done"  # the manifest is of this work and its files are whole
    MISSING = "missing"  # no manifest: never made, or died before it was whole
    STALE = "stale"  # made from something else: inputs, configuration, seed or program
    DAMAGED = "damaged"  # a file is missing or has another size or content than recorded


@dataclass(frozen=True)
class Work:
    """One stage of one iteration with all that its result depends on."""

    stage: str
    iteration: int
    version: int
    """Code version of the stage, bumped by hand when its results change."""
    inputs: dict[str, str | None]
    """Digest of everything read, by name."""
    config: dict[str, Any]
    """The part of the configuration that the stage reads."""
    seed: int | None
    """Seed of the run, None where nothing is drawn."""
    parents: dict[str, str] = field(default_factory=dict)
    """The stages read: where each lies in the run, by its fingerprint."""
    parts: dict[str, str] = field(default_factory=dict)
    """Fingerprint of each part, by its name, where parts are made as those of the stage before are,
    and before all of these are there. Empty: each bears that of the whole."""

    @cached_property
    def fingerprint(self) -> str:
        return manifest.fingerprint(
            self.stage, self.iteration, self.version, self.inputs, self.config, self.seed
        )

    def part(self, name: str) -> str | None:
        """Fingerprint that a part of this name must bear; None: there is no such part."""
        return self.parts.get(name) if self.parts else self.fingerprint


@dataclass(frozen=True)
class Outcome:
    """What came of performing a piece of work."""

    stage: str
    iteration: int
    manifest: Manifest
    made: bool
    """False: it was done already, and nothing was touched."""
    reason: str
    """Why it was made, or why it was not."""


@dataclass(frozen=True)
class Status:
    """Standing of a piece of work, the reason in words, and its manifest if there is one."""

    standing: Standing
    reason: str
    manifest: Manifest | None = None

    @property
    def done(self) -> bool:
        return self.standing is Standing.DONE
