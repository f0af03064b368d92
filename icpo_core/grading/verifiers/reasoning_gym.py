"""`reasoning-gym`: the scorer of the task family that a problem is of, from its package.

The answer is read by `verify.rules.extraction`. Column `extra` is the package's entry (`question`,
`answer`, `metadata`), as `icpo data prepare reasoning-gym:FAMILY` writes it. The reward is the
scorer's, between 0 and 1, and some give part of it (https://github.com/open-thought/reasoning-gym).
"""

from __future__ import annotations

import json
import warnings

from icpo_core.grading.extraction import extract
from icpo_core.grading.grade import Finding, GradingRules, Pair, Question, VerdictStatus
from icpo_core.grading.verifiers.base import Verifier


class ReasoningGym(Verifier):
    def prejudge(
        self, question: Question, rules: GradingRules
    ) -> tuple[str | None, Finding | Pair]:
        if question.truncated and not rules.accept_truncated:
            return None, Finding(VerdictStatus.truncated, "the response hit its token limit")
        answer = extract(question.response, rules.extraction, rules.thinking_end_tag).answer
        if answer is None:
            return None, Finding(VerdictStatus.no_answer, "no answer found")
        return answer, Pair("", (answer,), json.dumps(question.row.get("extra")))

    def compare(self, pair: Pair, rules: GradingRules) -> Finding:
        from reasoning_gym import get_score_answer_fn

        entry = json.loads(pair.row)
        try:
            family = entry["metadata"]["source_dataset"]
        except (KeyError, TypeError):
            raise ValueError(
                "column extra is no entry of reasoning-gym: make the problem set with `icpo data "
                "prepare reasoning-gym:FAMILY`"
            ) from None
        reward = float(get_score_answer_fn(family)(answer=pair.answers[0], entry=entry))
        status = VerdictStatus.correct if reward >= 1.0 else VerdictStatus.wrong
        return Finding(status, family, None, reward)

    def warm_up(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # of what it depends on
            import reasoning_gym  # noqa: F401


reasoning_gym = ReasoningGym()
