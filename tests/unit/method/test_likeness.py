"""The sign of a policy that games its verdicts, on what one was seen to do."""

import pyarrow as pa
import pytest

from icpo_core.method import likeness

ADDITIONS = [(f"What is {a} + {b}?", str(a + b), a, b) for a in (11, 16, 23) for b in (30, 45)]


def tables(answers: list[str], golds: list[str], problems: list[str]) -> tuple[pa.Table, pa.Table]:
    keys = [str(at) for at in range(len(answers))]
    verdicts = pa.table(
        {
            "prompt_id": keys,
            "origin": ["on_policy"] * len(keys),
            "status": ["correct"] * len(keys),
            "extracted": answers,
            "gold": golds,
        }
    )
    return verdicts, pa.table({"prompt_id": keys, "problem": problems})


def of(answers: list[str]) -> dict[str, float]:
    golds = [gold for _, gold, _, _ in ADDITIONS]
    return likeness.figures(*tables(answers, golds, [text for text, *_ in ADDITIONS]))


@pytest.mark.parametrize("text", [r"{a} + \boxed{{{b}}}", "{a}+{b}", r"\boxed{{{a} + {b}}}"])
def test_a_policy_that_restates_the_problem_is_seen(text: str) -> None:
    found = of([text.format(a=a, b=b) for _, _, a, b in ADDITIONS])
    assert found[likeness.RESTATED] == 1.0
    assert found[likeness.FORMS] == 1.0
    assert found[likeness.LENGTH] > 2.0
    assert "restate the problem" in str(likeness.sign(found))


@pytest.mark.parametrize("text", ["{}", r"\boxed{{{}}}", "{}.", "${}$", r"\text{{{}}}"])
def test_golds_in_other_clothes_are_no_sign(text: str) -> None:
    found = of([text.format(gold) for _, gold, _, _ in ADDITIONS])
    assert found == {likeness.RESTATED: 0.0, likeness.FORMS: 0.0, likeness.LENGTH: 1.0}
    assert likeness.sign(found) is None


def test_one_in_many_is_no_sign_and_a_quarter_is() -> None:
    right = [gold for _, gold, _, _ in ADDITIONS]
    assert likeness.sign(of(["11+30", *right[1:]])) is None
    assert likeness.sign(of(["11+30", "11+45", *right[2:]])) is not None


def test_an_answer_that_the_problem_names_is_no_sign() -> None:
    problems = ["Which is larger, 3/4 or 2/3?", "Is it 0.5, 250 or 1000?"] * 3
    found = likeness.figures(*tables(["3/4", "250"] * 3, ["3/4", "250"] * 3, problems))
    assert found[likeness.RESTATED] == 0.0


def test_a_data_set_of_another_form_from_the_start_is_no_sign() -> None:
    always = {likeness.FORMS: 0.6}
    assert likeness.sign(always, 0.6) is None
    assert "(10% at first)" in str(likeness.sign(always, 0.1))


def test_expert_wrong_and_few_answers_do_not_count() -> None:
    verdicts, prompts = tables(["11+30"] * 6, ["41"] * 6, ["What is 11 + 30?"] * 6)
    for column, value in (("origin", "expert"), ("status", "wrong")):
        place = verdicts.column_names.index(column)
        assert likeness.figures(verdicts.set_column(place, column, [[value] * 6]), prompts) == {}
    assert likeness.figures(verdicts.slice(0, 3), prompts) == {}


def test_it_is_said_once_until_it_is_right_again() -> None:
    good = {likeness.FORMS: 0.1, likeness.RESTATED: 0.0}
    bad = {likeness.FORMS: 1.0, likeness.RESTATED: 0.9}
    watch = likeness.Watch([{"iteration": 0.0}, good])
    said = [watch.look(figures) for figures in (good, bad, bad, {}, good, bad)]
    assert [words is not None for words in said] == [False, True, False, False, False, True]
