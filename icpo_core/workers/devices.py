"""The accelerators that this process may use, by name, without importing torch."""

from __future__ import annotations

import os
import shutil
import subprocess

VARIABLE = "CUDA_VISIBLE_DEVICES"


def visible() -> list[str]:
    """Ids of the GPUs: those of CUDA_VISIBLE_DEVICES, else all that `nvidia-smi` lists."""
    if (chosen := os.environ.get(VARIABLE)) is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
    return [line.partition(",")[0] for line in query("index")]


def names() -> list[str]:
    """What the GPUs that this process sees are called; all of a machine are taken to be alike."""
    return query("name")[: len(visible())]


def query(*fields: str) -> list[str]:
    """Lines of `nvidia-smi --query-gpu`, a GPU each; none where there is no driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True)
    return [] if done.returncode else [line for line in done.stdout.splitlines() if line.strip()]


def report() -> str:
    """What `nvidia-smi` prints by itself; empty where there is no driver."""
    program = shutil.which("nvidia-smi")
    return subprocess.run([program], capture_output=True, text=True).stdout if program else ""
