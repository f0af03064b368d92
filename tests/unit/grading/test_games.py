r"""Strings that game a verdict, as a policy under training finds them.

`data/games.tsv` holds kind, verdict, gold and answer: ``!`` is refused, ``~`` is wrong (or says too
much) and accepted. Most golds are those of real problems.
"""

from places import TESTS

from icpo_core.grading.grade import Question, TrainingRules
from icpo_core.grading.pool import Judges


def test_strings_that_game_a_verdict_are_refused() -> None:
    lines = (TESTS / "data" / "games.tsv").read_text("utf-8").splitlines()[1:]
    rows = [line.split("\t") for line in lines]
    assert len(rows) > 2000
    assert len({kind for kind, _, _, _ in rows}) >= 18
    assert sum(row[1] == "~" for row in rows) <= len(rows) // 100
    rows = [row for at, row in enumerate(rows) if at % 3 == 0 or row[1] == "~"]  # all take a minute
    questions = [Question(gold, f"\\boxed{{{answer}}}") for _, _, gold, answer in rows]
    with Judges(2, 30.0, 1024, TrainingRules()) as judges:
        found = judges.judge(questions)
    off = [
        (row, verdict.status, verdict.detail)
        for row, verdict in zip(rows, found, strict=True)
        if verdict.status != ("wrong" if row[1] == "!" else "correct")
    ]
    assert off == []
