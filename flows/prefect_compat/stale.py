"""Flow runs that Prefect takes for alive though their process is gone.

Whoever holds a run's lock knows that no earlier attempt at it lives. Every attempt writes down its
flow run, and the next one closes what is left open: Prefect itself would wait for heartbeats, and
knows nothing at all where no server ran.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from prefect import runtime
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.logging import get_run_logger
from prefect.states import Cancelled, Crashed

from icpo_core.common.files import read_json, write_json
from icpo_core.run.session import Session

RECORD = "prefect.json"
ATTEMPTS = 20
"""How many earlier attempts are looked at."""
_OPEN = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]


async def close_stale(session: Session) -> None:
    """Note this flow run in the run's attempt, and close those of earlier attempts."""
    mine = UUID(runtime.flow_run.id)
    write_json(session.logs / RECORD, {"flow_run": str(mine)})
    records = sorted(session.logs.parent.glob(f"*/{RECORD}"))[-ATTEMPTS - 1 : -1]
    earlier = {UUID(read_json(path)["flow_run"]) for path in records}
    if not earlier:
        return
    async with get_client() as client:
        found = await _open(client, {"id": {"any_": sorted(earlier - {mine})}})
        # Of this very flow run too, if it is tried again: it has begun no iteration yet.
        found += await _open(client, {"parent_flow_run_id": {"any_": sorted(earlier)}})
        for one in found:
            message = f"Its process is gone; flow run {runtime.flow_run.name} goes on"
            cancelling = one.state_type is StateType.CANCELLING
            state: State = Cancelled(message=message) if cancelling else Crashed(message=message)
            await client.set_flow_run_state(one.id, state, force=True)
            get_run_logger().warning(
                "flow run %s was left %s by a process that is gone; it is %s now",
                one.name,
                one.state_name,
                state.name,
            )


async def _open(client: PrefectClient, which: dict[str, Any]) -> list[FlowRun]:
    wanted = FlowRunFilter.model_validate(which | {"state": {"type": {"any_": _OPEN}}})
    return await client.read_flow_runs(flow_run_filter=wanted)
