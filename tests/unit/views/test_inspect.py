"""`icpo ls`, `show`, `diff`, `lineage`, `check`, `gc`, `plan`: what they say, also in JSON; and
what the documentation tells people to ask of the Parquet."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest
import stubs
from console_lines import without_waiting
from places import ROOT

from icpo.flows import cli
from icpo.flows.commands import train
from icpo_core.common import files
from icpo_core.common.lock import RunLock
from icpo_core.run import branch
from icpo_core.run.perform import perform
from icpo_core.run.run import Run
from icpo_core.store.manifest import Manifest, read
from icpo_core.store.paths import RunPaths
from icpo_core.views import listing, rollouts

DOCS = ROOT / "docs" / "store.md"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs: `run`, and `side`, a branch of it with another rule for expert rollouts."""
    folder = tmp_path_factory.mktemp("inspect")
    changes = ["checkpoint.keep_last=2", "prompts.batch_size=6"]
    run = Run.of(stubs.configuration(folder, "run", *changes))
    with stubs.stubbed(run) as session:
        stubs.train(session)
    branch.create(run, "side", "select", 2, ["select.errs=off"])
    side = Run.named(folder / "runs" / "side")
    with stubs.stubbed(side) as session:
        stubs.train(session)
    return folder / "runs"


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    subprocess.run(["cp", "-a", str(made), str(tmp_path)], check=True)
    return tmp_path / "runs"


