"""A process with the command line imported, which forks a child for each command.

What a command imports takes two seconds; a child that is forked has it. It is a session of its own,
and ends as `icpo` does.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from places import ROOT


class Forking:
    """Parent's side; a context manager."""

    def __enter__(self) -> Forking:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=ROOT, env={k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"},
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def _ask(self, **question: Any) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def start(
        self,
        words: list[str],
        folder: Path,
        said: str,
        environment: Mapping[str, str | None],
        before: str = "",
    ) -> int:
        """Begin `icpo WORDS` in a folder; its process id. `said`: file or terminal for output.

        A variable that is None is unset. `before`: Python code that the child runs first.
        """
        return self._ask(
            words=words, folder=str(folder), said=said, environment=environment, before=before
        )

    def status(self, pid: int) -> int:
        """Wait for its end; its exit status, negative for a signal that killed it."""
        return self._ask(wait=pid)


def child(job: dict[str, Any]) -> None:
    from icpo.flows.cli import main

    os.setsid()
    out = os.open(job["said"], os.O_RDWR | os.O_CREAT)  # a terminal becomes the session's own
    for number in (0, 1, 2):
        os.dup2(out, number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where tests run under nohup
    for name, value in job["environment"].items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    tempfile.tempdir = None
    os.chdir(job["folder"])
    exec(job["before"])
    sys.argv = ["icpo", *job["words"]]
    main()


def serve() -> None:
    sys.path.insert(0, str(ROOT))
    from transformers import PreTrainedTokenizerFast  # noqa: F401

    import icpo.flows.ui.progress
    import icpo.flows.ui.summary  # noqa: F401

    gc.freeze()
    for line in sys.stdin:
        job = json.loads(line)
        if "wait" in job:
            print(os.waitstatus_to_exitcode(os.waitpid(job["wait"], 0)[1]), flush=True)
        elif pid := os.fork():
            print(pid, flush=True)
        else:
            sys.stdin = open(os.devnull)  # noqa: SIM115
            child(job)
            return


if __name__ == "__main__":
    serve()
