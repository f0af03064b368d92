"""ICPO training: the flow `icpo`, deployed as `icpo/train`."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, runtime
from prefect.logging import get_run_logger

from flows.iteration import iteration
from flows.progress import Watcher
from icpo_core import checkpoints, graph
from icpo_core.run import Run


def _name() -> str:
    given = runtime.flow_run.parameters
    return f"train {given['run'] or Path(given['config']).stem}"


@flow(name="icpo", flow_run_name=_name)
async def train(
    config: str = "configs/demo.toml",
    overrides: list[str] | None = None,
    run: str | None = None,
    rerun: bool = False,
) -> str:
    """Train a policy with ICPO, or go on with a run that was stopped.

    Args:
        config: TOML file of the run, or the folder of a run to go on with.
        overrides: Changes to it, each as section.key=value.
        run: Name of the run; that of the file or folder without one.
        rerun: Make again what the configuration or data have changed, in place of what is stored.

    Returns the run's folder. Raises ValueError for a user's mistake.
    """
    with Run.named(config, overrides, run) as opened:
        return await _train(opened, rerun, Watcher())


async def _train(run: Run, rerun: bool, watcher: Watcher) -> str:
    logger = get_run_logger()
    steps = graph.plan(run)
    if not rerun:
        graph.require_same(run, steps)
    run.keep_config()
    checkpoints.settle(run)
    first, last = graph.first_open(steps), run.config.run.iterations
    root = str(run.paths.root)
    if first is None:
        logger.info(f"{root}: all {last} iterations are done")
        return root
    if first > 1:
        logger.info(f"{root}: iterations 1 to {first - 1} are done and kept")
    # Both start while the problems are read; neither is waited for before it is needed.
    run.workers.start_engine(run.nearest_policy(first - 1))
    run.workers.start_trainer()
    run.prompt_maker  # noqa: B018  a mistake in the data ends the run before it begins
    with watcher.watching(run, first):
        for number in range(first, last + 1):
            watcher.row(number, await iteration(root, number))
    return root
