r"""What happens to texts on their way into a data set, and what can be undone.

A backslash that was read as an escape (``"\frac"`` as a form feed and ``rac``), HTML, the words
around an answer. What cannot be undone is named: an answer that is cut short, or is none.
"""

from __future__ import annotations

import html
import re

# What C, JSON and Python make of a backslash and a letter, and the commands that it may have been.
_ESCAPES = {"\a": "a", "\b": "b", "\t": "t", "\n": "n", "\v": "v", "\f": "f", "\r": "r"}
_NAMES = """
alpha angle approx arccos arcsin arctan ast asymp bar because begin beta between big bigcup
bigcap bigl bigr binom bmod boldsymbol bot boxed bullet fbox flat forall frac nabla ne neg
neq newline ngeq ni nleq nmid not notin nu parallel rVert rangle rbrace rceil rfloor rho
right rightarrow rm rvert tan tanh tau tbinom text textbf textdegree textit textrm tfrac
therefore theta tilde times to top triangle varepsilon varnothing varphi vartheta vdots vec
vee vert
"""
_COMMANDS = frozenset(_NAMES.split())
_CONTROL = re.compile(r"([\a\b\t\n\v\f\r])([a-zA-Z]+)")
# In prose a tab or a line's end may stand before any word: only what is no word tells.
_TOLD_BY = frozenset({"ext", "imes", "heta", "frac", "riangle", "extbf", "extit", "abla", "ight"})
_NO_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_TAG = re.compile(
    r"</?(?:b|i|u|p|em|strong|span|div|br|font|center|code|tt|sub|sup|var|small|big|li|ul|ol|td|tr)"
    r"(?:\s[^<>]*)?/?>", re.I,
)  # fmt: skip
_RAISED = re.compile(r"<(sup|sub)(?:\s[^<>]*)?>(.*?)</\1>", re.I | re.S)
_ENTITY = re.compile(r"&(?:#\d+|#x[0-9a-f]+|[a-z]+\d*);", re.I)
_AROUND = re.compile(
    r"\A(?:####|(?:the\s+)?(?:final\s+|correct\s+)?answer\s*(?:is|:|=))\s*:?\s*(?=\S)", re.I
)
_LATEX_BREAK = re.compile(r"(?:\s*\\\\)+\s*\Z")
_EUROPEAN = re.compile(r"\d{1,3}(?:\.\d{3})+,\d+")
_ABSENT = frozenset({"none", "null", "nan", "n/a", "#n/a", "na", "nil", "tbd"})
_TELLING = "proof omitted omit see refer provided available exercise vary varies reader qed shown"
_ALLOWED = (
    f"{_TELLING} the to cf solution solutions above below is left as a an explanation answer "
    "answers figure text diagram not for by in may graph image picture appendix book"
)
_WORDS_OF = re.compile(r"[a-z]+")
_LETTER = re.compile(r"\(?([A-Za-z])\)?\.?")


def mended_text(text: str) -> tuple[str, list[str]]:
    """A problem or a solution with lost backslashes put back and control characters dropped, and
    what was done."""
    if not _NO_TEXT.search(text) and "\t" not in text and "\nabla" not in text:
        return text, []
    done = []

    def command(match: re.Match[str]) -> str:
        letter, rest = _ESCAPES[match[1]], match[2]
        told = rest in _TOLD_BY if match[1] in "\t\n\r" else True
        if letter + rest not in _COMMANDS or not told:
            return match[0]
        done.append("lost backslash")
        return f"\\{letter}{rest}"

    text = _CONTROL.sub(command, text)
    if _NO_TEXT.search(text):
        done.append("control character")
        text = _NO_TEXT.sub("", text)
    return text, list(dict.fromkeys(done))


def mended_gold(gold: str) -> tuple[str, list[str]]:
    """A gold answer without what is no part of it, and what was done."""
    done = []

    def step(name: str, text: str) -> None:
        nonlocal gold
        if text.strip() != gold.strip() and text.strip():
            done.append(name)
            gold = text

    def command(match: re.Match[str]) -> str:
        letter, rest = _ESCAPES[match[1]], match[2]
        return f"\\{letter}{rest}" if letter + rest in _COMMANDS else match[0]

    step("lost backslash", _CONTROL.sub(command, gold))
    raised = _RAISED.sub(lambda m: f"{'^' if m[1].lower() == 'sup' else '_'}{{{m[2]}}}", gold)
    # In a<b>c nothing is bold: a tag is closed, or is a line's end.
    text = _TAG.sub(" ", raised) if re.search(r"</[a-z]|<br", raised, re.I) else raised
    step("HTML", html.unescape(text) if _ENTITY.search(text) else text)
    gold = " ".join(gold.split(" ")).strip()
    step("words around the answer", _AROUND.sub("", gold))
    step("line break at its end", _LATEX_BREAK.sub("", gold))
    if _EUROPEAN.fullmatch(gold):
        step("decimal comma", gold.replace(".", "").replace(",", "."))
    return gold.strip(), done


def absent(gold: str) -> bool:
    """Whether the text is a program's way of writing that there is nothing."""
    return gold.strip().casefold() in _ABSENT


def damage(gold: str, problem: str) -> str | None:
    """Why a (mended) gold answer is one that nobody can give; None if nothing is seen."""
    if _NO_TEXT.search(gold) or re.search(r"[\t\n\r](?=[a-z])", gold):
        return "a control character in the answer"
    bare = re.sub(r"\\\\|\\[{}]", "", gold)
    depth = 0
    for brace in re.findall(r"[{}]", bare):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            break
    if depth:
        return "a brace is not closed" if depth > 0 else "a brace is not opened"
    opened, closed = (len(re.findall(rf"\\{side}(?![a-zA-Z])", gold)) for side in ("left", "right"))
    if opened != closed:
        return r"\left without \right" if opened > closed else r"\right without \left"
    if re.search(r"[\^_]\s*\$?\s*\Z|\\\Z", bare):
        return "the answer is cut short"
    words = set(_WORDS_OF.findall(gold.lower()))
    if words & set(_TELLING.split()) and words <= set(_ALLOWED.split()):
        return "words where an answer is needed"
    letter = _LETTER.fullmatch(re.sub(r"\\text\w*|\\mathrm|[${}\s]", "", gold))
    if letter and letter[1] not in "ei" and not _names(problem, letter[1]):
        return f"the letter {letter[1]}, which the problem does not name"
    return None


def _names(problem: str, letter: str) -> bool:
    """Whether a letter stands in the problem as a symbol or as an option."""
    if re.search(rf"(?i)(?<![a-z]){letter}\s*\}}?\s*[).:]|\bletter", problem):
        return True
    # "A shop" and "I have" hold no symbol.
    article = r"(?!\s+[a-z])" if letter in "AaI" else ""
    return re.search(rf"(?<![a-z\\]){letter}(?![a-z]){article}", problem) is not None
