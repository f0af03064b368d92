r"""Several values in one answer: lists, sets, tuples, records, vectors and matrices.

A bare list is taken as a set of solutions, so its order is free; a tuple's is not. What two items
are worth is asked of the function `equal` that the caller gives, gold first.
"""

import re
from collections.abc import Callable
from dataclasses import replace

from icpo_core.grading.answers.forms import (
    Combination,
    Form,
    Group,
    Matrix,
    Named,
    Relation,
    Value,
    Words,
    items_of,
)
from icpo_core.grading.answers.names import plain_name

Equal = Callable[[Form, Form], bool]

_PROPER_NAME = re.compile(r"\\text\{\s*[A-Z][a-z]+\s*\}|[A-Z][a-z]{2,}")
_COORDINATES = frozenset("xyz")
MAX_MATCHED = 60
"""Lists longer than this are compared in order only."""


def same_lists(gold: Form, answer: Form, equal: Equal) -> bool:
    """Whether two answers, one of them a bare list at least, hold the same values."""
    ours, theirs = items_of(gold), items_of(answer)
    if _are_letters(ours) and {_joined(gold), _joined(answer)} == {"and", "or"}:
        return False  # p and q is not p or q
    for one, other in ((gold, answer), (answer, gold)):
        if isinstance(one, Group) and one.opening == "(" and _joined(other) == "or":
            return False  # (3, 4) is not 3 or 4
    if _are_people(theirs) and not names_of(ours):
        theirs = _unnamed(theirs)
    our_names, their_names = names_of(ours), names_of(theirs)
    if (
        our_names
        and sorted(our_names) == sorted(their_names)
        and len(set(our_names)) == len(our_names)
    ):
        disjoint = [_joined(form) == "or" for form in (gold, answer)]
        return disjoint[0] == disjoint[1] and _same_records(ours, theirs, equal)
    if len(set(our_names)) > 1 and _has_another_name(theirs, our_names):
        return False
    tuple_of = isinstance(gold, Group) and gold.opening == "(" and set(their_names) <= _COORDINATES
    if tuple_of and 1 < len(set(their_names)) == len(theirs):
        order = sorted(range(len(theirs)), key=lambda at: their_names[at])
        theirs = [theirs[at] for at in order]  # y = 2, x = 1 is (1, 2)
    our_rows, their_rows = _rows(ours), _rows(theirs)
    if our_rows is not None and len(our_rows) == 1 and len(theirs) == 1:
        single = theirs[0].value if isinstance(theirs[0], Named) else theirs[0]
        if isinstance(single, Value):  # both angles are 90°
            return all(equal(value, single) for value in _unnamed(ours))
    if our_rows is not None or their_rows is not None:
        ours, theirs = our_rows or _unnamed(ours), their_rows or _unnamed(theirs)
        return _same_items(ours, theirs, True, equal)
    if any(isinstance(item, Relation) for item in ours + theirs) and len(ours) == len(theirs):
        return matched(ours, theirs, equal)
    ours, theirs = _unnamed(ours), _unnamed(theirs)
    ours, theirs = _united(ours, theirs), _united(theirs, ours)
    return _same_items(ours, theirs, not _is_ordered(gold, answer), equal)


def same_groups(gold: Form, answer: Form, equal: Equal) -> bool:
    """Whether two answers, one of them in brackets at least, are the same tuple or set."""
    if not (isinstance(gold, Group) and isinstance(answer, Group)):
        one, other = (gold, answer) if isinstance(gold, Group) else (answer, gold)
        assert isinstance(one, Group)
        if one.opening == r"\{" and len(one.items) == 1:
            inner = one.items[0]
            if is_empty(inner) or (isinstance(inner, Group) and inner.opening == one.opening):
                return False  # {{}} and {{12}} are sets of sets
            return equal(inner, answer) if one is gold else equal(gold, inner)
        return not one.items and is_empty(other)
    ours, theirs = list(gold.items), list(answer.items)
    if gold.opening == answer.opening == r"\{":
        return matched(_distinct(ours, equal), _distinct(theirs, equal), equal)
    if gold.opening == r"\{":
        return len(ours) == 1 and isinstance(ours[0], Group) and equal(ours[0], answer)
    if answer.opening == r"\{":
        return len(theirs) == 1 and isinstance(theirs[0], Group) and equal(gold, theirs[0])
    brackets = (gold.opening, gold.closing) == (answer.opening, answer.closing)
    mixed = (answer.opening == "(") != (answer.closing == ")")
    if len(ours) != len(theirs) or (not brackets and (len(ours) == 2 or mixed)):
        return False
    return all(equal(a, b) for a, b in zip(ours, theirs, strict=True))


