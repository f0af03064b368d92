"""What inspect itself finds in a log of ours, in an environment of its own.

inspect-ai asks for other versions of our libraries than vLLM does, so it is no part of ours: `uv`
makes an environment that has it and nothing of us. As a script: `inspect_log.py LOG THEIRS` reads
LOG by inspect, writes what it read by inspect to THEIRS, and says in JSON what it found.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

VERSION = "0.3.285"
BEGUN = "inspect is here"


def opened(log: Path, theirs: Path) -> dict[str, Any]:
    """What inspect says of a log of ours. Skips the test where there is no `uv`, or no network."""
    import pytest  # which inspect's environment has not

    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        pytest.skip("uv is not installed, which would make inspect's environment")
    index = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"],
        capture_output=True, text=True, check=False,
    ).stdout.strip() or os.environ.get("PIP_INDEX_URL", "")  # fmt: skip
    command = [uv, "run", "--no-project", "--isolated", "--no-config", "--python", sys.executable]
    command += ["--default-index", index] if index else []
    command += ["--with", f"inspect-ai=={VERSION}", "python", __file__, str(log), str(theirs)]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=clean)
    if BEGUN not in done.stdout:
        pytest.skip(f"no inspect-ai: {done.stderr.strip().splitlines()[-1:]}")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(log: Path, theirs: Path) -> None:
    print(BEGUN, flush=True)
    from inspect_ai.log import list_eval_logs, read_eval_log, write_eval_log

    found = read_eval_log(str(log))
    assert found.samples is not None
    assert found.results is not None
    said = {
        "status": found.status,
        "task": found.eval.task,
        "accuracy": found.results.scores[0].metrics["accuracy"].value,
        "samples": [
            [one.id, one.epoch, one.scores["icpo"].value, one.output.completion,
             one.messages[-1].text] for one in found.samples if one.scores
        ],
        "listed": [one.task for one in list_eval_logs(str(log.parent))],
    }  # fmt: skip
    write_eval_log(found, str(theirs))
    print(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
