"""The prompt that each rollout is learned under (`loss.expert_context`)."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from icpo_core.config import Config
from icpo_core.store.tables import TRIES, Origin


def prompt_ids(prompts: pa.Table, rollouts: pa.Table, config: Config) -> pa.ListArray:
    """Token ids of the prompt that each rollout is learned under, one a row of `rollouts`.

    `bare`: the problem's own (IEF). `shown`: for expert rollouts the expert prompt of their try.
    """
    places = pc.index_in(rollouts["prompt_id"], value_set=prompts["prompt_id"].combine_chunks())
    ids = prompts["policy_prompt_ids"].take(places).combine_chunks()
    if config.loss.expert_context == "bare":
        return ids
    shown = prompts["expert_prompt_ids"]
    tries = prompts[TRIES] if TRIES in prompts.column_names else None
    learned = ids.to_pylist()
    for row, (origin, index, place) in enumerate(
        zip(
            rollouts["origin"].to_pylist(),
            rollouts["sample_index"].to_pylist(),
            places.to_pylist(),
            strict=True,
        )
    ):
        if origin == Origin.EXPERT:
            attempt = (index - config.rollout.on_policy) // config.rollout.expert
            if attempt == 0:
                learned[row] = shown[place].as_py()
            else:
                assert tries is not None
                learned[row] = tries[place][attempt - 1]["expert_prompt_ids"].as_py()
    return pa.array(learned, ids.type)
