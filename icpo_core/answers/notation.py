r"""An answer as people and models write it, in one notation: plain LaTeX without ornament.

`tidy` knows spelling only: delimiters, spacing, sizes, Unicode, fractions without braces, words
outside ``\text{…}``. What an answer means is for `icpo_core.answers.forms`.
"""

import re
import unicodedata

from icpo_core.answers.numerals import worth_of
from icpo_core.answers.spelling import (
    COMMANDS,
    FUNCTIONS,
    LOOSE_WORDS,
    LOWERED,
    RAISED,
    SHORT_UNITS,
    SHORT_WORDS,
    SYMBOLS,
    TRANSLATION,
)

_TEXT = (
    r"\\(?:text(?:bf|it|rm|sf|tt|normal|up)?|mbox|hbox|math(?:rm|bf|it|sf|tt)|operatorname\*?|bm"
    r"|boldsymbol|pmb)"
)
_TEXT_GROUP = re.compile(_TEXT + r"\s*\{([^{}]*)\}")
_TEXT_IN_SCRIPT = re.compile(
    r"([_^])\s*(?:\{\s*" + _TEXT + r"\s*\{([^{}]*)\}\s*\}|" + _TEXT + r"\s*\{([^{}]*)\})"
)
_FONT = re.compile(r"\{\s*\\(?:rm|bf|it|sf|tt)\s+([^{}]*)\}")
_MATH_FONT = re.compile(r"\\math(?:cal|frak|scr)\s*\{([^{}]*)\}")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=\{)")
_SIZE = re.compile(
    r"\\(?:left|right)\s*\.(?!\d)|\\(?:left|right|middle|[bB]igg?[lrm]?)(?![a-zA-Z])\s*"
    r"|\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits|centering|mathstrut)(?![a-zA-Z])"
)
_SPACE = re.compile(
    r"(?<!\\)\\(?:[,;:!> ]"
    r"|(?:quad|qquad|thinspace|enspace|hfill|newline|par|notag|nonumber)(?![a-zA-Z]))"
    r"|\\(?:hspace|vspace|phantom|hphantom|label|tag)\*?\s*\{[^{}]*\}|~|(?<!\\)\\(?=\s)|\\$"
)
# Fonts and arrows of single letters say nothing; i, j and k in them are the unit vectors.
_LETTER_FONT = re.compile(
    r"\\(?:mathbf|boldsymbol|bm|pmb|vec|overrightarrow|hat)\s*\{\s*\\?([A-Za-z0]|imath|jmath)\s*\}"
)
_VECTOR_FONT = re.compile(r"\\(?:mathbf|boldsymbol|bm|pmb|vec)\s*\{\s*(\\hat\{[ijk]\})\s*\}")
_BASIS = {letter: f"\\hat{{{letter[0]}}}" for letter in ("i", "j", "k", "imath", "jmath")}
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
_CHOOSE = re.compile(r"(?<![A-Za-z\\])C\s*\(\s*([\w+-]+)\s*,\s*([\w+-]+)\s*\)")
_EXPONENT = re.compile(r"(\d)\\(?:mathrm|text)\s*\{\s*[eE]\s*\}\s*\{?\s*([-+]?\d+)\s*\}?")
# A unit with its powers inside one group: \mathrm{m\,s^{-2}}.
_BESIDE_UNIT = re.compile(r"\\(?:mathrm|text)\s*\{((?:[^{}]|\{[^{}]*\})*\^\s*\{[^{}]*\}[^{}]*)\}")
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
_CIRCLED = re.compile(r"[\u2460-\u2473]+")
_REPEATING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar|dot)\s*\{(\d+)\}|(\d*)\.(\d*)\((\d+)\)")


