r"""An answer as people and models write it, in one notation: plain LaTeX without ornament.

`tidy` knows spelling only: delimiters, spacing, sizes, Unicode, fractions without braces, words
outside ``\text{…}``. What an answer means is for `icpo_core.grading.answers.forms`.
"""

import re
import unicodedata

from icpo_core.grading.answers.braces import closing, with_braces
from icpo_core.grading.answers.letters import with_text_groups, with_words, without_fonts
from icpo_core.grading.answers.numerals import worth_of
from icpo_core.grading.answers.spelling import COMMANDS, LOWERED, RAISED, TRANSLATION

_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=\{)")
_SIZE = re.compile(
    r"\\(?:left|right)\s*\.(?!\d)|\\(?:left|right|middle|[bB]igg?[lrm]?)(?![a-zA-Z])\s*"
    r"|\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits|centering|mathstrut"
    r"|checkmark|blacksquare|square|qed|Box)(?![a-zA-Z])"
)
_SPACE = re.compile(
    r"(?<!\\)\\(?:[,;:!> ]"
    r"|(?:quad|qquad|thinspace|enspace|hfill|newline|par|notag|nonumber)(?![a-zA-Z]))"
    r"|\\(?:hspace|vspace|phantom|hphantom|label|tag)\*?\s*\{[^{}]*\}|~|(?<!\\)\\(?=\s)|\\$"
)
# A wide gap between two values parts them; one before a condition does not.
_GAP = re.compile(
    r"(?<=[\w)}\]])\s*\\q?quad\s*(?=[-+\d(]|[a-zA-Z]\w*\s*=)"
    r"(?!\(\s*[a-zA-Z]\s*(?:,|=|<|>|\\(?:in|ne|ge|le|text)))"
)
_INFINITY = re.compile(
    r"(?:\\text\s*\{\s*)?\b(negative|minus|positive|plus) infinity\b(?:\s*\})?", re.IGNORECASE
)
_MINUS = re.compile(
    r"(?:\\text\s*\{\s*)?\b(?:negative|minus)\b(?:\s*\})?\s*(?=\d|\\[dt]?frac|\\sqrt|\\pi)",
    re.IGNORECASE,
)
_LARGE = re.compile(
    r"(?<=\d)[\s~\\]*(?:\\(?:text|mathrm)\s*\{\s*)?(thousand|million|billion|trillion)s?\b"
    r"(\s*\w*\s*\})?",
    re.IGNORECASE,
)
_DOZENS = re.compile(
    r"(?<=[\d}])[\s~\\]*(?:\\(?:text|mathrm)\s*\{\s*)?(dozen|hundred|lakh|crore)s?\b(\s*\w*\s*\})?",
    re.IGNORECASE,
)
_MULTIPLES = {"dozen": 12, "hundred": 100, "lakh": 10**5, "crore": 10**7}
_ORDINAL = re.compile(
    r"(?<=\d)\s*(?:\^\s*\{?\s*)?(?:\\(?:text|mathrm)\s*\{\s*)?(?:st|nd|rd|th)\b\s*\}?\s*\}?"
)
_HTML = re.compile(r"<(sup|sub)>([^<>]*)</\1>")
_LOST_BACKSLASH = re.compile(r"[\a\b\v\f](?=[a-z])|\t(?=ext|imes|an|heta|frac)|\r(?=ight|ho)")
_CHOOSE = re.compile(r"(?<![A-Za-z\\])C\s*\(\s*([\w+-]+)\s*,\s*([\w+-]+)\s*\)")
_EXPONENT = re.compile(r"(\d)\\(?:mathrm|text)\s*\{\s*[eE]\s*\}\s*\{?\s*([-+]?\d+)\s*\}?")
_REMAINDER = re.compile(
    r"(\d+)[\s\\]*(?:\\text\s*\{\s*)?(?:R|r|[Rr]em\.?|[Rr]emainder(?: of)?)(?:\s*\})?[\s\\:]*(\d+)"
)
_TRANSPOSED = re.compile(r"(?<=[)\]])\s*\^\s*\{?\s*(?:T|\\top|\\mathrm\{T\}|\\intercal)\s*\}?$")
_TEMPERATURE = re.compile(
    r"\s*\^\s*\{?\s*\\circ\s*\}?\s*(?:\\(?:text|mathrm|rm)\s*\{)?\s*([FC])\b\s*\}?"
)
_SCALES = {"F": "fahrenheit", "C": "celsius"}
_COUNT = r"(\{\s*\d{1,4}\s*\}|\d(?!\d))"
_COMBINATIONS = re.compile(
    r"(?<![A-Za-z])(?:\\(?:mathrm|text)\s*\{\s*([CAP])\s*\}|([CAP]))\s*"
    rf"(?:_\s*{_COUNT}\s*\^\s*{_COUNT}|\^\s*{_COUNT}\s*_\s*{_COUNT})"
)
_THOUSANDS = re.compile(r"(?<=\d)(?:\{\s*,\s*\}|,\s*\\!|\\!\s*,|\\,|\{\\,\}|\\;)\s*(?=\d{3}(?!\d))")
_ENVIRONMENT = re.compile(r"\\begin\s*\{(.+?)\}.*?\\end\s*\{\1\}", re.DOTALL)
_SYSTEM = re.compile(
    r"\\left\s*\\\{\s*\\begin\s*\{(?:array|aligned|matrix)\}(?:\{[lcr| ]*\})?(.*?)"
    r"\\end\s*\{(?:array|aligned|matrix)\}\s*\\right\s*\.?|\\begin\s*\{d?cases\}(.*?)\\end\s*\{d?cases\}"
    r"|\\begin\s*\{(?:aligned?|gather(?:ed)?)\*?\}(.*?)\\end\s*\{(?:aligned?|gather(?:ed)?)\*?\}",
    re.DOTALL,
)
_COMMAND = re.compile(r"\\([a-zA-Z]+)")
_MINUTES = re.compile(
    r"(\d+)\s*\^\s*\{\s*\\circ\s*\}\s*(\d+)\s*(?:'|\^\s*\{\s*\\prime\s*\})"
    r"(?:\s*(\d+)\s*(?:''|\^\s*\{\s*\\prime\s*\\prime\s*\}))?"
)
_LETTERS = {"\a": "a", "\b": "b", "\v": "v", "\f": "f", "\t": "t", "\r": "r"}
_CIRCLED = re.compile(r"[\u2460-\u2473]+")
_REPEATING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar|dot)\s*\{(\d+)\}|(\d*)\.(\d*)\((\d+)\)")


