"""A server that ends while it is needed is asked no more."""

import subprocess
import threading

import httpx
import psutil
import pytest
from prefect.settings import get_current_settings

from icpo.flows.prefect_compat import temporary_server
from icpo.flows.prefect_compat.terminal import ServerError, plain_errors


def test_once_the_server_is_gone_nothing_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    client = get_current_settings().client
    monkeypatch.setattr(client, "max_retries", 6)
    monkeypatch.setattr(temporary_server, "ended", threading.Event())
    server = subprocess.Popen(["sleep", "60"])
    try:
        over = threading.Event()
        watch = threading.Thread(
            target=temporary_server._notice_end, args=(psutil.Process(server.pid), over)
        )
        watch.start()
        assert not temporary_server.ended.wait(0.1)
        assert client.max_retries == 6
        server.kill()
        watch.join(20.0)
        assert not watch.is_alive()
    finally:
        over.set()
        server.kill()
        server.wait()
    assert client.max_retries == 0
    with (
        pytest.raises(ServerError, match=r"the embedded Prefect server ended.*start it again"),
        plain_errors(),
    ):
        raise httpx.ConnectError("refused")
