"""The trainer's state on disk: weights and optimizer as DeepSpeed saves them, and what they fit.

The files are pickles, and a run may have been made by somebody else: nothing in them is executed.
"""

from __future__ import annotations

import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from icpo_core.common.files import read_json, sync, what_the_disk_says, write_json
from icpo_core.trainer.average import Average

TAG = "deepspeed"


def save(
    engine: Any, folder: Path, state_id: str, shape: dict[str, Any], average: Average | None
) -> None:
    """Save what every rank holds in `folder`, as the state of this name.

    `shape`: what a saved state fits only if it is the same. `average`: where one is kept.
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
        if average is not None:
            average.save(folder / TAG)
        files = sorted((folder / TAG).iterdir())
        for file in files:
            sync(file)
        names = [file.name for file in files]
        write_json(folder / "state.json", {"state_id": state_id, **shape, "files": names})


def load(engine: Any, folder: Path, shape: dict[str, Any], average: Average | None) -> str:
    """Load a saved state; its name. Raises ValueError if it is not whole or does not fit."""
    saved = read_json(folder / "state.json")
    for name in dict.fromkeys([*shape, "undecayed"]):
        value = shape.get(name)
        if saved.get(name) != value:
            raise ValueError(
                f"{folder}: saved with {name} {saved.get(name)}, this trainer has {value}; set "
                "the update's settings back, or begin a new run from the published model"
            )
    for name in saved["files"]:
        if not (folder / TAG / name).is_file():
            raise ValueError(f"{folder}: {name} is missing; remove the folder to do without")
    engine.checkpoint_engine.load = load_file
    path, _ = engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=shape["lora"] is None)
    assert path is not None
    if average is not None:
        average.load(folder / TAG)
    return str(saved["state_id"])


def load_file(path: str | Path, map_location: Any = None) -> Any:
    """A file of a saved state: tensors, plain values and three classes of DeepSpeed's that hold
    such, in the place of its own `torch.load`, which runs what the file says.

    Raises ValueError for one that holds anything else, or is damaged.
    """
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    with torch.serialization.safe_globals([LossScaler, ZeroStageEnum, fragment_address]):
        try:
            return _interned(torch.load(path, map_location=map_location, weights_only=True))
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
            if isinstance(error, OSError) and what_the_disk_says(error) is not None:
                raise
            raise ValueError(
                f"{path}: holds more than a trainer's state, or is damaged; it was not loaded. "
                "Remove its folder `state` to train from the states before it"
            ) from error


def _interned(value: Any) -> Any:
    """The same, in place, with texts as Python keeps those of source code: one object each.

    Pickle writes a text that it met before as a reference to that object. A resumed trainer holds
    texts that were read (`lr` of a parameter group), where an undisturbed one has those of the
    source; without this the two save the same state in other bytes.
    """
    if isinstance(value, str):
        return sys.intern(value)
    if isinstance(value, dict):
        items = [(_interned(key), _interned(one)) for key, one in value.items()]
        value.clear()
        value.update(items)
    elif isinstance(value, list):
        value[:] = [_interned(one) for one in value]
    return value
