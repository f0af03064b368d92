"""Stands for engines of an evaluation: every sample says one of five things."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from icpo_core.store import tables
from icpo_core.workers.jobs import Sampled

SAID = [
    "so \\boxed{%s}",
    "\\boxed{7, no}",
    "café “%s”\n\tis it",
    "<think> \\boxed{%s} </think>",
    "",
]
"""The first is right."""


class StubEngines:
    """`choose`: which of `SAID` a sample says, by the row of its question and its number."""

    def __init__(self, choose: Callable[[dict[str, Any], int], int]) -> None:
        self.choose = choose

    def sample_all(self, jobs, say, around):
        return [around(job, lambda job=job: self.one(job)) for job in jobs]

    def one(self, job):
        questions = tables.read("questions", job.questions).to_pylist()
        rows = []
        for place, index in job.keys:
            asked = questions[place]
            said = self.choose({**asked, "place": place, "temperature": job.temperature}, index)
            text = SAID[said] % asked["gold"] if "%s" in SAID[said] else SAID[said]
            rows.append(
                {
                    "benchmark": asked["benchmark"], "prompt_id": asked["prompt_id"],
                    "sample_index": index, "response": text,
                    "response_ids": [5 + said] * (1 + place + said),
                    "finish_reason": "length" if index == 3 else "stop", "seed": place * 10 + index,
                    "policy_version": job.policy_version,
                }
            )  # fmt: skip
        table = tables.table("generations", rows)
        written = tables.write("generations", table, job.out, job.fingerprint)
        return Sampled(tokens=len(rows), sampling_seconds=0.5, **asdict(written))
