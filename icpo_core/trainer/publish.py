"""Published weights: a Hugging Face model folder, and the probe by which an engine proves it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from icpo_core.common.files import weight_digests, write_json
from icpo_core.config import LoraSection
from icpo_core.models.folder import TOKENIZER_FILES
from icpo_core.store import tables
from icpo_core.trainer import lora
from icpo_core.trainer.microbatches import Layout, Row, collate

SHARD_SIZE = "1GB"
"""So that a large model's files are hashed side by side."""
PROBE_ROWS, PROBE_TOKENS = 8, 128


def publish(
    engine: Any, base: Path, folder: Path, dtype: str, adapter: LoraSection
) -> dict[str, str]:
    """Write the policy of a DeepSpeed engine as a model folder; sha256 of its weight files by name.

    Every rank takes part, rank 0 writes. What is not weights comes from the `base` folder. An
    adapter lies below it, too, by itself.
    """
    model = engine.module.model
    weights = _gathered(engine, model)
    written: list[dict[str, str]] = [{}]
    if dist.get_rank() == 0:
        from huggingface_hub import save_torch_state_dict

        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        save_torch_state_dict(weights, folder, max_shard_size=SHARD_SIZE)
        config = {**model.config.to_dict(), "dtype": dtype}
        write_json(folder / "config.json", config, durable=False)
        for name in ("generation_config.json", *TOKENIZER_FILES):
            if (base / name).is_file():
                # Not a link: who edits the base model's file would edit every checkpoint's.
                shutil.copyfile(base / name, folder / name)
        if adapter.rank:
            lora.write(model, folder / lora.FOLDER, adapter)
        written = [weight_digests(folder)]
    if dist.get_world_size() > 1:
        dist.broadcast_object_list(written)
    return written[0]


def _gathered(engine: Any, model: torch.nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers on the CPU, on rank 0, under their published names,
    adapters merged; a weight that two layers share comes once."""
    kept = model.state_dict(keep_vars=True).keys()
    buffers = [(name, buffer) for name, buffer in model.named_buffers() if name in kept]
    shared_once = [*model.named_parameters(), *buffers]
    if engine.zero_optimization_stage() < 3:
        # Copies: DeepSpeed may have made them views of one flat tensor.
        named = lora.published(model, shared_once)
        return {name: value.detach().to("cpu", copy=True) for name, value in named}
    import deepspeed

    weights = {}
    for name, value in shared_once:
        with deepspeed.zero.GatheredParameters([value], modifier_rank=None):
            if dist.get_rank() == 0:
                weights[name] = value.detach().to("cpu", copy=True)
    return weights


@torch.no_grad()
def write_probe(
    engine: Any, rows: list[Row], pad_id: int, file: Path, layout: Layout = Layout.PADDED
) -> None:
    """Sequences of the batch and their logprobs at temperature 1 under the weights in `engine`."""
    # Different prompts as far as there are any, and then what is left.
    there = [row for row in rows if row.length]
    first: dict[bytes, Row] = {}
    for row in there:
        first.setdefault(row.prompt_ids.tobytes(), row)
    taken = {id(row) for row in first.values()}
    chosen = [*first.values(), *(row for row in there if id(row) not in taken)][:PROBE_ROWS]
    sequences = [np.concatenate([r.prompt_ids, r.response_ids])[:PROBE_TOKENS] for r in chosen]
    sequences = sequences or [np.arange(min(16, engine.module.model.config.vocab_size))]
    whole = [Row(ids[:1], ids[1:]) for ids in sequences]
    batches = [[row] for row in whole] if layout is Layout.ALONE else [whole]
    parts: list[Tensor] = []
    for batch in batches:
        micro = collate(batch, pad_id, engine.device)
        logprobs_N, _ = engine(**micro.inputs, temperature=1.0, entropy=False)
        parts += logprobs_N.cpu().split([len(row.response_ids) for row in batch])
    if dist.get_rank() == 0:
        table = [
            {"token_ids": ids.tolist(), "logprobs": part.tolist()}
            for ids, part in zip(sequences, parts, strict=True)
        ]
        tables.write("probe", tables.table("probe", table), file)
