"""The proxy of a company's network: in the way of nothing on this machine."""

import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from places import ROOT

from icpo.flows.prefect_compat.settings import prepare_process

NOBODY = "http://127.0.0.1:9"


class Api(BaseHTTPRequestHandler):
    """Stands for a Prefect server as far as `icpo doctor` asks it."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def api() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Api) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()


@pytest.mark.parametrize("names", [("HTTP_PROXY", "http_proxy"), ("ALL_PROXY",)])
def test_a_server_on_this_machine_is_asked_directly(
    api: str, names: tuple[str, ...], tmp_path: Path
) -> None:
    environment = {
        "PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT),
        "PREFECT_API_URL": api, **dict.fromkeys(names, NOBODY),
    }  # fmt: skip
    command = [sys.executable, "-m", "icpo", "doctor", "--json"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert f"{api} answers" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ALL_PROXY", "socks9://user:secret@127.0.0.1:1080", "Unknown scheme for proxy URL"),
        ("HTTPS_PROXY", "http://proxy:port", "Invalid port"),
    ],
)
def test_a_proxy_that_no_client_can_be_made_with_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str, words: str
) -> None:
    monkeypatch.setattr("os.environ", {"PREFECT_HOME": str(tmp_path), name: value})
    with pytest.raises(ValueError, match=f"^{name}: {words}") as refused:
        prepare_process()
    assert "\n" not in str(refused.value)
    assert "secret" not in str(refused.value)
