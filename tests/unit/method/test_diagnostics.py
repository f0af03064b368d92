"""The row of figures of an iteration."""

import random

import pytest

from icpo_core.config import SelectSection
from icpo_core.method.diagnostics import Diversity, iteration_row
from icpo_core.method.rows import join, outline
from icpo_core.method.selection import select
from icpo_core.store import tables as schemas

Responses = dict[tuple[str, str], list[list[int]]]


def tables(responses: Responses, right=lambda ids: False, finish=lambda ids: "stop"):
    """Prompts, rollouts and verdicts of token ids by (prompt_id, origin)."""
    ids = list(dict.fromkeys(prompt_id for prompt_id, _ in responses))
    has_expert = {prompt_id for prompt_id, origin in responses if origin == "expert"}
    prompts = [
        {
            "prompt_id": prompt_id,
            "problem": "",
            "answer": "",
            "source": "",
            "policy_prompt": "",
            "policy_prompt_ids": [1],
            "expert_prompt": "" if prompt_id in has_expert else None,
            "expert_prompt_ids": [2] if prompt_id in has_expert else None,
            "demo_ids": [],
            "trace": None,
        }
        for prompt_id in ids
    ]
    rollouts, verdicts = [], []
    for (prompt_id, origin), group in responses.items():
        for index, tokens in enumerate(group):
            keys = {"prompt_id": prompt_id, "sample_index": index, "origin": origin}
            rollouts.append(
                {
                    **keys,
                    "response": "",
                    "response_ids": tokens,
                    "logprobs": [-1.0] * len(tokens),
                    "finish_reason": finish(tokens),
                    "seed": 0,
                    "policy_version": "",
                }
            )
            verdicts.append(
                {
                    **keys,
                    "reward": float(right(tokens)),
                    "status": "correct" if right(tokens) else "wrong",
                    "extracted": None,
                    "gold": "",
                    "seconds": 0.5,
                    "detail": "",
                }
            )
    return (
        schemas.table("prompts", prompts),
        schemas.table("rollout", rollouts),
        schemas.table("verdicts", verdicts),
    )


def edit_distance(a: list[int], b: list[int]) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


def spread(responses: Responses, parts: int = 1) -> float | None:
    prompts, rollouts, verdicts = tables(responses)
    found = Diversity(join(prompts, outline(rollouts), verdicts))
    # The first group is a part, and the rest is another.
    first = len(next(iter(responses.values()))) if parts == 2 else len(rollouts)
    found.add(rollouts["response_ids"].slice(0, first))
    if parts == 2:
        found.add(rollouts["response_ids"].slice(first), first)
    return found.value()


def test_diversity_is_the_mean_normalised_edit_distance_of_on_policy_pairs():
    rng = random.Random(0)

    def text() -> list[int]:
        # Ids that are surrogates or beyond 16 bits as characters are tokens like any other.
        return [rng.choice([0, 5, 55_296, 57_343, 200_000]) for _ in range(rng.randint(0, 9))]

    groups = {(f"p{g}", "on_policy"): [text() for _ in range(2 + g)] for g in range(4)}
    means = []
    for group in groups.values():
        pairs = [(a, b) for i, a in enumerate(group) for b in group[i + 1 :]]
        far = [edit_distance(a, b) / max(len(a), len(b), 1) for a, b in pairs]
        means.append(sum(far) / len(far))
    want = sum(means) / len(means)
    assert spread(groups) == pytest.approx(want, abs=1e-12)
    assert spread(groups, parts=2) == spread(groups)
    # Expert rollouts and groups of one are no part of it.
    more = {**groups, ("p0", "expert"): [[9] * 40], ("lone", "on_policy"): [[1]]}
    assert spread(more) == pytest.approx(want, abs=1e-12)


def test_diversity_at_its_ends():
    assert spread({("a", "on_policy"): [[1, 2, 3]] * 8}) == 0.0
    assert spread({("a", "on_policy"): [[1] * 4, [2] * 4, [3] * 2]}) == 1.0
    assert spread({("a", "on_policy"): [[], []]}) == 0.0
    assert spread({("a", "on_policy"): [[1]], ("b", "expert"): [[1], [2]]}) is None
    long = {("a", "on_policy"): [[1] * 9000, [1] * 1024 + [2] * 8000]}
    assert spread(long) == 0.0  # the cost of a pair is bounded


def test_row_of_an_iteration():
    responses = {
        ("a", "on_policy"): [[1, 1], [1, 1, 1, 1]],
        ("a", "expert"): [[7]],
        ("b", "on_policy"): [[1, 2, 3], [7, 7, 7]],
    }
    three = tables(
        responses, lambda ids: ids[0] == 7, lambda ids: "length" if len(ids) == 4 else "stop"
    )
    selection = select(*three, SelectSection(), 1, 0)
    row = iteration_row(*three, selection.rows, selection.summary, spread(responses))
    want = {
        "reward/on_policy": 0.25,
        "reward/expert": 1.0,
        "errs/acceptance": 1.0,
        "flips": 1.0,
        "length/mean": 2.6,
        "length/max": 4.0,
        "length/p95": 3.8,
        "length/on_policy": 3.0,
        "length/expert": 1.0,
        "length/right": 3.0,
        "length/wrong": 3.0,
        "truncated": 0.2,
        "status/correct": 0.4,
        "status/wrong": 0.6,
        "status/timeout": 0.0,
        "judge/seconds": 0.5,
        "diversity": (2 / 4 + 3 / 3) / 2,
        "demonstrations/none": 0.5,
        "rejects/below_delta": 0.0,
        "groups/zero_variance": 0.0,
    }
    assert {name: row[name] for name in want} == pytest.approx(want)
    assert all(isinstance(value, float) for value in row.values())


def test_row_without_rollouts():
    prompts, rollouts, verdicts = tables({("a", "on_policy"): []})
    outlines = outline(rollouts)
    row = iteration_row(prompts, outlines, verdicts, join(prompts, outlines, verdicts), {}, None)
    assert row == {"demonstrations/none": 1.0}
