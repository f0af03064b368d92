"""Rows into micro-batches of a token budget, and micro-batches over ranks.

How rows stand in a micro-batch is its layout: beside each other and padded, alone, packed one
behind another into one long row, or shared, packed with each prompt once for all its responses.

Legend: B rows of a micro-batch, S tokens of prompt and response but the last, which predicts
nothing, T tokens of the response, N all response tokens of a micro-batch, row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
import torch.distributed as dist
from torch import Tensor

from icpo_core.store.batch import order
from icpo_core.store.tables import Origin
from icpo_core.trainer.shared_prompts import SharedRows

MICRO_BATCH_COST = 128
"""What one more micro-batch costs, in tokens: so much padding is put up with to save one. Measured
on the small model; a large model on a GPU puts up with more, but has larger micro-batches."""

BUNDLES_A_RANK = 4
"""At least so many, if prompts are shared: ranks must come to equally many tokens."""

Numbers = npt.NDArray[np.generic]


class Layout(StrEnum):
    """How the rows of a micro-batch stand."""

    PADDED = "padded"
    ALONE = "alone"
    PACKED = "packed"
    SHARED = "shared"


BESIDE = (Layout.PADDED, Layout.ALONE)
"""Layouts whose rows stand beside each other, padded on the right."""


def choose(packing: bool | None, flash_attention: bool, shares_prompts: bool) -> Layout:
    """How rows stand in a micro-batch: with the least work there is for this model here.

    packing: `update.packing`. shares_prompts: the model can be shown each prompt once.
    """
    if shares_prompts:
        return Layout.SHARED
    packed = flash_attention if packing is None else packing
    return Layout.PACKED if packed else Layout.PADDED


def same_on_all(layout: Layout, ranks: int) -> Layout:
    """Each rank plans for all of them: with another layout it would leave rows out, unseen.

    Raises ValueError if the ranks' machines come to different ones.
    """
    if ranks > 1:
        everyone: list[Any] = [None] * ranks
        dist.all_gather_object(everyone, layout)
        if set(everyone) != {layout}:
            raise ValueError(
                f"the ranks' machines would cut the work differently ({', '.join(everyone)}): is "
                "flash attention on some of them only? Set update.packing = false"
            )
    return layout


def on_all(holds: bool, ranks: int, device: torch.device) -> bool:
    """Whether it holds on all ranks, which all ask."""
    every = torch.tensor(float(holds), device=device)
    if ranks > 1:
        dist.all_reduce(every, dist.ReduceOp.MIN)
    return bool(every)


@dataclass(frozen=True)
class Said:
    """What the teacher of self-distillation says of a response."""

    logprobs: Numbers
    """Of its tokens, [T]."""
    top_ids: Numbers
    """Likeliest tokens at each place, [T, K]; K = 0 where they are not asked for."""
    top_logprobs: Numbers


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
    said: Said | None = None
    """What the teacher says of it, of a bare rollout in self-distillation."""
    index: int = 0
    """sample_index."""
    origin: str = Origin.ON_POLICY

    @property
    def length(self) -> int:
        """Tokens that the model is shown: all but the last."""
        return len(self.prompt_ids) + len(self.response_ids) - 1


@dataclass(frozen=True)
class MicroBatch:
    """Rows as tensors; packed and shared ones stand in one long row.

    What is a response is known by position, since the pad id may be the EOS id. Packed rows are
    told apart by `positions_BS`, which begin at 0 with each of them; padded ones need none.
    """

    tokens_BS: Tensor
    positions_BS: Tensor | None
    shared: SharedRows | None
    predictors_N: Tensor
    """Flat indices into [B * S] of the positions that predict the response tokens."""
    targets_N: Tensor
    mask_BT: Tensor
    behaviour_BT: Tensor
    known_B: Tensor
    """Rows whose behaviour logprobs are known."""
    advantages_B: Tensor
    expert_B: Tensor
    teacher_BT: Tensor
    taught_B: Tensor
    """Rows that the teacher has spoken on."""
    top_ids_NK: Tensor
    """The teacher's likeliest tokens; K = 0 where they are not asked for."""
    teacher_top_NK: Tensor

    @property
    def inputs(self) -> dict[str, Any]:
        """What `Policy` is given."""
        return {
            "tokens_BS": self.tokens_BS,
            "predictors_N": self.predictors_N,
            "targets_N": self.targets_N,
            "positions_BS": self.positions_BS,
            "shared": self.shared,
        }

    @property
    def all_targets(self) -> Tensor:
        """The response tokens, [N], or with the teacher's likeliest behind each, [N, 1 + K]."""
        if not self.top_ids_NK.shape[1]:
            return self.targets_N
        return torch.cat([self.targets_N[:, None], self.top_ids_NK], 1)

    def spread(self, values_N: Tensor) -> Tensor:
        """Values of the response tokens as [B, T] with zeros elsewhere; of [N, K] as [B, T, K]."""
        more = values_N.shape[1:]
        shape = (*self.mask_BT.shape, *more)
        zeros_BT = torch.zeros(shape, dtype=values_N.dtype, device=values_N.device)
        mask_BT = self.mask_BT[..., None].expand(shape) if more else self.mask_BT
        return zeros_BT.masked_scatter(mask_BT, values_N)


