"""Several acceptable answers in one gold: any of them is right, all of them together are not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icpo_core.grading.golds import acceptable, together
from icpo_core.grading.grade import GradingRules, Question, VerdictStatus, grade
from icpo_core.grading.pool import Judges

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).map(str.strip).filter(bool)


@given(st.lists(TEXT, min_size=2, unique=True))
def test_what_is_put_together_comes_apart(answers: list[str]) -> None:
    assert acceptable(together(answers)) == tuple(answers)


@pytest.mark.parametrize(
    "gold", ["5", "[1, 2]", r"[\sqrt{2}, 2)", '["', '["a" b"]', '["a", 1, "b"]', "(1, 2)", ""]
)
def test_any_other_text_is_one_answer(gold: str) -> None:
    assert acceptable(gold) == (gold,)
    assert together([gold, gold]) == gold


SEVERAL = together(["0", "x", r"\frac{1}{3}"])


@pytest.mark.parametrize("verifier", ["math", "math-verify"])
def test_any_of_several_is_right(verifier: str) -> None:
    right = ["0", "0.0", "x", r"\frac{2}{6}", r"\dfrac13", "0 + 0"]
    wrong = ["0, x", "1", "y", "0, x, \\frac{1}{3}", SEVERAL]
    questions = [Question(SEVERAL, rf"\boxed{{{text}}}") for text in right + wrong]
    with Judges(1, 30.0, 1024, GradingRules(), verifier) as judges:
        verdicts = judges.judge(questions)
    assert [one.status is VerdictStatus.correct for one in verdicts[: len(right)]] == [True] * 6
    if verifier == "math":  # math-verify takes a list for any of its parts
        assert [one.status for one in verdicts[len(right) :]] == [VerdictStatus.wrong] * 5
        for question, verdict in zip(questions, verdicts, strict=True):
            assert grade(question, GradingRules()).status is verdict.status


def test_letters_and_what_must_be_worked_out() -> None:
    letters = GradingRules(extraction="choice")
    found = [grade(Question('["A", "C"]', f"The answer is {one}."), letters) for one in "ABC"]
    assert [one.reward for one in found] == [1.0, 0.0, 1.0]
    worked = GradingRules(evaluated=True)
    assert grade(Question('["156", "x"]', r"\boxed{12 \cdot 13}"), worked).reward == 0.0
    assert grade(Question(r'["156", "12 \\cdot 13"]', r"\boxed{12 \times 13}"), worked).reward == 1


def test_a_gold_too_long_to_parse_beside_one_that_is_not() -> None:
    rules = GradingRules(max_answer_chars=16)
    both = together(["x" * 20, "5"])
    assert grade(Question(both, r"\boxed{5.0}"), rules).status is VerdictStatus.correct
    assert grade(Question("x" * 20, r"\boxed{5.0}"), rules).status is VerdictStatus.error
