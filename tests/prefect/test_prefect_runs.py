"""Runs under a real server and worker: cancelled, killed, tried again, and without their server.

Engine and trainer are stand-ins (`stub_worker`), but real processes under the real worker protocol.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import stub_worker
import stubs
from console_lines import without_waiting
from fixtures_prefect import ROOT, Services, project, wait
from prefect.client.schemas.filters import LogFilter
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling

from icpo_core.common.lock import holder
from icpo_core.config import load
from icpo_core.run.run import Run
from icpo_core.store.paths import RunPaths
from icpo_core.store.store import Store

ENDING_SECONDS = 30.0
"""What the issue gives a cancelled run to end its engines."""


def changes(folder: Path, seconds: float, *more: str) -> list[str]:
    return [
        *stubs.CHANGES, *stubs.problem_sets(folder / "problems"),
        f"run.directory={folder / 'runs'}", *stub_worker.changes(folder, seconds), *more,
    ]  # fmt: skip


def sampled(paths: RunPaths) -> list[str]:
    """Everything the stand-ins sampled and every step they took, over all attempts at a run."""
    logs = [path.read_text().splitlines() for path in sorted(paths.root.glob("logs/*/*.log"))]
    return [line for log in logs for line in log if line.startswith(("sample ", "step "))]


def finished(paths: RunPaths) -> dict[str, Any]:
    """When each finished stage was made, by its place."""
    store = Store(paths)
    found = {}
    for path in sorted(paths.root.glob("it-*/*/manifest.json")):
        stage, number = path.parent.name, int(path.parent.parent.name.removeprefix("it-"))
        manifest = store.manifest(stage, number)
        assert manifest is not None
        found[f"{path.parent.parent.name}/{stage}"] = manifest.started
    return found


@pytest.fixture(scope="module")
def silent(services: Services) -> FlowRun:
    """A run that lives only in Prefect's books: started, some heartbeats, no process."""
    from prefect.events import Event
    from prefect.events.clients import PrefectEventsClient
    from prefect.states import Running
    from prefect.utilities.asyncutils import run_coro_as_sync

    with services.client() as client:
        made = client.read_deployment_by_name("icpo/train")
        run = client.create_flow_run_from_deployment(
            made.id, parameters={}, state=Running(), name="silent"
        )

    def beat(age: float) -> Event:
        return Event(
            event="prefect.flow-run.heartbeat",
            resource={
                "prefect.resource.id": f"prefect.flow-run.{run.id}",
                "prefect.resource.name": "silent",
            },
            related=[
                {
                    "prefect.resource.id": f"prefect.flow.{run.flow_id}",
                    "prefect.resource.role": "flow",
                    "prefect.resource.name": "icpo",
                }
            ],
            occurred=datetime.now(UTC) - timedelta(seconds=age),
        )  # fmt: skip

    async def send() -> None:
        # Several, as a run sends them: the server may lose one to a locked database. None is much
        # older: the server looks for silence every 90 s, and forgets one that ended 60 s before.
        for age in (60, 45, 30):
            async with PrefectEventsClient(f"{services.page}/api") as events:
                await events.emit(beat(age))

    run_coro_as_sync(send())
    return run


