"""Files that are whole or absent, seals, links, and what a disk says when it cannot."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icpo_core.common import files
from icpo_core.workers.jobs import Message
from icpo_core.workers.process import attempt


def test_a_writer_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = files.write_json(tmp_path / "facts.json", {"old": True})
    with pytest.raises(RuntimeError), files.atomic_path(path) as temporary:  # noqa: PT012
        temporary.write_text("half of the n")
        raise RuntimeError
    assert files.read_json(path) == {"old": True}
    assert list(tmp_path.iterdir()) == [path]


def test_every_changed_byte_breaks_the_seal(tmp_path: Path) -> None:
    path = files.write_sealed(tmp_path / "facts.json", {"rows": 7, "name": "π", "of": [1.5, None]})
    whole = path.read_bytes()
    assert files.read_sealed(path) == {"rows": 7, "name": "π", "of": [1.5, None]}
    assert "seal" in json.loads(whole)  # plain JSON to everybody else
    for place in range(len(whole)):
        for bit in (1, 16, 128):
            changed = bytearray(whole)
            changed[place] ^= bit
            assert not files.seal_fits(bytes(changed)), place
    for changed in (whole[:-1], whole + b" ", b"", whole + whole):
        path.write_bytes(changed)
        with pytest.raises(ValueError, match="its seal does not fit"):
            files.read_sealed(path)


def test_links_share_the_file_and_follow_a_hub_cache(tmp_path: Path) -> None:
    """A hub cache holds symbolic links with relative targets."""
    blob = tmp_path / "blobs" / "0a1b"
    blob.parent.mkdir()
    blob.write_bytes(b"weights")
    snapshot = tmp_path / "snapshots" / "main" / "model.safetensors"
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to("../../blobs/0a1b")
    target = tmp_path / "run" / "model" / "model.safetensors"
    files.link_or_copy(snapshot, target)
    assert target.samefile(blob)
    assert not target.is_symlink()


def test_where_there_are_no_links_files_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "a").write_bytes(b"weights")
    files.link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"weights"
    assert not (tmp_path / "b").samefile(tmp_path / "a")


def test_sync_all_reaches_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / str(number) for number in range(20)]
    for path in paths:
        path.touch()
    synced = []
    monkeypatch.setattr(files, "sync", synced.append)
    files.sync_all([*paths, tmp_path])
    assert sorted(synced) == sorted([*paths, tmp_path])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root and the right to mount")
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_every_library_that_writes_is_understood_on_a_full_disk(small_disk: Path) -> None:
    import torch
    from huggingface_hub import save_torch_state_dict

    weights = {"a": torch.zeros(1_000_000)}
    (small_disk / "model").mkdir()
    writers = {
        "text": lambda: (small_disk / "t").write_text("x" * 2_000_000),
        "json": lambda: files.write_json(small_disk / "j", ["x" * 2_000_000]),
        "parquet": lambda: pq.write_table(
            pa.table({"a": os.urandom(2_000_000)}), small_disk / "p", compression="none"
        ),
        "torch": lambda: torch.save(weights, small_disk / "s"),
        "safetensors": lambda: save_torch_state_dict(weights, small_disk / "model"),
    }
    for name, write in writers.items():
        with pytest.raises(Exception) as caught:  # noqa: PT011  each has its own
            write()
        words = files.what_the_disk_says(caught.value)
        assert words is not None, (name, caught.value)
        assert "free some" in words
        assert "\n" not in words
        for path in small_disk.glob("*"):
            if path.is_file():
                path.unlink()


def test_a_worker_on_a_full_disk_fails_in_one_line() -> None:
    """The error reaches the run as a reply, and the run's command as its last line."""

    def write() -> Message:
        raise OSError(28, "No space left on device", "/runs/demo/it-0001/update/model/x")

    reply = attempt("Update", write)
    assert reply["failure"] == (
        "Update: /runs/demo/it-0001/update/model/x: no space is left on the disk: free some; "
        "nothing finished is lost"
    )


def test_other_errors_are_not_the_disks() -> None:
    assert files.what_the_disk_says(OSError(2, "No such file or directory")) is None
    assert files.what_the_disk_says(RuntimeError("CUDA out of memory")) is None
