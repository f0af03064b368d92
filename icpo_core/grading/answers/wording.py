"""Answers in words: which words matter, and which ways of saying a thing are the same."""

import re

EMPTY = "no solution"
INFINITE = "infinitely many"
ALL_REALS = "all real numbers"


def words_of(text: str) -> frozenset[str]:
    """Return the words of a text as a set."""
    return frozenset(text.split())


_NOUN = (
    r"(?:solutions?|answers?|values?|integers?|numbers?|functions?|pairs?|triples?|roots?"
    r"|polynomials?|sequences?|primes?|intersections?|points?|ways?|sets?|one|real numbers?|[xkn])"
)
_EMPTY = re.compile(
    r"(?:there (?:is|are|exists?) )?(?:no(?:ne)?|0|zero)"
    rf"(?: such| real| positive| integer| valid| possible| other)* {_NOUN}"
    r"(?: (?:exists?|for [xkn]|satisf\w+.*|works?))?"
    r"|none(?: exists?| of them| at all)?|there (?:is|are) none|not defined"
    r"|(?:it |this |that )?(?:is )?(?:impossible|not possible|undefined|dne|do(?:es)? not exist)"
    r"|(?:the )?empty set|(?:the )?(?:equation |system |inequality )?has no (?:real )?solutions?"
    r"|(?:such )?(?:\w+ )?does not exist|no such \w+( \w+)?( exists?)?"
)
_INFINITE = re.compile(
    r"(?:there (?:is|are) )?(?:an? )?(?:infinitely many|infinite(?: number(?: of)?)?|infinity)"
    rf"(?: (?:many|{_NOUN}))*"
)
_ALL_REALS = re.compile(
    r"(?:for )?(?:all|any|every|the)?(?: set of)?(?: the)?(?: all)? ?real(?: numbers?| values?| x)?"
    r"(?: x| of x)?|reals|any (?:real )?number|all numbers"
)
_PREAMBLE = re.compile(
    r"^(?:so |thus |therefore |hence )*(?:the |my |our |its )?(?:final |correct )*"
    r"(?:answer|result|solution|value)s?(?: is| are| equals?| to be| must be)?(?: equal to)?"
    r"(?: that)?:? "
)
_STOP = words_of(
    "the a an is are was it its that this there of on at to be so has have answer final value "
    "result therefore thus hence solution which direction function number integer numbers integers "
    "all any every each wins win winning strategy triangle only such they them these those both "
    "condition quadrant with strictly player n k m x p"
)
_TURNS = words_of("not no never impossible none false incorrect wrong fails isn't doesn't")
_ECHOES = words_of(
    "it is possible such exist exists can always does do be done true correct right indeed she he "
    "they will could always was were has integers numbers triangle polynomial graph even odd "
    "continuous differentiable convergent converges prime rational irrational injective surjective "
    "bijective invertible linear independent parallel perpendicular equal holds works claim "
    "statement sequence series similar congruent bounded periodic symmetric this that winning win "
    "wins strategy way ways player guarantee guaranteed"
)
"""What may follow a yes or no: with them it is said again, and nothing is added."""
_WINNING = words_of(
    "a the win wins winning winner strategy always can will has have by of correct answer true "
    "right guarantee ensure force forces victory game first is are player who oldest"
)
_CONDITIONS = words_of("if only unless when whenever provided except or and")
_POSSIBLE = re.compile(
    r"(?:it|this|that|they) (?:is (?:not |im)?(?:always )?possible|can(?:not| not)?(?: be done)?)"
    r"|(?:not |im)?possible"
    r"|such (?:an? )?\w+(?: \w+)? (?:does not |do not |doesn't |don't )?exists?"
)
_IMPOSSIBLE = re.compile(r"\bnot\b|\bimpossible\b|\bcannot\b|n't\b")
_YES = words_of("yes true correct right")
_NO = words_of("no false incorrect wrong")
NEGATIONS = words_of(
    "not no never cannot can't isn't aren't doesn't don't none neither nor except without "
    "unless excluding but wrong incorrect false maybe perhaps possibly either instead rather "
    "alternatively alternative else otherwise also another unlikely probably guess unsure unknown"
)
"""Words that take back, hedge or add: what they stand in is not read as a value."""
BENIGN = words_of(
    "the a an is are be of to for all any each every real reals number numbers integer integers "
    "natural positive nonnegative non-negative value values such that where with answer "
    "final so then therefore thus hence we get have solution solutions set only x's equal equals "
    "equation equivalently i.e or namely when and both in on interval inequality given by find "
    "found must function functions respectively sequence form simplifies ordered pair pairs triple "
    "triples tuple tuples points point coordinates complex roots approximately about exactly "
    "minimum maximum min max least greatest smallest largest possible total result expression its "
    "it this constant constants arbitrary rational prime primes distinct satisfying satisfy "
    "condition range domain polynomial polynomials unique one there exist exists following line "
    "circle plane parabola hyperbola ellipse curve sphere graph locus length area volume "
    "probability sum product ratio angle distance"
)
"""Words that may stand beside a value without saying anything about it."""
LABELS = words_of(
    "length width height base side sides hypotenuse area perimeter circumference volume surface "
    "radius diameter slope intercept x-intercept y-intercept vertex center centre focus foci "
    "directrix mean median mode range average first second third fourth max maximum min minimum "
    "value remainder quotient real imaginary amplitude period phase domain digit digits "
    "number numbers angle angles roots vertices speed price cost profit age ages time "
    "distance the of and its"
)
"""Nouns that may stand before a value, with nothing between, to say what it is the value of."""
MEASURES = words_of("answer result solution total value sum ratio probability all")
"""Other nouns that may be said `of` a value, and leave it as it is."""
SHAPES = words_of(
    "set interval domain sequence function polynomial pair triple tuple point line circle plane "
    "parabola hyperbola ellipse curve sphere graph locus imaginary complex"
)
"""What is no number: a number that is called one is another answer."""
MONTHS = tuple(
    "January February March April May June July August September October November December".lower()
    .split()
)  # fmt: skip
_DAYS = words_of("sunday monday tuesday wednesday thursday friday saturday")
_LONG = {name[:3]: name for name in [*MONTHS, *_DAYS]}
_OPPOSITES = [
    tuple(map(words_of, pair.split("|")))
    for pair in (
        "increase increased increases increasing rise up gain gained profit more higher north over"
        "|decrease decreased decreases decreasing fall down loss lost less lower south under",
        "max maximum largest greatest longest|min minimum smallest least shortest",
        "am a.m.|pm p.m.", "boys boy men male|girls girl women female", "left|right", "east|west",
        "first|second third last", "clockwise|counterclockwise anticlockwise", "even|odd",
        "positive|negative", "above|below", "inside|outside", "bc bce|ad ce", "open|closed",
        "before|after", "length|width height", "width|height", "sum|product difference",
    )
]  # fmt: skip


