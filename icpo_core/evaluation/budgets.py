"""One set of samples at several token budgets: each as it would be had it stopped there.

A sample's tokens hang on its seed and on the tokens before, not on the limit. So a response that is
cut to B tokens is the response of a run with `max_tokens` = B, and a shorter one is the same in
both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from icpo_core.evaluation.samples import judge_samples
from icpo_core.grading.rewards import Judging
from icpo_core.store import tables


def cut(samples: pa.Table, budget: int, tokenizer: Any) -> pa.Table:
    """Table `generations`: the samples, none longer than `budget` tokens, in the same order."""
    rows = samples.select(tables.TABLES["generations"].names).to_pylist()
    for row in rows:
        if len(row["response_ids"]) > budget:
            row["response_ids"] = row["response_ids"][:budget]
            row["response"] = tokenizer.decode(row["response_ids"], skip_special_tokens=True)
            row["finish_reason"] = "length"
    return tables.table("generations", rows)


def at_budget(
    samples: pa.Table,
    budget: int,
    tokenizer: Any,
    questions: pa.Table,
    judges: Judging,
    rows: Mapping[str, Mapping[str, Any]],
) -> pa.Table:
    """Table `samples` at a budget: what is longer is cut and judged again, the rest as it is.

    samples: table `samples` of one benchmark. questions, rows: as `samples.judge_samples` has them.
    """
    longer = pc.greater(pc.list_value_length(samples["response_ids"]), budget)
    judged = judge_samples(cut(samples.filter(longer), budget, tokenizer), questions, judges, rows)
    # Behind one another, and from there back to the order of the samples.
    apart = pa.concat_tables([samples.filter(pc.invert(longer)), judged])
    places = np.argsort(np.asarray(longer.to_pylist(), bool), kind="stable")
    return apart.take(pa.array(np.argsort(places)))
