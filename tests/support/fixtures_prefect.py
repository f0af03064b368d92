"""A project folder with a Prefect server and worker that `icpo up` started, one a test file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from places import ROOT
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun

from icpo_core.workers.launcher import free_port

LINKED = ("flows", "tasks", "icpo_core", "configs", "data")
NIGHTLY = 'cron: "0 3 * * *"'
SECONDS = 300.0
MARK = "ICPO_TEST"
"""Variable that all processes of these tests inherit, so that they can be counted."""


@dataclass
class Services:
    """A folder from which `icpo` and `prefect` are run, and the server that they found there."""

    folder: Path
    environment: dict[str, str]
    port: int
    auth: str | None = None

    @property
    def page(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def icpo(self, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        return self._run([sys.executable, "-m", "icpo", *words], **more)

    def prefect(self, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        program = str(Path(sys.executable).with_name("prefect"))
        return self._run([program, *words], **more)

    def _run(self, command: list[str], **more: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.folder, env=self.environment | more.pop("env", {}),
            capture_output=True, text=True, timeout=SECONDS, **more,
        )  # fmt: skip

    def client(self, auth: str | None = None) -> SyncPrefectClient:
        return SyncPrefectClient(f"{self.page}/api", auth_string=auth or self.auth)

    def start(self, deployment: str, **parameters: Any) -> FlowRun:
        """A flow run of a deployment, as the UI makes one."""
        with self.client() as client:
            made = client.read_deployment_by_name(deployment)
            return client.create_flow_run_from_deployment(made.id, parameters=parameters)

    def read(self, run: FlowRun | UUID) -> FlowRun:
        with self.client() as client:
            return client.read_flow_run(run if isinstance(run, UUID) else run.id)

    def subflows(self, run: FlowRun) -> list[FlowRun]:
        """Of a run, in the order of their starts."""
        wanted = FlowRunFilter.model_validate({"parent_flow_run_id": {"any_": [run.id]}})
        with self.client() as client:
            found = client.read_flow_runs(flow_run_filter=wanted)
        return sorted(found, key=lambda one: (one.start_time is None, one.start_time))

    def ended(self, run: FlowRun, seconds: float = SECONDS) -> FlowRun:
        """The run when it has come to its end."""
        wait(lambda: _final(self.read(run)), seconds, f"{run.name} to end", self.logs)
        return self.read(run)

    def logs(self) -> str:
        files = [self.folder / ".icpo" / f"{name}.log" for name in ("worker", "server")]
        return "\n".join(path.read_text()[-4000:] for path in files if path.is_file())

    def processes(self, *words: str) -> dict[int, str]:
        """Living processes of these services whose command line has one of the words, or all."""
        found = {}
        mark = f"{MARK}={self.environment[MARK]}".encode()
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                mine = mark in (entry / "environ").read_bytes().split(b"\0")
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if mine and state != "Z" and (not words or any(word in line for word in words)):
                found[int(entry.name)] = line
        return found

    def run_processes(self) -> dict[int, str]:
        """Flow runs and their workers: all but the server and the worker that waits for runs."""
        workers = ("icpo_core.engine.process", "icpo_core.trainer.process")
        return self.processes("prefect.engine", " -m icpo ", *workers)

    def wait_quiet(self, seconds: float = SECONDS) -> None:
        """Wait until no process of a run lives."""
        said = lambda: "\n".join(self.run_processes().values())  # noqa: E731
        wait(lambda: not self.run_processes(), seconds, "all processes to end", said)


def _final(run: FlowRun) -> bool:
    return run.state is not None and run.state.is_final()


def wait(
    true: Callable[[], Any], seconds: float, what: str, words: Callable[[], str] = lambda: ""
) -> None:
    """Wait until something is true; fail, with words, past a limit."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}\n{words()}"
        time.sleep(0.2)


def project(folder: Path, **environment: str) -> Services:
    """A project folder of its own, whose services are nobody else's."""
    for name in LINKED:
        (folder / name).symlink_to(ROOT / name)
    # The nightly run is half a day away, or a test at three in the morning meets its processes.
    text, away = (ROOT / "prefect.yaml").read_text(), (datetime.now(UTC).hour + 12) % 24
    assert text.count(NIGHTLY) == 1
    (folder / "prefect.yaml").write_text(text.replace(NIGHTLY, f'cron: "0 {away} * * *"'))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    mine = {MARK: str(folder), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return Services(folder, {**kept, **mine, **environment}, free_port())


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """`icpo up` on an empty folder: SQLite, no password. Ended, and counted, at the end."""
    made = project(tmp_path_factory.mktemp("services"))
    done = made.icpo("up", "--port", str(made.port), "--json")
    assert done.returncode == 0, done.stderr + made.logs()
    assert json.loads(done.stdout) == {"api": f"{made.page}/api"}
    yield made
    done = made.icpo("down", "--json")
    assert json.loads(done.stdout) == {"ended": ["worker", "server"]}, done.stderr
    assert not made.processes()
