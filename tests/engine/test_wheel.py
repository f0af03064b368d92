"""The wheel alone, on another person's machine: an empty environment, folder and HOME."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

from icpo_core.workers.launcher import free_port

UV = Path(sys.executable).with_name("uv")
SHORT = ["-o", "run.iterations=1", "-o", "evaluate.every=0"]


class Stranger:
    """Somebody who has the wheel and nothing else."""

    def __init__(self, home: Path, programs: Path) -> None:
        self.folder = home
        path = os.pathsep.join((str(programs), os.environ["PATH"]))
        self.environment = {"HOME": str(home), "PATH": path}

    def run(self, *words: str, status: int = 0) -> str:
        done = subprocess.run(
            words, cwd=self.folder, env=self.environment, capture_output=True, text=True,
            timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout


def uv(*words: str, folder: Path) -> None:
    """Run uv with pip's sources and no project's settings, or skip where it reaches none."""
    links = os.environ.get("UV_FIND_LINKS") or os.environ.get("PIP_FIND_LINKS", "")
    done = subprocess.run(
        [str(UV), "--no-config", *words], cwd=folder, env={**os.environ, "UV_FIND_LINKS": links},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    if done.returncode and any(w in done.stderr for w in ("Failed to fetch", "network", "dns")):
        pytest.skip(f"uv reaches no registry: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Stranger:
    if not UV.is_file():
        pytest.skip("there is no uv beside this Python (make setup)")
    folder, home = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("home")
    uv("build", "--quiet", "--out-dir", str(folder), str(ROOT), folder=folder)
    [wheel] = folder.glob("*.whl")
    uv("venv", "--quiet", "--python", sys.executable, "venv", folder=folder)
    python = folder / "venv" / "bin" / "python"
    torch = () if os.environ.get("PIP_FIND_LINKS") else ("--torch-backend", "cpu")
    words = ("pip", "install", "--quiet", "--python", str(python), *torch, f"{wheel}[cpu]")
    uv(*words, folder=folder)
    made = Stranger(home, python.parent)
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
