"""Files of a saved state, by whomever they were written: read, never executed."""

import pickle
from pathlib import Path

import pytest
import torch
from damage import Planted
from deepspeed.runtime.fp16.loss_scaler import LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum

from icpo_core.trainer.state import load_file


@pytest.mark.parametrize("zipped", [True, False])
def test_what_deepspeed_keeps_is_read(tmp_path: Path, zipped: bool) -> None:
    state = {
        "optimizer_state_dict": {
            "loss_scaler": LossScaler(scale=1.0),
            "zero_stage": ZeroStageEnum(2),
            "base_optimizer_state": {"state": {0: {"exp_avg": torch.arange(3.0)}}},
        }
    }
    torch.save(state, tmp_path / "state.pt", _use_new_zipfile_serialization=zipped)
    found = load_file(tmp_path / "state.pt")["optimizer_state_dict"]
    assert found["loss_scaler"].loss_scale == 1.0
    assert found["zero_stage"] is ZeroStageEnum.gradients
    assert torch.equal(
        found["base_optimizer_state"]["state"][0]["exp_avg"], torch.tensor([0.0, 1.0, 2.0])
    )


@pytest.mark.parametrize("how", ["zip", "legacy", "bare", "inside", "cut", "empty"])
def test_what_else_it_holds_is_not_executed(tmp_path: Path, how: str) -> None:
    file, proof = tmp_path / "state.pt", tmp_path / "executed"
    planted = Planted(proof)
    match how:
        case "zip" | "legacy":
            torch.save({"module": planted}, file, _use_new_zipfile_serialization=how == "zip")
        case "bare":
            file.write_bytes(pickle.dumps(planted))
        case "inside":  # an allowed class that carries one
            scaler = LossScaler(scale=1.0)
            scaler.cur_scale = planted  # type: ignore[assignment]
            torch.save({"loss_scaler": scaler}, file)
        case "cut":
            torch.save({"module": torch.zeros(1000)}, file)
            file.write_bytes(file.read_bytes()[:-700])
        case _:
            file.write_bytes(b"")
    with pytest.raises(ValueError, match="not loaded") as error:
        load_file(file)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)
    assert not proof.exists()
