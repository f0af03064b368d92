"""Long-lived workers: processes that hold an engine or a trainer and take jobs.

A worker is a subprocess in its own session with its own log file. It connects to a Unix socket of
its parent, says that it is ready, and then answers one job a line with one reply a line
(`icpo_core.workers.jobs`), with `progress` lines between. When the socket closes, because the
parent ended it or died in whatever way, the worker kills its whole process group: nothing outlives
a run.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, cast

from icpo_core.common.files import what_the_disk_says
from icpo_core.common.text import plain
from icpo_core.workers.address import short
from icpo_core.workers.environment import for_workers, kept_cache
from icpo_core.workers.errors import EndedError, WorkerError
from icpo_core.workers.jobs import JOBS, Job, Message, Progress, R
from icpo_core.workers.scratch import Scratch

SOCKET_VARIABLE = "ICPO_WORKER_SOCKET"
STOP_GRACE_SECONDS = 5.0
PATIENT_THREADS = {"OMP_WAIT_POLICY": "passive"}
"""OpenMP's threads sleep while they wait. By default they spin for milliseconds at every barrier,
for a thread that anybody else's work may keep from its core: beside other work that is many times
slower, and alone little faster."""
KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(64 << 20), "MALLOC_TRIM_THRESHOLD_": str(512 << 20)}
"""glibc keeps up to 512 MiB that a step frees for the next step. By default it hands them back to
the kernel, which clears every page again: 20,000 page faults an iteration of a small model."""

Say = Callable[[int, int], None]
"""Told (done, all) while a job is done."""
Handler = Callable[[Any, Say], Message]
"""Does a job; `Handlers` names it by the job's class."""
Handlers = dict[type[Job[Any]], Handler]


