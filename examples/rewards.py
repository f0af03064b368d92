"""Rewards to copy: format, length, and a judge model behind an address. docs/extending.md has more.

[[verify.rewards]]                  # the first one says whether a response is right
name = "answer"
verifier = "math"

[[verify.rewards]]
name = "format"
verifier = "../examples/rewards.py:steps_and_box"
weight = 0.2

[[verify.rewards]]
name = "brief"
verifier = "../examples/rewards.py:brief"
weight = 0.1

[[verify.rewards]]
name = "clarity"
verifier = "../examples/rewards.py:JudgeModel"
weight = 0.5
version = "qwen3-8b"                # what the source does not show: another text judges again
trusted = true                      # it may use the network
workers = 16                        # so many requests at once
seconds = 60
retries = 3
"""

from __future__ import annotations

import json
import os
import re
import urllib.request
from typing import Any


def steps_and_box(response: str, answer: str, row: dict[str, Any]) -> dict[str, float]:
    """Half for one box, half for at least three lines before it."""
    before, found, after = response.partition(r"\boxed{")
    return {
        "box": 0.5 * bool(found and r"\boxed{" not in after),
        "steps": 0.5 * bool(found and len(before.strip().splitlines()) >= 3),
    }


def brief(response: str, answer: str, row: dict[str, Any]) -> float:
    """0 up to 256 tokens, from there down to -1 at 1,024."""
    return -min(1.0, max(0.0, (row["tokens"] - 256) / 768))


class JudgeModel:
    """Asks the model behind $JUDGE_URL (OpenAI-compatible) how clear a response is, from 0 to 10.

    What it raises is tried again, `retries` times."""

    batch = 1

    def judge(self, questions: list[Any]) -> list[float | None]:
        return [self._one(question) for question in questions]

    def _one(self, question: Any) -> float | None:
        text = (
            "How clear is this solution, from 0 to 10? Say only the number.\n\n"
            f"{question.row['problem']}\n\n{question.response}"
        )
        body = {"model": "judge", "temperature": 0, "messages": [{"role": "user", "content": text}]}
        request = urllib.request.Request(
            f"{os.environ['JUDGE_URL']}/v1/chat/completions",
            json.dumps(body).encode(),
            {
                "Content-Type": "application/json",
                "Authorization": f"Bearer {os.environ.get('JUDGE_KEY', '')}",
            },
        )
        with urllib.request.urlopen(request) as reply:
            said = json.load(reply)["choices"][0]["message"]["content"]
        number = re.search(r"\d+(\.\d+)?", said)
        return min(10.0, float(number[0])) / 10 if number else None
