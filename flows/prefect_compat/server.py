"""`prefect server start`, of a server that does not come to a stop for good.

With SQLite, Prefect's server brings its memory of the automations up to date inside the commit that
changed one, and its event loop waits there for a lock. Every five seconds a task of the same loop
holds that lock while it reads the database: now and then the loop waits for itself, and no request
is answered any more. https://github.com/PrefectHQ/prefect/issues/23055: seen in 3.7.7, mended in
3.8.8, with which vLLM shares no environment. `tests/unit/flows/test_server.py` holds it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


def mend() -> None:
    """Have the memory of automations brought up to date by a task of the loop, after the commit."""
    from prefect.server.events.models import automations
    from prefect.utilities.asyncutils import create_task, run_coro_as_sync

    def outside_the_commit(update: Coroutine[Any, Any, None]) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            run_coro_as_sync(update)
        else:
            create_task(update)

    # Not by assignment: mypy names its error one way with a cache, and another way without.
    setattr(automations, "run_coro_as_sync", outside_the_commit)  # noqa: B010


if __name__ == "__main__":
    from prefect.cli import app

    mend()
    app()
