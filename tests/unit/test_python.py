"""docs/python.md, executed on a stored run. tests/engine/test_wheel.py executes what trains."""

import re
import subprocess
import sys
import tarfile
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from places import ROOT, TESTS

import icpo

PAGE = (ROOT / "docs" / "python.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with tarfile.open(TESTS / "data" / "run-9696e7e.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    (tmp_path / "runs" / "run").rename(tmp_path / "runs" / "demo")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs" / "demo"


def test_the_page_runs(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reading = [block for block in BLOCKS if "icpo.train" not in block]
    assert len(reading) == len(BLOCKS) - 1
    said: dict[str, object] = {}
    for block in reading:
        exec(compile(block, "docs/python.md", "exec"), said)
    assert ": iteration 2 of 3>" in capsys.readouterr().out
    assert str(said["picture"]).startswith("<svg")
    assert said["logprobs_BT"].grad.abs().sum() > 0  # type: ignore[attr-defined]


def test_the_notebook_runs(stored: Path) -> None:
    """The one of docs/, whose stored pictures are of the demo, on a run of three iterations."""
    book = nbformat.read(ROOT / "docs" / "notebook.ipynb", as_version=4)
    kept = [output for cell in book.cells for output in cell.get("outputs", [])]
    place = {"metadata": {"path": str(stored.parents[1])}}
    NotebookClient(book, timeout=120, kernel_name="python3", resources=place).execute()
    made = [output for cell in book.cells for output in cell.get("outputs", [])]
    for outputs in (kept, made):
        assert sum("image/svg+xml" in one.get("data", {}) for one in outputs) == 3
    assert [one.output_type for one in made] == [one.output_type for one in kept]


def test_tables_hold_every_row_of_every_iteration(stored: Path) -> None:
    run = icpo.open(stored)
    rows = {name: run.table(name) for name in ("rollout", "verdicts", "batch", "rejects")}
    assert set(rows["rollout"]["iteration"].to_pylist()) == {1, 2}
    assert len(rows["rollout"]) == len(rows["verdicts"])
    assert len(rows["rollout"]) == len(rows["batch"]) + len(rows["rejects"])
    assert set(run.table("samples")["iteration"].to_pylist()) == {0, 2}
    assert len(run.dataset("batch", 2)) == len(run.table("batch", 2))
    with pytest.raises(ValueError, match="rollouts: no table of a run; there are prompts, rollout"):
        run.table("rollouts")
    with pytest.raises(ValueError, match=r"no run here"):
        icpo.open(stored.parent)


def test_the_door_is_light_and_whole() -> None:
    code = (
        "import sys, icpo; assert not {'torch', 'pyarrow', 'icpo_core'} & {*sys.modules};"
        "[getattr(icpo, name) for name in dir(icpo)]; assert 'prefect' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'opne'"):
        icpo.opne  # noqa: B018
