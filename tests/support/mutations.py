r"""Near misses of a gold answer: what a policy that nearly knows it, or games it, would write."""

import random
import re
from collections.abc import Callable

ALTERNATIVE = "7919"
"""A number that is no gold answer."""

_DIGIT = re.compile(r"(?<![_\d{])\d|(?<=[^_]\{)\d|(?<=\d)\d")
_INTEGER = re.compile(r"-?\d{1,3}(?:,\d{3})+|-?\d+")
_DECIMAL = re.compile(r"-?\d*\.\d+")
_PAIR = re.compile(r"([(\[])([^()\[\],]+),([^()\[\],]+)([)\]])")
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]+)\}\{([^{}]+)\}")
_RELATION = re.compile(r"[=<>]|\\(?:le|ge|leq|geq|ne|neq|in|equiv|approx|sim|to|pmod|text|mbox)\b")
_ENDS = {"(": "[", "[": "(", ")": "]", "]": ")"}
_BOUND = re.compile(r"\\leq?(?![a-z])|\\geq?(?![a-z])|[<>]")
_UNIT = re.compile(r"\\(?:text|mathrm|mbox|rm)\s*\{\s*([a-z]+)[^{}]*\}$")


def near_misses(gold: str, seed: int, count: int = 20) -> list[tuple[str, str]]:
    """Return up to `count` pairs (kind, text) of near misses, of all kinds that apply."""
    draw = random.Random(f"{seed} {gold}")
    found: dict[str, str] = {}
    for _ in range(6):
        for kind, mutate in KINDS.items():
            text = mutate(gold, draw)
            if text is not None and text != gold:
                found.setdefault(text, kind)
    texts = list(found)
    draw.shuffle(texts)
    return [(found[text], text) for text in texts[:count]]


def _plain(gold: str) -> bool:
    """Whether the gold is one expression, so that it may stand in a larger one."""
    shown = re.sub(r"\\(?:[dt]?frac|sqrt|pi|cdot|left|right|sin|cos|tan|log|ln|binom)", "", gold)
    several = r"[,;:%&]|\\pm|\\mp|\\cup|\\infty|\\emptyset|\\begin|\^\{?\\circ|\\\$|[a-z]{3}"
    if _RELATION.search(gold) or re.search(several, shown):
        return False
    rounded = re.search(r"\de-?\d|10\s*\^", gold)
    return not rounded and bool(re.search(r"\d|\\pi", gold)) and gold.strip() != "0"


def _replaced(gold: str, pattern: re.Pattern[str], draw: random.Random,
              change: Callable[[re.Match[str]], str | None]) -> str | None:  # fmt: skip
    matches = list(pattern.finditer(gold))
    if not matches:
        return None
    match = draw.choice(matches)
    text = change(match)
    return None if text is None else gold[: match.start()] + text + gold[match.end() :]


def _sign(gold: str, draw: random.Random) -> str | None:
    if gold.startswith("-") and _plain(gold) and not re.search(r"\d\s*[-+]", gold[1:]):
        return gold[1:]
    return f"-({gold})" if _plain(gold) and not gold.startswith("-") else None


def _digit(gold: str, draw: random.Random) -> str | None:
    if re.search(r"_\{?\d|[A-Z]\d|\d\s*[:]|\\text|=\s*0", gold):
        return None
    return _replaced(gold, _DIGIT, draw,
                     lambda m: draw.choice([d for d in "123456789" if d != m.group()]))  # fmt: skip


def _factor_of_ten(gold: str, draw: random.Random) -> str | None:
    if _INTEGER.fullmatch(gold):
        return (
            None if gold == "0" else draw.choice([gold + "0", f"{gold} \\times 10", f"{gold}/10"])
        )
    return draw.choice([f"10({gold})", f"({gold})/10"]) if _plain(gold) else None


def _swapped(gold: str, draw: random.Random) -> str | None:
    def pair(match: re.Match[str]) -> str | None:
        opening, first, second, closing = match.groups()
        if first.strip() == second.strip():
            return None
        return f"{opening}{second},{first}{closing}"

    def fraction(match: re.Match[str]) -> str | None:
        top, bottom = match.groups()
        return None if top.strip() == bottom.strip() else f"\\frac{{{bottom}}}{{{top}}}"

    if "," in gold:
        return _replaced(gold, _PAIR, draw, pair) if gold.count(",") == 1 else None
    return _replaced(gold, _FRACTION, draw, fraction) if _plain(gold) else None


