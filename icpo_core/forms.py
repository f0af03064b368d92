r"""What an answer is made of: values, names, lists, brackets, relations, words.

`read` takes tidy notation (see `icpo_core.notation`) apart at its outermost commas, relations and
brackets, down to single expressions, which are left to math-verify's parser. It decides nothing:
whether two forms say the same is for `icpo_core.equivalence`.
"""

import itertools
import re
from dataclasses import dataclass

from icpo_core import wording
from icpo_core.notation import closing

MAX_ITEMS = 200
"""A longer list is read as one piece of text."""
MAX_DEPTH = 12
"""Brackets nested deeper than this are left to the expression parser."""


@dataclass(frozen=True)
class Words:
    """An answer in words."""

    text: str


@dataclass(frozen=True)
class Value:
    """One expression in LaTeX, and the words after it that may be its unit."""

    tex: str
    unit: str = ""


@dataclass(frozen=True)
class Named:
    """``name = value`` or ``name \\in value``."""

    name: str
    value: "Form"


@dataclass(frozen=True)
class Group:
    """Items in brackets, or without any (`opening` and `closing` empty): a bare list.

    `joined` is the word between the items of a bare list: "or", "and" or "," (nothing said).
    """

    opening: str
    items: tuple["Form", ...]
    closing: str
    joined: str = ","


@dataclass(frozen=True)
class Relation:
    """Expressions with relation signs between them, as in ``0 < x \\le 1`` or ``x+y = 2``."""

    sides: tuple[str, ...]
    signs: tuple[str, ...]
    integers: bool = False  # the words around it speak of integers


@dataclass(frozen=True)
class Combination:
    """A union (``\\cup``), intersection (``\\cap``) or difference (``\\setminus``) of sets."""

    sign: str
    items: tuple["Form", ...]


@dataclass(frozen=True)
class Matrix:
    """A matrix or determinant-like table, by rows."""

    rows: tuple[tuple["Form", ...], ...]


@dataclass(frozen=True)
class Ratio:
    """``a : b : c``; with `half` "am" or "pm" it is a time of day."""

    terms: tuple[str, ...]
    half: str = ""


@dataclass(frozen=True)
class Congruence:
    """``n \\equiv r_1, r_2 \\pmod m``, or words that say so."""

    residues: tuple[int, ...]
    modulus: int


@dataclass(frozen=True)
class Cases:
    """Values under conditions: ``n/2 if n is even, 2n otherwise``."""

    branches: tuple[tuple["Form", str], ...]


Form = Words | Value | Named | Group | Relation | Combination | Matrix | Ratio | Congruence | Cases

_RELATION = re.compile(
    r"\\(?:le|ge|ne|approx|in|notin|equiv|implies|iff|to|subset|subseteq)(?![a-zA-Z])|[=<>]"
)
_SEPARATORS = re.compile(
    r"[,;]|\\(?:land|lor)(?![a-z])|\\text\{\s*,?\s*(?:and|or|and also|as well as)\s*,?\s*\}"
)
_SET_SIGN = re.compile(r"\\(?:cup|cap|setminus)(?![a-zA-Z])")
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_NAME = re.compile(
    r"\\?[A-Za-z]+(?:'+)?(?:\s*_\s*(?:\{[^{}]*\}|\w|\\[a-z]+))?(?:'+|\^\{?\\prime\}?|\^\{\*\}|\^\*)?"
    r"(?:\s*\([^()=<>]*\))?"
)
_GEOMETRIC = re.compile(
    r"\\(?:angle|triangle|overline|vec|hat|dot|ddot|tilde|bar|overrightarrow|measuredangle|Delta)\s*"
    r"(?:\{[^{}]*\}|[A-Za-z]\w*(?:\s*_\s*\{?\w+\}?)?(?:\s*[A-Z](?:_\s*\{?\w+\}?)?)*)"
)
_REMARK = re.compile(
    r"[,;.]?\s*\(?\s*(?:\\forall(?![a-z])|\\text\{\s*for\s*\}(?=\s*[a-z]\s*(?:,\s*[a-z]\s*)*\\(?:in|ge|le|ne)(?![a-z]))|\\text\{\s*(?:for\s+(?:all|any|every|each|some|real|positive|"
    r"integers?|natural|nonzero|non-zero|a|an|constants?|arbitrary)|where|with|given|provided|"
    r"assuming|whenever|here|such that|valid|as|since|because|by|using|(?:which is |is )?(?:attained|"
    r"achieved|reached|obtained|occurring|occurs))\b[^{}]*\})"
)
_MATRIX = re.compile(
    r"\\begin\s*\{([pbvBV]?(?:small)?matrix|array)\}(?:\{[^{}]*\})?(.*)\\end\s*\{\1\}", re.DOTALL
)
_CASES = re.compile(r"\\begin\s*\{d?cases\}(.*)\\end\s*\{d?cases\}", re.DOTALL)
_DOMAIN = re.compile(
    r"[A-Za-z](?:_\{?\w+\}?)?(?:\s*,\s*[A-Za-z](?:_\{?\w+\}?)?)*\s*\\in\s*\\mathbb\{[ZNRQC]\}.*"
    r"|[A-Za-z](?:\s*\\text\{(?:is|being|are|an?|any|some|integers?|arbitrary|real|numbers?|natural|"
    r"positive|constants?)\})+"
)
_COLON = re.compile(r":|\\text\{to\}")
_LABEL = re.compile(r"\(\s*([a-h]|[1-9]|i{1,3}|iv|v)\s*\)\s*(?=[^\s,;])")
_INTEGER = re.compile(r"\b(?:integers?|natural|whole)\b")


