"""What of the environment that a run was started in is for the run's own processes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from icpo_core.common import strays

SITE = Path(__file__).parent / "site"
"""Goes before PYTHONPATH where a package is to be hidden from everything that a worker starts."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
RANKS = {
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "LOCAL_SIZE", "NODE_RANK",
    "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME", "CROSS_RANK",
    "CROSS_SIZE", "MASTER_ADDR", "MASTER_PORT", "MPI_LOCALRANKID", "MPI_LOCALNRANKS",
    "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NPROCS", "SLURM_GTIDS",
    "SLURM_TASK_PID", "SLURM_TASKS_PER_NODE", "SLURM_LAUNCH_NODE_IPADDR",
}  # fmt: skip
"""Which process of several one is, as torchrun, Kubeflow, DeepSpeed, Slurm and MPI say it."""
RANKS_BEGIN = (
    "TORCHELASTIC_", "OMPI_", "PMI_", "PMIX_", "PALS_", "MV2_COMM_WORLD_", "SLURM_NTASKS",
    "SLURM_STEP", "SLURM_SRUN_", "VLLM_DP_",
)  # fmt: skip
"""Beginnings of more of them. What Slurm says of the job as a whole is none of them: a script in
the place of a worker's Python may ask for a step of that job."""


def for_workers() -> dict[str, str]:
    """This process's environment as a worker is to have it.

    Whatever the run was started as a part of, its trainer has the ranks that the configuration
    names, and whoever starts several tells them who they are.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in RANKS and not name.startswith(RANKS_BEGIN)
    }
    if "error" in kept.get("PYTHONWARNINGS", ""):  # torch warns as it is imported
        del kept["PYTHONWARNINGS"]
    if "://" in kept.get("VLLM_PORT", ""):  # where Kubernetes has a service that is called vllm
        del kept["VLLM_PORT"]
    # No `random.py` of the folder that one stands in is taken for a library.
    return kept | past_proxies(kept) | without_strays(kept) | {"PYTHONSAFEPATH": "1"}


def without_strays(environment: Mapping[str, str]) -> dict[str, str]:
    """What to add so that processes of this Python find no stray (`common.strays`). A worker may
    have another Python, and says it to its own."""
    given = environment.get("PYTHONPATH", "")
    if not strays.found() or given.split(os.pathsep)[0] == str(SITE):
        return {}
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(SITE), given)))}


def kept_cache() -> dict[str, str]:
    """Where torch keeps what it compiles: not in the folder for temporary files that a worker has
    of its own."""
    folder = Path(tempfile.gettempdir()) / f"torchinductor_{os.getuid()}"
    return {"TORCHINDUCTOR_CACHE_DIR": str(folder)}


def endpoint_key(address: str) -> str | None:
    """The key for a server at an address, `VLLM_API_KEY`; beyond this machine there must be one.

    Raises ValueError without.
    """
    key, host = os.environ.get("VLLM_API_KEY"), urlsplit(address).hostname or ""
    if not key and not _is_here(host):
        raise ValueError(
            f"{address}: a server on another machine must ask for a key: set VLLM_API_KEY, to the "
            "same, for the server and for icpo"
        )
    return key or None


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def past_proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """What to add so that this machine's own servers are not asked for through a proxy.

    All other addresses are asked for as the user has set it. Nothing where there is no proxy.
    """
    if not any(environment.get(name) or environment.get(name.upper()) for name in PROXIES):
        return {}
    # One of the two that is not there must not hide the other from whoever looks for both.
    upper, lower = environment.get("NO_PROXY"), environment.get("no_proxy")
    given = {
        "NO_PROXY": upper if upper is not None else lower or "",
        "no_proxy": lower if lower is not None else upper or "",
    }
    return {name: _extended(value) for name, value in given.items()}


def _extended(hosts: str) -> str:
    names = [name.strip() for name in hosts.split(",") if name.strip()]
    if "*" in names:
        return hosts
    return ",".join([*names, *(name for name in LOOPBACK if name not in names)])
