"""Scratch folders: none outlives its process for longer than to the next start."""

import os
import subprocess
import sys
from pathlib import Path

from icpo_core.workers.scratch import PREFIX, YOUNG_SECONDS, Scratch, sweep

CODE = """
import os, signal
from icpo_core.workers.scratch import Scratch
folder = Scratch()
open(folder.name + "/socket", "w").close()
print(folder.name, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_goes_and_what_is_held_stays(tmp_path: Path) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=False
    )
    left = Path(done.stdout.strip())
    assert left.parent == tmp_path
    assert (left / "socket").exists()
    mine, link, other = Scratch(), tmp_path / f"{PREFIX}link", tmp_path / "other"
    other.mkdir()
    link.symlink_to(other)
    now = left.stat().st_mtime
    assert sweep(tmp_path, now + YOUNG_SECONDS / 2) == []
    assert sweep(tmp_path, now + 2 * YOUNG_SECONDS) == [left]
    assert not left.exists()
    assert other.exists()
    assert Path(mine.name) not in sweep(Path(mine.name).parent, 0.0)
    held = Path(mine.name)
    later = held.stat().st_mtime + 2 * YOUNG_SECONDS
    moved = tmp_path / f"{PREFIX}held"
    held.rename(moved)  # the lock is on the folder, whatever its name
    assert sweep(tmp_path, later) == []
    moved.rename(held)
    mine.cleanup()
    assert not held.exists()
