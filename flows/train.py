"""ICPO training: the flow `icpo`, deployed as `icpo/train`."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, runtime

from icpo.flows.iteration import iteration, number_anew
from icpo.flows.parameters import Configuration, Override, RunName
from icpo.flows.session import opened
from icpo_core.run import loop
from icpo_core.run.run import Run


def _name() -> str:
    given = runtime.flow_run.parameters
    return f"train {given['run'] or Path(given['config']).stem}"


@flow(name="icpo", flow_run_name=_name, persist_result=False)
async def train(
    config: Configuration = "configs/demo.toml",
    overrides: list[Override] = [],  # noqa: B006  the form shows an empty list, not a choice of types
    run: RunName = "",
    rerun: bool = False,
) -> str:
    """Train a policy with ICPO, or go on with a run that was stopped.

    Args:
        config: TOML file of the run, or the folder of a run to go on with; relative to the
            project's folder.
        overrides: Changes to it, each as section.key=value, for example run.seed=1.
        run: Name of the run. Empty: that of the file or folder.
        rerun: Make again, in place, what a changed configuration or data set makes otherwise.

    Returns the run's folder. Raises ValueError for a user's mistake.
    """
    async with opened(Run.named(config, overrides, run or None)) as (session, _):
        root = session.run.paths.root
        number_anew()
        for number in loop.iterations(session, rerun):
            await iteration(root, number)
        return str(root)