def same_matrices(gold: Form, answer: Form, equal: Equal) -> bool | None:
    """Whether a matrix or vector is another one; None if one of them is neither."""
    ours, theirs = _cells(gold), _cells(answer)
    if ours is None or theirs is None:
        return None
    if not isinstance(gold, Matrix) or not isinstance(answer, Matrix):
        # A vector may be written as a tuple, standing or lying.
        ours, theirs = [_flat(ours)], [_flat(theirs)]
    if [len(row) for row in ours] != [len(row) for row in theirs]:
        return False
    return all(
        equal(a, b)
        for our_row, their_row in zip(ours, theirs, strict=True)
        for a, b in zip(our_row, their_row, strict=True)
    )


def same_combinations(gold: Form, answer: Form, equal: Equal) -> bool:
    """Whether unions, intersections or differences have the same parts."""
    if not (isinstance(gold, Combination) and isinstance(answer, Combination)):
        return False
    if gold.sign != answer.sign or len(gold.items) != len(answer.items):
        return False
    if all(equal(a, b) for a, b in zip(gold.items, answer.items, strict=True)):
        return True
    return gold.sign != r"\setminus" and matched(list(gold.items), list(answer.items), equal)


def matched(ours: list[Form], theirs: list[Form], equal: Equal) -> bool:
    """Whether each item of one list is an item of the other, each used once."""
    rest = list(theirs)
    for item in ours:
        found = next((other for other in rest if equal(item, other)), None)
        if found is None:
            return False
        rest.remove(found)
    return not rest


def spread(form: Form, other: Form) -> Form:
    """``a = b = c = 0`` as the tuple (0, 0, 0), where the other side is tuples."""
    tuples = [item for item in items_of(other) if isinstance(item, Group) and item.opening == "("]
    named = names_of(items_of(other))
    if not tuples and len(set(named)) < 2:
        return form
    if isinstance(form, Named) and "=" in form.name and isinstance(form.value, Value):
        return Group("(", (form.value,) * (form.name.count("=") + 1), ")")
    if isinstance(form, Group) and form.opening == "":
        return Group("", tuple(spread(item, other) for item in form.items), "", form.joined)
    return form


def in_order(name: str, value: Form) -> Form:
    """The (1, 2) of `(y, x) = (2, 1)`."""
    letters = re.findall(r"[xyz]", name)
    if not re.fullmatch(r"\(\s*[xyz](?:\s*,\s*[xyz])+\s*\)", name.strip()):
        return value
    if not isinstance(value, Group) or {len(set(letters)), len(letters)} != {len(value.items)}:
        return value
    return replace(
        value,
        items=tuple(
            item
            for _, item in sorted(zip(letters, value.items, strict=True), key=lambda pair: pair[0])
        ),
    )


def _united(items: list[Form], others: list[Form]) -> list[Form]:
    """The members of several sets, where the other side is no sets: ``{1, 2} and {3}``."""
    sets = [item for item in items if isinstance(item, Group) and item.opening == r"\{"]
    if len(sets) < len(items) or any(isinstance(item, Group) for item in others):
        return items
    return [member for one in sets for member in one.items]


def names_of(items: list[Form]) -> list[str]:
    """The plain names of the items; none unless all are named."""
    names = [plain_name(item.name) for item in items if isinstance(item, Named)]
    return names if len(names) == len(items) else []


def is_empty(form: Form) -> bool:
    """Whether the form is the empty set."""
    if isinstance(form, Named):
        return is_empty(form.value)
    if isinstance(form, Group):
        return form.opening == r"\{" and not [
            item for item in form.items if not isinstance(item, Words) or item.text.strip()
        ]
    return isinstance(form, Value) and form.tex.strip() == r"\emptyset"


def _has_another_name(items: list[Form], names: list[str]) -> bool:
    """Whether a single value is said to be one of several quantities: x of x = 0, y = 0."""
    return len(items) == 1 and isinstance(items[0], Named) and plain_name(items[0].name) in names


def _joined(form: Form) -> str:
    return form.joined if isinstance(form, Group) else ""


def _unit(form: Form) -> str:
    return form.unit if isinstance(form, Value) else ""


def _are_people(items: list[Form]) -> bool:
    """Whether values are told apart by proper names, as in `Kim: 4, Lee: 9`."""
    names = [item.name for item in items if isinstance(item, Named)]
    return len(names) == len(items) > 1 and all(
        re.fullmatch(r"\\text\{\s*[A-Z][a-z]+\s*\}|[A-Z][a-z]{2,}", name) for name in names
    )


def _are_letters(items: list[Form]) -> bool:
    return all(
        isinstance(item, Value) and re.fullmatch(r"\\?[a-z]+", item.tex.strip()) for item in items
    )


