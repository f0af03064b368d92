"""`math`: the answer by `verify.rules`, compared by algebra (`icpo_core.grading.answers`)."""

from icpo_core.grading import grade
from icpo_core.grading.grade import Finding, GradingRules, Pair, Question
from icpo_core.grading.verifiers.base import Verifier


class Math(Verifier):
    def prejudge(
        self, question: Question, rules: GradingRules
    ) -> tuple[str | None, Finding | Pair]:
        return grade.prejudge(question, rules)

    def compare(self, pair: Pair, rules: GradingRules) -> Finding:
        return grade.compare(pair, rules)

    def warm_up(self) -> None:
        from icpo_core.grading.answers.equivalence import warm_up

        warm_up()


math = Math()