@pytest.mark.usefixtures("silent")  # from here on: the server needs a minute for it
def test_cancelled_runs_leave_no_process_and_go_on(services: Services, tmp_path: Path) -> None:
    services.wait_quiet()
    paths = RunPaths(tmp_path / "runs" / "cancelled")
    parameters = {"overrides": changes(tmp_path, 3.0), "run": "cancelled"}
    run = services.start("icpo/train", **parameters)
    first_part = paths.part("rollout", 1, 0, 2)
    wait(first_part.is_file, 120, "the first part", services.logs)
    assert len(services.run_processes()) == 3  # flow run, engine, trainer
    with services.client() as client:
        client.set_flow_run_state(run.id, Cancelling())
    started = time.monotonic()
    services.wait_quiet(ENDING_SECONDS)
    assert services.ended(run, ENDING_SECONDS - (time.monotonic() - started)).state_name == (
        "Cancelled"
    )
    assert not (paths.stage("rollout", 1) / "manifest.json").exists()
    kept = first_part.stat().st_mtime_ns

    # It goes on without Prefect as well, and what was whole is kept.
    ledger = tmp_path / "ledger"
    config = load(ROOT / "configs" / "demo.toml", changes(tmp_path, 0.0), "cancelled")
    with stubs.stubbed(Run.of(config), ledger) as opened:
        stubs.train(opened)
    assert first_part.stat().st_mtime_ns == kept
    work = [*sampled(paths), *ledger.read_text().splitlines()]
    assert len([line for line in work if line.startswith("step")]) == 3
    trained = 3 * 4 * 4  # iterations x prompts x (on-policy + expert)
    evaluated = 3 * 6  # at the start, after 2 and after 3, six problems each
    assert len([line for line in work if line.startswith("sample")]) == trained + evaluated


