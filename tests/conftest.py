"""What all tests share: the order (cheap first), and an environment that stays on this machine."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from places import ROOT, SMALL, TESTS

# Before any library reads them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test leaves a key or an index in the home folder of whoever runs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


TIERS = ("unit", "engine", "prefect", "slow")
# Where asserts stand that are not in test files, so that they too say what they compared.
pytest.register_assert_rewrite(
    "ending_runs", "fixtures_prefect", "recipes", "texts", "updates", "whole"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Cheap tests first, and within a tier in their files' order; marked as what they need."""
    tiers = {item: item.path.relative_to(TESTS).parts[0] for item in items}
    items.sort(key=lambda item: TIERS.index(tiers[item]))
    for item, tier in tiers.items():
        if tier in ("engine", "slow"):
            item.add_marker("engine")


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return ROOT


@pytest.fixture(scope="session")
def small(root: Path) -> Path:
    """The shipped problem sets and base model."""
    return SMALL


@pytest.fixture(scope="session")
def zygote() -> Iterator[Any]:
    """A process that forks runs which die at a given point."""
    from killing import Zygote

    with Zygote() as started:
        yield started


@pytest.fixture(scope="session")
def forking() -> Iterator[Any]:
    """A process that forks commands."""
    from forking import Forking

    with Forking() as started:
        yield started


@pytest.fixture(scope="session")
def small_protocol(root: Path) -> Any:
    """The protocol of evaluations of the small base model."""
    from icpo_core import config
    from icpo_core.evaluation import protocol

    run = config.load(root / "configs" / "demo.toml")
    changes = ["engine.max_model_len=512", "process.shard=512"]
    return protocol.load("run", changes, run)


@pytest.fixture(scope="module")
def engine(small_protocol: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """An evaluator whose engine is started once a file; give it a folder by `root`, and a
    protocol by `follow`."""
    from icpo_core.evaluation.evaluator import Evaluator

    with Evaluator(
        tmp_path_factory.mktemp("evaluations"), small_protocol, lambda what, done, all_: None
    ) as made:
        yield made
