r"""An answer as people and models write it, in one notation: plain LaTeX without ornament.

`tidy` knows spelling only: delimiters, spacing, sizes, Unicode, fractions without braces, words
outside ``\text{…}``. What an answer means is for `icpo_core.answers.forms`.
"""

import re
import unicodedata

_UNICODE = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "﹣": "-",
    "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "•": r"\cdot ", "÷": "/",
    "∕": "/", "⁄": "/", "√": r"\sqrt ", "∛": r"\sqrt[3] ", "∞": r"\infty ", "±": r"\pm ",
    "∓": r"\mp ", "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≦": r"\le ",
    "≧": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "≃": r"\approx ", "≅": r"\approx ",
    "≡": r"\equiv ", "且": r"\text{and}", "或": r"\text{or}", "和": r"\text{and}", "∈": r"\in ", "∉": r"\notin ", "∪": r"\cup ", "∩": r"\cap ", "∖": r"\setminus ",
    "∅": r"\emptyset ", "⌀": r"\emptyset ", "°": r"^{\circ}", "º": r"^{\circ}", "˚": r"^{\circ}",
    "′": "'", "’": "'", "‘": "'", "″": "''", "“": '"', "”": '"', "…": r"\ldots ", "⋯": r"\ldots ",
    "∠": r"\angle ", "△": r"\triangle ", "∑": r"\sum ", "∏": r"\prod ", "∫": r"\int ",
    "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "⟨": "(", "⟩": ")",
    "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}",
    "ℂ": r"\mathbb{C}", "∀": r"\forall ", "∣": "|", "∧": r"\land ", "∨": r"\lor ", "ℓ": "l",
    "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}",
    "¾": r"\frac{3}{4}", "⅕": r"\frac{1}{5}", "⅖": r"\frac{2}{5}", "⅗": r"\frac{3}{5}",
    "⅘": r"\frac{4}{5}", "⅙": r"\frac{1}{6}", "⅚": r"\frac{5}{6}", "⅛": r"\frac{1}{8}",
    "⅜": r"\frac{3}{8}", "⅝": r"\frac{5}{8}", "⅞": r"\frac{7}{8}",
    "€": r"\text{euro}", "£": r"\text{pound}", "¥": r"\text{yen}", "￥": r"\text{yen}",
    "，": ",", "；": ";", "：": ":", "。": ".", "、": ",", "（": "(", "）": ")", "％": "%",
    "\u200b": "", "\u200c": "", "\u200d": "", "\u2060": "", "\ufeff": "", "\u00ad": "",
    "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u2003": " ", "\u2002": " ", "\u2005": " ",
}  # fmt: skip
_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho . "
    "sigma tau upsilon phi chi psi omega"
).split()
for _offset, _letter in enumerate(_GREEK):
    if _letter not in (".", "omicron"):
        _UNICODE[chr(0x3B1 + _offset)] = f"\\{_letter} "
        if _letter in "gamma delta theta lambda xi pi sigma upsilon phi psi omega".split():
            _UNICODE[chr(0x391 + _offset)] = f"\\{_letter.capitalize()} "
_UNICODE |= {"ϕ": r"\phi ", "ϵ": r"\epsilon ", "ϑ": r"\theta ", "µ": r"\mu ", "ς": r"\sigma "}
_TRANSLATION = str.maketrans(_UNICODE)
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ⁽⁾", "0123456789+-ni()")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋ₙₖ₍₎", "0123456789+-nk()")

FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh log ln lg exp max min gcd "
    "lcm det".split()
)
_SYMBOLS = {
    "pi": r"\pi", "infinity": r"\infty", "inf": r"\infty", "infty": r"\infty", "theta": r"\theta",
    "alpha": r"\alpha", "beta": r"\beta", "gamma": r"\gamma", "lambda": r"\lambda", "phi": r"\phi",
    "omega": r"\omega", "sigma": r"\sigma", "sqrt": r"\sqrt", "cdot": r"\cdot",
    "times": r"\times", "union": r"\cup", "asin": r"\arcsin", "acos": r"\arccos",
    "atan": r"\arctan",
}  # fmt: skip

