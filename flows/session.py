"""A run that is open inside a flow run, with all that Prefect is to know of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import httpx
from prefect import runtime
from prefect.client.orchestration import get_client
from prefect.logging import get_run_logger

from icpo.flows.observer import FlowObserver
from icpo.flows.prefect_compat.clients import clients
from icpo.flows.prefect_compat.settings import stop_retrying
from icpo.flows.prefect_compat.stale import close_stale
from icpo.flows.prefect_compat.temporary_server import end_is_noticed
from icpo.flows.services import judging, slots
from icpo.tasks.logs import Forwarder
from icpo_core.common.files import what_the_disk_says
from icpo_core.run.run import Run
from icpo_core.run.session import Session


@asynccontextmanager
async def opened(run: Run) -> AsyncIterator[tuple[Session, FlowObserver]]:
    """Open a run: GPU slots held, worker logs and artifacts on their way to the UI.

    Raises ValueError while another process has the run.
    """
    with end_is_noticed():
        async with clients(), slots.held(slots.needed(run.config)):
            await _tag(run.config.run.name)
            observer = FlowObserver(run)
            with (
                judging.opened(run, observer.short) as observer.pool,
                Session(run, observer) as session,
                Forwarder(session.logs, get_run_logger()),
                observer.publisher,
                observer.watcher,
            ):
                await close_stale(session)
                try:
                    yield session, observer
                except httpx.TransportError:
                    # The server is gone for good. What is left to say to it is not waited for.
                    stop_retrying()
                    raise
                except OSError as error:
                    # In the UI, too, one line says what to do; Prefect adds how it came to it.
                    if (said := what_the_disk_says(error)) is not None:
                        get_run_logger().error(said)
                    raise


async def _tag(name: str) -> None:
    """Let this flow run be found by the run's name in the UI, among its stages and parts."""
    flow_run = runtime.flow_run
    async with get_client() as client:
        await client.update_flow_run(UUID(flow_run.id), tags=sorted({*flow_run.tags, name}))
