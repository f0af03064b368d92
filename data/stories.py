r"""A second task for a real model: word problems of one step.

    problem   Eva has 12 coins and finds 9 more. How many coins does Eva have now?
    solution  12 + 9 = 21. The answer is \boxed{21}.

The bare prompt of a small chat model goes on with the story, or asks back; after a few solved ones
it writes the sum. Every ordered pair of numbers from 2 to 30 is in exactly one of three sets::

    python -m icpo.data.stories --out build/real

writes ``stories-NAME.jsonl`` for ``train``, ``demonstrations`` and ``heldout``.
"""

from __future__ import annotations

import random

from icpo.data import additions

SEED = 2
NAMES = ["Tom", "Ann", "Ben", "Eva", "Max", "Lea", "Sam", "Mia"]
THINGS = ["apples", "pens", "books", "coins", "cards", "stamps", "shells", "stones"]
STORIES = [
    "{name} has {left} {things} and finds {right} more. How many {things} does {name} have now?",
    "{name} buys {left} {things} on Monday and {right} on Tuesday. How many {things} is that?",
    "There are {left} {things} in a box and {right} in a bag. How many {things} are there in all?",
    "{name} gives away {left} {things} and keeps {right}. How many {things} were there at first?",
]


def problem_sets() -> dict[str, list[dict[str, str]]]:
    """The rows of each set; the same every time."""
    choose = random.Random(SEED)

    def row(number: int, left: int, right: int) -> dict[str, str]:
        named = {"name": choose.choice(NAMES), "things": choose.choice(THINGS)}
        problem = choose.choice(STORIES).format(left=left, right=right, **named)
        told = {"id": f"story/{number}", "problem": problem, "source": "stories"}
        return additions.row(number, left, right) | told

    return additions.problem_sets(SEED, row)


if __name__ == "__main__":
    additions.main("stories", problem_sets())
