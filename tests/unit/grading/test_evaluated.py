r"""An answer must be worked out where the rules ask for it: the problem restated is no answer."""

import json

import pytest
from places import SHARED, TESTS

from icpo_core.grading.answers.evaluated import left_to_do, unevaluated
from icpo_core.grading.grade import GradingRules, Question, TrainingRules, grade

CASES = SHARED / "cases" / "grading"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not here")


@needs_cases
def test_the_problem_restated_is_no_answer_in_training() -> None:
    rows = [json.loads(line) for line in (CASES / "unevaluated.jsonl").read_text().splitlines()]
    assert rows
    for row in rows:
        question = Question(row["gold"], row["response"])
        assert grade(question, TrainingRules()).status == "wrong", row
        assert grade(question, GradingRules()).status == "correct", row


@pytest.mark.parametrize(
    ("gold", "answer", "left"),
    [
        ("41", "11 + 30", "sum"),
        ("41", r"11 + \boxed{30}", "sum"),
        ("41", r"\boxed{11} + \boxed{30}", "sum"),
        ("41", "(50) - (9)", "sum"),
        ("41", "x = 11 + 30", "sum"),
        ("41", "0 + 41", "sum"),
        ("41", r"11 + 30 \text{ apples}", "sum"),
        ("156", r"12 \cdot 13", "product"),
        ("156", "12(13)", "product"),
        ("156", r"12 \times 13", "product"),
        ("156", "12*13", "product"),
        ("156", r"\frac{312}{2}", "quotient"),
        ("156", "312/2", "quotient"),
        ("0.25", r"\frac{0.5}{2}", "quotient"),
        (r"\frac{5}{6}", r"\frac{1}{2} + \frac{1}{3}", "sum"),
        (r"\frac{1}{6}", r"\frac{1}{2} \cdot \frac{1}{3}", "product"),
        (r"\frac{3}{2}", r"1 + \frac{1}{2}", "sum"),
        ("1024", "2^{10}", "power"),
        (r"\frac{1}{8}", "2^{-3}", "power"),
        ("4", r"\sqrt{16}", "root"),
        ("2", r"\sqrt[3]{8}", "root"),
        ("120", "5!", "factorial"),
        ("55", r"\binom{11}{2}", "operation"),
        ("6", r"\gcd(12, 18)", "operation"),
        ("5", "|-5|", "operation"),
        ("5", r"\lfloor 5.3 \rfloor", "operation"),
        ("5050", r"\sum_{k=1}^{100} k", r"\sum"),
        (r"\frac{n(n+1)}{2}", r"\sum_{k=1}^{n} k", r"\sum"),
        ("3", r"\log_{2} 8", "function"),
        (r"\frac{1}{2}", r"\sin(30^\circ)", "function"),
        (r"5\pi", r"2\pi + 3\pi", "sum"),
        (r"\sqrt{41}", r"\sqrt{5^2 + 16}", "power"),
        (r"\sqrt{41}", r"\sqrt{25 + 16}", "sum"),
        (r"5\sqrt{2}", r"(2+3)\sqrt{2}", "sum"),
        ("(5, 4)", "(2 + 3, 4)", "sum"),
        ("1, 2", "1, 4 - 2", "sum"),
        (r"x \ge 41", r"x \ge 11 + 30", "sum"),
        ("2^{10}", "2^{4 + 6}", "sum"),
        ("20", r"10 \cdot 2", "product"),
        ("41", "41 + x - x", "letters"),
        ("5", r"\frac{5x}{x}", "letters"),
        ("x = 41", "2x = 82", "equation"),
        ("41", "x - 30 = 11", "equation"),
        ("41", "11 + 30 = 41", "sum"),
        ("41", "x = 11 + 30 = 41", "sum"),
        ("x = 41", "x = 11 + 30 = 41", "sum"),
        ("156", r"12 \cdot 13 = 156", "product"),
        ("57", r"\gcd(114, 171) = 57", "operation"),
        ("41", "-(-41)", "sum"),
        ("41", "41x^0", "nothing"),
        ("5", r"\sqrt{5}^2", "power"),
        ("5", r"\sqrt{5}\sqrt{5}", "irrational"),
        ("5", "(2+i)(2-i)", "product"),
        ("3+4i", "(2+i)^2", "power"),
        (r"9\pi", r"\frac{18\pi}{2}", "quotient"),
        ("57", "114:2", "quotient"),
        ("5", "|3+4i|", "operation"),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 \\ 1+1 \end{pmatrix}", "sum"),
    ],
)
def test_what_is_left_to_do(gold: str, answer: str, left: str) -> None:
    assert left in unevaluated(gold, answer)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("0.5", r"\frac{1}{2}"),
        ("0.5", "1/2"),
        (r"\frac{1}{2}", r"\frac{2}{4}"),
        (r"2\sqrt{3}", r"\sqrt{12}"),
        (r"2\sqrt{3}", r"2 \cdot \sqrt{3}"),
        (r"\frac{\sqrt{3}}{2}", r"\frac{3}{2\sqrt{3}}"),
        ("x+1", "1 + x"),
        (r"3\pi", r"\pi \cdot 3"),
        ("2^{10}", "2^{10}"),
        ("2^{10}", "4^5"),
        ("5!", "5!"),
        ("120", "120"),
        (r"\frac{7}{2}", r"3\frac{1}{2}"),
        (r"\frac{7}{2}", "3 1/2"),
        ("[1, 2)", r"1 \le x < 2"),
        ("-5", "-5"),
        ("-5", "(-5)"),
        (r"-\frac{1}{2}", r"\frac{-1}{2}"),
        ("1000000", "10^{6}"),
        ("3000000", r"3 \times 10^{6}"),
        ("0.003", "3e-3"),
        ("1,000,000", "1 000 000"),
        (r"25\%", r"25\%"),
        (r"\frac{1}{4}", r"25\%"),
        ("3+4i", "4i + 3"),
        (r"1+\sqrt{5}", r"\sqrt{5} + 1"),
        (r"\frac{1+\sqrt{5}}{2}", r"\frac{1}{2} + \frac{\sqrt{5}}{2}"),
        ("11 + 30", "30 + 11"),
        ("41", "x = 41"),
        ("f(x) = 2x", "f(x) = 2x"),
        ("x = 5", "5"),
        (r"\frac{5}{2}", "5:2"),
        ("2i", "0 + 2i"),
        (r"30^\circ", r"\frac{\pi}{6}"),
        (r"2^{-2/3}", r"\frac{1}{\sqrt[3]{4}}"),
        ("41", r"41 \text{ apples}"),
        ("5 m", "5 m"),
        (r"(-\infty, 2) \cup (3, \infty)", r"x < 2 \text{ or } x > 3"),
        ("y = 2x + 3", "2x - y + 3 = 0"),
        ("(x-3)^2 + (y-4)^2 = 25", "(x-3)^2 + (y-4)^2 = 5^2"),
        (r"\frac{n(n-1)}{2}", r"\frac{n!}{2!(n-2)!}"),
        (r"2 \pm \sqrt{5}", r"2 + \sqrt{5}, 2 - \sqrt{5}"),
        (r"\frac{\pi}{2} - \arctan 2", r"\arctan \frac{1}{2}"),
        ("0.693", r"\ln 2"),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
        ("3:2", "3:2"),
        (r"30^\circ", r"30^{\circ}"),
        ("Yes", "Yes"),
        ("(2,4)", "(x, y) = (2, 4)"),
        ("x > 3", r"\text{all real } x > 3"),
        (r"(3, \infty)", r"\{x : x > 3\}"),
        ("n^2", r"n^2 \text{ for all } n \ge 1"),
        ("5", r"5, \text{ when } x = 2"),
        ("36", r"36 \text{ (since } 6^2 = 36)"),
        ("3, 5", "(1) 3; (2) 5"),
        (r"2 \text{ hours } 30 \text{ minutes}", "2 h 30 min"),
        (r"\text{powers of } 2", "2^k"),
        (r"\frac{2^{100}-1}{3}", r"\frac{1}{3}(4^{50} - 1)"),
        ("2015!", r"2015 \cdot 2014!"),
        (r"n \equiv 1 \pmod 3", "n = 3k + 1"),
    ],
)
def test_what_is_a_number_or_as_short_as_the_gold(gold: str, answer: str) -> None:
    assert unevaluated(gold, answer) == []


def test_every_gold_is_worked_out_as_far_as_itself() -> None:
    lines = (TESTS / "data" / "answers.tsv").read_text("utf-8").splitlines()
    for line in lines[1:]:
        _, _, gold, answer = line.split("\t")
        assert unevaluated(gold, gold) == []
        assert unevaluated(answer, answer) == []


@pytest.mark.parametrize(
    "text", ["", "(((", ")))", "^", "_", "!", r"\frac", "1/0", "0^{0}", "(" * 999]
)
def test_any_text_is_read(text: str) -> None:
    assert isinstance(left_to_do(text), set)


def test_the_detail_says_what_is_left() -> None:
    verdict = grade(Question("156", r"\boxed{12 \cdot 13}"), TrainingRules())
    assert (verdict.status, verdict.detail) == ("wrong", "not worked out: product")
