"""A configured server that goes is waited for once, and tried again when it is back."""

import http.server
import threading
import time
from collections.abc import Callable

import pytest
from prefect.settings import get_current_settings

from icpo.flows.prefect_compat import configured_server
from icpo_core.workers.launcher import free_port


class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Not on this terminal."""


def wait(until: Callable[[], bool]) -> None:
    end = time.monotonic() + 20.0
    while not until():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_no_request_is_tried_again_while_the_server_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = get_current_settings().client
    monkeypatch.setattr(client, "max_retries", 4)
    port, over, asked = free_port(), threading.Event(), threading.Event()

    class Server(http.server.HTTPServer):
        def process_request(self, *given: object) -> None:
            super().process_request(*given)  # type: ignore[arg-type]
            asked.set()

    def serve() -> Server:
        asked.clear()
        server = Server(("127.0.0.1", port), Healthy)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server

    def end(server: Server) -> None:
        server.shutdown()
        server.server_close()

    server = serve()
    given = (f"http://127.0.0.1:{port}/api", over, 0.02, 0.2)
    watch = threading.Thread(target=configured_server.watch, args=given)
    watch.start()
    try:
        assert asked.wait(20.0)
        assert client.max_retries == 4
        end(server)
        wait(lambda: client.max_retries == 0)
        server = serve()
        wait(lambda: client.max_retries == 4)
        end(server)
    finally:
        over.set()
        watch.join(20.0)
    assert not watch.is_alive()
