"""A process that runs and dies at a given point, for `test_kill`.

Started once, it imports what is slow to import and then forks a child for each run: the child is a
process group of its own, trains with the stand-ins of `stubs`, and kills its whole group (SIGKILL)
when it comes to the given mark. Marks are what the driver and the stand-ins say ("after verify 2",
"mid step") and every change to the file system ("before replace it-0002/verify/manifest.json"),
which is seen by wrapping the few functions of `os` that make one, and every request to its mirror
("after put it-0002/verify/manifest.json"). The product knows none of this.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from places import ROOT

CHANGING = ("replace", "link", "symlink", "unlink", "rmdir", "mkdir")
MIRRORING = ("write", "put", "copy", "remove", "get")


@dataclass(frozen=True)
class Death:
    """How a child ended."""

    killed: bool
    words: str
    """Last line of its error, if it ended with one."""
    marks: list[str]
    """What it came to, if it was asked to say so."""


class Zygote:
    """Parent's side; a context manager."""

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        self._environment = {**os.environ, **(environment or {})}
        self._environment.pop("PYTHONSAFEPATH", None)  # it imports what lies beside it

    def __enter__(self) -> Zygote:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    @property
    def pid(self) -> int:
        return self._process.pid

    def run(
        self,
        folder: Path,
        changes: list[str] | None = None,
        kill: str | None = None,
        count: int = 1,
        record: bool = False,
        rerun: bool = False,
        environment: dict[str, str] | None = None,
    ) -> Death:
        """Train the run `run` below `folder`; die at the `count`-th coming to mark `kill`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        job = {
            "folder": str(folder), "changes": changes or [], "kill": kill, "count": count,
            "record": record, "rerun": rerun, "environment": environment or {},
        }  # fmt: skip
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return Death(**json.loads(self._process.stdout.readline()))


class Marks:
    """Child's side: counts what it comes to, and kills."""

    def __init__(self, job: dict[str, Any], sink: Path) -> None:
        self._kill, self._left, self._sink = job["kill"], job["count"], sink
        self._record = job["record"]

    def __call__(self, mark: str) -> None:
        if self._record:
            with self._sink.open("a") as sink:
                sink.write(mark + "\n")
        if mark == self._kill:
            self._left -= 1
            if not self._left:
                os.killpg(0, signal.SIGKILL)

    def watch(self, root: Path) -> None:
        """Say every change below `root`, before and after it."""
        for name in CHANGING:
            setattr(os, name, self._around(name, getattr(os, name), root))

    def watch_mirror(self) -> None:
        """Say every request to the run's mirror, before and after it."""
        from icpo_core.mirror.object_store import ObjectStore

        for kind in MIRRORING:
            setattr(ObjectStore, kind, self._asked(kind, getattr(ObjectStore, kind)))

    def _asked(self, kind: str, ask: Callable[..., Any]) -> Callable[..., Any]:
        def asked(store: Any, *given: Any) -> Any:
            name = given[-1] if kind == "copy" else given[0]
            self(f"before {kind} {name}")
            result = ask(store, *given)
            self(f"after {kind} {name}")
            return result

        return asked

    def _around(self, name: str, change: Callable[..., Any], root: Path) -> Callable[..., Any]:
        def changed(*paths: Any, **options: Any) -> Any:
            # The last path is the one that comes to be or ceases.
            path = next(os.fspath(one) for one in reversed(paths) if not isinstance(one, int))
            inside = os.path.abspath(path).removeprefix(f"{root}/")
            if inside == os.path.abspath(path):
                return change(*paths, **options)
            self(f"before {name} {inside}")
            result = change(*paths, **options)
            self(f"after {name} {inside}")
            return result

        return changed


def child(job: dict[str, Any]) -> str:
    import stubs

    from icpo_core.run.run import Run

    os.environ.update(job["environment"])
    folder = Path(job["folder"])
    marks = Marks(job, folder / "marks")
    config = stubs.configuration(folder, "run", *job["changes"])
    root = folder / "runs" / "run"
    marks.watch(root)
    marks.watch_mirror()
    try:
        with stubs.stubbed(Run.of(config), folder / "ledger", marks) as session:
            stubs.train(session, job["rerun"], marks)
    except (ValueError, OSError) as error:
        return str(error)
    return ""


def serve() -> None:
    sys.path.insert(0, str(ROOT))
    # All that a run imports on its way; no call that would start a thread before the fork.
    import pandas  # noqa: F401
    import pyarrow.dataset  # noqa: F401
    import stubs
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(stubs.SMALL / "base")
    gc.freeze()  # a collection in a child would copy every page it looks at

    for line in sys.stdin:
        job = json.loads(line)
        marks = Path(job["folder"]) / "marks"
        marks.unlink(missing_ok=True)
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            os.setpgid(0, 0)
            os.write(writing, child(job).encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            words = pipe.read()
        _, status = os.waitpid(pid, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if not killed and os.waitstatus_to_exitcode(status):
            words = f"exit status {os.waitstatus_to_exitcode(status)}"
        said = marks.read_text().splitlines() if marks.is_file() else []
        print(json.dumps({"killed": killed, "words": words, "marks": said}), flush=True)


def train_with_engines(job: dict[str, Any]) -> None:
    """In this process, with the real workers."""
    sys.path.insert(0, str(ROOT))
    import stubs

    from icpo_core.run.run import Run
    from icpo_core.run.session import Session

    folder = Path(job["folder"])
    marks = Marks(job, folder / "marks")
    config = stubs.configuration(folder, "run", *job["changes"])
    marks.watch(folder / "runs" / "run")
    with Session(Run.of(config)) as session:
        stubs.train(session, job["rerun"], marks)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        train_with_engines(json.loads(sys.argv[1]))
    else:
        serve()
