"""Units of measurement: what a number's unit is worth, so that 5 m is 500 cm and not 5 cm."""

import re
from fractions import Fraction
from functools import lru_cache

from icpo_core.grading.answers.wording import words_of

_SCALES: dict[str, dict[str, float]] = {
    "length": {
        "m meter metre": 1, "km kilometer kilometre": 1e3, "cm centimeter centimetre": 1e-2,
        "mm millimeter millimetre": 1e-3, "nm nanometer nanometre": 1e-9,
        "um micron micrometer": 1e-6, "dm decimeter": 0.1, "in inch inches": 0.0254,
        "ft foot feet": 0.3048, "yd yard": 0.9144,
        "mi mile": 1609.344, "ly lightyear": 9.4607e15, "pc parsec": 3.0857e16, "au": 1.495979e11,
    },
    "unit": {"unit": 1},
    "time": {
        "s sec second": 1, "min minute": 60, "h hr hour": 3600, "day": 86_400, "week": 604_800,
        "ms millisecond": 1e-3, "ns nanosecond": 1e-9, "yr year": 31_557_600, "month": 2_629_800,
    },
    "mass": {
        "kg kilogram": 1, "g gram gm": 1e-3, "mg milligram": 1e-6, "t ton tonne": 1e3,
        "lb pound": 0.45359237, "oz ounce": 0.028349523125,
    },
    "money": {"dollar usd buck": 1, "cent": 0.01, "dime": 0.1, "nickel": 0.05, "quarter": 0.25},
    "euro": {"euro eur": 1}, "yen": {"yen": 1}, "rupee": {"rupee rs": 1}, "yuan": {"yuan rmb": 1},
    "force": {"n newton": 1, "kn kilonewton": 1e3, "dyn dyne": 1e-5},
    "energy": {
        "j joule": 1, "kj kilojoule": 1e3, "ev electronvolt": 1.602177e-19, "mj": 1e6, "erg": 1e-7,
        "kev": 1.602177e-16, "mev": 1.602177e-13, "gev": 1.602177e-10, "cal calorie": 4.184,
        "kcal": 4184,
    },
    "power": {"w watt": 1, "kw kilowatt": 1e3, "mw megawatt": 1e6},
    "volume": {
        "l liter litre": 1e-3, "ml milliliter millilitre": 1e-6, "gal gallon": 3.785411784e-3,
        "quart qt": 9.46352946e-4, "cup": 2.365882365e-4, "pint": 4.73176473e-4,
    },
    "temperature": {"k kelvin": 1}, "celsius": {"celsius": 1}, "fahrenheit": {"fahrenheit": 1},
    "amount": {"mol mole": 1}, "brightness": {"mag magnitude": 1},
    "charge": {"coulomb": 1}, "voltage": {"v volt": 1, "kv kilovolt": 1e3, "mv millivolt": 1e-3},
    "current": {"ampere amp": 1, "ma milliampere": 1e-3}, "resistance": {"ohm": 1, "kohm": 1e3},
    "pressure": {"pa pascal": 1, "kpa": 1e3, "atm": 101_325, "bar": 1e5},
    "frequency": {"hz hertz": 1, "khz": 1e3, "mhz": 1e6, "ghz": 1e9},
    "angle": {"degree deg": 1, "radian rad": 57.29577951308232},
    "speed": {"mph": 0.44704, "kph kmph kmh": 1 / 3.6},
}  # fmt: skip
_SCALES["length"] |= {"米": 1, "厘米": 1e-2, "千米 公里": 1e3, "毫米": 1e-3, "分米": 0.1}
_SCALES["mass"] |= {"千克 公斤": 1, "克": 1e-3, "吨": 1e3}
_SCALES["time"] |= {"小时": 3600, "分钟 分": 60, "秒": 1, "天": 86_400}
_SCALES["yuan"] |= {"元": 1}
_UNITS = {
    name: (dimension, Fraction(str(scale)))
    for dimension, table in _SCALES.items()
    for names, scale in table.items()
    for name in names.split()
}
_NOISE = words_of("the a an of in long wide tall high total about approximately exactly")
_COMPOUND = re.compile(
    r"\s*(\d+(?:\.\d+)?)\s*(?:\\text\{\s*([^{}]+?)\s*\}|([a-z]{1,3})(?![a-z]))[\s,]*"
)
_FACTOR = re.compile(r"([a-zµ\u4e00-\u9fff]+)\.?\s*(?:\^?\s*\{?\s*(-?\d)\s*\}?)?")


def compound(text: str) -> tuple[str, str] | None:
    r"""Return ``5 \text{feet} 6 \text{inches}`` as one number in LaTeX and its unit; None if the
    text is not numbers with units of one dimension."""
    text = text.replace(r"\text{and}", " ")
    parts = _COMPOUND.findall(text)
    if len(parts) < 2 or _COMPOUND.sub("", text).strip():
        return None
    measures = [measure(word or letter) for _, word, letter in parts]
    first = measures[0]
    if first is None or any(m is None or m[0] != first[0] for m in measures):
        return None
    total = sum(
        (Fraction(number) * m[1] for (number, _, _), m in zip(parts, measures, strict=True) if m),
        start=Fraction(0),
    )
    total /= first[1]
    return f"\\frac{{{total.numerator}}}{{{total.denominator}}}", parts[0][1] or parts[0][2]


@lru_cache(maxsize=4096)
def measure(unit: str) -> tuple[dict[str, int], Fraction] | None:
    """Return the dimensions of a unit such as ``km/h``, ``square feet`` or ``m s^{-2}`` (each with
    its power) and its worth in base units; None if a word in it is no unit."""
    text = unit.lower().replace("\\text", "").replace("\\cdot", " ").replace("*", " ")
    text = re.sub(r"[{}](?![\d-])|(?<!\d)\}", " ", text)
    text = re.sub(r"\b(?:sq|square|squared)\b\.?\s*([a-z]+)", r"\1^2", text)
    text = re.sub(r"\b(?:cubic|cu)\b\.?\s*([a-z]+)", r"\1^3", text)
    text = re.sub(
        r"([a-z]+)\s+(squared|cubed)", lambda m: m[1] + ("^2" if m[2][0] == "s" else "^3"), text
    )
    text = re.sub(r"\b(?:per|each|an?)\b(?=\s*[a-z])", "/", text).replace("//", "/")
    dimensions: dict[str, int] = {}
    worth = Fraction(1)
    found = False
    for place, part in enumerate(text.split("/")):
        sign = -1 if place else 1
        for name, power in _FACTOR.findall(part):
            if name in _NOISE and not (name == "in" and (power or text.strip() == "in")):
                continue
            known = _UNITS.get(name) or _UNITS.get(name.removesuffix("s"))
            if known is None:
                return None
            times = sign * int(power or 1)
            dimensions[known[0]] = dimensions.get(known[0], 0) + times
            worth *= known[1] ** times
            found = True
    dimensions = {name: power for name, power in dimensions.items() if power}
    if dimensions.pop("volume", 0) == 1 and not dimensions:  # a litre is a cubic decimetre
        dimensions = {"length": 3}
    if "speed" in dimensions and len(dimensions) == 1:
        dimensions = {"length": dimensions["speed"], "time": -dimensions["speed"]}
    if "unit" in dimensions:  # of length, square or cubic units
        dimensions["length"] = dimensions.get("length", 0) + dimensions.pop("unit")
    return (dimensions, worth) if found else None


def is_unnamed(unit: str) -> bool:
    """Whether a unit says no more than that it is one: `units`, `square units`."""
    return re.search(r"\bunits?\b", unit) is not None
