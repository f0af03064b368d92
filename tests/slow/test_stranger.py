"""A stranger's first hour, from the wheel alone, in an empty folder with an empty HOME: the demo
learns, the notebook of docs/ shows it, a deployment runs.

Of this tests/engine/test_wheel.py has what takes two minutes.
"""

import json
from pathlib import Path

import pytest
from places import ROOT
from strangers import Stranger, programs, wheel_in

from icpo_core.workers.launcher import free_port

EXECUTE = """
import sys
import nbformat
from nbclient import NotebookClient
book = nbformat.read(sys.argv[1], as_version=4)
place = {"metadata": {"path": "."}}
NotebookClient(book, timeout=300, kernel_name="python3", resources=place).execute()
outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
print(sum("image/svg+xml" in one.get("data", {}) for one in outputs))
"""


@pytest.mark.timeout(3000)
def test_the_demo_learns_the_notebook_shows_it_and_a_deployment_runs(tmp_path: Path) -> None:
    asked = [f"{wheel_in(tmp_path)}[cpu]", "nbclient", "ipykernel", "matplotlib", "pandas"]
    home = tmp_path / "home"
    home.mkdir()
    made = Stranger(home, programs(tmp_path, "venv", *asked))
    made.run("icpo", "init", "demo")
    made.folder = home / "demo"
    done = json.loads(made.run("icpo", "train", "--json", seconds=1800))
    assert done["accuracy"]["heldout"]["40"] >= 0.95
    book = str(ROOT / "docs" / "notebook.ipynb")
    assert made.run("python", "-c", EXECUTE, book, seconds=600) == "3\n"
    made.run("icpo", "up", "--port", str(free_port()))
    try:
        short = "overrides=" + json.dumps(["run.iterations=1", "evaluate.every=0"])
        words = ["--watch", "--param", "run=deployed", "--param", short]
        made.run("prefect", "deployment", "run", "icpo/train", *words, seconds=600)
    finally:
        made.run("icpo", "down")
    for name in ("demo", "deployed"):
        made.run("icpo", "check", f"runs/{name}")