class Worker:
    """Parent's side of one worker."""

    def __init__(
        self,
        role: str,
        command: list[str],
        log: Path,
        start_seconds: float,
        environment: dict[str, str] | None = None,
    ) -> None:
        """Spawn at once; `wait_ready` waits. `log` gets what `command` prints."""
        self.role, self.log = role, log
        self._start_seconds = start_seconds
        self._folder = Scratch()
        self.address = str(Path(self._folder.name) / "socket")
        self._listener = socket.socket(socket.AF_UNIX)
        with short(Path(self.address)) as address:
            self._listener.bind(address)
        self._listener.listen(1)
        self._connection: socket.socket | None = None
        self._ready: dict[str, Any] | None = None
        self._unread = b""
        self._ended = False
        self._started = time.monotonic()
        self.process = self._spawn(command, environment or {})

    def _spawn(self, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        ours = PATIENT_THREADS | KEPT_MEMORY
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as sink:
            self._offset = sink.tell()
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={
                    **ours,
                    **kept_cache(),
                    **for_workers(),
                    **environment,
                    SOCKET_VARIABLE: self.address,
                    # vLLM leaves files where it finds room for them; here they go with the worker.
                    "TMPDIR": self._folder.name,
                },
                start_new_session=True,
            )

    def wait_ready(self) -> dict[str, Any]:
        """Wait until the worker is up; its first words. Raises WorkerError, ValueError."""
        if self._ready is None:
            if self._connection is None:
                self._connection = self._accept()
                self._listener.close()
            self._ready = self._receive("start", self._started, self._start_seconds, None)
        return self._ready

    def _accept(self) -> socket.socket:
        while True:
            try:
                self._listener.settimeout(0.2)
                return self._listener.accept()[0]
            except TimeoutError:
                self._check_alive()
                self._check_limit("start", self._started, self._start_seconds)
            except OSError:  # closed by `stop` in another thread
                self._died()

    def call(self, job: Job[R], seconds: float, on_progress: Say | None = None) -> R:
        """Do one job within a wall-clock limit. Raises ValueError for a user's mistake, WorkerError
        else; after a WorkerError that was no plain failure of the job the worker is gone."""
        self.wait_ready()
        assert self._connection is not None
        try:
            self._connection.sendall(_line({"job": job.kind, **job.wire()}))
        except OSError:
            self._died()
        result = self._receive(job.kind, time.monotonic(), seconds, on_progress)
        return cast(R, type(job).reply.model_validate(result))

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def stop(self) -> None:
        """End the worker and all its children; waits for them. A job that another thread waits for
        ends with EndedError."""
        self._ended = True
        if self._connection is not None:
            self._connection.close()
        self._listener.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_GRACE_SECONDS if self._connection is not None else 0)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._folder.cleanup()

    def last_words(self, lines: int = 8) -> str:
        """The end of this start's log, without blank lines."""
        with self.log.open("rb") as stream:
            stream.seek(max(self._offset, self.log.stat().st_size - 16384))
            text = stream.read().decode("utf-8", "replace")
        return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])

    def _receive(
        self,
        what: str,
        since: float,
        seconds: float,
        on_progress: Say | None,
    ) -> dict[str, Any]:
        assert self._connection is not None
        while True:
            while b"\n" not in self._unread:
                try:
                    self._connection.settimeout(0.5)
                    received = self._connection.recv(1 << 20)
                except TimeoutError:
                    self._check_limit(what, since, seconds)
                    continue
                except OSError:
                    received = b""
                if not received:
                    self._died()
                self._unread += received
            line, _, self._unread = self._unread.partition(b"\n")
            reply: dict[str, Any] = json.loads(line)
            if "progress" in reply:
                if on_progress:
                    news = Progress.model_validate(reply["progress"])
                    on_progress(news.done, news.all)
            elif "mistake" in reply:
                raise ValueError(reply["mistake"])
            elif "failure" in reply:
                self._failed(reply["failure"])
            else:
                return cast(dict[str, Any], reply["result"])

    def _failed(self, failure: str) -> NoReturn:
        raise WorkerError(f"{self.role}: {failure} (whole log: {self.log})")

    def _check_alive(self) -> None:
        if not self.alive:
            self._died()

    def _check_limit(self, what: str, since: float, seconds: float) -> None:
        if time.monotonic() - since > seconds:
            words = self.last_words()
            self.stop()
            raise WorkerError(
                f"{self.role}: {what} took longer than its limit of {seconds:g} s and was ended; "
                f"last lines of {self.log}:\n{words}"
            )

    def _died(self) -> NoReturn:
        if self._ended:
            raise EndedError(f"{self.role}: was ended by its own run")
        try:
            status = self.process.wait(STOP_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            status = None
        how = f"signal {-status}" if status is not None and status < 0 else f"exit status {status}"
        words = self.last_words()
        self.stop()
        raise WorkerError(
            f"{self.role}: the process ended ({how}); last lines of {self.log}:\n{words}"
        )


def python_command(python: str | None, module: str, settings: Message) -> list[str]:
    """Command that serves `module` with its settings. Raises ValueError without a Python."""
    interpreter = python or sys.executable
    if python and not os.access(python, os.X_OK):
        raise ValueError(f"{python}: no Python interpreter there; fix the stage's python=")
    return [interpreter, "-m", module, json.dumps(settings.wire())]


def _end_process() -> None:
    os.killpg(os.getpgid(0), signal.SIGKILL)


class Parent:
    """Worker's side: the socket to the parent, and the thread that notices when it is gone."""

    def __init__(self, address: Path, gone: Callable[[], None] = _end_process) -> None:
        """gone: told when the parent has closed the socket, or is dead."""
        self._socket = socket.socket(socket.AF_UNIX)
        self._address, self._gone = address, gone
        try:
            with short(address) as name:
                self._socket.connect(name)
        except OSError as error:  # it is gone already
            self._tidy()
            raise SystemExit(f"the run is gone: {error}") from None
        self._jobs: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._listen, name="parent", daemon=True).start()

    def send(self, message: dict[str, Any]) -> None:
        with suppress(OSError):  # it is gone, as the other thread notices
            self._socket.sendall(_line(message))

    def next_job(self) -> Job[Any] | None:
        """None: there is no parent any more."""
        fields = self._jobs.get()
        return None if fields is None else JOBS[fields.pop("job")].model_validate(fields)

    def _listen(self) -> None:
        unread = b""
        while received := self._read():
            unread += received
            while b"\n" in unread:
                line, _, unread = unread.partition(b"\n")
                self._jobs.put(json.loads(line))
        self._tidy()
        self._gone()
        self._jobs.put(None)

    def _tidy(self) -> None:
        """Remove the folder of the socket, which a parent that was killed has left."""
        shutil.rmtree(self._address.parent, ignore_errors=True)

    def _read(self) -> bytes:
        try:
            return self._socket.recv(1 << 20)
        except OSError:
            return b""


def serve(build: Callable[[], tuple[Message, Handlers]], parent: Parent | None = None) -> NoReturn:
    """Build the worker's insides, say ready and answer jobs until the parent goes."""
    parent = parent or Parent(Path(os.environ[SOCKET_VARIABLE]))
    handlers: Handlers = {}

    def start() -> Message:
        ready, built = build()
        handlers.update(built)
        return ready

    def say(done: int, all_: int) -> None:
        parent.send({"progress": Progress(done=done, all=all_).wire()})

    reply = attempt("start", start)
    parent.send(reply)
    while "result" in reply or handlers:
        job = parent.next_job()
        if job is None:
            break
        reply = attempt(job.kind, partial(handlers[type(job)], job, say))
        parent.send(reply)
    raise SystemExit(1)


def attempt(what: str, do: Callable[[], Message]) -> dict[str, Any]:
    """Do it; a reply in every case, since the parent waits for one."""
    try:
        return {"result": do().wire()}
    except ValueError as error:
        _print_error()
        return {"mistake": str(error)}
    except Exception as error:  # noqa: BLE001  the process boundary: the parent raises it again
        _print_error()
        words = what_the_disk_says(error) or f"{type(error).__name__}: {error}"
        return {"failure": f"{what}: {words}"}


def _print_error() -> None:
    """The error at hand, for the log: it may quote what a model said."""
    print(plain(traceback.format_exc()), end="", file=sys.stderr)


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"
