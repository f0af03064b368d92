"""What each stage reads: every key of the configuration, and what changing it makes again."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import stubs
import yaml
from pydantic import BaseModel

from icpo.flows import stage as stage_flows
from icpo_core.config import Benchmark, Config, Section, build, override
from icpo_core.grading.grade import GradingRules
from icpo_core.run import perform, plan
from icpo_core.run.run import Run
from icpo_core.run.session import Session, Tools
from icpo_core.run.stages import STAGES, prompts, verify
from icpo_core.store import tables
from icpo_core.store.work import Standing

NOBODY = frozenset[str]()
TOGETHER = {"update.head_dtype", "rollout.engine.head_dtype"}
"""Keys that must have the same value."""
ROUNDS = {
    "prompts.fill", "prompts.k_growth", "rollout.steer", "rollout.steer_below",
    "rollout.steer_horizon", "rollout.expert_tries",
}  # fmt: skip

# Which stages read a key, by the longest prefix that is here. A new key of a section is read by its
# stage unless it is named here; a new section has to be.
READERS: dict[str, frozenset[str]] = {
    "run.seed": frozenset({"prompts", "rollout", "select"}),
    "prompts": frozenset({"prompts"}),
    "rollout": frozenset({"rollout"}),
    "verify": frozenset({"verify"}),
    "select": frozenset({"select"}),
    "loss": frozenset({"update"}),
    # The prompt that a row of the batch stands behind, and by whose terms it is learned.
    "loss.expert_context": frozenset({"select", "update"}),
    "update": frozenset({"update"}),
    "evaluate": frozenset({"evaluate"}),
    # How a bare prompt is put is the same in training and in evaluation.
    "prompts.format": frozenset({"prompts", "evaluate"}),
    "prompts.thinking": frozenset({"prompts", "evaluate"}),
    "prompts.instruction": frozenset({"prompts", "evaluate"}),
    "prompts.system": frozenset({"prompts", "evaluate"}),
    "prompts.fewer": NOBODY,
    "prompts.joiner": frozenset({"prompts", "evaluate"}),
    "prompts.question_template": frozenset({"prompts", "evaluate"}),
    "prompts.example_template": frozenset({"prompts", "evaluate"}),
    # Logprobs are those of the temperature that was sampled at.
    "rollout.temperature": frozenset({"rollout", "update"}),
    # Traces come with the prompts, and examples only where they are used.
    "rollout.expert_source": frozenset({"prompts", "rollout"}),
    # An expert prompt a try; batches that are drawn, sampled and selected from.
    "rollout.expert_tries": frozenset({"prompts", "rollout"}),
    "prompts.fill": frozenset({"prompts", "rollout", "select"}),
    # Problems whose groups go on stand in the next prompts: see test_partial.
    "rollout.partial_tokens": frozenset({"prompts", "rollout"}),
    # Evaluation samples on the same engine and is judged by the same pool.
    "rollout.engine": frozenset({"rollout", "evaluate"}),
    "rollout.lora": frozenset({"rollout", "evaluate"}),
    "rollout.deterministic": frozenset({"rollout", "evaluate"}),
    "verify.seconds": frozenset({"verify", "evaluate"}),
    "verify.memory_mb": frozenset({"verify", "evaluate"}),
    "verify.verifier": frozenset({"verify", "evaluate"}),
    "verify.rewards": frozenset({"verify", "evaluate"}),
    # How the work is done, where, for how long, and what is kept: no result changes.
    "preset": NOBODY,
    "run": NOBODY,
    "checkpoint": NOBODY,
    "rollout.engines": NOBODY,
    # Decides which policy samples, and that is an input: see `test_one_step_off_policy_…`.
    "rollout.off_policy_steps": NOBODY,
    "rollout.endpoints": NOBODY,
    "rollout.max_logprob_gap": NOBODY,
    "rollout.python": NOBODY,
    "rollout.seconds": NOBODY,
    "rollout.start_seconds": NOBODY,
    "rollout.engine.gpu_memory_utilization": NOBODY,
    "rollout.engine.cpu_kv_cache_gib": NOBODY,
    "rollout.engine.cpu_threads": NOBODY,
    "verify.workers": NOBODY,
    "verify.max_failure_rate": NOBODY,
    "verify.trusted": NOBODY,
    "verify.retries": NOBODY,
    "verify.pool": NOBODY,
    "verify.pool_seconds": NOBODY,
    "update.hostfile": NOBODY,
    "update.rendezvous": NOBODY,
    "update.max_logprob_gap": NOBODY,
    "update.python": NOBODY,
    "update.threads": NOBODY,
    "update.seconds": NOBODY,
    "update.start_seconds": NOBODY,
    "evaluate.every": NOBODY,
    "evaluate.at_start": NOBODY,
}

# Files are read for what is in them: see `test_data_counts_by_content_not_by_place`.
SOURCES = {
    "model.path", "prompts.problems", "prompts.demonstrations", "prompts.exclude",
    "evaluate.benchmarks.0.problems",
}  # fmt: skip


def leaves(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of the configuration with its annotation; those of a benchmark as of the first."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from leaves(kind, f"{prefix}{name}.")
        elif kind == list[Benchmark]:
            yield from leaves(Benchmark, f"{prefix}{name}.0.")
        else:
            yield f"{prefix}{name}", kind


KEYS = dict(leaves())


def readers(key: str) -> frozenset[str]:
    parts = key.split(".")
    for length in range(len(parts), 0, -1):
        if (found := READERS.get(".".join(parts[:length]))) is not None:
            return found
    raise AssertionError(f"who reads {key}?")


def others(kind: Any, value: Any) -> Iterator[Any]:
    """Values of another size, choice or kind than the present one."""
    if get_origin(kind) is Literal:
        yield from (choice for choice in get_args(kind) if choice != value)
    choices = [one for one in get_args(kind) if get_origin(one) is Literal]
    for choice in choices:
        yield from others(choice, value)
    if isinstance(value, bool) or bool in get_args(kind):
        yield not value
    elif isinstance(value, int | float):
        yield from (value * 2, value + 1, value - 1, value / 2, 0.5, 4)
    elif isinstance(value, str):
        yield from (f"{value}x", "none", "rloo", "cispo", "choice")
        yield "icpo_core.engine.kinds.vllm:vllm"
    elif isinstance(value, list):
        yield from ([one / 2 for one in value if isinstance(one, float)], [])
        yield from (["tensorboard"], ["http://127.0.0.1:1"], [{"name": "answer"}])
    elif isinstance(value, dict):
        yield {"zero_optimization": {"stage": 1}}
    elif value is None:
        yield from (1, 1.5, 0.5, "heldout")


def changed(config: Config, key: str) -> Config:
    """The configuration with another value of one key, the first that is possible."""
    for value in others(KEYS[key], at(config, key)):
        raw = config.model_dump(mode="json")
        part: Any = raw
        *way, last = key.split(".")
        for step in way:
            part = part[int(step) if step.isdigit() else step]
        part[last] = value
        try:
            made = build(raw, key)
        except ValueError:
            continue
        if at(made, key) != at(config, key):
            return made
    raise AssertionError(f"no other value of {key} is possible; its present one is {value!r}")


def at(config: Config, key: str) -> Any:
    part: Any = config.model_dump(mode="json")
    for step in key.split("."):
        part = part[int(step) if step.isdigit() else step]
    return part


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    # Without any decay it would not matter what it is for.
    decay = "update.weight_decay=0.01"
    run = Run.of(stubs.configuration(folder, "run", "run.iterations=2", decay))
    with stubs.stubbed(run) as session:
        stubs.train(session)
    return run.paths.root


# Reruns other stages than its own, or says nothing where training is judged by `math`: see
# `test_one_step_off_policy_…`, and test_own_reward. What makes rounds: test_rounds. What an engine
# samples from needs an adapter: `test_what_an_engine_samples_from`; where ranks meet, a hostfile;
# what fades, a teacher: test_teach.
ELSEWHERE = {
    "rollout.off_policy_steps", "evaluate.verifier", "rollout.lora", "update.rendezvous", *ROUNDS,
    *TOGETHER, "rollout.partial_tokens", "loss.distill.schedule", "loss.distill.horizon",
}  # fmt: skip


@pytest.mark.parametrize("key", sorted(KEYS.keys() - SOURCES - ELSEWHERE))
def test_changing_a_key_makes_again_just_the_stages_that_read_it(key: str, trained: Path) -> None:
    """For every key there is: of a finished run, with one key changed, exactly the stages that
    read the key are stale, for that key; what depends on them is judged when they are made."""
    config = changed(Run.read(trained).config, key)
    # Whether iterations have an evaluation is no matter of how it is made.
    found: dict[str, set[str]] = {stage: set() for stage in STAGES}
    run = Run.of(config, trained)
    for step in plan.plan(run, last=2):
        if step.status.standing is not Standing.DONE and step.status.manifest is not None:
            found[step.stage].add(step.status.reason)
    stale = {stage for stage, reasons in found.items() if reasons}
    assert stale == readers(key)
    for stage in stale:
        assert len(found[stage]) == 1, "the same reason in every iteration"
        words = found[stage].pop().removeprefix("evaluate.benchmarks")
        assert key.rpartition(".")[2] in words or "benchmarks" in key


def test_keys_that_change_together(trained: Path) -> None:
    changes = [f"{key}=float32" for key in sorted(TOGETHER)]
    run = Run.of(override(Run.read(trained).config, changes), trained)
    stale = {step.stage for step in plan.plan(run) if step.status.standing is Standing.STALE}
    assert stale == {stage for key in TOGETHER for stage in readers(key)}


def test_what_an_engine_samples_from(trained: Path) -> None:
    trains = override(Run.read(trained).config, ["update.lora.rank=4"])
    serves = override(trains, ["rollout.lora=adapter"])
    for stage in STAGES:
        differs = plan.config_slice(trains, stage) != plan.config_slice(serves, stage)
        assert differs == (stage in readers("rollout.lora"))


def test_where_ranks_meet_is_read_by_nobody(trained: Path) -> None:
    here = override(Run.read(trained).config, ["update.hostfile=hosts"])
    there = override(here, ["update.rendezvous=10.0.0.1:29500"])
    for stage in STAGES:
        assert plan.config_slice(here, stage) == plan.config_slice(there, stage)


def test_the_marks_are_those_of_the_table() -> None:
    """Operational keys are those that nobody reads, and sources are known."""
    marks = dict(marked())
    assert {key for key, mark in marks.items() if mark == "source"} == SOURCES
    nobody = {key for key in KEYS.keys() - SOURCES if not readers(key)}
    assert {key for key, mark in marks.items() if mark == "operational"} == nobody


def marked(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, field in model.model_fields.items():
        kind, extra = field.annotation, field.json_schema_extra
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from marked(kind, f"{prefix}{name}.")
        elif kind == list[Benchmark]:
            yield from marked(Benchmark, f"{prefix}{name}.0.")
        elif isinstance(extra, dict):
            yield f"{prefix}{name}", str(extra["mark"])


def test_no_stage_reads_what_its_fingerprint_does_not_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every access to the configuration while a stage works, or is worked for ahead of it, is
    recorded: a key that a stage reads and that is neither operational nor in its fingerprint would
    change results unseen."""
    run = Run.of(stubs.configuration(tmp_path, "run", "run.iterations=1", "evaluate.every=1"))
    names = dict(sections(run.config))
    reading = threading.local()
    seen: dict[str, set[str]] = {stage: set() for stage in STAGES}

    def record(self: BaseModel, name: str) -> Any:
        into = getattr(reading, "into", None)
        if into is not None and id(self) in names and name in type(self).model_fields:
            into.add(f"{names[id(self)]}{name}")
        return object.__getattribute__(self, name)

    plain_dump = BaseModel.model_dump

    def dump(self: BaseModel, **options: Any) -> dict[str, Any]:
        made = plain_dump(self, **options)
        into = getattr(reading, "into", None)
        if into is not None and id(self) in names:
            into |= {f"{names[id(self)]}{key}" for key in flat(made)}
        return made

    def recorded(stage: str, function: Any) -> Any:
        def work(*given: Any) -> Any:
            before, reading.into = getattr(reading, "into", None), seen[stage]
            made = function(*given)
            reading.into = before
            return made

        return work

    for kind in (Section, GradingRules):
        monkeypatch.setattr(kind, "__getattribute__", record)
        monkeypatch.setattr(kind, "model_dump", dump)
    for stage, spec in list(STAGES.items()):
        monkeypatch.setitem(STAGES, stage, replace(spec, make=recorded(stage, spec.make)))
    for stage, module, name in (
        ("verify", verify, "Chain"),
        ("verify", verify.Chain, "_judge"),
        ("prompts", prompts, "make_ahead"),
        ("prompts", Tools.prompt_maker, "func"),  # made before the first stage
    ):
        monkeypatch.setattr(module, name, recorded(stage, getattr(module, name)))
    with stubs.stubbed(run) as session:
        stubs.train(session)

    for stage in STAGES:
        allowed = {key for key in KEYS.keys() - SOURCES if not readers(key)} | SOURCES
        allowed |= {key for key in KEYS.keys() - SOURCES if stage in readers(key)}
        if stage == "prompts":
            allowed.add("rollout.expert")  # whether there are any
        if stage == "update":
            allowed.add("rollout.lora")  # for a line on the terminal
        if stage == "evaluate":
            allowed.add("prompts.expert_format")  # of prompts that an evaluation has none of
        if stage == "checkpoint":
            allowed.add("loss.policy")  # held against what replayed updates learned with
        assert (seen[stage] & KEYS.keys()) <= allowed, stage
    assert {"prompts.batch_size", "prompts.question_template"} <= seen["prompts"]
    assert {"verify.seconds", "verify.rules.extraction"} <= seen["verify"]
    assert {"select.errs", "select.delta", "run.seed"} <= seen["select"]
    assert {"evaluate.temperature", "evaluate.max_tokens"} <= seen["evaluate"]


