"""Prefect's console log while a command shows its own progress."""

from __future__ import annotations

import logging

from flows.settings import prepare_process


def quiet_prefect() -> None:
    """Take Prefect's log off this terminal; its API and the Prefect UI still get all of it.

    Comes before anything else of Prefect is imported: it also sets what runs here are made for.
    """
    prepare_process()
    from prefect.logging.configuration import setup_logging

    setup_logging()
    # Its console handler, and the one by which its internals print what they could not send.
    names = ["prefect", *(n for n in logging.root.manager.loggerDict if n.startswith("prefect."))]
    for logger in [logging.root, *map(logging.getLogger, names)]:
        for handler in list(logger.handlers):
            if isinstance(handler, logging.StreamHandler):
                handler.setLevel(logging.CRITICAL + 1)
