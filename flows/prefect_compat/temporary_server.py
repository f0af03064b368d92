"""The server that Prefect starts for a process without PREFECT_API_URL, and its end."""

from __future__ import annotations

import atexit
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import psutil

from icpo.flows.prefect_compat import configured_server

APPLICATION = "prefect.server.api.server:create_app"
"""What uvicorn serves there, on its command line."""
STARTS = 2
"""How often it is tried."""
OWNER = "ICPO_SERVER_OF"
"""Variable that such a server inherits from this process, and no other server has alike."""
ended = threading.Event()
"""Set when the server ended while this process still needed it."""
_WATCH = """
while read -r _; do :; done
for found in $(grep -slF "$1" /proc/[0-9]*/cmdline); do
    if grep -sqF "$2" "${found%cmdline}environ"; then
        pid=${found#/proc/}
        kill "${pid%/cmdline}"
    fi
done
"""
"""Wait for the end of standard input, then end what serves $1 and was given $2."""


def end_with_this_process() -> None:
    """Let the temporary server end when this process does, in whatever way. Call it before Prefect
    starts one.

    Prefect ends it on a regular way out only: after a kill -9 it would stay for good. A shell
    waits on a pipe that closes with this process.
    """
    if OWNER in os.environ and os.environ[OWNER].startswith(f"{os.getpid()}-"):
        return
    mark = f"{os.getpid()}-{uuid4().hex}"
    watcher = subprocess.Popen(
        ["/bin/sh", "-c", _WATCH, "icpo-watcher", APPLICATION, f"{OWNER}={mark}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a Ctrl-C is not for it
    )
    os.environ[OWNER] = mark  # after the watcher, which is none of those that it ends
    _give_up_on_one_that_does_not_start()
    # Prefect registers the end of the server later, so that comes before this.
    atexit.register(watcher.wait)
    atexit.register(watcher.kill)


def _give_up_on_one_that_does_not_start() -> None:
    """Prefect starts a server that ends with status 3 again without end. That is a port that was
    taken meanwhile, or a database that does not answer (prefect/server/api/server.py, 3.7.7)."""
    from prefect.server.api.server import SubprocessASGIServer

    start, starts = SubprocessASGIServer._run_uvicorn_command, 0

    def counted(self: SubprocessASGIServer) -> subprocess.Popen[Any]:
        nonlocal starts
        starts += 1
        if starts > STARTS:
            raise RuntimeError("the ephemeral Prefect API server ends at its start")
        return start(self)

    # Not by assignment: mypy names its error one way with a cache, and another way without.
    setattr(SubprocessASGIServer, "_run_uvicorn_command", counted)  # noqa: B010


@contextmanager
def end_is_noticed() -> Iterator[None]:
    """In the body, once the server, temporary or configured, has ended, ask it no more."""
    server, over = _server(), threading.Event()
    if server is not None:
        threading.Thread(target=_notice_end, args=(server, over), daemon=True).start()
    else:
        configured_server.watch_until(over)
    try:
        yield
    finally:
        over.set()


def _notice_end(server: psutil.Process, over: threading.Event) -> None:
    """Every request would be tried for half a minute, as is right for a server that somebody starts
    again."""
    from prefect.settings import get_current_settings

    while not over.wait(1.0):
        if not server.is_running() or server.status() == psutil.STATUS_ZOMBIE:
            ended.set()
            get_current_settings().client.max_retries = 0
            return


def _server() -> psutil.Process | None:
    for child in psutil.Process().children():
        try:
            if {"uvicorn", APPLICATION} <= set(child.cmdline()):
                return child
        except psutil.Error:
            continue
    return None
