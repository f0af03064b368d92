"""The words around an answer: conditions that repeat the problem's, labels, units, lead-ins.

All work is on tidy text. What is left when the words are parted off is read by
`icpo_core.grading.answers.reading`.
"""

import re
from dataclasses import dataclass

from icpo_core.grading.answers import wording
from icpo_core.grading.answers.counted import is_understood
from icpo_core.grading.answers.forms import RELATION, TEXT, Ratio, Relation, Value, Words
from icpo_core.grading.answers.names import is_name, names_in, rename, squeezed, unworded
from icpo_core.grading.answers.numerals import number_in

# Where a remark starts: "for all n", "where k is an integer", "attained at x = 1".
_REMARK = re.compile(
    r"[,;.]?\s*\(?\s*(?:\\forall(?![a-z])"
    r"|\\text\{\s*for\s*\}(?=\s*[a-z]\s*(?:,\s*[a-z]\s*)*\\(?:in|ge|le|ne)(?![a-z]))"
    r"|\\text\{\s*(?:for\s+(?:all|any|every|each|some|real|positive|integers?|natural|nonzero"
    r"|non-zero|an?|constants?|arbitrary)|where|with|given|provided|assuming|whenever|here"
    r"|such that|valid|as|since|because|by|using"
    r"|(?:which is |is )?(?:attained|achieved|reached|obtained|occurring|occurs))\b[^{}]*\})"
)
_WHEN = re.compile(
    r"[,;]?\s*\(?\\text\{(?:which is |with |is )?(?:equality |holds |attained |achieved )*"
    r"(?:when|if and only if|iff|at)\}"
)
_FOR_ALL = re.compile(
    r"\\text\{for(?: (?:all|any|every|each))?\}\s*(?:\\text\{(?:all|any|every|each)\}\s*)?[^,=]*,"
)
_BRACKETED = re.compile(r"\s\(([^()]*)\)$|(?<=[\w}])\(([^()]*(?:\\in|\\text)[^()]*)\)$")
_SPOKEN_ASIDE = re.compile(r"\\text\{\s*\(([^(){}\d]*)\)\s*\}$")
_OTHERS = re.compile(r"\s*\\text\{(?:rejecting|discarding|ignoring|excluding)\}(.*)")
_ASIDE = re.compile(r"\\in(?![a-z])|\\text|\\ge|\\le|\\ne|[<>]|\\forall|\\approx")
_DOMAIN = re.compile(
    r"[A-Za-z](?:_\{?\w+\}?)?(?:\s*,\s*[A-Za-z](?:_\{?\w+\}?)?)*\s*\\in\s*\\mathbb\{[ZNRQC]\}.*"
    r"|[A-Za-z](?:\s*\\text\{(?:is|being|are|an?|any|some|integers?|arbitrary|real|numbers?|natural"
    r"|positive|constants?)\})+"
)
_RANGE = re.compile(r"([a-zA-Z])\s*(?:\\ge|\\le|\\ne|>|<)\s*(-?\d+)")
_NATURAL_BOUNDS = frozenset(["0", "1", "-1", "2"])
"""Bounds that only say of a letter that it counts, or divides nothing by zero."""
_FINITE = re.compile(r"\\in\s*\\\{")
_NUMBER = (
    r"(?:=|\\text\{(?:is|equals)\})\s*(-?(?:\d[\d./]*|\\frac\{\d+\}\{\d+\}))\s*(?=[,;.)]|$|\\text)"
)
_BOUNDED = re.compile(r"\\(?:ge|le|ne|in)(?![a-z])|[<>]")
_LABEL = re.compile(r"\(\s*([a-h]|[1-9]|i{1,3}|iv|v)\s*\)\s*(?=[^\s,;])")
_INTEGER = re.compile(r"\b(?:integers?|natural|whole)\b")
_IS = re.compile(
    r"(?<=[\w})])\s*\\text\{(?:is|are|equals?|is equal to|be)\}\s*(?=[\\\w({\[-])"
)  # fmt: skip
_SENTENCE_IS = re.compile(r"\\text\{([^{}]*)\b(?:is|are|equals?|be)\}\s*:?\s*(?=[^\s])")
_BOUND = re.compile(
    r"\s*\\text\{[^{}]*\b(at least|at most|more than|less than|greater than|fewer than)\}\s*(.+)"
)
_COMPARED = re.compile(
    r"([^{}]*?)\s*\\text\{(?:is |are |must be )?(?:strictly )?"
    r"(at least|at most|(?:more|greater|larger|less|smaller|fewer) than)( or equal to)?\}\s*(.+)"
)
_COMPARISONS = {"at least": r"\ge", "at most": r"\le", "more than": ">", "greater than": ">",
                "larger than": ">"}  # fmt: skip
