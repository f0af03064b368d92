"""The run store: done or not and why, damage found and healed, one writer, disks that fail."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import stubs
from damage import flip

from icpo_core.common import files, lock
from icpo_core.common.files import what_the_disk_says
from icpo_core.common.lock import RefusedError, RunLock
from icpo_core.run import integrity, perform, plan
from icpo_core.run.run import Run
from icpo_core.run.session import Session
from icpo_core.run.stages import STAGES
from icpo_core.store import tables
from icpo_core.store.paths import RunPaths
from icpo_core.store.store import Store
from icpo_core.store.work import Standing, Work


def work(**changes: object) -> Work:
    facts: dict = {
        "stage": "rollout", "iteration": 1, "version": 1, "inputs": {"prompts": "a"},
        "config": {"rollout": {"temperature": 1.0}}, "seed": 0,
    }  # fmt: skip
    return Work(**facts | changes)


def part(name: str, work: Work, store: Store) -> Path:
    row = {
        "prompt_id": name, "sample_index": 0, "origin": "on_policy", "response": name * 999,
        "response_ids": list(range(999)), "logprobs": [-0.5] * 999, "finish_reason": "stop",
        "seed": 1, "policy_version": "p",
    }  # fmt: skip
    path = store.paths.stage(work.stage, work.iteration) / f"{name}.parquet"
    tables.write("rollout", tables.table("rollout", [row]), path, work.fingerprint)
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(RunPaths(tmp_path / "run"))


def test_a_stage_is_done_when_its_manifest_says_so_and_stale_when_anything_changes(
    store: Store,
) -> None:
    assert store.status(work()).reason == "not made yet"
    store.begin(work())
    part("a", work(), store)
    assert store.status(work()).reason == "not finished, 1 part of it there"
    made = store.commit(work(), 5.0, 1.5, {"rows": 1})
    assert (made.rows, made.seconds, made.files[0].rows) == (1, 1.5, 1)
    assert store.status(work()).done
    for change, reason in (
        ({"version": 2}, "code version 1 -> 2"),
        ({"seed": 7}, "run.seed 0 -> 7"),
        ({"inputs": {"prompts": "b"}}, "input prompts changed"),
        ({"config": {"rollout": {"temperature": 0.5}}}, "rollout.temperature 1.0 -> 0.5"),
    ):
        status = store.status(work(**change))
        assert (status.standing, status.reason) == (Standing.STALE, reason)
    path = store.paths.stage("rollout", 1) / "a.parquet"
    path.rename(path.with_suffix(".gone"))
    assert store.status(work()).reason == "a.parquet is missing"
    path.write_bytes(b"PAR1")
    assert store.status(work()).reason.startswith("a.parquet has 4 bytes instead of")


def test_begin_keeps_whole_parts_of_just_this_work(store: Store) -> None:
    folder = store.begin(work())
    good, bad = part("good", work(), store), part("bad", work(), store)
    other = part("other", work(seed=3), store)
    half = folder / "half.parquet.partial"
    half.write_bytes(b"PAR1")
    (folder / "model").mkdir()
    flip(bad)  # no manifest names it: its pages' checksums tell
    store.begin(work())
    assert sorted(folder.iterdir()) == [good]
    assert not other.exists()
    store.begin(work(), afresh=True)
    assert list(folder.iterdir()) == []


def test_a_damaged_part_is_told_by_its_digest_wherever_the_bit_lies(store: Store) -> None:
    """Also where no checksum of Parquet's reaches, in the footer."""
    store.begin(work())
    good, bad = part("good", work(), store), part("bad", work(), store)
    store.commit(work(), 0.0, 0.0, {})
    flip(bad, place=bad.read_bytes().rindex(b"parquet-cpp"))
    assert tables.read("rollout", bad).num_rows == 1
    assert Store(store.paths).verify("rollout", 1, files.sha256_file).keys() == {"bad.parquet"}
    fresh = Store(store.paths)
    fresh.begin(work())
    assert [path for path in (good, bad) if path.exists()] == [good]


def test_what_another_process_wrote_is_hashed_when_it_is_first_read(store: Store) -> None:
    store.begin(work())
    path = part("a", work(), store)
    store.commit(work(), 0.0, 0.0, {})
    reader = Store(store.paths)
    assert reader.file("rollout", 1, "a.parquet") == path
    flip(path)
    assert Store(store.paths).status(work()).done  # sizes alone say nothing
    with pytest.raises(ValueError, match=r"sha256 differs.*icpo check .*marks it"):
        Store(store.paths).file("rollout", 1, "a.parquet")
    writer = Store(store.paths)
    writer.writable = True
    with pytest.raises(ValueError, match=r"icpo stage rollout .* --iteration 1"):
        writer.file("rollout", 1, "a.parquet")
    assert Store(store.paths).status(work()).standing is Standing.DAMAGED


