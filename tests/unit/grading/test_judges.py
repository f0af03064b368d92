"""The pool of judges: order, limits, replacement, threads, interrupts, what it leaves behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ROOT

from icpo_core.grading.grade import GradingRules, Question, VerdictStatus, grade
from icpo_core.grading.pool import Judges

HANGS = r"\boxed{\int_0^1 x^{x^{x^x}} dx}"
EATS_MEMORY = r"\boxed{(1, 10^{10^{9}}!)}"
RULES = GradingRules()


# One pool for all tests: a start takes seconds, and a pool must bear all of this anyway.
@pytest.fixture(scope="module")
def judges() -> Iterator[Judges]:
    with Judges(2, 1.0, 512, RULES) as pool:
        yield pool


def takes_algebra(n: int) -> Question:
    return Question(f"\\frac{{{n}}}{{2}}", f"\\boxed{{\\frac{{{2 * n}}}{{4}}}}")


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


def gone(pids: list[int], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while any(alive(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(alive(pid) for pid in pids)


STRANGERS: set[int] = set()


@pytest.fixture(scope="module", autouse=True)
def strangers() -> None:
    """What other test files left to this process, as a resource tracker."""
    STRANGERS.update(children(os.getpid()))


def children(pid: int) -> list[int]:
    """The pids of all descendants."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *children(int(child))]
    return [child for child in found if child not in STRANGERS]


def test_what_text_decides_starts_no_process(judges: Judges) -> None:
    before = children(os.getpid())
    found = judges.judge([Question("4", r"\boxed{4}"), Question("4", r"\boxed{5}")])
    assert [verdict.status for verdict in found] == ["correct", "wrong"]
    assert children(os.getpid()) == before


def test_results_come_in_order_whatever_hangs_between(judges: Judges) -> None:
    questions = [takes_algebra(n) for n in range(1, 12)]
    questions[3] = questions[7] = Question("1", HANGS)
    questions[5] = Question("4", "no box")
    started = time.monotonic()
    statuses = [verdict.status for verdict in judges.judge(questions)]
    # Equal pairs are judged once, so one limit passes, and some slack for a busy machine.
    assert time.monotonic() - started < 30
    expected = ["correct"] * 11
    expected[3] = expected[7] = "timeout"
    expected[5] = "no_answer"
    assert statuses == expected


def test_a_timeout_is_no_wrong_answer_and_the_pool_goes_on(judges: Judges) -> None:
    verdict = judges.judge([Question("1", HANGS)])[0]
    assert (verdict.status, verdict.reward, verdict.detail) == ("timeout", 0.0, "over 1 s")
    assert verdict.seconds >= 1.0
    assert judges.judge([takes_algebra(3)])[0].status == "correct"


def test_a_pair_over_the_memory_limit_is_an_error(judges: Judges) -> None:
    first, second = judges.judge([Question("(1,2)", EATS_MEMORY), takes_algebra(3)])
    # On a slow machine the time may be up first.
    assert (first.status, first.detail) in (("error", "over 512 MiB"), ("timeout", "over 1 s"))
    assert second.status == "correct"


def test_each_pair_is_judged_once_and_a_timeout_again(judges: Judges) -> None:
    same = judges.judge([takes_algebra(30)] * 5)
    assert len({verdict.seconds for verdict in same}) == 1
    assert same[0].seconds > 0
    assert judges.judge([takes_algebra(30)])[0].seconds == 0.0
    for _ in range(2):
        assert judges.judge([Question("1", HANGS)])[0].seconds >= 1.0


def test_the_pool_agrees_with_grading_in_this_process(judges: Judges) -> None:
    questions = [
        takes_algebra(5),
        Question("x+1", r"\boxed{1+x}"),
        Question("x+1", r"\boxed{x-1}"),
        Question("(1,2)", r"\boxed{x=1, y=2}"),
        Question("2", "none"),
    ]
    for question, verdict in zip(questions, judges.judge(questions), strict=True):
        alone = grade(question, RULES)
        assert (verdict.status, verdict.extracted, verdict.detail) == (
            alone.status, alone.extracted, alone.detail,
        )  # fmt: skip