_BOUNDS = {"at least": r"\ge", "at most": r"\le", "more than": ">", "greater than": ">"}
_LEAD = re.compile(r"\s*\\text\{([^{}]*)\}\s*(:?)\s*(?=\S)")
_CHANGE = re.compile(
    r"\s*\\text\{\s*(?:an? )?(increased?|decreased?|rise|fall|discount|profit|loss|gain)"
    r"(?: of| by)?\s*\}\s*([^a-z]*\\?%?)",
    re.IGNORECASE,
)
_LABELLED = re.compile(r"\s*\\text\{([^{}]*)\}\s*([:=]?)\s*(?=[^\s:=])(.*)", re.DOTALL)
_TAIL = re.compile(
    r"\s*(\\text\{[^{}]*\}(?:\\text\{[^{}]*\}|\^\s*\{?\s*-?\d\s*\}?|/|\\cdot|\s)*)\.?$"
)


@dataclass(frozen=True)
class Phrase:
    """What is left of an item without its words: the math, its name or unit if words gave one."""

    body: str
    name: str = ""
    unit: str = ""
    integers: bool = False  # the words spoke of integers


def without_remarks(text: str, gold: str | None = None) -> str:
    """Drop conditions that only repeat the problem's: for all n, where k is an integer, (n > 1).

    `gold`: the gold answer, where `text` is a candidate. What a candidate adds must then be
    understood, or be said by the gold; else it stays and makes another answer. A condition that
    tells cases apart (if n is even) stays, too, and a letter that is given its value has it.
    """
    text = _SPOKEN_ASIDE.sub(r" (\\text{\1})", joined_words(text.strip()))
    lead = _FOR_ALL.match(text)
    if lead:
        text = text[lead.end() :].strip()
    text = joined_words(_without_aside(text, gold))
    if len(_WHEN.findall(text)) == 1:  # "5, when x = 2"; twice, it would be cases
        text = re.sub(_WHEN.pattern + r"\s*[A-Za-z,\s=]*=[^,;=]*$", "", text)
    remark = _REMARK.search(text)
    while remark and remark.start() > 0 and not _is_conditional(text[remark.start() :]):
        rest = text[remark.end() :]
        defining = re.search(r"\\text\{\s*(?:where|with)\b", remark.group())
        resume = re.search(";" if defining else r"\\text\{(?:and|or)\}(?=[^,;]*=)|;", rest)
        said = text[remark.start() : remark.end() + (resume.start() if resume else len(rest))]
        if not _only_repeats(said, gold) or (gold is not None and _is_partial(text, said)):
            return text.strip()
        body = _with_values(text[: remark.start()], said)
        text = body + (rest[resume.start() :] if resume else "")
        remark = _REMARK.search(text, len(body))
    return text.strip().rstrip(",;. ")


def _is_partial(text: str, said: str) -> bool:
    """Whether a remark turns a yes or no of all into one of some."""
    return "some" in wording.clean(said).split() and wording.is_polar(text[: text.index(said)])


def _only_repeats(said: str, gold: str | None) -> bool:
    """Whether a remark of a candidate says nothing that the gold answer may not mean."""
    if gold is None or squeezed(said) in squeezed(gold):
        return True
    if _FINITE.search(said) or re.fullmatch(r"[\s,;(]*-?[\d.]+[\s).]*", TEXT.sub("", said)):
        return False  # "by 2", "for every 2": it is calculated with
    return all(is_understood(words) for words in TEXT.findall(said))


