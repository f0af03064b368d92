"""The end of a command by a signal: as Ctrl-C ends it, with all given back, and soon.

SIGTERM is what Slurm, Kubernetes and `kill` send; SIGHUP comes from a terminal that closes; SIGUSR1
and SIGUSR2 are the warnings that a job may ask Slurm or SGE for (`sbatch --signal`).
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from icpo_core.workers.scratch import remove_all

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
GRACE_SECONDS = 15.0
"""How long a command may take to give back what it has; Slurm kills 30 s after a SIGTERM."""
FIRST_STATUS = 128
"""Exit status of a command that a signal ended: this, and the signal's number."""


class Signalled(KeyboardInterrupt):
    """Raised in the main thread where a signal finds it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = signal.Signals(number)

    def __str__(self) -> str:
        return f"ended by {self.number.name}"


@contextmanager
def heeded() -> Iterator[None]:
    """Have the body end by `Signalled` when one of the signals comes.

    A second Ctrl-C ends the process at once, and so does the end of the grace. That leaves nothing
    either: workers, judges and server end with this process, in whatever way it does.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # What is ignored stays ignored: SIGHUP under nohup, SIGINT in a shell's background job.
    heard = [one for one in SIGNALS if signal.getsignal(one) is not signal.SIG_IGN]
    end = _End()
    atexit.register(end.deafen)
    before = {one: signal.signal(one, end) for one in heard}
    try:
        yield
    except Exception:
        if end.by is None:
            raise
        # Only what the end has brought about: a server that the signal ended, too, does not answer.
        raise Signalled(end.by) from None
    finally:
        if end.by is None:  # else what comes after this is still part of the end
            for number, handler in before.items():
                signal.signal(number, handler)


class _End:
    """The handler."""

    def __init__(self) -> None:
        self.by: int | None = None
        self._terminals = [one for one in (0, 1, 2) if os.isatty(one)]

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        if self.by is None:
            self.by = number
            late = threading.Timer(GRACE_SECONDS, self._now)
            late.daemon = True
            late.start()
            if number == signal.SIGHUP:
                self._leave_terminal()
            raise Signalled(number)
        if number == signal.SIGINT:
            self._now()

    def deafen(self) -> None:
        """At its own end Python gives signals back to the system: one more Ctrl-C would kill."""
        if self.by is not None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _now(self) -> None:
        assert self.by is not None
        os.write(2, f"icpo: {Signalled(self.by)}; the same command goes on\n".encode())
        remove_all()
        os._exit(FIRST_STATUS + self.by)

    def _leave_terminal(self) -> None:
        """Nothing more can be written to one that is closed."""
        nowhere = os.open(os.devnull, os.O_RDWR)
        for one in self._terminals:
            os.dup2(nowhere, one)