def read(text: str, independent_signs: bool = False, depth: int = 0) -> Form:
    r"""Return the form of a tidy answer. Raises RecursionError on absurd nesting, nothing else.

    `independent_signs`: two ``\pm`` in one item stand for four items, not two.
    """
    text = _without_remarks(text) if depth == 0 else text.strip()
    text = re.sub(r"^[a-zA-Z]\s*(?=\([^()\[\]]*\]$|\[[^()\[\]]*\)$)", "", text)  # t(0,4]
    pieces, separators = split(text, _SEPARATORS)
    if len(pieces) > MAX_ITEMS:
        return Words(text)
    if depth == 0 and len(pieces) > 1 and _congruence(text) is not None:
        pieces, separators = [text], []
    pieces = _without_labels(_adjacent_tuples(pieces))
    cases = _cases(pieces, independent_signs, depth)
    if cases is not None:
        return cases
    if depth == 0 and len(pieces) > 1:
        kept = [piece for piece in pieces if not _is_domain(piece)]
        pieces = kept or pieces
    permuted = len(pieces) > 1 and any(_is_permutation(piece) for piece in pieces)
    pieces = [piece for piece in pieces if piece.strip() and not _is_permutation(piece)]
    expanded = [
        sign for piece in pieces for sign in _signs(piece.strip(), independent_signs)
    ]  # fmt: skip
    items = [_item(piece, independent_signs, depth) for piece in expanded[:MAX_ITEMS]]
    if permuted:
        items = _permutations(items)
    if len(items) == 1:
        return items[0]
    if not items:
        return Words(text)
    joined = " ".join(separators)
    word = (
        "or" if "or" in joined or len(expanded) > len(pieces) else "and" if "and" in joined else ","
    )
    return Group("", tuple(_spread_names(items)), "", word)


def split(text: str, separator: re.Pattern[str]) -> tuple[list[str], list[str]]:
    """Split `text` at the matches of `separator` that stand outside all brackets.

    An interval may close with another bracket than it opened with, so kinds are not told apart.
    """
    pieces, found = [], []
    depth, start, at = 0, 0, 0
    while at < len(text):
        char = text[at]
        if depth == 0:
            match = separator.match(text, at)
            if match:
                pieces.append(text[start:at])
                found.append(match.group())
                start = at = match.end()
                continue
        if char == "\\":
            command = re.compile(r"\\(?:[a-zA-Z]+|.)?", re.DOTALL).match(text, at)
            assert command is not None
            if command.group() in (r"\{", r"\lfloor", r"\lceil", r"\begin"):
                depth += 1
            elif command.group() in (r"\}", r"\rfloor", r"\rceil", r"\end"):
                depth = max(depth - 1, 0)
            at = command.end()
            continue
        if char in "([{":
            depth += 1
        elif char in ")]}":
            depth = max(depth - 1, 0)
        at += 1
    pieces.append(text[start:])
    return pieces, found


def names_in(tex: str) -> set[str]:
    """Return the single letters that stand for themselves in an expression."""
    return {token for token in re.findall(r"\\[a-zA-Z]+|[A-Za-z]", tex) if token[0] != "\\"}


