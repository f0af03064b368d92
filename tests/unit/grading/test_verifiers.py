"""The verifiers that `verify.verifier` names, each in real judge processes."""

from __future__ import annotations

from collections.abc import Iterator

import math_verify
import pytest
from places import DEMO

from icpo_core.common import plugins
from icpo_core.config import load, slice_of
from icpo_core.grading.grade import GradingRules, Question, VerdictStatus, grade
from icpo_core.grading.pool import Judges
from icpo_core.grading.verifiers import PACKAGE, verifier

RULES = GradingRules()


@pytest.fixture(scope="module")
def plain() -> Iterator[Judges]:
    with Judges(1, 30.0, 1024, RULES, "math-verify") as judges:
        yield judges


def test_each_has_what_a_verifier_has() -> None:
    assert plugins.names(PACKAGE) == ["choice", "code", "math", "math-verify", "reasoning-gym"]
    for name in plugins.names(PACKAGE):
        for method in ("prejudge", "compare", "warm_up"):
            assert callable(getattr(verifier(name), method))


RESPONSES = [
    ("1/2", r"so it is $\boxed{0.5}$"),
    (r"\frac{1}{2}", r"The final answer is $\frac{2}{4}$."),
    ("(1, 2)", r"\boxed{(1,2)}"),
    ("5", "I count 5 of them."),
    ("5", r"\boxed{6}"),
    (r"\{1, 2\}", r"\boxed{\{2, 1\}}"),
    ("x = 3", r"\boxed{3}"),
    ("12", r"\boxed{12 \text{ hundred}}"),
    ("7", "I do not know."),
    (r"x^2 + 1", r"hence $\boxed{1 + x^{2}}$"),
]


def test_math_verify_says_what_the_package_says(plain: Judges) -> None:
    found = plain.judge([Question(gold, response) for gold, response in RESPONSES])
    for (gold, response), verdict in zip(RESPONSES, found, strict=True):
        parsed = math_verify.parse(f"${gold}$"), math_verify.parse(response)
        right = math_verify.verify(*parsed)
        assert (verdict.status is VerdictStatus.correct) == right, (gold, response)
        assert verdict.reward == float(right)
        assert (verdict.extracted is None) == (not parsed[1])
    assert found[0].extracted == r"\frac{1}{2}"  # as it tidied it
    assert found[4].extracted == "6"
    assert found[8].status is VerdictStatus.no_answer


def test_math_verify_looks_for_the_answer_itself_after_the_thinking(plain: Judges) -> None:
    questions = [
        Question("5", "the answer is 5"),
        Question("5", r"<think>\boxed{5}</think> The answer is 6."),
        Question("5", r"<think> it is \boxed{5}"),
        Question("5", r"\boxed{5}", truncated=True),
        Question("", r"\boxed{5}"),
        Question("5", "\ud800\0 \\boxed{5}"),
    ]
    statuses = [str(verdict.status) for verdict in plain.judge(questions)]
    assert statuses == ["correct", "wrong", "no_answer", "truncated", "error", "correct"]


def test_whole_responses_are_not_kept_in_memory(plain: Judges) -> None:
    plain.judge([Question("5", "word " * 4000 + r"\boxed{5}"), Question("5", r"\boxed{5}")])
    assert max(pair.length for pair in plain._known) < 1000


def test_choice_reads_letters_whatever_the_rules_say() -> None:
    questions = [
        Question("B", r"\boxed{B}"),
        Question("B", "The answer is (B)."),
        Question("(B)", r"\boxed{\text{(C)}}"),
        Question("B", "none of them"),
        Question("B", r"\boxed{B}", truncated=True),
    ]
    with Judges(1, 1.0, 256, RULES, "choice") as judges:
        found = judges.judge(questions)
        assert judges._nursery is None  # letters take no process
    statuses = [str(verdict.status) for verdict in found]
    assert statuses == ["correct", "correct", "wrong", "no_answer", "truncated"]
    assert [verdict.extracted for verdict in found[:3]] == ["B", "B", "C"]


def test_math_is_what_grade_says() -> None:
    questions = [Question(gold, response) for gold, response in RESPONSES]
    with Judges(1, 30.0, 1024, RULES) as judges:
        found = judges.judge(questions)
    for question, verdict in zip(questions, found, strict=True):
        alone = grade(question, RULES)
        assert (verdict.status, verdict.extracted) == (alone.status, alone.extracted)


def test_the_key() -> None:
    assert "verifier" not in slice_of(load(DEMO).verify)
    changed = load(DEMO, ["verify.verifier=math-verify"]).verify
    assert slice_of(changed)["verifier"] == "math-verify"
    with pytest.raises(ValueError, match=r"verify.verifier: 'maths' is none of .* mean math"):
        load(DEMO, ["verify.verifier=maths"])
    with pytest.raises(ValueError, match=r"'x' is none of .*; your own is written path/to/file.py"):
        load(DEMO, ["verify.verifier=x"])