def _is_ordered(gold: Form, answer: Form) -> bool:
    """Whether the order of a list tells its items apart: tuples, and values of several names."""
    for form in (gold, answer):
        if isinstance(form, Group) and form.opening in ("(", "["):
            return True
        items = items_of(form)
        if len(set(names_of(items))) > 1:
            return form is gold or not _are_people(items)
    counted = [{_unit(item) for item in items_of(form)} for form in (gold, answer)]
    if max(map(len, counted)) > 1 and "" in counted[0] | counted[1]:
        return True  # 4 red, 3 blue
    sets = any(isinstance(form, Group) and form.opening == r"\{" for form in (gold, answer))
    if sets or not _in_no_order(_unnamed(items_of(gold))):
        return False
    numbers = [_plain_number(item.tex) for item in items_of(answer) if isinstance(item, Value)]
    known = [number for number in numbers if number is not None]
    return known != sorted(known)  # who sorts them takes them for a set


def _same_items(ours: list[Form], theirs: list[Form], free: bool, equal: Equal) -> bool:
    """Whether two lists have the same items; `free`: in whatever order."""
    if len(ours) == len(theirs) == 1:
        return equal(ours[0], theirs[0])
    if len(theirs) == 1 or len(ours) == 1:
        return _same_as_one(ours, theirs, equal)
    if len(ours) != len(theirs):
        return False
    if all(equal(a, b) for a, b in zip(ours, theirs, strict=True)):
        return True
    return free and len(ours) <= MAX_MATCHED and matched(ours, theirs, equal)


def _same_as_one(ours: list[Form], theirs: list[Form], equal: Equal) -> bool:
    """A list against one form: a tuple of the same items, or one value said several times."""
    long, short = (ours, theirs[0]) if len(theirs) == 1 else (theirs, ours[0])
    if isinstance(short, Group) and len(short.items) == len(long):
        if "[" in short.opening + short.closing.replace("]", "[" * (short.opening == "(")) and (
            len(long) == 2
        ):
            return False  # an interval
        pairs = zip(long, short.items, strict=True)
        ordered = all(equal(a, b) if len(theirs) == 1 else equal(b, a) for a, b in pairs)
        if ordered or short.opening != r"\{":
            return ordered
        items = list(short.items)
        return matched(long, items, equal) if len(theirs) == 1 else matched(items, long, equal)
    if len(long) > 4:
        return False
    if len(theirs) == 1:
        return all(equal(item, short) for item in long)
    if all(item == long[0] for item in long):
        return False  # 12, 12
    return all(equal(short, item) for item in long)


def _same_records(ours: list[Form], theirs: list[Form], equal: Equal) -> bool:
    """Named values, each compared with its namesake."""
    values = {plain_name(item.name): item.value for item in theirs if isinstance(item, Named)}
    return all(
        equal(item.value, values[plain_name(item.name)]) for item in ours if isinstance(item, Named)
    )


def _distinct(items: list[Form], equal: Equal) -> list[Form]:
    kept: list[Form] = []
    for item in items[:MAX_MATCHED]:
        if not any(equal(item, other) for other in kept):
            kept.append(item)
    return kept + items[MAX_MATCHED:]


def _unnamed(items: list[Form]) -> list[Form]:
    return [item.value if isinstance(item, Named) else item for item in items]


def _rows(items: list[Form]) -> list[Form] | None:
    """``x=1, y=2, x=3, y=4`` as the tuples (1,2), (3,4); None if names do not repeat like that."""
    names = names_of(items)
    width = len(dict.fromkeys(names))
    if width < 2 or len(names) % width or names != names[:width] * (len(names) // width):
        return None
    values = _unnamed(items)
    return [Group("(", tuple(values[at : at + width]), ")") for at in range(0, len(values), width)]


def _in_no_order(items: list[Form]) -> bool:
    """Three plain numbers neither rising nor falling: the order may mean something, as in x, y, z.

    Longer lists are sets of solutions in every benchmark looked at.
    """
    if len(items) != 3 or not all(isinstance(item, Value) for item in items):
        return False
    worths = [_plain_number(item.tex) for item in items if isinstance(item, Value)]
    numbers = [worth for worth in worths if worth is not None]
    if len(numbers) < len(items):
        return False
    return numbers not in (sorted(numbers), sorted(numbers, reverse=True))


def _plain_number(tex: str) -> float | None:
    match = re.fullmatch(r"\s*([-+]?\s*\d*\.?\d+)\s*", tex)
    return float(match.group(1).replace(" ", "")) if match else None


def _cells(form: Form) -> list[list[Form]] | None:
    if isinstance(form, Matrix):
        return [list(row) for row in form.rows]
    if isinstance(form, Group) and form.opening in ("(", "["):
        return [list(form.items)]
    return None


def _flat(rows: list[list[Form]]) -> list[Form]:
    return [cell for row in rows for cell in row] if len(rows) == 1 or len(rows[0]) == 1 else []
