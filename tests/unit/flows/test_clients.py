"""A Prefect server that refuses for a moment, and one that refuses for good."""

import asyncio

import httpx
import pytest
from prefect.client.base import PrefectHttpxSyncClient
from prefect.client.orchestration import get_client
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED,
    temporary_settings,
)

from icpo.flows.prefect_compat.clients import SOON, ask_again_soon, clients


def waits(monkeypatch: pytest.MonkeyPatch, answers: list[httpx.Response]) -> list[float]:
    """What Prefect's own client waits between the answers of a server (a stub) to one request."""
    waited: list[float] = []
    monkeypatch.setattr("prefect.client.base.time.sleep", waited.append)
    server = httpx.MockTransport(lambda request: answers.pop(0))
    hooks = {"response": [ask_again_soon]}
    with PrefectHttpxSyncClient(
        transport=server, event_hooks=hooks, base_url="http://server", enable_csrf_support=False
    ) as client:
        assert client.post("/task_runs/").status_code == 200
    assert not answers
    return waited


def test_a_refusal_of_a_moment_is_asked_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    [waited] = waits(monkeypatch, [httpx.Response(503), httpx.Response(200)])
    assert SOON[0] <= waited < 2 * SOON[0]


def test_a_server_in_trouble_gets_the_waits_that_prefect_gives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited = waits(monkeypatch, [httpx.Response(status) for status in (503, 503, 503, 503, 200)])
    assert waited[1] < 1 < 4 < min(waited[2:])


def test_what_the_server_itself_says_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = httpx.Response(503, headers={"Retry-After": "7"})
    [waited] = waits(monkeypatch, [busy, httpx.Response(200)])
    assert waited >= 7


def test_whoever_asks_for_a_client_gets_the_one_that_asks_again_soon() -> None:
    """As Prefect's engine asks, and twice the same; nothing is sent."""

    async def asked() -> None:
        async with clients():
            for sync in (True, False):
                one, other = (get_client(sync_client=sync) for _ in range(2))
                assert one is other
                [hook] = one._client.event_hooks["response"]
                assert "ask_again_soon" in hook.__name__

    nobody = {
        PREFECT_API_URL: "http://127.0.0.1:9/api",
        PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED: False,
    }
    with temporary_settings(nobody):
        asyncio.run(asked())
