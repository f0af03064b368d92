"""Parts that are judged elsewhere: the same verdicts, and none at all where something is wrong."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import stubs
from prefect.client.schemas.objects import State, WorkPoolStatus
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed, Crashed, Failed, Pending, Running

from icpo.flows.services import judging as services
from icpo_core.common.lock import RunLock
from icpo_core.config import load
from icpo_core.run import judging
from icpo_core.run.perform import perform
from icpo_core.run.run import Run
from icpo_core.run.session import Observer
from icpo_core.store import tables
from icpo_core.workers.errors import EndedError
from icpo_core.workers.jobs import Judge

SMALL = ["run.iterations=1", "evaluate.every=0"]
OWN = '''
def parity(response, answer, row):
    """1 if the boxed number is even."""
    return "\\\\boxed{" in response and int(response.split("{")[1][0]) % 2 == 0
'''


class Elsewhere(Observer):
    """Judges as a worker does: by what the job says and the folder has."""

    def __init__(self, *, every: int = 1) -> None:
        self.asked: list[Judge] = []
        self.every = every

    def judge(self, job: Judge) -> bool:
        self.asked.append(job)
        if len(self.asked) % self.every:
            return False  # nobody came
        judging.clear(job)
        judging.judge(stubs.wired(job))
        return True


def verdicts(folder: Path, name: str, observer: Observer, *changes: str) -> tuple[str, Any]:
    """Digest of the verdicts of an iteration's groups, and facts of the stage."""
    run = Run.of(stubs.configuration(folder, name, *SMALL, *changes))
    with stubs.stubbed(run, observer=observer) as session:
        for stage in ("prompts", "rollout", "verify"):
            perform(session, stage, 1)
        found = session.run.store.manifest("verify", 1)
        assert found is not None
        assert not list(session.logs.glob("judged/*/*"))
    return found.content(), found


@pytest.mark.parametrize(("shards", "every"), [(1, 1), (3, 2)])
def test_it_comes_to_the_same_elsewhere(tmp_path: Path, shards: int, every: int) -> None:
    own = tmp_path / "my_reward.py"
    own.write_text(OWN)
    changes = [f"rollout.shards={shards}", f"verify.verifier={own}:parity"]
    here, found = verdicts(tmp_path, "here", Observer(), *changes)
    observer = Elsewhere(every=every)
    there, pooled = verdicts(tmp_path, "there", observer, *changes, "verify.pool=cpu")
    assert len(observer.asked) == shards
    assert there == here
    assert pooled.fingerprint == found.fingerprint


@pytest.fixture
def job(tmp_path: Path) -> Judge:
    """One that nobody judged yet."""
    observer = Elsewhere(every=2)
    verdicts(tmp_path, "run", observer, "rollout.shards=1", "verify.pool=cpu")
    return observer.asked[0]


def test_a_machine_that_sees_something_else_says_so(job: Judge, tmp_path: Path) -> None:
    own = tmp_path / "my_reward.py"
    own.write_text(OWN)
    rows = tables.read("rollout", job.rollouts)
    tables.write("rollout", rows[1:], other := tmp_path / "other.parquet")
    verify = job.verify.model_copy(update={"verifier": f"{own}:parity"})
    for change, says in (
        ({"out": tmp_path / "gone" / "part.parquet"}, "needs the run's folder at the same path"),
        ({"rollouts": other}, "this machine sees other rows than the run does"),
        ({"verify": verify, "sources": {"verify.verifier": "0"}}, "is another one on this machine"),
    ):
        with pytest.raises(ValueError, match=says):
            judging.judge(job.model_copy(update=change))
        assert not judging.replied(job)
    with RunLock(job.out.with_suffix(".lock")), pytest.raises(ValueError, match="in use by"):
        judging.judge(job)


def test_only_what_was_asked_for_is_taken(job: Judge, tmp_path: Path) -> None:
    judging.judge(job)
    file = tmp_path / "part.parquet"
    assert judging.take(job.model_copy(update={"fingerprint": "other"}), file) is None
    tables.write("verdicts", tables.read("verdicts", job.out)[1:], job.out, job.fingerprint)
    assert judging.take(job, file) is None
    judging.judge(job)
    written = judging.take(job, file)
    assert written is not None
    assert tables.part_fingerprint(file) == job.fingerprint
    assert written.content == tables.content_digest("verdicts", tables.read("verdicts", file))
    assert not judging.replied(job)


