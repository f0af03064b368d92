"""Whether two answers say the same: math-verify, with what it lacks around it.

math-verify's parser reads the expressions and its `verify` has the last word on what neither
structure nor values decide. Around it stands what it gets wrong on hard answers: structure is
read first (`icpo_core.answers.forms`), expressions are compared by value
(`icpo_core.answers.values`), and words, units, names, regions and lists each by their own rule.

Imports sympy and math-verify, so it is imported by judge processes and never by a run's own.
"""

import logging
import re

from latex2sympy2_extended.latex2sympy2 import NormalizationConfig
from math_verify import LatexExtractionConfig, verify
from math_verify import parse as math_verify_parse

from icpo_core.answers import numerics, wording
from icpo_core.answers.alternatives import (
    readings,
    same_choice,
    unworded,
    with_gold_names,
    with_gold_parameters,
)
from icpo_core.answers.families import residues_of, same_family
from icpo_core.answers.forms import (
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
)
from icpo_core.answers.names import is_variable, names_in, plain_name, rename, same_name
from icpo_core.answers.notation import tidy
from icpo_core.answers.numerics import UndecidedError
from icpo_core.answers.regions import is_plainly_region, region, same_region
from icpo_core.answers.values import constant, expression_of, same_value

# math-verify warns once that its own (SIGALRM) limit is off: the limit here is a process's life.
logging.getLogger("math_verify").setLevel(logging.ERROR)

_PLAIN = LatexExtractionConfig(
    normalization_config=NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
    )
)
_MAX_MATCHED = 60
"""Lists longer than this are compared in order only."""


