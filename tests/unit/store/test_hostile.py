"""A run folder or a mirror that somebody else made: no name in it leads out of the run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import stubs
from hypothesis import given
from hypothesis import strategies as st

from icpo_core.common import files
from icpo_core.common.lock import RefusedError, RunLock, holder, remove_left
from icpo_core.mirror.download import fetch
from icpo_core.mirror.mirror import Mirror
from icpo_core.run import integrity, metrics
from icpo_core.run.run import Run
from icpo_core.store import manifest
from icpo_core.store.paths import RunPaths, checked, place_of
from icpo_core.store.work import Standing

HOSTILE = [
    "../../victim", "/etc/passwd", "model/../../../victim", "..", ".", "", "a//b", "a/./b",
    "model\\..\\victim", "a\x00b", "a\nb", "/", "model/", "x" * 300,
]  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """One iteration, trained by the stand-ins, with a file of the user's beside the runs."""
    (tmp_path / "victim").write_text("mine")
    changes = ("run.iterations=1", "evaluate.every=0")
    found = Run.of(stubs.configuration(tmp_path, "run", *changes))
    with stubs.stubbed(found) as session:
        stubs.train(session)
    return Run.read(found.paths.root)


def edited(path: Path, **changes: object) -> None:
    """A manifest with other values and a seal that fits, as somebody else can write it."""
    said = files.read_sealed(path)
    files.write_sealed(path, said | changes)


@given(name=st.one_of(st.sampled_from(HOSTILE), st.text(), st.text("./\\ab", min_size=1)))
def test_a_name_stays_below_its_folder(name: str) -> None:
    folder = Path("/runs/run/it-0001/update")
    try:
        path = folder / checked(name)
    except ValueError:
        return
    assert Path(os.path.normpath(path)).is_relative_to(folder)
    assert path != folder


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not written by icpo"):
        checked(name)


@given(text=st.one_of(st.text(), st.sampled_from(["it-0001/..", "it-0001/.", "it-1/update", ".."])))
def test_a_place_is_a_stage_of_an_iteration(text: str) -> None:
    place = place_of(Path(text))
    if place is not None:
        paths = RunPaths(Path("/runs/run"))
        assert paths.stage(*place).parent.parent == paths.root


@pytest.mark.parametrize("name", HOSTILE[:3])
def test_a_manifest_with_a_hostile_name_is_damage(run: Run, name: str) -> None:
    path = run.paths.manifest("update", 1)
    said = files.read_sealed(path)
    edited(path, files=[said["files"][0] | {"name": name}])
    with pytest.raises(ValueError, match="not written by icpo"):
        manifest.read(path)
    assert run.store.finished("update", 1) is None


def test_a_mark_removes_nothing_that_was_not_the_stage_s(run: Run, tmp_path: Path) -> None:
    for names in (
        ["../../../../victim"],
        ["../select/batch-00000-of-00002.parquet"],
        ["strange.txt"],
    ):
        (run.paths.stage("update", 1) / "strange.txt").write_text("mine too")
        files.write_sealed(run.paths.pruned("update", 1), {"files": names, "at": 0.0})
        fresh = Run.read(run.paths.root)
        fresh.store.prune({("update", 1): frozenset()})
        assert (tmp_path / "victim").read_text() == "mine"
        assert (run.paths.stage("select", 1) / "batch-00000-of-00002.parquet").is_file()
        assert (run.paths.stage("update", 1) / "strange.txt").is_file()


