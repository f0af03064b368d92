"""Workers where jobs of other people's machines start them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import proxy_bypass

import pytest
from places import ROOT, SMALL

from icpo_core.config import EngineSection
from icpo_core.workers.address import LONGEST, short
from icpo_core.workers.environment import for_workers, past_proxies
from icpo_core.workers.jobs import EngineSettings
from icpo_core.workers.process import Worker, python_command

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


PROXY, OURS = "http://127.0.0.1:9", "127.0.0.1,localhost,::1"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {}),
        ({"NO_PROXY": "corp"}, {}),
        ({"HTTP_PROXY": PROXY}, {"NO_PROXY": OURS, "no_proxy": OURS}),
        (
            {"https_proxy": PROXY, "NO_PROXY": "corp, localhost"},
            dict.fromkeys(("NO_PROXY", "no_proxy"), "corp,localhost,127.0.0.1,::1"),
        ),
        (
            {"ALL_PROXY": PROXY, "no_proxy": "a", "NO_PROXY": "b"},
            {"no_proxy": f"a,{OURS}", "NO_PROXY": f"b,{OURS}"},
        ),
        ({"ALL_PROXY": PROXY, "NO_PROXY": "*"}, {"NO_PROXY": "*", "no_proxy": "*"}),
    ],
)
def test_what_is_asked_for_past_a_proxy(given: dict[str, str], expected: dict[str, str]) -> None:
    assert past_proxies(given) == expected


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that nobody answers behind, as workers inherit it."""
    for name in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name.upper()}_PROXY", raising=False)
    monkeypatch.setenv("HTTP_PROXY", PROXY)
    monkeypatch.setenv("NO_PROXY", "store.corp")


@pytest.mark.usefixtures("proxied")
def test_a_worker_asks_this_machine_past_a_proxy_and_others_through_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with started(tmp_path) as environment:
        pass
    assert environment["HTTP_PROXY"] == PROXY
    monkeypatch.setattr("os.environ", environment)
    assert proxy_bypass("127.0.0.1:4200")
    assert proxy_bypass("localhost")
    assert proxy_bypass("store.corp")
    assert not proxy_bypass("huggingface.co")


RANKS = {
    "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "LOCAL_SIZE": "2",
    "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29511", "SLURM_PROCID": "1", "SLURM_NTASKS": "2",
    "SLURM_NTASKS_PER_NODE": "2", "SLURM_STEP_ID": "0", "SLURM_LOCALID": "1",
    "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "1", "PMI_RANK": "1",
    "TORCHELASTIC_USE_AGENT_STORE": "True", "VLLM_DP_SIZE": "2",
}  # fmt: skip
"""As torchrun, Kubeflow, Slurm and MPI tell a process that it is the second of two."""
OF_THE_JOB = {"SLURM_JOB_ID": "1355700", "CUDA_VISIBLE_DEVICES": "", "NCCL_SOCKET_IFNAME": "ib0"}


def test_a_worker_is_no_rank_of_the_job_that_the_run_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (RANKS | OF_THE_JOB).items():
        monkeypatch.setenv(name, value)
    with started(tmp_path) as environment:
        assert not environment.keys() & RANKS.keys()
        assert environment.items() >= OF_THE_JOB.items()
    with started(tmp_path, "env", "RANK=0", "WORLD_SIZE=1") as environment:
        assert environment["RANK"] == "0"  # said by the launcher of this worker


def test_a_librarys_warning_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    done = subprocess.run(
        [sys.executable, "-c", "import warnings; warnings.warn('old', DeprecationWarning)"],
        env=for_workers(), capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    assert for_workers()["PYTHONWARNINGS"] == "ignore"


def test_files_that_are_called_as_libraries_are_stay_the_users_own(tmp_path: Path) -> None:
    for name in ("random", "torch", "pydantic", "icpo_core"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not for icpo')")
    where = "import random, torch, icpo_core; print(icpo_core.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", where], cwd=tmp_path, env=for_workers(), capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == str(ROOT / "icpo_core" / "__init__.py")


ENGINE = """
import os, subprocess, sys
def engine(settings):
    code = "import sys; print(sys.modules.get('torchvision', 'there'))"
    below = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    raise ValueError(f"here {sys.modules.get('torchvision', 'there')}, below {below.stdout}")
"""


def test_an_engine_of_another_environment_finds_no_stray_of_it(tmp_path: Path) -> None:
    """This one's environment has none."""
    (tmp_path / "own.py").write_text(ENGINE)
    (tmp_path / "torchvision-0.1.dist-info").mkdir()
    metadata = "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.1\nRequires-Dist: torch==0.1\n"
    (tmp_path / "torchvision-0.1.dist-info" / "METADATA").write_text(metadata)
    settings = EngineSettings(
        kind=f"{tmp_path / 'own.py'}:engine", model=SMALL / "base", engine=EngineSection(), seed=0
    )
    command = python_command(None, "icpo_core.engine.process", settings)
    paths = {"PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    worker = Worker("engine", command, tmp_path / "log", PATIENCE, paths)
    try:
        with pytest.raises(ValueError, match=r"here None, below None"):
            worker.wait_ready()
    finally:
        worker.stop()
