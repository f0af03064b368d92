"""`icpo up` and `icpo down`: again without harm, GPU slots, alarms, PostgreSQL and a password."""

import asyncio
import base64
import http.server
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import stub_worker
import stubs
from console_lines import without_waiting
from fixtures_prefect import Services, free_port, project, wait
from prefect import flow
from prefect.automations import AutomationCore
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import FlowRunFilter
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.workers.process import ProcessWorker

from icpo.flows.services import slots
from icpo.flows.services.alarms import stays, tell_published
from icpo.flows.stage import STAGE_FLOWS
from icpo_core.common.lock import holder
from icpo_core.config import Config, load
from icpo_core.run.perform import perform
from icpo_core.run.prefetch import Ahead
from icpo_core.run.run import Run

USER, PASSWORD = "team", "horse:battery-staple"
DATABASE_PASSWORD = "correct-horse"
EVALUATED = "ICPO: checkpoint evaluated"


def facts(services: Services) -> dict[str, Any]:
    """What `icpo up` has made, by kind."""
    with services.client() as client:
        return {
            "services": json.loads((services.folder / ".icpo/services.json").read_text()),
            "deployments": {one.name: one.id for one in client.read_deployments()},
            "pool": client.read_work_pool("icpo").id,
            "automations": {one.name: one for one in client.read_automations()},
        }


def test_up_makes_it_all_and_again_does_no_harm(services: Services) -> None:
    before = facts(services)
    stages = {"prompts", "rollout", "verify", "select", "update", "evaluate", "checkpoint"}
    assert {"train", *stages} <= before["deployments"].keys()
    assert set(before["automations"]) >= {
        "ICPO: run failed", "ICPO: run crashed", "ICPO: run late", "ICPO: no heartbeat",
        "ICPO: reward collapsed", "ICPO: verifier failing", "ICPO: answers unlike golds",
    }  # fmt: skip
    # What a person has changed or switched off is theirs.
    late, failed = (before["automations"][f"ICPO: run {what}"] for what in ("late", "failed"))
    with services.client() as client:
        for one, change in ((late, {"description": "mine"}), (failed, {"enabled": False})):
            facts_of = one.model_dump(exclude={"id", "owner_resource"}) | change
            mine = AutomationCore.model_validate(facts_of)
            client.update_automation(one.id, mine)
    assert not before["automations"][EVALUATED].enabled  # until somebody asks for it
    done = services.icpo("up", "--port", str(services.port), "--gpus", "2", "--evaluate")
    assert done.returncode == 0, done.stderr
    assert "'ICPO: run late' was changed by hand and is left as it is" in done.stdout
    after = facts(services)
    for same in ("services", "deployments", "pool"):
        assert after[same] == before[same]
    assert len(after["automations"]) == len(before["automations"])
    assert after["automations"]["ICPO: run late"].description == "mine"
    assert not after["automations"]["ICPO: run failed"].enabled
    assert after["automations"][EVALUATED].enabled
    with services.client() as client:
        assert client.read_global_concurrency_limit_by_name(slots.limit_name()).limit == 2


def test_a_published_checkpoint_starts_its_evaluation(services: Services, tmp_path: Path) -> None:
    """With the run's folder, of the event, as a parameter."""
    found = facts(services)
    one = found["automations"][EVALUATED]

    def switch(on: bool) -> None:
        mine = one.model_dump(exclude={"id", "owner_resource"}) | {"enabled": on}
        client.update_automation(one.id, AutomationCore.model_validate(mine))

    run = Run.of(load(services.folder / "configs/demo.toml", [f"run.directory={tmp_path}"], "new"))
    assert [n for n in (1, 20, 25, 40) if stays(run, n)] == [20, 40]
    chosen = FlowRunFilter(deployment_id={"any_": [found["deployments"]["nightly"]]})
    with services.client() as client:
        switch(True)
        with temporary_settings({PREFECT_API_URL: f"{services.page}/api"}):
            tell_published(run, 20)

        def started() -> bool:
            asked = [each.parameters for each in client.read_flow_runs(flow_run_filter=chosen)]
            folders = [each["runs"] for each in asked if each.get("only") == "new"]
            assert set(folders) <= {str(tmp_path.resolve())}
            return bool(folders)

        wait(started, 60, "the evaluation to start")
        switch(False)


