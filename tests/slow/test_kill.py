"""Killed at every point there is, gone on with, and whole."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
from killing import Zygote
from whole import OFF_POLICY, Whole, never_killed, require_whole


@pytest.fixture(scope="module")
def whole(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return never_killed(zygote, tmp_path_factory.mktemp("whole"), [])


@pytest.fixture(scope="module")
def off_policy(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return never_killed(zygote, tmp_path_factory.mktemp("off-policy"), OFF_POLICY)


@pytest.mark.parametrize("which", ["whole", "off_policy"])
def test_killed_at_every_point_there_is(
    which: str, zygote: Zygote, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Before and after every single change to the file system, and at every mark."""
    whole, changes = request.getfixturevalue(which), OFF_POLICY if which == "off_policy" else []
    folder = tmp_path / "run"
    seen: Counter[str] = Counter()

    def begin() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "data").symlink_to(whole.folder / "data")

    begin()
    for mark in zygote.run(folder, changes, record=True).marks:
        seen[mark] += 1
        begin()
        assert zygote.run(folder, changes, kill=mark, count=seen[mark]).killed
        assert zygote.run(folder, changes).words == "", (mark, seen[mark])
        require_whole(whole, folder)
