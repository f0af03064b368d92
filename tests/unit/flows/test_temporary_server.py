"""A server that ends while it is needed is asked no more."""

import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest
from prefect.settings import (
    PREFECT_SERVER_DATABASE_CONNECTION_URL,
    PREFECT_SERVER_EPHEMERAL_ENABLED,
    get_current_settings,
    temporary_settings,
)

from icpo.flows.prefect_compat import settings, temporary_server
from icpo.flows.prefect_compat.settings import prepare_process, require_database
from icpo.flows.prefect_compat.terminal import ServerError, plain_errors, require_answering
from icpo_core.workers.launcher import free_port


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """`prepare_process` sets what is for the rest of a process."""
    monkeypatch.setattr(os, "environ", dict(os.environ))


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


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("PREFECT_LOGGING_LEVEL", "loud", "Input should be 'DEBUG'"),
        ("PREFECT_CLIENT_CUSTOM_HEADERS", "x", "is no JSON; fix it or unset it"),
        ("PREFECT_RESULTS_DEFAULT_SERIALIZER", "nope", "Value error"),
        ("PREFECT_LOGGING_SETTINGS_PATH", "/tmp", "/tmp is a folder"),
    ],
)
def test_a_value_that_prefect_refuses_is_one_line(name: str, value: str, words: str) -> None:
    """In a process of its own: Prefect reads the environment once."""
    code = "from icpo.flows.prefect_compat.settings import prepare_process; prepare_process()"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, name: value},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    *trace, said = done.stderr.splitlines()
    assert said.startswith(f"ValueError: {name}: {words}")
    assert "Failed" not in trace[0]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense", "is no URL of a database; begin it with sqlite"),
        ("postgresql://u:secret@127.0.0.1/x", "begin it with sqlite"),
        ("postgresql+asyncpg://u:secret@127.0.0.1:9/x", "no database answers at 127.0.0.1:9"),
    ],
)
def test_a_database_that_is_none(url: str, words: str) -> None:
    with (
        temporary_settings({PREFECT_SERVER_DATABASE_CONNECTION_URL: url}),
        pytest.raises(ValueError, match=f"^Prefect's database: .*{words}") as raised,
    ):
        prepare_process()
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 400"])
def test_somebody_else_at_the_database_s_port(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes connections and says nothing, and one that is no PostgreSQL."""
    monkeypatch.setattr(settings, "CONNECT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:

        def answer() -> socket.socket:
            connection = server.accept()[0]
            connection.sendall(said)
            return connection

        accepted = pool.submit(answer)
        port = server.getsockname()[1]
        with pytest.raises(ValueError, match=f"no database answers at 127.0.0.1:{port}"):
            require_database(f"postgresql+asyncpg://u:secret@127.0.0.1:{port}/x")
        accepted.result().close()


def test_no_server_that_may_be_started() -> None:
    with (
        temporary_settings({PREFECT_SERVER_EPHEMERAL_ENABLED: False}),
        pytest.raises(ValueError, match="allows no embedded Prefect server, and there is no"),
    ):
        prepare_process()


def test_nobody_at_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(ServerError, match=r"^http://127.0.0.1:9/api: the Prefect API does not"):
        require_answering()
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect.invalid/api")
    require_answering()  # its proxy may know the way
    monkeypatch.setenv("PREFECT_API_URL", "prefect.invalid")
    with pytest.raises(ValueError, match="is no address, as http://127"):
        require_answering()
