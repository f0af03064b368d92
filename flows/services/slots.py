"""GPU slots: a strict global concurrency limit of Prefect for each machine that has GPUs.

`icpo up` makes the limit. A run on that machine holds as many slots as it uses GPUs for as long as
its engines live, so two runs never share one; a machine without the limit (no GPUs, or a cluster
whose scheduler hands them out) holds nothing.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.concurrency.asyncio import concurrency
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger

from icpo_core.config import Config
from icpo_core.workers import devices, launcher
from icpo_core.workers.placement import place

WAIT_LOG = "waits for {count} of {limit} GPU slots ({name})"


def limit_name() -> str:
    """The limit of this machine."""
    return f"icpo-gpu-{socket.gethostname()}"


def needed(config: Config) -> int:
    """GPUs of this machine that a run uses, its engines and its trainer together."""
    hostfile = config.update.hostfile
    hosts = launcher.slots(Path(hostfile)) if hostfile else {}
    placement = place(config, devices.visible(), hosts)
    return len({device for each in [*placement.engines, placement.trainer] for device in each})


@asynccontextmanager
async def held(count: int) -> AsyncIterator[None]:
    """Hold so many slots, waiting for them if others have them.

    Raises ValueError if the machine never has so many.
    """
    name = limit_name()
    if not count:
        yield
        return
    try:
        async with get_client() as client:
            limit = (await client.read_global_concurrency_limit_by_name(name)).limit
    except ObjectNotFound:
        yield
        return
    if count > limit:
        raise ValueError(
            f"the run uses {count} GPUs and this machine has {limit} slots ({name}): lower "
            "rollout.engines or update.ranks, or raise the limit with `icpo up --gpus N`"
        )
    get_run_logger().info(WAIT_LOG.format(count=count, limit=limit, name=name))
    async with concurrency(name, occupy=count, strict=True):
        yield
