"""`math-verify`: the package as it is, for numbers that compare with those of other papers.

Used as its README says (https://github.com/huggingface/Math-Verify): the gold answer between `$`,
so that it is read as LaTeX; the whole response after the thinking part, in which the package looks
for the answer itself; `verify(gold, answer)` in that order. Of `verify.rules` only
`accept_truncated` and `thinking_end_tag` hold.
"""

import logging
from typing import Any

from icpo_core.grading.extraction import after_thinking, clean
from icpo_core.grading.golds import acceptable
from icpo_core.grading.grade import Finding, GradingRules, Pair, Question, VerdictStatus
from icpo_core.grading.verifiers.base import Verifier


class MathVerify(Verifier):
    def prejudge(
        self, question: Question, rules: GradingRules
    ) -> tuple[str | None, Finding | Pair]:
        if question.truncated and not rules.accept_truncated:
            return None, Finding(VerdictStatus.truncated, "the response hit its token limit")
        text = clean(after_thinking(question.response, rules.thinking_end_tag)).strip()
        if not text:
            return None, Finding(VerdictStatus.no_answer, "no answer found")
        return None, Pair(clean(question.gold).strip(), (text,))

    def compare(self, pair: Pair, rules: GradingRules) -> Finding:
        import math_verify

        # The limit here is the process's life: the package's own takes signals.
        golds = [
            math_verify.parse(f"${gold}$", parsing_timeout=None) for gold in acceptable(pair.gold)
        ]
        if not all(golds):
            return Finding(VerdictStatus.error, "math-verify cannot read the gold answer")
        found = math_verify.parse(pair.answers[0], parsing_timeout=None)
        if not found:
            return Finding(VerdictStatus.no_answer, "no answer found")
        equal = any(math_verify.verify(gold, found, timeout_seconds=None) for gold in golds)
        status = VerdictStatus.correct if equal else VerdictStatus.wrong
        return Finding(status, "math-verify", _text(found))

    def warm_up(self) -> None:
        import math_verify

        # It warns once that its own limit is off.
        logging.getLogger("math_verify").setLevel(logging.ERROR)
        gold = math_verify.parse(r"$\frac{1}{2}$", parsing_timeout=None)
        found = math_verify.parse(r"so $\boxed{0.5}$", parsing_timeout=None)
        math_verify.verify(gold, found, timeout_seconds=None)


def _text(found: list[Any]) -> str | None:
    """The answer as the package took it from the response: what it could parse, then its text."""
    return next((clean(one) for one in reversed(found) if isinstance(one, str)), None)


math_verify = MathVerify()
