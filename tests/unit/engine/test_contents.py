"""Tensors beside those of a file, and the gap to the trainer: without an engine."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from icpo_core.engine import contents
from icpo_core.engine.kinds.base import FLOOR, Gap, prove
from icpo_core.store import tables


class Packed(torch.nn.Module):
    """As the CPU build leaves a linear layer: the weight is gone, its product is there."""

    def __init__(self, weight: torch.Tensor, gone: bool) -> None:
        super().__init__()
        self.weight = torch.empty(0) if gone else weight
        copy = weight.clone()
        self.cpu_linear = lambda x, weight, bias: torch.nn.functional.linear(x, copy, bias)


def same(layer: torch.nn.Module | None, weight: torch.Tensor) -> bool | None:
    return contents._same(layer, "layer.weight", weight, torch.Generator().manual_seed(0))


@settings(deadline=None)
@given(
    outputs=st.integers(1, 40),
    inputs=st.integers(1, 200),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    gone=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_a_packed_layer_is_read_bit_for_bit(
    outputs: int, inputs: int, dtype: torch.dtype, gone: bool, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, generator=draw).to(dtype)
    assert same(Packed(weight, gone), weight) is True
    changed = weight.clone()
    place = seed % outputs, seed % inputs
    changed[place] = torch.nextafter(changed[place], torch.tensor(math.inf, dtype=dtype))
    assert same(Packed(changed, gone), weight) is False


def test_a_stale_copy_beside_the_right_weight_is_seen() -> None:
    layer = Packed(torch.ones(3, 4), gone=False)
    layer.weight = torch.zeros(3, 4)
    assert same(layer, torch.zeros(3, 4)) is False


def test_what_lies_otherwise_is_not_called_stale() -> None:
    assert same(None, torch.ones(2, 2)) is None
    assert same(SimpleNamespace(weight=torch.ones(4)), torch.ones(2, 2)) is None  # type: ignore[arg-type]


def test_the_second_model_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight knows its layer by its loader, as in vLLM; what both models share stays."""
    table = torch.nn.Embedding(4, 2)

    def model() -> torch.nn.Module:
        layer = torch.nn.Linear(3, 4)
        layer.weight.weight_loader = layer.forward  # type: ignore[assignment]
        return torch.nn.ModuleDict({"layer": layer, "positions": table})

    held, second = model(), model()
    second.load_state_dict(held.state_dict())
    weights = list(second["layer"].parameters())  # type: ignore[index]
    monkeypatch.setattr(contents, "_plain", lambda *_: (second, set(map(id, weights))))
    runner = SimpleNamespace(model=held, vllm_config=None, device=torch.device("cpu"))
    assert contents.compare(runner, Path(), 0) == {"tensors": 2, "unread": [], "other": []}
    assert [value.untyped_storage().nbytes() for value in weights] == [0, 0]
    assert held["layer"].weight.shape == (4, 3)  # type: ignore[index,union-attr]
    assert table.weight.shape == (4, 2)


class Scores:
    """An engine that is off by given amounts, in nats."""

    def __init__(self, off: list[float], said: list[float]) -> None:
        self.policy_version = "held"
        self.given = [told + one for told, one in zip(said, off, strict=True)]

    def score(self, sequences: Any) -> list[list[float]]:
        return [self.given]


def proof(folder: Path, said: list[float]) -> Path:
    path = folder / "probe.parquet"
    row = {"token_ids": list(range(len(said) + 1)), "logprobs": said}
    tables.write("probe", tables.table("probe", [row]), path)
    return path


def test_rounding_of_one_unlikely_token_is_no_alarm(tmp_path: Path) -> None:
    """Half a nat on a token of one in thousands; the same on every likely token is one."""
    said = [-0.7, -9.0] * 50
    path = proof(tmp_path, said)
    rounding: Any = Scores([0.01, 0.6] * 50, said)
    gap = prove(rounding, "bfloat16", path, None)
    assert gap == pytest.approx(0.6, abs=1e-6)
    assert gap.upper < FLOOR["bfloat16"][1]
    assert gap.facts()["probe_tokens"] == 100
    with pytest.raises(ValueError, match=r"max_logprob_gap"):
        prove(rounding, "bfloat16", path, 0.5)
    stale: Any = Scores([0.3] * 100, said)
    with pytest.raises(ValueError, match=r"0\.087 in probability .*limits .*at token \d+"):
        prove(stale, "bfloat16", path, None)
    assert stale.policy_version == ""


def test_the_rounding_of_a_real_model_in_float32_is_no_alarm(tmp_path: Path) -> None:
    """What SmolLM2-135M in float32 was off by when it was first loaded."""
    said = [-0.7] * 100
    path = proof(tmp_path, said)
    honest: Any = Scores([3e-6] * 80 + [3e-5] * 19 + [6.3e-5], said)
    gap = prove(honest, "float32", path, None)
    assert (gap.median, gap.upper) == pytest.approx((1.5e-6, 1.5e-5), rel=0.02)
    for off in ([3e-6] * 99 + [4e-4], [3e-6] * 80 + [2.5e-4] * 20, [2.5e-5] * 100):
        stale: Any = Scores(off, said)
        with pytest.raises(ValueError, match="does not hold the weights"):
            prove(stale, "float32", path, None)


def test_the_usual_gap_widens_the_limit(tmp_path: Path) -> None:
    said = [-0.7] * 20
    path = proof(tmp_path, said)
    engine: Any = Scores([4e-5] * 20, said)
    usual = Gap([value + 2e-5 for value in said], said, list(range(20)))
    with pytest.raises(ValueError, match="does not hold the weights"):
        prove(engine, "float32", path, None)
    assert prove(engine, "float32", path, None, usual).median < 4e-5
