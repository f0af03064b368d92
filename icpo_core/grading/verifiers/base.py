"""What a verifier does: a verdict in two steps, the first without a process of its own."""

from typing import Protocol

from icpo_core.grading.grade import Finding, GradingRules, Pair, Question


class Verifier(Protocol):
    """Judges responses. Without state: the same question gets the same verdict, everywhere."""

    def prejudge(
        self, question: Question, rules: GradingRules
    ) -> tuple[str | None, Finding | Pair]:
        """The answer that a response gives, and the finding where the text alone decides; else the
        pair to be compared, as short as it can be.

        Runs in the run's own process, for every response: string work, linear in the response, and
        no import of anything heavy. Never raises.
        """
        ...

    def compare(self, pair: Pair, rules: GradingRules) -> Finding:
        """The finding on a pair.

        Runs in a judge process that is killed past its limits of time and memory, and that may
        neither write files nor start processes nor use the network. What it raises becomes the
        status `error`. Called once for each distinct pair.
        """
        ...

    def warm_up(self) -> None:
        """Imports what `compare` needs, once, in the process that judges are forked from.

        Raises ImportError if a package is missing.
        """
        ...