def icpo(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit status and what was said, on a wide terminal."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        cli.main([str(word) for word in words])
    said = capsys.readouterr()
    return int(end.value.code or 0), said.out, without_waiting(said.err)


def run_manifest(path: Path) -> Manifest:
    found = read(path)
    assert found is not None
    return found


def asked(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    status, out, err = icpo(capsys, *words, "--json")
    assert status == 0, err
    return json.loads(out)


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def test_show_says_what_a_run_cost(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every second of every stage once: paid, kept by resuming, or paid before the branch."""

    def seconds(root: Path, *stages: str) -> float:
        found = [run_manifest(path) for path in root.glob("it-*/*/manifest.json")]
        return sum(one.seconds for one in found if not stages or one.stage in stages)

    *rows, whole = asked(capsys, "show", runs / "run", "--cost")
    assert whole["seconds"] == pytest.approx(seconds(runs / "run"))
    assert whole["device_seconds"] == pytest.approx(
        seconds(runs / "run", "rollout", "update", "evaluate")
    )
    assert whole["tokens"] > 0
    assert (whole["resumed_seconds"], whole["inherited_seconds"]) == (0.0, 0.0)
    assert [row["stage"] for row in rows][:3] == ["prompts", "rollout", "verify"]

    side = asked(capsys, "show", runs / "side", "--cost")[-1]
    shared = side["inherited_seconds"]
    assert 0 < shared < seconds(runs / "run")
    assert shared + side["seconds"] == pytest.approx(seconds(runs / "side"))

    with stubs.stubbed(Run.read(runs / "run")) as session:  # goes on, and makes one stage again
        perform(session, "evaluate", 3, force=True)
    again = asked(capsys, "show", runs / "run", "--cost")[-1]
    mine = run_manifest(runs / "run" / "it-0003" / "evaluate" / "manifest.json").seconds
    assert again["resumed_seconds"] == pytest.approx(seconds(runs / "run") - mine)
    status, _, said = icpo(capsys, "show", runs / "run", "--cost", "--prompt", "1")
    assert (status, said.count("\n")) == (2, 1)
    assert "kept by resuming" in icpo(capsys, "show", runs / "run", "--cost")[1]


@pytest.mark.parametrize("given", ["3", "3-1", "a-b"])
def test_what_is_no_range_is_said(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = icpo(capsys, "stage", "verify", "runs/none", "--iterations", given)
    assert (status, err) == (
        2,
        f"icpo stage: --iterations {given}: write A-B, for example 1-40\n",
    )


def test_ls_lists_runs_and_iterations(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {one["name"]: one for one in asked(capsys, "ls", runs)}
    assert found.keys() == {"run", "side"}
    assert (found["run"]["done"], found["run"]["iterations"]) == (3, 3)
    assert found["run"]["state"] == "finished"
    assert found["side"]["branch"]["at"] == "it-0002/select"
    with RunLock(RunPaths(runs / "run").lock):
        held = {one["name"]: one for one in asked(capsys, "ls", runs)}["run"]
    assert held["state"] == "running"
    assert "process" in held["detail"]
    RunPaths(runs / "run").manifest("checkpoint", 3).unlink()
    (runs / "side" / "run.json").write_text("{}")
    for copy in (runs / "side").glob("logs/*/run.json"):
        copy.unlink()
    status, out, _ = icpo(capsys, "ls", runs)
    assert status == 0
    assert "stopped" in out
    assert "next: checkpoint of iteration 3" in out
    assert "damaged" in out
    iterations = asked(capsys, "ls", runs / "run")
    assert iterations["2"]["rollout"]["rows"] == 24
    assert iterations["1"]["update"]["pruned"]
    status, out, _ = icpo(capsys, "ls", runs / "run")
    assert "retention removed files" in out


def test_ls_reads_a_run_once_until_it_changes(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, stages = asked(capsys, "ls", runs), asked(capsys, "ls", runs / "run")
    read, lines = listing.summary, listing._line
    monkeypatch.setattr(listing, "summary", lambda root: pytest.fail(f"{root} is read again"))
    monkeypatch.setattr(listing, "_line", lambda *place: pytest.fail(f"{place} is read again"))
    assert asked(capsys, "ls", runs) == first
    assert asked(capsys, "ls", runs / "run") == stages
    monkeypatch.setattr(listing, "summary", read)
    monkeypatch.setattr(listing, "_line", lines)
    # A run that is opened, a stage that is lost, an index of junk: each is seen.
    metrics = RunPaths(runs / "side").metrics
    metrics.write_bytes(metrics.read_bytes()[:-1])
    said = {one["name"]: one["detail"] for one in asked(capsys, "ls", runs)}
    assert "metrics.parquet" in said["side"]
    RunPaths(runs / "run").manifest("update", 2).unlink()
    assert "update" not in asked(capsys, "ls", runs / "run")["2"]
    for kept in (Path(os.environ["XDG_CACHE_HOME"]) / "icpo").iterdir():
        kept.write_text(kept.read_text().replace("finished", "new")[:-9])
    [run] = [one for one in asked(capsys, "ls", runs) if one["name"] == "run"]
    assert run["state"] == "stopped"
    # A user without a home, as a container has them: nothing is kept, and no folder `~` is made.
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.chdir(runs.parent)
    assert len(asked(capsys, "ls", runs)) == len(first)
    assert not Path("~").exists()


def test_a_terminal_of_80_columns_gets_all_that_a_wide_one_does(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names fold, cells wrap: no character is lost, frames and spaces aside."""
    long = (runs / "side").rename(runs / "qwen3-1.7b-a-name-of-a-run-that-is-longer-than-its-line")
    frames = re.compile(r"[^!-~…]")
    for words in (["ls", runs], ["ls", long], ["lineage", long, "--depth", "2"], ["show", long]):
        said = {}
        for width in (200, 80):
            monkeypatch.setenv("COLUMNS", str(width))
            status, said[width], err = icpo(capsys, *words)
            assert status == 0, err
        if words[0] != "show":  # whose last line is a command, to be copied
            assert max(map(len, said[80].splitlines())) <= 80
        assert sorted(frames.sub("", said[80])) == sorted(frames.sub("", said[200]))


def test_show_answers_what_a_prompt_got(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = asked(capsys, "show", runs / "run", "--iteration", 2)
    run = Run.read(runs / "run")
    batch = run.store.table("select", 2, "batch").to_pylist()
    rejects = run.store.table("select", 2, "rejects").to_pylist()
    shown = [one for prompt in found["prompts"] for one in prompt["rollouts"]]
    assert len(shown) == 24 == len(batch) + len(rejects)
    assert sum(one["advantage"] is not None for one in shown) == len(batch)
    worth = {(row["prompt_id"], row["sample_index"]): row["advantage"] for row in batch}
    for prompt in found["prompts"]:
        for one in prompt["rollouts"]:
            assert one["advantage"] == worth.get((prompt["prompt_id"], one["sample_index"]))
            assert (one["reason"] is None) == (one["advantage"] is not None)
    rejected = next(
        prompt for prompt in found["prompts"] if any(one["reason"] for one in prompt["rollouts"])
    )
    status, out, _ = icpo(
        capsys,
        "show",
        runs / "run",
        "--iteration",
        2,
        "--prompt",
        rejected["prompt_id"][:8],
        "--full",
    )
    assert status == 0
    for words in (
        rejected["problem"], "no part of the batch: below_delta", "advantage", "answer read",
        "expert prompt", "demonstrations", rejected["rollouts"][0]["response"],
    ):  # fmt: skip
        assert words in out
    status, out, _ = icpo(capsys, "show", runs / "run")
    assert "iteration 3" in out
    for wanted in ("99", "zzzz"):
        status, _, err = icpo(capsys, "show", runs / "run", "--prompt", wanted)
        assert status == 2
        assert "give a number from 1 to 6" in err


def test_show_shows_special_tokens(runs: Path) -> None:
    """A response that was sampled past its end is seen to be."""
    run = Run.read(runs / "run")
    decode = rollouts._decoder(run)
    tokenizer = run.tokenizer
    ids = tokenizer("3+4=7")["input_ids"]
    assert decode([*ids, 1, *ids, 1], "3+4=73+4=7") == "3+4=7<eos>3+4=7<eos>"
    assert decode(ids, "stored by another tokenizer") == "stored by another tokenizer"


def test_show_says_what_is_there_of_an_unfinished_iteration(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run.read(runs / "run")
    for stage in ("select", "verify"):
        run.paths.manifest(stage, 3).unlink()
    _, out, _ = icpo(capsys, "show", runs / "run", "--prompt", 1)
    assert "not judged yet" in out
    assert "not selected yet" in out
    assert rollouts.newest(Run.read(runs / "run")) == 3


def test_diff_tells_where_two_runs_part(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = asked(capsys, "diff", runs / "run", runs / "side")
    assert found["config"] == {"select.errs": ["drop", "off"]}
    assert found["same_until"] == "it-0002/verify"
    assert found["differ_at"] == "it-0002/select"
    rows = found["rows"]
    assert (rows["iteration"], rows["common"], rows["only_a"], rows["only_b"]) == (2, 24, 0, 0)
    assert rows["changes"]
    for change in rows["changes"]:
        # The same rollouts with the same verdicts, worth something else.
        assert {"advantage"} <= change["a"].keys() <= {"advantage", "reason"}
    assert any(change["a"].get("reason") == "below_delta" for change in rows["changes"])
    assert found["iteration"] == 3
    assert "rows/rejects" in found["figures"]
    status, out, _ = icpo(capsys, "diff", runs / "run", runs / "side")
    assert status == 0
    assert "it-0002/select differs first" in out
    same = asked(capsys, "diff", runs / "run", runs / "run")
    assert (same["config"], same["differ_at"], same["rows"]) == ({}, None, None)
    status, out, _ = icpo(capsys, "diff", runs / "run", runs / "run")
    assert "The configurations are the same" in out


def test_lineage_goes_down_to_model_and_data(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = asked(capsys, "lineage", runs / "run" / "LATEST" / "model", "--depth", 5)
    places, inputs = set(), set()

    def walk(node: dict[str, Any]) -> None:
        places.add(node["place"])
        inputs.update(node["inputs"])
        for parent in node["parents"]:
            walk(parent)

    walk(found["made_from"])
    stages_read = ("prompts", "rollout", "verify", "select", "update")
    wanted = {f"it-000{n}/{stage}" for n in (1, 2, 3) for stage in stages_read}
    assert places == wanted | {"it-0003/checkpoint"}
    assert {"base", "prompts.problems", "prompts.demonstrations", "tokenizer"} <= inputs
    below = asked(capsys, "lineage", runs / "run" / "it-0001" / "update" / "metrics.json")
    assert below["made_from_it"] == ["it-0001/checkpoint", "it-0002/rollout", "it-0002/update"]
    assert asked(capsys, "lineage", runs / "side")["branch_of"][0]["at"] == "it-0002/select"
    # What a stage was made from may be gone: then it says so.
    run = Run.named(runs / "run", ["verify.seconds=4"])
    with stubs.stubbed(run) as session:
        perform(session, "verify", 2)
    status, out, _ = icpo(capsys, "lineage", runs / "run" / "it-0002" / "select")
    assert status == 0
    assert "it-0002/verify as it was then: replaced since" in out
    for path, words in (
        (runs / "run" / "nothing", "no such file"),
        (runs, "is no run and no file of one"),
        (runs / "run" / "config.json", "belongs to no stage"),
    ):
        status, _, err = icpo(capsys, "lineage", path)
        assert status == 2
        assert words in err
    for target, words in (("LATEST", "belongs to no stage"), ("/tmp", "leads out of the run")):
        root = runs.parent / f"to {Path(target).name}" / "run"
        shutil.copytree(runs / "run", root, symlinks=True)
        (root / "LATEST").unlink()
        (root / "LATEST").symlink_to(target)
        status, _, err = icpo(capsys, "lineage", root)
        assert (status, err.count("\n")) == (2, 1)
        assert words in err


def test_check_names_what_is_damaged(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = icpo(capsys, "check", runs / "run")
    assert (status, "every file is as it was recorded" in out) == (0, True)
    path = runs / "run" / "it-0002" / "select" / "batch-00000-of-00002.parquet"
    (path.parent / "more.parquet").write_bytes(b"x")
    status, out, _ = icpo(capsys, "check", runs / "run")
    assert (status, "is no file of select; was moved to" in out, "To mend" in out) == (
        1, True, False,
    )  # fmt: skip
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    status, out, _ = icpo(capsys, "check", runs / "run")
    assert status == 1
    assert f"{path}: is not what was recorded (sha256 differs)" in out
    assert "select of iteration 2" in out
    assert f"To mend: icpo train {runs / 'run'}" in out
    status, out, _ = icpo(capsys, "check", runs / "run", "--json")
    assert (status, [one["file"] for one in json.loads(out)]) == (1, [str(path)])
    status, out, _ = icpo(capsys, "plan", runs / "run")
    assert "damaged" in out
    status, _, err = icpo(capsys, "check", runs / "none")
    assert (status, "no run here" in err) == (2, True)
    assert not (runs / "none").exists()


def test_gc_lists_and_removes(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("gc", runs / "run", "-o", "checkpoint.keep_last=1")
    dry = asked(capsys, *words, "--dry-run")
    assert dry["frees"] > 0
    assert [one["iteration"] for one in dry["checkpoints"] if one["frees"]] == [2]
    assert (runs / "run/it-0002/checkpoint/model").is_dir()
    kept = asked(capsys, *words, "--protect", 2)
    assert kept["frees"] == 0
    status, out, _ = icpo(capsys, *words)
    assert "protected" in out
    gone = asked(capsys, *words, "--unprotect", 2)
    assert gone["frees"] == dry["frees"]
    assert not (runs / "run/it-0002/checkpoint/model").exists()
    status, _, err = icpo(capsys, "gc", runs / "run", "--protect", 9)
    assert (status, "has no checkpoint" in err) == (2, True)
    with RunLock(RunPaths(runs / "run").lock):
        status, _, err = icpo(capsys, *words)
        assert (status, "in use by process" in err) == (2, True)
        assert icpo(capsys, *words, "--dry-run")[0] == 0


def test_plan_says_what_a_change_would_make_again(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert all(step["standing"] == "done" for step in asked(capsys, "plan", runs / "run"))
    steps = asked(capsys, "plan", runs / "run", "-o", "select.alpha=2")
    stale = {step["stage"]: step["reason"] for step in steps if step["standing"] == "stale"}
    assert stale == {"select": "select.alpha 1.0 -> 2.0"}
    status, out, _ = icpo(capsys, "plan", runs / "run", "-o", "select.alpha=2")
    assert "come after it-0001/select" in out
    assert asked(capsys, "plan", runs / "run") == asked(capsys, "plan", runs / "run", "--all")
    status, _, err = icpo(capsys, "plan", runs)
    assert (status, "no run here" in err) == (2, True)


def test_what_a_run_refuses_it_refuses_at_once_and_in_one_line(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two processes on one run, and a configuration that would replace what is stored."""
    with RunLock(RunPaths(runs / "run").lock):
        status, out, err = icpo(capsys, "train", runs / "run")
    assert (status, out) == (2, "")
    assert re.fullmatch(r"icpo train: \S+: in use by process \d+ on .*; wait .*\n", err)
    status, out, err = icpo(capsys, "train", runs / "run", "-o", "select.alpha=9")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "select of iteration 1 and 2 more would be made again (select.alpha 1.0 -> 9.0)" in err


def test_the_command_that_goes_on_is_exact() -> None:
    words = [
        "train", "configs/demo.toml", "-o", "run.seed=1",
        "-o", 'prompts.instruction=It\'s "boxed" & $done', "--run", "a-1", "--rerun", "--json",
    ]  # fmt: skip
    again = train.again(cli.parser().parse_args(words))
    echo = f'{sys.executable} -c "import sys, json; print(json.dumps(sys.argv[1:]))"'
    shell = subprocess.run(
        ["bash", "-c", again.replace("icpo", echo, 1)], capture_output=True, text=True, check=True
    )
    assert cli.parser().parse_args(json.loads(shell.stdout)) == cli.parser().parse_args(words)
    assert isinstance(cli.parser(), argparse.ArgumentParser)


BLOCKS = re.findall(r"```(sql|python)\n(.*?)```", DOCS.read_text(), re.DOTALL)


@pytest.mark.parametrize(("language", "code"), BLOCKS, ids=range(len(BLOCKS)))
def test_what_the_documentation_asks_of_the_parquet_has_an_answer(
    language: str, code: str, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made / "run")
    if language == "sql":
        found = duckdb.sql(code).fetchall()
        assert found or "HAVING" in code
        if "rejects" in code and "LEFT JOIN" in code:
            assert len(found) == 24
        return
    *before, last = code.strip().splitlines()
    names: dict[str, Any] = {}
    exec("\n".join(before), names)
    assert len(eval(last, names)) > 0


def test_the_documentation_names_every_column() -> None:
    from icpo_core.store.tables import TABLES

    text = DOCS.read_text()
    for name in ("prompts", "rollout", "verdicts", "batch", "rejects", "samples", "probe"):
        row = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
        keys = {"prompt_id", "sample_index", "origin"} if "| key;" in row else set()
        missing = set(TABLES[name].names) - keys - set(re.findall(r"`(\w+)`", row))
        assert missing == set(), name


def test_what_a_run_cost_by_a_record_of_somebody_else_s(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Words in the place of numbers, and nothing where there is something, count as nothing."""
    side = RunPaths(runs / "side")
    said = files.read_sealed(side.record)
    files.write_sealed(side.record, {**said, "attempts": [{"started": "long ago"}]})
    manifest = side.manifest("rollout", 3)
    found = files.read_sealed(manifest)
    found["facts"] |= {"tokens": "many", "attempt": None}
    files.write_sealed(manifest, found)
    assert asked(capsys, "show", runs / "side", "--cost")[-1]["inherited_seconds"] == 0.0
