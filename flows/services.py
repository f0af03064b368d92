"""The Prefect server, work pool, worker and deployments of this project on one machine.

`up` makes what is missing and leaves the rest; what it started it writes down in
`.icpo/services.json`, and `down` ends that and only that. Where an API is configured already
(`PREFECT_API_URL`, a profile), no server is started.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icpo_core.files import read_json, write_json

HOME = Path(".icpo")
RECORD = HOME / "services.json"
PREFECT_TOML = Path("prefect.toml")
POOL = "icpo"
START_SECONDS = 180.0
STOP_SECONDS = 15.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Service:
    """A process that `up` started. A process id is used again one day, its start time is not."""

    name: str
    pid: int
    born: int
    """Start of the process, clock ticks since boot (field 22 of /proc/PID/stat)."""

    @property
    def alive(self) -> bool:
        return _born(self.pid) == self.born


def up(say: Say, host: str = "127.0.0.1", port: int = 4200) -> str:
    """Make everything that `prefect deployment run icpo/train` needs; the API's address.

    Raises ValueError if the port is taken, the configured API does not answer, or a step fails.
    """
    services = _services()
    api = _configured_api()
    ours = services.get("server")
    if api is None or (ours is not None and not ours.alive):
        api = f"http://{host}:{port}/api"
        _require_free(host, port)
        say(f"Prefect server starts at {api.removesuffix('/api')} (half a minute)")
        services["server"] = _start(
            "server", ["server", "start", "--host", host, "--port", str(port)], api
        )
        _save(services, wrote_toml=_write_toml(api))
    _wait(api, services.get("server"))
    say("Work pool and deployments")
    _prefect(["work-pool", "create", POOL, "--type", "process", "--overwrite"], api)
    _prefect(["--no-prompt", "deploy", "--all"], api)
    worker = services.get("worker")
    if worker is None or not worker.alive:
        services["worker"] = _start("worker", ["worker", "start", "--pool", POOL], api)
        _save(services)
    say(f"Ready: {api.removesuffix('/api')}")
    return api


def down(say: Say) -> list[str]:
    """End what `up` started, the worker before the server; names of what was ended."""
    services = _services()
    ended = []
    for name in ("worker", "server"):
        service = services.pop(name, None)
        if service is None or not service.alive:
            continue
        _end(service)
        ended.append(name)
        say(f"{name} ended (process {service.pid})")
    if RECORD.is_file():
        wrote = read_json(RECORD).get("prefect_toml")
        if wrote and PREFECT_TOML.is_file() and _digest(PREFECT_TOML) == wrote:
            PREFECT_TOML.unlink()
        RECORD.unlink()
    return ended


def _services() -> dict[str, Service]:
    if not RECORD.is_file():
        return {}
    return {name: Service(**facts) for name, facts in read_json(RECORD)["services"].items()}


def _save(services: dict[str, Service], wrote_toml: str | None = None) -> None:
    old = read_json(RECORD) if RECORD.is_file() else {}
    record: dict[str, Any] = {
        "services": {name: vars(service) for name, service in services.items()},
        "prefect_toml": wrote_toml or old.get("prefect_toml"),
    }
    write_json(RECORD, record)


def _configured_api() -> str | None:
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
    home = (HOME / "prefect").resolve()
    home.mkdir(parents=True, exist_ok=True)
    defaults = {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    return {**defaults, **os.environ, "PREFECT_API_URL": api}


def _start(name: str, arguments: list[str], api: str) -> Service:
    log = HOME / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [_executable(), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=_environment(api),
            start_new_session=True,
        )
    born = _born(process.pid)
    assert born is not None
    return Service(name, process.pid, born)


def _executable() -> str:
    beside = Path(sys.executable).with_name("prefect")
    found = str(beside) if beside.is_file() else shutil.which("prefect")
    if found is None:
        raise ValueError("there is no `prefect` beside this Python; install this project again")
    return found


def _prefect(arguments: list[str], api: str) -> None:
    done = subprocess.run(
        [_executable(), *arguments], env=_environment(api), capture_output=True, text=True
    )
    if done.returncode:
        words = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise ValueError(
            f"prefect {' '.join(arguments)} failed: {words[-1] if words else 'without a word'}"
        )


def _wait(api: str, server: Service | None) -> None:
    import httpx

    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server is not None and not server.alive:
            log = HOME / "server.log"
            words = [line for line in log.read_text("utf-8").splitlines() if line.strip()]
            raise ValueError(f"the Prefect server ended: {words[-1] if words else ''} ({log})")
        try:
            if httpx.get(f"{api}/health", timeout=2.0).status_code == 200:
                return
        except httpx.TransportError:
            if server is None:
                raise ValueError(
                    f"{api}: the configured Prefect API does not answer; start it, or unset "
                    "PREFECT_API_URL so that `icpo up` starts one"
                ) from None
        time.sleep(0.25)
    raise ValueError(f"{api}: no answer after {START_SECONDS:g} s; see {HOME / 'server.log'}")


def _end(service: Service) -> None:
    """End a process with its group: politely, then for good."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        if not service.alive:
            return
        os.killpg(service.pid, sign)
        deadline = time.monotonic() + STOP_SECONDS
        while service.alive and time.monotonic() < deadline:
            time.sleep(0.1)


def _born(pid: int) -> int | None:
    """Start time of a process that lives; None if there is none, or only its remains."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else int(fields[19])
