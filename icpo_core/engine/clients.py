"""The process that speaks for all servers of a run: a thread for the jobs of each, and one event
loop for all that they are asked.

It holds no model. A server whose worker is stopped is asked nothing more; the others go on.
"""

from __future__ import annotations

import os
import sys
import threading
from functools import partial

from icpo_core.common import limits, strays
from icpo_core.engine.calls import Calls
from icpo_core.engine.jobs import handlers
from icpo_core.engine.kinds.server import ServedEngine
from icpo_core.models.folder import load_tokenizer
from icpo_core.workers.environment import without_strays
from icpo_core.workers.jobs import Connect, Done, EngineReady, EngineSettings
from icpo_core.workers.process import Handlers, Parent, Say, serve


def main() -> None:
    """Serve jobs. The one argument is JSON: `EngineSettings`, but for the address."""
    strays.hide()
    os.environ |= without_strays(os.environ)
    settings = EngineSettings.model_validate_json(sys.argv[1])
    limits.raise_open_files()
    tokenizer = load_tokenizer(settings.model)

    def served(address: str, calls: Calls) -> tuple[EngineReady, Handlers]:
        engine = ServedEngine(address, settings.model, settings.engine, settings.lora, calls)
        return EngineReady(policy_version=""), handlers(engine, tokenizer)

    def connect(job: Connect, _say: Say) -> Done:
        calls = Calls()
        parent = Parent(job.socket, calls.cancel)
        build = partial(served, job.address, calls)
        threading.Thread(target=serve, args=[build, parent], name=job.address, daemon=True).start()
        return Done()

    serve(lambda: (EngineReady(policy_version=""), {Connect: connect}))


if __name__ == "__main__":
    main()
