"""The Prefect server that `icpo up` starts."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from uuid import uuid4

import pytest
from prefect.server.events import triggers
from prefect.server.events.models import automations
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from icpo.flows.prefect_compat import server


def test_the_servers_loop_does_not_wait_for_a_lock_that_it_holds_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An automation is changed while a task of the same loop holds the lock of all of them.

    Without `mend` the commit never ends: its thread stays, and the test fails.
    """
    told: list[str] = []

    async def changed(_: object, event: str) -> None:
        async with lock:
            told.append(event)

    async def change() -> None:
        async with AsyncSession(create_async_engine("sqlite+aiosqlite://")) as session:
            await automations._notify(session, SimpleNamespace(id=uuid4()), "updated")
            await lock.acquire()
            asyncio.get_running_loop().call_later(0.2, lock.release)
            await session.begin()
            await session.commit()
        while not told:
            await asyncio.sleep(0.01)

    lock = asyncio.Lock()
    monkeypatch.setattr(triggers, "automation_changed", changed)
    monkeypatch.setattr(automations, "run_coro_as_sync", automations.run_coro_as_sync)
    server.mend()
    thread = threading.Thread(target=asyncio.run, args=(change(),), daemon=True)
    thread.start()
    thread.join(30)
    assert told == ["automation__updated"]
