"""The Prefect server and worker of this project on one machine: `icpo up` and `icpo down`.

`up` makes what is missing and leaves the rest; what it started it writes down in
`.icpo/services.json`, and `down` ends that and only that. Where an API is configured already
(`PREFECT_API_URL`, a profile), no server is started.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from icpo.flows.prefect_compat import settings
from icpo.flows.services.processes import Service, last_line, start
from icpo_core.common.files import read_json, write_json
from icpo_core.common.lock import RunLock

HOME = Path(".icpo")
RECORD = HOME / "services.json"
PREFECT_TOML = Path("prefect.toml")
PROJECT = Path("prefect.yaml")
SERVER = (sys.executable, "-m", "icpo.flows.prefect_compat.server")
"""Prefect's command, mended."""
START_SECONDS = 180.0
WORKER_STOP_SECONDS = 40.0
"""A flow run that is told to end has 30 s to end its engines."""
SERVER_STOP_SECONDS = 15.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Wishes:
    """What `icpo up` was asked for."""

    host: str = "127.0.0.1"
    port: int = 4200
    database: str | None = None
    """SQLAlchemy URL of a PostgreSQL database (postgresql+asyncpg://…); None: SQLite."""
    gpus: int | None = None
    """GPU slots of this machine; None: as many as it has."""
    notify: str | None = None
    """Notification block that alarms go to, as TYPE/NAME."""
    evaluate: bool = False
    """Evaluate checkpoints as they are published."""


def up(wishes: Wishes, say: Say) -> str:
    """Make everything that `prefect deployment run icpo/train` needs; the API's address.

    Raises ValueError if the port is taken, the configured API does not answer, or a step fails.
    """
    _require_project()
    settings.require_readable()
    lock = RunLock(HOME / "lock")
    lock.acquire()
    try:
        return _up(wishes, say)
    finally:
        if [*HOME.iterdir()] == [lock.path]:  # nothing came of it
            lock.path.unlink()
            HOME.rmdir()
        lock.release()


def _up(wishes: Wishes, say: Say) -> str:
    from prefect.settings import PREFECT_API_AUTH_STRING

    services, prefect = _services(), _prefect()
    api, ours = configured_api(), services.get("server")
    if api is None or (ours is not None and not ours.alive):
        secret = PREFECT_API_AUTH_STRING.value()
        _require_safe(wishes, secret)
        api = f"http://{_reachable(wishes.host)}:{wishes.port}/api"
        _require_free(wishes.host, wishes.port)
        settings.require_database(wishes.database)
        say(f"Prefect server starts at {api.removesuffix('/api')} (half a minute)")
        services["server"] = start(
            "server",
            [*SERVER, "server", "start", "--host", wishes.host, "--port", str(wishes.port)],
            HOME / "server.log",
            _environment(api) | _of_server(wishes, secret),
            ours.token if ours else None,
        )
        _save(services, wrote_toml=_write_toml(api))
    # While the server starts: these take a second or two.
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from icpo.flows.services import automations, workspace

    _wait(api, services.get("server"))
    say("Work pool, deployments, automations")
    with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as client:
        workspace.prepare(client, wishes.gpus, wishes.notify, say)
    deploying = workspace.deploying(prefect, _environment(api))
    worker = services.get("worker")
    if worker is None or not worker.alive:
        services["worker"] = start(
            "worker",
            [prefect, "worker", "start", "--pool", workspace.POOL],
            HOME / "worker.log",
            _environment(api),
            worker.token if worker else None,
        )
        _save(services)
    workspace.finish(deploying)
    with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as client:
        automations.ensure_evaluation(client, wishes.evaluate, say)
    say(f"Ready: {api.removesuffix('/api')}")
    return api


def down(say: Say) -> list[str]:
    """End what `up` started, the worker and its runs first; names of what was ended."""
    services = _services()
    ended = []
    for name, seconds in (("worker", WORKER_STOP_SECONDS), ("server", SERVER_STOP_SECONDS)):
        service = services.pop(name, None)
        if service is not None and service.end(seconds):
            ended.append(name)
            say(f"{name} ended (process {service.pid})")
    if RECORD.is_file():
        wrote = read_json(RECORD).get("prefect_toml")
        if wrote and PREFECT_TOML.is_file() and _digest(PREFECT_TOML) == wrote:
            PREFECT_TOML.unlink()
        RECORD.unlink()
    return ended


def _require_project() -> None:
    if not PROJECT.is_file():
        raise ValueError(
            f"no {PROJECT} here: run this in the project's folder, or `icpo init NAME` makes one"
        )


def _services() -> dict[str, Service]:
    if not RECORD.is_file():
        return {}
    return {name: Service(**facts) for name, facts in read_json(RECORD)["services"].items()}