def _with_values(body: str, said: str) -> str:
    r"""`cx \text{where c = 1}` as `1x`."""
    for letter in names_in(unworded(body)):
        given = re.search(rf"(?<![A-Za-z\\]){letter}\s*(?:=[^=,;]*)??{_NUMBER}", said)
        if given:
            body = rename(body, letter, f"({given.group(1)})")
    return body


def joined_words(text: str) -> str:
    r"""``\text{for} \text{all}`` as ``\text{for all}``, with and/or kept apart."""
    text = re.sub(r"\\text\{\s*(and|or)\s*\}", r"\\TEXT{\1}", text)
    before = None
    while before != text:
        before = text
        text = re.sub(r"\\text\{([^{}]*)\}\s*\\text\{([^{}]*)\}", r"\\text{\1 \2}", text)
    return re.sub(r"\\TEXT\{(and|or)\}", r"\\text{\1}", text)


def with_labels(pieces: list[str]) -> list[str]:
    r"""``(a) 3; (b) 5`` as equations ``\text{part a} = 3``, if every item has its label."""
    pieces = [piece.strip() for piece in pieces]
    labels = [_LABEL.match(piece) for piece in pieces if piece]
    marks = [label.group(1) for label in labels if label]
    if len(marks) < 2 or len(marks) < len(labels) or marks != sorted(set(marks)):
        return pieces
    places = {label.group(1): f"part {place}" for place, label in enumerate(labels, 1) if label}
    return [
        _LABEL.sub(lambda label: f"\\text{{{places[label.group(1)]}}} = ", piece, count=1)
        for piece in pieces
    ]


def is_domain(piece: str) -> bool:
    r"""Whether a list item only declares letters: ``k \in \mathbb{Z}``."""
    return bool(_DOMAIN.fullmatch(piece.strip()))


def is_range(piece: str, others: list[str], gold: str | None) -> bool:
    r"""Whether a list item only bounds a letter of the other items: the ``k \ge 1`` of ``2^k``."""
    match = _RANGE.fullmatch(piece.strip())
    if match is None:
        return False
    natural = match.group(2) in _NATURAL_BOUNDS
    if not natural and gold is not None and squeezed(piece) not in squeezed(gold):
        return False
    letter = match.group(1)
    bound = [other for other in others if letter in names_in(unworded(other))]
    return bool(bound) and not any(
        _BOUNDED.search(other) or re.match(rf"{letter}\s*(?:=|\\in)", other) for other in bound
    )


def is_permutation(piece: str) -> bool:
    """Whether a list item only says that orders may vary: `and all permutations`."""
    said = re.search(r"permutation|permuting|any order|cyclic", piece)
    return bool(said) and "(" not in TEXT.sub("", piece)


def part(text: str) -> Words | Value | Ratio | Relation | Phrase | None:
    """Part the words of one item from its math; None if it has no words.

    An item that negates, hedges or says more than a unit or a lead-in is words as a whole.
    """
    if not TEXT.search(text):
        return None
    text = joined_words(text)
    words = wording.without_preamble(wording.clean(" ".join(TEXT.findall(text))))
    if not TEXT.sub(" ", text).strip(" .,;:()[]-'\""):
        count = number_in(words)
        return Words(words) if count is None else Value(str(count))
    if set(words.split()) & wording.NEGATIONS:
        return Words(_spoken(text))
    shaped = re.fullmatch(r"\\text\{[^{}]*?(\w+)\s*\}\s*:?\s*-?[\d.]+", text)
    if shaped and shaped.group(1) in wording.SHAPES:
        return Words(_spoken(text))
    share = re.fullmatch(r"(\d+)\s*\\text\{(?:out of|in)\}\s*(\d+)", text)
    if share:
        return Value(f"\\frac{{{share.group(1)}}}{{{share.group(2)}}}")
    ratio = re.fullmatch(r"([^\\]+?)\s*\\text\{to\}\s*([^\\]+)", text)
    if ratio:
        return Ratio(ratio.groups())
    # "x is 5" is an equation; "the answer is 5" has its value after the verb.
    text = _IS.sub(" = ", text)
    said = _SENTENCE_IS.match(text)
    if said and not _is_benign(said.group(1)):
        return Phrase(text[said.end() :], name=wording.clean(said.group(1)))
    text = _SENTENCE_IS.sub(" ", text)
    compared = _COMPARED.fullmatch(text)
    if compared and is_name(compared.group(1)):
        sign = _COMPARISONS.get(compared.group(2), "<")
        if compared.group(3):
            sign = {">": r"\ge", "<": r"\le"}[sign]
        return Relation((compared.group(1).strip(), compared.group(4)), (sign,))
    bound = _BOUND.fullmatch(text)
    if bound:
        return Relation(("", bound.group(2)), (_BOUNDS.get(bound.group(1), "<"),))
    change = _CHANGE.fullmatch(text)
    if change:
        return Phrase(change.group(2), unit=change.group(1).lower())
    lead = _LABELLED.fullmatch(text)
    if (
        lead
        and (lead.group(2) or wording.is_label(lead.group(1)))
        and (not _is_benign(lead.group(1)) or wording.is_extreme(lead.group(1)))
    ):
        return Phrase(lead.group(3), name=wording.clean(lead.group(1)))
    lead = _LEAD.match(text)
    if lead and _is_benign(lead.group(1)):
        text = text[lead.end() :]
    text, unit, verdict = _without_tail(text)
    if verdict is not None:
        return verdict
    if TEXT.search(text):
        bare = TEXT.sub(lambda match: " " if _is_benign(match.group(1)) else match.group(), text)
        math_only = bare.strip() == TEXT.sub("", text).strip()
        if TEXT.search(bare) or not (RELATION.search(bare) or math_only):
            return Words(_spoken(text))
        text = bare
    if not text.strip():
        return Words(words)
    return Phrase(text, unit=unit, integers=bool(_INTEGER.search(words)))