def warm_up() -> None:
    """Build what the first comparison builds (grammar tables, caches), to be shared by forks."""
    pairs = {
        r"\frac{1}{2}": r"x + \sqrt{3}", r"x^2 + 1 = 0": r"\sin(2x) = 1", r"(1, \infty)": "x > 1",
        r"\binom{2n}{n}": r"\lfloor n / 2 \rfloor!", r"\{1, 2\}": r"1 \text{ and } 2",
        r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}": r"\log_2 n", "e^{-x}": r"\pi \cdot 10^{-3}",
    }  # fmt: skip
    for gold, answer in pairs.items():
        Comparison(4).judge(gold, answer)


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
        ours, theirs = tidy(gold), tidy(answer)
        if not ours or not theirs:
            return None
        if re.sub(r"\s", "", ours) == re.sub(r"\s", "", theirs):
            return "same notation"
        letter = same_choice(gold, answer)
        if letter is not None:
            return "letter" if letter else None
        theirs = with_gold_names(ours, theirs)
        if r"\binom" in ours + theirs:  # the Russian and Chinese C_n^k
            ours, theirs = (
                re.sub(r"(?<![A-Za-z])C\s*_\{?(\w+)\}?\s*\^\{?(\w+)\}?", r"\\binom{\1}{\2}", text)
                for text in (ours, theirs)
            )
        self.undecided = False
        if any(self.equal(a, b) for a, b in readings(ours, theirs)):
            return "equal"
        renamed = with_gold_parameters(ours, theirs)
        if renamed != theirs and any(self.equal(a, b) for a, b in readings(ours, renamed)):
            return "equal but for a parameter's name"
        if any(same_family(a, b) for a, b in readings(ours, renamed)) and (
            r"\mathbb{Z}" in ours + theirs or (r"\pi" in ours and r"\pi" in theirs)
        ):
            return "the same family"
        if self.undecided and _math_verify(ours, theirs):
            return "math-verify"
        return None

    def equal(self, gold: Form, answer: Form) -> bool:
        """Whether two forms say the same."""
        if gold == answer:
            return True
        if isinstance(gold, Words) or isinstance(answer, Words):
            return self._words(gold, answer)
        if isinstance(gold, Cases) or isinstance(answer, Cases):
            return self._cases(gold, answer)
        gold, answer = _spread(gold, answer), _spread(answer, gold)
        if is_plainly_region(gold) or is_plainly_region(answer):
            found = self._regions(gold, answer)
            if found is not None:
                return found
        if isinstance(gold, Relation) or isinstance(answer, Relation):
            return self._relations(gold, answer)
        if is_bare(gold) or is_bare(answer):
            return self._lists(gold, answer)
        if isinstance(gold, Named) or isinstance(answer, Named):
            return self._named(gold, answer)
        if isinstance(gold, Matrix) or isinstance(answer, Matrix):
            return self._matrices(gold, answer)
        if isinstance(gold, Group) or isinstance(answer, Group):
            return self._groups(gold, answer)
        if isinstance(gold, Ratio) or isinstance(answer, Ratio):
            return self._ratios(gold, answer)
        if isinstance(gold, Congruence) or isinstance(answer, Congruence):
            return residues_of(gold) is not None and residues_of(gold) == residues_of(answer)
        if isinstance(gold, Combination) or isinstance(answer, Combination):
            return self._combinations(gold, answer)
        assert isinstance(gold, Value)
        assert isinstance(answer, Value)
        return self._values(gold, answer)

    def _values(self, gold: Value, answer: Value) -> bool:
        try:
            return same_value(gold, answer, self.significant_digits)
        except UndecidedError:
            self.undecided = True
            return False

    def _words(self, gold: Form, answer: Form) -> bool:
        if isinstance(gold, Words) and isinstance(answer, Words):
            if wording.same_words(gold.text, answer.text):
                return True
            ours = residues_of(gold)
            return ours is not None and ours == residues_of(answer)
        if isinstance(gold, Words) and wording.is_polar(gold.text) and isinstance(answer, Group):
            # "No, it is impossible" reads as a list of two.
            spoken = [item.text for item in answer.items if isinstance(item, Words)]
            whole = len(spoken) == len(answer.items)
            return whole and wording.same_words(gold.text, " ".join(spoken))
        words, other = (gold, answer) if isinstance(gold, Words) else (answer, gold)
        assert isinstance(words, Words)
        said = wording.meaning(words.text)
        if said == wording.EMPTY:
            return _is_empty(other)
        if said == wording.INFINITE:
            return isinstance(other, Value) and other.tex.strip() == r"\infty"
        if is_plainly_region(words):
            return bool(self._regions(gold, answer))
        powers = re.search(r"\bpowers? of (\d+)$", wording.clean(words.text))
        inner = other.value if isinstance(other, Named) else other
        if powers and isinstance(inner, Value):
            return bool(re.fullmatch(rf"{powers.group(1)}\s*\^\{{\w\}}", inner.tex.strip()))
        if re.search(r"\bconstant (?:function|polynomial|sequence)s?\b", words.text):
            return isinstance(inner, Value) and bool(re.fullmatch("[a-zA-Z]", inner.tex.strip()))
        if isinstance(other, Value) and other.unit:
            return wording.same_words(words.text, f"{other.tex} {other.unit}")
        if isinstance(other, Value):
            # Letters and names: \text{B} against B, "Evelyn" typed as a product of letters.
            return words.text.replace(" ", "").lower() == other.tex.replace(" ", "").lower()
        if isinstance(other, Congruence | Relation | Named):
            ours, theirs = residues_of(gold), residues_of(answer)
            return ours is not None and ours == theirs
        return False

    def _cases(self, gold: Form, answer: Form) -> bool:
        if isinstance(gold, Named):
            gold = gold.value
        if isinstance(answer, Named):
            answer = answer.value
        if not (isinstance(gold, Cases) and isinstance(answer, Cases)):
            return self._cases_in_one(gold, answer)
        if len(gold.branches) != len(answer.branches):
            return False
        rest = list(answer.branches)
        for value, condition in gold.branches:
            for branch in rest:
                if _same_condition(condition, branch[1]) and self.equal(value, branch[0]):
                    rest.remove(branch)
                    break
        # The last branch may be left to "otherwise".
        return len(rest) == 0 or (
            len(rest) == 1 and bool(re.search("otherwise|else", rest[0][1] + gold.branches[-1][1]))
            and self.equal(gold.branches[-1][0], rest[0][0])
        )  # fmt: skip

    def _cases_in_one(self, gold: Form, answer: Form) -> bool:
        """Cases by parity against one expression: each must hold for even or odd letters."""
        cases, whole = (gold, answer) if isinstance(gold, Cases) else (answer, gold)
        if not isinstance(cases, Cases) or not isinstance(whole, Value):
            return False
        conditions = [_parity(condition) for _, condition in cases.branches]
        if {parity for _, parity in filter(None, conditions)} != {"even", "odd"}:
            return False
        for (value, _), condition in zip(cases.branches, conditions, strict=True):
            if condition is None or not isinstance(value, Value):
                return False
            letter, parity = condition
            place = f"(2{letter})" if parity == "even" else f"(2{letter}+1)"
            if not self._values(
                Value(rename(value.tex, letter, place)), Value(rename(whole.tex, letter, place))
            ):
                return False
        return True

    def _regions(self, gold: Form, answer: Form) -> bool | None:
        ours, theirs = region(gold, constant), region(answer, constant)
        if ours is None or theirs is None:
            return None
        if ours.variable and theirs.variable and not same_name(ours.variable, theirs.variable):
            return False
        return same_region(ours, theirs, self._same_end, constant)

    def _same_end(self, gold: str, answer: str) -> bool:
        return self._values(Value(gold), Value(answer))

    def _relations(self, gold: Form, answer: Form) -> bool:
        ours, theirs = _as_relation(gold), _as_relation(answer)
        if isinstance(answer, Relation) and not isinstance(gold, Relation | Named):
            # 2 + 3 = 5 answers 5, if it holds.
            if set(answer.signs) != {"="} or not isinstance(gold, Value):
                return False
            return all(self._values(gold, Value(side)) for side in answer.sides)
        if ours is None or theirs is None:
            return False
        if len(ours.sides) != len(theirs.sides):
            return False
        if [_ascending(ours).signs] != [_ascending(theirs).signs]:
            return False
        ours, theirs = _ascending(ours), _ascending(theirs)
        for at, sign in enumerate(ours.signs):
            left = _difference(ours.sides[at], ours.sides[at + 1])
            right = _difference(theirs.sides[at], theirs.sides[at + 1])
            if left is None or right is None:
                return self._by_text(ours, theirs)
            factor = numerics.proportional(left, right)
            if factor is None or (factor < 0 and sign not in ("=", r"\ne")):
                return False
        return True

    def _by_text(self, gold: Relation, answer: Relation) -> bool:
        """Relations that no parser reads, side by side."""
        for sides in (answer.sides, answer.sides[::-1]):
            if all(
                self._values(Value(a), Value(b)) for a, b in zip(gold.sides, sides, strict=True)
            ):
                return True
            if set(gold.signs) != {"="}:
                break
        return False

    def _named(self, gold: Form, answer: Form) -> bool:
        if not isinstance(answer, Named):
            assert isinstance(gold, Named)
            return self.equal(gold.value, answer)
        if not isinstance(gold, Named):
            return self.equal(gold, answer.value)
        namesakes = (
            same_name(gold.name, answer.name)
            or not (is_variable(gold.name) and is_variable(answer.name))
            or _has_symbols(gold.value)
        )
        if namesakes and self.equal(gold.value, answer.value):
            return True
        if isinstance(gold.value, Value) and isinstance(answer.value, Value):
            return self._relations(Relation((gold.name, gold.value.tex), ("=",)), answer)
        return False

    def _lists(self, gold: Form, answer: Form) -> bool:
        ours, theirs = items_of(gold), items_of(answer)
        our_names, their_names = _names(ours), _names(theirs)
        if (
            our_names
            and sorted(our_names) == sorted(their_names)
            and len(set(our_names)) == len(our_names)
        ):
            return self._records(ours, theirs)
        our_rows, their_rows = _rows(ours), _rows(theirs)
        if our_rows is not None and len(our_rows) == 1 and len(theirs) == 1:
            single = theirs[0].value if isinstance(theirs[0], Named) else theirs[0]
            if isinstance(single, Value):  # both angles are 90°
                return all(self.equal(value, single) for value in _unnamed(ours))
        if our_rows is not None or their_rows is not None:
            return self._lists_of(
                our_rows or _unnamed(ours), their_rows or _unnamed(theirs), gold, answer
            )
        if any(isinstance(item, Relation) for item in ours + theirs) and len(ours) == len(theirs):
            return self._matched(ours, theirs)
        return self._lists_of(_unnamed(ours), _unnamed(theirs), gold, answer)

    def _lists_of(self, ours: list[Form], theirs: list[Form], gold: Form, answer: Form) -> bool:
        if len(ours) == len(theirs) == 1:
            return self.equal(ours[0], theirs[0])
        if len(theirs) == 1 or len(ours) == 1:
            return self._single(ours, theirs)
        if len(ours) != len(theirs):
            return False
        if all(self.equal(a, b) for a, b in zip(ours, theirs, strict=True)):
            return True
        tuples = any(isinstance(f, Group) and f.opening in ("(", "[") for f in (gold, answer))
        records = len(set(_names(items_of(gold)))) > 1 or len(set(_names(items_of(answer)))) > 1
        sets = any(isinstance(f, Group) and f.opening == r"\{" for f in (gold, answer))
        ordered = _in_no_order(ours) and not sets
        if tuples or records or len(ours) > _MAX_MATCHED or ordered:
            return False
        return self._matched(ours, theirs)

    def _single(self, ours: list[Form], theirs: list[Form]) -> bool:
        """A list against one form: a tuple of the same items, or one value said several times."""
        long, short = (ours, theirs[0]) if len(theirs) == 1 else (theirs, ours[0])
        if isinstance(short, Group) and len(short.items) == len(long):
            pairs = zip(long, short.items, strict=True)
            ordered = all(
                self.equal(a, b) if len(theirs) == 1 else self.equal(b, a) for a, b in pairs
            )
            if ordered or short.opening != r"\{":
                return ordered
            items = list(short.items)
            return self._matched(long, items) if len(theirs) == 1 else self._matched(items, long)
        if len(long) > 4:
            return False
        if len(theirs) == 1:
            return all(self.equal(item, short) for item in long)
        return all(self.equal(short, item) for item in long)

    def _matched(self, ours: list[Form], theirs: list[Form]) -> bool:
        """Whether each item of one list is an item of the other, each used once."""
        rest = list(theirs)
        for item in ours:
            found = next((other for other in rest if self.equal(item, other)), None)
            if found is None:
                return False
            rest.remove(found)
        return not rest

    def _records(self, ours: list[Form], theirs: list[Form]) -> bool:
        """Named values, each compared with its namesake."""
        values = {plain_name(item.name): item.value for item in theirs if isinstance(item, Named)}
        return all(
            self.equal(item.value, values[plain_name(item.name)])
            for item in ours
            if isinstance(item, Named)
        )

    def _groups(self, gold: Form, answer: Form) -> bool:
        if not (isinstance(gold, Group) and isinstance(answer, Group)):
            one, other = (gold, answer) if isinstance(gold, Group) else (answer, gold)
            assert isinstance(one, Group)
            if one.opening == r"\{" and len(one.items) == 1:
                inner = one.items[0]
                return self.equal(inner, answer) if one is gold else self.equal(gold, inner)
            if not one.items:
                return _is_empty(other)
            return False
        ours, theirs = list(gold.items), list(answer.items)
        if gold.opening == answer.opening == r"\{":
            return self._matched(self._distinct(ours), self._distinct(theirs))
        if r"\{" in (gold.opening, answer.opening):
            return False
        pointed = len(ours) == 2 and (gold.opening, gold.closing) != (
            answer.opening,
            answer.closing,
        )
        if len(ours) != len(theirs) or pointed:
            return False
        return all(self.equal(a, b) for a, b in zip(ours, theirs, strict=True))

    def _distinct(self, items: list[Form]) -> list[Form]:
        kept: list[Form] = []
        for item in items[:_MAX_MATCHED]:
            if not any(self.equal(item, other) for other in kept):
                kept.append(item)
        return kept + items[_MAX_MATCHED:]

    def _matrices(self, gold: Form, answer: Form) -> bool:
        ours, theirs = _cells(gold), _cells(answer)
        if ours is None or theirs is None:
            self.undecided = True
            return False
        if not isinstance(gold, Matrix) or not isinstance(answer, Matrix):
            # A vector may be written as a tuple, standing or lying.
            ours, theirs = [_flat(ours)], [_flat(theirs)]
        if [len(row) for row in ours] != [len(row) for row in theirs]:
            return False
        return all(
            self.equal(a, b)
            for our_row, their_row in zip(ours, theirs, strict=True)
            for a, b in zip(our_row, their_row, strict=True)
        )

    def _ratios(self, gold: Form, answer: Form) -> bool:
        if isinstance(gold, Ratio) and isinstance(answer, Ratio) and (gold.half or answer.half):
            return (gold.terms == answer.terms and "" in (gold.half, answer.half)) or gold == answer
        for one, other in ((gold, answer), (answer, gold)):
            if isinstance(one, Ratio) and isinstance(other, Value) and other.unit in ("am", "pm"):
                return one == Ratio((other.tex.strip(), "00"), other.unit)
        ours, theirs = _terms(gold), _terms(answer)
        if ours is None or theirs is None or len(ours) != len(theirs):
            return False
        return all(
            self._values(Value(f"({a})({theirs[0]})"), Value(f"({b})({ours[0]})"))
            for a, b in zip(ours, theirs, strict=True)
        )

    def _combinations(self, gold: Form, answer: Form) -> bool:
        if not (isinstance(gold, Combination) and isinstance(answer, Combination)):
            return False
        if gold.sign != answer.sign or len(gold.items) != len(answer.items):
            return False
        if all(self.equal(a, b) for a, b in zip(gold.items, answer.items, strict=True)):
            return True
        return gold.sign != r"\setminus" and self._matched(list(gold.items), list(answer.items))


