"""A reward of your own: icpo.toml switches it on, docs/extending.md says what it may return."""

from typing import Any


def short(response: str, answer: str, row: dict[str, Any]) -> float:
    """1 for an empty response, 0 from 64 tokens on.

    response: what the model wrote. answer: the right answer. row: prompt_id, problem, answer,
    source, tokens (of the response) and truncated.
    """
    tokens: int = row["tokens"]
    return max(0.0, 1.0 - tokens / 64)
