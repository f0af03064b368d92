r"""Verdicts a second: the pool of judges beside plain serial math-verify and TRL's accuracy reward.

    python -m benchmarks.verification [--rows 16384] [--limit 600] [--json FILE]

The rows: groups of eight responses of about 2,000 characters to one problem. 94.9% answer with a
plain number (six of eight right), 5% are hard forms from tests/data/answers.tsv, right and wrong,
and 0.1% hang math-verify. All three judge the same rows in the same order, each in a process of its
own; serial math-verify (`parse`, `verify` with its own limits) and TRL are stopped after `--limit`
seconds, and their verdicts a second are of the rows judged until then. Memory is the largest
proportional set size of the process and its children. CPU seconds include imports.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import math_verify

from icpo_core.common.console import Console, Table
from icpo_core.config import VerifySection
from icpo_core.grading.grade import Question
from icpo_core.grading.pool import Judges

ROOT = Path(__file__).resolve().parent.parent
GROUP = 8
HARD_SHARE, HANGING_SHARE = 0.05, 0.001
REPORT_ROWS = 16
SENTENCES = (
    "Let us write the equation as $x^2 - {n}x + {m} = 0$ and look at its roots. ",
    "By AM-GM, $\\frac{{a+b}}{{2}} \\ge \\sqrt{{ab}}$, with equality if $a = b = {n}$. ",
    "There are $\\binom{{{n}}}{{2}}$ pairs, and we count {m} of them twice. ",
    "Wait, that is not right: the sum is ${n} + {m}$, so we must go back. ",
    "Hence $\\{{{n}, {m}\\}}$ are the only candidates, and we check both. ",
)
HANGS = (
    r"\int_0^1 x^{x^{x^{%d}}} dx", r"\sum_{k=1}^{10^{%d}} \frac{1}{k}", r"\prod_{k=1}^{10^{%d}} k",
    r"7^{7^{7^{%d}}} \mod 10", r"\binom{10^{%d}}{10^9}", r"2^{2^{%d}} + x",
)  # fmt: skip

Row = dict[str, Any]


def rollouts(count: int, seed: int = 0) -> list[Row]:
    """Rows with `gold`, `response`, `kind` and, but for the hanging ones, whether it is `right`."""
    random_ = random.Random(seed)
    lines = (ROOT / "tests" / "data" / "answers.tsv").read_text("utf-8").splitlines()[1:]
    pairs = [line.split("\t")[1:] for line in lines]
    rows: list[Row] = []
    for _ in range(-(-count // GROUP)):
        gold = random_.choice((random_.randint(1, 60), random_.randint(1, 9_999)))
        for _ in range(GROUP):
            right = random_.random() < 0.75
            wrong = gold + random_.choice((-2, -1, 1, 1, 1, 2, 10, gold))
            rows.append(_row("plain", str(gold), str(gold if right else wrong), right, random_))
    rows = rows[:count]
    places = random_.sample(range(count), round(count * (HARD_SHARE + HANGING_SHARE)))
    hanging = round(count * HANGING_SHARE)
    for at, place in enumerate(places):
        if at < hanging:
            answer = HANGS[at % len(HANGS)] % (11 + at)
            rows[place] = _row("hanging", "3", answer, None, random_)
        else:
            verdict, gold_text, answer = random_.choice(pairs)
            rows[place] = _row("hard", gold_text, answer, verdict != "!", random_)
    return rows


def _row(kind: str, gold: str, answer: str, right: bool | None, random_: random.Random) -> Row:
    text = ""
    while len(text) < 2_000:
        sentence = random_.choice(SENTENCES)
        text += sentence.format(n=random_.randint(2, 99), m=random_.randint(2, 99))
    response = f"{text}The final answer is $\\boxed{{{answer}}}$."
    return {"kind": kind, "gold": gold, "response": response, "right": right}


def ours(rows: list[Row], workers: int, seconds: float, memory_mb: int) -> Iterator[str]:
    questions = [Question(row["gold"], row["response"]) for row in rows]
    with Judges(workers, seconds, memory_mb, VerifySection().rules) as pool:
        yield from (str(verdict.status) for verdict in pool.judge(questions))


def serial_math_verify(rows: list[Row]) -> Iterator[str]:
    for row in rows:
        gold = math_verify.parse(f"${row['gold']}$")
        found = math_verify.parse(row["response"])
        yield "correct" if math_verify.verify(gold, found) else "wrong"


def trl_reward(rows: list[Row]) -> Iterator[str]:
    from trl.rewards import accuracy_reward

    for row in rows:
        (reward,) = accuracy_reward([[{"content": row["response"]}]], [f"${row['gold']}$"])
        yield {None: "skipped", 1.0: "correct", 0.0: "wrong"}[reward]


def child(name: str, arguments: argparse.Namespace) -> None:
    """Judge all rows and say a line of JSON for every few: seconds so far, statuses since.

    Imports are not counted for the two that run here; ours starts its judges within its time.
    """
    rows = json.loads(sys.stdin.read())
    if name == "ours":
        found = ours(rows, arguments.workers, arguments.seconds, arguments.memory_mb)
    elif name == "math-verify":
        found = serial_math_verify(rows)
    else:
        next(trl_reward(rows))
        found = trl_reward(rows)
    started = time.perf_counter()
    statuses: list[str] = []
    for status in found:
        statuses.append(status)
        if len(statuses) == REPORT_ROWS:
            print(json.dumps([time.perf_counter() - started, statuses]), flush=True)
            statuses = []
    print(json.dumps([time.perf_counter() - started, statuses]), flush=True)


def measure(name: str, rows: list[Row], arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one of the three in a process of its own, and stop it at the limit."""
    command = [
        sys.executable, "-m", "benchmarks.verification", "--child", name,
        "--workers", str(arguments.workers), "--seconds", str(arguments.seconds),
        "--memory-mb", str(arguments.memory_mb),
    ]  # fmt: skip
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(rows))
    process.stdin.close()
    peak, over = [0.0], threading.Event()

    def watch() -> None:
        end = time.monotonic() + arguments.limit
        while not over.wait(0.2):
            peak[0] = max(peak[0], _tree_mb(process.pid))
            if time.monotonic() > end:
                process.kill()

    watcher = threading.Thread(target=watch)
    watcher.start()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds, statuses = 0.0, []
    for line in process.stdout:
        seconds, new = json.loads(line)
        statuses += new
    process.wait()
    over.set()
    watcher.join()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    judged = list(zip(rows, statuses, strict=False))
    hard = [(row["right"], status == "correct") for row, status in judged if row["kind"] == "hard"]
    return {
        "rows": len(statuses),
        "whole": len(statuses) == len(rows),
        "seconds": round(seconds, 2),
        "cpu_seconds": round(used, 1),
        "per_second": round(len(statuses) / seconds, 1) if seconds else 0.0,
        "memory_mb": round(peak[0]),
        "statuses": dict(Counter(statuses)),
        "hard_right_accepted": _share([accepted for right, accepted in hard if right]),
        "hard_wrong_accepted": _share([accepted for right, accepted in hard if not right]),
        "plain_judged_right": _share(
            [row["right"] == (s == "correct") for row, s in judged if row["kind"] == "plain"]
        ),
    }


