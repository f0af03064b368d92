"""The small problem family: left-to-right arithmetic that keeps only the last digit.

A problem is six one-digit numbers joined by ``+``, ``-`` and ``*``, such as ``3+8*4-7+2*5``. It is
evaluated strictly from left to right and after each operation only the last digit is kept (modulo
10, so ``4-7`` gives ``7``). Answered directly it is hard for a small network, worked step by step
it is easy: the gap between zero-shot and one-shot that ICPO lives on.

    worked solution   3+8=1;1*4=4;4-7=7;7+2=9;9*5=5;\\boxed{5}
    direct answer     \\boxed{5}

Make the shipped Parquet files again, byte for byte with the same pyarrow::

    python -m icpo.data.arithmetic --out data/small

Columns, all strings: ``id`` (first 16 hex digits of the SHA-256 of the problem text), ``problem``,
``answer`` (the digit), ``solution`` (null in the held-out set), ``source`` (``arithmetic``). The
solutions of the training set serve only as traces, for the baseline that learns from them.
"""

from __future__ import annotations

import argparse
import hashlib
import random
from collections.abc import Collection, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SOURCE = "arithmetic"
OPERATORS = "+-*"
NUMBERS = 6
PROBLEM_LENGTH = 2 * NUMBERS - 1
FAMILY_SIZE = 10**NUMBERS * len(OPERATORS) ** (NUMBERS - 1)

SEED = 20251026
SET_SIZES = {"train": 2000, "demonstrations": 500, "heldout": 300}

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("problem", pa.string(), nullable=False),
        pa.field("answer", pa.string(), nullable=False),
        pa.field("solution", pa.string(), nullable=True),
        pa.field("source", pa.string(), nullable=False),
    ]
)


def steps(problem: str) -> Iterator[tuple[int, str, int, int]]:
    """Yield each step of a problem as (left, operator, right, last digit of the result).

    Raises ValueError if the text is not a problem of this family.
    """
    digits, operators = problem[0::2], problem[1::2]
    if (
        len(problem) != PROBLEM_LENGTH
        or any(d not in "0123456789" for d in digits)
        or any(o not in OPERATORS for o in operators)
    ):
        raise ValueError(
            f"not {NUMBERS} one-digit numbers joined by {' '.join(OPERATORS)}: {problem!r}"
        )
    left = int(digits[0])
    for operator, digit in zip(operators, digits[1:], strict=True):
        right = int(digit)
        if operator == "+":
            result = (left + right) % 10
        elif operator == "-":
            result = (left - right) % 10
        else:
            result = (left * right) % 10
        yield left, operator, right, result
        left = result


def solve(problem: str) -> int:
    """The answer, 0 to 9. Raises ValueError if the text is not a problem of this family."""
    *_, (_, _, _, result) = steps(problem)
    return result


def direct_answer(problem: str) -> str:
    """The answer alone, in the box that the verifier reads. Raises ValueError as `solve` does."""
    return f"\\boxed{{{solve(problem)}}}"


def worked_solution(problem: str) -> str:
    """Every step, then the boxed answer. Raises ValueError as `solve` does."""
    written = [f"{left}{op}{right}={result};" for left, op, right, result in steps(problem)]
    return "".join(written) + direct_answer(problem)


def bare_prompt(problem: str) -> str:
    """The zero-shot prompt text that the base model was trained on."""
    return f"Q:{problem}\nA:"


def one_shot_prompt(demonstration: str, problem: str) -> str:
    """The prompt text with one worked demonstration, as the base model was trained on it.

    Raises ValueError if the demonstration is not a problem of this family.
    """
    return f"Q:{demonstration}\nA:{worked_solution(demonstration)}\n\n{bare_prompt(problem)}"


def problem_number(number: int) -> str:
    """The problem at a place in the whole family, 0 <= number < FAMILY_SIZE."""
    assert 0 <= number < FAMILY_SIZE
    number, digit = divmod(number, 10)
    text = [str(digit)]
    for _ in range(NUMBERS - 1):
        number, place = divmod(number, 10 * len(OPERATORS))
        operator, digit = divmod(place, 10)
        text += [OPERATORS[operator], str(digit)]
    return "".join(text)


def draw(count: int, seed: int, exclude: Collection[str] = ()) -> list[str]:
    """Draw distinct problems uniformly, none of them in `exclude`; the same seed draws the same.

    Only `random.Random.random` is used, the one method whose sequence Python promises to keep from
    version to version. Raises ValueError if the family does not hold that many.
    """
    taken = set(exclude)
    if count > FAMILY_SIZE - len(taken):
        raise ValueError(f"cannot draw {count} distinct problems out of {FAMILY_SIZE}")
    rng = random.Random(seed)
    drawn: list[str] = []
    while len(drawn) < count:
        problem = problem_number(int(rng.random() * FAMILY_SIZE))
        if problem not in taken:
            taken.add(problem)
            drawn.append(problem)
    return drawn


def problem_id(problem: str) -> str:
    """First 16 hex digits of the SHA-256 of the problem text."""
    return hashlib.sha256(problem.encode()).hexdigest()[:16]


def table(problems: list[str], *, solutions: bool) -> pa.Table:
    """Problems as rows of `SCHEMA`; without solutions that column is null.

    Raises ValueError if one is not a problem of this family.
    """
    return pa.table(
        {
            "id": [problem_id(p) for p in problems],
            "problem": problems,
            "answer": [str(solve(p)) for p in problems],
            "solution": [worked_solution(p) if solutions else None for p in problems],
            "source": [SOURCE] * len(problems),
        },
        schema=SCHEMA,
    )


def problem_sets(seed: int = SEED) -> dict[str, list[str]]:
    """The problems of the three sets by name, disjoint because they are slices of one draw."""
    problems = draw(sum(SET_SIZES.values()), seed)
    sets: dict[str, list[str]] = {}
    for name, size in SET_SIZES.items():
        sets[name], problems = problems[:size], problems[size:]
    return sets


def make_tables(seed: int = SEED) -> dict[str, pa.Table]:
    """The three sets by name as tables of `SCHEMA`; only the held-out set lacks solutions."""
    return {
        name: table(problems, solutions=name != "heldout")
        for name, problems in problem_sets(seed).items()
    }


def main() -> None:
    """Write the three sets as Parquet."""
    parser = argparse.ArgumentParser(description="Write the small problem family as Parquet.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the Parquet files")
    parser.add_argument("--seed", type=int, default=SEED)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, rows in make_tables(arguments.seed).items():
        path = arguments.out / f"{name}.parquet"
        pq.write_table(rows, path)
        print(f"{path}: {rows.num_rows} rows, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