def test_a_process_that_died_is_known_by_its_lock(job: Judge) -> None:
    assert not judging.left(job)
    reader, writer = os.pipe()
    if not (pid := os.fork()):
        RunLock(job.out.with_suffix(".lock")).acquire()
        os.write(writer, b"x")
        time.sleep(60)
    os.read(reader, 1)
    assert not judging.left(job)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert judging.left(job)


class Server:
    """The states that a flow run comes to, one at a time it is asked for."""

    def __init__(self, *runs: list[State[Any]], status: WorkPoolStatus = WorkPoolStatus.READY):
        self.runs, self.status, self.set = list(runs), status, list[str]()
        self.states: list[State[Any]] = []

    def read_work_pool(self, name: str) -> Any:
        return type("Pool", (), {"status": self.status})

    def read_deployment_by_name(self, name: str) -> Any:
        assert name == "icpo-part/judge"
        return type("Deployment", (), {"work_pool_name": "cpu", "id": uuid4()})

    def create_flow_run_from_deployment(self, *_: Any, **given: Any) -> Any:
        Judge.model_validate(given["parameters"]["job"])
        assert given["tags"] == ["run"]
        self.states = self.runs.pop(0)
        return type("Run", (), {"id": uuid4()})

    def read_flow_run(self, run: Any) -> Any:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return type("Run", (), {"state": state})

    def set_flow_run_state(self, run: Any, state: State[Any]) -> None:
        self.set.append(str(state.type.value))


@pytest.mark.parametrize(
    ("server", "seconds", "says"),
    [
        (Server([Pending(), Crashed()], [Crashed()]), 60, "Crashed"),
        (Server([Running(), Failed(message="other rows")]), 60, "Failed: other rows"),
        (Server([Completed()]), 60, "which is not on this machine"),
        (Server([Pending()]), 0.3, "not there after verify.pool_seconds = 0.3"),
        (Server(status=WorkPoolStatus.NOT_READY), 60, "no worker is running in work pool cpu"),
        (Server(status=WorkPoolStatus.PAUSED), 60, "work pool cpu is paused"),
    ],
    ids=["crashed", "failed", "unseen", "late", "nobody", "paused"],
)
def test_what_does_not_come_back_is_judged_here(
    job: Judge, monkeypatch: pytest.MonkeyPatch, server: Any, seconds: float, says: str
) -> None:
    pool, said = made(monkeypatch, server, seconds)
    assert not pool.judge(job)
    assert not server.runs
    assert says in said[-1]
    assert said[-1].endswith("; this machine judges them")
    assert len(said) == (2 if says == "Crashed" else 1)


def made(monkeypatch: pytest.MonkeyPatch, server: Any, seconds: float = 60.0) -> Any:
    for name in ("LOOK_SECONDS", "ASK_SECONDS", "SEEN_SECONDS"):
        monkeypatch.setattr(services, name, 0.05)
    changes = ["verify.pool=cpu", f"verify.pool_seconds={seconds}"]
    config = load(stubs.ROOT / "configs" / "demo.toml", changes, "run")
    said: list[str] = []
    return services.Pool(server, config, said.append), said


def test_a_run_that_ends_waits_for_nobody(job: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server([Running()])
    pool, _ = made(monkeypatch, server)
    threading.Timer(0.2, pool.close).start()
    with pytest.raises(EndedError):
        pool.judge(job)
    assert server.set == ["CANCELLING"]


def test_a_pool_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    server: Any = Server()

    def absent(name: str) -> None:
        raise ObjectNotFound(RuntimeError(name))

    server.read_work_pool = absent
    server.read_work_pools = lambda: [type("Pool", (), {"name": "icpo"})]
    with pytest.raises(ValueError, match=r"no such work pool \(it has icpo\)"):
        made(monkeypatch, server)


def test_without_a_server_it_is_one_line() -> None:
    config = load(stubs.ROOT / "configs" / "demo.toml", ["verify.pool=cpu"])
    with pytest.raises(ValueError, match="no Prefect server that a worker could reach"):
        services.require_server(config)
