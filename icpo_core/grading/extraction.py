r"""From a response to the answer it gives: plain string work, linear in the response, no parser.

The rules, in order:

1. What stands before the last end-of-thinking tag is not the answer. A response that opens the
   thinking part and never closes it has not answered.
2. The last ``\boxed{…}`` (or ``\fbox{…}``) is the answer, braces nested as deep as they like.
   Boxes joined by nothing but a comma, "and", "or" or a label (``x = \boxed{1}, y = \boxed{2}``)
   are one answer of several parts; prose between two boxes makes the later one the answer.
   Of boxes in one another the outermost is the answer, all of it, and is read as if the inner
   ones were not drawn: ``\boxed{11 + \boxed{30}}`` answers 11 + 30, and not 30.
3. Without a box: no answer in mode ``boxed``; in mode ``boxed_or_last`` what follows the last
   "answer is", else the whole of a one-line response, else the last formula, else the last number.
4. In mode ``choice`` the answer is a letter: boxed, else after the last "answer is", else the last
   letter that stands alone on its line.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Mode = Literal["boxed", "boxed_or_last", "choice"]

ONE_LINE_CHARS = 300
"""A response without a box of at most this many characters and one line is an answer as a whole."""

_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_BARE_BOX = re.compile(r"\\(?:boxed|fbox)\s*(\\[a-zA-Z]+|[^\s{}\\])")
_INNER_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=\{)")
_JOINER = re.compile(
    r"(?:and|or|&|;|,)*(?:\(?[a-z0-9]{1,3}[).:]|[a-zA-Z](?:_?\{?[a-z0-9]{1,3}\}?)?=)?",
    re.IGNORECASE,
)
_JOINER_NOISE = re.compile(r"\\(?:quad|qquad|text|mathrm|left|right|[,;:!()\[\] ])|[\s${}*]+")
_JOINER_CHARS = 60
_ANCHOR = re.compile(
    r"(?:final\s+answers?|answers?|####)[*_\s]*(?:is|are|:|=|(?<=#))[*_:\s]*", re.IGNORECASE
)
_FORMULA = re.compile(r"\$\$([^$]+)\$\$|\$([^$\n]+)\$|\\\[(.+?)\\\]|\\\((.+?)\\\)", re.DOTALL)
_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:/\d+)?%?")
_LETTER = re.compile(
    r"^[\s$({\[*]*(?:\\(?:text|textbf|mathrm|mathbf|bf|rm)\s*\{?)?[\s({\[*]*([A-Z])(?![A-Za-z0-9])"
)
_LETTER_ALONE = re.compile(r"^[\s(*]*([A-Z])[\s).:*]*$", re.MULTILINE)


@dataclass(frozen=True)
class Extraction:
    """What a response answers.

    `answer` is the answer (None: there is none), `boxes` all the boxed contents in order: a gold
    answer of n parts may be met by n boxes spread over the text. Both are valid Unicode without
    surrogates and NUL.
    """

    answer: str | None
    boxes: tuple[str, ...] = ()


def extract(response: str, mode: Mode, thinking_end_tag: str = "</think>") -> Extraction:
    """Return the answer that `response` gives. Never raises, linear in the length of `response`."""
    text = clean(after_thinking(response, thinking_end_tag))
    spans = _boxed_spans(text)
    boxes = tuple(text[start:end].strip() for _, start, end, _ in spans)
    if mode == "choice":
        return Extraction(_choice(text, boxes[-1] if boxes else None), boxes)
    if spans:
        return Extraction(_last_run(text, spans), boxes)
    if mode == "boxed_or_last":
        return Extraction(_last_answer(text))
    return Extraction(None)


def after_thinking(response: str, end_tag: str) -> str:
    """Return what follows the last `end_tag`; nothing, if thinking was opened and never closed."""
    if not end_tag:
        return response
    _, closed, answer = response.rpartition(end_tag)
    if not closed and end_tag.replace("/", "", 1) in response:
        return ""
    return answer


def choice_letter(answer: str) -> str | None:
    r"""Return the letter of `B`, `(B)`, `\text{(B)}`, `B. 12` or `\textbf{(B)}\ 12`; else None."""
    match = _LETTER.match(answer)
    return match.group(1) if match else None


def clean(text: str) -> str:
    """The text with U+FFFD for what no file can hold: lone surrogates and NUL."""
    # Parquet and JSON carry UTF-8 only; a lone surrogate or a NUL in an answer says nothing.
    return _NO_TEXT.sub("\N{REPLACEMENT CHARACTER}", text)


def _boxed_spans(text: str) -> list[tuple[int, int, int, int]]:
    r"""Return (start of the command, start and end of the content, end) of each outermost box.

    One pass with a stack, so that ten thousand nested boxes cost no more than ten thousand braces.
    Escaped braces (``\{``) are content. A last box that never closes counts up to its line's end.
    """
    closed: list[tuple[int, int, int, int]] = []
    stack: list[tuple[int, int] | None] = []
    for match in _BRACES.finditer(text):
        token = match.group()
        if token == "}":
            opened = stack.pop() if stack else None
            if opened:
                while closed and closed[-1][0] > opened[0]:
                    closed.pop()
                closed.append((*opened, match.start(), match.end()))
        elif token == "{":
            stack.append(None)
        elif len(token) > 2:
            stack.append((match.start(), match.end()))
    unclosed = [opened for opened in stack if opened]
    after = closed[-1][3] if closed else 0
    if unclosed and unclosed[0][0] >= after:
        start, content = unclosed[0]
        end = re.compile(r"\\?\}\s*$|[\n$]|$").search(text, content)
        assert end is not None  # "$" matches at the end of any text
        closed.append((start, content, end.start(), end.end()))
        after = end.end()
    bare = _last(_BARE_BOX.finditer(text, after))
    if bare:
        closed.append((bare.start(), bare.start(1), bare.end(1), bare.end()))
    return [span for span in closed if text[span[1] : span[2]].strip()]


def _last_run(text: str, spans: list[tuple[int, int, int, int]]) -> str:
    """Return the last box, joined by commas with those before it that are parts of one answer."""
    parts = [text[spans[-1][1] : spans[-1][2]].strip()]
    for previous, following in zip(spans[-2::-1], spans[:0:-1], strict=True):
        between = text[previous[3] : following[0]]
        if len(between) > _JOINER_CHARS:
            break
        if not _JOINER.fullmatch(_JOINER_NOISE.sub("", between)):
            break
        content = text[previous[1] : previous[2]].strip()
        if content not in parts:
            parts.insert(0, content)
    return ", ".join(parts)


def _last_answer(text: str) -> str | None:
    text = text.strip()
    anchor = _last(_ANCHOR.finditer(text))
    if anchor:
        line = text[anchor.end() :].split("\n", 1)[0].strip().removesuffix("**").strip()
        if line:
            return line
    if text and len(text) <= ONE_LINE_CHARS and "\n" not in text:
        return text
    formula = _last(_FORMULA.finditer(text))
    if formula:
        return next(group for group in formula.groups() if group).strip() or None
    numbers = _NUMBER.findall(text)
    return numbers[-1] if numbers else None


def _last(matches: Iterator[re.Match[str]]) -> re.Match[str] | None:
    last = None
    for last in matches:  # noqa: B007
        pass
    return last


def _choice(text: str, box: str | None) -> str | None:
    if box is not None:
        return choice_letter(_INNER_BOX.sub("", box)) or box
    found = None
    for anchor in _ANCHOR.finditer(text):
        found = choice_letter(text[anchor.end() : anchor.end() + 40]) or found
    if found is None:
        alone = _LETTER_ALONE.findall(text)
        found = alone[-1] if alone else None
    return found
