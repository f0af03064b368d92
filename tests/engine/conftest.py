"""What tests of the trainer share."""

from pathlib import Path

import pytest
from updates import batches


@pytest.fixture(scope="session")
def stored(small: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three batches of the base model's own rollouts."""
    return batches(small, tmp_path_factory.mktemp("batches"), 3)
