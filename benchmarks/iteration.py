"""An iteration of the demo beside a step of TRL's GRPOTrainer, on the same model and rollouts.

    python -m benchmarks.iteration [--iterations 20] [--steps 12] [--json FILE]

First the demo, with its seconds a stage. Then both from the model that it ends with, which writes
out its solutions in 40 tokens: 16 bare prompts x 8 responses of at most 64 tokens from the same
problems, same dtype and temperature, no KL, and a learning rate at which the model stays as it is,
so that all iterations are the same work. Ours is the whole: Prefect flow and server, vLLM,
math-verify, DeepSpeed, every stage persisted. TRL persists nothing. Ours once more one step
off-policy, sampling while the trainer works. One after the other; medians without the first
iterations, which compile.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from icpo_core.config import STAGES
from icpo_core.manifest import Manifest, read
from icpo_core.paths import RunPaths

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "configs" / "demo.toml"
WARM = 3
PROMPTS, GROUP, MAX_TOKENS = 16, 8, 64
RATE = 1e-12


def ours(name: str, iterations: int, folder: str, more: list[str]) -> dict[str, Any]:
    """Train for some iterations; median seconds of an iteration, of each stage, and the share that
    was spent neither in the engines nor in the optimizer."""
    changes = [f"run.iterations={iterations}", "evaluate.every=0", f"run.directory={folder}"]
    words = [sys.executable, "-m", "flows.cli", "train", str(DEMO), "--run", name]
    for change in [*changes, *more]:
        words += ["-o", change]
    environment = {**os.environ, "PREFECT_HOME": f"{folder}/prefect"}
    subprocess.run(words, check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    return measure(RunPaths(Path(folder) / name), iterations)


def measure(paths: RunPaths, iterations: int) -> dict[str, Any]:
    """Read the seconds off a run's manifests."""

    def of(stage: str, iteration: int) -> Manifest:
        found = read(paths.manifest(stage, iteration))
        assert found is not None, (stage, iteration)
        return found

    def end(iteration: int) -> float:
        last = of("checkpoint", iteration)
        return last.started + last.seconds

    walls, outside, tokens = [], [], []
    counted = range(WARM + 1, iterations + 1)
    for iteration in counted:
        wall = end(iteration) - end(iteration - 1)
        facts = of("rollout", iteration).facts
        engines = facts["sampling_seconds"] + facts["reload_seconds"]
        engines += of("update", iteration).facts["timing"]["step"]
        walls.append(wall)
        tokens.append(facts["tokens"])
        outside.append((wall - engines) / wall)
    stages = {
        stage: median(of(stage, iteration).seconds for iteration in counted)
        for stage in STAGES
        if stage != "evaluate"
    }
    stages["between"] = median(walls) - sum(stages.values())
    return {
        "seconds": median(walls), "stages": stages, "outside": median(outside),
        "tokens": median(tokens),
    }  # fmt: skip


def trl_steps(steps: int, model: Path) -> dict[str, list[float]]:
    """Seconds and sampled tokens of each step of TRL's trainer, in this process."""
    import datasets
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from benchmarks.update import PLAIN_TRL
    from data.arithmetic import bare_prompt
    from icpo_core.extraction import extract
    from icpo_core.problems import read_problems

    problems = read_problems(str(ROOT / "data" / "small" / "train.parquet"))
    rows = datasets.Dataset.from_dict(
        {
            "prompt": [bare_prompt(text) for text in problems["problem"].to_pylist()],
            "answer": problems["answer"].to_pylist(),
        }
    )

    tokens: list[float] = []

    def reward(
        completions: list[str], answer: list[str], completion_ids: list[list[int]], **_: Any
    ) -> list[float]:
        tokens.append(sum(map(len, completion_ids)))
        found = [extract(text, "boxed").answer for text in completions]
        return [float(one == gold) for one, gold in zip(found, answer, strict=True)]

    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter() - self.started)

    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
            processing_class=AutoTokenizer.from_pretrained(model),
            reward_funcs=reward,
            train_dataset=rows,
            callbacks=[Clock()],
            args=GRPOConfig(
                output_dir=folder,
                max_steps=steps,
                per_device_train_batch_size=PROMPTS * GROUP,
                num_generations=GROUP,
                max_completion_length=MAX_TOKENS,
                learning_rate=RATE,
                temperature=1.0,
                **PLAIN_TRL,
            ),
        )
        trainer.train()
    return {"seconds": times, "tokens": tokens}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--steps", type=int, default=12, help="of TRL")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only-trl", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only_trl:
        print(json.dumps(trl_steps(arguments.steps, arguments.only_trl)))
        return
    with tempfile.TemporaryDirectory() as folder:
        demo = ours("demo", arguments.iterations, folder, [])
        model = Path(folder) / "demo" / "LATEST" / "model"
        still = ["preset=grpo", f"model.path={model}", f"update.learning_rate={RATE}"]
        mine = ours("same", arguments.steps, folder, still)
        ahead = ["rollout.off_policy_steps=1", "update.old_logprobs=engine"]
        overlapped = ours("ahead", arguments.steps, folder, [*still, *ahead])
        # A process of its own, so that neither has the other's threads beside it.
        words = [sys.executable, "-m", "benchmarks.iteration", "--only-trl", str(model)]
        words += ["--steps", str(arguments.steps)]
        done = subprocess.run(words, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    theirs = {
        name: median(values[WARM:])
        for name, values in json.loads(done.stdout.splitlines()[-1]).items()
    }
    ratio, ratio_ahead = (one["seconds"] / theirs["seconds"] for one in (mine, overlapped))
    table = Table(title=f"{PROMPTS} prompts x {GROUP} rollouts, medians")
    for column in ("", "demo, seconds", "same work, seconds"):
        table.add_column(column, justify="right" if column else "left")
    for name, seconds in demo["stages"].items():
        table.add_row(name, f"{seconds:.3f}", f"{mine['stages'][name]:.3f}")
    table.add_section()
    table.add_row("our iteration", f"{demo['seconds']:.2f}", f"{mine['seconds']:.2f}")
    table.add_row("the same, one step off-policy", "", f"{overlapped['seconds']:.2f}")
    table.add_row("TRL's step", "", f"{theirs['seconds']:.2f}")
    table.add_row("ratio", "", f"{ratio:.2f}")
    table.add_row("ratio, one step off-policy", "", f"{ratio_ahead:.2f}")
    table.add_row("share outside the engines", f"{demo['outside']:.0%}", f"{mine['outside']:.0%}")
    table.add_row("tokens, ours", f"{demo['tokens']:,.0f}", f"{mine['tokens']:,.0f}")
    table.add_row("tokens, TRL's", "", f"{theirs['tokens']:,.0f}")
    Console().print(table)
    if arguments.json:
        found = {**demo, "same": mine, "trl": theirs, "ratio": ratio, "ratio_ahead": ratio_ahead}
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