def are_opposed(gold: str, answer: str) -> bool:
    """Whether a word of one text is the opposite of a word of the other."""
    ours, theirs = set(clean(gold).split()), set(clean(answer).split())
    ours, theirs = ours - theirs, theirs - ours
    return any(
        (ours & one and theirs & other) or (ours & other and theirs & one)
        for one, other in _OPPOSITES
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
    for pattern, said in ((_EMPTY, EMPTY), (_INFINITE, INFINITE), (_ALL_REALS, ALL_REALS)):
        if pattern.fullmatch(words):
            return said
    kept = [_singular(_LONG.get(word, word)) for word in words.split() if word not in _STOP]
    return " ".join(kept) or words


def is_label(words: str) -> bool:
    """Whether the words only name a quantity: `width`, `the maximum value`."""
    return set(clean(words).split()) <= LABELS


def is_extreme(words: str) -> bool:
    """Whether the words tell a largest value from a smallest one."""
    return bool(set(clean(words).split()) & words_of("max maximum min minimum"))


def is_polar(words: str) -> bool:
    """Whether the answer is yes or no."""
    return clean(words) in _YES | _NO


def same_words(gold: str, answer: str) -> bool:
    """Whether two answers in words say the same."""
    ours, theirs = meaning(gold), meaning(answer)
    if ours == theirs:
        return True
    if set(MONTHS) & set(ours.split()):  # July 4 is the fourth of July
        return _date(ours) == _date(theirs)
    head = theirs.partition(" ")[0]
    if re.search(r"\band\b|,", gold) and _parts(gold) == _parts(answer):
        return True
    if _predicated(clean(gold), clean(answer)):
        return True
    if ours in _NO and _EMPTY.fullmatch(clean(answer)) and "," not in answer:
        return True
    if _is_subject(clean(gold), clean(answer)):
        return True
    if re.match(r"no\b\s*,", answer.lower()) and ours in _NO:
        return _agrees(clean(answer).partition(" ")[2], False)
    if ours in _YES | _NO and _POSSIBLE.fullmatch(clean(answer)):
        impossible = bool(_IMPOSSIBLE.search(clean(answer)))
        return impossible == (ours in _NO)
    for polar in (_YES, _NO):
        if ours in polar and head in polar:
            return _agrees(clean(answer).partition(" ")[2], polar is _YES)
    return re.sub("[ -]", "", ours) == re.sub("[ -]", "", theirs)


def _agrees(rest: str, yes: bool) -> bool:
    """Whether what follows a yes or no says the same again. Each negation turns it round, and a
    condition, an exception or anything that is not understood makes it another answer."""
    said = rest.replace("n't", " not").replace("cannot", "can not").split()
    turns = sum(word in _TURNS for word in said)
    if said[:1] in (["because"], ["since"], ["as"]):
        return not set(said) & (_YES | _NO)  # a reason
    if not said or not set(said) <= _TURNS | _ECHOES | BENIGN:
        return not said
    return turns == 0 if yes else turns == 1


def _parts(words: str) -> set[str]:
    """What `Monday, Wednesday and Friday` joins."""
    parts = re.split(r",\s*(?:and\b)?|\band\b", words.lower())
    return {meaning(part) for part in parts if part.strip()}


def _is_subject(gold: str, answer: str) -> bool:
    """Whether the answer is whom a whole sentence speaks of: the dog of `The dog wins`."""
    rest = gold.removeprefix(answer + " ").split()
    if len(rest) == len(gold.split()) or len(rest) < 2 or set(answer.split()) <= BENIGN | LABELS:
        return False
    return not set(rest) & (NEGATIONS | _CONDITIONS) and rest[0] not in ("of", "in", "that", "with")


def _predicated(gold: str, answer: str) -> bool:
    """Whether the answer is the gold in a sentence: `Jane is the oldest`, `It is a rhombus`."""
    said = re.fullmatch(r"((?:\w+ ){1,3})(?:is|are) (?:an? |the )?(.+)", answer)
    if said and said.group(2) == gold and not set(said.group(1).split()) & NEGATIONS:
        return gold not in _YES | _NO
    match = re.fullmatch(
        r"(?:the )?(.+?) (?:is|was|has|will|must|should|can|always|gets) (.+)", answer
    )
    if match is None or match.group(1) != gold or gold in _YES | _NO:
        return False
    predicate = match.group(2).split()
    return all(word in _WINNING or word.endswith("est") for word in predicate)


def _date(words: str) -> list[str]:
    return sorted(re.sub(r"(?<=\d)(?:st|nd|rd|th)\b", "", words).split())


def _singular(word: str) -> str:
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word
