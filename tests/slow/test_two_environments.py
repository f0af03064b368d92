"""The flow with a newer Prefect than vLLM allows; engine and trainer where vLLM is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

PREFECT = "3.9.1"
UV = Path(sys.executable).with_name("uv")


def uv(*words: str, folder: Path) -> None:
    links = os.environ.get("UV_FIND_LINKS") or os.environ.get("PIP_FIND_LINKS", "")
    done = subprocess.run(
        [str(UV), "--no-config", *words], cwd=folder, env={**os.environ, "UV_FIND_LINKS": links},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode and any(w in done.stderr for w in ("Failed to fetch", "network", "dns")):
        pytest.skip(f"uv reaches no registry: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


def test_two_iterations_across_both(tmp_path: Path) -> None:
    if not UV.is_file():
        pytest.skip("there is no uv beside this Python (make setup)")
    uv("build", "--quiet", "--wheel", "--out-dir", str(tmp_path), str(ROOT), folder=tmp_path)
    [wheel] = tmp_path.glob("*.whl")
    torch = () if os.environ.get("PIP_FIND_LINKS") else ("--torch-backend", "cpu")
    for name, asked in (
        ("flow", [str(wheel), f"prefect=={PREFECT}"]),
        ("engine", [f"{wheel}[cpu]"]),
    ):
        uv("venv", "--quiet", "--python", sys.executable, name, folder=tmp_path)
        uv("pip", "install", "--quiet", "--python", name, *torch, *asked, folder=tmp_path)
    flow, engine = (tmp_path / name / "bin" for name in ("flow", "engine"))

    def run(*words: str, folder: Path = tmp_path) -> str:
        environment = {"HOME": str(tmp_path), "PATH": f"{flow}:/usr/bin:/bin"}
        return subprocess.run(
            words, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    there = "import importlib.util as u, prefect; print(prefect.__version__, u.find_spec('torch'))"
    assert run("python", "-c", there) == f"{PREFECT} None\n"
    run("icpo", "init", "demo")
    python = str(engine / "python")
    words = ["run.iterations=2", "evaluate.every=0"]
    words += [f"rollout.python={python}", f"update.python={python}"]
    more = [word for one in words for word in ("-o", one)]
    done = json.loads(run("icpo", "train", "--json", *more, folder=tmp_path / "demo"))
    run("icpo", "check", done["run"], folder=tmp_path / "demo")
