"""What of the environment that a run was started in is for the run's own processes."""

from __future__ import annotations

import os
from collections.abc import Mapping

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def for_workers() -> dict[str, str]:
    """This process's environment as a worker is to have it."""
    return dict(os.environ) | past_proxies(os.environ)


def past_proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """What to add so that this machine's own servers are not asked for through a proxy.

    All other addresses are asked for as the user has set it. Nothing where there is no proxy.
    """
    if not any(environment.get(name) or environment.get(name.upper()) for name in PROXIES):
        return {}
    # One of the two that is not there must not hide the other from whoever looks for both.
    upper, lower = environment.get("NO_PROXY"), environment.get("no_proxy")
    given = {
        "NO_PROXY": upper if upper is not None else lower or "",
        "no_proxy": lower if lower is not None else upper or "",
    }
    return {name: _extended(value) for name, value in given.items()}


def _extended(hosts: str) -> str:
    names = [name.strip() for name in hosts.split(",") if name.strip()]
    if "*" in names:
        return hosts
    return ",".join([*names, *(name for name in LOOPBACK if name not in names)])
