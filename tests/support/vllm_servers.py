"""Running `vllm serve` on this machine, on loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from places import ROOT

START_SECONDS = 550


@dataclass
class Server:
    process: subprocess.Popen[bytes]
    address: str
    log: Path

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def start(folder: Path, model: Path, number: int, words_more: tuple[str, ...] = ()) -> Server:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # What `vllm serve` runs; that command itself fails in the CPU build, whose package has another
    # name.
    words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    words += ["--host", "127.0.0.1", "--port", str(port), "--tokens-only", "--enforce-eager"]
    words += ["--logprobs-mode", "processed_logprobs", "--generation-config", "vllm"]
    words += ["--worker-extension-cls", "icpo_core.engine.kinds.vllm.WorkerExtension"]
    words += ["--dtype", "float32", "--max-model-len", "256", *words_more]
    environment = {
        **os.environ,
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "PYTHONPATH": str(ROOT),
    }
    log = folder / f"server-{number}.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            words, env=environment, cwd=folder, stdout=sink, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    return Server(process, f"http://127.0.0.1:{port}", log)


@contextmanager
def serving(folder: Path, model: Path, count: int, *words: str) -> Iterator[list[Server]]:
    """So many of them, when they answer; `words` go behind their command line."""
    started = [start(folder, model, number, words) for number in range(count)]
    try:
        deadline = time.monotonic() + START_SECONDS
        waiting = list(started)
        while waiting:
            assert time.monotonic() < deadline, waiting[0].log.read_text()[-4000:]
            assert waiting[0].process.poll() is None, waiting[0].log.read_text()[-4000:]
            try:
                if httpx.get(f"{waiting[0].address}/health", timeout=5).status_code == 200:
                    waiting.pop(0)
            except httpx.TransportError:
                time.sleep(0.5)
        yield started
    finally:
        for server in started:
            if server.process.poll() is None:
                server.kill()
