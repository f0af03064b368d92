"""The server that PREFECT_API_URL names, while it is away."""

from __future__ import annotations

import threading
import time

AWAY_SECONDS = 30.0
"""A server that somebody starts again is back by then."""
EVERY_SECONDS = 2.0


def watch_until(over: threading.Event) -> None:
    """Let a run whose server is gone stop soon.

    Prefect's client tries each request again for itself, one after another: of a run that ends
    there are several, and each would wait as long as the first.
    """
    from prefect.settings import PREFECT_API_URL

    api = PREFECT_API_URL.value()
    if api:
        threading.Thread(target=watch, args=(api, over), daemon=True).start()


def watch(
    api: str, over: threading.Event, every: float = EVERY_SECONDS, away: float = AWAY_SECONDS
) -> None:
    """Have no request tried again once a server that answered takes no connection for a while,
    until it is back."""
    import httpx
    from prefect.settings import get_current_settings

    client = get_current_settings().client
    retries, answered = client.max_retries, None
    while not over.wait(every):
        try:
            httpx.get(f"{api}/health", timeout=5.0)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            if answered is not None and time.monotonic() - answered > away:
                client.max_retries = 0
        except httpx.TransportError:  # busy
            continue
        else:
            answered, client.max_retries = time.monotonic(), retries
