"""Configuration: shipped files, presets, overrides, and one clear line for what is wrong."""

from pathlib import Path

import pytest
from places import DEMO, ROOT
from pydantic import BaseModel

from icpo_core.config import PRESETS, Config, Section, build, load, override, slice_of

CONFIGS = sorted(ROOT.glob("configs/*.toml"))
PRESET_NAMES = sorted(path.stem for path in PRESETS.glob("*.toml"))


def sections(model: type[BaseModel] = Config) -> list[type[BaseModel]]:
    found = [model]
    for field in model.model_fields.values():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found += sections(kind)
    return found


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_shipped_configuration_is_possible(file: Path) -> None:
    config = load(file)
    assert config.run.name
    again = build(config.model_dump(mode="json"), "resolved")
    assert again == config


@pytest.mark.parametrize("preset", PRESET_NAMES)
def test_every_preset_fits_the_demo(preset: str) -> None:
    config = load(DEMO, [f"preset={preset}"])
    assert config.preset == preset
    grouped = 0 if config.select.tuning_buffer else config.rollout.expert
    assert config.rollout.on_policy + grouped == (
        4 if preset in ("icpo-lean", "icpo-taught") else 8
    )


def test_presets_are_those_of_the_design() -> None:
    assert set(PRESET_NAMES) == {
        "grpo", "icpo", "icpo-rs", "icpo-lean", "icpo-taught", "icpo-no-errs", "luffy", "relift",
        "dr-grpo", "dapo", "gspo", "cispo",
    }  # fmt: skip


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.__name__)
def test_every_field_is_documented(section: type[BaseModel]) -> None:
    known = {"betas", "weight_decay", "gradient_checkpointing", "temperature", "top_p"}
    known |= {"max_tokens", "benchmarks", "rules", "engine"}  # they say it all themselves
    for name, field in section.model_fields.items():
        nested = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        assert field.description or nested or name in known, name


def test_later_wins() -> None:
    """Defaults, preset, file, override."""
    config = load(DEMO, ["run.seed=7", "loss.expert_lambda=0.1", "preset=luffy"], "mine")
    assert config.run.seed == 7
    assert config.run.name == "mine"
    assert config.rollout.expert_source == "traces"  # the preset's
    assert config.loss.kl_coefficient == 0.0  # the file's
    assert config.loss.expert_lambda == 0.1  # the override's


def test_paths_are_relative_to_the_file_and_overrides_to_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load(DEMO, ["prompts.problems=./mine.parquet"])
    assert Path(config.model.path) == ROOT / "data" / "small" / "base"
    assert Path(config.prompts.problems) == tmp_path.resolve() / "mine.parquet"


def test_what_one_section_takes_from_another() -> None:
    config = load(DEMO, ["preset=icpo-rs", "run.iterations=12"])
    assert config.select.horizon == 12
    assert load(DEMO, ["preset=dr-grpo"]).loss.constant_length == config.rollout.max_tokens
    assert override(config, ["select.horizon=5"]).select.horizon == 5


WRONG = {
    "rollout.experts=1": "rollout.experts: unknown key; did you mean expert",
    "rollout.engine.dtyp=x": "unknown key; did you mean dtype",
    "rollot.expert=1": "rollot: unknown key; did you mean rollout",
    "prompts.batch_size=many": "prompts.batch_size: input should be a valid integer",
    "prompts.batch_size=0": "greater than or equal to 1",
    "rollout.temperature=0": "greater than 0",
    "select.errs=keep": "select.errs: input should be 'drop', 'replace', 'mask' or 'off'",
    "select.truncated=cut": "input should be 'wrong', 'mask', 'drop' or 'shaped'",
    "preset=ppo": "preset 'ppo' is not known; there are cispo, dapo, dr-grpo, grpo, gspo",
    "prompts.k=0": "needs demonstrations: set prompts.k >= 1",
    "rollout.off_policy_steps=1": "set update.old_logprobs = engine, or loss.correction = truncate",
    "rollout.off_policy_steps=5": "less than or equal to 4",
    "prompts.demonstrations=none": "set prompts.demonstrations to a pool",
    "rollout.on_policy=0": None,  # ICPO without on-policy rollouts is odd and possible
    "rollout.engine.max_model_len=100": "is less than prompts.max_tokens + rollout.max_tokens",
    "update.mini_batch=5": "update.mini_batch = 5 does not divide prompts.batch_size = 16",
    "checkpoint.keep_best=aime": "is none of the benchmarks (heldout)",
    "run.name=../up": "run.name: string should match pattern",
    "run.seed": "write section.key=value",
    "update.deepspeed.optimizer=1": "update.deepspeed sets optimizer, which this program sets",
    "loss.expert_lambda=nan": "finite",
}