def tidy(answer: str) -> str:
    """Return `answer` in plain notation. Never raises; the work grows with the square of its
    length at worst, so the caller caps that."""
    text = _trim(_plain_characters(answer))
    text = _BOX.sub("", text)
    text = _LETTER_FONT.sub(lambda m: _BASIS.get(m.group(1), f"{m.group(1)} "), text)
    text = _VECTOR_FONT.sub(r"\1", text)
    text = re.sub(r"\b(?:np|numpy|math|sympy)\.(?=[a-z])", "", text)
    text = _GAP.sub(", ", text)
    text = _BESIDE_UNIT.sub(_flat_unit, text)
    text = _EXPONENT.sub(r"\1e\2", text)
    text = text.replace("{:}", ":")
    text = _MINUS.sub("-", text)
    text = _LARGE.sub(_large, text)
    text = _CHOOSE.sub(r"\\binom{\1}{\2}", text)
    text = re.sub(r"(?<=\d)[\s\\,]*\\Omega\b\s*$", r"\\text{ ohm}", text)
    text = _INFINITY.sub(lambda m: "-\\infty " if m.group(1)[0] in "nm" else "\\infty ", text)
    text = _REMAINDER.sub(r"\1\\text{ remainder }\2", text)
    text = _TRANSPOSED.sub("", text)
    text = _TEMPERATURE.sub(lambda m: f"\\text{{ {_SCALES[m.group(1)]}}}", text)
    text = _combinations(text)
    if r"\choose" in text:
        text = re.sub(r"\{?([^{}]*)\\choose(?![a-z])([^{}]*)\}?", r"\\binom{\1}{\2}", text)
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
    text = _COMMAND.sub(lambda match: _command(match.group(1)), text)
    text = _scripts(text)
    text = _FONT.sub(r"\\text{\1}", text)
    text = _MATH_FONT.sub(r"\1", text)
    text = _TEXT_GROUP.sub(_text_group, text)
    text = _words(text)
    text = re.sub(r"\\not\s*=", r"\\ne ", text).replace("!=", r"\ne ")
    text = text.replace("<=", r"\le ").replace(">=", r"\ge ").replace("**", "^")
    text = text.replace("->", r"\to ").replace("~=", r"\approx ").replace(":=", "=")
    if "mod" not in text:
        text = text.replace(r"\equiv", "=")
    text = _REPEATING.sub(_repeating, text)
    text = _braces(text)
    text = _MINUTES.sub(_sexagesimal, text)
    text = re.sub(r"\s+", " ", text)
    return _trim(text)


def _plain_characters(text: str) -> str:
    text = _CIRCLED.sub(lambda m: ", ".join(f"({ord(c) - 0x245F})" for c in m.group()), text)
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ⁽⁾]+", lambda m: f"^{{{m.group().translate(RAISED)}}}", text)
    text = re.sub(r"[₀₁₂₃₄₅₆₇₈₉₊₋ₙₖ₍₎]+", lambda m: f"_{{{m.group().translate(LOWERED)}}}", text)
    text = text.translate(TRANSLATION)
    return unicodedata.normalize("NFKC", text)


def _flat_unit(match: re.Match[str]) -> str:
    inner = re.sub(r"\\[,;:! ]|~", " ", match.group(1))
    parted = re.sub(r"\^\s*\{([^{}]*)\}", r"}^{\1}\\text{", inner)
    return f"\\text{{{parted}}}".replace(r"\text{}", "")


def _large(match: re.Match[str]) -> str:
    power = len(str(worth_of(match.group(1)))) - 1
    rest = (match.group(2) or "").strip(" }")
    return f" \\times 10^{{{power}}}" + (f"\\text{{ {rest}}}" if rest else "")


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
    text = re.sub(r"\\\$\s*([\d.,{}!\\]*\d)", r"\1\\text{ dollars}", text)
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


def _scripts(text: str) -> str:
    r"""``k_{\mathrm{B}}`` and ``k_\text{B}`` are ``k_{B}``."""
    return _TEXT_IN_SCRIPT.sub(
        lambda m: f"{m.group(1)}{{{re.sub(r'[^A-Za-z0-9]', '', m.group(2) or m.group(3) or '')}}}",
        text,
    )


def _text_group(match: re.Match[str]) -> str:
    content = match.group(1).strip()
    unclosed = content.count("(") - content.count(")")
    bare = content.lstrip(",;.: (" if unclosed > 0 else ",;.: ")
    lead = content[: len(content) - len(bare)].strip(". ")
    kept = bare.rstrip(",;: )" if unclosed < 0 else ",;: ")
    return lead + _text_content(match, kept) + bare[len(kept) :].strip()


