"""Rollouts from two running `vllm serve` on this machine, one of them killed midway."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import DEMO
from vllm_servers import Server, serving

from icpo_core.config import load
from icpo_core.run import plan
from icpo_core.run.perform import perform
from icpo_core.run.run import Run
from icpo_core.run.session import Session
from icpo_core.workers.pool import WorkerPool


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, small: Path) -> Iterator[list[Server]]:
    with serving(tmp_path_factory.mktemp("servers"), small / "base", 2) as started:
        yield started


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
