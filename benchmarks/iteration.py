"""An iteration of the demo beside a step of TRL's GRPOTrainer, on the same model and rollouts.

    python -m benchmarks.iteration [--iterations 20] [--steps 12] [--rounds 2] [--json FILE]

First the demo, with its seconds a stage. Then both from the model that it ends with, which writes
out its solutions in 40 tokens: 16 bare prompts x 8 responses of at most 64 tokens from the same
problems, same dtype and temperature, no KL, and a learning rate at which the model stays as it is,
so that all iterations are the same work. Ours is the whole: Prefect flow and server, vLLM,
math-verify, DeepSpeed, every stage persisted. TRL persists nothing; it runs once with settings by
which it does what ours does and no more, and once with what it sets by itself (8 rows at a time,
bf16, gradient checkpointing). Ours once more one step off-policy, sampling while the trainer works.
One after the other, in rounds; medians without each one's first iterations, which compile.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.update import PLAIN_TRL
from icpo_core.common.console import Console, Table
from icpo_core.run.stages import STAGES
from icpo_core.run.timeline import sampling_seconds
from icpo_core.store.manifest import Manifest, read
from icpo_core.store.paths import RunPaths

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "configs" / "demo.toml"
WARM = 3
PROMPTS, GROUP, MAX_TOKENS = 16, 8, 64
RATE = 1e-12
DEFAULT_ROWS = 8
"""Rows that TRL takes at a time where nobody says otherwise."""
DEFAULT_TRL: dict[str, Any] = {
    "per_device_train_batch_size": DEFAULT_ROWS,
    "gradient_accumulation_steps": PROMPTS * GROUP // DEFAULT_ROWS,
    "use_cpu": True,
    "report_to": "none",
    "disable_tqdm": True,
}
"""TRL's settings as they come: what the machine and the same 128 rollouts ask for, and no more."""
WAYS = ("same", "ahead", "trl", "trl_default")


