"""An update beside a hand-written PyTorch loop and TRL's GRPOTrainer, on the same rows.

    python -m benchmarks.update [--rounds 20] [--json FILE]

The small model (or `--model FOLDER`), 16 prompts x 8 responses, half direct answers and half worked
solutions, every row with an advantage (or `--batch FILE`, of a run's stage `select`); float32,
AdamW, clipping, no KL. Ours is an optimizer step of the trainer with all its metrics, and once more
with all that a run has around it: rows read from Parquet, weights published, probe written. The
loop pads prompts left and responses right, in equal micro-batches, and computes the loss and
nothing else. TRL gets the rows in the place of its own rollouts; its step is what its callbacks
see. Ours and the loop take turns in one process, TRL comes between them in one of its own.
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

import torch
from torch import Tensor

from icpo.data.arithmetic import bare_prompt, direct_answer, solve, worked_solution
from icpo_core.common.console import Console, Table
from icpo_core.config import LossSection, UpdateSection
from icpo_core.method.problems import read_problems
from icpo_core.store import tables
from icpo_core.trainer.microbatches import Row, rows_of
from icpo_core.trainer.trainer import Trainer
from icpo_core.workers.jobs import Restore, Update
from icpo_core.workers.launcher import free_port

SMALL = Path(__file__).resolve().parent.parent / "data" / "small"
PROMPTS, GROUP = 16, 8
RATE = 1e-5  # the model must not run away while it takes the same step again and again
WARM = 3
PLAIN_TRL: dict[str, Any] = {
    "lr_scheduler_type": "constant",
    "beta": 0.0,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "logging_strategy": "no",
}
"""Settings of TRL's trainer by which it does the same work as ours, and nothing beside it."""
Times = tuple[float, float]
"""Wall and CPU seconds of a step; the second is the steadier on a busy machine."""


def batch(folder: Path) -> Path:
    """Responses of two lengths, as the model gives them while it learns."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(SMALL / "base")
    problems = read_problems(str(SMALL / "train.parquet"))["problem"].to_pylist()[:PROMPTS]
    rows = []
    for problem in problems:
        for index in range(GROUP):
            answer = worked_solution(problem) if index % 2 else direct_answer(problem)
            right = index < 4
            rows.append(
                {
                    "prompt_id": problem,
                    "sample_index": index,
                    "origin": "expert" if index == GROUP - 1 else "on_policy",
                    "prompt_ids": tokenizer.encode(bare_prompt(problem)),
                    "response_ids": tokenizer.encode(answer + "<eos>"),
                    "behaviour_logprobs": None,
                    "reward": float(right),
                    "bonus": 0.0,
                    "shaped_reward": float(right),
                    "advantage": 0.9 if right else -0.9,
                }
            )
    assert all(str(solve(problem)) in direct_answer(problem) for problem in problems)
    file = folder / "batch.parquet"
    tables.write("batch", tables.table("batch", rows), file)
    return file


def pad(rows: list[Row]) -> dict[str, Tensor]:
    """Prompts left, responses right, both to the longest."""
    prompt = max(len(row.prompt_ids) for row in rows)
    response = max(len(row.response_ids) for row in rows)
    padded = {
        "prompt_ids": torch.zeros(len(rows), prompt, dtype=torch.long),
        "completion_ids": torch.zeros(len(rows), response, dtype=torch.long),
    }
    padded |= {
        name.replace("ids", "mask"): torch.zeros_like(value) for name, value in padded.items()
    }
    for place, row in enumerate(rows):
        first, length = prompt - len(row.prompt_ids), len(row.response_ids)
        padded["prompt_ids"][place, first:] = torch.from_numpy(row.prompt_ids.copy())
        padded["prompt_mask"][place, first:] = 1
        padded["completion_ids"][place, :length] = torch.from_numpy(row.response_ids.copy())
        padded["completion_mask"][place, :length] = 1
    return padded | {"advantages": torch.tensor([row.advantage for row in rows])}


def by_hand(model: Path, rows: list[Row], micro_batches: int) -> Callable[[], None]:
    """The loop that one writes first: the ICPO loss on equal micro-batches."""
    from transformers import AutoModelForCausalLM

    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=RATE, weight_decay=0.0)
    size = -(-len(rows) // micro_batches)
    tokens = sum(len(row.response_ids) for row in rows)

    def step() -> None:
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            padded = pad(part)
            length = padded["completion_ids"].shape[1]
            output = policy(
                input_ids=torch.cat([padded["prompt_ids"], padded["completion_ids"]], 1),
                attention_mask=torch.cat([padded["prompt_mask"], padded["completion_mask"]], 1),
                logits_to_keep=length + 1,
            )
            every = output.logits[:, :-1].log_softmax(-1)
            logprobs = every.gather(-1, padded["completion_ids"][..., None]).squeeze(-1)
            advantages = padded["advantages"][:, None]
            ratio = (logprobs - logprobs.detach()).exp()
            clipped = ratio.clamp(0.8, 1.2)
            loss = -torch.minimum(ratio * advantages, clipped * advantages)
            rho = logprobs.exp()
            experts = torch.tensor([row.expert for row in part])[:, None]
            loss = torch.where(experts, -rho / (rho + 0.01) * advantages, loss)
            ((loss * padded["completion_mask"]).sum() / tokens).backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def trl(model: Path, rows: list[Row], micro_batches: int, steps: int, folder: Path) -> list[Times]:
    """Seconds of each step of TRL's trainer on the rows."""
    import datasets
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    stored = pad(rows)
    stored["num_items_in_batch"] = stored["completion_mask"].sum()

    class Stored(GRPOTrainer):
        def _generate_and_score_completions(self, _: Any) -> dict[str, Tensor]:
            return dict(stored)

    times: list[Times] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = clock()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(since(self.started))

    trainer = Stored(
        model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(SMALL / "base"),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        train_dataset=datasets.Dataset.from_dict({"prompt": ["Q:"] * 64}),
        callbacks=[Clock()],
        args=GRPOConfig(
            output_dir=str(folder / "trl"),
            max_steps=steps,
            per_device_train_batch_size=len(rows) // micro_batches,
            gradient_accumulation_steps=micro_batches,
            num_generations=GROUP,
            max_completion_length=64,
            learning_rate=RATE,
            loss_type="dapo",
            **PLAIN_TRL,
        ),
    )
    trainer.train()
    return times


