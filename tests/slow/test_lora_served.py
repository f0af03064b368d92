"""`rollout.lora = adapter`: a real engine with the base model, and adapters beside it."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer
from vllm_servers import serving

from icpo.data.arithmetic import bare_prompt
from icpo_core.common.files import link_or_copy, model_digest
from icpo_core.config import EngineSection, LoraSection
from icpo_core.engine.kinds.base import Request
from icpo_core.engine.kinds.server import ServedEngine
from icpo_core.engine.kinds.vllm import VllmEngine
from icpo_core.method.problems import read_problems
from icpo_core.store import tables
from icpo_core.trainer import lora
from icpo_core.trainer.microbatches import Row, collate
from icpo_core.trainer.policy import Policy, load_policy

SETTINGS = LoraSection(rank=4, alpha=8)
TOLERANCE = 1e-4


@torch.no_grad()
def said(policy: Policy, sequences: list[list[int]]) -> list[list[float]]:
    rows = [Row(np.array(ids[:1]), np.array(ids[1:])) for ids in sequences]
    micro = collate(rows, 0, torch.device("cpu"))
    flat, _ = policy(micro.tokens_BS, micro.predictors_N, micro.targets_N)
    return [part.tolist() for part in flat.split([len(ids) - 1 for ids in sequences])]


@torch.no_grad()
def published(
    policy: Policy, base: Path, folder: Path, seed: int, sequences: list[list[int]]
) -> Path:
    """The policy with another adapter, as the trainer publishes it; its proof."""
    chance = torch.Generator().manual_seed(seed)
    for name, value in policy.named_parameters():
        if "lora_B" in name:
            value.copy_(0.05 * torch.randn(value.shape, generator=chance))
    folder.mkdir()
    merged = dict(lora.published(policy.model, list(policy.model.named_parameters())))
    save_file({name: value.clone() for name, value in merged.items()}, folder / "model.safetensors")
    for file in base.glob("*.json"):
        if file.name != "recipe.json":
            link_or_copy(file, folder / file.name)
    lora.write(policy.model, folder / lora.FOLDER, SETTINGS)
    rows = [
        {"token_ids": ids, "logprobs": logprobs}
        for ids, logprobs in zip(sequences, said(policy, sequences), strict=True)
    ]
    tables.write("probe", tables.table("probe", rows), folder / "probe.parquet")
    return folder / "probe.parquet"


def test_an_engine_holds_each_adapter_and_the_base_model_again(small: Path, tmp_path: Path) -> None:
    os.environ |= {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    section = EngineSection(dtype="float32", max_model_len=512, cpu_kv_cache_gib=1)
    require_held(VllmEngine(small / "base", section, 0, lora=SETTINGS), small, tmp_path)


def test_a_server_holds_each_adapter_and_the_base_model_again(small: Path, tmp_path: Path) -> None:
    section = EngineSection(dtype="float32", max_model_len=256)
    words = ["--enable-lora", "--max-lora-rank", "8", "--max-loras", "1"]
    words += ["--lora-target-modules", *SETTINGS.target_modules]
    with serving(tmp_path, small / "base", 1, *words) as [server]:
        engine = ServedEngine(server.address, small / "base", section, SETTINGS)
        engine.load(small / "base", model_digest(small / "base"))
        require_held(engine, small, tmp_path)


def require_held(engine: VllmEngine | ServedEngine, small: Path, tmp_path: Path) -> None:
    """It samples from, and proves, one adapter after another and the base model again."""
    base = small / "base"
    tokenizer = AutoTokenizer.from_pretrained(base)
    texts = read_problems(str(small / "train.parquet"))["problem"].to_pylist()[:8]
    prompts = tokenizer([bare_prompt(one) for one in texts])["input_ids"]
    policy = load_policy(base, torch.float32, 1.0, lora=SETTINGS)

    def gap() -> float:
        samples = engine.sample([Request(ids, 3) for ids in prompts], 1.0, 32)
        whole = [ids + one.response_ids for ids, one in zip(prompts, samples, strict=True)]
        told = said(policy, whole)
        tails = [one[-len(sample.logprobs) :] for one, sample in zip(told, samples, strict=True)]
        return max(
            float(np.abs(np.array(one.logprobs) - np.array(tail)).max())
            for one, tail in zip(samples, tails, strict=True)
        )

    assert gap() <= TOLERANCE
    for number in (1, 2):
        folder = tmp_path / str(number)
        proof = published(policy, base, folder, number, prompts)
        with pytest.raises(ValueError, match="does not hold the weights"):
            engine.prove(proof, None)
        engine.load(folder, model_digest(folder))
        assert float(engine.prove(proof, None)) <= TOLERANCE
        assert gap() <= TOLERANCE
        compared = engine.compare(folder)
        assert compared is not None
        assert (compared.other, compared.unread) == ([], ["adapter"])
        assert compared.tensors > 20
    with lora.switched_off(policy):
        engine.load(base, model_digest(base))
        assert gap() <= TOLERANCE
    bare = tmp_path / "2" / "bare"
    (tmp_path / "2" / lora.FOLDER).rename(bare)
    with pytest.raises(ValueError, match=r"has no adapter .*rollout\.lora = merged"):
        engine.load(tmp_path / "2", model_digest(tmp_path / "2"))
