"""Numbers in words: ``seven``, ``twenty-five``, ``ten thousand``, ``two ways``."""

from icpo_core.grading.answers.counted import is_counted
from icpo_core.grading.answers.wording import clean

_SMALL = dict(
    zip(
        [
            "zero",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
            "thirteen",
            "fourteen",
            "fifteen",
            "sixteen",
            "seventeen",
            "eighteen",
            "nineteen",
            "twenty",
        ],
        range(21),
        strict=True,
    )
)
_TENS = {"thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80,
         "ninety": 90, "twenty": 20}  # fmt: skip
_LARGE = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_LEAD = frozenset(["exactly", "only", "just", "precisely"])


def number_in(words: str) -> int | None:
    """Return the number that words say, with or without what is counted: `two ways`.

    None if they say none, or more than one number, or take it back.
    """
    said = clean(words).replace("-", " ").split()
    while said and said[0] in _LEAD:
        said = said[1:]
    found, length = _leading(said)
    rest = said[length:]
    if found is None or (found == 1 and length == 1 and rest):
        return None
    return found if not rest or is_counted(" ".join(rest), found == 1) else None


def worth_of(word: str) -> int | None:
    """The worth of `thousand`, `million` and the like."""
    return _LARGE.get(word.lower())


def _leading(words: list[str]) -> tuple[int | None, int]:
    """The number at the start of the words, and how many words it takes."""
    total, part, at, started = 0, 0, 0, False
    for at, word in enumerate([*words, ""]):
        if word in _SMALL or word in _TENS:
            value = _SMALL.get(word, _TENS.get(word, 0))
            if part % 10 or (part % 100 and value >= 10):
                break  # "three four" is two numbers
            part, started = part + value, True
        elif word == "hundred" and started and 0 < part < 10:
            part *= 100
        elif word in _LARGE and started and part:
            total, part = total + part * _LARGE[word], 0
        elif word == "and" and part % 100 == 0 and part and words[at + 1 : at + 2]:
            if words[at + 1] not in _SMALL and words[at + 1] not in _TENS:
                break
        else:
            break
    return (total + part if started else None), at