def _save(services: dict[str, Service], wrote_toml: str | None = None) -> None:
    old = read_json(RECORD) if RECORD.is_file() else {}
    record = {
        "services": {name: asdict(service) for name, service in services.items()},
        "prefect_toml": wrote_toml or old.get("prefect_toml"),
    }
    write_json(RECORD, record)


def configured_api() -> str | None:
    """Address of the Prefect API that the environment or a profile names; None without one."""
    from prefect.settings import PREFECT_API_URL

    return PREFECT_API_URL.value() or None


def _write_toml(api: str) -> str | None:
    """Point every `prefect` command in this folder at the server; digest of what was written."""
    if PREFECT_TOML.exists():
        return None
    PREFECT_TOML.write_text(
        f'# Written by `icpo up`, removed by `icpo down`.\n[api]\nurl = "{api}"\n'
    )
    return _digest(PREFECT_TOML)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _reachable(host: str) -> str:
    """An address of this machine under which a server that binds to `host` is reached."""
    return "127.0.0.1" if host in ("0.0.0.0", "::", "") else host


def _require_safe(wishes: Wishes, secret: str | None) -> None:
    """Refuse to open a server to the network that anyone could run programs through."""
    try:
        inside = wishes.host == "localhost" or ipaddress.ip_address(wishes.host).is_loopback
    except ValueError:
        inside = False
    if not inside and not secret:
        raise ValueError(
            f"--host {wishes.host} opens the server to the network, and whoever reaches it can run "
            "programs here: set PREFECT_API_AUTH_STRING=USER:PASSWORD first (docs/operations.md)"
        )


def _require_free(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ValueError(
                f"{host}:{port}: {error.strerror}; end what is there, choose another with "
                "`icpo up --port N`, or set PREFECT_API_URL to a server that runs"
            ) from None


def _environment(api: str) -> dict[str, str]:
    """Environment of server, worker and `prefect` commands."""
    home = (HOME / "prefect").resolve()
    home.mkdir(parents=True, exist_ok=True)
    given = {"PREFECT_HOME": str(home), **os.environ, "PREFECT_API_URL": api}
    # Deployments name the project's folder by this variable: it is another one on other machines.
    return settings.of_services(given) | {"ICPO_HOME": str(Path.cwd())}


def _of_server(wishes: Wishes, secret: str | None) -> dict[str, str]:
    """What only the server is told: password, database, whose pages may call it, its log."""
    page = f"http://{_reachable(wishes.host)}:{wishes.port}"
    found = {
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"{page},http://localhost:{wishes.port}",
        "PREFECT_LOGGING_SETTINGS_PATH": str(_logging().resolve()),
        "PYTHONSAFEPATH": "1",  # no file of this folder is taken for a library
    }
    if secret:
        found["PREFECT_SERVER_API_AUTH_STRING"] = secret
    if wishes.database:
        found["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = wishes.database
    return {name: os.environ.get(name, value) for name, value in found.items()}


def _logging() -> Path:
    """Prefect's logging settings, less the words on a background task that is tried again.

    With SQLite one or two a poll of a worker meet a locked database and succeed a moment later;
    each would leave a traceback of a hundred lines, 200 MB a day. Their last failure is logged.
    """
    from prefect.logging.configuration import DEFAULT_LOGGING_SETTINGS_PATH

    text, head = DEFAULT_LOGGING_SETTINGS_PATH.read_text(), "\nloggers:\n"
    path = HOME / "server-logging.yml"
    path.write_text(text.replace(head, f"{head}  docket.dependencies:\n    level: CRITICAL\n\n", 1))
    return path


def _prefect() -> str:
    beside = Path(sys.executable).with_name("prefect")
    found = str(beside) if beside.is_file() else shutil.which("prefect")
    if found is None:
        raise ValueError("there is no `prefect` beside this Python; install this project again")
    return found


def _wait(api: str, server: Service | None) -> None:
    """Wait until the API answers to this user."""
    import httpx
    from prefect.settings import PREFECT_API_AUTH_STRING

    user, _, password = (PREFECT_API_AUTH_STRING.value() or "").partition(":")
    login = httpx.BasicAuth(user, password) if user else None
    log = HOME / "server.log"
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server is not None and not server.alive:
            raise ValueError(f"the Prefect server ended: {last_line(log)} ({log})")
        try:
            # Not /health, which anyone may ask.
            status = httpx.get(f"{api}/admin/version", timeout=2.0, auth=login).status_code
        except httpx.TransportError:
            if server is None:
                raise ValueError(
                    f"{api}: the configured Prefect API does not answer; start it, or unset "
                    "PREFECT_API_URL so that `icpo up` starts one"
                ) from None
            status = 0
        if status == 200:
            return
        if status in (401, 403):
            raise ValueError(
                f"{api}: the Prefect API wants another password; set "
                "PREFECT_API_AUTH_STRING=USER:PASSWORD to the server's"
            )
        time.sleep(0.25)
    raise ValueError(f"{api}: no answer after {START_SECONDS:g} s; see {log}")
