"""Damage to a run's files: each kind is found and named, and heals when the run goes on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import stubs
from damage import flip

from icpo_core.common import files
from icpo_core.common.lock import RunLock, holder
from icpo_core.run import integrity, metrics
from icpo_core.run.run import Run
from icpo_core.store.paths import RunPaths

Kind = Callable[[RunPaths], None]
KINDS: dict[str, tuple[Kind, str]] = {}
"""Damage by name, and words that the check must say of it."""


def kind(words: str) -> Callable[[Kind], Kind]:
    def add(damage: Kind) -> Kind:
        KINDS[damage.__name__] = damage, words
        return damage

    return add


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    run = Run.of(stubs.configuration(folder))
    with stubs.stubbed(run, folder / "ledger") as session:
        stubs.train(session)
    assert integrity.check(run.paths) == []
    return folder


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def swap(one: Path, other: Path) -> None:
    between = one.with_name("between")
    one.rename(between)
    other.rename(one)
    between.rename(other)


def part(run: RunPaths) -> Path:
    return min(run.stage("rollout", 2).glob("part-*.parquet"))


def changed(path: Path, **said: object) -> None:
    """Written by somebody who can seal."""
    files.write_sealed(path, {**files.read_sealed(path), **said})


# --- files of stages --------------------------------------------------------------------------


@kind("model.safetensors: is not what was recorded")
def weights_of_a_checkpoint(run: RunPaths) -> None:
    flip(run.stage("checkpoint", 3) / "model" / "model.safetensors")


@kind("model.safetensors: is not what was recorded")
def weights_of_an_update(run: RunPaths) -> None:
    flip(run.stage("update", 3) / "model" / "model.safetensors")


@kind("batch-00000-of-00002.parquet: is not what was recorded")
def a_batch(run: RunPaths) -> None:
    flip(run.stage("select", 2) / "batch-00000-of-00002.parquet")


@kind("samples.parquet: is not what was recorded")
def an_evaluation(run: RunPaths) -> None:
    flip(run.stage("evaluate", 3) / "samples.parquet")


@kind("parquet: has 100 bytes")
def a_part_cut_short(run: RunPaths) -> None:
    part(run).write_bytes(part(run).read_bytes()[:100])


@kind("parquet: is missing")
def a_part_lost(run: RunPaths) -> None:
    part(run).unlink()


@kind("summary.json: has 2 bytes")
def a_summary_edited(run: RunPaths) -> None:
    (run.stage("select", 2) / "summary.json").write_text("{}")


@kind("no regular file")
def a_part_that_is_a_fifo(run: RunPaths) -> None:
    path = part(run)
    path.unlink()
    os.mkfifo(path)


@kind("no regular file")
def a_part_that_is_a_link(run: RunPaths) -> None:
    path, outside = part(run), run.root.parent / "outside.parquet"
    path.rename(outside)
    path.symlink_to(outside)


@kind("state.json: is not what was recorded")
def a_state(run: RunPaths) -> None:
    flip(run.stage("checkpoint", 3) / "state" / "state.json")


@kind("state.json: is missing")
def a_state_lost(run: RunPaths) -> None:
    remove(run.stage("checkpoint", 3) / "state")


# --- manifests and stages ---------------------------------------------------------------------


@kind("it-0002/select: is missing, and metrics.parquet has it")
def a_manifest_lost(run: RunPaths) -> None:
    run.manifest("select", 2).unlink()


@kind("it-0002/prompts: is missing, and it-0002/rollout has it")
def a_manifest_lost_before_its_figures_were_recorded(run: RunPaths) -> None:
    run.manifest("prompts", 2).unlink()
    rows = [{k: v for k, v in row.items() if k != "seconds/prompts"} for row in metrics.read(run)]
    metrics.write(run, rows)


@kind("it-0001/update: is missing")
def a_manifest_lost_of_an_update(run: RunPaths) -> None:
    run.manifest("update", 1).unlink()


@kind("it-0003/checkpoint: is missing, and metrics.parquet has it")
def the_newest_manifest_lost(run: RunPaths) -> None:
    run.manifest("checkpoint", 3).unlink()


@kind("it-0003/evaluate: is missing, and metrics.parquet has it")
def an_evaluation_lost(run: RunPaths) -> None:
    remove(run.stage("evaluate", 3))


@kind("it-0002/verify: is missing")
def a_stage_lost(run: RunPaths) -> None:
    remove(run.stage("verify", 2))


@kind("it-0002/verify: is missing")
def a_stage_emptied(run: RunPaths) -> None:
    for path in run.stage("verify", 2).iterdir():
        path.unlink()


@kind("it-0002/update: is missing")
def an_iteration_lost(run: RunPaths) -> None:
    remove(run.iteration(2))


@kind("it-0003/update: is missing")
def the_newest_iteration_lost(run: RunPaths) -> None:
    remove(run.iteration(3))


@kind("it-0002/select: belongs to it-0001/select")
def iterations_swapped(run: RunPaths) -> None:
    swap(run.iteration(1), run.iteration(2))


@kind("it-0001/select: belongs to it-0002/select")
def stages_swapped(run: RunPaths) -> None:
    swap(run.stage("select", 1), run.stage("select", 2))


@kind("it-0004/update: belongs to it-0003/update")
def an_iteration_copied(run: RunPaths) -> None:
    shutil.copytree(run.iteration(3), run.iteration(4))


@kind("it-00003: is no iteration")
def an_iteration_of_another_name(run: RunPaths) -> None:
    shutil.copytree(run.iteration(3), run.root / "it-00003")


@kind("it-0002: is no folder")
def an_iteration_that_is_a_file(run: RunPaths) -> None:
    remove(run.iteration(2))
    run.iteration(2).write_text("")


@kind("it-0002/verify: is no folder")
def a_stage_that_is_a_file(run: RunPaths) -> None:
    remove(run.stage("verify", 2))
    run.stage("verify", 2).write_text("")


@kind("manifest.json: is not as it was written")
def a_manifest(run: RunPaths) -> None:
    flip(run.manifest("select", 2))


@kind("manifest.json: is not as it was written")
def a_manifest_emptied(run: RunPaths) -> None:
    run.manifest("select", 2).write_bytes(b"")


@kind("manifest.json: is a folder")
def a_manifest_that_is_a_folder(run: RunPaths) -> None:
    run.manifest("select", 2).unlink()
    run.manifest("select", 2).mkdir()


@kind("manifest.json: is no regular file")
def a_manifest_that_is_a_fifo(run: RunPaths) -> None:
    run.manifest("select", 2).unlink()
    os.mkfifo(run.manifest("select", 2))


@kind("it-0002/select: belongs to it-0002/verify")
def a_manifest_of_another_stage(run: RunPaths) -> None:
    shutil.copy(run.manifest("verify", 2), run.manifest("select", 2))


@kind("has the fingerprint of other work")
def a_fingerprint_of_other_work(run: RunPaths) -> None:
    changed(run.manifest("select", 2), fingerprint="0" * 64)


@kind("batch-00000-of-00002.parquet: is missing")
def a_mark_that_a_batch_was_removed(run: RunPaths) -> None:
    folder = run.stage("select", 2)
    files.write_sealed(
        folder / "pruned.json", {"files": ["batch-00000-of-00002.parquet"], "at": 1.0}
    )
    (folder / "batch-00000-of-00002.parquet").unlink()


@kind("pruned.json: is not as it was written")
def a_mark_of_junk(run: RunPaths) -> None:
    run.pruned("checkpoint", 1).write_text("{")


# --- what is no part of the run ---------------------------------------------------------------


@kind("part-00009-of-00010.parquet: is no file of rollout")
def a_shard_more(run: RunPaths) -> None:
    shutil.copy(part(run), part(run).with_name("part-00009-of-00010.parquet"))


@kind("weights.bin: is no file of checkpoint")
def weights_more(run: RunPaths) -> None:
    (run.stage("checkpoint", 3) / "model" / "weights.bin").write_bytes(b"x")


@kind("more.pt: is no file of checkpoint")
def a_state_more(run: RunPaths) -> None:
    (run.stage("checkpoint", 3) / "state" / "deepspeed" / "more.pt").write_bytes(b"x")


@kind("it-0002/rollout2: is no stage")
def a_stage_more(run: RunPaths) -> None:
    shutil.copytree(run.stage("rollout", 2), run.iteration(2) / "rollout2")


@kind("more.parquet: is no file of rollout")
def a_link_more(run: RunPaths) -> None:
    (run.stage("rollout", 2) / "more.parquet").symlink_to("/etc/passwd")


# --- files of the run -------------------------------------------------------------------------


@kind("it-0004: is a link")
def an_iteration_that_is_a_link(run: RunPaths) -> None:
    run.iteration(4).symlink_to(run.iteration(3).name)


@kind("verify: is a link")
def a_stage_that_is_a_link_to_another(run: RunPaths) -> None:
    remove(run.stage("verify", 2))
    run.stage("verify", 2).symlink_to("../it-0001/verify")


@kind("rollout: is missing")
def a_manifest_that_leads_to_itself(run: RunPaths) -> None:
    run.manifest("rollout", 2).unlink()
    run.manifest("rollout", 2).symlink_to("manifest.json")


@kind("model: is no file of checkpoint")
def weights_in_a_folder_that_is_a_file(run: RunPaths) -> None:
    remove(run.stage("checkpoint", 3) / "model")
    (run.stage("checkpoint", 3) / "model").touch()


@kind("is no file of rollout")
def a_name_that_is_no_text(run: RunPaths) -> None:
    (run.stage("rollout", 2) / os.fsdecode(b"part-\xff.parquet")).touch()


@kind("LATEST: is missing")
def latest_lost(run: RunPaths) -> None:
    run.latest.unlink()


@kind("LATEST: leads to it-0002/checkpoint; the newest")
def latest_of_an_older_checkpoint(run: RunPaths) -> None:
    run.latest.unlink()
    run.latest.symlink_to("it-0002/checkpoint")


@kind("LATEST: leads to it-0009/checkpoint")
def latest_of_none(run: RunPaths) -> None:
    run.latest.unlink()
    run.latest.symlink_to("it-0009/checkpoint")


@kind("LATEST: leads to /etc")
def latest_outside(run: RunPaths) -> None:
    run.latest.unlink()
    run.latest.symlink_to("/etc")


@kind("LATEST: is no link")
def latest_as_a_folder(run: RunPaths) -> None:
    run.latest.unlink()
    shutil.copytree(run.stage("checkpoint", 3), run.latest)


@kind("LATEST: is no link")
def latest_as_a_file(run: RunPaths) -> None:
    run.latest.unlink()
    run.latest.write_text("it-0003/checkpoint\n")


@kind("run.json: is missing")
def record_lost(run: RunPaths) -> None:
    run.record.unlink()


@kind("run.json: is not as it was written")
def record(run: RunPaths) -> None:
    flip(run.record)


@kind("run.json: is no file")
def record_that_is_a_folder(run: RunPaths) -> None:
    run.record.unlink()
    run.record.mkdir()


@kind("config.json: is no file")
def configuration_that_is_a_folder(run: RunPaths) -> None:
    run.config.unlink()
    run.config.mkdir()


@kind("metrics.parquet: is no file")
def metrics_that_are_a_folder(run: RunPaths) -> None:
    run.metrics.unlink()
    run.metrics.mkdir()


@kind("logs: is no folder")
def logs_that_are_a_file(run: RunPaths) -> None:
    remove(run.root / "logs")
    (run.root / "logs").touch()


@kind("config.json: is missing")
def configuration_lost(run: RunPaths) -> None:
    run.config.unlink()


@kind("config.json: is not as it was written")
def configuration(run: RunPaths) -> None:
    flip(run.config)


@kind("run.json: is missing")
def record_and_configuration_lost(run: RunPaths) -> None:
    run.record.unlink()
    run.config.unlink()


@kind("run.json: is missing")
def record_and_logs_lost(run: RunPaths) -> None:
    run.record.unlink()
    remove(run.root / "logs")


@kind("metrics.parquet: lacks iterations 1, 2")
def metrics_lost(run: RunPaths) -> None:
    run.metrics.unlink()


@kind("metrics.parquet: is not as it was written")
def metrics_flipped(run: RunPaths) -> None:
    flip(run.metrics)


@kind("metrics.parquet: lacks iterations 2")
def metrics_of_an_earlier_day(run: RunPaths) -> None:
    rows = metrics.read(run)
    metrics.write(run, [row for row in rows if row["iteration"] < 2])


@kind("summary.json: has 40 bytes")
def a_summary_cut_before_it_was_in_the_metrics(run: RunPaths) -> None:
    summary = run.stage("select", 3) / "summary.json"
    summary.write_bytes(summary.read_bytes()[:40])
    metrics_of_an_earlier_day(run)


@kind("summary.json: is not what was recorded")
def a_summary_flipped_before_it_was_in_the_metrics(run: RunPaths) -> None:
    summary = run.stage("select", 3) / "summary.json"
    summary.write_bytes(b"(" + summary.read_bytes()[1:])
    metrics_of_an_earlier_day(run)


@pytest.mark.parametrize("name", KINDS)
def test_damage_is_found_and_heals(name: str, whole: Path, tmp_path: Path) -> None:
    damage, words = KINDS[name]
    folder = tmp_path / "folder"
    shutil.copytree(whole, folder, symlinks=True)
    paths = RunPaths(folder / "runs" / "run")
    shards = len(list(paths.root.glob("it-*/rollout/*.parquet")))
    damage(paths)

    found = integrity.check(paths)
    said = [f"{one.file.relative_to(paths.root)}: {one.what}; {one.mend}" for one in found]
    assert any(words in line for line in said), said
    assert all("\n" not in line for line in said)
    with stubs.stubbed(Run.named(paths.root), folder / "ledger") as session:
        stubs.train(session)
    assert integrity.check(paths) == []
    assert stubs.digests(paths.root) == stubs.digests(whole / "runs" / "run")
    assert [row["iteration"] for row in metrics.read(paths)] == [0, 1, 2, 3]
    # As the documentation's own query counts them.
    assert len(list(paths.root.glob("it-*/rollout/*.parquet"))) == shards
    pq.read_table(part(paths))


def test_every_kind_heals_though_nobody_checked(whole: Path, tmp_path: Path) -> None:
    """Links and folders in the way: a stage that was made anew would be written somewhere else."""
    for damage in (
        a_stage_that_is_a_link_to_another, logs_that_are_a_file,
        weights_in_a_folder_that_is_a_file, a_manifest_that_leads_to_itself,
        a_summary_cut_before_it_was_in_the_metrics,
    ):  # fmt: skip
        folder = tmp_path / damage.__name__
        shutil.copytree(whole, folder, symlinks=True)
        paths = RunPaths(folder / "runs" / "run")
        damage(paths)
        with stubs.stubbed(Run.named(paths.root), folder / "ledger") as session:
            stubs.train(session)
        assert stubs.digests(paths.root) == stubs.digests(whole / "runs" / "run"), damage.__name__


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_lock_that_is_no_file_is_named(
    make: Callable[[Path], None], whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole, tmp_path / "folder", symlinks=True)
    paths = RunPaths(tmp_path / "folder" / "runs" / "run")
    remove(paths.lock)
    make(paths.lock)
    assert holder(paths.lock) is None  # a FIFO is not waited for
    [found] = integrity.check(paths)
    assert (found.file, found.what) == (paths.lock, "is no file; remove it")
    with (
        pytest.raises(ValueError, match=r"lock.json: is no file; remove it$"),
        stubs.stubbed(Run.named(paths.root), tmp_path / "ledger"),
    ):
        pass


def test_a_check_that_may_not_write_changes_nothing(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "folder", symlinks=True)
    paths = RunPaths(tmp_path / "folder" / "runs" / "run")
    a_shard_more(paths)
    a_stage_lost(paths)
    before = {path: path.lstat().st_mtime_ns for path in paths.root.rglob("*")}
    lock = RunLock(paths.lock)
    lock.acquire()
    try:
        [one] = integrity.check(paths)  # what its holder is at work on may be missing
    finally:
        lock.release()
    assert one.what == "is no file of rollout"
    after = {path: path.lstat().st_mtime_ns for path in paths.root.rglob("*")}
    assert {path: after.get(path) for path in before if path not in (paths.lock, paths.root)} == {
        path: time for path, time in before.items() if path not in (paths.lock, paths.root)
    }


def test_links_out_of_a_run_are_named_and_not_followed(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "folder", symlinks=True)
    paths = RunPaths(tmp_path / "folder" / "runs" / "run")
    outside = tmp_path / "outside"
    paths.iteration(2).rename(outside)
    paths.iteration(2).symlink_to(outside)
    before = {path: path.stat().st_mtime_ns for path in outside.rglob("*")}
    said = [one.what for one in integrity.check(paths)]
    assert said
    assert all("a link leads out of" in what for what in said)
    with (
        pytest.raises(ValueError, match=r"it-0002: a link leads out of the run; remove it"),
        stubs.stubbed(Run.named(paths.root), tmp_path / "ledger"),
    ):
        pass
    assert {path: path.stat().st_mtime_ns for path in outside.rglob("*")} == before


@pytest.mark.parametrize("name", ["model.safetensors", "probe.parquet"])
def test_weights_that_an_engine_refuses_are_made_again_by_the_next_start(
    name: str, whole: Path, tmp_path: Path
) -> None:
    """Without a check: the engine only says that it cannot hold them."""
    shorter = Run.of(stubs.configuration(tmp_path, "run", "run.iterations=2"))
    with stubs.stubbed(shorter) as session:
        stubs.train(session)
    weights = shorter.paths.stage("update", 2) / "model" / name
    flip(weights, weights.stat().st_size - 6)  # in the footer, or the last weight
    run = Run.of(stubs.configuration(tmp_path, "run"))
    with (
        pytest.raises(ValueError, match=f"{name}: is not what was recorded.*it is made again"),
        stubs.stubbed(run) as session,
    ):
        stubs.train(session)
    with stubs.stubbed(Run.named(run.paths.root)) as session:
        stubs.train(session)
    assert integrity.check(run.paths) == []
    assert stubs.digests(run.paths.root) == stubs.digests(whole / "runs" / "run")