def _math_verify(gold: str, answer: str) -> bool:
    """What math-verify says, in its own order of arguments."""
    ours = math_verify_parse(f"${gold}$", [_PLAIN], parsing_timeout=None)
    theirs = math_verify_parse(f"${answer}$", [_PLAIN], parsing_timeout=None)
    return bool(ours and theirs) and bool(verify(ours, theirs, timeout_seconds=None))


def _names(items: list[Form]) -> list[str]:
    names = [plain_name(item.name) for item in items if isinstance(item, Named)]
    return names if len(names) == len(items) else []


def _unnamed(items: list[Form]) -> list[Form]:
    return [item.value if isinstance(item, Named) else item for item in items]


def _rows(items: list[Form]) -> list[Form] | None:
    """``x=1, y=2, x=3, y=4`` as the tuples (1,2), (3,4); None if names do not repeat like that."""
    names = _names(items)
    width = len(dict.fromkeys(names))
    if width < 2 or len(names) % width or names != names[:width] * (len(names) // width):
        return None
    values = _unnamed(items)
    return [Group("(", tuple(values[at : at + width]), ")") for at in range(0, len(values), width)]


def _spread(form: Form, other: Form) -> Form:
    """``a = b = c = 0`` as the tuple (0, 0, 0), where the other side is tuples."""
    tuples = [item for item in items_of(other) if isinstance(item, Group) and item.opening == "("]
    named = _names(items_of(other))
    if not tuples and len(set(named)) < 2:
        return form
    if isinstance(form, Named) and "=" in form.name and isinstance(form.value, Value):
        return Group("(", (form.value,) * (form.name.count("=") + 1), ")")
    if isinstance(form, Group) and form.opening == "":
        return Group("", tuple(_spread(item, other) for item in form.items), "", form.joined)
    return form


def _parity(condition: str) -> tuple[str, str] | None:
    """The letter and the parity that a condition such as `if n is even` speaks of."""
    parity = re.search(r"\b(even|odd)\b", wording.clean(condition))
    letters = names_in(unworded(condition))
    if (
        parity is None
        or len(letters) != 1
        or set(wording.clean(condition).split()) & wording.NEGATIONS
    ):
        return None
    return letters.pop(), parity.group(1)


def _has_symbols(form: Form) -> bool:
    return isinstance(form, Value) and bool(names_in(form.tex))


def _is_empty(form: Form) -> bool:
    if isinstance(form, Named):
        return _is_empty(form.value)
    if isinstance(form, Group):
        return form.opening == r"\{" and not [
            item for item in form.items if not isinstance(item, Words) or item.text.strip()
        ]
    return isinstance(form, Value) and form.tex.strip() == r"\emptyset"


def _as_relation(form: Form) -> Relation | None:
    if isinstance(form, Named) and isinstance(form.value, Value):
        return Relation((form.name, form.value.tex), ("=",))
    return form if isinstance(form, Relation) else None


def _ascending(form: Relation) -> Relation:
    """The relation with its inequalities pointing up: ``a > b`` as ``b < a``."""
    if form.signs[0] in (">", r"\ge"):
        turned = {">": "<", r"\ge": r"\le", "<": ">", r"\le": r"\ge"}
        signs = tuple(turned.get(sign, sign) for sign in form.signs[::-1])
        return Relation(form.sides[::-1], signs, form.integers)
    return form


def _difference(left: str, right: str) -> "object | None":
    ours, theirs = expression_of(left), expression_of(right)
    if ours is None or theirs is None:
        return None
    try:
        return ours - theirs
    except TypeError:
        return None


def _in_no_order(items: list[Form]) -> bool:
    """Three plain numbers neither rising nor falling: the order may mean something, as in x, y, z.

    Longer lists are sets of solutions in every benchmark looked at.
    """
    if len(items) != 3 or not all(isinstance(item, Value) for item in items):
        return False
    worths = [_plain_number(item.tex) for item in items if isinstance(item, Value)]
    numbers = [worth for worth in worths if worth is not None]
    if len(numbers) < len(items):
        return False
    return numbers not in (sorted(numbers), sorted(numbers, reverse=True))


def _plain_number(tex: str) -> float | None:
    match = re.fullmatch(r"\s*([-+]?\s*\d*\.?\d+)\s*", tex)
    return float(match.group(1).replace(" ", "")) if match else None


def _cells(form: Form) -> list[list[Form]] | None:
    if isinstance(form, Matrix):
        return [list(row) for row in form.rows]
    if isinstance(form, Group) and form.opening in ("(", "["):
        return [list(form.items)]
    return None


def _flat(rows: list[list[Form]]) -> list[Form]:
    return [cell for row in rows for cell in row] if len(rows) == 1 or len(rows[0]) == 1 else []


def _terms(form: Form) -> list[str] | None:
    if isinstance(form, Ratio):
        return list(form.terms)
    if isinstance(form, Value):
        return [form.tex, "1"]
    return None


def _same_condition(gold: str, answer: str) -> bool:
    ours, theirs = (
        re.sub(r"\b(if|when|for|is|an?|and|number|integer|all)\b|[\s,.;]", "", wording.clean(text))
        for text in (gold, answer)
    )
    return ours == theirs
