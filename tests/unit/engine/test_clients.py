"""One process speaks for all servers of a run: against plain HTTP servers, one of which hangs."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from places import DEMO
from stub_server import Stub

from icpo_core.common.files import model_digest
from icpo_core.config import load
from icpo_core.engine.calls import Calls
from icpo_core.store import tables
from icpo_core.workers import pool
from icpo_core.workers.errors import WorkerError
from icpo_core.workers.jobs import Rollout
from icpo_core.workers.pool import Engines, Fleet

SECONDS = 5.0
"""Limit of a job."""


@pytest.fixture
def stubs() -> Iterator[list[Stub]]:
    with ExitStack() as stack:
        there = [stack.enter_context(Stub()) for _ in range(3)]
        for one in there:
            threading.Thread(target=one.serve_forever, args=(0.02,), daemon=True).start()
        yield there
        for one in there:
            one.ended.set()
            one.shutdown()


def engines_of(stubs: list[Stub], small: Path, tmp_path: Path) -> Engines:
    config = load(DEMO, [f"rollout.endpoints={[stub.address for stub in stubs]}"])
    fleet = replace(Fleet.of(config, small / "base"), seconds=SECONDS)
    return Engines(fleet, tmp_path / "logs", [])


def jobs_of(tmp_path: Path, count: int, version: str) -> list[Rollout]:
    row = {
        "answer": "4", "problem": "p", "source": "s", "expert_prompt": None, "demo_ids": [],
        "expert_prompt_ids": None, "policy_prompt": "p", "trace": None,
    }  # fmt: skip
    rows = [{**row, "prompt_id": str(n), "policy_prompt_ids": [3, 3]} for n in range(count)]
    prompts = tmp_path / "prompts.parquet"
    tables.write("prompts", tables.table("prompts", rows), prompts)
    return [
        Rollout(
            prompts=prompts, shard=shard, shards=count, on_policy=2, expert=0,
            expert_source="in_context", temperature=1.0, max_tokens=2, seed=0, iteration=1,
            policy_version=version, out=tmp_path / f"part-{shard}.parquet", fingerprint="f",
        )
        for shard in range(count)
    ]  # fmt: skip


def hosts() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "icpo_core.engine.clients" in child.cmdline()]


def test_one_process_for_all_of_which_one_hangs(
    stubs: list[Stub], small: Path, tmp_path: Path
) -> None:
    version = model_digest(small / "base")
    with engines_of(stubs, small, tmp_path) as engines:
        engines.load(small / "base", version, None)
        [host] = hosts()
        stubs[1].silent = True
        replies = engines.sample_all(jobs_of(tmp_path, 6, version), lambda done, all_: None)
        assert [reply.rows for reply in replies] == [2] * 6
        assert {reply.engine for reply in replies} == {0, 2}
        assert "longer than its limit" in engines._lost[1]
        # What it was asked is ended, and the others' process is the same.
        deadline = time.monotonic() + SECONDS
        while [one for one in host.net_connections() if one.raddr == stubs[1].server_address]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert hosts() == [host]

        # It is asked again at the next load, by the same process.
        stubs[1].silent = False
        stubs[1].asked.clear()
        engines.load(small / "base", version, None)
        assert not engines._lost
        assert ("/collective_rpc", "repack") in [
            (path, body.get("method")) for path, body in stubs[1].asked
        ]
        assert hosts() == [host]
    assert not hosts()


def test_the_process_is_killed(stubs: list[Stub], small: Path, tmp_path: Path) -> None:
    version = model_digest(small / "base")
    with engines_of(stubs, small, tmp_path) as engines:
        engines.load(small / "base", version, None)
        [host] = hosts()
        os.kill(host.pid, signal.SIGKILL)
        with pytest.raises(WorkerError, match=r"no endpoint is left: .*\(signal 9\)"):
            engines.sample_all(jobs_of(tmp_path, 3, version), lambda done, all_: None)
        engines.load(small / "base", version, None)  # as the stage does when it is tried again
        replies = engines.sample_all(jobs_of(tmp_path, 3, version), lambda done, all_: None)
        assert len(replies) == 3
        assert hosts() != [host]


def test_more_connections_than_a_process_may_have(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("icpo_core.common.limits.open_files", lambda: 1024)
    addresses = [f"http://127.0.0.1:{8000 + number}" for number in range(8)]
    changes = [f"rollout.endpoints={addresses}", "rollout.engine.max_num_seqs="]
    pool.require(load(DEMO, [changes[0], changes[1] + "100"]))
    more = load(DEMO, [changes[0], changes[1] + "128"])
    with pytest.raises(ValueError, match=r"endpoints: 1032 .*\(960\): raise `ulimit -Hn`"):
        pool.require(more)
    with pytest.raises(ValueError, match="endpoints: 1032 "):  # as an evaluation begins
        Engines(Fleet.of(more, tmp_path), tmp_path, [])


def test_what_is_asked_ends_whenever_it_is_cancelled() -> None:
    for _ in range(300):
        calls = Calls()
        with ThreadPoolExecutor() as threads:
            asked = threads.submit(calls.run, asyncio.sleep(60))
            while not calls._under_way:
                time.sleep(0)
            calls.cancel()
            assert isinstance(asked.exception(), CancelledError)
