r"""From tidy notation to the form of an answer.

`read` takes the text apart at its outermost commas, relations and brackets, down to single
expressions, which are left to math-verify's parser. It decides nothing: whether two forms say the
same is for `icpo_core.grading.answers.equivalence`.
"""

import itertools
import re
from dataclasses import replace

from icpo_core.grading.answers import phrases, wording
from icpo_core.grading.answers.braces import closing
from icpo_core.grading.answers.counted import is_counted
from icpo_core.grading.answers.expansion import (
    MAX_ITEMS,
    adjacent_tuples,
    enumerated,
    permutations,
    with_signs,
)
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
    split,
)
from icpo_core.grading.answers.names import is_name, names_in

MAX_DEPTH = 12
"""Brackets nested deeper than this are left to the expression parser."""
_SEPARATORS = re.compile(
    r"[,;]|\\(?:land|lor)(?![a-z])|\\text\{\s*,?\s*(?:and|or|and also|as well as)\s*,?\s*\}"
)


_INTEGERS = re.compile(r"[a-zA-Z]\s*\\in\s*\\mathbb\{[ZN]\}.*")
_CONGRUENT = re.compile(
    r"(?:(?:all|any|those|the|integers?|numbers?|n|k|m|x|is|are|that|which|must be) )*"
    r"congruent to (-?\d{1,6}(?:(?: or| and|) -?\d{1,6})*) (?:modulo|mod) (\d{1,6})"
)
_SET_SIGN = re.compile(r"\\(?:cup|cap|setminus)(?![a-zA-Z])")
_MATRIX = re.compile(
    r"\\begin\s*\{([pbvBV]?(?:small)?matrix|array)\}(?:\{[^{}]*\})?(.*)\\end\s*\{\1\}", re.DOTALL
)
_CASES = re.compile(r"\\begin\s*\{d?cases\}(.*)\\end\s*\{d?cases\}", re.DOTALL)
_COLON = re.compile(r":|\\text\{to\}")


def read(
    text: str, independent_signs: bool = False, depth: int = 0, gold: str | None = None
) -> Form:
    r"""Return the form of a tidy answer. Raises RecursionError on absurd nesting, nothing else.

    `independent_signs`: two ``\pm`` in one item stand for four items, not two. `gold`: the gold
    answer, where this is a candidate, whose remarks are not believed.
    """
    text = phrases.without_remarks(text, gold) if depth == 0 else text.strip()
    text = re.sub(r"^[a-zA-Z]\s*(?=\([^()\[\]]*\]$|\[[^()\[\]]*\)$)", "", text)  # t(0,4]
    pieces, separators = split(text, _SEPARATORS)
    if len(pieces) > MAX_ITEMS:
        return Words(text)
    if depth == 0 and len(pieces) > 1 and _congruence(text) is not None:
        pieces, separators = [text], []
    pieces = phrases.with_labels(adjacent_tuples(pieces))
    cases = _cases(pieces, independent_signs, depth)
    if cases is not None:
        return cases
    integers = False
    if depth == 0 and len(pieces) > 1:
        kept = [
            piece
            for at, piece in enumerate(pieces)
            if not phrases.is_domain(piece)
            and not phrases.is_range(piece, pieces[:at] + pieces[at + 1 :], gold)
        ]
        integers = any(_INTEGERS.fullmatch(piece.strip()) for piece in pieces)
        pieces = kept or pieces
    permuted = len(pieces) > 1 and any(phrases.is_permutation(piece) for piece in pieces)
    pieces = [piece for piece in pieces if piece.strip() and not phrases.is_permutation(piece)]
    pieces = enumerated(pieces)
    expanded = [
        sign for piece in pieces for sign in with_signs(piece.strip(), independent_signs)
    ]  # fmt: skip
    items = [_item(piece, independent_signs, depth) for piece in expanded[:MAX_ITEMS]]
    if permuted:
        items = permutations(items)
    if len(items) == 1:
        only = items[0]
        return replace(only, integers=True) if integers and isinstance(only, Relation) else only
    if not items:
        return Words(text)
    joined = " ".join(separators)
    items = _spread_names(items)
    if all(isinstance(item, Relation) and r"\ne" in item.signs for item in items):
        return Group("", tuple(items), "", "and")  # x is neither
    word = (
        "or" if "or" in joined or len(expanded) > len(pieces) else "and" if "and" in joined else ","
    )
    return Group("", tuple(items), "", word)


