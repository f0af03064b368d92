"""Checks: each row that goes, why, and what stays."""

from typing import Any

import pyarrow as pa
import pytest
from places import SMALL
from transformers import AutoTokenizer

from icpo.data.cleaning import (
    Reason,
    clean,
    contradicted,
    damaged,
    foreign,
    incomplete,
    repeated,
    too_long,
    unreadable,
)
from icpo.data.contamination import contaminated, fingerprint
from icpo.data.language import language_of
from icpo.data.mending import damage, mended_gold, mended_text
from icpo.data.recipes import Row
from icpo_core.config import PromptsSection
from icpo_core.grading.grade import GradingRules
from icpo_core.grading.pool import Judges
from icpo_core.method.templates import Template

BASE = SMALL / "base"
LONG = (
    "A train leaves a station at noon with forty passengers, and at each of the next nine stops "
    "three people get off while five others board. How many passengers are on it after that?"
)


@pytest.fixture(scope="module")
def judges():
    with Judges(1, 10.0, 1024, GradingRules()) as pool:
        yield pool


def row(number: int, problem: str | None, answer: str | None = "1", **fields: Any) -> Row:
    return Row(
        number, f"r{number}", problem, answer, fields.pop("solution", None), "test", **fields
    )


def removed(rows: list[Row], *checks) -> dict[str, tuple[str, str]]:
    kept, table = clean(rows, checks)
    gone = {entry["id"]: (entry["reason"], entry["detail"]) for entry in table.to_pylist()}
    assert {row.id for row in kept} | set(gone) == {row.id for row in rows}
    assert len(kept) + table.num_rows == len(rows)
    return gone


def problems(*texts: str) -> pa.Table:
    ids = [f"eval/{at}" for at in range(len(texts))]
    return pa.table({"id": ids, "problem": list(texts), "answer": ["1"] * len(texts)})


def test_what_is_incomplete() -> None:
    rows = [row(1, "p"), row(2, None), row(3, "q", None), row(4, "s", "1", solution="t")]
    assert removed(rows, incomplete(False)) == {"r2": ("no_problem", ""), "r3": ("no_answer", "")}
    assert set(removed(rows, incomplete(True))) == {"r1", "r2", "r3"}
    assert removed(rows, incomplete(True))["r1"] == ("no_solution", "")


def test_the_first_check_that_finds_something_names_the_reason() -> None:
    rows = [row(1, None, None), row(2, "求 1+1 的值", None)]
    found = removed(rows, incomplete(False), foreign("en"))
    assert found == {"r1": ("no_problem", ""), "r2": ("no_answer", "")}


def test_another_language() -> None:
    rows = [
        row(1, "Find the sum of all primes below ten."),
        row(2, "求所有小于十的素数之和。"),
        row(3, "Trouver la somme des nombres premiers qui sont dans la liste."),
        row(4, "Find $\\alpha + \\beta$, где это возможно."),
        row(5, "$x^2 = 4$"),
        row(6, "1 + 1"),
    ]
    assert removed(rows, foreign("en")) == {
        "r2": ("language", "zh"), "r3": ("language", "fr"), "r4": ("language", "ru"),
    }  # fmt: skip
    assert "r2" not in removed(rows, foreign("zh"))


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The angle θ of the triangle is given", "en"),
        ("Let $ABC$ be a triangle", "en"),
        ("Sea $n$ un número. Hallar el valor de la suma", "es"),
        ("Bestimme die Summe der Zahlen, die nicht durch eine der Zahlen teilbar sind", "de"),
        ("三角形の面積を求めよ", "ja"),
        ("[asy] draw((0,0)--(1,1)); [/asy] What is shown?", "en"),
        ("", "en"),
    ],
)
def test_languages(text: str, language: str) -> None:
    assert language_of(text) == language


def test_duplicates_keep_the_first_and_conflicts_go_whole(judges: Judges) -> None:
    rows = [
        row(1, "What is $\\frac12 + \\frac12$?", "1"),
        row(2, "what is  $\\dfrac{1}{2}+\\frac{1}{2}$ ?", "1.0"),
        row(3, "How many?", "3"),
        row(4, "How many?", "4"),
        row(5, "HOW MANY", "3"),
        row(6, "Half of one?", "\\frac{1}{2}"),
        row(7, "half of one", "0.5"),
        row(8, "Another", "1"),
    ]
    found = removed(rows, repeated(judges))
    assert found["r2"] == ("duplicate", "of r1")
    assert found["r7"] == ("duplicate", "of r6")
    assert {place: found[place][0] for place in ("r3", "r4", "r5")} == dict.fromkeys(
        ("r3", "r4", "r5"), "conflict"
    )
    assert found["r3"][1] == "answers 3, 4 (first at r3)"
    assert set(found) == {"r2", "r3", "r4", "r5", "r7"}


