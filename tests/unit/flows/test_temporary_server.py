"""A server that ends while it is needed is asked no more."""

import os
import subprocess
import sys
import threading

import httpx
import psutil
import pytest
from prefect.settings import get_current_settings

from icpo.flows.prefect_compat import temporary_server
from icpo.flows.prefect_compat.terminal import ServerError, plain_errors
from icpo_core.workers.launcher import free_port


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


def test_a_server_that_ends_at_its_start_is_not_started_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Prefect's own loop, with a server that ends as one without its database does."""
    from prefect.server.api.server import SubprocessASGIServer

    tries: list[SubprocessASGIServer] = []

    def ends(server: SubprocessASGIServer) -> subprocess.Popen[bytes]:
        tries.append(server)
        started = subprocess.Popen(["sh", "-c", "exit 3"])
        started.wait()
        return started

    monkeypatch.setattr(SubprocessASGIServer, "_run_uvicorn_command", ends)
    temporary_server._give_up_on_one_that_does_not_start()
    with pytest.raises(ServerError, match="does not start"), plain_errors():
        # One of its own: without a port it is the one of this process, which may be at work.
        SubprocessASGIServer(free_port()).start(timeout=20)
    assert len(tries) == temporary_server.STARTS


def test_a_value_that_prefect_refuses_is_one_line() -> None:
    """In a process of its own: Prefect reads the environment once."""
    code = "from icpo.flows.prefect_compat.settings import prepare_process; prepare_process()"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PREFECT_LOGGING_LEVEL": "loud"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    *trace, said = done.stderr.splitlines()
    assert said.startswith("ValueError: PREFECT_LOGGING_LEVEL: Input should be 'DEBUG'")
    assert "Failed" not in trace[0]
