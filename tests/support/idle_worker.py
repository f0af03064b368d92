"""Engine and trainer that are up, or are starting, and never come to an end of what they do.

idle_worker.py starting|working -m MODULE SETTINGS
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from icpo_core.workers.jobs import EngineReady, Load, Message, TrainerReady
from icpo_core.workers.process import Handlers, serve

HOUR = 3600.0


def script(folder: Path, state: str) -> Path:
    """An "interpreter" whose engine and trainer are these."""
    path = folder / f"python-{state}"
    path.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).resolve()}" {state} "$@"\n'
    )
    path.chmod(0o755)
    return path


def main() -> None:
    state, module = sys.argv[1], sys.argv[3]

    def build() -> tuple[Message, Handlers]:
        print("here", flush=True)
        if state == "starting":
            time.sleep(HOUR)
        if module == "icpo_core.trainer.process":
            return TrainerReady(state_id="", ranks=1), {}
        return EngineReady(policy_version=""), {Load: work}

    def work(*_: object) -> Message:
        print("at work", flush=True)
        time.sleep(HOUR)
        raise AssertionError

    serve(build)


if __name__ == "__main__":
    main()
