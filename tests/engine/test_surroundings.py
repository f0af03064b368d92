"""A trainer inside somebody else's job, and what it opens to the network."""

from __future__ import annotations

import socket
from pathlib import Path

import psutil
import pytest
from network import family, heard
from updates import PLAIN, SETTINGS

from icpo_core.config import UpdateSection
from icpo_core.workers.jobs import TrainerReady, TrainerSettings
from icpo_core.workers.process import Worker, python_command

OTHERS = {
    "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29511", "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2",
    "SLURM_PROCID": "0", "SLURM_NTASKS": "2", "TORCHELASTIC_USE_AGENT_STORE": "True",
}  # fmt: skip
"""The first of two processes; the second never comes."""


def test_a_single_rank_is_alone_and_listens_nowhere_but_here(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in OTHERS.items():
        monkeypatch.setenv(name, value)
    for name, addresses in psutil.net_if_addrs().items():
        if name != "lo" and any(one.family == socket.AF_INET for one in addresses):
            monkeypatch.setenv("GLOO_SOCKET_IFNAME", name)
    settings = TrainerSettings(
        model=small / "base",
        loss=PLAIN,
        update=UpdateSection(**SETTINGS, threads=1),
        temperature=1.0,
        updates_behind=0,
    )
    command = python_command(None, "icpo_core.trainer.process", settings)
    worker = Worker("trainer", command, tmp_path / "log", 120.0)
    try:
        assert TrainerReady.model_validate(worker.wait_ready()).ranks == 1
        assert heard(family(worker.process.pid)) == set()
    finally:
        worker.stop()
