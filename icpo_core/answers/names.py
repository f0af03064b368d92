"""Names of quantities and letters in expressions, and which names are the same."""

import re

from icpo_core.answers.forms import TEXT

_NAME = re.compile(
    r"\\?[A-Za-z]+(?:'+)?(?:\s*_\s*(?:\{[^{}]*\}|\w|\\[a-z]+))?(?:'+|\^\{?\\prime\}?|\^\{\*\}|\^\*)?"
    r"(?:\s*\([^()=<>]*\))?"
)
_GEOMETRIC = re.compile(
    r"\\(?:angle|triangle|overline|vec|hat|dot|ddot|tilde|bar|overrightarrow|measuredangle|Delta)\s*"
    r"(?:\{[^{}]*\}|[A-Za-z]\w*(?:\s*_\s*\{?\w+\}?)?(?:\s*[A-Z](?:_\s*\{?\w+\}?)?)*)"
)
PARAMETERS = frozenset("abcklmnprstABCKMN")
"""Letters that may stand for any constant or integer."""


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
    if ":" in text:
        return all(is_name(part) for part in text.split(":"))
    if text.startswith("|") and text.endswith("|") and len(text) < 12:
        return is_name(text[1:-1])
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


def is_variable(name: str) -> bool:
    return bool(re.fullmatch(r"\\?[a-z]+(_\w+)?", plain_name(name))) and (
        len(plain_name(name)) == 1 or "_" in name or "\\" in name
    )