# Words of two and three letters, which could as well be products of variables.
_SHORT_WORDS = frozenset(
    "the and for all any are yes not odd day men cat dog boy age sum set one two six ten red box "
    "has its can may but only how way hour mon tue wed thu fri sat sun am pm mod out per no or is if "
    "of to cents mins secs bit bob ann amy tom sam joe jan feb mar apr jun jul aug sep oct nov "
    "dec nor who low top due new old win won die big few".split()
)
# Units, after a number only: mg and ml are products elsewhere.
_SHORT_UNITS = frozenset(
    "cm mm km kg mg ml ft mph kph lb lbs oz hr hrs yd mi sq cu gal pts rad usd rpm sec min".split()
)
# Words that are as often products of variables, as in e^{at} or ax + by: words among words only.
_LOOSE_WORDS = frozenset("at by as it be in on so an we he me my up do go us".split())

_TEXT = r"\\(?:text(?:bf|it|rm|sf|tt|normal|up)?|mbox|hbox|math(?:rm|bf|it|sf|tt)|operatorname\*?|bm|boldsymbol|pmb)"
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
    r"(?<!\\)\\(?:[,;:!> ]|(?:quad|qquad|thinspace|enspace|hfill|newline|par|notag|nonumber)(?![a-zA-Z]))"
    r"|\\(?:hspace|vspace|phantom|hphantom|label|tag)\*?\s*\{[^{}]*\}|~|(?<!\\)\\(?=\s)|\\$"
)
_THOUSANDS = re.compile(r"(?<=\d)(?:\{\s*,\s*\}|,\s*\\!|\\!\s*,|\\,|\{\\,\}|\\;)\s*(?=\d{3}(?!\d))")
_ENVIRONMENT = re.compile(r"\\begin\s*\{(.+?)\}.*?\\end\s*\{\1\}", re.DOTALL)
_SYSTEM = re.compile(
    r"\\left\s*\\\{\s*\\begin\s*\{(?:array|aligned|matrix)\}(?:\{[lcr| ]*\})?(.*?)\\end\s*\{(?:array|aligned|matrix)\}"
    r"\s*\\right\s*\.?|\\begin\s*\{d?cases\}(.*?)\\end\s*\{d?cases\}"
    r"|\\begin\s*\{(?:aligned?|gather(?:ed)?)\*?\}(.*?)\\end\s*\{(?:aligned?|gather(?:ed)?)\*?\}",
    re.DOTALL,
)
_COMMANDS = {
    "dfrac": r"\frac", "tfrac": r"\frac", "cfrac": r"\frac", "dbinom": r"\binom",
    "tbinom": r"\binom", "leqslant": r"\le", "geqslant": r"\ge", "leq": r"\le", "geq": r"\ge",
    "leqq": r"\le", "geqq": r"\ge", "lt": "<", "gt": ">", "neq": r"\ne", "colon": ":",
    "lbrace": r"\{", "rbrace": r"\}", "lbrack": "[", "rbrack": "]", "langle": "(", "rangle": ")",
    "lvert": "|", "rvert": "|", "vert": "|", "mid": "|", "lVert": r"\|", "rVert": r"\|",
    "varnothing": r"\emptyset", "empty": r"\emptyset", "O": r"\emptyset", "R": r"\mathbb{R}",
    "Z": r"\mathbb{Z}", "N": r"\mathbb{N}", "Q": r"\mathbb{Q}", "reals": r"\mathbb{R}",
    "C": r"\mathbb{C}", "wedge": r"\land", "vee": r"\lor", "dots": r"\ldots", "cdots": r"\ldots",
    "dotsc": r"\ldots", "backslash": r"\setminus", "smallsetminus": r"\setminus", "lg": r"\log_{10}",
    "ast": "*", "div": "/", "simeq": r"\approx", "sim": r"\approx", "thickapprox": r"\approx",
    "bmod": r"\mod", "pmod": r"\pmod", "degree": r"^{\circ}", "deg": r"^{\circ}", "to": r"\to",
    "rightarrow": r"\to", "implies": r"\implies", "Rightarrow": r"\implies", "percent": r"\%",
    "varepsilon": r"\epsilon", "varphi": r"\phi", "vartheta": r"\theta", "longrightarrow": r"\to",
    "dollar": r"\$", "textdollar": r"\$", "euro": r"\text{euro}", "pounds": r"\text{pound}",
    "iff": r"\iff", "mathbbm": r"\mathbb", "Bbb": r"\mathbb", "textbackslash": "",
    "widehat": r"\hat", "cosec": r"\csc", "tg": r"\tan", "ctg": r"\cot", "arctg": r"\arctan",
    "ne": r"\ne", "not": r"\not",
}  # fmt: skip
_COMMAND = re.compile(r"\\([a-zA-Z]+)")
_MINUTES = re.compile(
    r"(\d+)\s*\^\s*\{\s*\\circ\s*\}\s*(\d+)\s*(?:'|\^\s*\{\s*\\prime\s*\})(?:\s*(\d+)\s*(?:''|\^\s*\{\s*\\prime\s*\\prime\s*\}))?"
)
_REPEATING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar|dot)\s*\{(\d+)\}|(\d*)\.(\d*)\((\d+)\)")


