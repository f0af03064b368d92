r"""From a response to the answer it gives: plain string work, linear in the response, no parser.

The rules, in order:

1. What stands before the last end-of-thinking tag is not the answer, nor what stands after a token
   that ends a turn. A response that opens the thinking part and never closes it has not answered.
2. The last ``\boxed{…}`` (or ``\fbox{…}``) is the answer, braces nested as deep as they like.
   Boxes joined by nothing but a comma, "and", "or" or a label (``x = \boxed{1}, y = \boxed{2}``)
   are one answer of several parts; prose between two boxes makes the later one the answer.
   Of boxes in one another the outermost is the answer, all of it, and is read as if the inner
   ones were not drawn: ``\boxed{11 + \boxed{30}}`` answers 11 + 30, and not 30.
3. Without a box: no answer in mode ``boxed``; in mode ``boxed_or_last`` the first of CONVENTIONS
   that the response follows, up to where a base model goes on with a problem of its own.
4. In mode ``choice`` the answer is a letter: boxed, else after the last "answer is", else the last
   letter that stands alone on its line.
"""

import re
from collections.abc import Callable, Iterator
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
_ANSWER_IS = "|".join(
    (
        # Wei et al. 2022 (chain of thought): "The answer is 5."; chat models: "**Answer:** 5"
        r"(?:final[\s_]+answers?|\banswers?|\bans)(?:\s+to\s+(?:the|this)\s+\w+)?[\"'*_\s]*"
        r"(?:(?:is|are)\b(?!n't)(?:\s+therefore|\s+thus)?|:|=)",
        r"####",  # GSM8K: "#### 5" (Cobbe et al. 2021)
        r"#+\s*final\s+answer\s*\n|\*\*final\s+answer\*\*",  # headings of chat models
        r"(?:最终|最后)?的?答案(?:是|为|為|應該是|应该是|等于|[:：])",  # CMATH, MGSM-zh
        r"答えは|答え[:：]|정답은|답은|정답[:：]|답[:：]",  # MGSM-ja; Korean
        r"\bответ(?:\s+равен)?\s*(?:[:：—–-]|это)",  # MGSM-ru
        r"\brespuesta(?:\s+final)?\s*(?:es\b|[:：])|\bresposta(?:\s+final)?\s*(?:é|[:：])",
        r"\br[ée]ponse(?:\s+finale)?\s*(?:est\b|[:：])|\brisposta(?:\s+finale)?\s*(?:è|[:：])",
        r"\bantwort\s*(?:ist\b|lautet\b|[:：])|\bantwoord\s*(?:is\b|[:：])",
        # Languages that MGSM lacks, as chat models write them
        r"\bđáp\s+(?:án|số)(?:\s+(?:cuối\s+cùng))?\s*(?:là\b|[:：])|\bjawaban(?:nya)?\s*(?:adalah\b|[:：])",
        r"\bcevap\s*(?:[:：])|\bodpowiedź\s*(?:to\b|[:：])|उत्तर\s*(?:है|[:：])",
        r"(?:الجواب|الإجابة)(?:\s+النهائية|\s+النهائي)?\s*(?:هو|هي|[:：])",
    )
)
"""What says that the answer follows, in the words of prompts and data sets (MGSM: Shi et al. 2022,
arXiv 2210.03057, has one question set in eleven languages)."""
_ANCHOR = re.compile(rf"(?:{_ANSWER_IS})[*_:：\s]*", re.IGNORECASE)
_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_ENDED = re.compile(
    r"<\|(?:im_end|endoftext|eot_id|end_of_text|end|eom_id|im_start)\|>|<(?:/s|eos|end_of_turn)>"
    r"|<｜end▁of▁sentence｜>"
)
"""Tokens that end a turn: ChatML (Qwen), GPT-2, Llama 3, Phi; Llama 2, Gemma; DeepSeek."""
_NEXT_PROBLEM = re.compile(
    r"\bI hope it is correct\b|\n(?:#+\s*|\*\*)?(?:Problem|Question|Q|User|Human|Instruction"
    r"|问题|题目)\s*\d*\s*(?:[:：.]|\n)",
)
"""Where a base model goes on after its answer: Minerva's four-shot prompt (Lewkowycz et al. 2022)
ends each solution with the first and starts the next with "Problem:"."""
_SENTENCE_END = re.compile(
    r"[。！]|(?<!\d)\.(?=\s|$)|(?<=[\d$)\]}*])\.(?=\s*$|\s+[A-Z(])|(?<=[\d$)\]}*])[,，]\s*(?=which\b"
    r"|so\b|not\b|because\b|since\b|meaning\b|as\b|making\b|i\.e|therefore\b|hence\b|thus\b|因为|所以)"
)
_CLAUSE = re.compile(r"[^\W\d_]{3,}\s")
_IS_ANSWER = re.compile(
    r"(?<!\S)(\S{1,80})\s+is\s+(?:the|my|our)\s+(?:final\s+|correct\s+)?answer\b"
)
_LEAD = re.compile(r"(?:(?:so|thus|hence|therefore|then|and)\b[,:]?|∴)\s+", re.IGNORECASE)
_POLITE = re.compile(r"(?<=\d)\s*(?:です|입니다|이다|イです)$")
_FORMULA = re.compile(
    r"\$\$([^$]+)\$\$|\$([^$\n]+)\$|\\\[((?:(?!\\\[).)+?)\\\]|\\\(((?:(?!\\\().)+?)\\\)", re.DOTALL
)
_BOLD = re.compile(r"\*\*([^*\n]+)\*\*|__([^_\n]+)__")
_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:/\d+)?%?")
_HTML = re.compile(r"</?(?:b|i|p|em|strong|span|br)(?:\s[^<>]*|/)?>", re.IGNORECASE)
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
    ended = _ENDED.search(text, len(text) - len(text.lstrip()))
    if ended and text[: ended.start()].strip():
        text = text[: ended.start()]
    spans = _boxed_spans(text)
    boxes = tuple(text[start:end].strip() for _, start, end, _ in spans)
    if mode == "choice":
        return Extraction(_choice(text, boxes[-1] if boxes else None), boxes)
    if spans:
        return Extraction(_last_run(text, spans), boxes)
    if mode == "boxed_or_last":
        return Extraction(_without_box(text))
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


