"""How a worker fails."""

from __future__ import annotations


class WorkerError(RuntimeError):
    """A worker died, overran its limit or failed at a job. The message ends with its last words."""


class EndedError(WorkerError):
    """A worker was ended by its own run, or is wanted by one that is ending: no other try."""