def _dropped(gold: str, draw: random.Random) -> str | None:
    if re.fullmatch(r"[^()\[\]]*,[^()\[\]]*", gold) and not _INTEGER.fullmatch(gold):
        return gold.rpartition(",")[0] if gold.count(",") > 0 and "text" not in gold else None
    if _plain(gold):
        match = re.fullmatch(r"([^(){}]*(?:\{[^{}]*\}[^(){}]*)*\S)\s*[-+]\s*[^-+(){}]+", gold)
        return match.group(1) if match else None
    return None


def _unit(gold: str, draw: random.Random) -> str | None:
    unit = _UNIT.search(gold)
    if unit:
        other = draw.choice([u for u in ("kg", "seconds", "km", "apples") if u[:2] != unit[1][:2]])
        return gold[: unit.start()] + f"\\text{{ {other}}}" if re.match(r"[\d.]", gold) else None
    if not _plain(gold):
        return None
    changing = (r" \text{ dozen}", r" \text{ hundred}", r" \text{ squared}", r" \text{ gross}")
    return gold + draw.choice(changing)


def _negation(gold: str, draw: random.Random) -> str | None:
    shape = draw.choice([
        r"\text{not } {}", r"{} \text{ is wrong}", r"{} \text{ fails}", r"{} \text{ is too small}",
        r"\neq {}", r"\text{anything but } {}", r"{} \text{ was rejected}", r"\text{less than } {}",
    ])  # fmt: skip
    if _RELATION.search(gold) and shape.startswith(r"\neq"):
        return None
    return shape.replace("{}", gold)


def _neighbour(gold: str, draw: random.Random) -> str | None:
    if _DECIMAL.fullmatch(gold):
        return gold + draw.choice("1234")
    if _INTEGER.fullmatch(gold):
        return gold + draw.choice([".01", ".4", ".0001"])
    return f"{gold} + 10^{{-{draw.choice([2, 4, 9, 40])}}}" if _plain(gold) else None


def _off_by_one(gold: str, draw: random.Random) -> str | None:
    if _INTEGER.fullmatch(gold):
        return str(int(gold.replace(",", "")) + draw.choice([-1, 1]))
    return f"{gold} {draw.choice('-+')} 1" if _plain(gold) else None


def _inverse(gold: str, draw: random.Random) -> str | None:
    if not _plain(gold) or gold.strip("-") in ("1", "0"):
        return None
    return f"\\frac{{1}}{{{gold}}}"


def _end(gold: str, draw: random.Random) -> str | None:
    if r"\infty" in gold or re.match(r"[(\[].*,.*[)\]]$", gold):
        ends = [at for at, char in enumerate(gold) if char in _ENDS and gold.count(",") <= 4]
        near = [at for at in ends if not re.search(r"\\infty\s*$", gold[:at])
                and not re.match(r"\s*-?\s*\\infty", gold[at + 1 :])]  # fmt: skip
        outer = [at for at in near if gold[at - 1 : at] != "\\" and _is_outer(gold, at)]
        if not outer:
            return None
        at = draw.choice(outer)
        return gold[:at] + _ENDS[gold[at]] + gold[at + 1 :]
    turned = {r"\le": "<", r"\leq": "<", r"\ge": ">", r"\geq": ">", "<": r"\le ", ">": r"\ge "}
    return _replaced(gold, _BOUND, draw, lambda match: turned[match.group()])


def _is_outer(gold: str, at: int) -> bool:
    depth = 0
    for place, char in enumerate(gold):
        closing = char in ")]"
        depth -= closing
        if place == at:
            return depth == 0
        depth += char in "(["
    return False


def _alternative(gold: str, draw: random.Random) -> str | None:
    shape = draw.choice([r"{} \text{ or } #", r"{}, #", r"# \text{ or } {}", r"{} \text{ (or #)}",
                         r"\text{either } {} \text{ or } #"])  # fmt: skip
    return shape.replace("{}", gold).replace("#", ALTERNATIVE)


KINDS: dict[str, Callable[[str, random.Random], str | None]] = {
    "sign": _sign, "digit": _digit, "factor of 10": _factor_of_ten, "swapped pair": _swapped,
    "dropped part": _dropped, "other unit": _unit, "negation": _negation,
    "neighbour": _neighbour, "off by one": _off_by_one, "inverse": _inverse,
    "wrong interval end": _end, "added alternative": _alternative,
}  # fmt: skip
