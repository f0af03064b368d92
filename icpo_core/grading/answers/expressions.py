"""From tidy LaTeX to an expression: spelled so that math-verify's parser reads what is meant."""

import re
import zlib
from functools import lru_cache

import sympy
from mpmath import mp, mpf

from icpo_core.grading.answers import numerics

SCIENTIFIC = re.compile(r"(?<![A-Za-z\d.])(\d+\.?\d*|\.\d+)[eE]([-+]?\d+)(?![\d.]*[A-Za-z^_])")
TRIG = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_TRIG_OF_DEGREES = re.compile(
    r"(\\(?:sin|cos|tan|cot|sec|csc)(?:\^\{?-?\d\}?)?)\s*(\d[\d.]*) \\cdot \\frac\{\\pi\}\{180\}"
)
_NAMED_FUNCTION = r"\\(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?(?![a-z])"
# The parser takes \tan a \cdot \tan b for \tan(a \tan b), and reads no \cos^{10}(x).
_BARE_ARGUMENT = re.compile(
    rf"({_NAMED_FUNCTION}(?:\s*\^\s*\{{[^{{}}]*\}})?)\s*(\\[a-z]+|\w)\s*(?=\\cdot)"
)
_POWER_OF_FUNCTION = re.compile(
    rf"({_NAMED_FUNCTION})\s*\^\s*\{{(\s*\d+\s*)\}}\s*(\((?:[^()]|\([^()]*\))*\)|\{{[^{{}}]*\}})"
)
DEGREES = re.compile(r"\s*\^\s*\{?\s*\\circ\s*\}?")
_MARKED = re.compile(
    r"\\(dot|ddot|hat|bar|vec|tilde|overline|overrightarrow)\s*(?:\{([^{}]*)\}|([A-Za-z]))((?:_\{[^{}]*\}|_\w)?)"
    r"|((?:\\[a-zA-Z]+\s*|[A-Za-z])(?:_\{[^{}]*\}|_\w)?)('+|\^\s*\{(?:\s*\\prime)+\s*\}|\^\s*\\prime)"
)
_RATE = re.compile(
    r"\\frac\s*\{\s*d(\^\{?2\}?)?\s*(\\?[A-Za-z]+(?:_\{[^{}]*\}|_\w)?)\s*\}\s*\{\s*d\s*t(?:\s*\^\{?2\}?)?\s*\}"
)
# n!! as a product that holds for even and odd n.
_DOUBLE_FACTORIAL = (
    r"(2^{\1/2} \\cdot (\1/2)! \\cdot (\\frac{\\pi}{2})^{(\\cos(\\pi \\cdot \1) - 1)/4})"
)
# The parser knows e as Euler's number only, and gamma as a function or Euler's constant.
_OWN_SYMBOL = re.compile(
    r"(?<![A-Za-z\\])[Ee]\s*_\s*(?:\{[^{}]*\}|\w)"
    r"|(?<!_)(?<!_\{)\\(?:gamma|Gamma(?!\s*\())(?![a-z])(?:\s*_\s*(?:\{[^{}]*\}|\w))?"
)
_SUBSCRIPT = re.compile(
    r"(\\(?:log|sum|prod|int|lim|max|min)(?![a-z])\s*)?\s*_\s*(?:\{((?:[^{}]|\{[^{}]*\})*)\}|(\\[a-zA-Z]+|\w))"
)


def constant(tex: str) -> mpf | None:
    """Return what an expression is worth if it has no symbols; infinities are worth themselves."""
    plain = tex.replace(" ", "")
    if plain in (r"\infty", r"+\infty"):
        return mp.inf
    if plain == r"-\infty":
        return -mp.inf
    expression = expression_of(tex)
    return None if expression is None else numerics.constant(expression)


