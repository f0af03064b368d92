"""Equality that text alone decides: the cheap path before anything is parsed."""

import re
from fractions import Fraction

_NUMBER = re.compile(r"([-+]?)(\d{1,4000}|\d{1,3}(?:,\d{3}){1,40})(\.\d{1,4000})?")
_LIST_COMMA = re.compile(r"\d\s*,\s+\d{3}")
_DRESS = re.compile(r"(?:\\left(?![a-z])|\\right(?![a-z])|\\[,;:! ]|\$|\s)+")


def exactly_equal(gold: str, answer: str) -> bool | None:
    """Return True or False where the text decides, None where it takes a parser.

    Two texts that differ only in spaces, dollar signs and bracket sizes are equal; two plain
    integers, or decimals of the same value, are compared as numbers.
    """
    if bool(_LIST_COMMA.search(gold)) != bool(_LIST_COMMA.search(answer)):
        return None  # 1, 234 is a list
    plain_gold, plain_answer = _plain(gold), _plain(answer)
    if plain_gold and plain_gold == plain_answer:
        return True
    gold_number, answer_number = _number(plain_gold), _number(plain_answer)
    if gold_number is None or answer_number is None:
        return None
    if gold_number == answer_number:
        return True
    # A decimal may stand for a rounded value, which is for the full comparison to say.
    if gold_number.denominator == 1 and answer_number.denominator == 1:
        return False if "." not in plain_gold + plain_answer else None
    return None


def _plain(answer: str) -> str:
    spaced = _DRESS.sub(" ", answer).strip()
    # "1 2" is not 12, and "\pi r" is not "\pir": a space goes only where it parts no two of a kind.
    return re.sub(r"(?<![A-Za-z0-9]) +| +(?![A-Za-z0-9])", "", spaced)


def _number(text: str) -> Fraction | None:
    match = _NUMBER.fullmatch(text)
    return Fraction(text.replace(",", "")) if match else None
