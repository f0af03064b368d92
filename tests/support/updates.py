"""Updates of the small model by the trainer, what they leave behind, and whether it is the same."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.distributed as dist
from damage import Planted
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from icpo.data.arithmetic import bare_prompt, one_shot_prompt, solve
from icpo.data.base_model import sample
from icpo_core.common.files import model_digest, sha256_file
from icpo_core.config import LossSection, SelectSection, UpdateSection
from icpo_core.method.problems import read_problems
from icpo_core.method.selection import select
from icpo_core.store import tables
from icpo_core.store.tables import Origin
from icpo_core.trainer import logprobs
from icpo_core.trainer.microbatches import Row, collate
from icpo_core.trainer.policy import load_policy
from icpo_core.trainer.trainer import Trainer
from icpo_core.workers.jobs import Replay, Restore, Save, Update

PROMPTS, GROUP, MAX_TOKENS = 8, 8, 64
# Adam's step moves a weight by about the learning rate, whatever its gradient, but where that is as
# small as Adam's epsilon (1e-8): there rounding shows, in a few weights of 0.6 million. So both are
# asked: no weight off by more than 1e-6, and all of them together off by next to nothing.
RATE = 3e-5
SETTINGS = {"learning_rate": RATE, "dtype": "float32", "max_logprob_gap": 1.0}
PLAIN = LossSection(kl="off", kl_coefficient=0.0)
WHOLE = LossSection(kl_coefficient=0.05, entropy_coefficient=0.01)
TOLERANCE, SHARE_OF_A_STEP = 1e-6, 2e-4
# Of how the work was cut up, not of what was learned.
ABOUT_THE_WORK = {"padding_share", "shared_share", "rows", "rows_without_signal"}
NOWHERE = Restore(folder=None, replay=[])
"""From the base model on."""
Case = tuple[list[Path], LossSection, dict[str, Any]]


@dataclass
class Steps:
    """What some updates in a row left behind."""

    metrics: list[dict[str, float]]
    weights: list[dict[str, torch.Tensor]]
    tokens: list[dict[str, list[float]]] = field(default_factory=list)
    """Logprobs of each expert rollout's tokens under the bare prompt, by its problem."""


def update(
    trainer: Trainer, files: list[Path], folder: Path, parent: str = "", first: int = 1
) -> Steps:
    steps = Steps([], [])
    for number, file in enumerate(files, first):
        out = folder / f"it-{number}"
        reply = trainer.update(
            Update(
                parent=parent or trainer.base_version,
                restore=NOWHERE,
                batch=[file],
                iteration=number,
                state_id=f"state-{number}",
                out=out,
                expert_tokens=True,
            )
        )
        assert reply.policy_version == model_digest(out / "model")
        assert reply.work is not None
        work, rows = reply.work, reply.metrics["rows"]
        assert (work["tokens"] > 0) == (work["flops"] > 0) == (rows > 0)
        assert (work["tokens"] >= 2 * rows, work["device"]) == (True, "")  # a CPU has no peak
        parent = f"state-{number}"
        steps.metrics.append(reply.metrics)
        steps.weights.append(load_file(out / "model" / "model.safetensors"))
        if (out / "expert_tokens.parquet").exists():
            table = tables.read("expert_tokens", out / "expert_tokens.parquet")
            assert set(table["origin"].to_pylist()) == {Origin.EXPERT}
            found = table["prompt_id"].to_pylist(), table["logprobs"].to_pylist()
            steps.tokens.append(dict(zip(*found, strict=True)))
    return steps


def written(batch: pa.Table, path: Path) -> Path:
    """A batch in a file of its own."""
    tables.write("batch", batch, path)
    return path


def train(
    small: Path, files: list[Path], folder: Path, loss: LossSection = PLAIN, **settings: Any
) -> Steps:
    section = UpdateSection(**{**SETTINGS, **settings})
    return update(Trainer(small / "base", loss, section, 1.0), files, folder)


def assert_same_weights(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float
) -> None:
    """tolerance: of any one weight; the root of the mean square is held to far less."""
    assert found.keys() == expected.keys()
    gaps = torch.cat([(found[name] - expected[name]).flatten() for name in found])
    assert float(gaps.abs().max()) <= tolerance
    assert float(gaps.square().mean().sqrt()) <= SHARE_OF_A_STEP * RATE


