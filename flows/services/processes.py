"""Processes that outlive the command that starts them, and are ended by another one.

A service is told by a token in its environment, which all that it starts inherits: a process id is
used again one day, and what a dead service leaves behind would be found by nothing else.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

TOKEN = "ICPO_SERVICE"
POLL_SECONDS = 0.1
ALONE_SECONDS = 10.0
"""For what it has to say after the last of its runs."""


@dataclass(frozen=True)
class Service:
    """A process that was started, and everything that it started in turn."""

    name: str
    pid: int
    born: int
    """Start of the process, clock ticks since boot (field 22 of /proc/PID/stat)."""
    token: str

    @property
    def alive(self) -> bool:
        """Whether the process itself runs."""
        return _born(self.pid) == self.born

    def members(self) -> list[int]:
        """All living processes that came of it, itself included."""
        mark = f"{TOKEN}={self.token}".encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue  # gone in between, or another user's
            if mark in environment.split(b"\0") and _born(int(entry.name)) is not None:
                found.append(int(entry.name))
        return found

    def end(self, seconds: float) -> bool:
        """Ask the process to end, wait, kill what is left; whether there was anything to end.

        It has `seconds` as long as others live that came of it, as the runs of a worker, and
        `ALONE_SECONDS` from when it is alone: now and then a worker of Prefect's never ends.
        """
        if not self.members():
            return False
        if self.alive:
            os.killpg(self.pid, signal.SIGTERM)
        deadline = time.monotonic() + seconds
        alone = time.monotonic() + ALONE_SECONDS
        while (left := self.members()) and time.monotonic() < deadline and self.alive:
            if left != [self.pid]:
                alone = time.monotonic() + ALONE_SECONDS
            elif time.monotonic() > alone:
                break
            time.sleep(POLL_SECONDS)
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        while self.members():
            time.sleep(POLL_SECONDS)
        return True


def start(
    name: str,
    command: list[str],
    log: Path,
    environment: dict[str, str],
    token: str | None = None,
) -> Service:
    """Start a service in a session of its own; `token`: of the one whose place it takes."""
    token = token or uuid4().hex
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as sink:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env={**environment, TOKEN: token},
            start_new_session=True,
        )
    born = _born(process.pid)
    assert born is not None
    return Service(name, process.pid, born, token)


def last_line(log: Path) -> str:
    """The last line of a log that says anything."""
    words = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    return words[-1].strip() if words else "it said nothing"


def _born(pid: int) -> int | None:
    """Start time of a process that lives; None if there is none, or only its remains."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else int(fields[19])
