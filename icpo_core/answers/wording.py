"""Answers in words: which words matter, and which ways of saying a thing are the same."""

import re

EMPTY = "no solution"
INFINITE = "infinitely many"
ALL_REALS = "all real numbers"

_EMPTY = re.compile(
    r"^(?:there (?:is|are|exists?) )?(?:no(?:ne)?|0|zero)(?: such| real| positive| integer| valid| possible"
    r"| other)*(?: (?:solutions?|answers?|values?|integers?|numbers?|functions?|pairs?|triples?"
    r"|roots?|polynomials?|sequences?|primes?|x|n|k|intersections?|points?|ways?|sets?"
    r"|one|real numbers?))"
    r"(?: (?:exists?|exist|for (?:x|n|k)|satisf\w+.*|work|works))?$"
    r"|^none(?: exists?| of them| at all)?$"
    r"|^(?:it |this |that )?(?:is )?(?:impossible|not possible|undefined|dne|does not exist|do not exist)$"
    r"|^(?:the )?empty set$|^(?:the )?(?:equation|system|inequality) has no (?:real )?solutions?$"
    r"|^has no (?:real )?solutions?$|^(?:such )?(?:\w+ )?does not exist$|^no such \w+( \w+)?( exists?)?$"
    r"|^not defined$|^there (?:is|are) none$"
)
_INFINITE = re.compile(
    r"^(?:there (?:is|are) )?(?:an? )?(?:infinitely many|infinite(?: number(?: of)?)?|infinity)"
    r"(?: (?:solutions?|values?|many|pairs?|points?|integers?|primes?|numbers?|triples?|ways?))*$"
)
_PREAMBLE = re.compile(
    r"^(?:so |thus |therefore |hence )*(?:the |my |our |its )?(?:final |correct )*"
    r"(?:answer|result|solution|value)s?(?: is| are| equals?| to be| must be)?(?: equal to)?(?: that)?:? "
)
_ALL_REALS = re.compile(
    r"^(?:for )?(?:all|any|every|the)?(?: set of)?(?: the)?(?: all)? ?real(?: numbers?| values?| x)?"
    r"(?: x| of x)?$|^reals$|^any (?:real )?number$|^all numbers$"
)
_STOP = frozenset(
    "the a an is are was it its that this there of on at to be so has have answer final value result "
    "therefore thus hence solution which direction function number integer numbers integers all any "
    "every each wins win winning strategy triangle only such".split()
)  # fmt: skip
_YES = frozenset("yes true correct right".split())
_NO = frozenset("no false incorrect wrong".split())
NEGATIONS = frozenset(
    "not no never cannot can't isn't aren't doesn't don't none neither nor except without unless "
    "excluding but wrong incorrect false maybe perhaps possibly either instead rather alternatively "
    "alternative else otherwise also another unless unlikely probably guess unsure unknown".split()
)
MONTHS = (
    "january february march april may june july august september october november december".split()
)
_LONG = {
    name[:3]: name
    for name in [*MONTHS, *"sunday monday tuesday wednesday thursday friday saturday".split()]
}
_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
).split()
BENIGN = frozenset(
    "the a an is are be of to for all any every each real reals number numbers integer integers "
    "natural positive negative nonnegative non-negative value values such that where with answer final so "
    "then therefore thus hence we get have solution solutions set only x's equal equals equation "
    "equivalently i.e or namely when and both in on interval inequality given by find found must "
    "function functions respectively sequence form simplifies ordered pair pairs triple triples tuple tuples "
    "points point coordinates complex roots root approximately about exactly minimum maximum min "
    "max least greatest smallest largest possible total result expression its it this constant "
    "constants arbitrary rational prime primes distinct satisfying satisfy condition range "
    "domain polynomial polynomials unique only one there exist exists following line circle plane length area volume probability sum product ratio angle distance".split()
)


def clean(words: str) -> str:
    """Lower case, without punctuation at words' ends, LaTeX text commands and extra spaces."""
    words = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", words)
    words = re.sub(r"[^\w\s'/.:^{}+-]", " ", words.lower())
    words = re.sub(r"(?<![a-z])([ap])\.\s*m\.?(?![a-z])", r"\1m", words)
    words = re.sub(r"[.:;]+(?=\s|$)", " ", words)
    return " ".join(words.split())


def without_preamble(words: str) -> str:
    """`the answer is two lines` as `two lines`."""
    return _PREAMBLE.sub("", words) or words


def meaning(words: str) -> str:
    """Return the words that matter, in one spelling for each way of saying nothing or all."""
    words = clean(words)
    if _EMPTY.match(words):
        return EMPTY
    if _INFINITE.match(words):
        return INFINITE
    if _ALL_REALS.match(words):
        return ALL_REALS
    kept = [_singular(_LONG.get(word, word)) for word in words.split() if word not in _STOP]
    return " ".join(kept) or words


def number(words: str) -> int | None:
    """Return the number that stands in words, with or without a noun after it: `two ways`."""
    first, _, rest = clean(words).partition(" ")
    if first in _NUMBERS and not (first == "one" and rest) and len(rest.split()) <= 2:
        return _NUMBERS.index(first)
    return None


def is_polar(words: str) -> bool:
    """Whether the answer is yes or no."""
    return clean(words) in _YES | _NO


def same_words(gold: str, answer: str) -> bool:
    """Whether two answers in words say the same."""
    ours, theirs = meaning(gold), meaning(answer)
    if ours == theirs:
        return True
    if set(MONTHS) & set(ours.split()):  # July 4 is the fourth of July
        dates = [
            sorted(re.sub(r"(?<=\d)(?:st|nd|rd|th)\b", "", said).split()) for said in (ours, theirs)
        ]
        return dates[0] == dates[1]
    head, _, rest = theirs.partition(" ")
    for polar, opposite in ((_YES, _NO), (_NO, _YES)):
        if ours in polar and head in polar:
            return not (opposite | polar) & set(rest.split())
    return ours.replace(" ", "").replace("-", "") == theirs.replace(" ", "").replace("-", "")


def _singular(word: str) -> str:
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word