@pytest.mark.parametrize("change", WRONG)
def test_a_mistake_is_one_line_that_names_the_mend(change: str) -> None:
    if WRONG[change] is None:
        load(DEMO, [change])
        return
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        load(DEMO, [change])
    assert WRONG[change] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_schedule_knows_where_it_ends() -> None:
    config = load(DEMO, ["update.schedule=cosine", "run.iterations=12"])
    assert config.update.horizon == 12
    assert "horizon" not in slice_of(load(DEMO, ["run.iterations=12"]).update)
    # The horizon of a run stays when the run is made shorter, and so do its fingerprints.
    shorter = override(config, ["run.iterations=8"])
    assert shorter.update.horizon == 12
    assert slice_of(shorter.update) == slice_of(config.update)
    assert slice_of(load(DEMO, ["update.schedule=cosine", "run.iterations=13"]).update) != slice_of(
        config.update
    )
    with pytest.raises(ValueError, match=r"before run\.iterations = 13: lower those"):
        override(config, ["run.iterations=13"])
    assert override(config, ["run.iterations=13", "update.horizon=20"]).update.horizon == 20
    with pytest.raises(ValueError, match="shorten the warm-up"):
        override(config, ["update.warmup_iterations=12"])


@pytest.mark.parametrize("key", ["update.head_dtype", "rollout.engine.head_dtype"])
def test_trainer_and_engine_have_one_head(key: str) -> None:
    config = load(DEMO, [f"{key}=float32"])
    assert config.update.head_dtype == config.rollout.engine.head_dtype == "float32"
    assert override(config, ["run.iterations=3"]).update.head_dtype == "float32"
    other = ({"update.head_dtype", "rollout.engine.head_dtype"} - {key}).pop()
    with pytest.raises(ValueError, match=r"head_dtype .*differ.*set both alike"):
        load(DEMO, [f"{key}=float32", f"{other}=same"])
    assert "head_dtype" not in slice_of(load(DEMO).update) | slice_of(load(DEMO).rollout.engine)


def test_a_penalty_on_length_must_fit() -> None:
    shaped = ["select.truncated=shaped"]
    assert load(DEMO, shaped).select.overlong_tokens is None
    for more, words in (
        ("select.overlong_tokens=100000", "exceeds rollout.max_tokens"),
        ("select.advantage=maxrl", "for rewards that are never negative"),
    ):
        with pytest.raises(ValueError, match=words):
            load(DEMO, [*shaped, more])
        load(DEMO, [more])


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    for path, words in ((tmp_path / "none.toml", "no such configuration"), (tmp_path, "folder")):
        with pytest.raises(ValueError, match=words):
            load(path)
    broken = tmp_path / "broken.toml"
    broken.write_text("[run\n")
    with pytest.raises(ValueError, match="not valid TOML"):
        load(broken)


def test_operational_and_source_fields_are_no_part_of_a_fingerprint() -> None:
    config = load(DEMO)
    part = slice_of(config.prompts)
    assert "batch_size" in part
    assert "problems" not in part
    assert "seconds" not in slice_of(config.rollout)
    assert "cpu_threads" not in slice_of(config.rollout)["engine"]


def test_sections_do_not_change() -> None:
    config = load(DEMO)
    assert isinstance(config, Section)
    with pytest.raises(ValueError, match="frozen"):
        config.run.seed = 1  # type: ignore[misc]


def test_a_seed_a_part_is_for_engines_of_our_own() -> None:
    assert slice_of(load(DEMO, ["rollout.seeding=part"]).rollout)["seeding"] == "part"
    with pytest.raises(ValueError, match=r"leave out rollout\.endpoints, or set rollout\.seeding"):
        load(DEMO, ["rollout.seeding=part", 'rollout.endpoints=["http://gpu-1:8000"]'])
