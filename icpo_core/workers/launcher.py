"""A trainer of several ranks: DeepSpeed's launcher as a worker, and what each rank said last.

On one machine the launcher spawns the ranks; with a hostfile it does so over pdsh on every machine
that the file names. When a rank ends, the launcher ends the others. A rank that hangs is ended with
all of them when the job's limit is over.
"""

from __future__ import annotations

import base64
import json
import os
import select
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any, NoReturn

import psutil

from icpo_core.workers.errors import WorkerError
from icpo_core.workers.jobs import TrainerSettings
from icpo_core.workers.process import SOCKET_VARIABLE, Worker, python_command

CARRIED = ("HF_", "DS_ACCELERATOR", "GLOO_", "OMP_", "TOKENIZERS_")
"""Beginnings of the environment variables that ranks on other machines get. NCCL's and Python's the
launcher takes along by itself."""
SHOWN_LINES = 4
SHOWN_RANKS = 4
GONE_SECONDS = 1.0
"""A rank's connections close before the kernel says that it has ended."""


class Ranks(Worker):
    """The ranks of one trainer, each with a log of its own in `folder`.

    A job that fails on one rank leaves the others out of step, so all of them end with it.
    """

    def __init__(
        self, command: list[str], log: Path, folder: Path, start_seconds: float, hosts: bool
    ) -> None:
        """`command`: from `launch`. hosts: ranks on other machines too, where the launcher takes
        along only what its environment file names."""
        self._rank_folder, self._hosts = folder, hosts
        self._first_gone: set[int] = set()
        self._some_gone = threading.Event()
        folder.mkdir(parents=True)
        super().__init__("trainer", command, log, start_seconds)

    def _spawn(self, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        if self._hosts:
            carried = {
                name: value for name, value in os.environ.items() if name.startswith(CARRIED)
            }
            carried[SOCKET_VARIABLE] = self.address
            file = (self._rank_folder / "environment").resolve()
            file.write_text("".join(f"{name}={value}\n" for name, value in carried.items()))
            environment = {**environment, "DS_ENV_FILE": str(file)}
        return super()._spawn(command, environment)

    def wait_ready(self) -> dict[str, Any]:
        first = self._connection is None
        ready = super().wait_ready()
        if first:
            ranks = _ranks_below(self.process.pid)  # none where all are on other machines
            watch = threading.Thread(target=self._watch, args=[ranks], name="ranks", daemon=True)
            if ranks:
                watch.start()
        return ready

    def _watch(self, ranks: dict[int, int]) -> None:
        """Note which rank ends first: the launcher then ends the others, and nobody can tell.
        Linux before 5.3 cannot say, so nothing is noted there."""
        watched: dict[int, int] = {}
        poll = select.poll()
        for rank, pid in ranks.items():
            try:
                watched[os.pidfd_open(pid)] = rank
            except ProcessLookupError:
                self._first_gone.add(rank)
            except OSError:
                return
        for descriptor in watched:
            poll.register(descriptor, select.POLLIN)
        if not self._first_gone:
            self._first_gone = {watched[descriptor] for descriptor, _ in poll.poll()}
        self._some_gone.set()
        for descriptor in watched:
            os.close(descriptor)

    def last_words(self, lines: int = SHOWN_LINES) -> str:
        """The end of each rank's log: of the first that is gone, if there is one, else of all."""
        logs = {int(path.stem.rpartition("_rank")[2]): path for path in self.rank_logs()}
        told = self._first_gone if self._some_gone.wait(GONE_SECONDS) else set()
        chosen = sorted(told or logs)
        parts = [super().last_words(2)] if not logs else []
        for rank in chosen[:SHOWN_RANKS]:
            state = "ended" if rank in told else "said last"
            text = logs[rank].read_text("utf-8", "replace") if rank in logs else ""
            words = [line for line in text.splitlines() if line.strip()][-lines:]
            parts.append("\n".join([f"rank {rank} {state}:", *(f"  {line}" for line in words)]))
        if len(chosen) > SHOWN_RANKS:
            parts.append(f"and {len(chosen) - SHOWN_RANKS} more in {self._rank_folder}")
        return "\n".join(parts)

    def rank_logs(self) -> list[Path]:
        """One a rank that has begun, on this machine or where its folder is shared."""
        return sorted(self._rank_folder.glob("*_rank*.log"))

    def _failed(self, failure: str) -> NoReturn:
        words = self.last_words()
        self.stop()
        raise WorkerError(f"{self.role}: {failure}; logs in {self._rank_folder}:\n{words}")


def launch(
    python: str | None,
    devices: list[str] | int,
    hostfile: Path | None,
    folder: Path,
    settings: TrainerSettings,
    rendezvous: str | None = None,
) -> list[str]:
    """Command that serves `icpo_core.trainer.process` on several ranks, by DeepSpeed's launcher.

    devices: ids of this machine's devices, one a rank, or the number of ranks where there are none.
    hostfile: the machines and their slots instead. folder: where each rank's log goes. rendezvous:
    as `update.rendezvous`.
    https://www.deepspeed.ai/getting-started/#launching-deepspeed-training
    """
    if hostfile is None:
        file = folder.resolve() / "rendezvous"
        settings = settings.model_copy(update={"rendezvous": file})
    interpreter, *_, serialised = python_command(python, "icpo_core.trainer.process", settings)
    names = list(range(devices)) if isinstance(devices, int) else devices
    world = base64.urlsafe_b64encode(json.dumps({"localhost": names}).encode()).decode()
    address, _, port = (rendezvous or "").partition(":")
    if hostfile is None:
        module = "deepspeed.launcher.launch"
        where = [f"--world_info={world}", "--master_addr=127.0.0.1"]
    else:
        module, where = "deepspeed.launcher.runner", [f"--hostfile={hostfile}"]
        where += [f"--master_addr={address}"] if address else []
    return [
        interpreter, "-m", module, *where, f"--master_port={port or free_port()}",
        "--no_local_rank", f"--enable_each_rank_log={folder.resolve()}",
        "--module", "icpo_core.trainer.process", serialised,
    ]  # fmt: skip


def slots(hostfile: Path) -> dict[str, int]:
    """Ranks by machine of a DeepSpeed hostfile (`NAME slots=N` a line).

    Raises ValueError, naming the line, for another form.
    """
    try:
        lines = hostfile.read_text("utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"update.hostfile = {hostfile}: {error.strerror or error}") from None
    found: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        written = len(words) == 2 and words[1].startswith("slots=")
        count = words[1].removeprefix("slots=") if written else ""
        if not count.isdecimal() or not int(count) or words[0] in found:
            raise ValueError(
                f"{hostfile}: line {number} is {line.strip()!r}; write one machine a line, each "
                "once, as worker-1 slots=8"
            )
        found[words[0]] = int(count)
    if not found:
        raise ValueError(f"{hostfile}: names no machine; write one a line, as worker-1 slots=8")
    return found


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _ranks_below(pid: int) -> dict[int, int]:
    """Process ids of this machine's ranks among the children of a launcher."""
    found: dict[int, int] = {}
    for process in psutil.Process(pid).children(recursive=True):
        try:
            rank = process.environ().get("RANK")
        except psutil.Error:
            continue
        # What a rank spawns has its environment too, and comes after it.
        if rank is not None:
            found.setdefault(int(rank), process.pid)
    return found
