"""A sweep: what it runs, that it goes on, and how it is compared."""

from __future__ import annotations

import json
import math
import random
import shutil
from pathlib import Path
from statistics import mean

import pytest
import stub_worker
import stubs
from places import DEMO as DEMO_FILE

from icpo.flows import cli
from icpo_core.evaluation.scores import student
from icpo_core.run.run import Run
from icpo_core.run.sweep import Sweep, grid, variant
from icpo_core.views import sweep as view

DEMO = str(DEMO_FILE)
COSTS = ("tokens", "seconds", "device_seconds")


def test_a_grid_is_every_choice_of_every_axis() -> None:
    assert grid(["preset=icpo,grpo", "loss.kl=off,k3"]) == {
        "icpo loss.kl=off": ["preset=icpo", "loss.kl=off"],
        "icpo loss.kl=k3": ["preset=icpo", "loss.kl=k3"],
        "grpo loss.kl=off": ["preset=grpo", "loss.kl=off"],
        "grpo loss.kl=k3": ["preset=grpo", "loss.kl=k3"],
    }
    [(_, [one]), (_, [two])] = grid(["update.betas=[0.9, 0.95],[0.9, 0.999]"]).items()
    assert (one, two) == ("update.betas=[0.9, 0.95]", "update.betas=[0.9, 0.999]")
    assert variant("on demand: rollout.steer=failed rollout.expert_tries=2") == (
        "on demand", ["rollout.steer=failed", "rollout.expert_tries=2"],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["configs/demo.toml"], "nothing varies: give --vary"),
        (["configs/demo.toml", "--vary", "preset"], "--vary preset: give KEY=VALUE"),
        (["configs/demo.toml", "--vary", "preset=icpo,"], "give KEY=VALUE"),
        (["configs/demo.toml", "--variant", "preset=icpo"], "give NAME: KEY=VALUE"),
        (["configs/demo.toml", "--variant", "a: preset"], "preset is no KEY=VALUE"),
        (["configs/demo.toml", "--vary", "preset=icpo", "--seeds", "0"], "give 1 or more"),
        (["configs/demo.toml", "--vary", "preset=ipco"], "preset 'ipco' is not known"),
        (["configs/demo.toml", "--variant", "a b: run.seed=1", "--variant", "a-b: run.seed=2"],
         "one folder"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(
    words: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["sweep", *words, "--plain", "--into", str(tmp_path / "sweep")])
    assert ended.value.code == 2
    assert line in capsys.readouterr().err


def sweep(folder: Path, *words: str) -> None:
    small = [*stubs.CHANGES, *stubs.problem_sets(folder / "data"), *stub_worker.changes(folder)]
    options = [word for change in [*small, "run.iterations=2"] for word in ("-o", change)]
    demo = str(stubs.ROOT / "configs" / "demo.toml")
    into = str(folder / "sweep")
    with pytest.raises(SystemExit) as ended:
        cli.main(["sweep", demo, "--plain", "--into", into, *options, *words])
    assert ended.value.code == 0


def test_it_trains_what_is_missing_and_compares_from_the_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vary = ["--vary", "rollout.steer=always,failed"]
    sweep(tmp_path, *vary, "--seeds", "1")
    folder = tmp_path / "sweep"
    names = {path.name for path in folder.iterdir() if path.is_dir()}
    assert names == {"demo-rollout.steer-always-seed0", "demo-rollout.steer-failed-seed0"}
    assert Run.read(folder / "demo-rollout.steer-failed-seed0").config.rollout.steer == "failed"
    times = {path: path.stat().st_mtime_ns for path in folder.glob("*/it-*/*/manifest.json")}
    assert times
    # Another seed: what is there stays as it is.
    sweep(tmp_path, *vary, "--seeds", "2")
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert len(list(folder.glob("demo-*-seed1"))) == 2
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main(["sweep", str(folder), "--table", "--json"])
    assert ended.value.code == 0
    always, failed = json.loads(capsys.readouterr().out)
    assert [always["variant"], failed["variant"]] == [
        "rollout.steer=always", "rollout.steer=failed",
    ]  # fmt: skip
    assert always["seeds"] == failed["seeds"] == [0, 1]
    assert always["difference"] is None
    for row in (always, failed):
        for seed, accuracy in enumerate(row["accuracy"]):
            slug = row["variant"].replace("=", "-")
            stored = Run.read(folder / f"demo-{slug}-seed{seed}")
            last = stored.store.manifest("evaluate", 2)
            assert last is not None
            assert accuracy["2"] == last.facts["accuracy/heldout"]
    assert "rollout.steer=failed" in (folder / "sweep.md").read_text()
    assert "<svg" in (folder / "sweep.svg").read_text()
    with pytest.raises(SystemExit) as ended:
        cli.main(["sweep", str(folder), "-o", "run.iterations=3"])
    assert ended.value.code == 2
    assert "go on with it alone" in capsys.readouterr().err
    # Runs may go: what they came to is kept, and they are not made again.
    written = (folder / "sweep.md").read_text()
    for gone in folder.glob("demo-*-seed[01]"):
        shutil.rmtree(gone)
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main(["sweep", str(folder), "--plain"])
    assert ended.value.code == 0
    assert "0 of 4 runs are to be made" in " ".join(capsys.readouterr().err.split())
    assert (folder / "sweep.md").read_text() == written
    assert not list(folder.glob("demo-*"))
    empty = {"seed": 0, "accuracy": {}, "cost": {}, "entropy": None, "iterations": 2}
    endless = empty | {"accuracy": {2: 1.0}, "cost": {2: dict.fromkeys(COSTS, math.inf)}}
    lost = empty | {"accuracy": {2: 1.0}}
    rubbish = [json.dumps({"demo": one}) for one in ({"seed": "none"}, empty, endless, lost)]
    for content in (*rubbish, "{", "[" * 100_000, ""):
        (folder / view.FIGURES).write_text(content)
        with pytest.raises(SystemExit) as ended:
            cli.main(["sweep", str(folder), "--table"])
        assert ended.value.code == 2, content
        said = capsys.readouterr().err
        assert "figures.json" in said
        assert said.count("\n") == 1


def test_a_sweep_does_not_become_another(tmp_path: Path) -> None:
    first = Sweep(configs=[DEMO], variants={"x": ["run.seed=1"]}, seeds=[0])
    first.keep(tmp_path)
    first.model_copy(update={"variants": {**first.variants, "y": []}}).keep(tmp_path)
    with pytest.raises(ValueError, match="give another --into"):
        first.model_copy(update={"variants": {"x": ["run.seed=2"]}}).keep(tmp_path)
    with pytest.raises(ValueError, match="is no sweep"):
        Sweep.read(tmp_path / "nowhere")
    wrong = first.model_copy(update={"variants": {"x": ["preset=ipco"]}})
    with pytest.raises(ValueError, match="preset 'ipco' is not known"):
        wrong.keep(tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("content", ["5", "[]", '{"configs": 3}', "[" * 100_000, "{"])
def test_rubbish_in_the_place_of_a_sweep_is_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(ValueError, match=r"sweep\.json") as refused:
        Sweep.read(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_sweep_of_somebody_else_chooses_no_program(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`sweep.json` is a file of the folder: what it would have executed needs this user's word."""
    mark = tmp_path / "ran"
    evil = tmp_path / "python"
    evil.write_text(f"#!/bin/sh\ntouch {mark}\n")
    evil.chmod(0o755)
    folder = tmp_path / "theirs"
    folder.mkdir()
    theirs = Sweep(configs=[DEMO], variants={"x": [f"rollout.python={evil}"]}, seeds=[0])
    (folder / "sweep.json").write_text(theirs.model_dump_json())
    with pytest.raises(SystemExit) as ended:
        cli.main(["sweep", str(folder), "--plain"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f'rollout.python = "{evil}", and nothing says that you did' in said
    assert not mark.exists()
    # Who gave it is not asked again.
    theirs.keep(tmp_path / "mine")
    theirs.require_trusted(tmp_path / "mine")


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (29, 2.0452)],
)
def test_students_t_is_that_of_the_tables(freedom: int, quantile: float) -> None:
    assert student(freedom, 0.95) == pytest.approx(quantile, rel=0.01)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_interval_covers_what_it_says(seeds: int) -> None:
    draw = random.Random(seeds)
    inside = 0
    for _ in range(4000):
        centre, half = view.interval([draw.gauss(0.5, 0.1) for _ in range(seeds)])
        inside += abs(centre - 0.5) <= half
    assert inside / 4000 == pytest.approx(0.95, abs=0.012)


def finished(seed: int, accuracy: dict[int, float]) -> view.Finished:
    cost = {at: view.Cost(100.0 * at, 2.0 * at, 3.0 * at) for at in range(11)}
    return view.Finished(seed, accuracy, cost, 0.5, 10)


def test_variants_are_paired_by_seed() -> None:
    """Seeds differ more than variants do: only the paired interval tells the two apart."""
    base = [0.3, 0.6, 0.9]
    first = [finished(seed, {0: 0.1, 5: 0.2, 10: value}) for seed, value in enumerate(base)]
    other = [
        finished(seed, {0: 0.1, 5: 0.8, 10: value + 0.05 + 0.001 * seed})
        for seed, value in enumerate(base)
    ]
    row = view.Row("small", "other", other, 0.75, first)
    assert row.reached == [5, 5, 5]
    assert row.until(lambda cost: cost.tokens) == [500.0] * 3
    assert view.Row("small", "first", first, 0.75, first).reached == [None, None, 10]
    assert math.isinf(view.Row("small", "first", first, 0.75, first).until(lambda c: c.seconds)[0])
    found = row.difference()
    assert found is not None
    assert found[0] == pytest.approx(0.051)
    assert found[1] < 0.003
    assert view.interval([run.final for run in other])[1] > 0.5
    [cells] = view.table([row])
    assert cells[:3] == ["other", "3", "5 5 5"]
    assert cells[view.HEAD.index("vs first, %")].startswith("+5.1 ± 0.2")
    assert mean(base) == pytest.approx(0.6)