def tidy(answer: str) -> str:
    """Return `answer` in plain notation. Never raises; the work grows with the square of its
    length at worst, so the caller caps that."""
    text = _trim(_plain_characters(answer))
    text = _BOX.sub("", text)
    text = without_fonts(text)
    text = re.sub(r"\b(?:np|numpy|math|sympy)\.(?=[a-z])", "", text)
    text = _GAP.sub(", ", text)
    text = _EXPONENT.sub(r"\1e\2", text)
    text = text.replace("{:}", ":")
    text = _MINUS.sub("-", text)
    text = _LARGE.sub(_large, text)
    text = _DOZENS.sub(_multiplied, text)
    text = _ORDINAL.sub(" ", text)
    text = _CHOOSE.sub(r"\\binom{\1}{\2}", text)
    text = re.sub(r"(?<=\d)[\s\\,]*\\Omega\b\s*$", r"\\text{ ohm}", text)
    text = _INFINITY.sub(lambda m: "-\\infty " if m.group(1)[0] in "nm" else "\\infty ", text)
    text = _REMAINDER.sub(r"\1\\text{ remainder }\2", text)
    text = _TRANSPOSED.sub("", text)
    text = _TEMPERATURE.sub(lambda m: f"\\text{{ {_SCALES[m.group(1)]}}}", text)
    text = _combinations(text)
    if r"\choose" in text:
        text = re.sub(r"\{?([^{}]*)\\choose(?![a-z])([^{}]*)\}?", r"\\binom{\1}{\2}", text)
    if r"\over" in text:
        text = re.sub(r"\{?([^{}]*)\\over(?![a-z])([^{}]*)\}?", r"\\frac{\1}{\2}", text)
    text = _currency(text)
    text = re.sub(r"\b([aApP])\.\s?[mM]\b\.?", lambda m: f"{m[1].lower()}m", text)
    text = re.sub(r"\\(max|min|gcd|lcm)\s*\\\{([^{}]*)\\\}", r"\\\1(\2)", text)
    text = _SYSTEM.sub(_system, text)
    text = re.sub(r"\\\\(?=[a-zA-Z]{2})", r"\\", text) if r"\begin" not in text else text
    text = re.sub(r"\\[()\[\]]|\$+", " ", text)
    text = _THOUSANDS.sub("", text)
    text = _outside_environments(text)
    text = _SIZE.sub("", text)
    text = _SPACE.sub(" ", text)
    text = re.sub(r"(\\mathbb\s*\{[A-Z]\}|\\R\b|\\\})\s*-\s*(?=\\\{)", r"\1 \\setminus ", text)
    text = _COMMAND.sub(lambda match: _command(match.group(1)), text)
    text = with_words(with_text_groups(text))
    text = re.sub(r"\\not\s*=", r"\\ne ", text).replace("!=", r"\ne ").replace("=/=", r"\ne ")
    text = text.replace("<=", r"\le ").replace(">=", r"\ge ").replace("**", "^")
    text = text.replace("->", r"\to ").replace("~=", r"\approx ").replace(":=", "=")
    if "mod" not in text:
        text = text.replace(r"\equiv", "=")
    text = _REPEATING.sub(_repeating, text)
    text = with_braces(text)
    text = _MINUTES.sub(_sexagesimal, text)
    text = re.sub(r"\s+", " ", text)
    return _trim(text)


