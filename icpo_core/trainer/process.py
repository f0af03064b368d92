"""The processes of the trainer: one a rank, which take jobs together.

Rank 0 is the worker that the run talks to; it hands each job to the others before it does it.
"""

from __future__ import annotations

import os
import socket
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from icpo_core.common import limits, strays
from icpo_core.common.lock import remove_left
from icpo_core.trainer.trainer import Trainer
from icpo_core.workers.jobs import Message, Save, Teach, TrainerReady, TrainerSettings, Update
from icpo_core.workers.process import Handler, Handlers, Say, attempt, serve

PATIENCE = timedelta(days=7)
"""Ranks wait for jobs as long as sampling takes."""
MEETING = timedelta(minutes=30)
"""As long as PyTorch has ranks wait for each other at their start."""
BUILD_SECONDS = 120.0
"""An op is compiled in 40 s on two cores; a lock of this age that nobody has open is nobody's."""


def main() -> None:
    """Serve jobs. The one argument is JSON: `TrainerSettings`."""
    strays.hide()
    settings = TrainerSettings.model_validate_json(sys.argv[1])
    update = settings.update
    # Said by DeepSpeed's launcher: a worker inherits no rank from elsewhere.
    alone = "RANK" not in os.environ
    if alone:
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    rank = int(os.environ["RANK"])
    if update.deterministic:
        make_deterministic()
    if update.threads:
        torch.set_num_threads(update.threads)
    elif not torch.cuda.is_available():
        local = int(os.environ.get("LOCAL_SIZE", "1"))
        torch.set_num_threads(max(1, limits.cores() // local))

    def build() -> tuple[TrainerReady, Handlers]:
        import deepspeed

        if os.environ.get("LOCAL_RANK") == "0":
            _unlock_builds()
        if os.environ["WORLD_SIZE"] == "1" or not limits.has_compiler():
            # An op by which ranks of one CPU machine share memory. A single rank has no use for
            # it, and would compile it for 40 s at its first start; without it gloo does the same.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        _join(alone or settings.rendezvous is not None, settings.rendezvous)
        deepspeed.init_distributed(timeout=PATIENCE, verbose=False)
        if not torch.cuda.is_available() and os.environ["WORLD_SIZE"] != "1":
            _unname_buffer(rank)
        trainer = Trainer(
            settings.model,
            settings.loss,
            update,
            settings.temperature,
            settings.updates_behind,
        )
        ready = TrainerReady(state_id=trainer.state_id, ranks=trainer.ranks)
        return ready, {
            Update: lambda job, _: trainer.update(job),
            Save: lambda job, _: trainer.save(job),
            Teach: lambda job, _: trainer.teach(job),
        }

    def build_leader() -> tuple[TrainerReady, Handlers]:
        ready, handlers = build()
        return ready, {kind: _together(handler) for kind, handler in handlers.items()}

    if rank == 0:
        serve(build_leader)
    _follow(build()[1])


def _unname_buffer(rank: int) -> None:
    """Take away the name of the memory that this rank shares with those of its machine, when all
    have it open. DeepSpeed never does: 69 MB a rank would stay in /dev/shm for good."""
    dist.barrier()
    named = f"deepspeed_allreduce_buffer_{os.getuid()}_*_{os.environ['MASTER_PORT']}_{rank}"
    for path in Path("/dev/shm").glob(named):
        path.unlink(missing_ok=True)


def make_deterministic() -> None:
    """Let this process compute with operations that give the same bits each time. Must come before
    anything is computed. https://docs.pytorch.org/docs/stable/notes/randomness.html"""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # cuBLAS splits no product by who is free
    os.environ["FLASH_ATTENTION_DETERMINISTIC"] = "1"  # transformers hands it on
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False


def _unlock_builds() -> None:
    """Remove the locks that killed processes left where torch compiles DeepSpeed's ops: it would
    wait for them without end."""
    from torch.utils.cpp_extension import get_default_build_root

    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    for path in (*root.glob("*/lock"), *root.glob("*/*/lock")):
        if remove_left(path, BUILD_SECONDS):
            print(f"{path}: was left by a process that is gone, and removed", flush=True)


def _join(here: bool, rendezvous: Path | None) -> None:
    """Be a process group: one that no other machine can reach, if all ranks are `here`. By itself
    PyTorch's store would listen on every network, and let in anyone who asks.

    rendezvous: file by which several ranks of this machine find each other.
    """
    from deepspeed.accelerator import get_accelerator

    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store: Any
    if not here:
        store = _store_of_machines(rank, ranks)
    elif rendezvous is None:
        store = dist.HashStore()  # type: ignore[attr-defined]
    else:
        store = dist.FileStore(str(rendezvous), ranks)  # type: ignore[attr-defined]
    if here:
        os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    dist.init_process_group(
        get_accelerator().communication_backend_name(),
        store=store,
        rank=rank,
        world_size=ranks,
        timeout=PATIENCE,
    )


def _store_of_machines(rank: int, ranks: int) -> Any:
    """The store by which ranks of several machines find each other. Rank 0's listens at the address
    that they meet at, and at no other of its machine."""
    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    listening = None
    if rank == 0:
        try:
            listening = socket.create_server(place).detach()  # which the store closes
        except OSError as error:
            raise ValueError(
                f"nothing can listen at {place[0]}:{place[1]} ({error.strerror}): set "
                "update.rendezvous to an address of the first machine and a port that is free"
            ) from None
    return dist.TCPStore(  # type: ignore[attr-defined]
        *place, ranks, rank == 0, timeout=MEETING, master_listen_fd=listening
    )


def _together(handler: Handler) -> Handler:
    """Rank 0's handler: hand the job to the other ranks, then do it."""

    def handle(job: Update | Save | Teach, say: Say) -> Message:
        _begin(job)
        dist.broadcast_object_list([job])
        return handler(job, say)

    return handle


def _follow(handlers: Handlers) -> NoReturn:
    """Other ranks: do what rank 0 does. They end with the process group that rank 0 kills."""
    while True:
        jobs: list[Any] = [None]
        dist.broadcast_object_list(jobs)
        [job] = jobs
        _begin(job)
        reply = attempt(job.kind, partial(handlers[type(job)], job, lambda done, all_: None))
        if "failure" in reply:
            raise SystemExit(reply["failure"])


def _begin(job: Update | Save | Teach) -> None:
    """Into the rank's log: by it one sees where a rank was when all of them stood still."""
    if dist.get_world_size() > 1:
        print(f"rank {dist.get_rank()} begins {job.kind} of {job.out}", flush=True)


if __name__ == "__main__":
    main()