def test_gpu_slots_are_never_shared(
    services: Services, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three runs of one GPU each on a machine with two slots: two at a time."""
    with services.client() as client:
        client.upsert_global_concurrency_limit_by_name(slots.limit_name(), 2)
    held: list[str] = []
    most = 0

    @flow(name="holds-slots")
    async def hold(config: Any, name: str) -> None:
        nonlocal most
        async with slots.held(slots.needed(config)):
            held.append(name)
            most = max(most, len(held))
            await asyncio.sleep(3.0)
            held.remove(name)

    async def all_at_once() -> None:
        await asyncio.gather(*(hold(one, name) for name in "abc"))

    one = demo(small, "rollout.engines=1", "update.ranks=1")
    with temporary_settings({PREFECT_API_URL: f"{services.page}/api"}):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
        assert slots.needed(one) == 1
        started = time.monotonic()
        asyncio.run(all_at_once())
        assert most == 2
        assert time.monotonic() - started > 6.0
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
        with pytest.raises(ValueError, match="uses 3 GPUs and this machine has 2 slots"):
            asyncio.run(hold(demo(small, "rollout.engines=3", "update.ranks=3"), "d"))
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        assert slots.needed(one) == 0


def demo(small: Path, *changes: str) -> Config:
    return load(small.parent.parent / "configs" / "demo.toml", list(changes))


def test_an_alarm_reaches_the_notification_block(services: Services) -> None:
    """A collapse of the reward, as a run raises it, is posted to a webhook on this machine."""
    from prefect.blocks.notifications import CustomWebhookNotificationBlock
    from prefect.events import Event
    from prefect.events.clients import PrefectEventsClient

    posted: list[str] = []

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with temporary_settings({PREFECT_API_URL: f"{services.page}/api"}):
        CustomWebhookNotificationBlock(
            name="team",
            url=f"http://127.0.0.1:{server.server_port}/hook",
            json_data={"text": "{{subject}} {{body}}"},
        ).save("team", overwrite=True)
    words = ("up", "--port", str(services.port), "--notify")
    refused = services.icpo(*words, "slack-webhook/nobody")
    assert refused.returncode == 2
    assert "there is no such block" in refused.stderr
    done = services.icpo(*words, "custom-webhook/team")
    assert done.returncode == 0, done.stderr

    async def collapse() -> None:
        async with PrefectEventsClient(f"{services.page}/api") as events:
            await events.emit(
                Event(
                    event="icpo.reward.collapsed",
                    resource={
                        "prefect.resource.id": "icpo.run.demo",
                        "prefect.resource.name": "demo",
                    },
                    payload={"message": "on-policy reward fell to 0.05"},
                )
            )

    asyncio.run(collapse())
    wait(lambda: posted, 60, "the alarm", services.logs)
    server.shutdown()
    assert "ICPO: reward collapsed" in posted[0]
    assert "demo" in posted[0]
    assert "on-policy reward fell to 0.05" in posted[0]


def test_a_job_template_makes_a_work_pool(services: Services, root: Path) -> None:
    for kind in ("kubernetes", "docker", "slurm"):
        done = services.prefect(
            "work-pool", "create", f"icpo-{kind}", "--type", "process",
            "--base-job-template", f"configs/work_pools/{kind}.json",
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--host", "0.0.0.0"], "set PREFECT_API_AUTH_STRING=USER:PASSWORD first"),
        (["--port", "TAKEN"], "Address already in use; end what is there"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path: Path, words: list[str], says: str) -> None:
    made = project(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = made.icpo("up", *(port if word == "TAKEN" else word for word in words))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert says in done.stderr
    assert not made.processes()


# --- PostgreSQL and a password ------------------------------------------------------------------


@dataclass
class Postgres:
    port: int
    folder: Path
    programs: Path
    owner: dict[str, Any]

    @property
    def url(self) -> str:
        return f"postgresql+asyncpg://icpo:{DATABASE_PASSWORD}@127.0.0.1:{self.port}/icpo"

    def run(self, name: str, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.programs / name), *words], capture_output=True, text=True, timeout=120,
            check=True, cwd=self.folder, env={"PGPASSWORD": DATABASE_PASSWORD, "LC_ALL": "C"},
            **self.owner, **more,
        )  # fmt: skip

    def ask(self, query: str) -> str:
        where = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "icpo", "-d", "icpo"]
        return self.run("psql", *where, "-Atc", query).stdout.strip()


def test_a_sweep_runs_on_the_workers(services: Services, root: Path, tmp_path: Path) -> None:
    """Two runs at a time as flow runs of the deployment, with the stand-ins; then compared."""
    small = [*stubs.CHANGES, *stubs.problem_sets(tmp_path / "data"), "run.iterations=1"]
    changes = [*small, "evaluate.every=1", *stub_worker.changes(tmp_path)]
    done = services.icpo(
        "sweep", str(root / "configs" / "demo.toml"), "--jobs", "2", "--seeds", "1", "--json",
        "--vary", "rollout.steer=always,failed", "--into", str(tmp_path / "sweep"),
        *(word for change in changes for word in ("-o", change)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [len(row["accuracy"]) for row in rows] == [1, 1]
    names = {"train demo-rollout.steer-always-seed0", "train demo-rollout.steer-failed-seed0"}
    with services.client() as client:
        flow_runs = client.read_flow_runs()
    mine = [one for one in flow_runs if one.name in names]
    assert {one.name for one in mine} == names
    for one in mine:
        assert one.state is not None
        assert one.state.is_completed()
        assert "sweep:sweep" in one.tags
        assert one.deployment_id is not None


SLOW = """
import os, time

def parity(response, answer, row):
    while os.path.exists({hold!r}):
        time.sleep(0.05)
    return "{{" in response and int(response.split("{{")[1][0]) % 2 == 0
"""


def test_a_dead_worker_costs_its_part_alone(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers judge the parts of a run (`verify.pool`). One is killed, with all that it
    started, while it judges; the verdicts are those of a run without a pool."""
    hold, own = tmp_path / "hold", tmp_path / "my_reward.py"
    own.write_text(SLOW.format(hold=str(hold)))
    more = ["evaluate.every=0", f"verify.verifier={own}:parity", "verify.seconds=120"]
    alone, pooled = (Run.of(stubs.configuration(tmp_path, name, *more)) for name in "ab")
    monkeypatch.setattr(Ahead, "start", lambda *_: None)
    for run, stages in (
        (alone, ("prompts", "rollout", "verify")),
        (pooled, ("prompts", "rollout")),
    ):
        with stubs.stubbed(run) as session:
            session.keep_config()
            for stage in stages:
                perform(session, stage, 1)
    monkeypatch.undo()

    hold.touch()
    template = ProcessWorker.get_default_base_job_template()
    with services.client() as client:
        cpu = WorkPoolCreate(name="cpu", type="process", base_job_template=template)
        client.create_work_pool(cpu)
    words = ["worker", "start", "--pool", "cpu", "--limit", "1"]
    soon = {"PREFECT_WORKER_QUERY_SECONDS": "1", "ICPO_HOME": str(services.folder)}
    workers = [
        psutil.Popen(
            [str(Path(sys.executable).with_name("prefect")), *words],
            env=services.environment | soon, cwd=services.folder,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for _ in range(2)
    ]  # fmt: skip

    def ended(worker: psutil.Popen) -> None:
        for each in [*worker.children(recursive=True), worker]:
            each.kill()

    def at_work() -> list[int]:
        locks = pooled.paths.root.glob("logs/*/judged/*/*.lock")
        return [int(found.split()[1]) for path in locks if (found := holder(path))]

    def strike() -> None:
        wait(lambda: len(at_work()) == 2, 120, "both workers to judge", services.logs)
        above = {one.pid for one in psutil.Process(at_work()[0]).parents()}
        [struck] = [one for one in workers if one.pid in above]
        ended(struck)
        hold.unlink()

    def online() -> bool:
        with services.client() as client:
            return len(client.read_workers_for_work_pool("cpu")) == 2

    try:
        wait(online, 60, "two workers", services.logs)
        api = temporary_settings({PREFECT_API_URL: f"{services.page}/api"})
        with api, ThreadPoolExecutor(1) as thread:
            striking = thread.submit(strike)
            asyncio.run(STAGE_FLOWS["verify"](str(pooled.paths.root), 1, ["verify.pool=cpu"]))
            striking.result()
    finally:
        for worker in workers:
            if worker.is_running():
                ended(worker)
            worker.wait()
    with services.client() as client:
        found = [one for one in client.read_flow_runs(limit=200) if "b" in one.tags]
    judged = sorted(one.state_name for one in found if one.name.startswith("judge it-0001 part"))
    assert judged == ["Completed", "Completed", "Crashed"]
    assert [one.name for one in found if not one.name.startswith("judge")] == [
        "verify it-0001 of b"
    ]
    one, other = (run.store.manifest("verify", 1) for run in (alone, Run.read(pooled.paths.root)))
    assert one.content() == other.content()


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server of this test's own, on loopback, run by a user without privileges."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed (Debian: postgresql)")
    owner: dict[str, Any] = {}
    # Not pytest's folder: another user cannot enter that.
    folder = Path(tempfile.mkdtemp(prefix="icpo-postgres-"))
    if os.getuid() == 0:
        owner = {"user": "postgres", "group": "postgres"}
        record = pwd.getpwnam("postgres")
        os.chown(folder, record.pw_uid, record.pw_gid)
    made = Postgres(free_port(), folder, found[-1].parent, owner)
    (folder / "password").write_text(DATABASE_PASSWORD)
    (folder / "password").chmod(0o644)
    data, log = str(folder / "data"), str(folder / "log")
    login = ["-U", "icpo", "--auth=scram-sha-256", f"--pwfile={folder / 'password'}"]
    made.run("initdb", "-D", data, *login, "--no-sync")
    options = f"-p {made.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    # Its standard streams would hold the pipes of `capture_output` open.
    subprocess.run(
        [str(made.programs / "pg_ctl"), "-D", data, "-l", log, "-o", options, "-w", "start"],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder, **owner,
    )  # fmt: skip
    try:
        made.run("createdb", "-h", "127.0.0.1", "-p", str(made.port), "-U", "icpo", "icpo")
        yield made
    finally:
        made.run("pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def team(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """A team's server: PostgreSQL by URL, and a password."""
    made = project(
        tmp_path_factory.mktemp("team"),
        PREFECT_API_AUTH_STRING=f"{USER}:{PASSWORD}",
        PREFECT_SERVER_DATABASE_CONNECTION_URL=postgres.url,
    )
    made.auth = f"{USER}:{PASSWORD}"
    done = made.icpo("up", "--port", str(made.port))
    assert done.returncode == 0, done.stderr + made.logs()
    yield made
    assert made.icpo("down").returncode == 0
    assert not made.processes()


def test_a_team_server_works_with_its_password_and_not_without(
    team: Services, postgres: Postgres, tmp_path: Path
) -> None:
    changes = [
        *stubs.CHANGES, *stubs.problem_sets(tmp_path / "problems"), "run.iterations=1",
        f"run.directory={tmp_path / 'runs'}", *stub_worker.changes(tmp_path),
    ]  # fmt: skip
    words = ["train", "configs/demo.toml", "--run", "team"]
    words += [word for change in changes for word in ("-o", change)]

    without = {"PREFECT_API_AUTH_STRING": ""}
    for path in ("health", "admin/version", "work_pools/filter", "flow_runs/filter"):
        address = f"{team.page}/api/{path}"
        for login in (None, (USER, "wrong")):
            assert httpx.post(address, json={}, auth=login).status_code == 401, path
    stranger = team.icpo(*words, env=without)
    assert stranger.returncode == 1
    [line] = without_waiting(stranger.stderr).splitlines()
    assert "the Prefect API wants a password: set PREFECT_API_AUTH_STRING" in line
    assert team.prefect("deployment", "run", "icpo/train", env=without).returncode != 0
    assert team.icpo("up", "--port", str(team.port), env=without).returncode == 2

    # Word for word as the docs have it, but for what makes it small.
    given = ["--param", "config=configs/demo.toml", "--param", "run=team"]
    given += ["--param", f"overrides={json.dumps(changes)}"]
    done = team.prefect("deployment", "run", "icpo/train", *given)
    assert done.returncode == 0, done.stdout + done.stderr
    with team.client() as client:
        [run] = [one for one in client.read_flow_runs() if one.parameters.get("run") == "team"]
    assert team.ended(run).state_name == "Completed"
    assert int(postgres.ask("select count(*) from flow_run")) >= 3
    # Some seconds after a run its events and artifacts are written.
    wait(lambda: postgres.ask("select count(*) from artifact") != "0", 30, "artifacts")

    secrets = (PASSWORD, DATABASE_PASSWORD, base64.b64encode(team.auth.encode()).decode())
    files = [path for path in team.folder.rglob("*") if path.is_file() and not path.is_symlink()]
    files += [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert {"services.json", "server.log", "worker.log", "run.json", "manifest.json"} <= {
        path.name for path in files
    }
    stored = [path for path in files if not path.is_relative_to(team.folder / "data")]
    for secret in secrets:
        holders = [path for path in stored if secret.encode() in path.read_bytes()]
        assert not holders
        for table in ("log", "artifact", "flow_run", "events", "deployment", "automation"):
            row = f"select count(*) from {table} t where t::text like '%{secret}%'"
            assert postgres.ask(row) == "0", table


def test_the_server_listens_on_loopback_alone(team: Services, services: Services) -> None:
    listening = [
        line.split()[1].split(":")
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for line in Path(table).read_text().splitlines()[1:]
        if line.split()[3] == "0A"
    ]
    for made in (team, services):
        addresses = {address for address, port in listening if int(port, 16) == made.port}
        assert addresses == {"0100007F"}
