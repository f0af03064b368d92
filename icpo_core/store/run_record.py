"""`run.json`: what a run is, and every attempt at it.

Each attempt's log folder keeps a copy of it, and of the configuration that the attempt gave the
run. What is damaged is read from the newest whole copy, and put back when the run is next opened.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

from icpo_core.common import files, limits
from icpo_core.store import manifest
from icpo_core.store.paths import RunPaths
from icpo_core.store.versions import SCHEMA_MINOR, SCHEMA_VERSION, is_newer


def new(name: str) -> dict[str, Any]:
    """The record of a run that begins now."""
    return {
        "name": name,
        "created": time.time(),
        "schema_version": SCHEMA_VERSION,
        "schema_minor": SCHEMA_MINOR,
        "eras": [],
        "attempts": [],
    }


def read(paths: RunPaths) -> dict[str, Any] | None:
    """The run's record; None of a run that was never opened.

    Raises ValueError as `read_copied`, and for a run of another major version.
    """
    found = read_copied(paths, paths.record)
    if found is not None:
        is_newer(found["schema_version"], found.get("schema_minor", 0), str(paths.record))
    return found


def read_copied(paths: RunPaths, file: Path) -> dict[str, Any] | None:
    """A file of the run's root that attempts keep copies of; None if it was never written.

    Raises ValueError if neither it nor any copy is whole.
    """
    wrong = None
    copies = [folder / file.name for folder in reversed(paths.attempts())]
    for path in [file, *copies]:
        try:
            return files.read_sealed(path)
        except ValueError as error:
            wrong = wrong or (error if path.is_file() else None)
    if wrong is None:
        return None
    raise ValueError(f"{wrong}, and no attempt's copy of it in logs is whole: begin a new run")


def append_attempt(paths: RunPaths, model: str, devices: list[str]) -> int:
    """Write down that this process takes the run; the attempt's number, from 1.

    `model`: the base model. A run that begins from another run's checkpoint is known by it there.
    `devices`: names of the GPUs that it sees.
    """
    record = read(paths) or new(paths.root.name)
    number = len(record["attempts"]) + 1
    folder = Path(model)
    record["attempts"].append(
        {
            "number": number,
            "started": time.time(),
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "machine": {
                "devices": devices,
                "cores": limits.cores(),
                "memory": limits.memory(),
            },
            "command": sys.argv,
            "model": str(folder.resolve()) if folder.is_dir() else model,
            "git": manifest.git(),
            "libraries": manifest.libraries(),
        }
    )
    copy = paths.attempt(number) / paths.record.name
    files.write_sealed(copy, record, durable=False)
    files.write_sealed(paths.record, record)
    return number
