"""An iteration of the demo beside a step of TRL's GRPOTrainer, on the same model and rollouts.

    python -m benchmarks.iteration [--iterations 20] [--steps 6] [--json FILE]

Ours is the whole: Prefect flow and server, vLLM, math-verify, DeepSpeed, every stage persisted.
TRL samples 16 prompts x 8 responses of at most 64 tokens from the same problems, with the same
model, dtype, learning rate and temperature, without KL, and persists nothing. Both in one run, one
after the other; medians without the first iterations, which compile.
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


def ours(iterations: int) -> dict[str, Any]:
    """Train for some iterations; median seconds of an iteration, of each stage, and the share that
    was spent neither in the engines nor in the optimizer."""
    with tempfile.TemporaryDirectory() as folder:
        changes = [f"run.iterations={iterations}", "evaluate.every=0", f"run.directory={folder}"]
        words = [sys.executable, "-m", "flows.cli", "train", str(DEMO), "--run", "bench"]
        for change in changes:
            words += ["-o", change]
        environment = {**os.environ, "PREFECT_HOME": f"{folder}/prefect"}
        subprocess.run(words, check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        return measure(RunPaths(Path(folder) / "bench"), iterations)


def measure(paths: RunPaths, iterations: int) -> dict[str, Any]:
    """Read the seconds off a run's manifests."""

    def of(stage: str, iteration: int) -> Manifest:
        found = read(paths.manifest(stage, iteration))
        assert found is not None, (stage, iteration)
        return found

    def end(iteration: int) -> float:
        last = of("checkpoint", iteration)
        return last.started + last.seconds

    walls, outside = [], []
    counted = range(WARM + 1, iterations + 1)
    for iteration in counted:
        wall = end(iteration) - end(iteration - 1)
        facts = of("rollout", iteration).facts
        engines = facts["sampling_seconds"] + facts["reload_seconds"]
        engines += of("update", iteration).facts["timing"]["step"]
        walls.append(wall)
        outside.append((wall - engines) / wall)
    stages = {
        stage: median(of(stage, iteration).seconds for iteration in counted)
        for stage in STAGES
        if stage != "evaluate"
    }
    stages["between"] = median(walls) - sum(stages.values())
    return {"seconds": median(walls), "stages": stages, "outside": median(outside)}


def trl_steps(steps: int) -> list[float]:
    """Seconds of each step of TRL's trainer, in this process."""
    import datasets
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

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

    def reward(completions: list[str], answer: list[str], **_: Any) -> list[float]:
        found = [extract(text, "boxed").answer for text in completions]
        return [float(one == gold) for one, gold in zip(found, answer, strict=True)]

    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter() - self.started)

    base = ROOT / "data" / "small" / "base"
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
            processing_class=AutoTokenizer.from_pretrained(base),
            reward_funcs=reward,
            train_dataset=rows,
            callbacks=[Clock()],
            args=GRPOConfig(
                output_dir=folder,
                max_steps=steps,
                per_device_train_batch_size=PROMPTS * GROUP,
                num_generations=GROUP,
                max_completion_length=MAX_TOKENS,
                learning_rate=3e-4,
                lr_scheduler_type="constant",
                beta=0.0,
                temperature=1.0,
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                logging_strategy="no",
            ),
        )
        trainer.train()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--steps", type=int, default=8, help="of TRL")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only-trl", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only_trl:
        print(json.dumps(trl_steps(arguments.steps)))
        return
    mine = ours(arguments.iterations)
    # A process of its own, so that neither has the other's threads beside it.
    words = [sys.executable, "-m", "benchmarks.iteration", "--only-trl"]
    words += ["--steps", str(arguments.steps)]
    theirs = subprocess.run(words, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    times = json.loads(theirs.stdout.splitlines()[-1])[WARM - 1 :]
    found = {**mine, "trl_seconds": median(times), "ratio": mine["seconds"] / median(times)}
    table = Table(title=f"{PROMPTS} prompts x {GROUP} rollouts, medians")
    table.add_column("")
    table.add_column("seconds", justify="right")
    for name, seconds in mine["stages"].items():
        table.add_row(name, f"{seconds:.3f}")
    table.add_section()
    table.add_row("our iteration", f"{mine['seconds']:.2f}")
    table.add_row("TRL's step", f"{found['trl_seconds']:.2f}")
    table.add_row("ratio", f"{found['ratio']:.2f}")
    table.add_row("share outside the engines", f"{mine['outside']:.0%}")
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
