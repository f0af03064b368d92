"""Engine and trainer of `stubs` as real worker processes, for tests of what is around them.

A run uses them by `rollout.python` and `update.python`, which name a script that starts this file
in the place of `python -m icpo_core.engine.vllm` or `-m icpo_core.trainer.process`. `--seconds` is
how long each job takes.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from stubs import SMALL, StubEngine, StubTrainer

from icpo_core.engine.jobs import handlers
from icpo_core.workers.process import Handler, serve


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
    settings = json.loads(text)
    model = Path(settings["model"])

    def say(line: str) -> None:
        print(line, flush=True)

    def slowly(handler: Handler) -> Handler:
        def handle(job: dict[str, Any], progress: Any) -> dict[str, Any]:
            if job["job"] in ("rollout", "update"):
                for step in range(10):
                    progress({"done": step, "all": 10})
                    time.sleep(seconds / 10)
            return handler(job, progress)

        return handle

    def build() -> tuple[dict[str, Any], dict[str, Handler]]:
        if module.startswith("icpo_core.engine"):
            # The weights that the stand-in for the trainer makes are no model with a tokenizer.
            # Not AutoTokenizer, which takes seven seconds to import.
            from transformers import PreTrainedTokenizerFast

            tokenizer = PreTrainedTokenizerFast.from_pretrained(SMALL / "base")
            engine = StubEngine(model, tokenizer, say, lambda mark: None)
            made = handlers(engine, tokenizer)  # type: ignore[arg-type]
        else:
            trainer = StubTrainer(
                model, settings["update"] | settings["loss"], say, lambda mark: None
            )
            made = {
                "update": lambda job, _: trainer.update(job),
                "save": lambda job, _: trainer.save(job),
            }
        return {}, {name: slowly(handler) for name, handler in made.items()}

    serve(build)


if __name__ == "__main__":
    main()
