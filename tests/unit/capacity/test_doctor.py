"""`icpo doctor`: this machine, described machines, and what to change where a run does not fit."""

import json
import os
import shlex
import shutil
import socket
from itertools import pairwise
from pathlib import Path

import pytest
from places import DEMO, ROOT
from prefect.settings import PREFECT_API_URL, temporary_settings

from icpo.flows.cli import main
from icpo_core.capacity import doctor, machine
from icpo_core.capacity.doctor import Level
from icpo_core.capacity.forecast import forecast
from icpo_core.config import load, override
from icpo_core.method import published
from icpo_core.models.architecture import KNOWN, shape_of
from icpo_core.run import sources
from icpo_core.run.run import Run

PAPER = [one for one in sorted(ROOT.glob("configs/paper/*.toml")) if "released" not in one.stem]
EIGHT = ROOT / "configs" / "machines" / "eight-h100.toml"
SMALL_GPU = ROOT / "configs" / "machines" / "one-24gb.toml"


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict]:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", *words, "--json"])
    return int(ended.value.code or 0), json.loads(capsys.readouterr().out)


def failures(said: dict) -> dict[str, str]:
    return {one["what"]: one["said"] for one in said["findings"] if one["level"] == "fail"}


@pytest.fixture(autouse=True)
def _no_prefect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.chdir(tmp_path)


def test_this_machine_and_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    status, said = run(capsys, str(DEMO))
    levels = {one["what"]: one["level"] for one in said["findings"]}
    for what in ("versions", "shared memory", "model", "problems", "demonstrations", "disk"):
        assert levels[what] != "fail", said["findings"]
    assert status == int("fail" in levels.values())
    assert said["estimate"]["parameters"] == 603_584
    assert said["estimate"]["seconds"] is None  # no rates are known
    assert not Path("runs").exists()


