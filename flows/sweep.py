"""A sweep: the runs of `icpo_core.run.sweep`, each a flow run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from prefect import flow, tags
from prefect.deployments import run_deployment

from icpo.flows.train import train
from icpo_core.run import plan
from icpo_core.run.sweep import Member, Sweep
from icpo_core.views import sweep as view

Say = Callable[[Member, str], None]


@flow(name="icpo-sweep", flow_run_name="sweep {folder}", persist_result=False)
async def sweep(folder: str, jobs: int = 0) -> list[str]:
    """Train what a sweep lacks; the names of runs that failed.

    Args:
        folder: The sweep's.
        jobs: 0: one run after another, in this process. Else so many at a time on the workers of
            the deployment `icpo/train`, which `icpo up` starts.
    """
    root = Path(folder)
    open_ = missing(Sweep.read(root), root)
    failed: list[str] = []
    tag = f"sweep:{root.name}"
    with tags(tag):
        if not jobs:
            for member in open_:
                await train(member.config, member.overrides, member.name)
            return failed
        slots = asyncio.Semaphore(jobs)

        async def deployed(member: Member) -> None:
            async with slots:
                parameters = {
                    "config": str(Path(member.config).resolve()),
                    "overrides": member.overrides,
                    "run": member.name,
                }
                made = await run_deployment(  # type: ignore[misc]
                    "icpo/train",
                    parameters=parameters,
                    flow_run_name=f"train {member.name}",
                    tags=[tag],
                )
                if made.state is None or not made.state.is_completed():
                    failed.append(member.name)

        await asyncio.gather(*(deployed(member) for member in open_))
    return failed


def missing(given: Sweep, root: Path) -> list[Member]:
    """The runs that are not finished. Raises ValueError, before any begins, for a configuration
    that cannot be, or a run that would become another."""
    found, kept = [], view.kept(root)
    for member in given.members(root):
        if member.name in kept and not (root / member.name).exists():
            continue
        run = member.run()
        steps = plan.plan(run)
        plan.require_same(run, steps)
        if plan.first_open(steps) is not None:
            found.append(member)
    return found
