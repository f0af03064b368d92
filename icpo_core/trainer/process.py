"""The processes of the trainer: one a rank, which take jobs together.

Rank 0 is the worker that the run talks to; it hands each job to the others before it does it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from icpo_core.config import LossSection, UpdateSection
from icpo_core.trainer.trainer import Trainer, has_compiler
from icpo_core.workers.launcher import free_port
from icpo_core.workers.process import Handler, attempt, serve


def main() -> None:
    """Serve jobs. The one argument is JSON: `model`, `loss`, `update`, `temperature`,
    `off_policy_steps`."""
    settings = json.loads(sys.argv[1])
    update = UpdateSection.model_validate(settings["update"])
    if "RANK" not in os.environ:
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    rank = int(os.environ["RANK"])
    if update.threads:
        torch.set_num_threads(update.threads)
    elif not torch.cuda.is_available():
        local = int(os.environ.get("LOCAL_SIZE", "1"))
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local))

    def build() -> tuple[dict[str, Any], dict[str, Handler]]:
        import deepspeed

        if os.environ["WORLD_SIZE"] == "1" or not has_compiler():
            # An op by which ranks of one CPU machine share memory. A single rank has no use for
            # it, and would compile it for 40 s at its first start; without it gloo does the same.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        # Ranks wait for jobs as long as sampling takes.
        deepspeed.init_distributed(timeout=timedelta(days=7), verbose=False)
        trainer = Trainer(
            Path(settings["model"]),
            LossSection.model_validate(settings["loss"]),
            update,
            settings["temperature"],
            settings["off_policy_steps"],
        )
        ready = {"state_id": trainer.state_id, "ranks": trainer.ranks}
        return ready, {
            "update": lambda job, _: trainer.update(job),
            "save": lambda job, _: trainer.save(job),
        }

    def build_leader() -> tuple[dict[str, Any], dict[str, Handler]]:
        ready, handlers = build()
        return ready, {name: _together(handler) for name, handler in handlers.items()}

    if rank == 0:
        serve(build_leader)
    _follow(build()[1])


def _together(handler: Handler) -> Handler:
    """Rank 0's handler: hand the job to the other ranks, then do it."""

    def handle(job: dict[str, Any], progress: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        _say(job)
        dist.broadcast_object_list([job])
        return handler(job, progress)

    return handle


def _follow(handlers: dict[str, Handler]) -> NoReturn:
    """Other ranks: do what rank 0 does. They end with the process group that rank 0 kills."""
    while True:
        job: list[Any] = [None]
        dist.broadcast_object_list(job)
        _say(job[0])
        reply = attempt(handlers[job[0]["job"]], job[0], lambda news: None)
        if "failure" in reply:
            raise SystemExit(reply["failure"])


def _say(job: dict[str, Any]) -> None:
    """Into the rank's log: by it one sees where a rank was when all of them stood still."""
    if dist.get_world_size() > 1:
        print(f"rank {dist.get_rank()} begins {job['job']} of {job['out']}", flush=True)


if __name__ == "__main__":
    main()