@pytest.mark.parametrize("file", PAPER, ids=lambda file: file.stem)
def test_the_papers_recipes_fit_eight_h100(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, said = run(capsys, str(file), "--dry-run", str(EIGHT))
    assert failures(said) == {}
    assert status == 0
    found = said["estimate"]
    assert [len(found["engines"]), found["ranks"]] == [8, 8]
    assert len({name for engine in found["engines"] for name in engine}) == 8
    for load_ in found["memory"]:
        assert all(value >= 0 for value in load_["parts"].values())


def notes(*changes: str) -> list[str]:
    return [one.said for one in doctor.check_method(load(DEMO, list(changes)))]


PUBLISHED = sorted(path.stem for path in (ROOT / "configs" / "presets").glob("*.toml"))


@pytest.mark.parametrize("preset", PUBLISHED)
def test_presets_need_no_note(preset: str) -> None:
    assert notes(f"preset={preset}") == []


@pytest.mark.parametrize("policy", ["gspo", "cispo"])
def test_what_a_policy_loss_alone_lacks_is_said(policy: str) -> None:
    (said,) = notes(f"loss.policy={policy}")
    missing = shlex.split(said)
    changes = [word.strip(",") for before, word in pairwise(missing) if before == "-o"]
    assert len(changes) >= 2
    assert notes(f"loss.policy={policy}", *changes) == []


@pytest.mark.parametrize(
    "changes",
    [
        "select.bonus=linear select.bonus_on=advantage",
        "select.bonus=linear rollout.expert=0",
        "select.advantage=rloo",
        "select.advantage=group-mean rollout.expert=0",
        "loss.aggregation=constant rollout.expert=0",
        "rollout.expert_source=traces",
        "rollout.expert_source=traces select.errs=off select.bonus=linear",
        "update.old_logprobs=engine loss.correction=truncate",
        "preset=gspo loss.correction=mask",
        "preset=dr-grpo select.advantage=group",
    ],
)
def test_a_combination_is_no_published_method_until_what_is_said_is_done(changes: str) -> None:
    (said,) = notes(*changes.split())
    assert "no published method" in said
    words = said.split()
    wanted = [word for before, word in pairwise(words) if before == "-o"]
    assert wanted
    assert notes(*changes.split(), *wanted) == []


@pytest.mark.parametrize(
    "changes",
    [
        "select.bonus_on=advantage",
        "select.bonus=linear",
        "select.bonus=constant select.errs=off",
        "update.old_logprobs=engine",
        "preset=gspo loss.correction=sequence-mask",
        "select.advantage=./mine.py:own",
        "rollout.expert=0 select.advantage=rloo",
    ],
)
def test_what_is_published_or_ones_own_is_not_noted(changes: str) -> None:
    assert notes(*changes.split()) == []


def test_what_ships_is_published() -> None:
    for file in (ROOT / "configs").glob("**/*.toml"):
        if file.parent.name in ("configs", "paper"):
            assert not list(published.notes(load(file))), file


@pytest.mark.parametrize("name", ["one-gpu", "one-gpu-lora"])
def test_the_recipe_for_one_gpu_fits_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = ROOT / "configs" / f"{name}.toml"
    status, said = run(capsys, str(file), "--dry-run", str(SMALL_GPU))
    assert (status, failures(said)) == (0, {})


@pytest.mark.parametrize("config", ["qwen3-1.7b", "qwen3-8b"])
def test_what_to_change_makes_it_fit(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The options that it names are taken at their word."""
    file = ROOT / "configs" / "paper" / f"{config}.toml"
    status, said = run(capsys, str(file), "--dry-run", str(SMALL_GPU))
    assert status == 1
    update = failures(said)["memory, update"]
    if config == "qwen3-8b":
        assert "take a smaller model" in update
        return
    options = shlex.split(update.partition("what fits: ")[2])
    assert "rollout.engine.gpu_memory_utilization=" in update
    changed = [word.replace("=configs/", f"={ROOT}/configs/") for word in options]
    status, said = run(capsys, str(file), *changed, "--dry-run", str(SMALL_GPU))
    assert failures(said) == {}
    assert status == 0


def test_time_from_stated_rates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stated = tmp_path / "machine.toml"
    rates = "sample_tokens_per_second = 4000\ntrain_tokens_per_second = 8000\n"
    rates += "response_tokens = 4000\nprompt_tokens = 200\n"
    stated.write_text(EIGHT.read_text() + f"\n[rates]\n{rates}")
    _, said = run(capsys, str(ROOT / "configs/paper/qwen3-1.7b.toml"), "--dry-run", str(stated))
    found = said["estimate"]["seconds"]
    weights = 2 * KNOWN["Qwen/Qwen3-1.7B"].parameters / 2**30
    assert found["rollout"] == pytest.approx(1024 * 4000 / (8 * 4000) + weights)
    # One pass, and a third each for the reference, the old policy and activations made again.
    assert found["update"] == pytest.approx(1024 * 4200 * 2 / (8 * 8000) + 2 * weights)
    # avg@32 on 100 problems and one sample each of 500 + 272 + 675, every tenth iteration.
    samples = 32 * 100 + 500 + 272 + 675
    assert found["evaluate"] == pytest.approx(samples * (4000 / 32000 + 1 / 800) / 10)


def test_a_machine_file_with_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "machine.toml"
    for text, words in (
        (EIGHT.read_text() + "cors = 4", "host.cors: unknown key; did you mean cores"),
        ("[devices]\ncount = -1", "devices.count: input should be greater"),
        ("[devices]\ncount = 1", "host: field required"),
    ):
        file.write_text(text)
        with pytest.raises(SystemExit) as ended:
            main(["doctor", str(DEMO), "--dry-run", str(file)])
        assert ended.value.code == 2
        line = capsys.readouterr().err.strip()
        assert words in line
        assert "\n" not in line
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--dry-run", str(EIGHT)])
    assert ended.value.code == 2
    assert "name a configuration" in capsys.readouterr().err


NVIDIA_SMI = """#!/bin/sh
# Prints what NVIDIA documents of its own.
case "$1" in
  --query-gpu=index) printf '0\\n1\\n' ;;
  --query-gpu=index,memory.total,name)
    printf '0, 24564, NVIDIA GeForce RTX 4090\\n1, 24564, NVIDIA GeForce RTX 4090\\n' ;;
  --query-gpu=compute_cap) printf '7.5\\n7.5\\n' ;;
  --query-gpu=driver_version) printf '550.54.15\\n550.54.15\\n' ;;
  "") echo '| NVIDIA-SMI 550.54.15   Driver Version: 550.54.15   CUDA Version: 12.4     |' ;;
