"""The parts of `benchmarks.gpu`, each a function of a folder of its own that gives figures.

Without a GPU a part runs with a small model and short responses.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from icpo_core.capacity import memory
from icpo_core.capacity.machine import GIB, Machine, here
from icpo_core.common.files import read_json, write_json
from icpo_core.config import Config, EngineSection, UpdateSection, load
from icpo_core.models.architecture import KNOWN, shape_of
from icpo_core.models.flops import training_flops, utilization
from icpo_core.run import metrics
from icpo_core.store.paths import RunPaths
from icpo_core.store.store import Store
from icpo_core.workers import devices
from icpo_core.workers.launcher import free_port

ROOT = Path(__file__).resolve().parent.parent
DEMO, SMALL = ROOT / "configs" / "demo.toml", ROOT / "data" / "small"
GPU = bool(devices.visible())
DTYPE = "bfloat16" if GPU else "float32"
RESPONSE = 2048 if GPU else 48
"""Tokens of a response in `long`, which no model ends by itself."""
PROMPTS, GROUP = (32, 8) if GPU else (4, 4)
STEPS = 3
KILLED_AFTER = ("prompts", "rollout", "verify", "select", "update")
COIN = '''"""A reward that any text may get: half of all."""


def coin(response, answer, row):
    return sum(map(ord, response)) % 2
'''
Figures = dict[str, Any]


def big_model(folder: Path) -> Path:
    """Random weights in the shape of Qwen3-0.6B (without a GPU: tiny), whose tokenizer has a token
    for every id, so that a response ends at its limit and nowhere else."""
    import torch
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    from icpo.data.base_model import CHARACTERS, EOS, PAD, UNK

    shape = KNOWN["Qwen/Qwen3-0.6B"]
    size = shape.vocabulary if GPU else 2000
    known = [PAD, EOS, UNK, *CHARACTERS]
    words = [*known, *(f"word{number} " for number in range(size - len(known)))]
    core = Tokenizer(models.BPE(vocab={w: at for at, w in enumerate(words)}, merges=[]))
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=PAD, eos_token=EOS, unk_token=UNK, padding_side="left"
    )
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=size,
        hidden_size=shape.width if GPU else 128,
        intermediate_size=shape.ffn if GPU else 256,
        num_hidden_layers=shape.layers if GPU else 2,
        num_attention_heads=shape.heads if GPU else 4,
        num_key_value_heads=shape.kv_heads if GPU else 2,
        head_dim=shape.head if GPU else 32,  # vLLM on the CPU has no smaller
        max_position_embeddings=shape.positions,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    model: Any = Qwen3ForCausalLM(config)
    model.to(getattr(torch, DTYPE)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def other_weights(model: Path, folder: Path) -> Path:
    """The model with every weight a little larger."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    moved: Any = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
    for value in moved.parameters():
        value.data.mul_(1.02)
    moved.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return folder


def used_gib() -> float:
    """Memory in use on the first device; without a GPU, of this process."""
    if not GPU:
        return float(psutil.Process().memory_info().rss / GIB)
    import torch

    free, whole = torch.cuda.mem_get_info()
    return (whole - free) / GIB


def machine(_: Path) -> Figures:
    """Devices, drivers and versions, as `icpo doctor` finds them."""
    from icpo_core.capacity import doctor

    there = here(Path.cwd())
    found = list(doctor.check_machine(there))
    return {
        "machine": there.model_dump(),
        "findings": [f"{one.level} {one.what}: {one.said}" for one in found],
        "failures": sum(one.level is doctor.Level.FAIL for one in found),
    }


def engine(folder: Path) -> Figures:
    """The engine starts, takes other weights, is proven to hold them, and gives memory back."""
    from icpo_core.common.files import model_digest
    from icpo_core.engine.kinds.base import Request, require_alike
    from icpo_core.engine.kinds.vllm import VllmEngine

    model = big_model(folder / "model") if GPU else SMALL / "base"
    other = other_weights(model, folder / "other")
    section = EngineSection(
        dtype=DTYPE, max_model_len=RESPONSE + 128 if GPU else 256, cpu_kv_cache_gib=1,
        gpu_memory_utilization=0.5,
    )  # fmt: skip
    started = time.monotonic()
    engine = VllmEngine(model, section, 0, sleeps=True)
    found: Figures = {"start_seconds": time.monotonic() - started, "awake_gib": used_gib()}
    requests = [Request(list(range(3, 30)), seed) for seed in range(64)]
    started = time.monotonic()
    done = engine.sample(requests, 1.0, 128 if GPU else 16)
    tokens = sum(len(one.response_ids) for one in done)
    found["tokens_per_second"] = tokens / (time.monotonic() - started)
    found["reload_seconds"] = engine.load(other, model_digest(other))
    compared = require_alike(engine, other)
    stale = engine.compare(model)
    assert compared is not None
    found |= {"tensors_alike": compared.tensors, "tensors_unread": len(compared.unread)}
    found["stale_told"] = bool(stale.other)
    if GPU:
        engine.sleep()
        found["asleep_gib"] = used_gib()
        found["wake_seconds"] = engine.load(model, model_digest(model))
    return found


