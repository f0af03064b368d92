"""The process of a rollout engine: an engine of whatever kind, which takes jobs."""

from __future__ import annotations

import os
import sys

from icpo_core.common import plugins, strays
from icpo_core.engine.jobs import handlers
from icpo_core.engine.kinds.base import Engine, Request
from icpo_core.models.folder import load_tokenizer
from icpo_core.workers.environment import without_strays
from icpo_core.workers.jobs import EngineReady, EngineSettings
from icpo_core.workers.process import Handlers, serve


def main() -> None:
    """Serve jobs. The one argument is JSON: `EngineSettings`."""
    strays.hide()
    os.environ |= without_strays(os.environ)
    settings = EngineSettings.model_validate_json(sys.argv[1])

    def build() -> tuple[EngineReady, Handlers]:
        start = plugins.resolve(settings.kind, "icpo_core.engine.kinds")
        engine: Engine = start(settings)
        if engine.policy_version:
            # The first calls compile for seconds, for sampling and for scoring alike.
            warm = [Request([engine.eos_ids[0]] * 8, seed) for seed in range(8)]
            engine.sample(warm, 1.0, 8)
            engine.score([request.prompt_ids for request in warm])
        ready = EngineReady(policy_version=engine.policy_version)
        return ready, handlers(engine, load_tokenizer(settings.model))

    serve(build)


if __name__ == "__main__":
    main()
