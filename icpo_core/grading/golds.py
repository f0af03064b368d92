"""Gold answers of which any is right, kept in the one text that a table has for the answer.

One answer is its own text. Several are a JSON list of texts, as `["1/2", "0.5"]`: no answer to a
problem looks like that. A gold answer of several parts, all of which are needed, is one answer
(`1, 2`).
"""

import json
from collections.abc import Sequence


def together(answers: Sequence[str]) -> str:
    """The text that stands for `answers`, at least one, of which any is right."""
    distinct = list(dict.fromkeys(answers))
    return distinct[0] if len(distinct) == 1 else json.dumps(distinct, ensure_ascii=False)


def acceptable(gold: str) -> tuple[str, ...]:
    """The answers, at least one, that `gold` stands for."""
    gold = gold.strip()
    if gold.startswith('["') and gold.endswith('"]'):
        try:
            answers = json.loads(gold)
        except json.JSONDecodeError:
            return (gold,)
        if all(isinstance(answer, str) for answer in answers):
            return tuple(answer.strip() for answer in answers)
    return (gold,)
