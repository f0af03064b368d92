"""Rollouts to be looked at: a few groups of a few iterations, within a budget of bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from icpo_core.run.run import Run
from icpo_core.views.report.tokens import Tokens, expert_tokens
from icpo_core.views.rollouts import Key, parts

ITERATIONS = 12
"""Iterations looked into, evenly spaced, the first and the last among them."""
GROUPS = 16
"""Groups of an iteration at most."""
HEAD, TAIL = 4500, 1500
"""Characters kept of a long text's beginning and end."""


@dataclass(frozen=True)
class Row:
    """One rollout with what became of it."""

    origin: str
    sample: int
    response: str
    tokens: int
    finish: str
    status: str
    extracted: str | None
    reward: float
    rewards: dict[str, float | None]
    """What the reward is made of, if it is made of parts."""
    detail: str
    advantage: float | None
    """None: it is not in the batch."""
    reason: str | None
    """Why it is not."""
    steps: Tokens | None = None
    """Its tokens, of an expert rollout that had a part in the loss."""

    @property
    def size(self) -> int:
        """About the bytes that it takes on the page."""
        steps = len(self.steps.text) if self.steps else 0
        return len(self.response.encode()) + 120 + 32 * steps


@dataclass(frozen=True)
class Group:
    """One problem with its rollouts."""

    id: str
    problem: str
    answer: str
    prompt: str
    """The bare prompt."""
    expert_prompt: str | None
    """The prompt with worked examples."""
    rows: list[Row]

    @property
    def size(self) -> int:
        """About the bytes that it takes on the page."""
        texts = [self.problem, self.prompt, self.expert_prompt or ""]
        return sum(len(text.encode()) for text in texts) + sum(row.size for row in self.rows)


@dataclass(frozen=True)
class Excerpt:
    """Some groups of an iteration."""

    iteration: int
    of: int
    """Groups that the iteration has."""
    groups: list[Group]


def excerpts(run: Run, budget: int) -> list[Excerpt]:
    """Groups of evenly spaced iterations, in their stored order, until each iteration's part of
    `budget` (UTF-8 bytes) is spent; one group an iteration in any case."""
    done = [
        number
        for number in run.paths.iterations()
        if number
        and run.store.finished("select", number) is not None
        and any(run.paths.stage("rollout", number).glob("part-*"))  # not removed since
    ]
    if not done:
        return []
    count = min(ITERATIONS, len(done))
    steps = [round(at * (len(done) - 1) / max(1, count - 1)) for at in range(count)]
    return [_excerpt(run, done[step], budget // count) for step in dict.fromkeys(steps)]


def _excerpt(run: Run, iteration: int, budget: int) -> Excerpt:
    prompts = run.store.table("prompts", iteration, "prompts").to_pylist()
    chosen: list[Group] = []
    left = budget
    wanted = {row["prompt_id"] for row in prompts[:GROUPS]}
    rows = _rows(run, iteration, wanted)
    for prompt in prompts[:GROUPS]:
        group = Group(
            prompt["prompt_id"],
            clipped(prompt["problem"]),
            prompt["answer"],
            clipped(prompt["policy_prompt"]),
            clipped(prompt["expert_prompt"]) if prompt["expert_prompt"] else None,
            rows.get(prompt["prompt_id"], []),
        )
        left -= group.size
        if chosen and left < 0:
            break
        chosen.append(group)
    return Excerpt(iteration, len(prompts), chosen)


def _rows(run: Run, iteration: int, wanted: set[str]) -> dict[str, list[Row]]:
    """Rollouts of some problems, by problem, the expert ones first."""

    def by_key(stage: str, table: str, *columns: str) -> dict[Key, dict[str, Any]]:
        names = ["prompt_id", "sample_index", "origin", *columns] if columns else None
        found = run.store.table(stage, iteration, table, names, wanted).to_pylist()
        return {(row["prompt_id"], row["sample_index"], row["origin"]): row for row in found}

    rollouts = by_key("rollout", "rollout", "response", "response_ids", "finish_reason")
    verdicts = by_key("verify", "verdicts")
    batch = by_key("select", "batch", "advantage")
    rejects = by_key("select", "rejects", "reason")
    steps = expert_tokens(run, iteration, wanted)
    made: dict[str, list[Row]] = {}
    order = sorted(rollouts, key=lambda key: (key[0], key[2] == "on_policy", key[1]))
    for key in order:
        prompt_id, sample, origin = key
        rollout, verdict = rollouts[key], verdicts[key]
        made.setdefault(prompt_id, []).append(
            Row(
                origin=origin,
                sample=sample,
                response=clipped(rollout["response"]),
                tokens=len(rollout["response_ids"]),
                finish=rollout["finish_reason"],
                status=verdict["status"],
                extracted=verdict["extracted"],
                reward=verdict["reward"],
                rewards=parts(verdict),
                detail=verdict["detail"],
                advantage=round(batch[key]["advantage"], 4) if key in batch else None,
                reason=rejects[key]["reason"] if key in rejects else None,
                steps=steps.get(key),
            )
        )
    return made


def clipped(text: str) -> str:
    """The beginning and the end of a long text, with a note of what is left out."""
    if len(text) <= HEAD + TAIL + 40:
        return text
    left_out = len(text) - HEAD - TAIL
    return f"{text[:HEAD]}\n… {left_out:,} characters left out …\n{text[-TAIL:]}"