def flat(part: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Every key of what was dumped, with dots."""
    for name, value in part.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        yield f"{prefix}{name}"


def sections(part: BaseModel, prefix: str = "") -> Iterator[tuple[int, str]]:
    """Every section of a configuration, by identity, with what stands before its keys."""
    yield id(part), prefix
    for name in type(part).model_fields:
        value = getattr(part, name)
        if isinstance(value, BaseModel):
            yield from sections(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            for number, one in enumerate(value):
                if isinstance(one, BaseModel):
                    yield from sections(one, f"{prefix}{name}.{number}.")


def test_what_comes_out_the_same_stops_the_wave(trained: Path, tmp_path: Path) -> None:
    """A key that changes nothing after all: its stage is made again, what reads it is kept."""
    root = tmp_path / "runs" / "run"
    shutil.copytree(trained, root, symlinks=True)
    raw = Run.read(root).config.model_dump(mode="json")
    raw["select"]["delta"] = 0.5  # rewards are 0 and 1
    changed_run = Run.of(build(raw, "test"), root)
    with stubs.stubbed(changed_run) as session:
        outcomes = stubs.train(session, rerun=True)
    assert stubs.made(outcomes) == ["it-0001/select", "it-0002/select"]


def test_what_depends_on_a_change_follows(trained: Path, tmp_path: Path) -> None:
    root = tmp_path / "runs" / "run"
    shutil.copytree(trained, root, symlinks=True)
    raw = Run.read(root).config.model_dump(mode="json")
    raw["loss"]["expert_lambda"] = 0.1
    changed_run = Run.of(build(raw, "test"), root)
    steps = plan.plan(changed_run)
    stale = [step for step in steps if step.status.standing is Standing.STALE]
    assert [(step.stage, step.iteration) for step in stale] == [("update", 1), ("update", 2)]
    assert stale[0].status.reason == "loss.expert_lambda 0.01 -> 0.1"
    later = {f"it-{step.iteration:04d}/{step.stage}" for step in steps if step.after}
    assert later >= {"it-0001/checkpoint", "it-0002/rollout", "it-0002/select"}
    assert "it-0002/prompts" not in later
    with stubs.stubbed(changed_run) as session:
        made = stubs.made(stubs.train(session, rerun=True))
    # Other weights: other rollouts, and all that comes of them. The prompts are the same.
    assert made[:2] == ["it-0001/update", "it-0001/checkpoint"]
    assert "it-0002/prompts" not in made
    assert {"it-0002/rollout", "it-0002/verify", "it-0002/update"} <= set(made)


OFF_POLICY = ["rollout.off_policy_steps=1", "update.old_logprobs=engine"]


def test_one_step_off_policy_samples_from_the_policy_before(tmp_path: Path) -> None:
    run = Run.of(stubs.configuration(tmp_path, "run", *OFF_POLICY, "run.iterations=4"))
    with stubs.stubbed(run) as session:
        stubs.train(session)
        versions = [run.base_version]
        versions += [str(run.store.finished("update", n).policy_version) for n in (1, 2, 3)]
        for number, sampled in {1: 0, 2: 0, 3: 1, 4: 2}.items():
            rows = run.store.table("rollout", number, "rollout")
            assert set(rows["policy_version"].to_pylist()) == {versions[sampled]}
            work = plan.work(run, "rollout", number)
            assert work.inputs["policy"] == versions[sampled]
            assert run.paths.place("update", number - 1) not in work.parents.values()
    on_policy = build(run.config.model_dump(mode="json") | {"rollout": {
        **run.config.rollout.model_dump(), "off_policy_steps": 0,
    }}, "test")  # fmt: skip
    steps = plan.plan(Run.of(on_policy, run.paths.root))
    stale = [step for step in steps if step.status.standing is Standing.STALE]
    assert [(one.stage, one.iteration) for one in stale] == [("rollout", n) for n in (2, 3, 4)]
    assert stale[0].status.reason.startswith("input policy")


def test_one_step_off_policy_a_batch_does_not_come_after_the_update_before(tmp_path: Path) -> None:
    more = ["run.iterations=4", "checkpoint.keep_last=4"]
    run = Run.of(stubs.configuration(tmp_path, "run", *OFF_POLICY, *more))
    with stubs.stubbed(run) as session:
        stubs.train(session)
    raw = run.config.model_dump(mode="json")
    raw["loss"]["expert_lambda"] = 0.1
    changed_run = Run.of(build(raw, "test"), run.paths.root)
    after = {(one.stage, one.iteration): one.after for one in plan.plan(changed_run)}
    for stage in ("rollout", "verify", "select"):
        assert after[stage, 2] is None, "sampled from the base model"
        assert after[stage, 3] == "it-0001/update"
    assert after["update", 2] == "it-0001/update"
    session = Session(changed_run)
    ahead = [perform.samples_ahead(session, number) for number in (1, 2, 3, 4)]
    assert ahead == [True, True, True, False]


def test_data_counts_by_content_not_by_place(trained: Path, tmp_path: Path) -> None:
    """Moving a problem set or the model makes nothing again; changing what is in them does."""
    config = Run.read(trained).config

    def stale(**sources: str) -> set[str]:
        raw = config.model_dump(mode="json")
        for name, path in sources.items():
            if name == "model":
                raw["model"]["path"] = path
            elif name == "benchmark":
                raw["evaluate"]["benchmarks"][0]["problems"] = path
            elif name == "exclude":
                raw["prompts"]["exclude"] = [path]
            else:
                raw["prompts"][name] = path
        steps = plan.plan(Run.of(build(raw, "test"), trained), last=1)
        return {step.stage for step in steps if step.status.standing is Standing.STALE}

    files = {
        "problems": Path(config.prompts.problems),
        "demonstrations": Path(str(config.prompts.demonstrations)),
        "exclude": Path(config.prompts.exclude[0]),
        "benchmark": Path(config.evaluate.benchmarks[0].problems),
    }
    for name, file in files.items():
        moved, other = tmp_path / f"{name}.parquet", tmp_path / f"{name}-other.parquet"
        shutil.copy(file, moved)
        assert stale(**{name: str(moved)}) == set()
        tables.write("problems", tables.read("problems", file)[:-1], other)
        assert stale(**{name: str(other)}) == {"evaluate" if name == "benchmark" else "prompts"}
    model = tmp_path / "base"
    shutil.copytree(config.model.path, model)
    assert stale(model=str(model)) == set()
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(settings | {"rope_theta": 5.0}))
    assert stale(model=str(model)) == {"rollout", "update", "evaluate"}


def test_stages_depend_on_those_before_them(tmp_path: Path) -> None:
    """Each on all that led to it, `evaluate` and `checkpoint` both on the update and on nothing of
    each other."""
    chain = ("prompts", "rollout", "verify", "select", "update")
    expected = {stage: chain[:number] for number, stage in enumerate(chain)}
    expected |= {"evaluate": chain, "checkpoint": chain, "teach": ("prompts", "rollout")}
    for name, changes in (("on", []), ("off", OFF_POLICY)):
        run = Run.of(stubs.configuration(tmp_path, name, *changes))
        for number in (1, 2, 3):
            assert {stage: plan.before(run, stage, number) for stage in STAGES} == expected
            assert plan.leaves(run, number) == ("evaluate", "checkpoint")
        assert plan.before(run, "evaluate", 0) == ()
        # Of other iterations they read only updates.
        others = {one for stage in STAGES for one in plan.reads(run, stage, 3) if one[1] != 3}
        assert others == {("update", 2)} | ({("update", 1)} if changes else set())
        assert plan.reads(run, "rollout", 1) == [("prompts", 1)]


def test_every_stage_has_a_deployment_and_no_other_has_one(root: Path) -> None:
    made = yaml.safe_load((root / "prefect.yaml").read_text())["deployments"]
    entry = "icpo.flows.stage."
    of_stages = [one for one in made if one["entrypoint"].startswith(entry)]
    assert [one["entrypoint"].removeprefix(entry) for one in of_stages] == list(STAGES)
    for one in of_stages:
        name = one["name"]
        assert one["entrypoint"] == entry + name
        assert getattr(stage_flows, name) is stage_flows.STAGE_FLOWS[name]
        words = " ".join(one["description"].split())
        assert words.startswith(STAGES[name].about), "the UI says of a stage what it says itself"


def test_reasons_are_named_up_to_three(trained: Path) -> None:
    raw = Run.read(trained).config.model_dump(mode="json")
    raw["select"] |= {"alpha": 2.0, "delta": 0.25, "decay": 1.0, "advantage": "rloo"}
    steps = plan.plan(Run.of(build(raw, "test"), trained))
    reason = next(step.status.reason for step in steps if step.stage == "select")
    assert reason.startswith("select.advantage group -> rloo, select.alpha 1.0 -> 2.0, select.d")
    assert reason.endswith("and 1 more")


def test_a_plan_changes_nothing(trained: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    plan.plan(Run.read(trained))
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before
