"""Whether two answers say the same: math-verify, with what it lacks around it.

math-verify's parser reads the expressions and its `verify` has the last word on what neither
structure nor values decide. Around it stands what it gets wrong on hard answers: structure is
read first (`forms`), expressions are compared by value
(`values`), and words, units, names, regions and lists each by their own rule.

Imports sympy and math-verify, so it is imported by judge processes and never by a run's own.
"""

import logging
import re

from latex2sympy2_extended.latex2sympy2 import NormalizationConfig
from math_verify import LatexExtractionConfig, verify
from math_verify import parse as math_verify_parse

from icpo_core.grading.answers import lists
from icpo_core.grading.answers.alternatives import (
    readings,
    renamings,
    same_choice,
    with_gold_names,
    without_choice,
)
from icpo_core.grading.answers.cases import same_cases
from icpo_core.grading.answers.expressions import constant, expression_of
from icpo_core.grading.answers.families import same_family, same_residues
from icpo_core.grading.answers.forms import (
    RELATION,
    ROUNDED,
    Cases,
    Combination,
    Congruence,
    Form,
    Group,
    Matrix,
    Named,
    Ratio,
    Relation,
    Value,
    Words,
    is_bare,
    items_of,
    split,
)
from icpo_core.grading.answers.names import is_name, is_quantity, may_name_one, same_name, squeezed
from icpo_core.grading.answers.notation import tidy
from icpo_core.grading.answers.numerics import UndecidedError
from icpo_core.grading.answers.regions import is_plainly_region, region, same_region
from icpo_core.grading.answers.relations import same_ratios, same_relations
from icpo_core.grading.answers.spoken import same_spoken
from icpo_core.grading.answers.values import are_near, same_value

# math-verify warns once that its own (SIGALRM) limit is off: the limit here is a process's life.
logging.getLogger("math_verify").setLevel(logging.ERROR)

_PLAIN = LatexExtractionConfig(
    normalization_config=NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
    )
)


_DOUBTED = re.compile(r"\?[\s.}$]*$")
_STRUCK = re.compile(r"~~[^~]+~~|\\(?:sout|st|textst)(?![a-z])|<(?:s|del|strike)>")
_ASKED = re.compile(
    r"^\W*(?:text\W*)?(?:what|who|whose|where|why|how"
    r"|(?:is|are|was|does|do|can|could|will|should) (?:it|this|that|the|there|they))\b",
    re.IGNORECASE,
)
_UNREAD = re.compile(r"\\text|\\ldots$|,\s*\\ldots")
"""What math-verify passes over in an answer."""

_FAMILIAR = (
    r"\frac{a+b}{c}", r"\frac{-1+\sqrt{5}}{2}", r"2\sqrt{3}", r"x^{2}-3x+2", r"e^{i\pi/3}",
    r"\sin^{2}x\cos x", r"\log_{10}2-\ln 3", r"\lfloor\frac{n}{2}\rfloor", r"\sum_{k=1}^{n}k^{2}",
    r"|x-1|", r"a_{1}+a_{2}", r"(a+b)(c-d)", r"\frac{n!}{2}", r"10^{-3}", r"\sqrt[3]{4}",
    r"\tan\frac{\alpha}{2}", r"1-\frac{1}{2^{n}}", r"3\pi-4", r"n(n+1)/2", r"-\frac{2}{3}x",
    r"\arctan 2", r"\frac{1}{2}\ln(x+1)", r"2^{n-1}", r"1+2i", r"\cos(2t-\pi/4)", r"x_{0}e^{-t}",
    r"\binom{2n}{n}", r"0.5", r"2 \cdot 3^{4}", r"\left(\frac{1}{2}\right)^{n}",
)  # fmt: skip