def update(folder: Path) -> Figures:
    """Optimizer steps in each layout, which proves itself at its start, and deterministic ones;
    memory by the estimate."""
    found: Figures = {}
    for name, changes in (
        ("default", {}),
        ("packed", {"packing": True}),
        ("padded", {"packing": False}),
        ("deterministic", {"deterministic": True}),
    ):
        section = UpdateSection.model_validate({"dtype": DTYPE, **changes})
        found[name] = _steps(folder, section)
    found["deterministic_costs"] = found["deterministic"]["seconds"] / found["default"]["seconds"]
    return found


def zero(folder: Path) -> Figures:
    """ZeRO 2, optimizer on the host, and LoRA."""
    read = {
        name: read_json(ROOT / f"configs/deepspeed/{name}.json") for name in ("zero2", "offload")
    }
    found: Figures = {}
    for name, changes in (
        ("zero2", {"deepspeed": read["zero2"]}),
        ("offload", {"deepspeed": read["offload"]}),
        ("lora", {"lora": {"rank": 32}}),
    ):
        section = UpdateSection.model_validate({"dtype": DTYPE, **changes})
        try:
            found[name] = _steps(folder, section)
        except (ValueError, RuntimeError, OSError) as error:
            found[name] = {"failed": str(error).splitlines()[0][:300]}
    return found


def _steps(folder: Path, section: UpdateSection) -> Figures:
    """Seconds of a step on stored rows, peak memory beside the estimate, and MFU, in a process of
    its own: what one layout left in memory must not count for the next."""
    out = folder / "steps.json"
    words = [sys.executable, "-m", "benchmarks.gpu_parts", section.model_dump_json(), str(out)]
    done = subprocess.run(words, cwd=ROOT, env=alone(), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr else "no word")
    return dict(read_json(out))