def rows_of(batch: pa.Table, context: str = "bare", teacher: pa.Table | None = None) -> list[Row]:
    """The rows of a `batch` table, in its `order`, as views into its columns.

    context: `loss.expert_context`. Under the prompt that it was sampled from, an expert rollout is
    on-policy. teacher: the table of this name, of the same iteration.
    """
    said = _said(teacher) if teacher is not None else {}
    policy = {Origin.ON_POLICY} if context == "bare" else {Origin.ON_POLICY, Origin.EXPERT}
    experts = [origin not in policy for origin in batch["origin"].to_pylist()]
    columns = zip(
        lists(batch["prompt_ids"]),
        lists(batch["response_ids"]),
        lists(batch["behaviour_logprobs"]),
        batch["advantage"].to_pylist(),
        experts,
        batch["prompt_id"].to_pylist(),
        batch["sample_index"].to_pylist(),
        batch["origin"].to_pylist(),
        strict=True,
    )
    rows = []
    for prompt, response, behaviour, advantage, expert, group, index, origin in columns:
        assert prompt is not None
        assert response is not None
        heard = said.get((group, index))
        rows.append(
            Row(prompt, response, behaviour, advantage, expert, group, heard, index, origin)
        )
    return [rows[place] for place in order(batch).to_pylist()]


def _said(teacher: pa.Table) -> dict[tuple[str, int], Said]:
    """By problem and number of the rollout."""
    columns = zip(
        teacher["prompt_id"].to_pylist(),
        teacher["sample_index"].to_pylist(),
        lists(teacher["logprobs"]),
        lists(teacher["top_ids"]),
        lists(teacher["top_logprobs"]),
        strict=True,
    )
    found = {}
    for group, index, logprobs, ids, likeliest in columns:
        assert logprobs is not None
        assert ids is not None
        assert likeliest is not None
        shape = len(logprobs), len(ids) // max(1, len(logprobs))
        found[group, index] = Said(logprobs, ids.reshape(shape), likeliest.reshape(shape))
    return found


def lists(column: pa.ChunkedArray) -> list[Numbers | None]:
    """The rows of a column of lists, as views into it."""
    found: list[Numbers | None] = []
    for array in column.chunks:  # one array of all of them would be a copy
        values, offsets = array.values.to_numpy(), array.offsets.to_numpy()
        valid = array.is_valid().to_pylist()
        found += [
            values[first:last] if there else None
            for first, last, there in zip(offsets[:-1], offsets[1:], valid, strict=True)
        ]
    return found


