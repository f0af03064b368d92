"""`choice`: the letter of a multiple choice, whatever `verify.rules.extraction` says."""

from icpo_core.grading import grade
from icpo_core.grading.grade import Finding, GradingRules, Pair, Question
from icpo_core.grading.verifiers.base import Verifier


class Choice(Verifier):
    def prejudge(
        self, question: Question, rules: GradingRules
    ) -> tuple[str | None, Finding | Pair]:
        return grade.prejudge(question, rules.model_copy(update={"extraction": "choice"}))

    def compare(self, pair: Pair, rules: GradingRules) -> Finding:
        raise AssertionError("a letter is compared as text")

    def warm_up(self) -> None:
        """Nothing is needed."""


choice = Choice()