def test_a_changed_byte_of_a_manifest_is_damage(store: Store) -> None:
    store.begin(work())
    part("a", work(), store)
    store.commit(work(), 0.0, 0.0, {})
    path = store.paths.manifest("rollout", 1)
    path.write_text(path.read_text().replace('"seconds": 0.0', '"seconds": 1.0'))
    status = Store(store.paths).status(work())
    assert status.standing is Standing.DAMAGED
    assert "its seal does not fit" in status.reason


def test_everything_a_manifest_names_is_on_the_disk_before_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    sync, replace = files.sync, os.replace
    monkeypatch.setattr(files, "sync", lambda path: (order.append(path.name), sync(path)))
    monkeypatch.setattr(
        os, "replace", lambda a, b: (order.append(f"-> {Path(b).name}"), replace(a, b))
    )
    store.begin(work())
    part("a", work(), store)
    model = store.paths.stage("rollout", 1) / "model"
    model.mkdir()
    (model / "weights").write_bytes(b"1")
    store.commit(work(), 0.0, 0.0, {})
    last = order.index("-> manifest.json")
    assert {"a.parquet", "weights", "model", "rollout"} <= set(order[:last])


# --- a whole run --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three iterations, made once."""
    folder = tmp_path_factory.mktemp("store")
    run = Run.of(stubs.configuration(folder, "run"))
    with stubs.stubbed(run) as session:
        stubs.train(session)
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A copy of it that keeps the links within."""
    subprocess.run(["cp", "-a", f"{trained}/.", str(tmp_path)], check=True)
    return tmp_path


def stored_files(paths: RunPaths) -> list[Path]:
    """Everything of a run but logs, locks and links."""
    return [
        path
        for path in sorted(paths.root.rglob("*"))
        if path.is_file()
        and not path.is_symlink()
        and path != paths.lock
        and "logs" not in path.relative_to(paths.root).parts
        and not path.is_relative_to(paths.latest)
    ]


def go_on(folder: Path) -> list[str]:
    run = Run.of(stubs.configuration(folder, "run"))
    with stubs.stubbed(run, folder / "ledger") as session:
        return stubs.made(stubs.train(session))


def test_one_flipped_byte_of_any_file_is_found_and_named(folder: Path) -> None:
    paths = RunPaths(folder / "runs" / "run")
    assert integrity.check(paths) == []
    everything = stored_files(paths)
    assert len(everything) > 70
    for path in everything:
        whole = path.read_bytes()
        flip(path)
        found = {damage.file for damage in integrity.check(paths)}
        twins = {one for one in everything if one.samefile(path)}
        assert found == twins, path
        with path.open("r+b") as stream:
            stream.write(whole)
    # What is whole again is not damaged any more.
    assert integrity.check(paths) == []
    assert go_on(folder) == []


@pytest.mark.parametrize(
    ("damaged", "again"),
    [
        ("it-0001/prompts/prompts.parquet", ["it-0001/prompts"]),
        ("it-0002/rollout/part-00001-of-00002.parquet", ["it-0002/rollout"]),
        ("it-0002/verify/part-00000-of-00002.parquet", ["it-0002/verify"]),
        ("it-0003/select/rejects-00000-of-00002.parquet", ["it-0003/select"]),
        ("it-0003/select/summary.json", ["it-0003/select"]),
        ("it-0001/update/metrics.json", ["it-0001/update"]),
        ("it-0003/update/model/config.json", ["it-0003/update", "it-0003/checkpoint"]),
        ("it-0003/checkpoint/state/deepspeed/state.safetensors", ["it-0003/checkpoint"]),
        ("it-0002/evaluate/scores.json", ["it-0002/evaluate"]),
        ("it-0000/evaluate/samples.parquet", ["it-0000/evaluate"]),
        ("it-0002/update/manifest.json", ["it-0002/update"]),
        ("it-0001/update/pruned.json", ["it-0001/update"]),
        ("run.json", []),
        ("config.json", []),
        ("metrics.parquet", []),
    ],
)
def test_damage_is_healed_by_making_again_just_what_is_damaged(
    damaged: str, again: list[str], folder: Path
) -> None:
    paths = RunPaths(folder / "runs" / "run")
    before = stubs.digests(paths.root)
    flip(paths.root / damaged)
    assert integrity.check(paths)
    steps = plan.plan(Run.read(paths.root))
    planned = [step for step in steps if not step.status.done]
    named = {
        f"it-{step.iteration:04d}/{step.stage}"
        for step in planned
        if step.status.standing is Standing.DAMAGED
    }
    assert named == set(again)
    # Without a manifest it is not known what was made from it, until it is made again.
    waiting = [step.status.reason for step in planned if step.status.standing is Standing.MISSING]
    assert all(reason.startswith("waits for update") for reason in waiting)
    assert not waiting or damaged.endswith("manifest.json")
    assert go_on(folder) == again
    assert stubs.digests(paths.root) == before
    assert integrity.check(paths) == []
    ledger = (folder / "ledger").read_text() if (folder / "ledger").exists() else ""
    # Of two parts one is damaged, and that one is sampled again.
    sampled = {"it-0002/rollout": 8, "it-0000/evaluate": 6}
    assert ledger.count("sample") == sum(sampled.get(place, 0) for place in again)


def test_force_makes_all_of_a_stage_again(folder: Path) -> None:
    run = Run.read(folder / "runs" / "run")
    with stubs.stubbed(run, folder / "ledger") as session:
        outcome = perform.perform(session, "rollout", 3, force=True)
    assert outcome.made
    assert outcome.reason == "forced"
    assert outcome.manifest.facts["kept_parts"] == 0
    assert (folder / "ledger").read_text().count("sample") == 16


def test_pruned_weights_come_back_when_something_old_is_made_again(folder: Path) -> None:
    """Rollouts of iteration 2 need the weights of iteration 1, which retention removed."""
    run = Run.read(folder / "runs" / "run")
    assert not run.has_weights(1)
    before = stubs.digests(run.paths.root)
    with stubs.stubbed(run, folder / "ledger") as session:
        perform.perform(session, "rollout", 2, force=True)
    assert run.has_weights(1)
    assert (folder / "ledger").read_text().count("step") == 1
    assert stubs.digests(run.paths.root) == before
    assert integrity.check(run.paths) == []


# --- one writer ---------------------------------------------------------------------------------

HOLDER = """
import sys, time
from pathlib import Path
from icpo_core.common.lock import RunLock
lock = RunLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_writer_is_told_who_the_first_is_and_a_dead_one_holds_nothing(
    folder: Path, root: Path
) -> None:
    paths = RunPaths(folder / "runs" / "run")
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(paths.lock)], stdout=subprocess.PIPE, text=True, cwd=root
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    before = {path: path.read_bytes() for path in stored_files(paths)}
    try:
        words = rf"in use by process {other.pid} on \S+ since \d{{4}}-\d\d-\d\d .*; wait"
        with pytest.raises(RefusedError, match=words) as caught:
            Session(Run.of(stubs.configuration(folder, "run"))).open()
        assert "\n" not in str(caught.value)
        assert lock.holder(paths.lock) in str(caught.value)
        # Looking is allowed, and finds all there is, but marks nothing.
        flip(paths.stage("select", 2) / "batch-00000-of-00002.parquet")
        assert len(integrity.check(paths)) == 1
        assert not paths.damaged("select", 2).exists()
    finally:
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
    flip(paths.stage("select", 2) / "batch-00000-of-00002.parquet")
    assert {path: path.read_bytes() for path in stored_files(paths)} == before
    assert lock.holder(paths.lock) is None
    assert "pid" in paths.lock.read_text()  # what the dead one left: it holds nothing
    assert go_on(folder) == []


