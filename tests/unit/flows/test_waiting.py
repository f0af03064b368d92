"""What `icpo train` waits for is said while it waits, and not a word more."""

import io
import threading

import pytest

from icpo.flows.ui import waiting
from icpo.flows.ui.waiting import Waiting, waiting_now
from icpo_core.common.console import Console


class Heard(io.StringIO):
    """Standard error that tells when a line has come."""

    def __init__(self) -> None:
        super().__init__()
        self.lines = threading.Semaphore(0)

    def write(self, text: str) -> int:
        done = super().write(text)
        self.lines.release(text.count("\n"))
        return done


def test_it_says_what_is_waited_for_until_something_else_speaks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waiting, "FIRST_SECONDS", 0.01)
    monkeypatch.setattr(waiting, "PACE_SECONDS", 0.02)
    heard = Heard()
    with Waiting("data [1]", Console(file=heard)) as one:
        assert waiting_now() is one
        assert heard.lines.acquire(timeout=30)
        one.now("engines")
        while "engines" not in heard.getvalue():
            assert heard.lines.acquire(timeout=30)
        one.end()
        said = heard.getvalue()
        assert not one._thread.is_alive()
    assert waiting_now() is None
    assert said == heard.getvalue()
    assert said.startswith("… data [1]\n")


def test_what_fails_at_once_says_nothing_else() -> None:
    heard = Heard()
    with pytest.raises(ValueError, match="x"), Waiting("data", Console(file=heard)):
        raise ValueError("x")
    assert heard.getvalue() == ""
