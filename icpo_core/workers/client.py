"""A run's end of one server, in a process that it shares with the run's other servers."""

from __future__ import annotations

import socket
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from icpo_core.workers.jobs import Connect
from icpo_core.workers.process import Worker


class Host(Worker):
    """The process that speaks for servers (`icpo_core.engine.clients`)."""

    def __init__(self, command: list[str], log: Path, start_seconds: float) -> None:
        super().__init__("endpoints", command, log, start_seconds)
        self._connecting = threading.Lock()

    def connect(self, address: str, socket: Path, seconds: float) -> None:
        """Have it speak for a server at a worker's socket. Any thread may ask."""
        with self._connecting:
            self.call(Connect(address=address, socket=socket), seconds)


class Client(Worker):
    """One server's worker. To stop it ends what its server is asked, and not the process."""

    def __init__(self, host: Host, server: str, start_seconds: float) -> None:
        self._host, self._server = host, server
        self._asked = False
        super().__init__(f"endpoint {server}", [], host.log, start_seconds)

    def _spawn(self, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        self._offset = self._host.log.stat().st_size
        return self._host.process

    def wait_ready(self) -> dict[str, Any]:
        """As of any worker. Raises WorkerError where the process is gone, too."""
        if not self._asked:
            self._asked = True
            self._host.connect(self._server, Path(self.address), self._start_seconds)
        return super().wait_ready()

    @property
    def alive(self) -> bool:
        return self._host.alive and not self._ended

    def stop(self) -> None:
        """End what the server is asked. A job that another thread waits for gets EndedError."""
        self._ended = True
        if self._connection is not None:
            with suppress(OSError):  # closed by the other end
                self._connection.shutdown(socket.SHUT_RDWR)
            self._connection.close()
        self._listener.close()
        self._folder.cleanup()