def _text_content(match: re.Match[str], content: str) -> str:
    before = match.string[: match.start()].rstrip()
    if content in FUNCTIONS and not before.endswith(tuple("0123456789")):
        return f"\\{content} "
    if (
        len(content) == 1
        and content.isalpha()
        and not (before[-1:] in tuple("0123456789})") or re.search(r"\}\s*(?:/|\\cdot)$", before))
    ):
        return content
    if len(_NUMBER_IN_TEXT.findall(content)) > 1 or _TEXT_LIST.fullmatch(content):
        parts = [part.strip() for part in _TEXT_PARTS.split(content)]
        return " ".join(
            part if part == "," or _NUMBER_IN_TEXT.fullmatch(part) else f"\\text{{{part}}}"
            for part in parts
            if part
        )
    counted = re.fullmatch(r"([-+]?\d[\d.,/]*)\s+(\D.*)", content, re.DOTALL)
    if counted:
        return f"{counted.group(1)}\\text{{{counted.group(2)}}}"
    joined = re.fullmatch(r"(and|or)\s+(.+)|(.+?)\s*,?\s+(and|or)", content, re.DOTALL)
    if joined:
        first, second = joined.group(1) or joined.group(3), joined.group(2) or joined.group(4)
        return f"\\text{{{first}}}\\text{{{second}}}"
    if re.fullmatch(r"[\W\d_]*|[A-Z](?:\s*,\s*[A-Z])+", content):
        return f" {content} "  # numbers and punctuation set as text
    return f"\\text{{{content}}}"


_NUMBER_IN_TEXT = re.compile(r"(?<![\w.])\d+(?:[.,/]\d+)*(?!\w)")
_TEXT_PARTS = re.compile(rf"({_NUMBER_IN_TEXT.pattern}|\b(?:and|or)\b|,)")
_TEXT_LIST = re.compile(
    r"[A-Za-z]+(?: [A-Za-z]+)?(?:(?:,\s*|,?\s+and\s+)[A-Za-z]+(?: [A-Za-z]+)?)+"
)
_TOKEN = re.compile(
    r"(\\text\{[^{}]*\}|\\begin\{[^{}]*\}|\\end\{[^{}]*\}|\\mathbb\{[^{}]*\}|\\[a-zA-Z]+"
    r"|_\s*\{[^{}]*\}|_\s*[A-Za-z0-9]|[\u4e00-\u9fff]+|[A-Za-z]+(?:'(?:s|t)\b|-(?=[a-z]{3,}))?)"
)


def _words(text: str) -> str:
    r"""Set English words in ``\text{…}``, and names of functions as commands."""
    pieces = _TOKEN.split(text)
    kinds = [_kind(pieces, at) if at % 2 else "" for at in range(len(pieces))]
    for at in range(1, len(pieces), 2):
        if kinds[at] == "loose":
            beside = [kinds[j] for j in (at - 2, at + 2) if 0 <= j < len(pieces)]
            gaps = pieces[at - 1].strip() == "" or pieces[at + 1].strip() == ""
            kinds[at] = "word" if gaps and "word" in beside else ""
        elif kinds[at] == "article":
            spaced = pieces[at - 1][-1:].isspace() and pieces[at + 1].isspace()
            word = spaced and at + 2 < len(pieces) and kinds[at + 2] == "word"
            kinds[at] = "word" if word else ""
    for at in range(1, len(pieces), 2):
        if kinds[at] == "word" and not pieces[at].startswith("\\"):
            pieces[at] = f"\\text{{{pieces[at]}}}"
        elif kinds[at] == "symbol":
            pieces[at] = SYMBOLS.get(pieces[at].lower(), "\\" + pieces[at].lower()) + " "
    return "".join(pieces)


