"""A step of fine-tuning between those of RL (ReLIFT): cross-entropy on what waited for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from icpo_core.method.loss import cross_entropy
from icpo_core.store import tables
from icpo_core.trainer.microbatches import Row, lists
from icpo_core.trainer.update_metrics import Figures

if TYPE_CHECKING:
    from icpo_core.trainer.trainer import Trainer


def step(trainer: Trainer, file: Path | None) -> dict[str, float]:
    """One step of the trainer's optimizer on the rows of table `tuning`; its figures. Without rows
    there is no step."""
    rows = [] if file is None else _rows(file)
    if not rows:
        return {}
    tokens = sum(len(row.response_ids) for row in rows)
    figures = Figures()
    for members in trainer._plan(rows, list(range(len(rows))))[trainer.rank]:
        micro = trainer._collate([rows[i] for i in members])
        logprobs_N, _ = trainer.engine(**micro.inputs, entropy=False)
        outputs = cross_entropy(micro.spread(logprobs_N), micro.mask_BT, tokens)
        figures.add(outputs)
        # DeepSpeed averages gradients over ranks; the loss is already divided by all tokens.
        trainer.engine.backward(outputs.loss * trainer.ranks)
    means = figures.means()
    del means["loss"]  # the same, and in the update's metrics the name of the loss of RL
    norm = float(trainer._optimizer_step())
    return {**means, "tuning/rows": float(len(rows)), "tuning/grad_norm": norm}


def _rows(file: Path) -> list[Row]:
    table = tables.read("tuning", file)
    columns = zip(
        lists(table["prompt_ids"]),
        lists(table["response_ids"]),
        table["prompt_id"].to_pylist(),
        strict=True,
    )
    rows = []
    for prompt, response, group in columns:
        assert prompt is not None
        assert response is not None
        rows.append(Row(prompt, response, group=group))
    return rows
