"""`code`: programs by tests, and forty that would rather not be tested."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from places import DEMO

from icpo_core.config import load, slice_of
from icpo_core.grading.grade import GradingRules, Question, Verdict
from icpo_core.grading.pool import Judges
from icpo_core.grading.verifiers.code import same_output
from icpo_core.method.verdicts import judging

APPS = {"inputs": ["1 2\n", ["3", "4"]], "outputs": ["3\n", ["7"]]}
CALLED = {"input_output": json.dumps({"fn_name": "pair", "inputs": [[1, 2]], "outputs": [[2, 1]]})}
HUMAN_EVAL = {
    "prompt": "from typing import List\n\ndef total(xs: List[int]) -> int:\n",
    "entry_point": "total",
    "test": "def check(candidate):\n    assert candidate([1, 2]) == 3\n    assert total([]) == 0\n",
}
MBPP = {
    "test_setup_code": "import math",
    "test_list": [
        "assert double(3) == 6", "assert double(10) == 20", "assert math.isclose(double(1.5), 3)",
        "assert double('ab') == 'abab'",
    ],
}  # fmt: skip

HOSTILE = {
    "fork bomb": "import os\nwhile True: os.fork()",
    "fork bomb in a call": "import os\ndef double(n):\n    while True: os.fork()",
    "exit at once": "import os\nos._exit(0)",
    "exit in a call": "import os\ndef double(n): os._exit(0)",
    "sys.exit in a call": "import sys\ndef double(n): sys.exit(0)",
    "sys.exit in atexit": "import atexit, sys\natexit.register(sys.exit, 0)\ndouble = 1",
    "interrupt": "def double(n): raise KeyboardInterrupt",
    "equal to all": "class E:\n    __eq__ = lambda s, o: True\n    __hash__ = None\n"
    "def double(n): return E()",
    "an int equal to all": "class E(int):\n    __eq__ = lambda s, o: True\n"
    "def double(n): return E(1)",
    "a text equal to all": "class E(str):\n    __eq__ = lambda s, o: True\n"
    "def double(n): return E('x')",
    "a list equal to all": "class E(list):\n    __eq__ = lambda s, o: True\n"
    "def double(n): return E()",
    "nothing is an error": "import builtins\nclass A(Exception): pass\n"
    "builtins.AssertionError = A\ndef double(n): return 0",
    "no assertion": "import builtins\nbuiltins.compile = lambda *a, **k: (lambda: 0).__code__\n"
    "def double(n): return 0",
    "literals patched": "import ast\nast.literal_eval = lambda text: (1,)\ndef double(n): return 2",
    "math patched": "import math\nmath.isclose = lambda *a, **k: True\ndef double(n): return 0",
    "json patched": "import json\nold = json.dumps\n"
    "json.dumps = lambda v: old({'passed': 4, 'why': ''})\ndef double(n): return 0",
    "a forged result": "import os\nos.write(3, b'{\"passed\": 4, \"why\": \"\"}\\n' * 9)\n"
    "def double(n): return 0",
    "forged to everyone": "import os\nfor fd in range(64):\n    try:\n"
    "        os.write(fd, b'{\"passed\": 4}\\n')\n"
    "    except OSError: pass\ndef double(n): return 0",
    "nested for ever": "import os\nos.write(3, b'[' * 200000 + b'\\n')\ndef double(n): return 0",
    "no newline": "import os\nos.write(3, b'x' * 5000000)\ndef double(n): return 0",
    "closed": "import os\nos.close(3)\ndef double(n): return 0",
    "the tests in memory": "import gc\ndef double(n):\n"
    "    values = [v for o in gc.get_objects() if isinstance(o, dict) for v in o.values()]\n"
    "    found = [v for v in values if isinstance(v, str) and 'double(' + '3) == 6' in v]\n"
    "    return 2 * n if found else 0",
    "the tests on the stack": "import inspect\ndef double(n):\n"
    "    seen = ''.join(repr(f.frame.f_locals) for f in inspect.stack(0))\n"
    "    return 2 * n if 'double(3) == 6' in seen else 0",
    "the tests in its parent": "import os\ndef double(n):\n"
    "    return 2 * n if open(f'/proc/{os.getppid()}/mem', 'rb') else 0",
    "the tests on disk": "import glob\ndef double(n): return 2 * n if glob.glob('/**') else 0",
    "itself in memory": "def double(n): return 2 * n if open('/proc/self/mem', 'rb') else 0",
    "prints for ever": "while True: print('x' * 1000)",
    "prints for ever in a call": "def double(n):\n    while True: print('x' * 1000)",
    "sleeps": "import time\ntime.sleep(1000)",
    "never ends": "def double(n):\n    while True: pass",
    "ignores signals": "import signal\nfor s in (1, 2, 15): signal.signal(s, signal.SIG_IGN)\n"
    "def double(n):\n    while True: pass",
    "eats memory": "def double(n): return len([bytearray(1 << 20) for _ in range(1 << 20)])",
    "a number without end": "def double(n): return 10 ** 10 ** 10",
    "a long answer": "def double(n): return 'x' * (1 << 26)",
    "threads without end": "import threading, time\ndef double(n):\n"
    "    while True: threading.Thread(target=time.sleep, args=(9,)).start()",
    "recursion": "import sys\nsys.setrecursionlimit(10**9)\ndef double(n): return double(n)",
    "brackets": "x = " + "(" * 100_000,
    "no Python": "def double(n) return",
    "a null pointer": "import ctypes\nctypes.string_at(0)",
    "a shell": "import os\ndef double(n): return 2 * n if os.system('true') == 0 else 0",
    "a subprocess": "import subprocess\ndef double(n):\n"
    "    return 2 * n if subprocess.run(['true']) else 0",
    "libc's fork": "import ctypes\ndef double(n):\n"
    "    return 2 * n if ctypes.pythonapi.fork() >= 0 else 0",
    "a process": "import multiprocessing as m\ndef double(n):\n"
    "    p = m.Process(target=print); p.start(); return 2 * n",
    "kills its parent": "import os\nos.kill(os.getppid(), 9)\ndef double(n): return 0",
    "kills all": "import os\nos.kill(-1, 9)\ndef double(n): return 0",
    "stops all": "import os\nos.killpg(0, 19)\ndef double(n): return 0",
    "the network": "import socket\ndef double(n):\n"
    "    return 2 * n if socket.create_connection(('127.0.0.1', PORT)) else 0",
    "a page": "import urllib.request\ndef double(n):\n"
    "    return 2 * n if urllib.request.urlopen('http://127.0.0.1:PORT') else 0",
    "a file": "def double(n): return 2 * n if open('PLACE/written', 'w') else 0",
    "a symlink": "import os\ndef double(n): os.symlink('/etc', 'PLACE/link'); return 2 * n",
    "a folder": "import os\ndef double(n): os.mkdir('PLACE/folder'); return 2 * n",
    "removes": "import os\ndef double(n): os.remove('PLACE/precious'); return 2 * n",
    "removes all": "import shutil\ndef double(n): shutil.rmtree('PLACE'); return 2 * n",
    "renames": "import os\ndef double(n): os.rename('PLACE/precious', 'PLACE/mine'); return 2 * n",
    "chmod": "import os\ndef double(n): os.chmod('PLACE/precious', 0); return 2 * n",
}  # fmt: skip

PROBE = """
import ctypes, os, socket, subprocess
libc = ctypes.pythonapi
tried = {
    "open": lambda: open("/etc/passwd"), "listdir": lambda: os.listdir("/"),
    "stat": lambda: os.stat("/etc/passwd"), "fork": os.fork,
    "kill": lambda: os.kill(os.getppid(), 0),
    "kill itself": lambda: os.kill(os.getpid(), 0), "socket": socket.socket,
    "pair": socket.socketpair, "mkdir": lambda: os.mkdir("x"),
    "exec": lambda: os.execv("/bin/sh", ["sh"]),
    "spawn": lambda: subprocess.run(["true"]), "chdir": lambda: os.chdir("/"),
    "memfd": lambda: os.memfd_create("x"), "setuid": lambda: os.setuid(0),
    "nice": lambda: os.nice(1),
    "pipe": os.pipe, "unshare": lambda: libc.unshare(0) and 1 / 0, "chroot": lambda: os.chroot("/"),
    "import": lambda: __import__("wave"), "mount": lambda: libc.mount(0, 0, 0, 0, 0) and 1 / 0,
}
for name, do in tried.items():
    try:
        do()
    except BaseException:
        continue
    print("could", name)
