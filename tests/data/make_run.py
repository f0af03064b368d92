"""A small stored run of commit 9696e7e, killed after iteration 2 of 3, and what it came to.

    git checkout 9696e7e && .venv/bin/python make_run.py run-9696e7e.tar.gz

Run in the root of that checkout. The stand-in workers of tests/stubs.py make it. In the archive:

    data/*.parquet   the problem sets; the model is the checkout's data/small/base
    runs/run/        the run, as the kill left it
    expected.json    by tests/stubs.digests, what the same commit made of it when it went on

No path of the machine is in it: the run is made in its own folder with relative paths, and what
names the machine in run.json and lock.json is put otherwise, and sealed again.
"""

from __future__ import annotations

import gzip
import json
import os
import signal
import sys
import tarfile
import tempfile
from pathlib import Path

CHECKOUT = Path.cwd()
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "tests")]
os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import stubs  # noqa: E402

from icpo_core import files  # noqa: E402
from icpo_core.run import Run  # noqa: E402

RUN = Path("runs/run")


def train(on_stage: stubs.Say) -> list[str]:
    """Train the run below the working directory; what was made."""
    config = stubs.configuration(Path(), "run", "model.path=base")
    with stubs.stubbed(Run(config), Path("ledger")) as run:
        return stubs.made(stubs.train(run, on_stage=on_stage))


def killed(mark: str) -> None:
    """Train in a process group of its own, which is killed when it comes to a mark."""
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        train(lambda said: os.killpg(0, signal.SIGKILL) if said == mark else None)
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL


def forget_machine() -> None:
    for path in (RUN / "run.json", RUN / "logs" / "attempt-0001" / "run.json"):
        record = files.read_sealed(path)
        record["attempts"][0] |= {"host": "host", "command": ["make_run.py"], "model": "base"}
        files.write_sealed(path, record)
    owner = json.loads((RUN / "lock.json").read_text())
    (RUN / "lock.json").write_text(json.dumps(owner | {"host": "host"}))


def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = int(entry.mtime)
    return entry


def main() -> None:
    target = Path(sys.argv[1]).resolve()
    with (
        tempfile.TemporaryDirectory() as folder,
        target.open("wb") as sink,
        gzip.GzipFile("", "wb", mtime=0, fileobj=sink) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        os.chdir(folder)
        os.symlink(CHECKOUT / "data" / "small" / "base", "base")
        killed("before prompts 3")
        forget_machine()
        archive.add("data", filter=plain)
        archive.add("runs", filter=plain)
        made = train(lambda said: None)
        assert all(place.startswith("it-0003/") for place in made), made
        ledger = Path("ledger").read_text().splitlines()
        assert [line for line in ledger if "sample" not in line] == ["step 1", "step 2", "step 3"]
        files.write_json(Path("expected.json"), {"made": made, "digests": stubs.digests(RUN)})
        archive.add("expected.json", filter=plain)
        os.chdir(CHECKOUT)


if __name__ == "__main__":
    main()
