"""ICPO training: the flow `icpo`, deployed as `icpo/train`."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, runtime
from prefect.logging import get_run_logger

from flows.iteration import iteration, number_anew
from flows.parameters import Configuration, Override, RunName
from flows.services.alarms import Alarms
from flows.session import session
from flows.ui.progress import Watcher
from icpo_core.run import checkpoints, metrics, plan
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
    async with session(Run.named(config, overrides, run or None)) as opened:
        return await _train(opened, rerun, Watcher())


async def _train(run: Run, rerun: bool, watcher: Watcher) -> str:
    logger = get_run_logger()
    steps = plan.plan(run)
    if not rerun:
        plan.require_same(run, steps)
    run.keep_config()
    checkpoints.settle(run)
    first, last = plan.first_open(steps), run.config.run.iterations
    root = str(run.paths.root)
    if first is None:
        logger.info(f"{root}: all {last} iterations are done")
        return root
    if first > 1:
        logger.info(f"{root}: iterations 1 to {first - 1} are done and kept")
    # Both start while problems are read and trackers opened; neither is waited for before it is
    # needed.
    run.workers.start_engine(run.nearest_policy(plan.sampling_policy(run, first)))
    run.workers.start_trainer()
    run.prompt_maker  # noqa: B018  a mistake in the data ends the run before it begins
    run.trackers  # noqa: B018  so does a tracker that cannot be had
    number_anew()
    alarms = Alarms(run, metrics.read(run.paths))
    with watcher.watching(run, first):
        for number in range(first, last + 1):
            await iteration(root, number)
            figures = metrics.record(run, number)
            watcher.row(number, figures)
            alarms.look(number, figures)
    return root
