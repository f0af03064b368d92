"""The paper's recipes with a small model in the place of theirs."""

import json
from pathlib import Path

from places import ROOT, SMALL

from icpo_core.config import load
from icpo_core.run import plan
from icpo_core.run.perform import perform
from icpo_core.run.run import Run
from icpo_core.run.session import Session

HELDOUT = str(SMALL / "heldout.parquet")
# The small model with the problems it knows and the text it was taught them in; lengths; batch.
MODEL = [
    f"model.path={SMALL / 'base'}",
    f"prompts.problems={SMALL / 'train.parquet'}",
    f"prompts.demonstrations={SMALL / 'demonstrations.parquet'}",
    f'prompts.exclude=["{HELDOUT}"]',
    f'evaluate.benchmarks=[{{name="heldout",problems="{HELDOUT}",limit=8}}]',
    "prompts.format=raw",
    r'prompts.question_template="Q:{problem}\nA:"',
    r'prompts.example_template="Q:{problem}\nA:{solution}\n\n"',
]
LENGTHS = [
    "prompts.max_tokens=128",
    "rollout.max_tokens=64",
    "evaluate.max_tokens=64",
    "rollout.engine.max_model_len=256",
]
BATCH = ["prompts.batch_size=4", "update.mini_batch=2"]
SWAPS = [*MODEL, *LENGTHS, *BATCH]


def from_prompts_to_checkpoint(name: str, tmp_path: Path, *changes: str) -> None:
    """One iteration of the recipe of a name, all stages, with the real workers."""
    config = load(
        ROOT / "configs" / f"{name}.toml",
        [*SWAPS, "run.iterations=1", f"run.directory={tmp_path}", *changes],
    )
    with Session(Run.of(config)) as session:
        run, workers = session.run, session.tools(1).workers
        workers.start_engine(run.base_model)
        workers.start_trainer()
        for stage in plan.stages_of(config, 1):
            perform(session, stage, 1)
        assert all(step.status.done for step in plan.plan(run) if step.iteration)
        update = run.store.manifest("update", 1)
        assert update is not None
        metrics = json.loads((run.paths.stage("update", 1) / "metrics.json").read_text())
        assert metrics["optimizer_steps"] == 2.0
        assert update.policy_version not in (None, run.base_version)
