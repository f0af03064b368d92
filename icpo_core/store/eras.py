"""Eras of a run: which iterations were made with which configuration.

A run has one configuration, but a branch begins with iterations of another run, and those belong to
the configuration that they were made with: by it they are judged, and by it made again if need be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from icpo_core.config import Config, stored


@dataclass(frozen=True)
class Era:
    """Iterations up to `last` (from where the era before it ends), taken over from `run`."""

    last: int
    run: str
    """Folder of the run that made them."""
    config: Config

    def as_json(self) -> dict[str, Any]:
        return {"last": self.last, "run": self.run, "config": self.config.model_dump(mode="json")}


def read(record: dict[str, Any]) -> list[Era]:
    """The eras before a run's own, oldest first, from its `run.json`."""
    return [
        Era(era["last"], era["run"], stored(era["config"], f"run.json, era of {era['run']}"))
        for era in record.get("eras", [])
    ]


def until(eras: list[Era], last: int) -> list[Era]:
    """Eras cut off after iteration `last`."""
    kept = [era for era in eras if era.last <= last]
    longer = [era for era in eras if era.last > last]
    if longer and last > (kept[-1].last if kept else -1):
        kept.append(Era(last, longer[0].run, longer[0].config))
    return kept
