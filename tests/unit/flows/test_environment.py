"""What other people's machines do to a run: it gets to work, or one line says why not.

The first of its kind, sockets, proxies and ranks, are in workers/test_surroundings.py and
test_proxies.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from ending_runs import Ending
from forking import Forking
from idle_worker import script
from places import DEMO, ROOT
from stub_worker import changes

NOBODY = "http://127.0.0.1:9"
RUNS: dict[str, tuple[dict[str, str | None], str]] = {
    "no home": ({"HOME": None}, ""),
    "a home that is read-only": (
        {"HOME": "/proc", "XDG_CONFIG_HOME": None, "XDG_CACHE_HOME": "/proc"}, "",
    ),
    "a home that is a file": ({"HOME": "/dev/null", "XDG_CONFIG_HOME": "/dev/null"}, ""),
    "umask 077": ({}, "os.umask(0o077)"),
    "few open files": (
        {}, "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))",
    ),
    "no GPU is for it": ({"CUDA_VISIBLE_DEVICES": ""}, ""),
    "no GPU, in Slurm's words": ({"CUDA_VISIBLE_DEVICES": "NoDevFiles", "SLURM_JOB_GPUS": ""}, ""),
    "threads that are no number": ({"OMP_NUM_THREADS": "auto", "MKL_NUM_THREADS": ""}, ""),
    "a terminal of one's own": (
        {"TERM": "nonsense", "COLUMNS": "1", "NO_COLOR": "1", "FORCE_COLOR": "1"}, "",
    ),
    "a time zone that is none": ({"TZ": "Nowhere/Here"}, ""),
    "standard input is closed": ({}, "os.close(0)"),
    "a job of Slurm": (
        {
            "SLURM_JOB_ID": "1355700", "SLURM_NTASKS": "8", "SLURM_PROCID": "3",
            "SLURM_NODELIST": "gpu-[1-2]", "SLURM_CPUS_PER_TASK": "4", "SLURM_LOCALID": "3",
        }, "",
    ),
    "a job of Kubeflow": (
        {
            "RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "job-master-0", "MASTER_PORT": "23456",
            "PET_NNODES": "4", "KUBERNETES_SERVICE_HOST": "10.0.0.1",
        }, "",
    ),
    "a job of SageMaker": (
        {
            "SM_HOSTS": '["algo-1","algo-2"]', "SM_CURRENT_HOST": "algo-2", "SM_NUM_GPUS": "8",
            "SMDATAPARALLEL_LMC_ENABLE": "1", "RANK": "9",
        }, "",
    ),
    "a job of MPI": (
        {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "PMI_RANK": "1"}, "",
    ),
    "a Prefect that is not there": ({"PREFECT_API_URL": f"{NOBODY}/api"}, ""),
    "a hub that is not there": ({"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": NOBODY}, ""),
    "a proxy for everything": ({"HTTP_PROXY": NOBODY, "ALL_PROXY": NOBODY}, ""),
    "proxies that are none": ({"HTTP_PROXY": "proxy.corp:3128", "https_proxy": ""}, ""),
    "certificates that are not there": (
        {
            "SSL_CERT_FILE": "/nowhere.pem", "REQUESTS_CA_BUNDLE": "/nowhere.pem",
            "CURL_CA_BUNDLE": "/nowhere.pem",
        }, "",
    ),
    "a small stack, and output that nobody reads": (
        {"TMPDIR": "/dev/null"},
        "import resource as r; r.setrlimit(r.RLIMIT_STACK, (1 << 18, 1 << 18)); os.close(1)",
    ),
    "settings that are none, of torch, Conda and Kubernetes": (
        {
            "TORCH_HOME": "/proc/x", "TORCH_LOGS": "nonsense", "PYTORCH_CUDA_ALLOC_CONF": "x",
            "KUBERNETES_PORT": "tcp://10.0.0.1:443", "CONDA_PREFIX": "/nowhere",
            "VIRTUAL_ENV": "/nowhere", "ICPO_HOME": "/nowhere", "PYTHONPYCACHEPREFIX": "/proc/x",
        }, "",
    ),
}  # fmt: skip
"""By name: environment, and what the process does first. Each gets to work."""

REFUSED: dict[str, tuple[dict[str, str | None], str, list[str], int, str]] = {
    "the folder is gone": (
        {}, "os.mkdir('x'); os.chdir('x'); os.rmdir('../x')", [], 2,
        "the current folder is gone: cd to one that is there",
    ),
    "where runs go is read-only": ({}, "", ["run.directory=/proc/runs"], 2, "set run.directory"),
    "where runs go is a file": ({}, "", ["run.directory=/dev/null"], 2, "is below a file"),
    "files that may not grow": (
        {}, "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))", [], 1,
        "raise `ulimit -f`",
    ),
}  # fmt: skip
"""By name: environment, what the process does first, overrides, status, words of the one line."""


@pytest.mark.parametrize("name", RUNS)
def test_it_gets_to_work(name: str, tmp_path: Path, forking: Forking) -> None:
    environment, before = RUNS[name]
    python = script(tmp_path, "working")
    overrides = [f"rollout.python={python}", f"update.python={python}"]
    run = Ending(tmp_path, forking, *overrides, environment=environment, before=before)
    run.wait_for("at work")
    os.kill(run.pid, signal.SIGINT)
    os.kill(run.pid, signal.SIGINT)
    run.ended(128 + signal.SIGINT)


@pytest.mark.parametrize("name", REFUSED)
def test_it_says_why_not(name: str, tmp_path: Path, forking: Forking) -> None:
    environment, before, overrides, status, words = REFUSED[name]
    (tmp_path / "said").mkdir()
    said = tmp_path / "said" / "said"
    run = Ending(
        tmp_path, forking, *overrides, said=str(said), environment=environment, before=before
    )
    run.ended(status)
    lines = [one for one in said.read_text().splitlines() if one and not one.startswith("… ")]
    assert len(lines) == 1
    assert words in lines[0]


OF_LIBRARIES = {
    "PYTHONHASHSEED": "7",
    "PYTHONINTMAXSTRDIGITS": "700", "PYTHONWARNINGS": "error", "PYTHONIOENCODING": "ascii",
    "MALLOC_ARENA_MAX": "x", "GLIBC_TUNABLES": "x", "LD_PRELOAD": "/nowhere.so",
    "HF_HOME": "/dev/null", "TRANSFORMERS_VERBOSITY": "x", "TRITON_CACHE_DIR": "/proc/x",
    "VLLM_PORT": "tcp://10.0.0.1:8000", "KMP_AFFINITY": "x", "OMP_PLACES": "x", "TERM": "dumb",
}  # fmt: skip
"""What they survive, or make the best of."""


def own_packages(folder: Path) -> Mapping[str, str]:
    """A project that calls its folders as this one does, files that are called as libraries are,
    and its environment."""
    packages = folder / "packages"
    for name in ("data", "tasks", "flows", "configs"):
        (packages / name).mkdir(parents=True)
        (packages / name / "__init__.py").write_text("raise ImportError('not for icpo')")
    for name in ("random", "torch", "pyarrow", "icpo_core", "tasks"):
        (folder / f"{name}.py").write_text("raise ImportError('not for icpo')")
    return {
        "PYTHONPATH": os.pathsep.join((str(packages), str(ROOT))),
        "LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0",
        "HOME": "/proc", "TMPDIR": str(folder / "nowhere"), "CUDA_VISIBLE_DEVICES": "",
        **OF_LIBRARIES,
    }  # fmt: skip


def test_all_at_once_and_to_the_end(tmp_path: Path) -> None:
    """What an interpreter is started with, too."""
    environment = {**os.environ, **own_packages(tmp_path)}
    more = [*changes(tmp_path), "run.iterations=1", "evaluate.every=0", "prompts.batch_size=4"]
    words = ["train", str(DEMO), "--plain", *[word for one in more for word in ("-o", one)]]
    done = subprocess.run(
        [sys.executable, "-m", "icpo", *words], cwd=tmp_path, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_a_process_without_room_says_so(tmp_path: Path) -> None:
    """Where a library cannot be mapped, Python speaks of an import."""
    limited = f'ulimit -v 400000; exec "{sys.executable}" -m icpo train "{DEMO}" --plain'
    done = subprocess.run(
        ["sh", "-c", limited], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    [said] = [one for one in done.stderr.splitlines() if not one.startswith("… ")]
    assert "raise `ulimit -v`" in said
