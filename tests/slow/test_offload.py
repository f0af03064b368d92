"""A state of an optimizer whose moments lie in the CPU's memory: DeepSpeed compiles it first."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist
from updates import batches, join, require_read_and_not_executed

from icpo_core.workers.launcher import free_port

OFFLOAD = {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """This process as the only rank."""
    join(0, 1, free_port())
    yield
    dist.destroy_process_group()


def test_an_offloaded_state_is_read_to_the_byte_and_nothing_in_it_is_executed(
    small: Path, tmp_path: Path
) -> None:
    stored = batches(small, tmp_path, 2)
    require_read_and_not_executed(small, stored, tmp_path, deepspeed=OFFLOAD)