def ours(
    name: str, iterations: int, folder: str, more: list[str], config: Path = DEMO
) -> dict[str, Any]:
    """Train for some iterations; seconds of each, and medians of those of each stage and of the
    share that was spent neither in the engines nor in the optimizer."""
    changes = [f"run.iterations={iterations}", "evaluate.every=0", f"run.directory={folder}"]
    words = [sys.executable, "-m", "icpo", "train", str(config), "--run", name]
    for change in [*changes, *more]:
        words += ["-o", change]
    environment = {**os.environ, "PREFECT_HOME": f"{folder}/prefect"}
    subprocess.run(words, check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    return measure(RunPaths(Path(folder) / name), iterations)


def measure(paths: RunPaths, iterations: int, warm: int = WARM) -> dict[str, Any]:
    """Read the seconds off a run's manifests."""

    def of(stage: str, iteration: int) -> Manifest:
        found = read(paths.manifest(stage, iteration))
        assert found is not None, (stage, iteration)
        return found

    def end(iteration: int) -> float:
        last = of("checkpoint", iteration)
        return last.started + last.seconds

    walls, outside, tokens = [], [], []
    counted = range(warm + 1, iterations + 1)
    for iteration in counted:
        wall = end(iteration) - end(iteration - 1)
        facts = of("rollout", iteration).facts
        engines = sampling_seconds(of("rollout", iteration)) + facts["reload_seconds"]
        engines += of("update", iteration).facts["timing"]["step"]
        walls.append(wall)
        tokens.append(facts["tokens"])
        outside.append((wall - engines) / wall)
    stages = {
        stage: median(of(stage, iteration).seconds for iteration in counted)
        for stage in STAGES
        if stage != "evaluate" and paths.manifest(stage, iterations).is_file()
    }
    stages["between"] = median(walls) - sum(stages.values())
    return {
        "walls": walls, "seconds": median(walls), "stages": stages, "outside": median(outside),
        "tokens": median(tokens),
    }  # fmt: skip


def demo_rows() -> tuple[list[str], list[str]]:
    """Bare prompts and gold answers of the demo."""
    from icpo.data.arithmetic import bare_prompt
    from icpo_core.method.problems import read_problems

    problems = read_problems(str(ROOT / "data" / "small" / "train.parquet"))
    prompts = [bare_prompt(text) for text in problems["problem"].to_pylist()]
    return prompts, problems["answer"].to_pylist()


def boxed(text: str, gold: str) -> float:
    """1 for the gold answer in a box."""
    from icpo_core.grading.extraction import extract

    return float(extract(text, "boxed").answer == gold)


def trl_steps(
    steps: int,
    model: Path,
    settings: dict[str, Any],
    rows: tuple[list[str], list[str]],
    judge: Callable[[str, str], float] = boxed,
) -> dict[str, list[float]]:
    """Seconds and sampled tokens of each step of TRL's trainer, in this process. rows: prompts and
    gold answers. settings: of `GRPOConfig`, beside those of the demo."""
    import datasets
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    tokens: list[float] = []

    def reward(
        completions: list[str], answer: list[str], completion_ids: list[list[int]], **_: Any
    ) -> list[float]:
        tokens.append(sum(map(len, completion_ids)))
        return [judge(text, gold) for text, gold in zip(completions, answer, strict=True)]

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
            train_dataset=datasets.Dataset.from_dict(
                dict(zip(("prompt", "answer"), rows, strict=True))
            ),
            callbacks=[Clock()],
            args=GRPOConfig(
                **{
                    "output_dir": folder,
                    "max_steps": steps,
                    "num_generations": GROUP,
                    "max_completion_length": MAX_TOKENS,
                    "learning_rate": RATE,
                    "temperature": 1.0,
                    **settings,
                }
            ),
        )
        trainer.train()
    return {"seconds": times, "tokens": tokens}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--steps", type=int, default=12, help="of each in a round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only-trl", nargs=2, metavar=("WAY", "MODEL"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    steps = arguments.steps
    if arguments.only_trl:
        way, model = arguments.only_trl
        like_ours = {"per_device_train_batch_size": PROMPTS * GROUP, **PLAIN_TRL}
        settings = {"trl": like_ours, "trl_default": DEFAULT_TRL}[way]
        print(json.dumps(trl_steps(steps, Path(model), settings, demo_rows())))
        return
    with tempfile.TemporaryDirectory() as folder:
        demo = ours("demo", arguments.iterations, folder, [])
        model = str(Path(folder) / "demo" / "LATEST" / "model")
        still = ["preset=grpo", f"model.path={model}", f"update.learning_rate={RATE}"]
        ahead = [*still, "rollout.off_policy_steps=1", "update.old_logprobs=engine"]
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        tokens: dict[str, list[float]] = {way: [] for way in WAYS}
        for number in range(arguments.rounds):
            for way, changes in (("same", still), ("ahead", ahead)):
                mine = ours(f"{way}-{number}", steps, folder, changes)
                seconds[way] += mine["walls"]
                tokens[way].append(mine["tokens"])
                if way == "same":
                    same = mine
            for way in ("trl", "trl_default"):
                # A process of its own, so that neither has the other's threads beside it.
                words = [sys.executable, "-m", "benchmarks.iteration", "--steps", str(steps)]
                words += ["--only-trl", way, model]
                done = subprocess.run(words, check=True, cwd=ROOT, stdout=subprocess.PIPE)
                theirs = json.loads(done.stdout.splitlines()[-1])
                seconds[way] += theirs["seconds"][WARM:]
                tokens[way] += theirs["tokens"][WARM:]
    times = {way: median(values) for way, values in seconds.items()}
    found = {
        **demo,
        "same": {**same, "seconds": times["same"], "walls": seconds["same"]},
        "times": times,
        "all": seconds,
        "ratio": times["same"] / times["trl"],
        "ratio_default": times["same"] / times["trl_default"],
        "ratio_ahead": times["ahead"] / times["trl"],
    }
    show(found, {way: median(values) for way, values in tokens.items()})
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


def show(found: dict[str, Any], tokens: dict[str, float]) -> None:
    """Print the stages of both runs of ours, and all ways beside each other."""
    table = Table(title=f"{PROMPTS} prompts x {GROUP} rollouts, medians")
    for column in ("", "demo", "same work"):
        table.add_column(column, justify="right" if column else "left")
    for name, took in found["stages"].items():
        table.add_row(f"{name}, s", f"{took:.3f}", f"{found['same']['stages'][name]:.3f}")
    table.add_section()
    for what, way in (
        ("our iteration, s", "same"),
        ("the same, one step off-policy, s", "ahead"),
        ("TRL's step, set to do the same, s", "trl"),
        ("TRL's step, by its defaults, s", "trl_default"),
    ):
        demo = f"{found['seconds']:.2f}" if way == "same" else ""
        table.add_row(what, demo, f"{found['times'][way]:.2f}")
    table.add_section()
    table.add_row("iteration / TRL's step", "", f"{found['ratio']:.2f}")
    table.add_row("iteration / TRL's step by its defaults", "", f"{found['ratio_default']:.2f}")
    table.add_row("one step off-policy / TRL's step", "", f"{found['ratio_ahead']:.2f}")
    outside = f"{found['outside']:.0%}", f"{found['same']['outside']:.0%}"
    table.add_row("share outside the engines", *outside)
    table.add_row("tokens, ours", f"{found['tokens']:,.0f}", f"{tokens['same']:,.0f}")
    table.add_row("tokens, TRL's", "", f"{tokens['trl']:,.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
