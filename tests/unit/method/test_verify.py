"""Stage `verify`: verdicts of rollouts, failures that stop a run, and what another judge says."""

import pyarrow as pa
import pytest

from icpo_core.grading.grade import GradingRules
from icpo_core.grading.pool import Judges
from icpo_core.method.verdicts import changed, failure_rate, require_few_failures, verdicts
from icpo_core.store import tables


def prompts() -> pa.Table:
    row = dict.fromkeys(("problem", "source", "policy_prompt"), "") | {
        "prompt_id": "p", "answer": "4", "policy_prompt_ids": [1], "expert_prompt": None,
        "expert_prompt_ids": None, "demo_ids": [], "trace": None,
    }  # fmt: skip
    return tables.table("prompts", [row])


def rollouts(*responses: str, prompt_id: str = "p", finish: str = "stop") -> pa.Table:
    rows = [
        {
            "prompt_id": prompt_id, "sample_index": index, "origin": "on_policy",
            "response": response, "response_ids": [1], "logprobs": [-1.0],
            "finish_reason": finish, "seed": 0, "policy_version": "",
        }
        for index, response in enumerate(responses)
    ]  # fmt: skip
    return tables.table("rollout", rows)


def judged(*responses: str, rules: GradingRules | None = None, **more: str) -> pa.Table:
    with Judges(1, 2.0, 512, rules or GradingRules()) as judges:
        return verdicts(prompts(), rollouts(*responses, **more), judges)


def test_a_verdict_on_every_rollout_in_order() -> None:
    table = judged(r"\boxed{4}", r"\boxed{5}", "four, I think")
    assert table.schema.equals(tables.TABLES["verdicts"])
    assert table["status"].to_pylist() == ["correct", "wrong", "no_answer"]
    assert table["reward"].to_pylist() == [1.0, 0.0, 0.0]
    assert table["sample_index"].to_pylist() == [0, 1, 2]
    assert judged(r"\boxed{4}", finish="length")["status"].to_pylist() == ["truncated"]


def test_a_rollout_of_no_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="problem q is not among the prompts"):
        judged("x", prompt_id="q")


def test_another_grader_shows_what_changed() -> None:
    strict = judged(r"\boxed{4}", "the answer is 4", "5")
    loose = judged(
        r"\boxed{4}", "the answer is 4", "5", rules=GradingRules(extraction="boxed_or_last")
    )
    rows = changed(strict, loose)
    assert [(row["sample_index"], row["before"]["status"]) for row in rows] == [
        (1, "no_answer"),
        (2, "no_answer"),
    ]
    assert [row["after"]["status"] for row in rows] == ["correct", "wrong"]
    assert changed(strict, strict) == []


def test_too_many_failures_stop_the_run() -> None:
    table = judged(r"\boxed{4}", r"\boxed{5}")
    failed = table.set_column(
        table.schema.get_field_index("status"), "status", pa.array(["timeout", "wrong"])
    )
    assert failure_rate(failed) == 0.5
    require_few_failures(failed, 0.5, "runs/x")
    with pytest.raises(ValueError, match=r"1 of 2 verdicts failed \(50.0%, limit verify"):
        require_few_failures(failed, 0.4, "runs/x")
    assert failure_rate(table.slice(0, 0)) == 0.0
