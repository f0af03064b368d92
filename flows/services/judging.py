"""Parts of the rollouts on a work pool (`verify.pool`): each is a flow run of `icpo-part/judge`.

What a worker made is taken from the run's folder, by the reply that lies there: Prefect only says
how it goes. A part whose process dies is given to the pool once more; one that it does not come
back from, for whatever reason, is judged by the run itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State, WorkPoolStatus
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.states import Cancelled, Cancelling, Crashed

from icpo_core.common.text import line
from icpo_core.config import Config
from icpo_core.run import judging
from icpo_core.run.run import Run
from icpo_core.workers.errors import EndedError
from icpo_core.workers.jobs import Judge

FLOW, DEPLOYMENT = "icpo-part", "judge"
TRIES = 2
LOOK_SECONDS, ASK_SECONDS = 0.2, 2.0
"""How often the folder is looked at, and the server asked."""
SEEN_SECONDS = 60.0
"""How long what another machine wrote may take to be seen on a shared file system."""

Say = Callable[[str], None]


def require_server(config: Config) -> None:
    """Raises ValueError if parts are to be judged by workers that can reach no server."""
    from prefect.settings import PREFECT_API_URL

    if config.verify.pool and not PREFECT_API_URL.value():
        raise ValueError(
            f"verify.pool = {config.verify.pool}: no Prefect server that a worker could reach is "
            'configured; start one with `icpo up`, set PREFECT_API_URL, or -o verify.pool=""'
        )


@contextmanager
def opened(run: Run, say: Say) -> Iterator[Pool | None]:
    """The pool of a run, inside a flow run; None if it judges by itself."""
    config = run.config
    if not config.verify.pool:
        yield None
        return
    require_server(config)
    with get_client(sync_client=True) as client:
        assert isinstance(client, SyncPrefectClient)
        yield Pool(client, config, say)


class Pool:
    """Hands parts to the workers of a pool. `judge` may be called by many threads at once."""

    def __init__(self, client: SyncPrefectClient, config: Config, say: Say) -> None:
        """Raises ValueError if there is no such pool, or no deployment to judge by."""
        self._client, self._say, self._run = client, say, config.run.name
        self._name, self._seconds = config.verify.pool, config.verify.pool_seconds
        self._over = threading.Event()
        self._said = ""
        self._deployment = self._deployed()

    def judge(self, job: Judge) -> bool:
        """Have a part judged; whether its reply is there. Raises EndedError when the run ends."""
        until = time.monotonic() + self._seconds
        part = f"verdicts on {job.out.parent.name} {job.out.stem}"
        for again in reversed(range(TRIES)):
            try:
                wrong, retry = self._away(job, until)
            except (httpx.HTTPError, PrefectException) as error:
                wrong, retry = line(error), False
            if not wrong:
                return True
            if again and retry:
                self._say(f"{part}: {wrong}; the pool {self._name} is given them once more")
            else:
                break
        if wrong != self._said:  # of a thousand parts, each would have the same to say
            self._say(f"{part}: {wrong}; this machine judges them")
        self._said = wrong
        return False

    def close(self) -> None:
        """End the waits: their flow runs are cancelled."""
        self._over.set()

    def _away(self, job: Judge, until: float) -> tuple[str, bool]:
        """What went wrong, nothing if the reply is there, and whether another worker may do."""
        if absent := self._absent():
            return absent, False
        judging.clear(job)
        run = self._client.create_flow_run_from_deployment(
            self._deployment,
            parameters={"job": job.wire()},
            name=f"judge {job.out.parent.name} {job.out.stem} of {self._run}",
            tags=[self._run],
        ).id
        asked, gone, seen = time.monotonic(), 0, None
        while not judging.replied(job):
            if self._over.wait(LOOK_SECONDS):
                self._end(run)
                raise EndedError("this run is being ended")
            now = time.monotonic()
            if now > until:
                self._end(run)
                return f"not there after verify.pool_seconds = {self._seconds:g}", False
            if now - asked < ASK_SECONDS:
                continue
            asked, state = now, self._client.read_flow_run(run).state
            if state is None:
                continue
            if state.is_completed():
                seen = seen or now
                if now - seen > SEEN_SECONDS:
                    return f"a worker wrote {job.out}, which is not on this machine", False
            elif state.is_final():
                said = line(f"{state.name}: {state.message or ''}", 300)
                return said, state.is_crashed()
            elif state.is_running():
                # Seen twice: a process makes the lock's file a moment before it has the lock.
                gone = gone + 1 if judging.left(job) else 0
                if gone > 1 and not judging.replied(job):
                    self._set(run, Crashed(message="Its process is gone: the lock is free."))
                    return "the worker died", True
            elif absent := self._absent():
                self._end(run)
                return absent, False
        return "", False

    def _absent(self) -> str:
        """Why nobody would take a part up, in words; nothing if somebody may."""
        status = self._client.read_work_pool(self._name).status
        if status is WorkPoolStatus.NOT_READY:
            fix = f"`prefect worker start --pool {self._name}` starts one"
            return f"no worker is running in work pool {self._name} ({fix})"
        return f"work pool {self._name} is paused" if status is WorkPoolStatus.PAUSED else ""

    def _end(self, run: UUID) -> None:
        with suppress(httpx.HTTPError, PrefectException):
            state = self._client.read_flow_run(run).state
            running = state is not None and state.is_running()
            self._set(run, Cancelling() if running else Cancelled())

    def _set(self, run: UUID, state: State[Any]) -> None:
        with suppress(httpx.HTTPError, PrefectException):
            self._client.set_flow_run_state(run, state)

    def _deployed(self) -> UUID:
        """The deployment that judges on this pool: that of `prefect.yaml`, or one like it."""
        try:
            self._client.read_work_pool(self._name)
        except ObjectNotFound:
            there = ", ".join(sorted(one.name for one in self._client.read_work_pools()))
            raise ValueError(
                f"verify.pool = {self._name}: the Prefect server has no such work pool "
                f"(it has {there or 'none'}); `prefect work-pool create {self._name} --type "
                "process` makes it"
            ) from None
        try:
            made = self._client.read_deployment_by_name(f"{FLOW}/{DEPLOYMENT}")
        except ObjectNotFound:
            raise ValueError(
                f"verify.pool = {self._name}: the Prefect server has no deployment "
                f"{FLOW}/{DEPLOYMENT}; make it with `icpo up` or `prefect deploy --all`"
            ) from None
        if made.work_pool_name == self._name:
            return made.id
        like = f"{DEPLOYMENT}-{self._name}"
        try:  # its image and variables are for whoever made it to say
            return self._client.read_deployment_by_name(f"{FLOW}/{like}").id
        except ObjectNotFound:
            return self._client.create_deployment(
                made.flow_id,
                like,
                work_pool_name=self._name,
                entrypoint=made.entrypoint,
                path=made.path,
                pull_steps=made.pull_steps,
                parameter_openapi_schema=made.parameter_openapi_schema,
                description=made.description,
                tags=made.tags,
            )