def rename(tex: str, old: str, new: str) -> str:
    """Return `tex` with the letter `old` replaced where it is a variable."""
    pattern = r"\\(?:text|begin|end|mathbb)\{[^{}]*\}|\\[a-zA-Z]+|[A-Za-z]"
    return re.sub(pattern, lambda match: new if match.group() == old else match.group(), tex)


def is_name(text: str) -> bool:
    r"""Whether the text names a quantity: ``x``, ``a_{n}``, ``f(x)``, ``\angle ABC``, ``(x,y)``."""
    text = text.strip()
    if text.startswith("(") and text.endswith(")") and "," in text:
        return all(is_name(part) for part in text[1:-1].split(","))
    if text.startswith("|") and text.endswith("|") and len(text) < 12:
        return is_name(text[1:-1])
    if _TEXT.fullmatch(text) or _GEOMETRIC.fullmatch(text):
        return True
    if re.fullmatch(r"\\frac\s*\{\s*d\S*\s*\w*'*\}\s*\{\s*d\s*\w(?:\^\{\d\})?\}", text):
        return True
    return bool(_NAME.fullmatch(text)) and text not in ("e", r"\pi", "i", r"\infty", r"\emptyset")


def _without_remarks(text: str) -> str:
    """Drop conditions that only repeat the problem's: for all n, where k is an integer, (n > 1)."""
    text = text.strip()
    lead = re.match(
        r"\\text\{for(?: (?:all|any|every|each))?\}\s*(?:\\text\{(?:all|any|every|each)\}\s*)?[^,=]*,",
        _joined_words(text),
    )
    if lead:
        text = _joined_words(text)[lead.end() :].strip()
    bracket = re.search(r"\s\(([^()]*)\)$|(?<=[\w}])\(([^()]*(?:\\in|\\text)[^()]*)\)$", text)
    if bracket and bracket.start() > 0:
        inner = bracket.group(1) or bracket.group(2) or ""
        words = set(wording.clean(inner).split())
        remark = re.search(r"\\in(?![a-z])|\\text|\\ge|\\le|\\ne|[<>]|\\forall|\\approx", inner)
        if re.match(r"\s*\\text\{or", inner):
            text = f"{text[: bracket.start()]} \\text{{or}} {inner.split('}', 1)[1]}"
        elif remark and not words & (wording.NEGATIONS | {"or", "permutation", "permutations"}):
            text = text[: bracket.start()]
    text = _joined_words(text)
    match = _REMARK.search(text)
    while match:
        if match.start() == 0 or (
            r"\text{" in match.group() and _is_conditional(text[match.start() :])
        ):
            break
        rest = text[match.end() :]
        resume = re.search(r"\\text\{(?:and|or)\}(?=[^,;]*=)|;", rest)
        text = text[: match.start()] + (rest[resume.start() :] if resume else "")
        match = _REMARK.search(text, match.start())
    return text.strip().rstrip(",;. ")


def _is_conditional(remark: str) -> bool:
    return bool(re.match(r"[^,;]*\b(?:even|odd|otherwise|permutations?|not)\b", remark))


def _joined_words(text: str) -> str:
    r"""``\text{for} \text{all}`` as ``\text{for all}``, with and/or kept apart."""
    protected = re.sub(r"\\text\{\s*(and|or)\s*\}", r"\\TEXT{\1}", text)
    while True:
        joined = re.sub(r"\\text\{([^{}]*)\}\s*\\text\{([^{}]*)\}", r"\\text{\1 \2}", protected)
        if joined == protected:
            return re.sub(r"\\TEXT\{(and|or)\}", r"\\text{\1}", joined)
        protected = joined


def _adjacent_tuples(pieces: list[str]) -> list[str]:
    """``(1,2)(3,4)`` is two tuples."""
    parted = []
    for piece in pieces:
        tuples = re.findall(r"\([^()]*,[^()]*\)", piece)
        if len(tuples) > 1 and re.sub(r"\([^()]*,[^()]*\)|\s", "", piece) == "":
            parted += tuples
        else:
            parted.append(piece)
    return parted


def _without_labels(pieces: list[str]) -> list[str]:
    """``(a) 3; (b) 5`` is 3; 5, if every item has its label."""
    pieces = [piece.strip() for piece in pieces]
    labels = [_LABEL.match(piece) for piece in pieces if piece]
    marks = [label.group(1) for label in labels if label]
    if len(marks) < 2 or len(marks) < len(labels) or marks != sorted(set(marks)):
        return pieces
    return [_LABEL.sub("", piece, count=1) for piece in pieces]