def warm_up() -> None:
    """Build what first comparisons build (the grammar's states, caches), to be shared by forks.

    The parser learns its grammar from what it reads: a judge that starts from this saves half a
    second of its first verdicts.
    """
    compare = Comparison(4)
    for expression in _FAMILIAR:
        expression_of(expression)
    for gold, answer in (
        ("x^2 + 1 = 0", r"\sin(2x) = 1"), (r"(1, \infty)", "x > 1"),
        (r"\{1, 2\}", r"1 \text{ and } 2"), (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", "(1, 3)"),
        (r"\gcd(m, n)", r"\gcd(n, m)"),
    ):  # fmt: skip
        compare.judge(gold, answer)


class Comparison:
    """Gold answers against candidates, without any limit on time or memory.

    `significant_digits`: from how many on a decimal counts as an approximation. `undecided` is set
    where only math-verify may tell.
    """

    def __init__(self, significant_digits: int) -> None:
        self.significant_digits = significant_digits
        self.undecided = False

    def judge(self, gold: str, answer: str) -> str | None:
        """Return by which way `answer` is the `gold` answer; None if it is not."""
        for mark in (_DOUBTED, _STRUCK, _ASKED):
            if mark.search(answer) and not mark.search(gold):
                return None
        ours, theirs = tidy(gold), tidy(answer)
        if not ours or not theirs:
            return None
        if squeezed(ours) == squeezed(theirs):
            return "same notation"
        letter = same_choice(gold, answer)
        if letter is not None:
            return "letter" if letter else None
        if self._contradicts(theirs):
            return None
        theirs = with_gold_names(ours, theirs)
        if r"\binom" in ours + theirs:  # the Russian and Chinese C_n^k
            ours, theirs = (
                re.sub(r"(?<![A-Za-z])C\s*_\{?(\w+)\}?\s*\^\{?(\w+)\}?", r"\\binom{\1}{\2}", text)
                for text in (ours, theirs)
            )
        self.undecided = False
        if any(self.equal(a, b) for a, b in readings(ours, theirs)):
            return "equal"
        for renamed in renamings(ours, theirs):
            if any(self.equal(a, b) for a, b in readings(ours, renamed)):
                return "equal but for a parameter's name"
        if any(same_residues(a, b) for a, b in readings(ours, theirs)):
            return "the same residues"
        if r"\mathbb{Z}" in ours + theirs or (r"\pi" in ours and r"\pi" in theirs):
            for lettered in (theirs, *renamings(ours, theirs)):
                if any(same_family(a, b) for a, b in readings(ours, lettered)):
                    return "the same family"
        if self.undecided and not _UNREAD.search(theirs) and _math_verify(ours, theirs):
            return "math-verify"
        chosen = without_choice(answer)
        return self.judge(gold, chosen) if chosen else None

    def equal(self, gold: Form, answer: Form) -> bool:
        """Whether two forms say the same."""
        if gold == answer:
            return True
        if isinstance(gold, Cases) or isinstance(answer, Cases):
            return same_cases(gold, answer, self.equal)
        if isinstance(gold, Group) and gold.opening == ROUNDED:
            return self.equal(gold.items[0], answer)
        if isinstance(answer, Group) and answer.opening == ROUNDED:
            near = are_near(*answer.items)
            return near and any(self.equal(gold, item) for item in answer.items)
        gold, answer = lists.spread(gold, answer), lists.spread(answer, gold)
        if is_plainly_region(gold) or is_plainly_region(answer):
            found = self._regions(gold, answer)
            if found is not None:
                return found
        if isinstance(gold, Words) or isinstance(answer, Words):
            return same_spoken(gold, answer)
        if isinstance(gold, Relation) or isinstance(answer, Relation):
            return same_relations(gold, answer, self._values)
        if is_bare(gold) or is_bare(answer):
            return lists.same_lists(gold, answer, self.equal)
        if isinstance(gold, Named) or isinstance(answer, Named):
            return self._named(gold, answer)
        if isinstance(gold, Matrix) or isinstance(answer, Matrix):
            same = lists.same_matrices(gold, answer, self.equal)
            self.undecided |= same is None
            return bool(same)
        if isinstance(gold, Group) or isinstance(answer, Group):
            return lists.same_groups(gold, answer, self.equal)
        if isinstance(gold, Ratio) or isinstance(answer, Ratio):
            return same_ratios(gold, answer, self._values)
        if isinstance(gold, Congruence) or isinstance(answer, Congruence):
            return same_residues(gold, answer)
        if isinstance(gold, Combination) or isinstance(answer, Combination):
            return lists.same_combinations(gold, answer, self.equal)
        assert isinstance(gold, Value)
        assert isinstance(answer, Value)
        return self._values(gold, answer)

    def _contradicts(self, answer: str) -> bool:
        """Whether an equation says of one name that two numbers are its value: x = 13 = 12."""
        sides, signs = split(answer, RELATION)
        if len(signs) < 2 or set(signs) != {"="}:
            return False
        numbers = [side for side in sides if not is_name(side) and constant(side) is not None]
        pairs = zip(map(Value, numbers), map(Value, numbers[1:]), strict=False)
        return not all(self._values(a, b) or self._values(b, a) for a, b in pairs)

    def _values(self, gold: Value, answer: Value) -> bool:
        try:
            return same_value(gold, answer, self.significant_digits)
        except UndecidedError:
            self.undecided = True
            return False

    def _regions(self, gold: Form, answer: Form) -> bool | None:
        ours, theirs = region(gold, constant), region(answer, constant)
        if ours is None or theirs is None:
            return None
        if not is_plainly_region(gold) and len(ours.pieces) < len(items_of(gold)):
            return None  # points, not intervals
        if ours.variable and theirs.variable and not same_name(ours.variable, theirs.variable):
            return False
        return same_region(ours, theirs, self._same_end, constant)

    def _same_end(self, gold: str, answer: str) -> bool:
        return self._values(Value(gold), Value(answer))

    def _named(self, gold: Form, answer: Form) -> bool:
        if not isinstance(answer, Named):
            assert isinstance(gold, Named)
            return self.equal(gold.value, answer)
        if not isinstance(gold, Named):
            said = lists.in_order(answer.name, answer.value)
            return is_quantity(answer.name) and self.equal(gold, said)
        namesakes = may_name_one(gold.name, answer.name, _has_symbols(gold.value))
        if namesakes and self.equal(gold.value, answer.value):
            return True
        values = (gold.value, answer.value)
        if all(isinstance(value, Value) and not value.unit for value in values):
            return same_relations(gold, answer, self._values)
        return False


def _math_verify(gold: str, answer: str) -> bool:
    """What math-verify says, in its own order of arguments."""
    ours = math_verify_parse(f"${gold}$", [_PLAIN], parsing_timeout=None)
    theirs = math_verify_parse(f"${answer}$", [_PLAIN], parsing_timeout=None)
    return bool(ours and theirs) and bool(verify(ours, theirs, timeout_seconds=None))


def _has_symbols(form: Form) -> bool:
    expression = expression_of(form.tex) if isinstance(form, Value) else None
    return expression is not None and bool(expression.free_symbols)