def _without_aside(text: str, gold: str | None) -> str:
    """Drop a bracketed aside at the end, unless it takes back or adds something."""
    bracket = _BRACKETED.search(text)
    if bracket is None or bracket.start() == 0:
        return text
    inner = bracket.group(1) or bracket.group(2) or ""
    spelled = number_in(wording.clean(inner))
    if spelled is not None and text[: bracket.start()].strip() == str(spelled):
        return text[: bracket.start()]  # 5 (five)
    others = _OTHERS.match(inner)
    if others and squeezed(others.group(1)) != squeezed(text[: bracket.start()]):
        return text[: bracket.start()]
    if re.match(r"\s*\\text\{or\}", inner):
        return f"{text[: bracket.start()]} \\text{{or}} {inner.split('}', 1)[1]}"
    if inner.strip().startswith(r"\approx"):
        return f"{text[: bracket.start()]} {inner}"
    kept = wording.NEGATIONS | {"or", "permutation", "permutations"}
    if _ASIDE.search(inner) and not set(wording.clean(inner).split()) & kept:
        return text[: bracket.start()] if _only_repeats(inner, gold) else text
    return text


def _is_conditional(remark: str) -> bool:
    return bool(re.match(r"[^,;]*\b(?:even|odd|otherwise|permutations?|not)\b", remark))


def _without_tail(text: str) -> tuple[str, str, Words | None]:
    """Return the item without the words at its end, the unit that they are, or all as words."""
    tail = _TAIL.search(text)
    if tail is None:
        return text, "", None
    said = wording.clean(tail.group(1))
    value = text[: tail.start()].strip()
    if re.match(r"(?:is|are|was|must|has|have)\b", said) and (
        is_name(value) or not _is_benign(said)
    ):
        return text, "", Words(_spoken(text))
    if (
        _is_benign(said)
        and "or" not in said.split()
        and not (said in ("min", "sec") and value[-1:].isdigit())
    ):
        return value, "", None
    if value and not TEXT.search(value):
        return value, "?" if re.search(r"\{\s*[MBk]\s*\}", tail.group(1)) else said, None
    return text, "", None


def _is_benign(words: str) -> bool:
    taken = re.search(r"(\w+) of$", wording.clean(words))
    if taken and taken.group(1) not in wording.LABELS | wording.MEASURES:
        return False  # a triple of 57
    return set(wording.clean(words).split()) <= wording.BENIGN


def _spoken(text: str) -> str:
    """The item with its words in clean form and its formulas as they are."""
    return " ".join(TEXT.sub(lambda match: f" {wording.clean(match.group(1))} ", text).split())