def _is_domain(piece: str) -> bool:
    return bool(_DOMAIN.fullmatch(piece.strip()))


def _is_permutation(piece: str) -> bool:
    return bool(re.search(r"permutation|permuting|any order|cyclic", piece)) and "(" not in (
        _TEXT.sub("", piece)
    )


def _permutations(items: list[Form]) -> list[Form]:
    """Every order of each tuple, for `(1,2,3) and permutations`."""
    found: dict[Form, None] = {}
    for item in items:
        if isinstance(item, Named):
            item = item.value
        if isinstance(item, Group) and item.opening == "(" and len(item.items) <= 5:
            for order in itertools.permutations(item.items):
                found[Group("(", order, ")")] = None
        else:
            found[item] = None
    return list(found)


def _signs(piece: str, independent: bool) -> list[str]:
    r"""The items that ``\pm`` and ``\mp`` stand for."""
    count = len(re.findall(r"\\(?:pm|mp)(?![a-z])", piece))
    if not count or count > 4:
        return [piece]
    if independent:
        choices = list(itertools.product("+-", repeat=count))
    else:
        choices = [("+",) * count, ("-",) * count]
    found = []
    for choice in choices:
        signs = iter(choice)

        def sign(match: re.Match[str], signs: "itertools.chain[str]" = signs) -> str:  # type: ignore[assignment]
            chosen = next(signs)
            if match.group() == r"\mp":
                chosen = "-" if chosen == "+" else "+"
            return chosen

        plain = re.sub(r"\\(?:pm|mp)(?![a-z])", sign, piece)
        found.append(re.sub(r"(^|[=(,{<>]\s*)\+", r"\1", plain))
    return found


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
        match = condition.search(_joined_words(piece))
        if not match or match.start() == 0:
            return None
        whole = _joined_words(piece)
        value = whole[: match.start()].strip()
        branches.append((_item(value, independent, depth + 1), whole[match.start() :].strip()))
    return Cases(tuple(branches)) if len(branches) > 1 else None


def _spread_names(items: list[Form]) -> list[Form]:
    """``x = 1, 2`` names both values x, unless other names follow."""
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
    worded = _worded(text, independent, depth)
    if worded is not None:
        return worded
    congruence = _congruence(text)
    if congruence is not None:
        return congruence
    sides, signs = split(text, _RELATION)
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
    if text.startswith("-"):
        turned = _bracketed(text[1:].strip(), independent, depth)
        if isinstance(turned, Group) and all(isinstance(item, Value) for item in turned.items):
            values = [item for item in turned.items if isinstance(item, Value)]
            return Group(turned.opening, tuple(Value(f"-({v.tex})") for v in values), turned.closing)
    return _bracketed(text, independent, depth) or Value(text)


def _related(sides: list[str], signs: list[str], independent: bool, depth: int) -> Form:
    if signs[-1] in (r"\implies", r"\iff", r"\to"):
        return _item(sides[-1] or sides[0], independent, depth + 1)
    for arrow in (r"\implies", r"\iff"):
        if arrow in signs:
            last = len(signs) - 1 - signs[::-1].index(arrow)
            return _related(sides[last + 1 :], signs[last + 1 :], independent, depth)
    if r"\approx" in signs:
        # "exact ≈ decimal" is answered by what is exact, "x ≈ decimal" by the decimal.
        at = signs.index(r"\approx")
        if at == 0 and is_name(sides[0]):
            return Named(sides[0], _item(sides[1], independent, depth + 1))
        return _item("".join(map("".join, itertools.zip_longest(sides[: at + 1], signs[:at], fillvalue=""))),
                     independent, depth + 1)  # fmt: skip
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
    if is_name(variable) and not _is_domain(condition):
        return read(condition, independent, depth + 1)
    return _item(member, independent, depth + 1)


def _congruence(text: str) -> Congruence | None:
    match = re.fullmatch(
        r"(?:[a-zA-Z]\s*)?(?:\\equiv|=)?\s*([-\d\s,\\a-z{}]+?)\s*\(?\s*\\p?mod\s*\(?\s*\{?(\d{1,6})\}?\s*\)*",
        text.strip(),
    )
    if match and r"\equiv" in text:
        residues = re.sub(r"\\text\{(?:and|or)\}|\\pm(?!od)", ",", match.group(1))
        numbers = re.findall(r"-?\d{1,6}", residues)
        modulus = int(match.group(2))
        if numbers and modulus and not re.sub(r"[-\d\s,]", "", residues):
            values = [int(number) for number in numbers]
            if re.search(r"\\pm(?!od)", text):
                values += [-value for value in values]
            return Congruence(tuple(sorted({value % modulus for value in values})), modulus)
    return None