def test_whoever_looks_for_the_holder_is_not_in_the_way(tmp_path: Path) -> None:
    path = tmp_path / "lock.json"
    for _ in range(20):
        with RunLock(path):
            assert lock.holder(path) is not None
        assert lock.holder(path) is None


# --- clocks and disks ---------------------------------------------------------------------------


def test_a_clock_that_is_set_back_changes_nothing(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an hour, with every look at it, and a run that goes on earlier than it stopped."""
    shutil.copytree(trained / "data", tmp_path / "data")
    real, looks = time.time, iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: real() - 3600 * next(looks))
    run = Run.of(stubs.configuration(tmp_path, "run"))
    with stubs.stubbed(run) as session:
        for stage in ("prompts", "rollout"):
            perform.perform(session, stage, 1)
    assert go_on(tmp_path)[:2] == ["it-0000/evaluate", "it-0001/verify"]
    root = tmp_path / "runs" / "run"
    assert stubs.digests(root) == stubs.digests(trained / "runs" / "run")
    found = [Store(RunPaths(root)).manifest(s, n) for s in STAGES for n in range(4)]
    assert all(0 <= one.seconds < 60 for one in found if one is not None)
    assert go_on(tmp_path) == []


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own for the runs."""
    runs = tmp_path / "runs"
    runs.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(runs)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root and the right to mount")
    yield runs
    subprocess.run(["umount", "-l", str(runs)], check=True)


@pytest.mark.parametrize("pages", [0, 3, 12, 20, 33, 47])
def test_a_full_disk_is_one_line_and_the_run_is_whole_afterwards(
    pages: int, disk: Path, trained: Path, tmp_path: Path
) -> None:
    """Full after so many pages of 4 KiB, wherever the run is then."""
    shutil.copytree(trained / "data", tmp_path / "data")
    ballast = disk / "ballast"
    ballast.write_bytes(b"\0" * (shutil.disk_usage(disk).free - 4096 * pages))
    with pytest.raises(OSError, match="No space left on device") as caught:
        go_on(tmp_path)
    words = what_the_disk_says(caught.value)
    assert words is not None
    assert words.endswith("no space is left on the disk: free some; nothing finished is lost")
    assert "\n" not in words
    ballast.unlink()
    go_on(tmp_path)
    assert stubs.digests(disk / "run") == stubs.digests(trained / "runs" / "run")
    assert integrity.check(RunPaths(disk / "run")) == []
    assert not list((disk / "run").rglob("*.partial"))


def test_a_read_only_disk_is_one_line_and_can_be_looked_at(
    disk: Path, trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained / "data", tmp_path / "data")
    run = Run.of(stubs.configuration(tmp_path, "run"))
    with stubs.stubbed(run) as session:
        session.keep_config()
        perform.perform(session, "prompts", 1)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(OSError, match="Read-only file system") as caught:
        go_on(tmp_path)
    assert "make it writable, or set run.directory elsewhere" in str(
        what_the_disk_says(caught.value)
    )
    assert plan.plan(Run.read(disk / "run"))[1].status.done
    assert integrity.check(RunPaths(disk / "run")) == []
    assert lock.holder(RunPaths(disk / "run").lock) is None
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    assert go_on(tmp_path)[:2] == ["it-0000/evaluate", "it-0001/rollout"]
    assert stubs.digests(disk / "run") == stubs.digests(trained / "runs" / "run")


def test_another_program_version_is_named(folder: Path) -> None:
    """A manifest with a field that this program does not know is not misread."""
    path = RunPaths(folder / "runs" / "run").manifest("select", 2)
    files.write_sealed(path, files.read_sealed(path) | {"flavour": "new"})
    with pytest.raises(ValueError, match=r"of another version of this program \(flavour\)"):
        Store(RunPaths(folder / "runs" / "run")).manifest("select", 2)


def test_a_file_in_memory_is_read_without_threads_that_outlive_it() -> None:
    """One that lets go of the bytes while Python ends aborts the process (4 of 150 times)."""
    code = """
import os
import pyarrow as pa
import pyarrow.parquet as pq
from icpo_core.store.tables import read_bytes

sink = pa.BufferOutputStream()
pq.write_table(pa.table({f"c{n}": list(range(9)) for n in range(60)}), sink)
data = sink.getvalue().to_pybytes()
before = len(os.listdir("/proc/self/task"))
assert read_bytes(data)["c7"].to_pylist() == list(range(9))
assert len(os.listdir("/proc/self/task")) == before
pq.read_table(pa.BufferReader(data))
assert len(os.listdir("/proc/self/task")) > before  # what this test counts, Arrow starts otherwise
os._exit(0)  # with those threads Python's own end is what aborts
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_tables_join_parts_in_order(store: Store) -> None:
    store.begin(work())
    for name in ("part-b", "part-a", "unfinished-a"):
        part(name, work(), store)
    store.commit(work(), 0.0, 0.0, {})
    table = store.table("rollout", 1, "rollout")
    assert isinstance(table, pa.Table)
    assert table["prompt_id"].to_pylist() == ["part-a", "part-b"]
    with pytest.raises(ValueError, match="icpo stage verify"):
        store.table("verify", 1, "verdicts")