esac
"""


def test_gpus_by_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(NVIDIA_SMI)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    there = machine.here(tmp_path)
    assert (there.devices.count, there.devices.name) == (2, "NVIDIA GeForce RTX 4090")
    assert there.devices.memory_gib == pytest.approx(23.99, abs=0.01)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert machine.here(tmp_path).devices.count == 1

    def said(cuda: str | None) -> dict[str, tuple[Level, str]]:
        monkeypatch.setattr(doctor, "_torch_cuda", lambda: cuda)
        return {one.what: (one.level, one.said) for one in doctor.check_machine(there)}

    assert "driver 550.54.15" in said("12.4")["devices"][1]
    assert "driver" not in said("12.4")
    level, line = said("13.0")["driver"]
    assert level is Level.FAIL
    assert "torch is built for CUDA 13.0, the driver goes up to 12.4" in line
    assert "make setup ENGINE=gpu" in said(None)["torch"][1]
    [rollout, update] = switches(there)
    assert rollout.level is Level.FAIL
    assert "compute capability 8.0, and this one has 7.5" in rollout.said
    assert "benchmarks.gpu" in update.said


def switches(there: machine.Machine, *changes: str) -> list[doctor.Finding]:
    both = ["rollout.deterministic=true", "update.deterministic=true"]
    return list(doctor.check_deterministic(load(DEMO, [*both, *changes]), there))


def test_deterministic_switches_are_told_what_they_come_to(tmp_path: Path) -> None:
    alone = machine.here(tmp_path).model_copy(update={"devices": machine.Devices()})
    [rollout, update] = switches(alone)
    assert {rollout.level, update.level} == {Level.NOTE}
    assert "no batch-invariant kernels for the CPU" in rollout.said
    [served, _] = switches(alone, "rollout.endpoints=['http://gpu-1:8000']")
    assert "VLLM_BATCH_INVARIANT=1" in served.said
    assert not list(doctor.check_deterministic(load(DEMO), alone))


def test_lengths_and_heads() -> None:
    config = load(ROOT / "configs" / "paper" / "qwen2.5-math-7b.toml")
    short = override(config, ["model.path=Qwen/Qwen2.5-Math-7B"])
    there = machine.read(EIGHT)
    said = {
        one.what: one.said
        for one in doctor.check_run(short, there, forecast(short, there))
        if one.level is Level.FAIL
    }
    assert "the model was made for 4096 tokens" in said["lengths"]
    wide = override(config, ["rollout.engine.tensor_parallel=8"])
    levels = [one.what for one in doctor.check_run(wide, there, forecast(wide, there))]
    assert "tensor_parallel" in levels  # 28 heads


def test_models_that_are_not_known() -> None:
    with pytest.raises(ValueError, match=r"hf download nobody/knows"):
        shape_of("nobody/knows")


def test_missing_sources(small: Path) -> None:
    config = load(DEMO, ["prompts.problems=/nowhere.parquet", "model.path=/nowhere"])
    found = list(doctor.check_sources(config, shape_of(str(small / "base"))))
    failed = {one.what: one.said for one in found if one.level is Level.FAIL}
    assert "no such file" in failed["problems"]


def test_what_a_model_says_of_its_tokens(tmp_path: Path, small: Path) -> None:
    """By the doctor and at a run's start alike: faults stop it, what should be known is said."""
    folder = tmp_path / "model"
    shutil.copytree(small / "base", folder)
    shape = shape_of(str(folder))

    def said(**changes: object) -> tuple[list[tuple[Level, str]], Run]:
        config = json.loads((small / "base" / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))
        run = Run.of(load(DEMO, [f"model.path={folder}", f"run.directory={tmp_path}"]))
        found = doctor.check_sources(run.config, shape)
        return [(one.level, one.said) for one in found if one.what == "tokens"], run

    found, run = said()
    assert (found, sources.require(run)) == ([], [])
    found, run = said(vocab_size=128)
    assert [level for level, _ in found] == [Level.NOTE]
    assert sources.require(run) == [found[0][1]]
    assert found[0][1].startswith("29 of 128 ids are no token of the tokenizer")
    found, run = said(pad_token_id=-1)
    assert [level for level, _ in found] == [Level.FAIL]
    with pytest.raises(ValueError, match="pad_token_id = -1 is none"):
        sources.require(run)
    (folder / "generation_config.json").write_text('{"eos_token_id": [5, 1]}')
    found, run = said()
    assert "generation config 5" in sources.require(run)[0] == found[0][1]


def test_endpoints_instead_of_engines() -> None:
    """No engine's memory on this machine, and what does not answer is said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    config = load(
        ROOT / "configs" / "paper" / "qwen3-8b.toml",
        [f'rollout.endpoints=["{address}"]', "rollout.engines=1"],
    )
    found = forecast(config, machine.read(EIGHT))
    assert [load_.stage for load_ in found.loads] == ["update", "machine"]
    assert not any(name.startswith("engine") for name in found.loads[0].parts)
    (said,) = doctor.check_hosts(config)
    assert (said.level, said.what) == (Level.FAIL, "endpoint")
    assert address in said.said


def test_requirements_that_are_not_met() -> None:
    """Of what is installed here nothing is amiss; a distribution that asks for more is told."""
    assert doctor.unmet("prefect") == []
    assert doctor.unmet("icpo") == []


def test_prefect_that_does_not_answer(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}):
        status, said = run(capsys)
    assert status == 1
    assert "does not answer (ConnectError): start it with icpo up" in failures(said)["Prefect"]


def test_disk_and_shared_memory_that_are_too_small(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "machine.toml"
    text = EIGHT.read_text().replace("disk_free_gib = 4000", "disk_free_gib = 100")
    file.write_text(text.replace("shared_memory_gib = 500", "shared_memory_gib = 0.0625"))
    status, said = run(capsys, str(PAPER[0]), "--dry-run", str(file))
    assert status == 1
    assert "100.0 are free: set run.directory elsewhere" in failures(said)["disk"]
    assert "docker run --shm-size" in failures(said)["shared memory"]