def _cases(pieces: list[str], independent: bool, depth: int) -> Cases | None:
    if len(pieces) == 1:
        match = _CASES.fullmatch(pieces[0].strip())
        prefix = None
        if match is None:
            prefix = re.fullmatch(
                r"([^=]*)=\s*(\\begin\s*\{d?cases\}.*)", pieces[0].strip(), re.DOTALL
            )
            match = _CASES.fullmatch(prefix.group(2).strip()) if prefix else None
        if match is None:
            return None
        branches = []
        for row in re.split(r"\\\\(?:\[[^\]]*\])?", match.group(1)):
            if not row.strip():
                continue
            value, _, condition = row.partition("&")
            if not condition:
                halves, _ = split(row, re.compile(r","))
                value, condition = halves[0], ",".join(halves[1:])
            branches.append((_item(value.strip(" ,;"), independent, depth + 1), condition.strip()))
        if all(condition for _, condition in branches) and branches:
            return Cases(tuple(branches))
        return None
    condition = re.compile(r"\\text\{\s*(?:if|when|for|otherwise)\b")
    branches = []
    for piece in pieces:
        match = condition.search(phrases.joined_words(piece))
        if not match or match.start() == 0:
            return None
        whole = phrases.joined_words(piece)
        value = whole[: match.start()].strip()
        branches.append((_item(value, independent, depth + 1), whole[match.start() :].strip()))
    return Cases(tuple(branches)) if len(branches) > 1 else None


def _spread_names(items: list[Form]) -> list[Form]:
    """``x = 1, 2`` names both values x, unless other names follow; so does ``x \\ne 1, 2``."""
    first = items[0]
    if isinstance(first, Relation) and first.signs == (r"\ne",) and len(items) > 1:
        rest = [item.tex for item in items[1:] if isinstance(item, Value)]
        if len(rest) == len(items) - 1:
            return [first, *(Relation((first.sides[0], tex), first.signs) for tex in rest)]
    if not isinstance(items[0], Named) or sum(isinstance(item, Named) for item in items) != 1:
        return items
    name = items[0].name
    return [
        item if isinstance(item, Named) else Named(name, item)
        for item in items
        if isinstance(item, Value | Named | Group | Words)
    ] if all(isinstance(item, Value | Named | Group) for item in items) else items  # fmt: skip


def _item(text: str, independent: bool, depth: int) -> Form:
    text = text.strip().rstrip(".").strip()
    if text.startswith("{") and closing(text, 0) == len(text) - 1:
        text = text[1:-1].strip()
    if depth > MAX_DEPTH:
        return Value(text)
    matrix = _MATRIX.fullmatch(text)
    if matrix:
        rows = [row for row in re.split(r"\\\\(?:\[[^\]]*\])?", matrix.group(2)) if row.strip()]
        cells = [
            tuple(_item(cell, independent, depth + 1) for cell in row.split("&")) for row in rows
        ]
        return Matrix(tuple(cells))
    if text.startswith(r"\{") and text.endswith(r"\}"):
        braced = _bracketed(text, independent, depth)
        if braced is not None:
            return braced
    extreme = re.fullmatch(r"\\(max|min)\s*(-?(?:\d|\\frac|\\sqrt|\\pi).*)", text, re.DOTALL)
    if extreme:  # "max 5": a label, and no function of what follows
        return Named(extreme.group(1), _item(extreme.group(2), independent, depth + 1))
    point = re.fullmatch(r"([A-Z](?:_\{?\d\}?|')?)\s*(\([^()]*,[^()]*\))", text)
    if point:
        return Named(point.group(1), _item(point.group(2), independent, depth + 1))
    if "congruent" in text:
        spoken = _congruence(text)
        if spoken is not None:
            return spoken
    phrase = phrases.part(text)
    if isinstance(phrase, phrases.Phrase):
        return _of_phrase(phrase, independent, depth)
    if phrase is not None:
        return phrase
    congruence = _congruence(text)
    if congruence is not None:
        return congruence
    sides, signs = split(text, RELATION)
    if signs:
        return _related([side.strip() for side in sides], [sign.strip() for sign in signs],
                        independent, depth)  # fmt: skip
    sets, set_signs = split(text, _SET_SIGN)
    if set_signs and all(part.strip() for part in sets):
        return _combined(sets, set_signs, independent, depth)
    terms, _ = split(text, _COLON)
    if len(terms) == 2 and is_name(terms[0]) and not is_name(terms[1]) and terms[1].strip():
        return Named(terms[0].strip(), _item(terms[1], independent, depth + 1))
    if len(terms) > 1:
        if all(term.strip() for term in terms):
            return Ratio(tuple(term.strip() for term in terms))
        return _item(terms[-1] or terms[0], independent, depth + 1)
    components = _components(text)
    if components is not None:
        return Group("(", tuple(Value(tex) for tex in components), ")")
    if text.startswith("-"):
        turned = _bracketed(text[1:].strip(), independent, depth)
        if isinstance(turned, Group) and all(isinstance(item, Value) for item in turned.items):
            values = [item for item in turned.items if isinstance(item, Value)]
            return Group(
                turned.opening, tuple(Value(f"-({v.tex})") for v in values), turned.closing
            )
    return _bracketed(text, independent, depth) or Value(text)