def _worded(text: str, independent: bool, depth: int) -> Form | None:
    """Read an item that has words in it; None if it has none."""
    if not _TEXT.search(text):
        return None
    text = _joined_words(text)
    words = wording.clean(" ".join(_TEXT.findall(text)))
    bare = _TEXT.sub(" ", text).strip(" .,;:()[]-'\"")
    if not bare:
        count = wording.number(words)
        return Words(words) if count is None else Value(str(count))
    tokens = set(words.split())
    if tokens & wording.NEGATIONS:
        return Words(_spoken(text))
    # "x is 5" is an equation; "the answer is 5" has its value after the verb.
    text = re.sub(
        r"(?<=[\w})])\s*\\text\{(?:is|are|equals?|is equal to|be)\}\s*(?=[\\\w({\[-])", " = ", text
    )
    text = re.sub(r"\\text\{[^{}]*\b(?:is|are|equals?|be)\}\s*:?\s*(?=[^\s])", " ", text)
    bound = re.fullmatch(
        r"\s*\\text\{[^{}]*\b(at least|at most|more than|less than|greater than|fewer than)\}\s*(.+)",
        text,
    )
    if bound:
        sign = {"at least": r"\ge", "at most": r"\le", "more than": ">", "greater than": ">"}
        return Relation(("", bound.group(2)), (sign.get(bound.group(1), "<"),))
    lead = re.match(r"\s*\\text\{([^{}]*)\}\s*:?\s*(?=\S)", text)
    if re.match(r"\s*\\text\{(?:maximum|minimum|max|min)[^{}]*\}\s*[:=]", text, re.IGNORECASE):
        name, _, value = re.sub(r"\}\s*[:=]", "}=", text, count=1).partition("}=")
        return Named(name.strip()[6:], _item(value, independent, depth + 1))
    if lead and set(wording.clean(lead.group(1)).split()) <= wording.BENIGN:
        text = text[lead.end() :]
    elif lead and re.match(r"\s*\\text\{[^{}]*\}\s*[:=]", text):
        text = re.sub(r"^\s*\\text\{[^{}]*\}\s*[:=]\s*", "", text)
    tail = re.search(
        r"\s*(\\text\{[^{}]*\}(?:\\text\{[^{}]*\}|\^\s*\{?\s*-?\d\s*\}?|/|\\cdot|\s)*)\.?$", text
    )
    unit = ""
    if tail and re.match(r"(?:is|are|was|must|has|have)\b", wording.clean(tail.group(1))):
        said = set(wording.clean(tail.group(1)).split())
        if is_name(text[: tail.start()]) or not said <= wording.BENIGN:
            return Words(_spoken(text))
    if tail:
        value = text[: tail.start()].strip()
        if set(wording.clean(tail.group(1)).split()) <= wording.BENIGN - {"degree"}:
            text = value
        elif value and not _TEXT.search(value):
            unit, text = wording.clean(tail.group(1)), value
    if _TEXT.search(text):
        whole = _TEXT.sub(
            lambda m: " " if set(wording.clean(m[1]).split()) <= wording.BENIGN else m[0], text
        )
        if _TEXT.search(whole) or (
            not _RELATION.search(whole) and whole.strip() != _TEXT.sub("", text).strip()
        ):
            return Words(_spoken(text))
        text = whole
    form = _item(text, independent, depth + 1) if text.strip() else Words(words)
    if unit:
        return _with_unit(form, unit)
    if isinstance(form, Relation) and _INTEGER.search(words):
        return Relation(form.sides, form.signs, True)
    return form


def _spoken(text: str) -> str:
    """The item with its words in clean form and its formulas as they are."""
    return " ".join(_TEXT.sub(lambda match: f" {wording.clean(match.group(1))} ", text).split())


def _with_unit(form: Form, unit: str) -> Form:
    if isinstance(form, Value):
        return Value(form.tex, unit)
    if isinstance(form, Named):
        return Named(form.name, _with_unit(form.value, unit))
    if isinstance(form, Ratio) and unit in ("am", "pm"):
        return Ratio(form.terms, unit)
    return form
