"""A flow run's clients of the Prefect server: one for all its tasks, one for its subflows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from prefect.context import AsyncClientContext, SyncClientContext

SOON = (0.05, 0.2)
"""Seconds until a request that the server refused for now is made again, at first."""


@asynccontextmanager
async def clients() -> AsyncIterator[None]:
    """Have everything in the body, tasks and subflows too, ask the server through two clients.

    Making one takes 40 ms, and each task would make its own.
    """
    with SyncClientContext.get_or_create() as tasks:
        async with AsyncClientContext.get_or_create() as subflows:
            # Not by `httpx_settings`: whoever asks for a client without any would be given another.
            tasks.client._client.event_hooks = {"response": [ask_again_soon]}
            subflows.client._client.event_hooks = {"response": [_ask_again_soon]}
            yield


def ask_again_soon(response: httpx.Response) -> None:
    """Shorten the first waits of Prefect's client after a 503.

    SQLite has one writer, and a transaction that read before another one wrote is refused at once,
    however long the server would wait for a lock. A moment later it succeeds; Prefect's client,
    which cannot know, waits 2 s, then 4. It does as an answer's `Retry-After` says. From the third
    refusal on the server is in trouble, and the waits are Prefect's own.
    """
    if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
        return
    # A request that is made again is the same object.
    refused = response.request.extensions.get("icpo_refused", 0)
    response.request.extensions["icpo_refused"] = refused + 1
    if refused < len(SOON):
        response.headers.setdefault("Retry-After", str(SOON[refused]))


async def _ask_again_soon(response: httpx.Response) -> None:
    ask_again_soon(response)