def test_a_killed_judge_is_replaced(judges: Judges) -> None:
    judges.judge([takes_algebra(n) for n in range(1, 5)])
    nursery, *pids = sorted(children(os.getpid()))
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    found = judges.judge([takes_algebra(n) for n in range(10, 20)])
    # A judge that dies at work costs its pair a verdict; an idle one nothing.
    assert [v.status for v in found].count(VerdictStatus.correct) >= 8
    assert {v.detail for v in found if v.status != "correct"} <= {"the judge died"}
    assert judges.judge([takes_algebra(30)])[0].status == "correct"
    assert alive(nursery)


def test_a_judge_killed_at_work_costs_one_verdict(judges: Judges) -> None:
    judges.judge([takes_algebra(n) for n in range(40, 44)])
    at_work = sorted(children(os.getpid()))[1:]

    def kill() -> None:
        for pid in at_work:
            os.kill(pid, signal.SIGKILL)

    threading.Timer(0.3, kill).start()
    first, second = judges.judge([Question("11", HANGS), Question("12", HANGS)])
    assert (first.status, first.detail) == ("error", "the judge died")
    assert (second.status, second.detail) == ("error", "the judge died")
    assert judges.judge([takes_algebra(2)])[0].status == "correct"


def test_a_killed_nursery_is_replaced_with_its_judges(judges: Judges) -> None:
    judges.judge([takes_algebra(n) for n in range(1, 5)])
    old = children(os.getpid())
    os.kill(min(old), signal.SIGKILL)
    assert gone(old[1:])  # its judges die with it
    started = time.monotonic()
    found = judges.judge([takes_algebra(n) for n in range(10, 14)])
    assert [verdict.status for verdict in found] == ["correct"] * 4
    assert time.monotonic() - started < 60


def test_a_closed_pool_leaves_nothing_and_starts_again_in_any_thread(judges: Judges) -> None:
    judges.judge([takes_algebra(50), takes_algebra(51)])
    started = children(os.getpid())
    assert len(started) == 3  # a nursery and two judges
    judges.close()
    assert gone(started)
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    found = []

    def work() -> None:
        found.extend(judges.judge([takes_algebra(52), Question("13", HANGS)]))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert [verdict.status for verdict in found] == ["correct", "timeout"]
    assert {number: signal.getsignal(number) for number in signal.valid_signals()} == handlers


def test_threads_share_a_pool(judges: Judges) -> None:
    found: dict[int, list[str]] = {}

    def work(start: int) -> None:
        verdicts = judges.judge([takes_algebra(start + n) for n in range(5)])
        found[start] = [verdict.status for verdict in verdicts]

    threads = [threading.Thread(target=work, args=(start,)) for start in (1, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {start: ["correct"] * 5 for start in (1, 100, 200)}


def test_an_interrupt_leaves_no_stale_finding(
    judges: Judges, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Judges, "_over_limit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            judges.judge([Question("1", HANGS), Question("2", HANGS)])
    found = judges.judge([takes_algebra(3), Question("x", r"\boxed{x+1}")])
    assert [verdict.status for verdict in found] == ["correct", "wrong"]


def test_judges_do_not_outlive_a_killed_run() -> None:
    code = (
        "from icpo_core.grading.pool import *\n"
        "pool = Judges(2, 60.0, 512, GradingRules())\n"
        f"pool.judge([Question('x', '\\\\boxed{{1+x}}'), Question('y', '\\\\boxed{{1+y}}')])\n"
        "print('ready', flush=True)\n"
        f"pool.judge([Question('1', {HANGS!r})])\n"
    )
    run = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    assert run.stdout is not None
    assert run.stdout.readline() == b"ready\n"
    pids = children(run.pid)
    assert len(pids) == 3
    run.kill()
    run.wait()
    run.stdout.close()
    assert gone(pids)


def test_what_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "math_verify.py").write_text("raise ImportError('no math-verify here')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with (
        Judges(1, 1.0, 512, RULES) as pool,
        pytest.raises(RuntimeError, match=r"cannot be started.*no math-verify here"),
    ):
        pool.judge([takes_algebra(3)])


@pytest.mark.parametrize("limits", [(0, 1.0, 512), (1, 0.0, 512), (1, 1.0, 0)])
def test_limits_are_positive(limits: tuple[int, float, int]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Judges(*limits, RULES)
