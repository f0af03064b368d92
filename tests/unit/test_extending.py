"""docs/extending.md, executed: each example from a folder outside the project."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from places import DEMO, ROOT, SMALL
from transformers import AutoModelForCausalLM

from icpo_core.common import plugins
from icpo_core.config import EngineSection, check_plugins, load, plugin_sources, slice_of
from icpo_core.engine.kinds.base import Request
from icpo_core.grading.grade import Question
from icpo_core.method.loss import Totals, icpo_loss
from icpo_core.method.policy_losses import LossInputs
from icpo_core.method.selection import select
from icpo_core.method.verdicts import judging
from icpo_core.store import tables
from icpo_core.workers.jobs import EngineSettings

PAGE = (ROOT / "docs" / "extending.md").read_text("utf-8")
EXAMPLES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL))


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A folder with the page's files, and a TOML file that begins like the demo's."""
    assert EXAMPLES.keys() == {"my_advantage.py", "my_loss.py", "my_engine.py", "my_reward.py"}
    for name, source in EXAMPLES.items():
        (tmp_path / name).write_text(source)
    return tmp_path


def configured(folder: Path, section: str, line: str) -> Any:
    """The demo's configuration with one more line, from a file in `folder`."""
    text = DEMO.read_text().replace('"../', f'"{ROOT}/').replace('"./', f'"{DEMO.parent}/')
    header = f"[{section}]\n"
    before, _, after = text.partition(header)
    text = f"{before}\n{header}{line}\n{after}"
    (folder / "run.toml").write_text(text)
    return load(folder / "run.toml")


def batch(rewards: list[float]) -> tuple[pa.Table, pa.Table, pa.Table]:
    """One problem, its on-policy rollouts and their verdicts."""
    keys = [
        {"prompt_id": "p", "sample_index": i, "origin": "on_policy"} for i in range(len(rewards))
    ]
    prompt = dict.fromkeys(tables.TABLES["prompts"].names)
    prompt |= {"prompt_id": "p", "problem": "1+1", "answer": "2", "source": "s"}
    prompt |= {"policy_prompt": "1+1", "policy_prompt_ids": [1], "demo_ids": []}
    rollouts = [
        key
        | {"response": "2", "response_ids": [2], "logprobs": [-0.5], "finish_reason": "stop"}
        | {"seed": 0, "policy_version": "v"}
        for key in keys
    ]
    verdicts = [
        key
        | {"reward": reward, "status": "correct" if reward else "wrong", "extracted": "2"}
        | {"gold": "2", "seconds": 0.0, "detail": ""}
        for key, reward in zip(keys, rewards, strict=True)
    ]
    return (
        tables.table("prompts", [prompt]),
        tables.table("rollout", rollouts),
        tables.table("verdicts", verdicts),
    )


def test_an_advantage(mine: Path) -> None:
    config = configured(mine, "select", 'advantage = "./my_advantage.py:clipped"')
    assert slice_of(config.select)["advantage"] == "my_advantage.py:clipped"
    sources = plugin_sources(config, "select")
    chosen = select(*batch([1.0, 0.0, 0.0, 0.0]), config.select, 1, 0, sources["select.advantage"])
    np.testing.assert_allclose(chosen.batch["advantage"].to_numpy(), [0.5, -0.25, -0.25, -0.25])

    (mine / "my_advantage.py").write_text(EXAMPLES["my_advantage.py"].replace("0.5", "0.1"))
    edited = plugin_sources(config, "select")
    assert edited != sources
    with pytest.raises(ValueError, match="was edited since this run was started"):
        select(*batch([1.0, 0.0]), config.select, 1, 0, sources["select.advantage"])
    chosen = select(*batch([1.0, 0.0]), config.select, 1, 0, edited["select.advantage"])
    np.testing.assert_allclose(chosen.batch["advantage"].to_numpy(), [0.1, -0.1])


