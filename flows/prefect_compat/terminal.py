"""What a command shows on the terminal of what Prefect and the workers have to say."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from icpo.flows.prefect_compat.settings import CONNECT_SECONDS, prepare_process
from icpo.flows.prefect_compat.temporary_server import end_with_this_process

if TYPE_CHECKING:
    import httpx


class ServerError(RuntimeError):
    """The Prefect API is gone or refuses; the message is one line."""


def quiet_prefect() -> None:
    """Take Prefect's log off this terminal; its API and the Prefect UI still get all of it.

    Comes before anything else of Prefect is imported: it also sets what runs here are made for.
    """
    prepare_process()
    from prefect.logging.configuration import setup_logging
    from prefect.settings import PREFECT_API_URL

    setup_logging()
    # Its console handler, and the one by which its internals print what they could not send.
    names = ["prefect", *(n for n in logging.root.manager.loggerDict if n.startswith("prefect."))]
    for logger in [logging.root, *map(logging.getLogger, names)]:
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.setLevel(logging.CRITICAL + 1)
    # What could not be sent to the API would be written here instead.
    logging.raiseExceptions = False
    if not PREFECT_API_URL.value():
        end_with_this_process()
    _leave_sigterm()


def _leave_sigterm() -> None:
    """Let SIGTERM end a flow run as Ctrl-C does (flows/ending.py).

    Prefect has a handler of its own while a flow runs. After it has told its server it sends the
    signal again, to the handler before: too late where the same signal has ended that server.
    """
    from prefect.utilities import engine

    ours = signal.getsignal(signal.SIGTERM)
    if callable(ours):
        engine._prefect_sigterm_handler = ours  # type: ignore[assignment]


def require_answering() -> None:
    """Raises ServerError where nobody listens at the address that PREFECT_API_URL has.

    Needs nothing of Prefect, which would be imported for seconds first. What is asked for through a
    proxy is left to it. Raises ValueError for what is no address.
    """
    api = os.environ.get("PREFECT_API_URL", "")
    place = urlsplit(api)
    if not api:
        return
    if place.scheme not in ("http", "https") or not place.hostname:
        raise ValueError(f"PREFECT_API_URL={api}: is no address, as http://127.0.0.1:4200/api is")
    if place.scheme in getproxies() and not proxy_bypass(place.hostname):
        return
    try:
        port = place.port or (443 if place.scheme == "https" else 80)
        socket.create_connection((place.hostname, port), CONNECT_SECONDS).close()
    except OSError as error:
        raise ServerError(_silent(api, error)) from None


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn what Prefect says of its API and of a flow's parameters into one line. Raises
    ServerError, and ValueError for a parameter."""
    import httpx
    from prefect.exceptions import ParameterTypeError

    try:
        yield
    except ParameterTypeError as error:
        # Behind a title, a line each: " - iteration: Input should be …".
        name, _, words = str(error).splitlines()[1].removeprefix(" - ").partition(": ")
        raise ValueError(f"--{name}: {words[:1].lower()}{words[1:]}") from None
    except httpx.HTTPError as error:
        raise ServerError(_trouble(error)) from None
    except RuntimeError as error:  # Prefect's own, at its first call
        if "ephemeral Prefect API server" in str(error):
            raise ServerError(
                "the embedded Prefect server does not start; `prefect server start` says why"
            ) from None
        if not isinstance(error.__cause__, httpx.HTTPError):
            raise
        raise ServerError(_trouble(error.__cause__)) from None


def _trouble(error: httpx.HTTPError) -> str:
    import httpx
    from prefect.settings import PREFECT_API_URL

    from icpo.flows.prefect_compat.temporary_server import ended

    api = PREFECT_API_URL.value()
    if ended.is_set():
        return "the embedded Prefect server ended, so the run stops; start it again to go on"
    if not isinstance(error, httpx.HTTPStatusError):
        return _silent(api, error)
    if error.response.status_code in (401, 403):
        return f"{api}: the Prefect API wants a password: set PREFECT_API_AUTH_STRING=USER:PASSWORD"
    return (
        f"{api}: the Prefect API answers {error.response.status_code} to {error.request.url.path}"
    )


def _silent(api: str, error: Exception) -> str:
    here = "PREFECT_API_URL" in os.environ
    without = "unset PREFECT_API_URL" if here else "`prefect config unset PREFECT_API_URL`"
    return (
        f"{api}: the Prefect API does not answer ({error}); start it, for example with "
        f"`icpo up`, or {without} to do without"
    )


def one_line(error: Exception) -> str:
    """An error as one line: of a worker's last words, which its log has in full, the very last."""
    first, *rest = str(error).splitlines() or [type(error).__name__]
    words = [line.strip() for line in rest if line.strip()]
    return f"{first} {words[-1]}" if words else first.removesuffix(":")