def _plain_characters(text: str) -> str:
    text = _LOST_BACKSLASH.sub(lambda m: "\\" + _LETTERS.get(m.group(), ""), text)
    text = re.sub(r"^rac(?=\s*\{)", r"\\frac", text)  # who strips a form feed leaves that
    text = _HTML.sub(lambda m: ("^" if m[1] == "sup" else "_") + f"{{{m[2]}}}", text)
    text = _CIRCLED.sub(lambda m: ", ".join(f"({ord(c) - 0x245F})" for c in m.group()), text)
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ⁽⁾]+", lambda m: f"^{{{m.group().translate(RAISED)}}}", text)
    text = re.sub(r"[₀₁₂₃₄₅₆₇₈₉₊₋ₙₖ₍₎]+", lambda m: f"_{{{m.group().translate(LOWERED)}}}", text)
    text = text.translate(TRANSLATION)
    return unicodedata.normalize("NFKC", text)


def _large(match: re.Match[str]) -> str:
    power = len(str(worth_of(match.group(1)))) - 1
    rest = (match.group(2) or "").strip(" }")
    return f" \\times 10^{{{power}}}" + (f"\\text{{ {rest}}}" if rest else "")


def _multiplied(match: re.Match[str]) -> str:
    rest = (match.group(2) or "").strip(" }")
    times = _MULTIPLES[match.group(1).lower()]
    return f" \\cdot {times}" + (f"\\text{{ {rest}}}" if rest else "")