def test_a_link_out_of_the_run_is_not_followed(run: Run, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.move(run.paths.stage("update", 1), elsewhere)
    run.paths.stage("update", 1).symlink_to(elsewhere)
    before = sorted(path.name for path in elsewhere.rglob("*"))
    with pytest.raises(ValueError, match="leads out of"):
        Run.read(run.paths.root).store.prune({("update", 1): frozenset({"model/config.json"})})
    with (
        pytest.raises(ValueError, match="leads out of"),
        stubs.stubbed(Run.read(run.paths.root)) as session,
    ):
        stubs.train(session, rerun=True)
    assert sorted(path.name for path in elsewhere.rglob("*")) == before


@pytest.mark.parametrize(
    "name",
    [
        "lock.json", "run.json", "run.json.partial", "config.json.partial", "aside", "logs",
        "protected.json.partial", "metrics.parquet.partial", "tensorboard", "logs/attempt-0002",
        "LATEST.partial",
    ],
)  # fmt: skip
def test_nothing_is_written_through_a_link_in_the_run_s_folder(
    run: Run, tmp_path: Path, name: str
) -> None:
    victim, path = tmp_path / "victim", run.paths.root / name
    if path.is_dir():
        shutil.move(path, tmp_path / "moved")
        victim = tmp_path / "moved"
    path.unlink(missing_ok=True)
    path.symlink_to(victim)

    def contents() -> dict[Path, bytes]:
        return {one: one.read_bytes() for one in [victim, *victim.rglob("*")] if one.is_file()}

    before = contents()
    with (
        pytest.raises(ValueError, match=r"(is a link|a link leads out of the run); remove it"),
        stubs.stubbed(Run.named(run.paths.root)) as session,
    ):
        stubs.train(session)
    integrity.check(run.paths)
    metrics.write(run.paths, [{"iteration": 1.0}])
    assert contents() == before


@pytest.mark.parametrize("link", ["it-0001", "it-0001/rollout", "it-0009", "aside"])
def test_a_check_moves_nothing_from_or_to_outside_the_run(
    run: Run, tmp_path: Path, link: str
) -> None:
    outside, path = tmp_path / "outside", run.paths.root / link
    if path.exists():
        shutil.move(path, outside)
    outside.mkdir(exist_ok=True)
    (outside / "mine.txt").write_text("mine")
    (outside / "notes").mkdir()
    path.symlink_to(outside)
    (run.paths.root / "it-0001" / "stranger").mkdir(exist_ok=True)  # something to be moved
    before = sorted(outside.rglob("*"))
    integrity.check(run.paths)
    assert sorted(outside.rglob("*")) == before
    assert (outside / "mine.txt").read_text() == "mine"


def test_the_lock_names_who_holds_it_and_not_who_is_gone(tmp_path: Path) -> None:
    code = (
        "import os, sys, pathlib, subprocess, time\n"
        "from icpo_core.common.lock import RunLock\n"
        "lock = RunLock(pathlib.Path(sys.argv[1])); lock.acquire()\n"
        "if (child := os.fork()):\n"
        "    print(child, flush=True); os._exit(0)\n"
        "os.close(1); os.close(2); time.sleep(60)\n"
    )
    path = tmp_path / "lock.json"
    command = [sys.executable, "-c", code, str(path)]
    child = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    try:
        with pytest.raises(RefusedError, match=rf"in use by process {child}; wait"):
            RunLock(path).acquire()
    finally:
        os.kill(child, signal.SIGKILL)
    for _ in range(100):
        if holder(path) is None:
            break
        time.sleep(0.05)
    with RunLock(path):
        assert holder(path) is not None


def test_a_lock_that_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    """Of the kind that is a file's mere existence, as torch makes where it compiles ops."""
    path = tmp_path / "lock"
    path.touch()
    assert not remove_left(path, 120.0)  # another machine may just have made it
    os.utime(path, (0, 0))
    code = "import sys; file = open(sys.argv[1]); print(flush=True); sys.stdin.read()"
    owner = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert owner.stdout is not None
    owner.stdout.readline()
    assert not remove_left(path, 120.0)
    owner.kill()
    owner.wait()
    assert remove_left(path, 120.0)
    assert not path.exists()
    assert not remove_left(path, 120.0)


def test_a_fifo_in_the_place_of_a_file_is_damage(run: Run) -> None:
    for path in (run.paths.stage("rollout", 1) / "part-00000-of-00002.parquet",):
        path.unlink()
        os.mkfifo(path)
        fresh = Run.read(run.paths.root)
        from icpo_core.run import plan

        status = plan.status(fresh, "rollout", 1)
        assert status.standing is Standing.DAMAGED
        assert "is no regular file" in status.reason
    with stubs.stubbed(Run.read(run.paths.root)) as session:
        assert stubs.made(stubs.train(session)) == ["it-0001/rollout"]
    path = run.paths.manifest("verify", 1)
    path.unlink()
    os.mkfifo(path)
    assert Run.read(run.paths.root).store.finished("verify", 1) is None


def test_swapped_stages_are_found(run: Run) -> None:
    shutil.copytree(run.paths.iteration(1), run.paths.iteration(2))
    assert Run.read(run.paths.root).store.finished("select", 2) is None
    with pytest.raises(ValueError, match="belongs to it-0001/select, and was moved here"):
        Run.read(run.paths.root).store.manifest("select", 2)


def test_a_mirror_writes_nothing_outside_the_run(run: Run, tmp_path: Path) -> None:
    url = tmp_path / "away" / "run"
    shutil.copytree(run.paths.root, url, symlinks=True)
    (url / "LATEST").unlink()
    for path in url.rglob("lock.json"):
        path.unlink()
    # An object store has names where a file system has paths; this one is told such names.
    manifest_path = url / "it-0001" / "prompts" / "manifest.json"
    said = json.loads(manifest_path.read_text())
    said.pop("seal")
    said["files"][0]["name"] = "../../../../victim"
    files.write_sealed(manifest_path, said)
    there = RunPaths(tmp_path / "there" / "run")
    there.root.mkdir(parents=True)
    mirror = Mirror(there, f"file://{url}")
    names = type(mirror).names
    hostile = ["../../victim", "/etc/nothing", "logs/../../../victim"]
    type(mirror).names = property(lambda self: [*names.fget(self), *hostile])  # type: ignore
    try:
        wrong = fetch(mirror)
    finally:
        type(mirror).names = names  # type: ignore[method-assign]
    assert sum("left out" in line for line in wrong) == len(hostile)
    assert (tmp_path / "victim").read_text() == "mine"
    assert not there.stage("prompts", 1).exists()
    assert there.manifest("select", 1).is_file()
    assert not (tmp_path / "there" / "victim").exists()
