"""An interpreter for engine or trainer (`rollout.python`, `update.python`) that kills the run.

Started as `python -m icpo_core.engine.process …`, it does what that does, until a point within the
work: the engine in the middle of a shard, the trainer inside the optimizer's step, weights changed
and nothing written. Then it kills its parent, which is the run, and the run's workers die with it.

    dying.py POINT COUNT -m MODULE SETTINGS
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any


def killing(function: Callable[..., Any], count: int) -> Callable[..., Any]:
    """The function, after whose `count`-th call the parent is killed."""
    calls = 0

    def call(*given: Any, **named: Any) -> Any:
        nonlocal calls
        result = function(*given, **named)
        calls += 1
        if calls == count:
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)  # the parent's socket closes, and this process is killed by itself
        return result

    return call


def main() -> None:
    point, count, _, module, settings = sys.argv[1:]
    sys.argv = [module, settings]
    if point == "in a shard":
        from icpo_core.engine import process as engine
        from icpo_core.engine.kinds.vllm import VllmEngine

        sample = VllmEngine.sample

        def dying_sample(self: VllmEngine, requests: Any, *given: Any, **named: Any) -> Any:
            if len(requests) > 8:  # warming up is not sampling
                inner = self.llm.llm_engine
                inner.step = killing(inner.step, int(count))
            return sample(self, requests, *given, **named)

        VllmEngine.sample = dying_sample  # type: ignore[method-assign]
        engine.main()
    else:
        import torch

        from icpo_core.trainer import process as trainer

        torch.optim.AdamW.step = killing(  # type: ignore[method-assign]
            torch.optim.AdamW.step, int(count)
        )
        trainer.main()


if __name__ == "__main__":
    main()
