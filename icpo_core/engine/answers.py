"""What is read of a server's answers, and how a server fails."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, FiniteFloat, NonNegativeInt

from icpo_core.common.text import line

WORDS = 300
"""Characters of a server's answer that are shown."""


class EndpointError(RuntimeError):
    """An endpoint that does not answer, or not as it should."""


class TriedError(EndpointError):
    """A request that failed in all tries."""


class Token(BaseModel):
    token_id: NonNegativeInt
    logprob: FiniteFloat


class Logprobs(BaseModel):
    content: list[Token]


class Choice(BaseModel):
    token_ids: list[NonNegativeInt]
    logprobs: Logprobs | None = None
    finish_reason: Literal["stop", "length"]


class Reply(BaseModel):
    """What is read of an answer of `/inference/v1/generate`."""

    choices: Annotated[list[Choice], Field(min_length=1)]
    prompt_logprobs: list[dict[str, Any] | None] | None = None


class Part(BaseModel):
    tensors: NonNegativeInt
    unread: list[str]
    other: list[str]


class Parts(BaseModel):
    """What is read of an answer of `compare`."""

    results: Annotated[list[Part], Field(min_length=1)]


@dataclass(frozen=True)
class Answer:
    status: int
    content: bytes

    @property
    def words(self) -> str:
        return line(f"HTTP {self.status} {self.content[:WORDS].decode('utf-8', 'replace')}")


def as_json(answer: Answer) -> dict[str, Any]:
    try:
        found = json.loads(answer.content)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