@pytest.fixture(scope="module")
def killed(services: Services, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run whose flow process was killed in its second iteration, and then tried again."""
    folder = tmp_path_factory.mktemp("killed")
    paths = RunPaths(folder / "runs" / "killed")
    services.wait_quiet()
    run = services.start("icpo/train", overrides=changes(folder, 1.0), run="killed")
    wait(paths.part("rollout", 2, 0, 2).is_file, 120, "iteration 2", services.logs)
    [pid] = services.processes("prefect.engine")
    os.kill(pid, signal.SIGKILL)
    crashed = services.ended(run, 30)
    services.wait_quiet(15)
    made = finished(paths)
    done = services.prefect("flow-run", "retry", str(run.id))
    assert done.returncode == 0, done.stdout + done.stderr
    wait(lambda: services.read(run).run_count == 2, 60, "the second try", services.logs)
    again = services.ended(run, 120)
    return {"paths": paths, "run": run, "crashed": crashed, "again": again, "made": made}


def test_a_killed_flow_process_is_a_crash(killed: dict[str, Any]) -> None:
    assert killed["crashed"].state_name == "Crashed"
    assert killed["crashed"].name == "train killed"
    assert "it-0001/checkpoint" in killed["made"]


def test_a_retry_does_nothing_finished_again(services: Services, killed: dict[str, Any]) -> None:
    assert killed["again"].state_name == "Completed"
    now = finished(killed["paths"])
    assert {place: now[place] for place in killed["made"]} == killed["made"]
    assert "it-0003/checkpoint" in now
    work = sampled(killed["paths"])  # by seed and policy, so an evaluation differs from the next
    assert len(work) == len(set(work))
    # Iteration 1 was finished and has no second run; iteration 2 was not, and its first run is
    # no longer said to be alive.
    # (A request that the server answers too late is made again: a subflow run nobody starts.)
    began = [one for one in services.subflows(killed["run"]) if one.start_time]
    names = [(one.name, one.state_name) for one in began]
    assert names == [
        ("it-0000 of killed", "Completed"), ("it-0001 of killed", "Completed"),
        ("it-0002 of killed", "Crashed"), ("it-0002 of killed", "Completed"),
        ("it-0003 of killed", "Completed"),
    ]  # fmt: skip


def test_parts_and_logs_of_workers_are_in_the_ui(
    services: Services, killed: dict[str, Any]
) -> None:
    last = services.subflows(killed["run"])[-1]
    which = {"flow_run_id": {"any_": [str(last.id)]}}
    asked = {"task_runs": which, "sort": "EXPECTED_START_TIME_ASC"}
    with services.client() as client:
        tasks = client.request("POST", "/task_runs/filter", json=asked).json()
        wanted = LogFilter.model_validate({"flow_run_id": {"any_": [killed["run"].id]}})

        def lines() -> list[str]:
            return [log.message for log in client.read_logs(wanted, limit=200)]

        # A run's last lines may be on their way when its state is there.
        wait(lambda: "trainer: step 3" in lines(), 15, "the trainer's last line")
        assert any(line.startswith("engine: sample ") for line in lines())
    names = [task["name"] for task in tasks]
    assert names[:4] == [
        "prompts it-0003 of killed", "rollout it-0003 of killed",
        "rollout it-0003 part 00 of killed", "rollout it-0003 part 01 of killed",
    ]  # fmt: skip


def test_artifacts_have_stable_keys(services: Services, killed: dict[str, Any]) -> None:
    with services.client() as client:
        found = client.read_artifacts(limit=200)
    runs = {one.id: one.name for one in services.subflows(killed["run"])}
    mine = {(one.key, runs[one.flow_run_id]) for one in found if one.flow_run_id in runs}
    for key in ("metrics", "rollouts", "timeline", "files"):
        assert (f"killed-{key}", "it-0003 of killed") in mine
    # The plot is on the training run's own page: one of each attempt, which grew.
    plots = [
        one for one in found if one.key == "killed-plot" and one.flow_run_id == killed["run"].id
    ]
    assert len(plots) == 2
    last = max(plots, key=lambda one: one.created)
    assert "until iteration 3" in last.description
    [table] = [
        one for one in found
        if one.key == "killed-metrics" and runs.get(one.flow_run_id) == "it-0003 of killed"
    ]  # fmt: skip
    assert [row["origin"] for row in table.data] == ["expert", "on_policy"]


def named(services: Services, name: str) -> list[FlowRun]:
    with services.client() as client:
        found = client.request(
            "POST", "/flow_runs/filter", json={"flow_runs": {"name": {"any_": [name]}}}
        ).json()
    return [FlowRun.model_validate(one) for one in found]


def test_a_silent_run_is_marked_as_crashed(services: Services, silent: FlowRun) -> None:
    done = services.ended(silent)
    assert done.state_name == "Crashed"
    assert "No heartbeat for 90 s" in (done.state.message or "")
    # By now many a background task was tried again (`_logging` in flows/services/services.py).
    assert "docket.dependencies" not in (services.folder / ".icpo" / "server.log").read_text()


def test_terminal_runs_close_the_dead_and_survive_a_restart(
    services: Services, tmp_path: Path
) -> None:
    """`icpo train`, killed; again, while the server is killed and started again by `icpo up`."""
    paths = RunPaths(tmp_path / "runs" / "lost")
    words = [word for change in changes(tmp_path, 2.0) for word in ("-o", change)]
    words = ["train", "configs/demo.toml", "--run", "lost", *words]
    process = subprocess.Popen(
        [sys.executable, "-m", "icpo", *words],
        cwd=services.folder, env=services.environment, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    wait(paths.part("rollout", 1, 0, 2).is_file, 120, "the first part")
    process.kill()
    process.wait()
    assert [run.state_name for run in named(services, "train lost")] == ["Running"]

    said: list[subprocess.CompletedProcess[str]] = []
    thread = threading.Thread(target=lambda: said.append(services.icpo(*words)))
    thread.start()
    wait(paths.part("rollout", 1, 1, 2).is_file, 120, "the second part")
    assert sorted(run.state_name for run in named(services, "train lost")) == [
        "Crashed", "Running",
    ]  # fmt: skip
    for pid in services.processes("prefect_compat.server", "prefect.server.api"):
        os.kill(pid, signal.SIGKILL)
    done = services.icpo("up", "--port", str(services.port))
    assert done.returncode == 0, done.stderr
    thread.join(200)
    assert said[0].returncode == 0, said[0].stderr
    assert sorted(run.state_name for run in named(services, "train lost")) == [
        "Completed", "Crashed",
    ]  # fmt: skip
    # What Prefect could not send in between is no matter for the terminal.
    assert "Error" not in said[0].stderr
    assert "EventsWorker" not in said[0].stderr


def test_off_policy_samples_while_it_trains_and_ends_at_a_word(
    services: Services, tmp_path: Path
) -> None:
    """Interrupted in the middle of both (Ctrl-C), and gone on with."""
    services.wait_quiet()
    paths = RunPaths(tmp_path / "runs" / "off")
    more = ["rollout.off_policy_steps=1", "update.old_logprobs=engine", "run.iterations=4"]
    words = [word for change in changes(tmp_path, 2.0, *more) for word in ("-o", change)]
    words = ["train", "configs/demo.toml", "--run", "off", *words]
    process = subprocess.Popen(
        [sys.executable, "-m", "icpo", *words],
        cwd=services.folder, env=services.environment, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
        # A shell's background job, as this test may be, ignores it, and so do its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    first_part = paths.part("rollout", 3, 0, 2)
    wait(first_part.is_file, 120, "a part of iteration 3")
    assert paths.manifest("update", 1).is_file()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=15)
    assert process.returncode == 130, said
    assert "To go on: icpo train" in said
    assert "Traceback" not in said
    services.wait_quiet(15)
    kept = first_part.stat().st_mtime_ns

    done = services.icpo(*words)
    assert done.returncode == 0, done.stderr
    assert first_part.stat().st_mtime_ns == kept
    store = Store(paths)
    rollout, update = store.manifest("rollout", 4), store.manifest("update", 3)
    assert rollout is not None
    assert update is not None
    assert rollout.started < update.started + update.seconds
    assert update.started < rollout.started + rollout.seconds
    [again] = [one for one in named(services, "train off") if one.state_name == "Completed"]
    [second] = [one for one in services.subflows(again) if one.name == "it-0003 of off"]
    with services.client() as client:
        asked = {"task_runs": {"flow_run_id": {"any_": [str(second.id)]}}}
        tasks = client.request("POST", "/task_runs/filter", json=asked).json()
    mine = {task["name"] for task in tasks}
    assert {
        "rollout it-0004 of off",
        "rollout it-0004 part 01 of off",
        "update it-0003 of off",
    } <= mine


@pytest.mark.parametrize(("sent", "status"), [("SIGKILL", -9), ("SIGTERM", 143)])
def test_a_server_of_prefects_own_dies_with_its_run(sent: str, status: int, tmp_path: Path) -> None:
    """No server is configured: Prefect starts one for the process. That is killed with -9, or all
    its processes are ended at once, as Slurm does it."""
    (tmp_path / "project").mkdir()
    alone = project(tmp_path / "project", PREFECT_HOME=str(tmp_path / "home"))
    words = [word for change in changes(tmp_path, 60.0) for word in ("-o", change)]
    process = subprocess.Popen(
        [sys.executable, "-m", "icpo", "train", "configs/demo.toml", "--run", "own", *words],
        cwd=alone.folder, env=alone.environment, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    paths = RunPaths(tmp_path / "runs" / "own")
    wait(paths.manifest("prompts", 1).is_file, 180, "the first prompts")
    assert len(alone.processes("prefect.server.api.server:create_app")) == 2  # it and its watcher
    if sent == "SIGKILL":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == status, said
    assert sent == "SIGKILL" or "ended by SIGTERM" in said.splitlines()[-1]
    wait(lambda: not alone.processes(), 15, "all processes to end")
    assert holder(paths.lock) is None


def test_a_run_without_its_server_stops_and_can_be_gone_on_with(
    services: Services, tmp_path: Path
) -> None:
    """The configured API is gone for good: one clear line, status 1, nothing finished is lost."""
    words = [w for change in changes(tmp_path, 0.0) for w in ("-o", change)]
    nobody = {"PREFECT_API_URL": "http://127.0.0.1:9/api", "PREFECT_CLIENT_MAX_RETRIES": "1"}
    done = services.icpo("train", "configs/demo.toml", "--run", "alone", *words, env=nobody)
    assert done.returncode == 1
    [line] = [line for line in without_waiting(done.stderr).splitlines() if line]
    assert line.startswith("icpo train: http://127.0.0.1:9/api: the Prefect API does not answer")