def _related(sides: list[str], signs: list[str], independent: bool, depth: int) -> Form:
    if signs[-1] in (r"\implies", r"\iff", r"\to", r"\mapsto"):
        if not sides[-1] and not re.fullmatch(r"[^<>!]*", sides[0] + sides[-2]):
            return Words(signs[0].join(sides))
        return _item(sides[-1] or sides[0], independent, depth + 1)
    for arrow in (r"\implies", r"\iff"):
        if arrow in signs:
            last = len(signs) - 1 - signs[::-1].index(arrow)
            return _related(sides[last + 1 :], signs[last + 1 :], independent, depth)
    if r"\approx" in signs:
        # "exact ≈ decimal" is answered by what is exact, "x ≈ decimal" by the decimal.
        at = signs.index(r"\approx")
        if not sides[0]:
            return _item(sides[1], independent, depth + 1)
        if at == 0 and is_name(sides[0]):
            return Named(sides[0], _item(sides[1], independent, depth + 1))
        rounded = _item(sides[at + 1], independent, depth + 1)
        if at == 0:
            return Group(ROUNDED, (_item(sides[0], independent, depth + 1), rounded), "")
        exact = _related(sides[: at + 1], signs[:at], independent, depth)
        if isinstance(exact, Named):
            return Named(exact.name, Group(ROUNDED, (exact.value, rounded), ""))
        return Group(ROUNDED, (exact, rounded), "")
    if signs == [r"\in"] and re.fullmatch(r"[-+\d.]+", sides[1]):
        return Relation(tuple(sides), tuple(signs))  # a number has no members
    if signs == [r"\in"] and (is_name(sides[0]) or "," in sides[0]):
        return Named(sides[0], read(sides[1], independent, depth + 1))
    if set(signs) == {"="}:
        if not sides[0]:
            return _item(sides[-1], independent, depth + 1)
        if is_name(sides[0]):
            names = list(itertools.takewhile(is_name, sides[:-1]))
            return Named(" = ".join(names), read(sides[-1], independent, depth + 1))
        if is_name(sides[-1]) and len(sides) == 2 and not names_in(sides[0]):
            return Named(sides[1], _item(sides[0], independent, depth + 1))
    if len(signs) > 1 and signs[0] == "=" and is_name(sides[0]) and "=" not in signs[1:]:
        return Relation(tuple(sides[1:]), tuple(signs[1:]))
    return Relation(tuple(sides), tuple(signs))


def _combined(parts: list[str], signs: list[str], independent: bool, depth: int) -> Form:
    """Unions bind weaker than differences written one after another; no other mix is read."""
    forms = [read(part, independent, depth + 1) for part in parts]
    if len({sign.strip() for sign in signs}) == 1:
        return Combination(signs[0].strip(), tuple(forms))
    first = Combination(signs[0].strip(), (forms[0], forms[1]))
    for sign, form in zip(signs[1:], forms[2:], strict=True):
        first = Combination(sign.strip(), (first, form))
    return first


def _bracketed(text: str, independent: bool, depth: int) -> Form | None:
    """The group that the whole text is, if it is one."""
    for opening, ends in (
        ("(", (")", "]")),
        ("[", (")", "]", "[")),
        (r"\{", (r"\}",)),
        ("]", ("[", "]")),
    ):
        if not text.startswith(opening):
            continue
        end = next((end for end in ends if text.endswith(end)), None)
        if end is None:
            return None
        inner = text[len(opening) : -len(end)]
        if _leaves(inner):
            return None
        items, separators = split(inner, re.compile("[,;]"))
        if opening == r"\{":
            built = _set_builder(inner, independent, depth)
            if built is not None:
                return built
            form = read(inner, independent, depth + 1) if inner.strip() else Group("", (), "")
            inside = form.items if isinstance(form, Group) and not form.opening else (form,)
            return Group(opening, inside, end)
        if opening == "]":  # ]0,1[ is (0,1)
            opening = "("
            end = ")" if end == "[" else "]"
        elif end == "[":
            end = ")"
        if separators:
            parts = tuple(_item(item, independent, depth + 1) for item in items)
            return Group(opening, parts, end)
        if opening == "(" and end == ")":
            return _item(inner, independent, depth + 1)
        if opening == "[" and end == "]":
            return _item(inner, independent, depth + 1)
    return None