def _without_box(text: str) -> str | None:
    """What the first convention that the text follows says; a convention may say nothing."""
    text = _HTML.sub(" ", text)
    said = _ANCHOR.search(text)
    goes_on = _NEXT_PROBLEM.search(text, said.end()) if said else None
    text = (text[: goes_on.start()] if goes_on else text).strip()
    for convention in CONVENTIONS:
        found = _tidied(convention.find(text) or "")
        if found:
            return found
    return None


def _tidied(answer: str) -> str:
    """Without what surrounds an answer: bold, quotes, dollars around all of it, a last period."""
    for _ in range(3):
        answer = answer.strip().strip("`").strip()
        whole = _BOLD.fullmatch(answer) or _FORMULA.fullmatch(answer)
        if whole:
            answer = next(group for group in whole.groups() if group).strip()
        elif answer.startswith("**") or answer.endswith("**"):
            answer = answer.strip("*").strip()
        answer = answer.rstrip("。").rstrip()
        if answer.endswith(".") and answer[-2:-1] in tuple("0123456789$)]}*"):
            answer = answer[:-1]
    return answer


def _tagged(text: str) -> str | None:
    opened, found = None, None
    for tag in _TAG.finditer(text):
        if tag.group(1) and opened is not None:
            found = text[opened : tag.start()].strip()
        opened = None if tag.group(1) else tag.end()
    return (_said(found) or found) if found else None


def _said(text: str) -> str | None:
    """The rest of the sentence after the last words that say that the answer follows."""
    for anchor in reversed(list(_ANCHOR.finditer(text))):
        stop = text.find("\n", anchor.end())
        line = text[anchor.end() : stop if stop >= 0 else len(text)].strip()
        if not line:
            continue
        if line.startswith(("$$", r"\[")):  # a formula on lines of its own
            formula = _FORMULA.match(text, anchor.end())
            line = formula.group() if formula else line
        end = _SENTENCE_END.search(line)
        answer = (line[: end.start()] if end else line).strip()
        if text[anchor.start() - 1 : anchor.start()] == '"':  # of a JSON object
            answer = answer.rstrip(" }\n").strip('" ')
        if answer.strip(" *_"):
            return _POLITE.sub("", answer)
    said = _last(_IS_ANSWER.finditer(text))
    return said.group(1) if said else None


def _whole(text: str) -> str | None:
    """A short response of one line, unless it is a sentence around a formula or number."""
    if not text or len(text) > ONE_LINE_CHARS or "\n" in text:
        return None
    text = _LEAD.sub("", text, count=1) if _LEAD.match(text) else text
    words = _CLAUSE.findall(_FORMULA.sub(" ", text))
    return None if len(words) > 1 and (_BOLD.search(text) or _NUMBER.search(text)) else text


def _last_line(text: str) -> str | None:
    line = text.rsplit("\n", 1)[-1]
    found = _emphasised(line) or _formula(line)
    return found or (_number(line) if _CLAUSE.search(line) else None)


def _emphasised(text: str) -> str | None:
    """What is bold, if it is a value and no heading."""
    bold = [first or second for first, second in _BOLD.findall(text)]
    values = [one for one in bold if re.search(r"\d|\$|\\", one) and not one.rstrip().endswith(":")]
    return values[-1] if values else None


def _formula(text: str) -> str | None:
    formula = _last(_FORMULA.finditer(text))
    return next(group for group in formula.groups() if group) if formula else None


def _number(text: str) -> str | None:
    numbers = _NUMBER.findall(text)
    return numbers[-1] if numbers else None


@dataclass(frozen=True)
class Convention:
    """A way to end a response with an answer, and who does so."""

    name: str
    source: str
    find: Callable[[str], str | None]


CONVENTIONS = (
    Convention("answer tag", "DeepSeek-R1's template (arXiv 2501.12948)", _tagged),
    Convention("said", "GSM8K, Minerva, chain-of-thought prompts, MGSM, chat models", _said),
    Convention("whole", "a response that is an answer and nothing else", _whole),
    Convention("last line", "chat models' Markdown: **5**; $x = 5$", _last_line),
    Convention("formula", "a solution that ends in its result", _formula),
    Convention("number", "lm-evaluation-harness, gsm8k: flexible-extract", _number),
)
"""What counts without a box, in this order. With `boxed` (training) none of them does."""


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
