"""How the stages of a run stand; an iteration is read again where it or one before it changes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from icpo_core.common.files import canonical_digest, sha256_bytes
from icpo_core.config import plugin_sources
from icpo_core.run import plan
from icpo_core.run.run import Run
from icpo_core.run.stages import STAGES
from icpo_core.store.versions import SCHEMA_MINOR, SCHEMA_VERSION
from icpo_core.store.work import Standing, Status
from icpo_core.views.index import Index, marked_below


@dataclass(frozen=True)
class _Line:
    standing: str
    reason: str


def plan_of(run: Run) -> list[plan.Step]:
    """The plan of a run, without manifests, as `run.plan.plan` makes it. What an earlier look saw
    of an iteration is taken from an index, while every file up to it is as it was then, and
    configuration, base model and one's own sources are."""
    known: dict[int, dict[str, _Line]] = {}
    with Index("plan", run.paths.root, _Line) as index:
        before: str | None = _begun(run)
        for number in range(run.config.run.iterations + 1):
            folder = str(run.paths.iteration(number))

            def seen(folder: str = folder, before: str | None = before) -> str | None:
                mine = marked_below(folder) if before is not None else None
                return None if mine is None else sha256_bytes(f"{before} {mine}".encode())[:20]

            found = index.get(str(number), seen, partial(_lines, run, number))
            known[number] = {stage: _Line(*line) for stage, line in found.items()}
            before = index.mark(str(number))

    def look(run: Run, stage: str, iteration: int) -> Status:
        line = known[iteration][stage]
        return Status(Standing(line.standing), line.reason)

    return plan.plan(run, look=look)


def _lines(run: Run, number: int) -> dict[str, list[str]]:
    there = plan.stages_of(run.config_at(number), number)
    found = {stage: plan.status(run, stage, number) for stage in there}
    return {stage: [one.standing.value, one.reason] for stage, one in found.items()}


def _begun(run: Run) -> str:
    """All that statuses depend on beside the files of iterations."""
    configs = [run.config, *(era.config for era in run.eras)]
    return canonical_digest(
        {
            "configs": [one.model_dump(mode="json") for one in configs],
            "eras": [era.last for era in run.eras],
            "model": [run.base_version, run.model_settings],
            "sources": [plugin_sources(one, stage) for one in configs for stage in STAGES],
            "versions": [stage.version for stage in STAGES.values()],
            "schema": [SCHEMA_VERSION, SCHEMA_MINOR],
        }
    )
