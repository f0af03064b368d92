"""Rollouts from two running `vllm serve` on this machine, one of them killed midway."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from places import DEMO, ROOT

from icpo_core.config import load
from icpo_core.run import plan
from icpo_core.run.perform import perform
from icpo_core.run.run import Run
from icpo_core.run.session import Session
from icpo_core.workers.pool import WorkerPool

START_SECONDS = 550


@dataclass
class Server:
    process: subprocess.Popen[bytes]
    address: str
    log: Path

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def start(folder: Path, model: Path, number: int) -> Server:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # What `vllm serve` runs; that command itself fails in the CPU build, whose package has another
    # name.
    words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    words += ["--host", "127.0.0.1", "--port", str(port), "--tokens-only", "--enforce-eager"]
    words += ["--logprobs-mode", "processed_logprobs", "--generation-config", "vllm"]
    words += ["--worker-extension-cls", "icpo_core.engine.kinds.vllm.WorkerExtension"]
    words += ["--dtype", "float32", "--max-model-len", "256"]
    environment = {
        **os.environ,
        "VLLM_SERVER_DEV_MODE": "1",
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


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, small: Path) -> Iterator[list[Server]]:
    folder = tmp_path_factory.mktemp("servers")
    started = [start(folder, small / "base", number) for number in range(2)]
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


@pytest.mark.timeout(1200)
def test_a_run_on_two_servers_of_which_one_dies(servers: list[Server], tmp_path: Path) -> None:
    addresses = json.dumps([server.address for server in servers])
    changes = [f"rollout.endpoints={addresses}", "rollout.shards=4", "prompts.batch_size=8"]
    changes += ["run.iterations=2", "evaluate.every=0", "update.learning_rate=1e-3"]
    config = load(DEMO, [*changes, f"run.directory={tmp_path}"])
    with Session(Run.of(config)) as session:
        session.keep_config()
        run, workers = session.run, session.tools(1).workers
        assert isinstance(workers, WorkerPool)
        for stage in plan.stages_of(config, 1):
            perform(session, stage, 1)
        perform(session, "prompts", 2)

        # Killed as soon as the first part of the second iteration is there.
        folder = run.paths.stage("rollout", 2)
        before = {server.address: server for server in servers}

        def kill_one() -> None:
            while not list(folder.glob("part-*.parquet")):
                time.sleep(0.002)
            before[servers[1].address].kill()

        killer = threading.Thread(target=kill_one)
        killer.start()
        found = perform(session, "rollout", 2).manifest
        killer.join()
        assert workers.engines._lost.keys() == {1}  # amidst a shard, which the other then sampled
        assert (found.rows, len(found.files)) == (64, 4)
        assert found.facts["probe_gap"] < 1e-4
        first, second = (run.store.manifest("update", 1), found)
        assert first is not None
        assert second.policy_version == first.policy_version

        # Without it from the start.
        again = perform(session, "rollout", 2, force=True).manifest
        assert (again.rows, len(again.files)) == (64, 4)
        assert workers.engines._lost.keys() == {1}
        assert servers[1].address in workers.engines._lost[1]