@lru_cache(maxsize=4096)
def expression_of(tex: str) -> sympy.Basic | None:
    """Return the expression in `tex` as math-verify's parser reads it, spelled for that parser."""
    if r"\ldots" in tex or not tex.strip():
        return None
    if re.search(r"\\(?:gcd|lcm|operatorname)", tex) and re.search(r"[a-z]\s*[,)]", tex):
        return None  # the parser takes gcd(m, n) for 1
    text = SCIENTIFIC.sub(r"\1 \\cdot 10^{\2}", tex)
    text = re.sub(r"(\d)\.(?!\d)", r"\1", text)
    text = re.sub(r"(?<!\d)\.(?=\d)", "0.", text)
    text = re.sub(r"^\s*([-+]?)\s*(\d+)\s+(\d+)\s*/\s*(\d+)\s*$", _mixed, text)
    text = re.sub(
        r"(?<![\w}])(\d+)\s*/\s*(\d+)(?:\s+(?=[A-Za-z(\\])|(?=\\sqrt|\\pi|i(?![a-z])))",
        r"\\frac{\1}{\2} \\cdot ",
        text,
    )
    text = re.sub(r"\{([^{}]*)\\choose([^{}]*)\}", r"\\binom{\1}{\2}", text)
    if TRIG.search(text):
        text = re.sub(
            r"(\d+(?:\.\d+)?|\\?[a-z]+|\))" + DEGREES.pattern, r"\1 \\cdot \\frac{\\pi}{180}", text
        ) if re.search(r"\\circ", text) else text  # fmt: skip
        text = _TRIG_OF_DEGREES.sub(r"\1(\2 \\cdot \\frac{\\pi}{180})", text)
    text = DEGREES.sub("", text)
    text = _POWER_OF_FUNCTION.sub(r"(\1 \3)^{\2}", _BARE_ARGUMENT.sub(r"\1(\2) ", text))
    text = _RATE.sub(lambda m: f"\\{'d' * (2 if m[1] else 1)}ot{{{m[2]}}}", text)
    text = _MARKED.sub(_plain_symbol, text)
    text = _SUBSCRIPT.sub(_plain_subscript, _OWN_SYMBOL.sub(_plain_symbol, text))
    text = re.sub(r"(\([^()]*\)|\w+)\s*!!", _DOUBLE_FACTORIAL, text)
    # The parser takes 2(3/2) for two and three halves; only 2\frac{1}{2} is that.
    text = re.sub(r"(?<=[\d)}])\s*\((?=\s*[-\d\\(])", r" \\cdot (", text)
    text = re.sub(r"(?<=[\d)])\s*(?=\\frac)", _times, text)
    found = numerics.parse(text.strip())
    if found is None or not isinstance(found, sympy.Expr | sympy.MatrixBase):
        return None
    return found


def _times(match: re.Match[str]) -> str:
    r"""Nothing between the parts of 1\frac{4}{5}, a dot between those of 2\frac{x}{3}."""
    parts = re.compile(r"\\frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}").match(
        match.string, match.end()
    )
    whole = re.search(r"(?<![\d.{])\d+$", match.string[: match.start()])
    mixed = parts is not None and whole is not None and int(parts[1]) < int(parts[2])
    return "" if mixed else r" \cdot "


def _mixed(match: re.Match[str]) -> str:
    sign, whole, top, bottom = match.groups()
    return f"{sign}\\frac{{{int(whole) * int(bottom) + int(top)}}}{{{bottom}}}"


def _plain_symbol(match: re.Match[str]) -> str:
    """A symbol with a dot, hat or prime, as one that the parser reads as a single symbol."""
    spelled = re.sub(
        r"[\s{}]|\\prime", lambda m: "'" if m.group() == r"\prime" else "", match.group()
    )
    spelled = spelled.replace("^'", "'")
    return f"q_{{{zlib.crc32(spelled.encode())}}} "


def _plain_subscript(match: re.Match[str]) -> str:
    """A subscript as a number: the parser reads no others in all places."""
    content = re.sub(
        r"[\s{}]", "", match.group(2) if match.group(2) is not None else match.group(3)
    )
    if match.group(1):
        return f"{match.group(1).strip()}_{{{match.group(2) or match.group(3)}}}"
    return f"_{{{content if content.isdigit() else zlib.crc32(content.encode())}}}"
