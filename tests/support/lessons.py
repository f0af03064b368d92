"""Rollouts of a batch, what their teacher is shown, and the job that asks what it says of them."""

from pathlib import Path

import pyarrow as pa
from updates import NOWHERE

from icpo_core.store import tables
from icpo_core.workers.jobs import Teach


def lessons(batch: pa.Table, folder: Path) -> tuple[dict[str, list[int]], str]:
    """Write both tables: the prompts that the teacher is shown, by problem, and the one problem
    that it is shown nothing of."""
    wide = {}
    for name, ids in zip(
        batch["prompt_id"].to_pylist(), batch["prompt_ids"].to_pylist(), strict=True
    ):
        wide[name] = ids[:-3] + ids  # some text before the question
    left_out: str = batch["prompt_id"][0].as_py()
    shown = [
        {"prompt_id": name, "prompt": "", "prompt_ids": ids}
        for name, ids in wide.items()
        if name != left_out
    ]
    rollouts = [
        {
            **{key: row[key] for key in ("prompt_id", "sample_index", "origin", "response_ids")},
            "response": "", "logprobs": None, "finish_reason": "stop", "seed": 0,
            "policy_version": "",
        }
        for row in batch.to_pylist()
    ]  # fmt: skip
    for name, rows in (("lessons", shown), ("rollout", rollouts)):
        tables.write(name, tables.table(name, rows), folder / f"{name}.parquet")
    return wide, left_out


def asked(folder: Path, out: Path, parent: str | None, top_k: int = 0) -> Teach:
    """parent: state of the weights that teach; None: the base model's."""
    return Teach(
        rollouts=folder / "rollout.parquet", lessons=folder / "lessons.parquet", top_k=top_k,
        parent=parent, restore=NOWHERE, out=out, fingerprint="f",
    )  # fmt: skip
