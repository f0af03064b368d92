"""What tests of the trainer share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist
from updates import batches, join

from icpo_core.workers.launcher import free_port


@pytest.fixture(scope="session")
def stored(small: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three batches of the base model's own rollouts."""
    return batches(small, tmp_path_factory.mktemp("batches"), 3)


@pytest.fixture(scope="module")
def alone() -> Iterator[None]:
    """This process as the only rank; an engine in it may have been the first to say so."""
    ours = not dist.is_initialized()
    join(0, 1, free_port())
    yield
    if ours:
        dist.destroy_process_group()