print("tried", len(tried))
"""


def asked(program: str, extra: Any) -> Question:
    return Question("", f"Thus:\n\n```python\n{program}\n```\n", False, {"extra": extra})


@pytest.fixture(scope="module")
def judge() -> Iterator[Callable[..., list[Verdict]]]:
    with Judges(2, 2.5, 512, GradingRules(), "code") as judges:
        yield lambda *questions: judges.judge(questions)


def statuses(found: list[Verdict]) -> list[str]:
    return [str(one.status) for one in found]


def test_right_and_wrong_by_the_tests_of_the_data_set(judge: Callable[..., list[Verdict]]) -> None:
    sums = "a, b = map(int, open(0).read().split())\nprint(a + b)"
    main = "import sys\ndef main():\n    print(sum(map(int, sys.stdin.read().split())))\nmain()"
    in_thread = "import threading\nthreading.stack_size(1 << 26)\n" + main.replace(
        "\nmain()", "\nthreading.Thread(target=main).start()"
    )
    solution = "class Solution:\n    def pair(self, a, b): return b, a"
    found = judge(
        asked(sums, APPS), asked(main, APPS), asked(in_thread, APPS), asked(solution, CALLED),
        asked("    return sum(xs)", HUMAN_EVAL), asked("def total(x): return sum(x)", HUMAN_EVAL),
        asked("def double(n): return n + n", MBPP),
    )  # fmt: skip
    assert statuses(found) == ["correct"] * 7, [one.detail for one in found]
    found = judge(
        asked("print(3)", APPS), asked("raise SystemExit", APPS),
        asked("def pair(a, b): return a", CALLED), asked("    return 3", HUMAN_EVAL),
        asked("def double(n): return 2 * int(n)", MBPP),
    )  # fmt: skip
    assert statuses(found) == ["wrong"] * 5
    assert found[0].detail == "1 of 2 tests: another output"
    assert found[3].detail == "0 of 1 tests: AssertionError"
    assert found[4].detail == "2 of 4 tests: AssertionError"


def test_the_last_block_is_the_answer(judge: Callable[..., list[Verdict]]) -> None:
    first, last = (
        "```python\nprint(3)\n```",
        "```\nprint(sum(map(int, open(0).read().split())))\n```",
    )
    row = {"extra": APPS}
    found = judge(
        Question("", f"{first}\nno,\n{last}", False, row),
        Question("", f"<think>{last}</think>\n{first}", False, row),
        Question("", "print(3)", False, row),
        Question("", last, True, row),
        Question("", last, False, {"extra": {"inputs": ["1"], "outputs": []}}),
    )
    assert statuses(found) == ["correct", "wrong", "no_answer", "truncated", "error"]
    assert "column extra has no tests: give inputs and outputs" in found[4].detail


def test_forty_hostile_programs_get_nothing_and_hurt_nothing(
    judge: Callable[..., list[Verdict]], tmp_path: Path
) -> None:
    (tmp_path / "precious").write_text("gold")
    strangers = {pid for pid in descendants(os.getpid()) if "grading" not in words_of(pid)}

    def left() -> list[int]:
        return [pid for pid in descendants(os.getpid()) if pid not in strangers]

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        port = str(server.getsockname()[1])
        programs = {
            name: text.replace("PLACE", str(tmp_path)).replace("PORT", port)
            for name, text in HOSTILE.items()
        }
        found = judge(
            *(asked(text, MBPP) for text in programs.values()),
            *(asked(text, APPS) for text in programs.values()),
        )
        with pytest.raises(BlockingIOError):
            server.accept()
    assert len(HOSTILE) >= 40
    for name, one in zip([*HOSTILE, *HOSTILE], found, strict=True):
        assert (one.status, one.reward) == ("wrong", 0.0), (name, one)
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]
    assert (tmp_path / "precious").read_text() == "gold"
    # The judges are as they were, and nothing is left running but they and their sandboxes.
    assert statuses(judge(asked("def double(n): return n + n", MBPP))) == ["correct"]
    end = time.monotonic() + 10  # what was killed is on its way out
    while len(left()) > 5 and time.monotonic() < end:
        time.sleep(0.05)
    assert len(left()) == 5  # a nursery, two judges, two sandboxes


def words_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


def descendants(pid: int) -> list[int]:
    found = []
    with contextlib.suppress(OSError):  # one may end meanwhile
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *descendants(int(child))]
    return found


def test_the_kernel_refuses_what_is_not_computing(judge: Callable[..., list[Verdict]]) -> None:
    [one] = judge(asked(PROBE, {"inputs": [""], "outputs": ["tried 20"]}))
    assert one.status == "correct", one


def test_partial_credit() -> None:
    config = load(DEMO, ["verify.verifier=code", "verify.partial=true", "verify.seconds=2"])
    half = "def double(n): return 2 * n if n < 5 else 0"
    with judging(config.verify, {}) as judges:
        found = judges.judge([
            asked(half, MBPP),
            asked("print(3)", APPS),
            asked("import time\nif input() == '3': time.sleep(99)\nprint(3)", APPS),
            asked("def double(n): return n + n", MBPP),
        ])  # fmt: skip
    assert [one.reward for one in found] == [0.5, 0.5, 0.5, 1.0]
    assert statuses(found) == ["wrong", "wrong", "wrong", "correct"]
    assert slice_of(config.verify)["partial"] is True


@pytest.mark.parametrize(
    ("said", "wanted", "same"),
    [
        ("1 2\n3\n", "1 2\n3", True),
        ("1 2  \r\n3\r\n\n", "1 2\n3\n", True),
        ("0.333333333", "0.33333333", True),
        ("0.34", "0.33", False),
        ("1.0", "1", False),
        ("1\n2", "1 2", False),
        ("", "0", False),
        ("nan", "0.0", False),
        ("12", "1 2", False),
    ],
)
def test_outputs(said: str, wanted: str, same: bool) -> None:
    assert same_output(said, wanted) is same


def test_the_examples_of_hostility_are_programs() -> None:
    """All but those that are none on purpose: a typing mistake would pass for a refusal."""
    for name, text in HOSTILE.items():
        if name not in ("brackets", "no Python"):
            compile(textwrap.dedent(text), name, "exec")
