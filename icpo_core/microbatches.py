"""Rows into micro-batches of a token budget, and micro-batches over ranks.

Legend: B rows of a micro-batch, S tokens of prompt and response, T tokens of the response.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Row:
    """One sequence of the update."""

    prompt_ids: np.ndarray
    response_ids: np.ndarray
    behaviour_logprobs: np.ndarray | None
    advantage: float
    expert: bool
    group: str
    """prompt_id: a mini-batch is made of whole groups."""

    @property
    def length(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids)


@dataclass(frozen=True)
class MicroBatch:
    """Right-padded rows; padding is known by position, since the pad id may be the EOS id."""

    rows: list[Row]
    tokens_BS: Tensor
    mask_BT: Tensor
    """1 on response tokens."""
    predictors: Tensor
    """Flat indices into [B * S] of the positions that predict the response tokens, row by row."""
    targets: Tensor
    """The response tokens, in the same order."""

    @property
    def padding_share(self) -> float:
        return 1 - sum(row.length for row in self.rows) / self.tokens_BS.numel()

    def spread(self, flat: Tensor) -> Tensor:
        """Values of the response tokens, in order, as [B, T] with zeros elsewhere."""
        spread_BT = torch.zeros(self.mask_BT.shape, dtype=flat.dtype, device=flat.device)
        return spread_BT.masked_scatter(self.mask_BT.bool(), flat)


def plan(lengths: Sequence[int], budget: int, ranks: int) -> list[list[list[int]]]:
    """Indices of the rows of each micro-batch of each rank: `plan[rank][micro_batch]`.

    Rows go to the rank with the fewest tokens so far, longest first, and are then cut into
    micro-batches of rows × longest <= budget. Every rank gets equally many micro-batches, some of
    them empty if need be, since ranks must meet at each one. A row longer than the budget stands
    alone.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    shares: list[list[int]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for index in order:
        rank = loads.index(min(loads))
        shares[rank].append(index)
        loads[rank] += lengths[index]
    cut: list[list[list[int]]] = []
    for share in shares:
        batches: list[list[int]] = []
        for index in share:
            longest = lengths[batches[-1][0]] if batches else 0
            if batches and longest * (len(batches[-1]) + 1) <= budget:
                batches[-1].append(index)
            else:
                batches.append([index])
        cut.append(batches)
    most = max(1, *(len(batches) for batches in cut))
    return [batches + [[] for _ in range(most - len(batches))] for batches in cut]


def collate(rows: list[Row], pad_id: int, device: torch.device) -> MicroBatch:
    """Pad rows to the longest. An empty list makes a micro-batch of one padding token."""
    longest = max((row.length for row in rows), default=1)
    longest_response = max((len(row.response_ids) for row in rows), default=1)
    count = max(1, len(rows))
    tokens = np.full((count, longest), pad_id, dtype=np.int64)
    mask = np.zeros((count, longest_response), dtype=np.float32)
    predictors, targets = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for index, row in enumerate(rows):
        prompt, response = len(row.prompt_ids), len(row.response_ids)
        tokens[index, :prompt] = row.prompt_ids
        tokens[index, prompt : prompt + response] = row.response_ids
        mask[index, :response] = 1.0
        first = index * longest + prompt - 1
        predictors.append(np.arange(first, first + response))
        targets.append(np.asarray(row.response_ids, dtype=np.int64))
    return MicroBatch(
        rows,
        torch.from_numpy(tokens).to(device),
        torch.from_numpy(mask).to(device),
        torch.from_numpy(np.concatenate(predictors)).to(device),
        torch.from_numpy(np.concatenate(targets)).to(device),
    )
