"""Groups of rollouts with their verdicts, as small as can be, and what becomes of them."""

from itertools import count

import pyarrow as pa

from icpo_core.method.selection import Selection
from icpo_core.store import tables as schemas

KEYS = ["prompt_id", "sample_index", "origin"]


def tables(*groups: list[dict]) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Prompts, rollouts and verdicts of groups p0, p1, …; a row is a dict of what is special."""
    prompts, rollouts, verdicts = [], [], []
    token = count(100)
    for number, group in enumerate(groups):
        prompts.append(
            {
                "prompt_id": f"p{number}",
                "problem": "1+1",
                "answer": "2",
                "source": "test",
                "policy_prompt": "1+1=",
                "policy_prompt_ids": [1, number],
                "expert_prompt": "0+1=1 1+1=",
                "expert_prompt_ids": [7, 7, 7, 1, number],
                "demo_ids": ["d"],
                "trace": None,
            }
        )
        seen: dict[str, int] = {}
        for row in group:
            origin = row.get("origin", "on_policy")
            index = seen[origin] = seen.get(origin, -1) + 1
            reward = row.get("reward", 0.0)
            ids = [next(token) for _ in range(row.get("tokens", 2))]
            keys = {"prompt_id": f"p{number}", "sample_index": index, "origin": origin}
            rollouts.append(
                {
                    **keys,
                    "response": "2",
                    "response_ids": ids,
                    "logprobs": None if origin == "trace" else [-t / 1000 for t in ids],
                    "finish_reason": row.get("finish", "stop"),
                    "seed": 0,
                    "policy_version": "v",
                }
            )
            verdicts.append(
                {
                    **keys,
                    "reward": reward,
                    "status": row.get("status", "correct" if reward == 1.0 else "wrong"),
                    "extracted": None,
                    "gold": "2",
                    "seconds": 0.1,
                    "detail": "",
                }
            )
    return (
        schemas.table("prompts", prompts),
        schemas.table("rollout", rollouts),
        schemas.table("verdicts", verdicts),
    )


def policy(*rewards: float) -> list[dict]:
    return [{"reward": reward} for reward in rewards]


def expert(*rewards: float) -> list[dict]:
    return [{"reward": reward, "origin": "expert"} for reward in rewards]


def keys(table: pa.Table) -> list[tuple]:
    return [tuple(row.values()) for row in table.select(KEYS).to_pylist()]


def reasons(selection: Selection) -> dict[tuple, str]:
    return dict(zip(keys(selection.rejects), selection.rejects["reason"].to_pylist(), strict=True))
