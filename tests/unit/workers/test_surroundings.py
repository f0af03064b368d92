"""Workers where jobs of other people's machines start them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from places import ROOT

from icpo_core.workers.address import LONGEST, short
from icpo_core.workers.process import Worker

PATIENCE = 60.0
STUB = f"""
import json, os, sys
sys.path.insert(0, {str(ROOT)!r})
from icpo_core.workers.jobs import EngineReady
from icpo_core.workers.process import serve
serve(lambda: (EngineReady(policy_version=json.dumps(dict(os.environ))), {{}}))
"""
"""Says its environment in the place of the digest of its weights."""
LAUNCHER = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"
"""Hands on no open file, as DeepSpeed's launcher does not."""


@contextmanager
def started(folder: Path, *before: str) -> Iterator[dict[str, str]]:
    """The environment of a worker that is up."""
    command = [*before, sys.executable, "-c", STUB]
    worker = Worker("stub", command, folder / "log", PATIENCE)
    try:
        yield json.loads(worker.wait_ready()["policy_version"])
    finally:
        worker.stop()


def deep(folder: Path) -> Path:
    """A folder for temporary files such as a job of Slurm has."""
    while len(os.fsencode(folder)) <= 2 * LONGEST:
        folder /= "slurm_jobdir-of-1355700"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("before", [[], [sys.executable, "-c", LAUNCHER]])
def test_a_folder_for_temporary_files_with_a_long_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: list[str]
) -> None:
    temporary = deep(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    with started(tmp_path, *before):
        [folder] = temporary.iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not list(temporary.iterdir())


def test_an_address_that_fits_is_left_as_it_is(tmp_path: Path) -> None:
    """Also for a worker of another Python, which may be of another version."""
    path = Path("/" + "a" * (LONGEST - 1))
    with short(path) as address:
        assert address == str(path)
    path = tmp_path / ("a" * (LONGEST + 1))
    before = set(os.listdir("/proc/self/fd"))
    with short(path) as address:
        assert Path(address).parent.samefile(tmp_path)
    assert set(os.listdir("/proc/self/fd")) == before