def _components(text: str) -> list[str] | None:
    """The coefficients of a sum of unit vectors, ``2i - j`` in their fonts; None if it is none."""
    terms, signs = split(text, re.compile(r"[-+]"))
    if r"\hat{" not in text or len(terms) > 4:
        return None
    found = {"i": "0", "j": "0", "k": "0"}
    for sign, term in zip(["", *signs], terms, strict=True):
        if not sign and not term.strip():
            continue
        match = re.fullmatch(r"\s*(.*?)\s*(?:\\cdot)?\s*\\hat\{([ijk])\}\s*", term)
        if match is None or r"\hat" in match.group(1) or found[match.group(2)] != "0":
            return None
        found[match.group(2)] = sign.replace("+", "") + (match.group(1) or "1")
    return list(found.values()) if r"\hat{k}" in text else list(found.values())[:2]


def _leaves(inner: str) -> bool:
    """Whether a closing bracket in `inner` ends the group before its end: ``1)(2``."""
    depth = 0
    for token in re.findall(r"\\.|[()\[\]{}]", inner):
        if token in ("(", "[", "{", r"\{"):
            depth += 1
        elif token in (")", "]", "}", r"\}"):
            depth -= 1
            if depth < 0:
                return True
    return False


def _set_builder(inner: str, independent: bool, depth: int) -> Form | None:
    r"""``\{x : x > 1\}`` is what its condition says; ``\{2k : k \in \mathbb{Z}\}`` its member."""
    parts, separators = split(inner, re.compile(r"[|:]"))
    if len(separators) != 1 or not parts[0].strip() or not parts[1].strip():
        return None
    member, condition = parts[0].strip(), parts[1].strip()
    variable = split(member, re.compile(r"\\in(?![a-z])"))[0][0].strip()
    if is_name(variable) and not phrases.is_domain(condition):
        pieces, marks = split(condition, re.compile(","))
        if len(marks) == 1 and phrases.is_domain(pieces[1]):
            condition = pieces[0]
        return read(condition, independent, depth + 1)
    return _item(member, independent, depth + 1)


def _congruence(text: str) -> Congruence | None:
    divides = re.fullmatch(r"(\d{1,4})\s*(\||\\nmid)\s*\(?[a-zA-Z]\)?", text.strip())
    if divides and int(divides.group(1)):
        modulus = int(divides.group(1))
        return Congruence((0,) if divides.group(2) == "|" else tuple(range(1, modulus)), modulus)
    spoken = _CONGRUENT.fullmatch(wording.clean(text)) if "congruent" in text else None
    if spoken and int(spoken.group(2)):
        modulus = int(spoken.group(2))
        classes = {int(number) % modulus for number in re.findall(r"-?\d+", spoken.group(1))}
        return Congruence(tuple(sorted(classes)), modulus)
    match = re.fullmatch(
        r"(?:[a-zA-Z]\s*)?(\\not)?\s*(?:\\equiv|=)?\s*([-+\d\s,\\a-z{}]+?)\s*\(?\s*\\p?mod"
        r"\s*\(?\s*\{?(\d{1,6})\}?\s*\)*",
        text.strip(),
    )
    if match and r"\equiv" in text:
        residues = re.sub(r"\\text\{(?:and|or)\}|\\pm(?!od)", ",", match.group(2))
        numbers = re.findall(r"-?\d{1,6}", residues)
        modulus = int(match.group(3))
        if numbers and modulus and not re.sub(r"[-+\d\s,]", "", residues):
            values = [int(number) for number in numbers]
            if re.search(r"\\pm(?!od)", text):
                values += [-value for value in values]
            classes = {value % modulus for value in values}
            if match.group(1):
                classes = set(range(min(modulus, 10_000))) - classes
            return Congruence(tuple(sorted(classes)), modulus)
    return None


def _of_phrase(phrase: phrases.Phrase, independent: bool, depth: int) -> Form:
    form = _item(phrase.body, independent, depth + 1)
    if phrase.name:
        return Named(phrase.name, form)
    if phrase.unit:
        said = f"{phrase.body} {phrase.unit}"
        return _with_unit(form, phrase.unit) or (
            form if isinstance(form, Group) and is_counted(phrase.unit) else Words(said)
        )
    if isinstance(form, Relation) and phrase.integers:
        return Relation(form.sides, form.signs, True)
    return form


def _with_unit(form: Form, unit: str) -> Form | None:
    """The form with what its value counts; None if it cannot have such words."""
    if isinstance(form, Value):
        return Value(form.tex, unit)
    if isinstance(form, Named):
        counted = _with_unit(form.value, unit)
        return None if counted is None else Named(form.name, counted)
    if isinstance(form, Ratio) and unit in ("am", "pm"):
        return Ratio(form.terms, unit)
    return None
