"""Names of quantities and letters in expressions, and which names are the same."""

import re

from icpo_core.grading.answers import wording
from icpo_core.grading.answers.counted import is_understood
from icpo_core.grading.answers.forms import TEXT

_NAME = re.compile(
    r"\\?[A-Za-z]+(?:'+)?(?:\s*_\s*(?:\{[^{}]*\}|\w|\\[a-z]+))?(?:'+|\^\{?\\prime\}?|\^\{\*\}|\^\*|\^\{(?:\w|-1)\}(?=\s*\())?"
    r"(?:\s*\([^()=<>]*\))?"
)
_GEOMETRIC = re.compile(
    r"\\(?:angle|triangle|overline|vec|hat|dot|ddot|tilde|bar|overrightarrow|measuredangle|Delta)\s*"
    r"(?:\{[^{}]*\}|[A-Za-z]\w*(?:\s*_\s*\{?\w+\}?)?(?:\s*[A-Z](?:_\s*\{?\w+\}?)?)*)"
)
_COMMANDS = re.compile(r"\\[a-zA-Z]+")
_ONE_LETTER = re.compile(
    r"(?:[a-z]|\\(?!angle|triangle|frac|over|vec|bar|hat)[a-z]+)(?:_\w+)?'*(?:\(.*\))?"
)
_OF_THE_ANSWER = re.compile(r"\bof (?:the |my |our |its )*(?:answer|result|solution)\b")
PARAMETERS = frozenset("abcklmnprstABCKMN")
"""Letters that may stand for any constant or integer."""


def names_in(tex: str) -> set[str]:
    """Return the single letters that stand for themselves in an expression."""
    return {token for token in re.findall(r"\\[a-zA-Z]+|[A-Za-z]", tex) if token[0] != "\\"}


def unworded(text: str) -> str:
    """The text without its words and the names of number sets."""
    return re.sub(r"\\text\{[^{}]*\}|\\mathbb\{[^{}]*\}", " ", text)


def rename(tex: str, old: str, new: str) -> str:
    """Return `tex` with the letter `old` replaced where it is a variable."""
    pattern = r"\\(?:text|begin|end|mathbb)\{[^{}]*\}|\\[a-zA-Z]+|[A-Za-z]"
    return re.sub(pattern, lambda match: new if match.group() == old else match.group(), tex)


def is_name(text: str) -> bool:
    r"""Whether the text names a quantity: ``x``, ``a_{n}``, ``f(x)``, ``\angle ABC``, ``(x,y)``."""
    text = text.strip()
    if text.startswith("(") and text.endswith(")") and "," in text:
        return all(is_name(part) for part in text[1:-1].split(","))
    if ":" in text:
        return all(is_name(part) for part in text.split(":"))
    if text.startswith("|") and text.endswith("|") and len(text) < 12:
        return is_name(text[1:-1])
    if re.fullmatch(r"\\frac\{[a-zA-Z]\w?\}\{[a-zA-Z]\w?\}|[a-zA-Z]\s*/\s*[a-zA-Z]", text):
        return True
    text = re.sub(r"^\\(?:sin|cos|tan|cot)\s*(?=\\angle|[A-Z])", "", text)
    if TEXT.fullmatch(text) or _GEOMETRIC.fullmatch(text):
        return True
    if re.fullmatch(r"\\frac\s*\{\s*d\S*\s*\w*'*\}\s*\{\s*d\s*\w(?:\^\{\d\})?\}", text):
        return True
    return bool(_NAME.fullmatch(text)) and text not in ("e", r"\pi", "i", r"\infty", r"\emptyset")


def plain_name(name: str) -> str:
    r"""A name without what writers vary: spaces, case, ``_{\max}``, arguments' spaces."""
    plain = re.sub(r"[\s{}$]|\\text|\\(?=max|min)", "", name).lower()
    plain = re.sub(r"^(max|min)imum(value)?$", r"\1", plain)
    return re.sub(r"(?<=.)_?\(?(max|min|maximum|minimum)\)?$", "", plain)


def same_name(gold: str, answer: str) -> bool:
    ours, theirs = plain_name(gold), plain_name(answer)
    if ours == theirs or not ours or not theirs:
        return True
    # f(x) against y or f: both name the function.
    heads = [re.sub(r"\(.*\)$", "", name) for name in (ours, theirs)]
    return heads[0] == heads[1] or (ours.startswith("(") and theirs.startswith("("))


def is_quantity(name: str) -> bool:
    """Whether a name says no more than which quantity its value is: `x`, `f(x)`, `total cost`, and
    not `half the answer`."""
    words = TEXT.findall(name)
    if not re.search(r"[\\(_{|]", name) and re.search("[a-z]{3}", name):
        words = [name]
    return all(is_understood(said) and not _OF_THE_ANSWER.search(said) for said in words)


def may_name_one(gold: str, answer: str, symbolic: bool) -> bool:
    """Whether two names may stand for one quantity, given that the values are the same.

    `symbolic`: the value is a formula in letters. ``y = 2x`` and ``f(x) = 2x`` are one function;
    ``x = 5`` and ``y = 5`` are not one number, nor ``AB = 5`` and ``CD = 5`` one length, but
    ``\\text{area} = 5`` and ``S = 5`` may be.
    """
    if _derived(gold) != _derived(answer) and not re.fullmatch(r"\s*[a-zA-Z]\s*", answer):
        return False
    if same_name(gold, answer):
        return True
    if any(
        TEXT.search(name) or re.search("[a-z]{3}", _COMMANDS.sub("", name))
        for name in (gold, answer)
    ):
        return is_quantity(answer) and not wording.are_opposed(gold, answer)
    if gold != answer and {gold.strip(), answer.strip()} <= {"x", "y", "z"}:
        return False  # coordinates
    letters = sum(bool(_ONE_LETTER.fullmatch(plain_name(name))) for name in (gold, answer))
    return letters > 0 if symbolic else letters == 1


def _derived(name: str) -> tuple[int, str, str]:
    r"""What was done to the function that is named: its derivatives, its power or inverse, and what
    it is taken of where that is no letter. ``f'(x)``, ``f^{-1}(x)`` and ``f(2x)`` are not ``f(x)``.
    """
    plain = re.sub(r"[\s{}]|\\(?:left|right)", "", name)
    if re.search("[a-z]{3}", _COMMANDS.sub("", plain)):
        return 0, "", ""  # in words
    primes = plain.count("'") + plain.count(r"\prime") + plain.startswith(r"\fracd")
    power = re.search(r"\^(-?\w+)", plain.replace(r"^\prime", ""))
    argument = re.search(r"(?<=\w)\(([^()]*)\)$", plain)
    taken = argument.group(1) if argument else ""
    return primes, power.group(1) if power else "", taken if re.search(r"[-+*/\d]", taken) else ""


def squeezed(tex: str) -> str:
    """The text without the spaces that say nothing: those between digits part two numbers."""
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", re.sub(r"_\s*(\w)", r"_{\1}", tex))