def steps(section: UpdateSection, out: Path) -> None:
    """The body of `_steps`."""
    import deepspeed
    import torch

    from benchmarks.update import batch
    from icpo_core.config import LossSection
    from icpo_core.store import tables
    from icpo_core.trainer.microbatches import rows_of
    from icpo_core.trainer.process import make_deterministic
    from icpo_core.trainer.trainer import Trainer

    if section.deterministic:
        make_deterministic()

    if not GPU:
        os.environ["DS_ACCELERATOR"] = "cpu"
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = str(free_port())
    deepspeed.init_distributed(verbose=False)
    with tempfile.TemporaryDirectory() as name:
        model = big_model(Path(name) / "model") if GPU else SMALL / "base"
        rows = rows_of(tables.read("batch", batch(Path(name))))
        if GPU:  # the same rows with responses as long as a real model's
            rows = [_lengthened(row) for row in rows]
        trainer = Trainer(model, LossSection(kl="off"), section, 1.0)
        trainer._step(rows, 1)
        if GPU:
            torch.cuda.reset_peak_memory_stats()
        times = []
        for _ in range(STEPS):
            started = time.monotonic()
            trainer._step(rows, 1)
            if GPU:
                torch.cuda.synchronize()
            times.append(time.monotonic() - started)
    seconds = sorted(times)[len(times) // 2]
    shape = shape_of(str(model)) if model.is_dir() else KNOWN["Qwen/Qwen3-0.6B"]
    sizes = [(row.length, row.length, len(row.response_ids)) for row in rows]
    peak = torch.cuda.max_memory_allocated() / GIB if GPU else _highest_gib()
    name = torch.cuda.get_device_name() if GPU else "cpu"
    config = load(DEMO, ["loss.kl=off"]).model_copy(update={"update": section})
    found = {
        "layout": str(trainer.layout),
        "note": trainer.layout_note,
        "seconds": seconds,
        "tokens_per_second": sum(row.length for row in rows) / seconds,
        "mfu": utilization(training_flops(shape, sizes), seconds, name, 1),
        "peak_gib": peak,
        "estimated_gib": _estimated(config, shape, rows),
    }
    write_json(out, found)


def _lengthened(row: Any) -> Any:
    import numpy as np

    ids = np.resize(row.response_ids, RESPONSE)
    return type(row)(**{**vars(row), "response_ids": ids, "behaviour_logprobs": None})


def _estimated(config: Config, shape: Any, rows: Sequence[Any]) -> float:
    """What `icpo doctor` would say of these rows."""
    there: Machine = here(Path.cwd())
    prompt = sum(len(row.prompt_ids) for row in rows) / len(rows)
    response = sum(len(row.response_ids) for row in rows) / len(rows)
    known = {"prompt_tokens": prompt, "response_tokens": response}
    there = there.model_copy(update={"rates": there.rates.model_copy(update=known)})
    parts = memory.trainer_memory(shape, config, there, 1)
    process = 0 if GPU else memory.TRAINER_PROCESS
    return (sum(parts.values()) + process) / GIB


def _highest_gib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / GIB


def deterministic(folder: Path) -> Figures:
    """Two runs of the demo with one seed and both switches: same rollouts and weights, or by how
    much they differ; and one without, for what they cost."""
    changes = ["run.iterations=2", "evaluate.every=0", *_sized()]
    switched = [*changes, "rollout.deterministic=true", "update.deterministic=true"]
    first, second = (_train(folder, name, switched) for name in ("one", "two"))
    plain = _train(folder, "plain", changes)
    same = {
        f"{stage} {number}": _content(first, stage, number) == _content(second, stage, number)
        for number in (1, 2)
        for stage in ("rollout", "update")
    }
    rewards = [[row.get("reward/on_policy") for row in metrics.read(p)] for p in (first, second)]
    seconds = {
        f"{stage}_costs": metrics.read(second)[-1][f"seconds/{stage}"]
        / metrics.read(plain)[-1][f"seconds/{stage}"]
        for stage in ("rollout", "update")
    }
    return {"same": same, "all": all(same.values()), "rewards": rewards, **seconds}


def demo(folder: Path) -> Figures:
    """The demo's accuracies on this machine."""
    last = 20 if GPU else 1
    changes = [f"run.iterations={last}", f"evaluate.every={max(1, last // 2)}"]
    paths = _train(folder, "demo", changes if GPU else [*changes, "evaluate.at_start=false"])
    rows = metrics.read(paths)
    return {
        f"accuracy at {row['iteration']:.0f}": row["accuracy/heldout"]
        for row in rows
        if "accuracy/heldout" in row
    } | {"seconds_an_iteration": _seconds(rows)}


def long(folder: Path) -> Figures:
    """Iterations of Qwen3-0.6B's shape with responses that all run to their limit."""
    (folder / "coin.py").write_text(COIN)
    model = big_model(folder / "model")
    changes = [
        f"model.path={model}", "run.iterations=3", "evaluate.every=0", "preset=grpo",
        f"verify.verifier={folder}/coin.py:coin", f"prompts.batch_size={PROMPTS}",
        f"rollout.on_policy={GROUP}", f"rollout.max_tokens={RESPONSE}",
        f"rollout.engine.max_model_len={RESPONSE + 128}", f"rollout.engine.dtype={DTYPE}",
        f"update.dtype={DTYPE}", "update.learning_rate=1e-6", "prompts.max_tokens=128",
    ]  # fmt: skip
    rows = metrics.read(_train(folder, "long", changes))
    last = rows[-1]
    named = (
        "seconds/",
        "tokens_per_second/",
        "mfu",
        "idle/",
        "length/",
        "engine_gap/",
        "truncated",
    )
    return {name: value for name, value in last.items() if name.startswith(named)}


def resume(folder: Path) -> Figures:
    """Killed without warning after each of five stages, gone on with, and compared with a run that
    nobody disturbed."""
    changes = ["run.iterations=2", "evaluate.every=0", *_sized()]
    whole = _train(folder, "whole", changes)
    struck = RunPaths(folder / "struck")
    found: Figures = {}
    for stage in KILLED_AFTER:
        process = subprocess.Popen(
            _words(folder, "struck", changes), cwd=ROOT, env=alone(), start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        manifest = struck.manifest(stage, 1)
        while not manifest.is_file() and process.poll() is None:
            time.sleep(0.02)
        found[f"killed after {stage}"] = process.poll() is None
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    _train(folder, "struck", changes)
    same = [_content(p, "update", 2) for p in (whole, struck)]
    return found | {"same_weights": same[0] == same[1]}


# --- runs of the demo -------------------------------------------------------------------------


def alone() -> dict[str, str]:
    """The environment without ranks, and with this checkout first."""
    ranks = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    kept = {name: value for name, value in os.environ.items() if name not in ranks}
    return kept | {"PYTHONPATH": os.pathsep.join([str(ROOT), kept.get("PYTHONPATH", "")])}


def _sized() -> list[str]:
    return [] if GPU else ["prompts.batch_size=4", "rollout.max_tokens=48"]


def _words(folder: Path, name: str, changes: Sequence[str]) -> list[str]:
    words = [sys.executable, "-m", "icpo", "train", str(DEMO), "--plain", "--run", name]
    for change in [*changes, f"run.directory={folder}", "run.trackers=[]"]:
        words += ["-o", change]
    return words


def _train(folder: Path, name: str, changes: Sequence[str]) -> RunPaths:
    """A run of the demo that ends. Raises RuntimeError with its last line if it does not."""
    done = subprocess.run(
        _words(folder, name, changes), cwd=ROOT, env=alone(), capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{name}: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
    return RunPaths(folder / name)


def _content(paths: RunPaths, stage: str, iteration: int) -> Any:
    """What a stage made: the weights' digest, or that of its tables."""
    found = Store(paths).manifest(stage, iteration)
    assert found is not None, f"{stage} of iteration {iteration} is missing"
    return found.policy_version if stage == "update" else found.content()


def _seconds(rows: Sequence[dict[str, float]]) -> float:
    last = rows[-1]
    return sum(value for name, value in last.items() if name.startswith("seconds/"))


if __name__ == "__main__":
    steps(UpdateSection.model_validate_json(sys.argv[1]), Path(sys.argv[2]))