def test_a_mistake_is_the_line_of_the_page(mine: Path) -> None:
    config = configured(mine, "select", 'advantage = "./my_advantage.py:cliped"')
    with pytest.raises(ValueError, match="has no cliped"):
        select(*batch([1.0, 0.0]), config.select, 1, 0)
    with pytest.raises(ValueError, match="has no cliped") as said:
        check_plugins(config)
    assert str(said.value).replace(f"{mine}/", "") in PAGE
    for name, section, line in (
        ("my_advantage", "select", 'advantage = "./my_advantage.py:clipped"'),
        ("my_loss", "loss", 'policy = "./my_loss.py:soft_clip"'),
        ("my_engine", "rollout.engine", 'kind = "./my_engine.py:plain"'),
        ("my_reward", "verify", 'verifier = "./my_reward.py:parity"'),
    ):
        check_plugins(configured(mine, section, line))
        (mine / f"{name}.py").write_text("def f(:\n")
        with pytest.raises(ValueError, match=rf"^{section}.*{name}.py: line 1: SyntaxError"):
            check_plugins(configured(mine, section, line))


def test_a_policy_loss(mine: Path) -> None:
    config = configured(mine, "loss", 'policy = "./my_loss.py:soft_clip"')
    sources = plugin_sources(config, "update")
    assert sources.keys() == {"loss.policy"}
    logprobs_BT = torch.full((1, 3), -1.0, requires_grad=True)
    inputs = LossInputs(
        logprobs_BT=logprobs_BT,
        old_logprobs_BT=torch.tensor([[-1.0, -3.0, float("nan")]]),
        advantages_B=torch.tensor([2.0]),
        mask_BT=torch.tensor([[1, 1, 0]]),
        expert_B=torch.tensor([False]),
    )
    settings = config.loss.model_copy(update={"kl": "off"})
    outputs = icpo_loss(inputs, settings, Totals(2.0, 1.0))
    outputs.loss.backward()
    # At r = 1 the gradient is that of −r·A; far from it, it fades.
    gradient_BT = logprobs_BT.grad
    assert gradient_BT is not None
    assert gradient_BT[0, 0] == pytest.approx(-2.0 / 2)
    assert -0.2 < gradient_BT[0, 1] < 0
    assert gradient_BT[0, 2] == 0
    assert {"policy/loss", "policy/ratio", "policy/approx_kl"} <= outputs.metrics.keys()

    (mine / "my_loss.py").write_text(EXAMPLES["my_loss.py"].replace("-4.0", "-8.0"))
    assert plugin_sources(config, "update") != sources
    twice = icpo_loss(inputs, settings, Totals(2.0, 1.0))
    torch.testing.assert_close(twice.loss, 2 * outputs.loss)


def test_a_reward(mine: Path) -> None:
    config = configured(mine, "verify", 'verifier = "./my_reward.py:parity"')
    sources = plugin_sources(config, "verify")
    assert sources.keys() == {"verify.verifier"}
    texts = [r"\boxed{4}", r"\boxed{-3}", "4"]
    with judging(config.verify, sources) as judges:
        found = judges.judge([Question("2", text) for text in texts])
    assert [str(one.status) for one in found] == ["correct", "wrong", "wrong"]


def test_an_engine(mine: Path) -> None:
    config = configured(mine, "rollout.engine", 'kind = "./my_engine.py:plain"')
    for stage in ("rollout", "evaluate"):
        assert plugin_sources(config, stage).keys() == {"rollout.engine.kind"}
    model = SMALL / "base"
    start = plugins.resolve(config.rollout.engine.kind, "icpo_core.engine.kinds")
    settings = EngineSettings(model=model, engine=EngineSection(dtype="float32"), seed=0)
    engine = start(settings)
    prompts = [[5, 6, 7], [8, 9]]
    found = engine.sample([Request(ids, 7) for ids in prompts], 1.0, 8)
    assert found == engine.sample([Request(ids, 7) for ids in prompts], 1.0, 8)
    for ids, one in zip(prompts, found, strict=True):
        assert (one.response_ids[-1] in engine.eos_ids) == (one.finish_reason == "stop")
        [scored] = engine.score([[*ids, *one.response_ids]])
        np.testing.assert_allclose(scored[len(ids) - 1 :], one.logprobs, atol=1e-4)
    greedy = engine.sample([Request(prompts[0], 0)], 0.0, 4)[0].response_ids
    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    logits_V = reference(torch.tensor([prompts[0]])).logits[0, -1]
    assert greedy[0] == int(logits_V.argmax())
    with pytest.raises(ValueError, match="holds other weights"):
        engine.load(model, "0" * 64)
