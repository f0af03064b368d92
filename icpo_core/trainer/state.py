"""The trainer's state on disk: weights and optimizer as DeepSpeed saves them, and what they fit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist

from icpo_core.common.files import read_json, sync, write_json

TAG = "deepspeed"


def save(engine: Any, folder: Path, state_id: str, shape: dict[str, Any]) -> None:
    """Save what every rank holds in `folder`, as the state of this name.

    `shape`: what a saved state fits only if it is the same.
    """
    first, several = dist.get_rank() == 0, dist.get_world_size() > 1
    if first:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    if several:
        dist.barrier()
    engine.save_checkpoint(
        str(folder), tag=TAG, save_latest=False, exclude_frozen_parameters=shape["lora"] is not None
    )
    if several:
        dist.barrier()
    if first:
        files = sorted((folder / TAG).iterdir())
        for file in files:
            sync(file)
        names = [file.name for file in files]
        write_json(folder / "state.json", {"state_id": state_id, **shape, "files": names})


def load(engine: Any, folder: Path, shape: dict[str, Any]) -> str:
    """Load a saved state; its name. Raises ValueError if it is not whole or does not fit."""
    saved = read_json(folder / "state.json")
    for name, value in shape.items():
        if saved.get(name) != value:
            raise ValueError(
                f"{folder}: saved with {name} {saved.get(name)}, this trainer has {value}; set "
                "the update's settings back, or begin a new run from the published model"
            )
    for name in saved["files"]:
        if not (folder / TAG / name).is_file():
            raise ValueError(f"{folder}: {name} is missing; remove the folder to do without")
    path, _ = engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=shape["lora"] is None)
    assert path is not None
    return str(saved["state_id"])