def in_its_own_process(arguments: argparse.Namespace, micro_batches: int) -> list[Times]:
    """TRL's steps without the warm ones; it would find a process group here and wrap its model."""
    words = [sys.executable, "-m", "benchmarks.update", "--only-trl", str(micro_batches)]
    words += ["--rounds", str(arguments.rounds), "--model", str(arguments.model)]
    words += ["--batch", str(arguments.batch)] if arguments.batch else []
    ranks = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    environment = {name: value for name, value in os.environ.items() if name not in ranks}
    done = subprocess.run(words, check=True, env=environment, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])[WARM:]


def clock() -> Times:
    return time.perf_counter(), time.process_time()


def since(started: Times) -> Times:
    wall, cpu = clock()
    return wall - started[0], cpu - started[1]


def timed(step: Callable[[], Any]) -> Times:
    started = clock()
    step()
    return since(started)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, default=SMALL / "base")
    parser.add_argument("--batch", type=Path)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument(
        "--parts",
        type=int,
        nargs="+",
        default=[1, 2, 4],
        help="micro-batches of the loop by hand, each with a model of its own in memory; TRL's are "
        "the first two",
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only-trl", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only_trl:
        with tempfile.TemporaryDirectory() as name:
            rows = rows_of(tables.read("batch", arguments.batch or batch(Path(name))))
            steps = arguments.rounds + WARM
            print(json.dumps(trl(arguments.model, rows, arguments.only_trl, steps, Path(name))))
        return
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "DS_ACCELERATOR": "cpu"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(verbose=False)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = arguments.batch or batch(folder)
        rows = rows_of(tables.read("batch", file))
        section = UpdateSection(learning_rate=RATE, dtype="float32", max_logprob_gap=1e3)
        subject = Trainer(arguments.model, LossSection(kl="off"), section, 1.0)
        number = [0]

        def whole() -> None:
            number[0] += 1
            subject.update(
                Update(
                    iteration=number[0],
                    batch=[file],
                    parent=subject.state_id,
                    restore=Restore(folder=None, replay=[]),
                    state_id=str(number[0]),
                    out=folder,
                )
            )

        def step() -> None:
            subject._step(rows, 1)
            subject.state_id = "stepped"

        works: dict[str, Callable[[], Any]] = {
            "ours": step,
            "ours, stored and published": whole,
        }
        for parts in arguments.parts:
            works[f"by hand, {parts} micro-batches"] = by_hand(arguments.model, rows, parts)
        found: dict[str, list[Times]] = {name: [] for name in works}

        def take_turns(rounds: int) -> None:
            for turn in range(rounds + WARM):
                for name, step in works.items():
                    seconds = timed(step)
                    if turn >= WARM:
                        found[name].append(seconds)

        half = -(-arguments.rounds // 2)
        take_turns(half)
        for parts in arguments.parts[:2]:
            found[f"TRL, {parts} micro-batches"] = in_its_own_process(arguments, parts)
        take_turns(half)
    seconds = {
        name: [median(one[kind] for one in times) for kind in (0, 1)]
        for name, times in found.items()
    }
    ratios = {}
    for peer in ("by hand", "TRL"):
        best = [min(s[kind] for n, s in seconds.items() if n.startswith(peer)) for kind in (0, 1)]
        ratios[peer] = [best[kind] / seconds["ours"][kind] for kind in (0, 1)]
    table = Table(title=f"{len(rows)} rows, medians of {arguments.rounds}")
    for column in ("", "seconds", "CPU seconds"):
        table.add_column(column, justify="right" if column else "left")
    for name, pair in seconds.items():
        table.add_row(name, *(f"{value:.4f}" for value in pair))
    table.add_section()
    for peer, pair in ratios.items():
        table.add_row(f"best {peer} / ours", *(f"{value:.2f}" for value in pair))
    Console().print(table)
    if arguments.json:
        figures = {"seconds": seconds, "ratios": ratios, "times": found}
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