def plan(
    rows: Sequence[Row], budget: int, ranks: int, layout: Layout = Layout.PADDED
) -> list[list[list[int]]]:
    """Indices of the rows of each micro-batch of each rank: `plan[rank][micro_batch]`.

    Rows, or bundles of rows that share a prompt, go to the rank with the fewest tokens so far,
    longest first. A rank's are then cut into micro-batches of at most `budget` tokens with their
    padding, and of less where another micro-batch costs less than the padding it saves. Every rank
    gets equally many, some of them empty if need be, since ranks must meet at each one. A row
    longer than the budget stands alone. A shared prompt counts with each of its rows: attention
    sees it there, and no micro-batch needs more memory than if it were packed.
    """
    if layout is Layout.ALONE:
        budget = 1
    if layout is Layout.SHARED:
        bundles = _bundles(rows, budget, ranks)
    else:
        bundles = [[index] for index in range(len(rows))]
    lengths = [sum(rows[i].length for i in bundle) for bundle in bundles]
    order = sorted(range(len(bundles)), key=lambda i: (-lengths[i], i))
    shares: list[list[int]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for index in order:
        rank = loads.index(min(loads))
        shares[rank].append(index)
        loads[rank] += lengths[index]
    cut = [_cut(share, lengths, budget, layout not in BESIDE) for share in shares]
    most = max(1, *(len(batches) for batches in cut))
    whole = [[[i for b in batch for i in bundles[b]] for batch in batches] for batches in cut]
    return [batches + [[] for _ in range(most - len(batches))] for batches in whole]


def _bundles(rows: Sequence[Row], budget: int, ranks: int) -> list[list[int]]:
    """Rows that share a prompt, as many together as the budget and the balance of ranks allow."""
    if ranks > 1:
        budget = min(budget, sum(row.length for row in rows) // (ranks * BUNDLES_A_RANK))
    bundles: dict[bytes, list[list[int]]] = {}
    for index, row in enumerate(rows):
        mine = bundles.setdefault(row.prompt_ids.tobytes(), [[]])
        if mine[-1] and sum(rows[i].length for i in mine[-1]) + row.length > budget:
            mine.append([])
        mine[-1].append(index)
    return [bundle for mine in bundles.values() for bundle in mine]


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


def shown_tokens(rows: Sequence[Row], batches: Sequence[Sequence[int]]) -> list[int]:
    """Of each row of shared micro-batches, in their order: its tokens that no row before it in its
    micro-batch has shown the model."""
    shown = []
    for batch in batches:
        prompts: set[bytes] = set()
        for row in (rows[i] for i in batch):
            prompt = row.prompt_ids.tobytes()
            shown.append(row.length - (len(row.prompt_ids) if prompt in prompts else 0))
            prompts.add(prompt)
    return shown


def collate(
    rows: Sequence[Row], pad_id: int, device: torch.device, layout: Layout = Layout.PADDED
) -> MicroBatch:
    """Make the tensors. Without rows it is a micro-batch of one padding token and no response."""
    assert all(len(row.prompt_ids) for row in rows), (
        "a response token is predicted by the token before it"
    )
    assert all(len(row.response_ids) for row in rows)
    places, shape = _places(rows, layout)
    tokens = np.full(shape[0] * shape[1], pad_id, dtype=np.int64)
    positions = np.zeros_like(tokens)
    responses = [len(row.response_ids) for row in rows]
    mask = np.zeros((max(1, len(rows)), max(responses, default=1)), dtype=bool)
    behaviour = np.zeros(mask.shape, dtype=np.float32)
    predictors: list[Numbers] = [np.zeros(0, dtype=np.int64)]
    targets: list[Numbers] = [np.zeros(0, dtype=np.int64)]
    teacher = np.zeros(mask.shape, dtype=np.float32)
    wide = max((row.said.top_ids.shape[1] for row in rows if row.said is not None), default=0)
    top_ids = [np.zeros((0, wide), dtype=np.int64)]
    top_logprobs = [np.zeros((0, wide), dtype=np.float32)]
    for index, (row, own) in enumerate(zip(rows, places, strict=True)):
        prompt = len(row.prompt_ids)
        tokens[own[:prompt]] = row.prompt_ids
        tokens[own[prompt:]] = row.response_ids[:-1]
        positions[own] = np.arange(row.length)
        mask[index, : responses[index]] = True
        if row.behaviour_logprobs is not None:
            behaviour[index, : responses[index]] = row.behaviour_logprobs
        predictors.append(own[prompt - 1 :])
        targets.append(row.response_ids.astype(np.int64))
        blank = np.zeros((responses[index], wide))
        if row.said is not None:
            teacher[index, : responses[index]] = row.said.logprobs
        top_ids.append((row.said.top_ids if row.said else blank).astype(np.int64))
        top_logprobs.append((row.said.top_logprobs if row.said else blank).astype(np.float32))

    def put(array: Numbers) -> Tensor:
        return torch.from_numpy(array).to(device, non_blocking=True)

    shared = None
    if layout is Layout.SHARED:
        *pieces, back = map(put, _shared_places(places, len(tokens)))
        shared = SharedRows(tuple(pieces), back)
    whole = rows or [Row(tokens[:0], tokens[:0])]
    return MicroBatch(
        tokens_BS=put(tokens.reshape(shape)),
        positions_BS=None if layout in BESIDE else put(positions.reshape(shape)),
        shared=shared,
        predictors_N=put(np.concatenate(predictors)),
        targets_N=put(np.concatenate(targets)),
        mask_BT=put(mask),
        behaviour_BT=put(behaviour),
        known_B=put(np.array([row.behaviour_logprobs is not None for row in whole])),
        advantages_B=put(np.array([row.advantage for row in whole], dtype=np.float32)),
        expert_B=put(np.array([row.expert for row in whole])),
        teacher_BT=put(teacher),
        taught_B=put(np.array([row.said is not None for row in whole])),
        top_ids_NK=put(np.concatenate(top_ids)),
        teacher_top_NK=put(np.concatenate(top_logprobs)),
    )


def _places(rows: Sequence[Row], layout: Layout) -> tuple[list[Numbers], tuple[int, int]]:
    """Where the tokens of each row stand, flat, and the shape [B, S] of them all."""
    places: list[Numbers] = []
    if layout in BESIDE:
        longest = max((row.length for row in rows), default=1)
        places = [np.arange(row.length) + i * longest for i, row in enumerate(rows)]
        return places, (max(1, len(rows)), longest)
    end = 0
    prompts: dict[bytes, Numbers] = {}
    for row in rows:
        prompt, after = len(row.prompt_ids), len(row.response_ids) - 1
        key = row.prompt_ids.tobytes()
        if layout is Layout.PACKED or key not in prompts:
            prompts[key] = np.arange(end, end + prompt)
            end += prompt
        places.append(np.concatenate([prompts[key], np.arange(end, end + after)]))
        end += after
    return places, (1, max(1, end))


def _shared_places(places: Sequence[Numbers], tokens: int) -> list[Numbers]:
    """The fields of `SharedRows`: places of rows of like lengths, and last where each token is."""
    own: list[Numbers] = list(places) or [np.zeros(1, dtype=np.int64)]
    lengths = [len(one) for one in own]
    order = sorted(range(len(own)), key=lambda i: -lengths[i])
    back = np.zeros(tokens, dtype=np.int64)
    pieces: list[Numbers] = []
    before = 0
    for batch in _cut(order, lengths, sum(lengths) * len(own), packed=False):
        piece = np.zeros((len(batch), lengths[batch[0]]), dtype=np.int64)
        for place, index in enumerate(batch):
            piece[place, : lengths[index]] = own[index]
            back[own[index]] = before + place * piece.shape[1] + np.arange(lengths[index])
        pieces.append(piece)
        before += piece.size
    return [*pieces, back]
