"""The paper's recipes resolve under every preset, also with a small model in their place."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from places import ROOT
from pydantic import BaseModel
from recipes import SWAPS

from icpo_core.capacity import doctor, forecast, machine
from icpo_core.common import keys
from icpo_core.config import Config, load
from icpo_core.evaluation.registry import ENTRIES, GROUPS
from icpo_core.run import plan, sources
from icpo_core.run.run import Run

ALL = sorted(ROOT.glob("configs/paper/*.toml"))
RELEASED = [file for file in ALL if file.stem.endswith("-released")]
PAPER = [file for file in ALL if file not in RELEASED]
PRESETS = ("grpo", "icpo", "icpo-rs", "luffy")


def flat(config: Config) -> dict[str, object]:
    return {
        f"{section}.{key}": value
        for section, part in config.model_dump(exclude={"preset"}).items()
        for key, value in part.items()
    }


def test_all_recipes_are_here() -> None:
    assert [file.stem for file in PAPER] == ["qwen2.5-math-7b", "qwen3-1.7b", "qwen3-8b"]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("file", PAPER, ids=lambda file: file.stem)
def test_settings_of_the_papers_scripts(file: Path, preset: str) -> None:
    config = load(file, [f"preset={preset}"])
    assert config.run.iterations == 400
    assert config.prompts.batch_size == 128
    assert config.update.mini_batch == (64 if file.stem == "qwen3-1.7b" else 32)
    assert config.rollout.on_policy + config.rollout.expert == 8
    assert (config.prompts.max_tokens, config.rollout.max_tokens) == (4096, 8192)
    assert (config.rollout.temperature, config.evaluate.temperature) == (1.0, 0.6)
    assert (config.update.learning_rate, config.update.grad_clip) == (1e-6, 1.0)
    assert (config.evaluate.every, config.checkpoint.keep_every) == (10, 50)
    assert config.select.horizon == (400 if preset == "icpo-rs" else None)
    samples = {one.name: one.samples for one in config.evaluate.benchmarks}
    assert samples == {name: ENTRIES[name].samples for name in GROUPS["math"]}
    # No benchmark may be shown as a worked example.
    assert {one.problems for one in config.evaluate.benchmarks} == set(config.prompts.exclude)


# --- what the authors' scripts set, by docs/released.md -------------------------------------------

ROW = re.compile(r"^\|.*\| `([a-z_.0-9]+)` \| `(.+)` \| `(.+)` \|$", re.M)
SCRIPTS = {
    key: dict(zip(("1.7b", "8b"), values, strict=True))
    for key, *values in ROW.findall((ROOT / "docs/released.md").read_text("utf-8"))
}
OURS = {
    "prompts.problems", "prompts.demonstrations", "prompts.exclude", "rollout.shards",
    "update.token_budget", "update.ranks", "update.deepspeed", "evaluate.benchmarks",
}  # fmt: skip
"""Data, and how the work is cut up."""


def stated(part: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in part.items():
        if isinstance(value, dict):
            yield from stated(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def switches(section: BaseModel, above: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Key, value and default of what can change a result."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from switches(value, f"{above}{name}.")
        elif keys.mark(field) is None:
            yield f"{above}{name}", value, field.default


@pytest.mark.parametrize("file", RELEASED, ids=lambda file: file.stem)
def test_released_recipes_are_the_scripts(file: Path) -> None:
    size = file.stem.split("-")[1]
    table = {key: tomllib.loads(f"x = {of[size]}")["x"] for key, of in SCRIPTS.items()}
    assert len(table) > 50
    pinned = dict(stated(tomllib.loads(file.read_text("utf-8"))))
    assert {key: pinned.get(key) for key in table} == table
    config = load(file)
    found = {key: (value, default) for key, value, default in switches(config)}
    others = set(found) - set(table) - OURS
    assert not others & set(pinned), "pinned, and not in docs/released.md"
    assert {key for key in others if found[key][0] != found[key][1]} == set()


@pytest.mark.parametrize("file", RELEASED, ids=lambda file: file.stem)
def test_released_recipes_fit_where_the_scripts_ran(file: Path) -> None:
    config = load(file)
    assert {one.samples for one in config.evaluate.benchmarks} == {2}
    stated_ = machine.read(ROOT / "configs" / "machines" / "eight-h100.toml")
    said = doctor.check_run(config, stated_, forecast.forecast(config, stated_))
    assert not [one for one in said if one.level == doctor.Level.FAIL]
    constant = load(file, ["select.bonus=constant"]).select
    assert (constant.bonus, constant.alpha) == ("constant", 1.0)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("file", PAPER, ids=lambda file: file.stem)
def test_the_small_model_takes_the_big_ones_place(file: Path, preset: str, tmp_path: Path) -> None:
    """What the swap changes is the model with its data, lengths and batch, and nothing else; the
    run can then be planned, down to every stage's inputs."""
    plain = load(file, [f"preset={preset}"])
    config = load(file, [*SWAPS, f"preset={preset}", f"run.directory={tmp_path}"])
    before, after = flat(plain), flat(config)
    changed = {key for key in before if before[key] != after[key]}
    allowed = {swap.partition("=")[0] for swap in SWAPS} | {"run.directory", "rollout.engine"}
    assert changed <= allowed | {"loss.constant_length"}
    run = Run.of(config)
    sources.require(run)
    steps = plan.plan(run, last=1)
    assert [step.stage for step in steps] == [
        "evaluate", "prompts", "rollout", "verify", "select", "update", "checkpoint",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "file", sorted(ROOT.glob("configs/deepspeed/*.json")), ids=lambda f: f.stem
)
def test_deepspeed_settings_are_taken_from_a_file(file: Path, tmp_path: Path) -> None:
    """By a path relative to the TOML, or on the command line to the working folder."""
    settings = json.loads(file.read_text())
    recipe = tmp_path / "deeper" / "recipe.toml"
    recipe.parent.mkdir()
    recipe.write_text('[prompts]\nproblems = "x"\n[update]\ndeepspeed = "../zero.json"\n')
    (tmp_path / "zero.json").write_text(file.read_text())
    assert load(recipe, ["preset=grpo"]).update.deepspeed == settings
    assert load(recipe, ["preset=grpo", f"update.deepspeed={file}"]).update.deepspeed == settings
    stages = {"zero2": 2, "zero3": 3, "offload": 2}
    assert settings["zero_optimization"]["stage"] == stages[file.stem]


def test_a_deepspeed_file_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"gone\.json: no such file"):
        load(PAPER[0], ["update.deepspeed=gone.json"])