def assert_same(found: Steps, expected: Steps, tolerance: float = TOLERANCE) -> None:
    for ours, theirs in zip(found.weights, expected.weights, strict=True):
        assert_same_weights(ours, theirs, tolerance)
    for spoken, wanted in zip(found.tokens, expected.tokens, strict=True):
        assert spoken.keys() == wanted.keys()
        for name in wanted:
            assert spoken[name] == pytest.approx(wanted[name], rel=2e-5, abs=5e-6)
    for ours, theirs in zip(found.metrics, expected.metrics, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - ABOUT_THE_WORK:
            # The largest of all gaps is one token's: a logprob of -10 is rounded to 1e-6 itself.
            least = 5e-6 if name == "engine_gap/max" else 2e-6
            wanted = pytest.approx(theirs[name], rel=2e-5, abs=least, nan_ok=True)
            assert ours[name] == wanted, name


def batches(small: Path, folder: Path, count: int) -> list[Path]:
    """Batches of 8 groups of 7+1 rollouts that the base model makes, one an iteration."""
    model = AutoModelForCausalLM.from_pretrained(small / "base", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(small / "base")
    policy = load_policy(small / "base", torch.float32, 1.0)
    problems = read_problems(str(small / "train.parquet"))["problem"].to_pylist()
    shown = read_problems(str(small / "demonstrations.parquet"))["problem"].to_pylist()
    chosen = problems[: count * PROMPTS]
    torch.manual_seed(0)
    bare = [bare_prompt(problem) for problem in chosen for _ in range(GROUP - 1)]
    expert = [one_shot_prompt(shown[i], problem) for i, problem in enumerate(chosen)]
    bare_ids, expert_ids = tokenizer(bare)["input_ids"], tokenizer(expert)["input_ids"]
    answers = sample(model, tokenizer, bare), sample(model, tokenizer, expert)
    files = []
    for number in range(count):
        prompts, rollouts, verdicts = [], [], []
        for place in range(number * PROMPTS, (number + 1) * PROMPTS):
            key = f"{place:03d}"
            sources = [
                (Origin.ON_POLICY, bare_ids[i], answers[0][i])
                for i in range(place * (GROUP - 1), (place + 1) * (GROUP - 1))
            ]
            sources.append((Origin.EXPERT, expert_ids[place], answers[1][place]))
            prompts.append(
                {
                    "prompt_id": key,
                    "problem": chosen[place],
                    "answer": str(solve(chosen[place])),
                    "source": "",
                    "policy_prompt": bare[place * (GROUP - 1)],
                    "policy_prompt_ids": bare_ids[place * (GROUP - 1)],
                    "expert_prompt": expert[place],
                    "expert_prompt_ids": expert_ids[place],
                    "demo_ids": [],
                    "trace": None,
                }
            )
            responses = [tokenizer.encode(text + "<eos>")[:MAX_TOKENS] for _, _, text in sources]
            logprobs = scored(policy, [ids for _, ids, _ in sources], responses)
            for index, (origin, _, text) in enumerate(sources):
                right = text.endswith(rf"\boxed{{{solve(chosen[place])}}}")
                shared = {"prompt_id": key, "sample_index": index, "origin": origin}
                rollouts.append(
                    {
                        **shared,
                        "response": text,
                        "response_ids": responses[index],
                        "logprobs": logprobs[index],
                        "finish_reason": "stop",
                        "seed": 0,
                        "policy_version": "",
                    }
                )
                verdicts.append(
                    {
                        **shared,
                        "reward": float(right),
                        "status": "correct" if right else "wrong",
                        "extracted": None,
                        "gold": "",
                        "seconds": 0.0,
                        "detail": "",
                    }
                )
        chosen_rows = select(
            tables.table("prompts", prompts),
            tables.table("rollout", rollouts),
            tables.table("verdicts", verdicts),
            SelectSection(),
            number + 1,
            0,
        )
        path = folder / f"batch-{number + 1}.parquet"
        files.append(written(chosen_rows.batch, path))
    return files


@torch.no_grad()
def scored(policy: Any, prompts: list[list[int]], responses: list[list[int]]) -> list[Any]:
    rows = [Row(np.array(p), np.array(r)) for p, r in zip(prompts, responses, strict=True)]
    micro = collate(rows, 0, torch.device("cpu"))
    flat, _ = policy(micro.tokens_BS, micro.predictors_N, micro.targets_N, entropy=False)
    return [part.tolist() for part in flat.split([len(r) for r in responses])]


def join(rank: int, ranks: int, port: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "DS_ACCELERATOR": "cpu"}
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(verbose=False)


def on_rank(rank: int, port: int, small: Path, cases: list[Case], folder: Path) -> None:
    """One of two processes; both do all cases."""
    torch.set_num_threads(1)
    join(rank, 2, port)
    for number, (files, loss, settings) in enumerate(cases):
        # The last case: blocks of the small vocabulary, so that ZeRO-3 gathers the head again.
        logprobs.BLOCK_BYTES = 20_000 if number == len(cases) - 1 else 1 << 26
        steps = train(small, files, folder / str(number), loss, **settings)
        if rank == 0:
            torch.save((steps.metrics, steps.weights, steps.tokens), folder / f"{number}.pt")
    dist.destroy_process_group()


def moments(trainer: Trainer) -> list[torch.Tensor]:
    """Adam's, wherever DeepSpeed keeps them."""
    optimizer = trainer.engine.optimizer
    inner = getattr(optimizer, "optimizer", optimizer)
    return [
        value.clone()
        for state in inner.state.values()
        for name, value in sorted(state.items())
        if name.startswith("exp_avg")
    ]


def require_read_and_not_executed(
    small: Path, stored: list[Path], folder: Path, **settings: Any
) -> None:
    """A state that is loaded and saved again is the same to the byte, so that a resumed run's
    states are those of an undisturbed one; a pickle planted in any of its files is refused."""
    from deepspeed.runtime.zero.partition_parameters import Init

    section = UpdateSection(**{**SETTINGS, **settings})

    def fresh() -> Trainer:
        Init.param_id = 0  # of ZeRO-3's parameters: counted in a process, and saved
        return Trainer(small / "base", PLAIN, section, 1.0)

    subject, state, again = fresh(), folder / "state", folder / "again"
    update(subject, stored[:1], folder / "first")
    subject.save(Save(out=state, state_id="state-1", restore=NOWHERE))
    resumed = fresh()
    resumed.save(Save(out=again, state_id="state-1", restore=Restore(folder=state, replay=[])))
    files = sorted((state / "deepspeed").iterdir())
    for file in files:
        assert sha256_file(again / "deepspeed" / file.name) == sha256_file(file), file.name

    onwards = Restore(folder=state, replay=[Replay(iteration=2, batch=[stored[1]])])
    for file in files:
        whole, proof = file.read_bytes(), folder / "executed"
        torch.save({"module": Planted(proof)}, file)
        with pytest.raises(ValueError, match=f"{file.name}: holds more than a trainer's state"):
            resumed.save(Save(out=folder / "out", state_id="state-2", restore=onwards))
        assert not proof.exists()
        file.write_bytes(whole)
