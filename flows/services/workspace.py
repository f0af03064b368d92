"""What a Prefect API holds for this project: work pool, deployments, GPU slots, automations.

Everything here repeats without harm, on a server that is this machine's or a team's.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker

from icpo.flows.services import automations, slots
from icpo_core.workers import devices

POOL = "icpo"

Say = Callable[[str], None]


def prepare(client: SyncPrefectClient, gpus: int | None, notify: str | None, say: Say) -> None:
    """Make the work pool, the GPU slots of this machine and the automations.

    gpus: slots; None: as many as the machine has GPUs. notify: notification block of the alarms.
    """
    _pool(client)
    count = len(devices.visible()) if gpus is None else gpus
    if count or gpus is not None:
        client.upsert_global_concurrency_limit_by_name(slots.limit_name(), count)
        say(f"GPU slots of this machine: {count}")
    automations.ensure(client, notify, say)


def deploying(prefect: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    """`prefect deploy --all`, started; `finish` waits for it."""
    return subprocess.Popen(
        [prefect, "--no-prompt", "deploy", "--all"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(deploying: subprocess.Popen[str]) -> None:
    """Raises ValueError with the last line it said if the deployments could not be made."""
    said, _ = deploying.communicate()
    if deploying.returncode:
        words = [line for line in said.splitlines() if line.strip()]
        raise ValueError(f"prefect deploy --all: {words[-1] if words else 'failed without a word'}")


def _pool(client: SyncPrefectClient) -> None:
    try:
        client.read_work_pool(POOL)
    except ObjectNotFound:
        client.create_work_pool(
            WorkPoolCreate(
                name=POOL,
                type=ProcessWorker.type,
                description="Runs of ICPO, each a process on its worker's machine.",
                base_job_template=ProcessWorker.get_default_base_job_template(),
            )
        )
