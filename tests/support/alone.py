"""Rows for a model, and what it says of each by itself."""

from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from icpo_core.trainer.microbatches import Row


def rows() -> list[Row]:
    """Some with one prompt, not side by side."""
    chance = np.random.default_rng(0)
    prompts = [chance.integers(3, 50, size) for size in (5, 1, 9, 3)]
    sizes = [(0, 7), (1, 1), (0, 4), (2, 2), (3, 12), (1, 6), (0, 1), (3, 5)]
    return [Row(prompts[which], chance.integers(3, 50, size)) for which, size in sizes]


def one_by_one(model: PreTrainedModel, temperature: float = 1.0) -> torch.Tensor:
    """Each row by itself, through the model's own forward."""
    told = []
    for row in rows():
        ids = torch.tensor(np.concatenate([row.prompt_ids, row.response_ids]))
        logits = model(ids[None]).logits[0].float() / temperature
        logprobs = logits.log_softmax(-1)[:-1].gather(1, ids[1:, None]).squeeze(1)
        told.append(logprobs[len(row.prompt_ids) - 1 :])
    return torch.cat(told)


@torch.no_grad()
def saved(model: PreTrainedModel, folder: Path) -> Path:
    """With weights of a size that tells: the initial ones are too small."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=0.2)
    model.save_pretrained(folder)
    return folder
