"""The wheel alone, on another person's machine: an empty environment, folder and HOME."""

import json
import re

import pytest
from places import ROOT
from strangers import Stranger, programs, wheel_in

from icpo_core.workers.launcher import free_port

SHORT = ["-o", "run.iterations=1", "-o", "evaluate.every=0"]


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Stranger:
    folder, home = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("home")
    made = Stranger(home, programs(folder, "venv", f"{wheel_in(folder)}[cpu]"))
    assert made.run("icpo", "--version").startswith("icpo ")
    made.run("icpo", "init", "demo")
    made.folder = home / "demo"
    return made


def test_only_names_of_ours_are_taken(stranger: Stranger) -> None:
    code = "import importlib.metadata as m; print(*{f.parts[0] for f in m.files('icpo')})"
    taken = set(stranger.run("python", "-c", code).split())
    assert {"icpo", "icpo_core"} == {one for one in taken if "dist-info" not in one and one != ".."}


def test_a_script_trains(stranger: Stranger) -> None:
    """The block of docs/python.md that does."""
    page = (ROOT / "docs" / "python.md").read_text("utf-8")
    [block] = [one for one in re.findall(r"```python\n(.*?)```", page, re.S) if "icpo.train" in one]
    stranger.run("python", "-c", block)
    stranger.run("icpo", "check", "runs/script")


def test_its_deployments_run(stranger: Stranger) -> None:
    stranger.run("icpo", "up", "--port", str(free_port()))
    try:
        overrides = f"overrides={json.dumps(SHORT[1::2])}"
        stranger.run("prefect", "deployment", "run", "icpo/train", "--watch", "--param", overrides)
        # Finds icpo.toml, and that all of it is there.
        done = json.loads(stranger.run("icpo", "train", "--json", *SHORT))
    finally:
        stranger.run("icpo", "down")
    assert done["run"] == "runs/demo"
    stranger.run("icpo", "check", "runs/demo")
