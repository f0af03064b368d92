"""Prefect settings that this project's runs are made for. What a user has set stands."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import struct
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
CONNECT_SECONDS = 3.0
DATABASES = ("sqlite+aiosqlite://", "postgresql+asyncpg://")
POSTGRESQL_PORT = 5432
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
    require_readable()
    _require_server()


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


def require_readable() -> None:
    """Raises ValueError for a variable of Prefect's that it cannot read. It reads them as it is
    imported, and needs several lines to refuse one."""
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            from prefect.settings import get_current_settings

            get_current_settings()
    except ValidationError as error:
        first = error.errors()[0]
        named = _variable("_".join(map(str, first["loc"])))
        what = named or f"{error.title}.{first['loc'][-1]}, a setting of Prefect's"
        raise ValueError(f"{what}: {first['msg']}; fix it or unset it") from None
    except SettingsError as error:  # error parsing value for field "custom_headers" from …
        named = _variable(str(error).split('"')[1])
        raise ValueError(f"{named or error}: is no JSON; fix it or unset it") from None
    if sys.stderr is not None:  # it may be closed
        sys.stderr.write(said.getvalue())
    _require_named()


def _require_named() -> None:
    """Values that Prefect takes, and looks up when a flow begins."""
    from pydantic import ValidationError

    if (folder := os.environ.get("PREFECT_LOGGING_SETTINGS_PATH")) and Path(folder).is_dir():
        raise ValueError(
            f"PREFECT_LOGGING_SETTINGS_PATH: {folder} is a folder; name a file or unset it"
        )
    name = "PREFECT_RESULTS_DEFAULT_SERIALIZER"
    if kind := os.environ.get(name):
        from prefect.serializers import Serializer

        try:
            Serializer(type=kind)
        except ValidationError as error:
            said = str(error.errors()[0]["msg"])
            raise ValueError(f"{name}: {said}; fix it or unset it") from None


def _variable(field: str) -> str:
    """Variables that set a field of Prefect's settings."""
    end = f"_{field.upper()}"
    return ", ".join(
        sorted(one for one in os.environ if one.startswith("PREFECT_") and one.endswith(end))
    )


def _require_server() -> None:
    """Where Prefect is to start a server: that it may, and can."""
    from prefect.settings import get_current_settings

    now = get_current_settings()
    if now.api.url:
        return
    if not now.server.ephemeral.enabled:
        named = ", ".join(filter(None, map(_variable, ("EPHEMERAL_ENABLED", "EPHEMERAL_MODE"))))
        raise ValueError(
            f"{named or 'Prefect is set so that it'} allows no embedded Prefect server, and there "
            "is no PREFECT_API_URL: set that, or train --plain, without Prefect"
        )
    require_database(None)


def require_database(url: str | None) -> None:
    """Raises ValueError for a database at which no server could start; None: the configured one."""
    from prefect.settings import get_current_settings
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    configured = get_current_settings().server.database.connection_url
    what = "--database" if url else _variable("DATABASE_CONNECTION_URL") or "Prefect's database"
    text = url or (configured.get_secret_value() if configured else None)
    if text is None:
        return
    try:
        place = make_url(text)
    except (ArgumentError, ValueError):
        place = None
    if place is None or f"{place.drivername}://" not in DATABASES:
        raise ValueError(f"{what}: is no URL of a database; begin it with {' or '.join(DATABASES)}")
    try:
        if place.host and not place.host.startswith("/"):
            _ask((place.host, place.port or POSTGRESQL_PORT))
    except OSError as error:
        # Not the whole of it: there is a password in it.
        raise ValueError(
            f"{what}: no database answers at {place.host}:{place.port or POSTGRESQL_PORT} "
            f"({error}); start it, or fix the address"
        ) from None


def _ask(address: tuple[str, int]) -> None:
    """Raises OSError where no PostgreSQL answers: whether it would talk in TLS is asked before all
    else. https://www.postgresql.org/docs/current/protocol-message-formats.html (SSLRequest)"""
    with socket.create_connection(address, CONNECT_SECONDS) as connection:
        connection.sendall(struct.pack("!ii", 8, 80877103))
        if connection.recv(1) not in (b"S", b"N"):
            raise ConnectionError("not as PostgreSQL does")


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