def _share(values: list[bool]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None


def _tree_mb(pid: int) -> float:
    """Proportional set size of a process and its descendants, MiB."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        total = int(rollup.partition("\nPss:")[2].split()[0]) / 1024
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            total += sum(_tree_mb(int(child)) for child in task.read_text().split())
        return total
    except (OSError, IndexError):
        return 0.0  # it has ended meanwhile


def show(found: dict[str, dict[str, Any]], console: Console) -> None:
    table = Table(title=f"responses of 2,000 characters, {os.cpu_count()} cores")
    columns = ("", "rows", "s", "CPU s", "verdicts/s", "ours is", "MiB", "hard right", "hard wrong")
    for column in columns:
        table.add_column(column, justify="left" if not column else "right")
    mine = found["ours"]["per_second"]
    for name, it in found.items():
        rows = f"{it['rows']:,}" + ("" if it["whole"] else " (stopped)")
        ratio = f"{mine / it['per_second']:.1f}x" if it["per_second"] else "-"
        shares = [
            "-" if it[key] is None else f"{it[key]:.1%}"
            for key in ("hard_right_accepted", "hard_wrong_accepted")
        ]
        table.add_row(
            name, rows, f"{it['seconds']:.1f}", f"{it['cpu_seconds']:.1f}",
            f"{it['per_second']:,.0f}", ratio,
            f"{it['memory_mb']:,}", *shares,
        )  # fmt: skip
    console.print(table)
    for name, it in found.items():
        console.print(f"{name}: {it['statuses']}")


def main() -> None:
    defaults = VerifySection()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=16_384)
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for each of the three")
    parser.add_argument("--workers", type=int, default=defaults.workers)
    parser.add_argument(
        "--seconds", type=float, default=defaults.seconds, help="limit of a verdict"
    )
    parser.add_argument("--memory-mb", type=int, default=defaults.memory_mb)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments)
        return
    rows = rollouts(arguments.rows)
    found = {name: measure(name, rows, arguments) for name in ("ours", "math-verify", "trl")}
    show(found, Console())
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
