r"""A task for a real model: additions of two numbers, each with its solution in one line.

    problem   What is 26 + 10?
    solution  26 + 10 = 36. The answer is \boxed{36}.

A small chat model answers in sentences, and is cut before it comes to a box; shown a solved one, it
answers in one line. Every ordered pair of numbers from 2 to 30 is in exactly one of three sets::

    python -m icpo.data.additions --out build/real

writes ``additions-NAME.jsonl`` for ``train``, ``demonstrations`` and ``heldout``.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from pathlib import Path

SEED = 1
NUMBERS = range(2, 31)
SET_SIZES = {"heldout": 200, "demonstrations": 60, "train": 581}


def row(number: int, left: int, right: int) -> dict[str, str]:
    """One problem with answer and solution."""
    total = left + right
    return {
        "id": f"add/{number}",
        "problem": f"What is {left} + {right}?",
        "answer": str(total),
        "solution": f"{left} + {right} = {total}. The answer is \\boxed{{{total}}}.",
        "source": "additions",
    }


def problem_sets(
    seed: int = SEED, row: Callable[[int, int, int], dict[str, str]] = row
) -> dict[str, list[dict[str, str]]]:
    """The rows of each set; the same every time."""
    pairs = [(left, right) for left in NUMBERS for right in NUMBERS]
    random.Random(seed).shuffle(pairs)
    rows = iter([row(number, *pair) for number, pair in enumerate(pairs)])
    return {name: [next(rows) for _ in range(size)] for name, size in SET_SIZES.items()}


def main(task: str, sets: dict[str, list[dict[str, str]]]) -> None:
    """Write a task's three files."""
    parser = argparse.ArgumentParser(description=f"Write the {task} as JSONL.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in sets.items():
        file = out / f"{task}-{name}.jsonl"
        file.write_text("".join(json.dumps(one) + "\n" for one in rows))
        print(f"{file}: {len(rows)} problems")


if __name__ == "__main__":
    main("additions", problem_sets())
