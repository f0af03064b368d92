"""What the bare prompt gave each token of an expert rollout, as its loss took it: for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor

from icpo_core.store import tables
from icpo_core.trainer.microbatches import Row


class ExpertTokens:
    """Logprobs of the expert rows of one iteration; they stay on the device until written."""

    def __init__(self) -> None:
        self._parts: dict[int, Tensor] = {}

    def add(self, rows: list[Row], members: list[int], logprobs_BT: Tensor) -> None:
        """Those of one micro-batch, `members` of `rows`, before its step."""
        for place, index in enumerate(members):
            if rows[index].expert:
                tokens = len(rows[index].response_ids)
                self._parts[index] = logprobs_BT[place, :tokens].detach().clone()

    def write(self, rows: list[Row], file: Path, fingerprint: str) -> None:
        """One row an expert rollout that had a part in the loss, in the order of `rows`; no file if
        none had. All ranks call it."""
        found: dict[int, Any] = {i: part.float().cpu().numpy() for i, part in self._parts.items()}
        if dist.get_world_size() > 1:
            everyone: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(everyone, found)
            found = {i: part for one in everyone for i, part in one.items()}
        if not found or dist.get_rank():
            return
        written = [
            {
                "prompt_id": rows[i].group,
                "sample_index": rows[i].index,
                "origin": str(rows[i].origin),
                "logprobs": found[i],
            }
            for i in sorted(found)
        ]
        tables.write("expert_tokens", tables.table("expert_tokens", written), file, fingerprint)
