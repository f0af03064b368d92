"""Prefect settings that this project's runs are made for. What a user has set stands."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path

SERVER = {
    # One write for many task runs: SQLite has one writer, and whoever finds it busy waits 2 s.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "64",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "64",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    # GPU slots that are held stay held when the server starts again.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
        "prefect.server.concurrency.lease_storage.filesystem"
    ),
    # An embedded server, made on a busy machine for the first time, takes half a minute.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}
"""Of a server that this project starts."""

RUNS = {
    # The least that Prefect allows. A run whose process is gone is noticed after three of them.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    # 2 + 4 + 8 + 16 s: how long a run waits for a server that is away, before it stops.
    "PREFECT_CLIENT_MAX_RETRIES": "4",
}
"""Of flow runs."""

WORKER = {"PREFECT_WORKER_QUERY_SECONDS": "3"}
"""Of a worker on this machine: a run that is started begins at once."""

HEARTBEATS_MISSED = 3
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


def prepare_process() -> None:
    """Settings of a flow run in this process and, if there is no API, of its embedded server.

    Must come before anything of Prefect is imported, which reads the environment once. Raises
    ValueError if there is no folder for that server and none can be made, for a proxy that no
    client can be made with, or for a value that Prefect refuses.
    """
    _require_clients()
    for name, value in (SERVER | RUNS).items():
        os.environ.setdefault(name, value)
    # Its server is `python -m uvicorn`: no file of this folder is taken for a library.
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    if not os.environ.get("PREFECT_API_URL"):
        _require_home()
    _require_settings()


def _require_home() -> None:
    # Prefect makes the folder but not those above it. Its server then fails at its database again
    # and again, for as long as it is waited for.
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"PREFECT_HOME={home}: {error.strerror}; set it to a folder that can be made, or "
            "PREFECT_API_URL to a server that runs"
        ) from None


def _require_clients() -> None:
    """Prefect makes its clients in the midst of a run, each with all proxies of the environment."""
    named = [name for name, value in os.environ.items() if value and name.upper() in PROXIES]
    if not named:
        return
    import httpx

    try:
        httpx.Client().close()
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        # Not the values: there may be a password in them.
        raise ValueError(f"{', '.join(sorted(named))}: {error}; fix it or unset it") from None


def _require_settings() -> None:
    """Prefect reads the environment as it is imported, and needs several lines to refuse it."""
    from pydantic import ValidationError

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            from prefect.settings import get_current_settings

            get_current_settings()
    except ValidationError as error:
        first = error.errors()[0]
        end = "_" + "_".join(map(str, first["loc"])).upper()
        names = [one for one in os.environ if one.startswith("PREFECT_") and one.endswith(end)]
        what = (
            ", ".join(sorted(names)) or f"{error.title}.{end[1:].lower()}, a setting of Prefect's"
        )
        raise ValueError(f"{what}: {first['msg']}; fix it or unset it") from None
    if sys.stderr is not None:  # it may be closed
        sys.stderr.write(said.getvalue())


def stop_retrying() -> None:
    """Let every further call to a server that is gone fail at once, in this context."""
    from prefect.context import SettingsContext
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES

    now = SettingsContext.get()
    assert now is not None
    settings = now.settings.copy_with_update({PREFECT_CLIENT_MAX_RETRIES: 0})
    SettingsContext(profile=now.profile, settings=settings).__enter__()


def of_services(given: dict[str, str]) -> dict[str, str]:
    """Environment of server and worker; `given` takes precedence."""
    return {**SERVER, **RUNS, **WORKER, **given}
