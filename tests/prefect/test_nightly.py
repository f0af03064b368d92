"""Flow `icpo-eval` on a real Prefect and a real engine: new checkpoints once, a fall is told."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from icpo_core.common import files
from icpo_core.config import load
from icpo_core.evaluation.evaluator import Evaluator
from icpo_core.run.evaluations import best, history, target
from icpo_core.run.run import Run
from icpo_core.run.session import Session
from icpo_core.store import tables
from icpo_core.store.work import Work


def checkpoint(run: Run, number: int, base: Path, noise: float) -> None:
    """A finished update and its checkpoint: the base model, with noise on its weights."""
    work = Work(stage="update", iteration=number, version=1, inputs={}, config={}, seed=None)
    model = run.store.begin(work) / "model"
    shutil.copytree(base, model)
    weights = load_file(base / "model.safetensors")
    torch.manual_seed(number)
    noisy = {name: one + noise * torch.randn_like(one) for name, one in weights.items()}
    save_file(noisy, model / "model.safetensors", {"format": "pt"})
    rows = _probe_rows(model)
    tables.write("probe", tables.table("probe", rows), model / "probe.parquet")
    run.store.commit(work, 0.0, 0.1, {}, files.model_digest(model))
    done = Work(stage="checkpoint", iteration=number, version=1, inputs={}, config={}, seed=None)
    run.store.begin(done)
    run.store.commit(done, 0.0, 0.1, {"state": False})


def _probe_rows(model: Path) -> list[dict[str, Any]]:
    """What another framework says of some tokens: the engine must agree."""
    ids = AutoTokenizer.from_pretrained(model)("Q:3+8*4-7+2*5\nA:")["input_ids"]
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.inference_mode():
        logprobs = policy(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    chosen = logprobs.gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]
    return [{"token_ids": ids, "logprobs": chosen.tolist()}]


@pytest.fixture
def runs(root: Path, small: Path, tmp_path: Path) -> Path:
    changes = [f"run.directory={tmp_path / 'runs'}", "run.iterations=3", "run.trackers=[]"]
    with Session(Run.of(load(root / "configs" / "demo.toml", changes, "night"))) as session:
        session.keep_config()
        checkpoint(session.run, 1, small / "base", 0.0)
        checkpoint(session.run, 2, small / "base", 0.3)
    return tmp_path / "runs"


def test_a_checkpoint_is_evaluated_once_and_a_fall_is_told(
    engine, runs, tmp_path, monkeypatch, small
):
    from prefect.testing.utilities import prefect_test_harness

    from icpo.flows import evaluate
    from icpo.flows.services import alarms
    from icpo.flows.ui import table

    class OnTheSameEngine(Evaluator):
        """The tests' engine is started already: it serves here too."""

        def engines(self, target: Any) -> Any:
            return engine.engines(target)

    told: list[dict[str, Any]] = []
    monkeypatch.setattr(table, "Evaluator", OnTheSameEngine)
    monkeypatch.setattr(alarms, "emit_event", lambda event, **more: told.append({event: more}))
    asked = {"runs": str(runs), "directory": str(tmp_path / "evaluations")}

    async def twice() -> tuple[list[dict], list[dict]]:
        return await evaluate.nightly(**asked), await evaluate.nightly(**asked)

    with prefect_test_harness(server_startup_timeout=180):
        first, second = asyncio.run(twice())
    assert [(Path(one["target"]).name, one["made"]) for one in first] == [
        ("night@1", 300), ("night@2", 300),
    ]  # fmt: skip
    assert [one["made"] for one in second] == [0, 0]
    assert [one["accuracy"] for one in second] == [one["accuracy"] for one in first]
    # Told once, by the run that made it.
    [event] = told
    [(name, facts)] = event.items()
    assert name == alarms.FELL
    assert facts["resource"]["prefect.resource.id"] == "icpo.run.night"
    assert facts["payload"]["iteration"] == 2
    assert "heldout fell from" in facts["payload"]["message"]
    assert first[1]["fell"]
    lost = first[1]["lost"]
    assert f"; lost {len(lost)} problems ({lost[0]}, " in facts["payload"]["message"]

    run = Run.read(runs / "night")
    points = history(run, tmp_path / "evaluations")
    # The first checkpoint has the base model's weights: they count for the first that had them.
    assert [(one.iteration, one.protocol) for one in points] == [(0, "run avg1"), (2, "run avg1")]
    top = best(points)
    assert top is not None
    assert top.iteration == 0
    assert best(points, "pass@1") == top
    assert best(points, "pass@7") is None
    # The first checkpoint has the base model's weights: known already, by whatever name.
    same = target(str(small / "base"))
    assert same.version == run.store.manifest("update", 1).policy_version
