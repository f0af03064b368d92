"""Items that stand for several: ``\\pm``, ``1, 2, \\ldots, 9``, tuples and their orders."""

import itertools
import re

from icpo_core.grading.answers.forms import Form, Group, Named

MAX_ITEMS = 200
"""A longer list is read as one piece of text."""


def adjacent_tuples(pieces: list[str]) -> list[str]:
    """``(1,2)(3,4)`` is two tuples."""
    parted = []
    for piece in pieces:
        tuples = re.findall(r"\([^()]*,[^()]*\)", piece)
        if len(tuples) > 1 and re.sub(r"\([^()]*,[^()]*\)|\s", "", piece) == "":
            parted += tuples
        else:
            parted.append(piece)
    return parted


def enumerated(pieces: list[str]) -> list[str]:
    """``1, 2, \\ldots, 9`` written out; as it is unless it is a sequence of integers."""
    plain = [piece.strip() for piece in pieces]
    if plain.count(r"\ldots") != 1 or not 2 <= plain.index(r"\ldots") < len(plain) - 1:
        return pieces
    at = plain.index(r"\ldots")
    if not all(re.fullmatch(r"-?\d{1,6}", piece) for piece in plain[:at] + plain[at + 1 :]):
        return pieces
    before, after = [int(piece) for piece in plain[:at]], [int(piece) for piece in plain[at + 1 :]]
    step = before[1] - before[0]
    if step == 0 or (after[-1] - before[0]) % step:
        return pieces
    whole = list(range(before[0], after[-1] + step // abs(step), step))
    if len(whole) > MAX_ITEMS or whole[:at] != before or whole[-len(after) :] != after:
        return pieces
    return [str(number) for number in whole]


def permutations(items: list[Form]) -> list[Form]:
    """Every order of each tuple, for `(1,2,3) and permutations`."""
    found: dict[Form, None] = {}
    for item in items:
        if isinstance(item, Named):
            item = item.value
        if isinstance(item, Group) and item.opening == "(" and len(item.items) <= 5:
            for order in itertools.permutations(item.items):
                found[Group("(", order, ")")] = None
        else:
            found[item] = None
    return list(found)


def with_signs(piece: str, independent: bool) -> list[str]:
    r"""The items that ``\pm`` and ``\mp`` stand for."""
    count = len(re.findall(r"\\(?:pm|mp)(?![a-z])", piece))
    if not count or count > 4:
        return [piece]
    if re.search(r"(?:^|=|\\in)\s*\\\{", piece) and piece.endswith(r"\}"):
        return [piece]  # each member of a set has its own signs
    if independent:
        choices = list(itertools.product("+-", repeat=count))
    else:
        choices = [("+",) * count, ("-",) * count]
    found = []
    for choice in choices:
        signs = iter(choice)

        def sign(match: re.Match[str], signs: "itertools.chain[str]" = signs) -> str:  # type: ignore[assignment]
            chosen = next(signs)
            if match.group() == r"\mp":
                chosen = "-" if chosen == "+" else "+"
            return chosen

        plain = re.sub(r"\\(?:pm|mp)(?![a-z])", sign, piece)
        found.append(re.sub(r"(^|[=(,{<>]\s*)\+", r"\1", plain))
    return found
