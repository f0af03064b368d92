"""A run that is open inside a flow run, with all that Prefect is to know of it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from prefect.logging import get_run_logger

from flows.prefect_compat.clients import clients
from flows.prefect_compat.settings import stop_retrying
from flows.prefect_compat.stale import close_stale
from flows.prefect_compat.temporary_server import bound_to_this_process
from flows.services import slots
from icpo_core.run.run import Run
from tasks.artifacts import Publisher
from tasks.logs import Forwarder


@asynccontextmanager
async def session(run: Run) -> AsyncIterator[Run]:
    """Open a run: GPU slots held, worker logs and artifacts on their way to the UI.

    Raises ValueError while another process has the run.
    """
    logger = get_run_logger()

    def on_mirror(line: str) -> None:
        logger.warning(line)
        print(line, file=sys.stderr)  # the terminal is not shown Prefect's log

    run.on_mirror = on_mirror
    with bound_to_this_process():
        async with clients(), slots.held(run.config):
            with run, Forwarder(run.logs, logger), Publisher(run):
                await close_stale(run)
                try:
                    yield run
                except httpx.TransportError:
                    # The server is gone for good. What is left to say to it is not waited for.
                    stop_retrying()
                    raise
