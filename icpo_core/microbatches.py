"""Rows into micro-batches of a token budget, and micro-batches over ranks.

Legend: B rows of a micro-batch, S tokens of prompt and response but the last, which predicts
nothing, T tokens of the response, N all response tokens of a micro-batch, row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from icpo_core.schemas import Origin

MICRO_BATCH_COST = 128
"""What one more micro-batch costs, in tokens: so much padding is put up with to save one. Measured
on the small model; a large model on a GPU puts up with more, but has larger micro-batches."""

Numbers = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Row:
    """One sequence of the update."""

    prompt_ids: Numbers
    response_ids: Numbers
    behaviour_logprobs: Numbers | None = None
    advantage: float = 0.0
    expert: bool = False
    group: str = ""
    """prompt_id: a mini-batch is made of whole groups."""

    @property
    def length(self) -> int:
        """Tokens that the model is shown: all but the last."""
        return len(self.prompt_ids) + len(self.response_ids) - 1


@dataclass(frozen=True)
class MicroBatch:
    """Rows as tensors: right-padded, or packed one behind another into one long row.

    What is a response is known by position, since the pad id may be the EOS id. Packed rows are
    told apart by `positions_BS`, which begin at 0 with each of them; padded ones need none.
    """

    tokens_BS: Tensor
    positions_BS: Tensor | None
    predictors_N: Tensor
    """Flat indices into [B * S] of the positions that predict the response tokens."""
    targets_N: Tensor
    mask_BT: Tensor
    behaviour_BT: Tensor
    known_B: Tensor
    """Rows whose behaviour logprobs are known."""
    advantages_B: Tensor
    expert_B: Tensor

    def spread(self, values_N: Tensor) -> Tensor:
        """Values of the response tokens as [B, T] with zeros elsewhere."""
        zeros_BT = torch.zeros(self.mask_BT.shape, dtype=values_N.dtype, device=values_N.device)
        return zeros_BT.masked_scatter(self.mask_BT, values_N)


def rows_of(batch: pa.Table) -> list[Row]:
    """The rows of a `batch` table, as views into its columns."""
    experts = [origin != Origin.ON_POLICY for origin in batch["origin"].to_pylist()]
    columns = zip(
        _lists(batch["prompt_ids"]),
        _lists(batch["response_ids"]),
        _lists(batch["behaviour_logprobs"]),
        batch["advantage"].to_pylist(),
        experts,
        batch["prompt_id"].to_pylist(),
        strict=True,
    )
    rows = []
    for prompt, response, behaviour, advantage, expert, group in columns:
        assert prompt is not None
        assert response is not None
        rows.append(Row(prompt, response, behaviour, advantage, expert, group))
    return rows


def _lists(column: pa.ChunkedArray) -> list[Numbers | None]:
    array = column.combine_chunks()
    values, offsets = array.values.to_numpy(), array.offsets.to_numpy()
    valid = array.is_valid().to_pylist()
    return [
        values[first:last] if there else None
        for first, last, there in zip(offsets[:-1], offsets[1:], valid, strict=True)
    ]


def plan(
    lengths: Sequence[int], budget: int, ranks: int, packed: bool = False
) -> list[list[list[int]]]:
    """Indices of the rows of each micro-batch of each rank: `plan[rank][micro_batch]`.

    Rows go to the rank with the fewest tokens so far, longest first. A rank's rows are then cut
    into micro-batches of at most `budget` tokens with their padding, and of less where another
    micro-batch costs less than the padding it saves. Every rank gets equally many, some of them
    empty if need be, since ranks must meet at each one. A row longer than the budget stands alone.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    shares: list[list[int]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for index in order:
        rank = loads.index(min(loads))
        shares[rank].append(index)
        loads[rank] += lengths[index]
    cut = [_cut(share, lengths, budget, packed) for share in shares]
    most = max(1, *(len(batches) for batches in cut))
    return [batches + [[] for _ in range(most - len(batches))] for batches in cut]


def _cut(share: list[int], lengths: Sequence[int], budget: int, packed: bool) -> list[list[int]]:
    batches: list[list[int]] = []
    size = padding = 0  # tokens of the last batch, with padding and of padding
    for index in share:
        length = lengths[index]
        longest = length if packed or not batches else lengths[batches[-1][0]]
        padding += longest - length
        if batches and size + longest <= budget and padding <= MICRO_BATCH_COST:
            batches[-1].append(index)
            size += longest
        else:
            batches.append([index])
            size, padding = length, 0
    return batches


def padding_share(lengths: Sequence[int], batches: Sequence[Sequence[int]]) -> float:
    """Share of padding in the tokens of padded micro-batches."""
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches if batch)
    return 1.0 - sum(lengths[i] for batch in batches for i in batch) / max(1, padded)


def collate(
    rows: Sequence[Row], pad_id: int, device: torch.device, packed: bool = False
) -> MicroBatch:
    """Make the tensors. Without rows it is a micro-batch of one padding token and no response."""
    prompts = np.array([len(row.prompt_ids) for row in rows], dtype=np.int64)
    responses = np.array([len(row.response_ids) for row in rows], dtype=np.int64)
    assert prompts.all(), "a response token is predicted by the token before it"
    assert responses.all()
    lengths = prompts + responses - 1
    count, longest = max(1, len(rows)), int(lengths.max(initial=1))
    width = int(lengths.sum()) if packed and rows else longest
    starts = lengths.cumsum() - lengths if packed else np.arange(len(rows)) * longest
    tokens = np.full((1 if packed else count) * width, pad_id, dtype=np.int64)
    positions = np.zeros_like(tokens)
    mask = np.zeros((count, int(responses.max(initial=1))), dtype=bool)
    behaviour = np.zeros(mask.shape, dtype=np.float32)
    predictors, targets = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for index, (row, start) in enumerate(zip(rows, starts.tolist(), strict=True)):
        prompt, response, end = int(prompts[index]), int(responses[index]), start + row.length
        tokens[start : start + prompt] = row.prompt_ids
        tokens[start + prompt : end] = row.response_ids[:-1]
        positions[start:end] = np.arange(row.length)
        mask[index, :response] = True
        if row.behaviour_logprobs is not None:
            behaviour[index, :response] = row.behaviour_logprobs
        predictors.append(np.arange(start + prompt - 1, end))
        targets.append(row.response_ids.astype(np.int64))
    shape = (1, width) if packed else (count, width)

    def put(array: Numbers) -> Tensor:
        return torch.from_numpy(array).to(device, non_blocking=True)

    blank = rows or [Row(tokens[:0], tokens[:0])]
    return MicroBatch(
        tokens_BS=put(tokens.reshape(shape)),
        positions_BS=put(positions.reshape(shape)) if packed else None,
        predictors_N=put(np.concatenate(predictors)),
        targets_N=put(np.concatenate(targets)),
        mask_BT=put(mask),
        behaviour_BT=put(behaviour),
        known_B=put(np.array([row.behaviour_logprobs is not None for row in blank])),
        advantages_B=put(np.array([row.advantage for row in blank], dtype=np.float32)),
        expert_B=put(np.array([row.expert for row in blank])),
    )