def tidy(answer: str) -> str:
    """Return `answer` in plain notation. Never raises; the work grows with the square of its
    length at worst, so the caller caps that."""
    text = _trim(_plain_characters(answer))
    text = _BOX.sub("", text)
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
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ⁽⁾]+", lambda m: f"^{{{m.group().translate(_RAISED)}}}", text)
    text = re.sub(r"[₀₁₂₃₄₅₆₇₈₉₊₋ₙₖ₍₎]+", lambda m: f"_{{{m.group().translate(_LOWERED)}}}", text)
    text = text.translate(_TRANSLATION)
    return unicodedata.normalize("NFKC", text)


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
            inner = match.group()[
                len(match.group().split("}", 1)[0]) + 1 : -len(f"\\end{{{name}}}")
            ]
            parts.append(_flat(inner, ", "))
        else:
            parts.append(match.group())
        at = match.end()
    parts.append(_flat(text[at:]))
    return "".join(parts)


def _flat(text: str, line_break: str = " ") -> str:
    return re.sub(r"\\\\(?:\[[^\]]*\])?", lambda _: line_break, text).replace("&", " ")


def _command(name: str) -> str:
    known = _COMMANDS.get(name)
    if known is None:
        return "\\" + name
    return known + " " if known[-1].isalpha() else known


def _scripts(text: str) -> str:
    r"""``k_{\mathrm{B}}`` and ``k_\text{B}`` are ``k_{B}``."""
    return _TEXT_IN_SCRIPT.sub(
        lambda m: f"{m.group(1)}{{{re.sub(r'[^A-Za-z0-9]', '', m.group(2) or m.group(3) or '')}}}",
        text,
    )


_EDGES = r"([,;.:\s]*)(.*?)([,;:\s]*)"


def _text_group(match: re.Match[str]) -> str:
    content = match.group(1).strip()
    edges = r"([,;.:\s(]*)(.*?)([,;:\s]*)" if content.count("(") > content.count(")") else _EDGES
    edges = r"([,;.:\s]*)(.*?)([,;:\s)]*)" if content.count(")") > content.count("(") else edges
    lead, content, trail = re.fullmatch(edges, content, re.DOTALL).groups()  # type: ignore[union-attr]
    return lead.strip(". ") + _text_content(match, content) + trail.strip()


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
            pieces[at] = _SYMBOLS.get(pieces[at].lower(), "\\" + pieces[at].lower()) + " "
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
    if low in _SYMBOLS and low != "union":
        return "symbol"
    if low == "union":
        return "symbol" if before.rstrip()[-1:] in tuple(")]}") else "word"
    if (
        low in _SHORT_UNITS
        and before.rstrip()[-1:] in tuple("0123456789}")
        and not (before.endswith("}") and before.rstrip("}")[-1:].isalpha())
    ):
        return "word"
    if low in _SHORT_UNITS and low not in FUNCTIONS:
        return "loose"
    if low in FUNCTIONS and token == low:
        return "symbol"
    alone = not before[-1:].strip() or before[-1:] in "()[]{},;:.!?\"'"
    if low in _SHORT_WORDS:
        return "word" if alone or before[-1:].isdigit() else ""
    if low in _LOOSE_WORDS:
        return "loose" if alone and not following.startswith(("^", "_")) else ""
    if len(low) <= 3 or not re.search("[aeiouy]", low):
        return ""
    if token.isupper() and len(low) < 5 and low not in ("none", "true", "zero", "even"):
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
