"""What the configurations that ship with commit 9696e7e were worth to it: digest of each stage's
slice, and the stage's fingerprint with invented inputs.

    git checkout 9696e7e && .venv/bin/python make_fingerprints.py fingerprints.json

Run in the root of that checkout. A later commit must come to the same, or stored runs are stale.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path.cwd()
sys.path.insert(0, str(ROOT))

from icpo_core.files import canonical_digest  # noqa: E402

from icpo_core import graph, manifest  # noqa: E402
from icpo_core.config import STAGES, load  # noqa: E402

INPUTS = {"input": "0" * 64}
DATA = ["prompts.problems=problems.parquet", "prompts.demonstrations=demonstrations.parquet"]
"""What a preset does not name itself."""
UNUSUAL = [
    ["run.seed=7", "run.iterations=3", "run.placement=split", "run.trackers=[]"],
    ["prompts.k=3", "prompts.selection=similar", "prompts.thinking=false"],
    ["prompts.format=chat", "prompts.instruction=Think {{hard}}.", "prompts.max_tokens=100"],
    ["rollout.expert=0", "prompts.k=0", "prompts.demonstrations=none"],
    ["rollout.expert=0"],
    ["rollout.expert_source=traces", "prompts.k=0"],
    ["rollout.on_policy=8", "rollout.expert=2", "select.errs=replace", "rollout.shards=4"],
    ["rollout.engines=2", 'rollout.python="python"', "rollout.max_logprob_gap=0.25"],
    ['rollout.endpoints=["http://gpu-1:8000"]', "rollout.temperature=0.8"],
    ["rollout.off_policy_steps=1", "update.old_logprobs=engine"],
    ["rollout.off_policy_steps=1", "loss.correction=truncate", "loss.correction_cap=3.0"],
    ["rollout.engine.prefix_caching=false", "rollout.engine.max_num_seqs=32"],
    ["rollout.engine.tensor_parallel=2", "rollout.engine.gpu_memory_utilization=0.5"],
    ["verify.rules.extraction=boxed_or_last", "verify.rules.accept_truncated=true"],
    ['verify.rules.thinking_end_tag=""', "verify.rules.significant_digits=6"],
    ["verify.seconds=5", "verify.memory_mb=1024", "verify.workers=7"],
    ["select.divide_by_std=false"],
    ["select.bonus=cosine", "select.alpha=0.5"],
    ["select.bonus=exponential", "select.decay=3", "select.horizon=12", "select.delta=0.5"],
    ["select.errs=mask"],
    ["loss.policy=gspo", "loss.clip_low=3e-4", "loss.clip_high=4e-4", "loss.dual_clip=none"],
    ["loss.policy=cispo", "loss.aggregation=constant", "loss.expert_clip=2.0"],
    ["loss.aggregation=constant", "loss.constant_length=77", "loss.expert_ratio=importance"],
    ["loss.kl=k3_unbiased", "loss.kl_coefficient=0.01", "loss.entropy_coefficient=0.1"],
    ["update.lora.rank=8"],
    ["update.lora.rank=4", "update.lora.alpha=8", 'update.lora.target_modules=["q_proj"]'],
    ["update.mini_batch=4", "update.packing=true", "update.betas=[0.9, 0.95]"],
    ["update.deepspeed={zero_optimization={stage=2}}", "update.ranks=2", "update.threads=3"],
    ['evaluate.benchmarks=[{name="a", problems="a.parquet", samples=4, limit=10}]'],
    ['evaluate.benchmarks=[{name="a", problems="a"}, {name="b", problems="b", samples=2}]'],
    ["evaluate.rules.extraction=choice", "evaluate.top_p=0.9", "evaluate.every=1"],
    ["evaluate.benchmarks=[]", "checkpoint.keep_last=5", "checkpoint.state_every=2"],
]  # fmt: skip


def cases() -> list[tuple[str, list[str]]]:
    presets = sorted(Path("configs/presets").glob("*.toml"))
    whole = [*sorted(Path("configs").glob("*.toml")), *sorted(Path("configs/paper").glob("*.toml"))]
    of_demo = [*([f"preset={path.stem}"] for path in presets), *UNUSUAL]
    return [
        *((str(path), DATA) for path in presets),
        *((str(path), []) for path in whole),
        *(("configs/demo.toml", overrides) for overrides in of_demo),
    ]


def stages(path: str, overrides: list[str]) -> dict[str, dict[str, str]]:
    config, found = load(Path(path), overrides), {}
    for stage in STAGES:
        part = graph.config_slice(config, stage)
        assert str(ROOT) not in json.dumps(part)
        version, seed = graph.CODE_VERSIONS[stage], 0 if stage in graph.DRAWING else None
        fingerprint = manifest.fingerprint(stage, 1, version, INPUTS, part, seed)
        found[stage] = {"slice": canonical_digest(part), "fingerprint": fingerprint}
    return found


if __name__ == "__main__":
    lines = []
    for path, overrides in cases():
        case = {"config": path, "overrides": overrides, "stages": stages(path, overrides)}
        lines.append(f"{json.dumps(' '.join([path, *overrides]))}: {json.dumps(case)}")
    Path(sys.argv[1]).write_text("{\n" + ",\n".join(lines) + "\n}\n")
