"""Near misses of real gold answers are wrong: `tests/support/mutations.py` makes them."""

import json
import random

import pytest
from mutations import KINDS, near_misses
from places import REAL

from icpo_core.grading.grade import GradingRules, Question
from icpo_core.grading.pool import Judges

GOLDS = 70


def golds() -> list[str]:
    """The gold answers of the real data that are no plain integers: those are the easy ones."""
    found: dict[str, None] = {}
    for path in sorted(REAL.glob("*.jsonl")):
        for line in path.open(encoding="utf-8"):
            answer = (json.loads(line).get("answer") or "").strip()
            if answer and not answer.lstrip("-").isdigit():
                found[answer] = None
    return list(found)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real data (../shared) is not here")
def test_near_misses_of_real_gold_answers_are_wrong() -> None:
    sample = random.Random(17).sample(golds(), GOLDS)
    misses = [(gold, kind, text) for gold in sample for kind, text in near_misses(gold, 17)]
    assert len(misses) > 15 * GOLDS
    assert {kind for _, kind, _ in misses} == set(KINDS)
    questions = [Question(gold, f"\\boxed{{{text}}}") for gold, _, text in misses]
    with Judges(2, 30.0, 2048, GradingRules()) as judges:
        found = judges.judge(questions)
    accepted = [miss for miss, one in zip(misses, found, strict=True) if one.status != "wrong"]
    assert len(accepted) <= len(misses) / 1000, accepted


def test_a_near_miss_is_another_text() -> None:
    for gold in ("12", r"\frac{3}{4}", "(1, 2)", "[0, 1)", "x + 1", "2.5", r"5 \text{ cm}"):
        misses = near_misses(gold, 1)
        assert misses == near_misses(gold, 1)
        assert len(misses) > 5
        assert gold not in [text for _, text in misses]
