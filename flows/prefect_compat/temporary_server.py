"""The server that Prefect starts for a process without PREFECT_API_URL, and its end."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
from prefect.settings import get_current_settings

APPLICATION = "prefect.server.api.server:create_app"
"""What uvicorn serves there, on its command line."""
ended = threading.Event()
"""Set when the server ended while this process still needed it."""
_WATCH = """
cat
if [ ! -d /proc/self ] || grep -q "$2" "/proc/$1/cmdline"; then kill "$1"; fi
"""
"""Wait for the end of standard input, then end process $1 if it is still the one that was meant."""


@contextmanager
def bound_to_this_process() -> Iterator[None]:
    """Let the temporary server, if there is one, end when this process does in whatever way.

    Prefect ends it on a regular way out only: after a kill -9 it would stay for good. A shell
    waits on a pipe that closes with this process.
    """
    server = _server()
    if server is None:
        yield
        return
    watcher = subprocess.Popen(
        ["/bin/sh", "-c", _WATCH, "icpo-watcher", str(server.pid), APPLICATION],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a Ctrl-C is not for it
    )
    over = threading.Event()
    threading.Thread(target=_notice_end, args=(server, over), daemon=True).start()
    try:
        yield
    finally:
        over.set()
        # Here the server is still needed, and Prefect will end it.
        watcher.kill()
        watcher.communicate()


def _notice_end(server: psutil.Process, over: threading.Event) -> None:
    """Once the server has ended while it was needed, ask it no more: every request would be tried
    for two minutes, as is right for a server that somebody starts again."""
    while not over.wait(1.0):
        if not server.is_running() or server.status() == psutil.STATUS_ZOMBIE:
            ended.set()
            get_current_settings().client.max_retries = 0
            return


def _server() -> psutil.Process | None:
    for child in psutil.Process().children():
        try:
            if APPLICATION in child.cmdline():
                return child
        except psutil.Error:
            continue
    return None
