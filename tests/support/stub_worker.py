"""Engine and trainer of `stubs` as real worker processes, for tests of what is around them.

A run uses them by `rollout.python` and `update.python`, which name a script that starts this file
in the place of `python -m icpo_core.engine.process` or `-m icpo_core.trainer.process`. `--seconds`
is how long each job takes.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from stubs import SMALL, StubEngine, StubTrainer

from icpo_core.engine.jobs import handlers
from icpo_core.workers.jobs import (
    EngineReady,
    EngineSettings,
    Message,
    Rollout,
    Save,
    TrainerReady,
    TrainerSettings,
    Update,
)
from icpo_core.workers.process import Handler, Handlers, Say, serve


def script(folder: Path, seconds: float = 0.0) -> Path:
    """An "interpreter" whose engine and trainer are the stand-ins."""
    path = folder / f"python-{seconds:g}"
    path.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).resolve()}" {seconds:g} "$@"\n'
    )
    path.chmod(0o755)
    return path


def changes(folder: Path, seconds: float = 0.0) -> list[str]:
    """Overrides that put the stand-ins in a run."""
    path = script(folder, seconds)
    return [f"rollout.python={path}", f"update.python={path}"]


def main() -> None:
    seconds, module, text = float(sys.argv[1]), sys.argv[3], sys.argv[4]

    def say(line: str) -> None:
        print(line, flush=True)

    def slowly(handler: Handler) -> Handler:
        def handle(job: Any, progress: Say) -> Message:
            if isinstance(job, Rollout | Update):
                for step in range(10):
                    progress(step, 10)
                    time.sleep(seconds / 10)
            return handler(job, progress)

        return handle

    def engine() -> tuple[EngineReady, Handlers]:
        # The weights that the stand-in for the trainer makes are no model with a tokenizer.
        # Not AutoTokenizer, which takes seven seconds to import.
        from transformers import PreTrainedTokenizerFast

        settings = EngineSettings.model_validate_json(text)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(SMALL / "base")
        made = StubEngine(settings.model, tokenizer, say, lambda mark: None)
        return EngineReady(policy_version=made.policy_version), handlers(made, tokenizer)

    def trainer() -> tuple[TrainerReady, Handlers]:
        settings = TrainerSettings.model_validate_json(text)
        figures = settings.update.model_dump() | settings.loss.model_dump()
        made = StubTrainer(settings.model, figures, say, lambda mark: None)
        ready = TrainerReady(state_id=made.state_id, ranks=1)
        return ready, {
            Update: lambda job, _: made.update(job),
            Save: lambda job, _: made.save(job),
        }

    def build() -> tuple[Message, Handlers]:
        ready, made = engine() if module == "icpo_core.engine.process" else trainer()
        return ready, {kind: slowly(handler) for kind, handler in made.items()}

    serve(build)


if __name__ == "__main__":
    main()