def _kind(pieces: list[str], at: int) -> str:
    token = pieces[at]
    if token.startswith(r"\text"):
        return "word"
    if token[0] >= "\u4e00":
        return "word"
    if not token[0].isalpha() or len(token) < 2:
        return "article" if token.lower() == "a" else ""
    low = token.lower()
    before, after = pieces[at - 1], pieces[at + 1]
    following = after.lstrip()[:1]
    if low in SYMBOLS and low != "union":
        return "symbol"
    if low == "union":
        return "symbol" if before.rstrip()[-1:] in tuple(")]}") else "word"
    if (
        low in SHORT_UNITS
        and before.rstrip()[-1:] in tuple("0123456789}")
        and not (before.endswith("}") and before.rstrip("}")[-1:].isalpha())
    ):
        return "word"
    if low in SHORT_UNITS and low not in FUNCTIONS:
        return "loose"
    if low in FUNCTIONS and token == low:
        return "symbol"
    alone = not before[-1:].strip() or before[-1:] in "()[]{},;:.!?\"'"
    if low in SHORT_WORDS:
        return "word" if alone or before[-1:].isdigit() else ""
    if low in LOOSE_WORDS:
        return "loose" if alone and not following.startswith(("^", "_")) else ""
    if len(low) <= 3 or not re.search("[aeiouy]", low):
        return ""
    if token.isupper() and len(low) < 5 and low not in ("none", "true", "zero", "even", "dne"):
        return ""  # ABCD is a quadrilateral
    if low in "abcdefghijklmnopqrstuvwxyz" or len(set(low)) < 3:
        return ""
    return "word"


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


def _braces(text: str) -> str:
    r"""Give ``\frac12``, ``\sqrt3``, ``\sqrt(3)``, ``x^(n+1)`` and ``2^-1`` their braces.

    From right to left, so that an inner fraction is mended before the one around it.
    """
    arities = {r"\frac": 2, r"\binom": 2, r"\sqrt": 1, "^": 1}
    for match in reversed(
        list(re.finditer(r"\\frac(?![a-z])|\\binom(?![a-z])|\\sqrt(?![a-z])|\^", text))
    ):
        name, at = match.group(), match.end()
        built = name
        if name == r"\sqrt":
            optional = re.compile(r"\s*\[[^\[\]]*\]").match(text, at)
            if optional:
                built += optional.group().strip()
                at = optional.end()
        for _ in range(arities[name]):
            found = _argument(text, at, parentheses=name in (r"\sqrt", "^"))
            if found is None:
                break
            content, at = found
            built += f"{{{content}}}"
        text = text[: match.start()] + built + text[at:]
    return text


def _argument(text: str, at: int, parentheses: bool) -> tuple[str, int] | None:
    """Return the TeX argument at `at` and where it ends; None if there is none."""
    while at < len(text) and text[at].isspace():
        at += 1
    if at >= len(text) or text[at] in "}])&,;=":
        return None
    if text[at] == "{" or (parentheses and text[at] == "("):
        end = closing(text, at)
        return None if end is None else (text[at + 1 : end], end + 1)
    if text[at] == "\\":
        command = re.compile(r"\\(?:[a-zA-Z]+|.)").match(text, at)
        if command is None:
            return None
        if command.group() in (r"\frac", r"\sqrt", r"\binom"):
            end = command.end()
            for group in re.compile(r"\s*\{").finditer(text, end):
                if group.start() != end:
                    break
                close = closing(text, group.end() - 1)
                if close is None:
                    return None
                end = close + 1
            return text[at:end], end
        return command.group(), command.end()
    if parentheses:  # plain text: x^10, x^-2, x^2.5
        number = re.compile(r"[-+]?(?:\d+(?:\.\d+)?|[A-Za-z](?![a-z]))").match(text, at)
        if number:
            return number.group(), number.end()
    return text[at], at + 1


def closing(text: str, at: int) -> int | None:
    """Return where the bracket at `at` closes, whatever kinds of brackets are between."""
    depth = 0
    skip = False
    opening, ending = text[at], {"{": "}", "(": ")", "[": "]"}[text[at]]
    for place in range(at, len(text)):
        char = text[place]
        if skip:
            skip = False
        elif char == "\\":
            skip = True
        elif char == opening:
            depth += 1
        elif char == ending:
            depth -= 1
            if depth == 0:
                return place
    return None


def _trim(text: str) -> str:
    """Drop punctuation around the answer and braces around all of it."""
    while True:
        shorter = text.strip().strip('`"*').strip()
        shorter = re.sub(r"(?<!\\)\\$", "", shorter)
        shorter = re.sub(r"^[=:,;]+|(?<!\.)[.,;:?]+$", "", shorter)
        if shorter.startswith("{") and closing(shorter, 0) == len(shorter) - 1:
            shorter = shorter[1:-1]
        if shorter == text:
            return text
        text = shorter
