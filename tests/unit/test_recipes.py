"""The paper's recipes resolve under every preset, and run with a small model in their place."""

import json
from pathlib import Path

import pytest

from icpo_core.config import Config, load
from icpo_core.evaluation.benchmarks import ENTRIES, GROUPS
from icpo_core.run import plan
from icpo_core.run.perform import perform
from icpo_core.run.run import Run

ROOT = Path(__file__).resolve().parent.parent
PAPER = sorted(ROOT.glob("configs/paper/*.toml"))
PRESETS = ("grpo", "icpo", "icpo-rs", "luffy")
SMALL = ROOT / "data" / "small"
HELDOUT = str(SMALL / "heldout.parquet")

# The small model with the problems it knows and the text it was taught them in; lengths; batch.
MODEL = [
    f"model.path={SMALL / 'base'}",
    f"prompts.problems={SMALL / 'train.parquet'}",
    f"prompts.demonstrations={SMALL / 'demonstrations.parquet'}",
    f'prompts.exclude=["{HELDOUT}"]',
    f'evaluate.benchmarks=[{{name="heldout",problems="{HELDOUT}",limit=8}}]',
    "prompts.format=raw",
    r'prompts.question_template="Q:{problem}\nA:"',
    r'prompts.example_template="Q:{problem}\nA:{solution}\n\n"',
]
LENGTHS = [
    "prompts.max_tokens=128",
    "rollout.max_tokens=64",
    "evaluate.max_tokens=64",
    "rollout.engine.max_model_len=256",
]
BATCH = ["prompts.batch_size=4", "update.mini_batch=2"]
SWAPS = [*MODEL, *LENGTHS, *BATCH]


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
    run = Run(config)
    run.require_sources()
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


@pytest.mark.engine
@pytest.mark.parametrize(
    "name", ["paper/qwen3-8b", pytest.param("one-gpu-lora", marks=pytest.mark.slow)]
)
def test_a_recipe_from_prompts_to_checkpoint(name: str, tmp_path: Path) -> None:
    """Qwen3-8B's (bfloat16, ZeRO-3, checkpointed activations, two steps an iteration), and with an
    adapter, whose merged weights the engine proves that it holds before it evaluates them."""
    config = load(
        ROOT / "configs" / f"{name}.toml",
        [*SWAPS, "run.iterations=1", f"run.directory={tmp_path}"],
    )
    with Run(config) as run:
        run.workers.start_engine(run.base_model)
        run.workers.start_trainer()
        for stage in plan.stages_of(config, 1):
            perform(run, stage, 1)
        assert all(step.status.done for step in plan.plan(run) if step.iteration)
        update = run.store.manifest("update", 1)
        assert update is not None
        metrics = json.loads((run.paths.stage("update", 1) / "metrics.json").read_text())
        assert metrics["optimizer_steps"] == 2.0
        assert update.policy_version not in (None, run.base_version)
