"""Samples cut to a token budget, judged again; two judges on the same samples."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icpo_core.evaluation import protocol
from icpo_core.evaluation.budgets import at_budget, cut
from icpo_core.evaluation.comparison import agreement
from icpo_core.evaluation.samples import judge_samples, letter_judges
from icpo_core.grading.grade import GradingRules
from icpo_core.store import tables


class Letters:
    """A tokenizer of which every letter is a token."""

    def decode(self, ids, skip_special_tokens):
        assert skip_special_tokens
        return "".join(map(chr, ids))


QUESTIONS = tables.table(
    "questions",
    [
        {
            "benchmark": "b", "prompt_id": name, "prompt": "?", "prompt_ids": [1], "gold": "B",
            "subject": None, "level": None, "demo_ids": [],
        }
        for name in "pq"
    ],
)  # fmt: skip
TEXTS = st.sampled_from([r"so \boxed{B}", r"\boxed{A}", r"\boxed{A}, no: \boxed{B}", "", "B"])


def generations(texts: list[str], ends: list[str]) -> pa.Table:
    return tables.table(
        "generations",
        [
            {
                "benchmark": "b", "prompt_id": "pq"[at % 2], "sample_index": at // 2,
                "response": text, "response_ids": list(map(ord, text)), "finish_reason": end,
                "seed": at, "policy_version": "v",
            }
            for at, (text, end) in enumerate(zip(texts, ends, strict=True))
        ],
    )  # fmt: skip


@given(
    st.lists(st.tuples(TEXTS, st.sampled_from(["stop", "length"])), min_size=1, max_size=12),
    st.integers(1, 30),
)
def test_a_budget_is_the_samples_cut_there_and_judged(rows, budget):
    texts, ends = map(list, zip(*rows, strict=True))
    made = generations(texts, ends)
    shorter = [text[:budget] for text in texts]
    stopped = [
        "length" if len(text) > budget else end for text, end in zip(texts, ends, strict=True)
    ]
    alone = generations(shorter, stopped)
    assert cut(made, budget, Letters()).equals(alone)
    with letter_judges(GradingRules()) as judges:
        whole = judge_samples(made, QUESTIONS, judges, {})
        found = at_budget(whole, budget, Letters(), QUESTIONS, judges, {})
        expected = judge_samples(alone, QUESTIONS, judges, {})
    names = [name for name in expected.column_names if name != "seconds"]
    assert found.select(names).to_pylist() == expected.select(names).to_pylist()


def test_budgets_do_not_decide_the_samples_and_fit_the_limit():
    long = protocol.load("long")
    assert long.sampling.budgets == [4096, 8192, 16384, 32768]
    assert long.prompting.thinking is True
    other = protocol.load("long", ["sampling.budgets=[1024]"])
    assert other.asked() == long.asked()
    with pytest.raises(ValueError, match=r"sampling.budgets has 9000.*sampling.max_tokens = 8192"):
        protocol.load("paper", ["sampling.budgets=[4096, 9000]"])


def test_two_judges_agree_where_their_verdicts_are_the_same():
    def said(*rewards: float) -> pa.Table:
        names = ["p", "p", "q", "r"]
        return pa.table({"prompt_id": names, "sample_index": [0, 1, 0, 0], "reward": rewards})

    found = agreement(said(1, 1, 0, 0), said(1, 0, 1, 0).take([3, 2, 1, 0]))
    assert (found.share, found.only_first, found.only_second) == (0.5, ["p"], ["q"])
    assert agreement(said(1, 1, 0, 0), said(1, 1, 0, 0)).share == 1.0