def test_problems_of_an_evaluation_set_in_any_clothes() -> None:
    sets = {"bench": problems(LONG, "What is 7 + 8?")}
    rows = [
        row(1, LONG),
        row(2, LONG.upper().replace(",", " ;")),
        row(3, f"{LONG} Give your answer as a single integer."),
        row(4, LONG.replace("nine", "eight").replace("three", "two")),
        row(5, "What is 7 + 8?"),
        row(6, "What is 7+8 ?"),
        row(7, "What is 7 + 9?"),
        row(8, "A bus leaves a station at noon. How many passengers are on it?"),
    ]
    found = removed(rows, contaminated(sets))
    assert {id_: detail for id_, (_, detail) in found.items()} == {
        "r1": "is eval/0",
        "r2": "is eval/0",
        "r3": "nearly is eval/0",
        "r4": "nearly is eval/0",
        "r5": "is eval/1",
        "r6": "is eval/1",
    }
    assert {reason for reason, _ in found.values()} == {Reason.CONTAMINATION}


def test_known_benchmark_problems_are_found_without_the_benchmark(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("icpo.data.contamination.KNOWN", {fingerprint(LONG): "some-benchmark"})
    found = removed([row(1, f"  {LONG.lower()}!"), row(2, "Other")], contaminated({}))
    assert found == {"r1": ("contamination", "is a problem of some-benchmark")}


def test_prompts_over_the_limit_are_counted_as_they_will_be_sent() -> None:
    template = Template(AutoTokenizer.from_pretrained(BASE), PromptsSection(format="raw"))
    short, long = "1+1", "+".join(["1"] * 40)
    (count,) = (len(ids) for ids in template.tokenize([template.render(long)]))
    found = removed([row(1, short), row(2, long)], too_long(template, count - 1))
    assert found == {"r2": ("prompt_length", f"{count} tokens")}
    assert removed([row(1, short), row(2, long)], too_long(template, count)) == {}


def test_gold_that_would_reward_nobody(judges: Judges) -> None:
    readable = [
        "4", "-3.5", r"\frac{1}{2}", "x^2 + 1", "(1, 2)", r"\{1, 2, 3\}", "x > 1", "k \\geqslant 2",
        r"(-\infty, 3]", r"\text{Monday}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", "62.5%",
        r"m c^{2} (\gamma^{2}-1)", r"f(x) = 2x", r"1 \pm \sqrt{2}", r"30^\circ", "12_8", "A",
    ]  # fmt: skip
    unreadable_ones = {
        "...": "no letter and no digit",
        "the set of all points that lie strictly inside both of the given circles": "12 words",
        r"\frac{1}{": "judged",
        "x+" * 1_500 + "x": "judged error: gold answer of 3001 characters",
    }
    texts = [*readable, *unreadable_ones]
    rows = [row(at, "p", text) for at, text in enumerate(texts, 1)]
    found = removed(rows, unreadable(judges))
    assert {texts[int(id_[1:]) - 1] for id_ in found} == set(unreadable_ones)
    for id_, (reason, detail) in found.items():
        assert reason == Reason.UNREADABLE_GOLD
        assert unreadable_ones[texts[int(id_[1:]) - 1]] in detail


# What a backslash, a browser and a spreadsheet leave of an answer.
MENDED = {
    "\frac{1}{2}": r"\frac{1}{2}", "\tfrac12": r"\tfrac12", "5\times 2": r"5\times 2",
    "\t\text{cm} 5": r"\text{cm} 5", "x\neq 2": r"x\neq 2", "\rho": r"\rho", "\beta": r"\beta",
    "\varphi": r"\varphi", "<b>5</b>": "5", "3<sup>2</sup>": "3^{2}", "x<sub>1</sub>": "x_{1}",
    "a &lt; 2": "a < 2", "<p class='a'>7</p>": "7", "#### 5": "5", "The final answer is: 5": "5",
    "Answer: 12": "12", "5\\\\": "5", "1.234,56": "1234.56",
}  # fmt: skip
AS_THEY_ARE = (
    "5", r"\frac12", "x<5", "1<x<2", "a<b>c", r"\boxed{5}", "$5$", "5%", "1,234", "1.234", "5 or 6",
    r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"(0, 1]", r"\{1, 2\}", r"\text{Yes}", "no solution",
)  # fmt: skip
DAMAGED = {
    r"\frac{1}{2": "a brace is not closed", r"5 \text{cm": "a brace is not closed",
    "2}": "a brace is not opened", r"\left(1,2": r"\left without \right", "90^": "cut short",
    r"x_": "cut short", "5\\": "cut short", "see proof": "words", "Proof omitted.": "words",
    "See the solution above": "words", "answers may vary": "words",
    "60^\textcirc": "control character",
    "(A)": "the letter A", "B": "the letter B", "x": "the letter x",
}  # fmt: skip
SHOP = "A shop sells 19 red boxes, and every box holds 29 pencils. How many are there?"


def test_damaged_golds_are_mended_or_named() -> None:
    for gold, whole in MENDED.items():
        found, done = mended_gold(gold)
        assert (found, len(done)) == (whole, 1), gold
        assert damage(found, SHOP) is None
    for gold in AS_THEY_ARE:
        assert mended_gold(gold) == (gold, [])
        assert damage(gold, SHOP) is None, gold
    for gold, why in DAMAGED.items():
        assert why in (damage(mended_gold(gold)[0], SHOP) or ""), gold


@pytest.mark.parametrize(
    ("letter", "problem"),
    [
        ("A", "Which? (A) 5 (B) 6"), ("B", "Find the point $B$ at which they meet."),
        ("x", "Solve $y = x$ for y."), ("E", "Which letter is the 5th?"), ("C", "A. 1 B. 2 C. 3"),
        ("e", "What is the limit of $(1+1/n)^n$?"), ("A", "What stands 100th in ABCABC?"),
    ],
)  # fmt: skip
def test_a_letter_that_the_problem_names_is_an_answer(letter: str, problem: str) -> None:
    assert damage(letter, problem) is None


def test_lost_backslashes_in_prose_and_nothing_else() -> None:
    text = "Write it as $\frac{m}{n}$,\nto be\tthe fi\x0cve, $5\times 2$"
    found, done = mended_text(text)
    assert found == "Write it as $\\frac{m}{n}$,\nto be\tthe five, $5\\times 2$"
    assert done == ["lost backslash", "control character"]
    plain = "A line\nends\there\r\n\nthe next\neq. (1)"
    assert mended_text(plain) == (plain, [])


def test_of_several_answers_the_damaged_go() -> None:
    rows = [row(1, SHOP, '["5", "see proof"]'), row(2, SHOP, '["A proof", "90^"]'), row(3, SHOP)]
    assert set(removed(rows, damaged)) == {"r2"}
    assert [one.answer for one in rows] == ["5", '["A proof", "90^"]', "1"]


def test_solutions_that_end_in_another_answer_go(judges: Judges) -> None:
    endings = {
        r"So $\boxed{12}$.": True, r"So $\boxed{12.0}$.": True, "It is.\n#### 12": True,
        "Hence the answer is $12$.": True, r"<think>13</think> \boxed{12}": True,
        r"First \boxed{7}, and then \boxed{\frac{24}{2}}": True, "We see it.": True,
        r"So $\boxed{13}$.": False, "It is.\n#### 21": False, "The answer is 13.": False,
        r"<think>\boxed{12}</think> \boxed{-12}": False, r"<think> so \boxed{12}": False,
    }  # fmt: skip
    rows = [row(at, SHOP, "12", solution=text) for at, text in enumerate(endings, 1)]
    unjudged: list[str] = []
    found = removed(rows, contradicted(judges, unjudged))
    assert [f"r{at}" not in found for at in range(1, 13)] == list(endings.values())
    assert unjudged == ["r7"]
    assert found["r8"] == ("wrong_solution", "it ends in 13, and the gold answer is 12")
    # Of several right answers the solution needs one; a gold read off the solution is its own.
    several = [
        row(1, SHOP, '["13", "12"]', solution=r"\boxed{12}"),
        row(2, SHOP, "1", solution=r"\boxed{2}", stated=False),
    ]
    assert removed(several, contradicted(judges, [])) == {}
