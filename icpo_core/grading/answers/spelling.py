"""Tables of spelling: what characters, commands and words stand for in plain notation."""

from icpo_core.grading.answers.wording import words_of

_UNICODE = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "﹣": "-",
    "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "•": r"\cdot ", "÷": "/",
    "∗": "*", "⋆": "*", "✕": r"\times ", "✖": r"\times ", "⨯": r"\times ",
    "∕": "/", "⁄": "/", "√": r"\sqrt ", "∛": r"\sqrt[3] ", "∞": r"\infty ", "±": r"\pm ",
    "∓": r"\mp ", "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≦": r"\le ",
    "≧": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "≃": r"\approx ", "≅": r"\approx ",
    "≡": r"\equiv ", "且": r"\text{and}", "或": r"\text{or}", "和": r"\text{and}", "∈": r"\in ",
    "∉": r"\notin ", "∪": r"\cup ", "∩": r"\cap ", "∖": r"\setminus ",
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
for _at, _letter in enumerate(
    ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa",
     "lambda", "mu", "nu", "xi", "", "pi", "rho", "sigma", "sigma", "tau", "upsilon", "phi", "chi",
     "psi", "omega")
):  # fmt: skip
    if _letter:
        _UNICODE[chr(0x3B1 + _at)] = f"\\{_letter} "
for _capital, _letter in zip(
    "ΓΔΘΛΞΠΣΥΦΨΩ",
    ("Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Upsilon", "Phi", "Psi", "Omega"),
    strict=True,
):
    _UNICODE[_capital] = f"\\{_letter} "
_UNICODE |= {"ϕ": r"\phi ", "ϵ": r"\epsilon ", "ϑ": r"\theta ", "µ": r"\mu "}
TRANSLATION = str.maketrans(_UNICODE)
RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ⁽⁾", "0123456789+-ni()")
LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋ₙₖ₍₎", "0123456789+-nk()")

FUNCTIONS = words_of(
    "sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh log ln lg exp max min gcd "
    "lcm det"
)
SYMBOLS = {
    "pi": r"\pi", "infinity": r"\infty", "inf": r"\infty", "infty": r"\infty", "theta": r"\theta",
    "alpha": r"\alpha", "beta": r"\beta", "gamma": r"\gamma", "lambda": r"\lambda", "phi": r"\phi",
    "omega": r"\omega", "sigma": r"\sigma", "sqrt": r"\sqrt", "cdot": r"\cdot",
    "times": r"\times", "union": r"\cup", "asin": r"\arcsin", "acos": r"\arccos",
    "atan": r"\arctan",
}  # fmt: skip

# Words of two and three letters, which could as well be products of variables.
SHORT_WORDS = words_of(
    "the and for all any are yes not odd day men cat dog boy age sum set one two six ten red box "
    "has its can may but only how way hour mon tue wed thu fri sat sun am pm mod out per no or is "
    "if of to cents mins secs bit bob ann amy tom sam joe jan feb mar apr jun jul aug sep oct nov "
    "dec nor who dne low top due new old win won die big few"
)
# Units, after a number only: mg and ml are products elsewhere.
SHORT_UNITS = words_of(
    "cm mm km kg mg ml ft mph kph lb lbs pct oz hr hrs yd mi sq cu gal pts rad usd rpm sec min"
)
# Words that are as often products of variables, as in e^{at} or ax + by: words among words only.
LOOSE_WORDS = words_of("at by as it be in on so an we he me my up do go us")

COMMANDS = {
    "dfrac": r"\frac", "tfrac": r"\frac", "cfrac": r"\frac", "dbinom": r"\binom",
    "tbinom": r"\binom", "leqslant": r"\le", "geqslant": r"\ge", "leq": r"\le", "geq": r"\ge",
    "leqq": r"\le", "geqq": r"\ge", "lt": "<", "gt": ">", "neq": r"\ne", "colon": ":",
    "lbrace": r"\{", "rbrace": r"\}", "lbrack": "[", "rbrack": "]", "langle": "(", "rangle": ")",
    "lvert": "|", "rvert": "|", "vert": "|", "mid": "|", "lVert": r"\|", "rVert": r"\|",
    "varnothing": r"\emptyset", "empty": r"\emptyset", "O": r"\emptyset", "R": r"\mathbb{R}",
    "Z": r"\mathbb{Z}", "N": r"\mathbb{N}", "Q": r"\mathbb{Q}", "reals": r"\mathbb{R}",
    "C": r"\mathbb{C}", "wedge": r"\land", "vee": r"\lor", "dots": r"\ldots", "cdots": r"\ldots",
    "dotsc": r"\ldots", "backslash": r"\setminus", "smallsetminus": r"\setminus",
    "lg": r"\log_{10}", "ast": "*", "div": "/", "simeq": r"\approx",
    "thickapprox": r"\approx",
    "bmod": r"\mod", "pmod": r"\pmod", "degree": r"^{\circ}", "deg": r"^{\circ}", "to": r"\to",
    "rightarrow": r"\to", "implies": r"\implies", "Rightarrow": r"\implies", "percent": r"\%",
    "varepsilon": r"\epsilon", "varphi": r"\phi", "vartheta": r"\theta", "longrightarrow": r"\to",
    "dollar": r"\$", "textdollar": r"\$", "euro": r"\text{euro}", "pounds": r"\text{pound}",
    "iff": r"\iff", "mathbbm": r"\mathbb", "Bbb": r"\mathbb", "textbackslash": "",
    "widehat": r"\hat", "overrightarrow": r"\vec",
    "cosec": r"\csc", "tg": r"\tan", "ctg": r"\cot", "arctg": r"\arctan",
    "ne": r"\ne", "not": r"\not",
}  # fmt: skip
