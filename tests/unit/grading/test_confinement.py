"""Judges are confined by the kernel: it refuses what no audit hook sees, calls of native code."""

import os
from pathlib import Path

import pytest

from icpo_core.capacity import doctor
from icpo_core.grading import confinement
from icpo_core.grading.grade import GradingRules, Question, Verdict
from icpo_core.grading.pool import Judges

MINE = """
import ctypes, os, threading

libc = ctypes.CDLL(None, use_errno=True)
here = os.path.dirname(__file__)
path = lambda name: os.path.join(here, name).encode()

def thread():
    one = threading.Thread(target=int)
    one.start()
    one.join()
    return 0

DO = {
    "write": lambda: libc.open(path("made"), 0o101, 0o600),
    "append": lambda: libc.open(path("there"), 0o2001),
    "truncate": lambda: libc.truncate(path("there"), 0),
    "chmod": lambda: libc.chmod(path("there"), 0o777),
    "chown": lambda: libc.chown(path("there"), 1, 1),
    "times": lambda: libc.utimes(path("there"), None),
    "xattr": lambda: libc.setxattr(path("there"), b"user.x", b"1", 1, 0),
    "remove": lambda: libc.unlink(path("there")),
    "rename": lambda: libc.rename(path("there"), path("away")),
    "folder": lambda: libc.mkdir(path("folder"), 0o700),
    "link": lambda: libc.symlink(b"/etc", path("link")),
    "pipe": lambda: libc.mkfifo(path("pipe"), 0o600),
    "tcp": lambda: libc.socket(2, 1, 0), "udp": lambda: libc.socket(2, 2, 0),
    "unix": lambda: libc.socket(1, 1, 0), "netlink": lambda: libc.socket(16, 3, 0),
    "ring": lambda: libc.syscall(425, 4, None),
    "fork": lambda: libc.fork(), "run": lambda: -bool(libc.system(b"true")),
    "exec": lambda: libc.execl(b"/bin/true", b"true", None),
    "kill": lambda: libc.kill(os.getppid(), 0),
    "trace": lambda: libc.ptrace(16, os.getppid(), 0, 0),
    "space": lambda: libc.unshare(0x10000000), "name": lambda: libc.sethostname(b"x", 1),
    "thread": thread, "read": lambda: libc.open(path("there"), 0),
    "null": lambda: libc.open(b"/dev/null", 1),
}

def does(response, answer, row):
    return 1.0 if DO[response]() >= 0 else 0.0
"""
ALLOWED = {"thread", "read", "null"}
needs_all = pytest.mark.skipif(
    len(confinement.offered()) < 2, reason="this kernel has no Landlock or no seccomp"
)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "there").write_text("x")
    return tmp_path / "mine.py"


def judged(mine: Path, *words: str, trusted: bool = False) -> list[Verdict]:
    spec = f"{mine}:does"
    with Judges(1, 10.0, 512, GradingRules(), spec, trusted=trusted) as judges:
        return judges.judge([Question("4", word) for word in words])


@needs_all
def test_native_code_is_refused_by_the_kernel(mine: Path) -> None:
    names: dict[str, object] = {}
    exec(MINE, {"__file__": str(mine)}, names)
    words = list(names["DO"])  # type: ignore[call-overload]
    before = sorted(os.listdir(mine.parent)), (mine.parent / "there").stat()
    found = dict(zip(words, judged(mine, *words), strict=True))
    assert {word for word, one in found.items() if one.reward} == ALLOWED
    assert all(one.status in ("correct", "wrong") for one in found.values()), found
    assert (sorted(os.listdir(mine.parent)), (mine.parent / "there").stat()) == before


@needs_all
def test_so_is_what_a_source_does_when_it_is_read(mine: Path) -> None:
    mine.write_text(f"open({str(mine.parent / 'made')!r}, 'w')\n{MINE}")
    with pytest.raises(ValueError, match="PermissionError"):
        judged(mine, "thread")
    assert not (mine.parent / "made").exists()


def test_one_that_is_trusted_may_do_it(mine: Path) -> None:
    assert [one.reward for one in judged(mine, "write", "tcp", "run", trusted=True)] == [1, 1, 1]
    assert (mine.parent / "made").exists()


def test_doctor_says_what_holds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confinement, "offered", lambda: ["Landlock 7", "seccomp"])
    [found] = doctor.check_judges()
    assert (found.level, found.said[:22]) == ("ok", "Landlock 7 and seccomp")
    monkeypatch.setattr(confinement, "offered", lambda: ["seccomp"])
    [found] = doctor.check_judges()
    assert found.level == "note"
    assert "no Landlock" in found.said
