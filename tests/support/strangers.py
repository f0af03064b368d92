"""Somebody on another machine, who has what they installed and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

UV = Path(sys.executable).with_name("uv")


class Stranger:
    """With a HOME of their own, the programs of an environment, and no variable of ours."""

    def __init__(self, home: Path, programs: Path) -> None:
        self.folder = home
        path = os.pathsep.join((str(programs), os.environ["PATH"]))
        self.environment = {"HOME": str(home), "PATH": path}

    def run(self, *words: str, status: int = 0, seconds: float = 300) -> str:
        done = subprocess.run(
            words, cwd=self.folder, env=self.environment, capture_output=True, text=True,
            timeout=seconds, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout


def uv(*words: str, folder: Path) -> None:
    """Run uv with pip's sources and no project's settings, or skip where it reaches none."""
    if not UV.is_file():
        pytest.skip("there is no uv beside this Python (make setup)")
    links = os.environ.get("UV_FIND_LINKS") or os.environ.get("PIP_FIND_LINKS", "")
    done = subprocess.run(
        [str(UV), "--no-config", *words], cwd=folder, env={**os.environ, "UV_FIND_LINKS": links},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    if done.returncode and any(w in done.stderr for w in ("Failed to fetch", "network", "dns")):
        pytest.skip(f"uv reaches no registry: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


def wheel_in(folder: Path) -> Path:
    """This project's wheel, built there."""
    uv("build", "--quiet", "--out-dir", str(folder), str(ROOT), folder=folder)
    [wheel] = folder.glob("*.whl")
    return wheel


def programs(folder: Path, name: str, *asked: str) -> Path:
    """An environment with these packages; the folder of its programs."""
    uv("venv", "--quiet", "--python", sys.executable, name, folder=folder)
    torch = () if os.environ.get("PIP_FIND_LINKS") else ("--torch-backend", "cpu")
    uv("pip", "install", "--quiet", "--python", name, *torch, *asked, folder=folder)
    return folder / name / "bin"