def _combinations(text: str) -> str:
    """C_5^2 and A_5^2 (Russian and Chinese schools) as what they count."""

    def counted(match: re.Match[str]) -> str:
        kind = match.group(1) or match.group(2)
        n, k = (
            int((match.group(first) or match.group(other)).strip("{ }"))
            for first, other in ((3, 6), (4, 5))
        )
        if k > n:
            return match.group()  # the square of a constant C_1
        return f"\\binom{{{n}}}{{{k}}}" + (f" \\cdot {k}!" if kind != "C" else "")

    return _COMBINATIONS.sub(counted, text)


def _system(match: re.Match[str]) -> str:
    """A table beside a brace is cases if it has two columns, else a list of equations."""
    rows = match.group(1) or match.group(2) or match.group(3)
    if "&" in re.sub(r"&\s*=", "=", rows) or r"\text" in rows:
        return f"\\begin{{cases}}{rows}\\end{{cases}}"
    return ", ".join(row.replace("&", " ").strip(" ,;") for row in rows.split(r"\\"))


def _currency(text: str) -> str:
    r"""``\$5`` is five dollars, and so is a single ``$`` before a number."""
    text = re.sub(
        r"\\\$\s*([\d.,{}!\\]*\d(?: \\(?:times 10\^\{\d+\}|cdot \d+))?)",
        r"\1\\text{ dollars}",
        text,
    )
    text = text.replace(r"\$", " ")
    if text.count("$") == 1:
        text = re.sub(r"\$\s*([\d.,]*\d)", r"\1\\text{ dollars}", text)
    return text


def _outside_environments(text: str) -> str:
    """Line breaks and alignment marks are blanks, except in matrices and cases."""
    parts, at = [], 0
    for match in _ENVIRONMENT.finditer(text):
        parts.append(_flat(text[at : match.start()]))
        name = match.group(1)
        if re.fullmatch(r"(align|aligned|gather|gathered|equation|split|center|multline)\*?", name):
            inner = re.sub(r"^\\begin\s*\{.+?\}|\\end\s*\{[^{}]*\}$", "", match.group())
            parts.append(_flat(inner, ", "))
        else:
            parts.append(match.group())
        at = match.end()
    parts.append(_flat(text[at:]))
    return "".join(parts)


def _flat(text: str, line_break: str = " ") -> str:
    return re.sub(r"\\\\(?:\[[^\]]*\])?", lambda _: line_break, text).replace("&", " ")


def _command(name: str) -> str:
    known = COMMANDS.get(name)
    if known is None:
        return "\\" + name
    return known + " " if known[-1].isalpha() else known


def _sexagesimal(match: re.Match[str]) -> str:
    """30°15' in degrees."""
    degrees, minutes, seconds = (int(part or 0) for part in match.groups())
    return f"\\frac{{{degrees * 3600 + minutes * 60 + seconds}}}{{3600}}^{{\\circ}}"


def _repeating(match: re.Match[str]) -> str:
    """0.1(6) and 0.1\\overline{6} as the fraction they are."""
    whole, fixed, period = (match.group(1) or match.group(4) or "", "", "")
    fixed = match.group(2) if match.group(3) else match.group(5)
    period = match.group(3) or match.group(6)
    top = int(whole + fixed + period or "0") - int(whole + fixed or "0")
    bottom = int("9" * len(period) + "0" * len(fixed))
    return f"\\frac{{{top}}}{{{bottom}}}"


def _trim(text: str) -> str:
    """Drop punctuation around the answer and braces around all of it."""
    while True:
        shorter = text.strip().strip('`"').strip()
        shorter = re.sub(r"^\*+\s*|\s*(?<!\^)\*+$", "", shorter)
        shorter = re.sub(r"(?<!\\)\\$", "", shorter)
        shorter = re.sub(r"^[=:,;]+|(?<=\d)\^$|(?<!\.)[.,;:]+$", "", shorter)
        if shorter.startswith("{") and closing(shorter, 0) == len(shorter) - 1:
            shorter = shorter[1:-1]
        if shorter == text:
            return text
        text = shorter
