"""The verdict on one response: what it answers, and whether that is the gold answer.

`grade` runs in this process without limits, so it is for tests and notebooks: some answers take
math-verify minutes or gigabytes. A run judges through `icpo_core.grading.pool`, which applies the
same rules in processes that can be killed.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import product
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from icpo_core.common.keys import Since
from icpo_core.grading.answers.exact import exactly_equal
from icpo_core.grading.extraction import Mode, choice_letter, extract
from icpo_core.grading.golds import acceptable, together


class VerdictStatus(StrEnum):
    """What came of judging one response."""

    correct = "correct"  # the response gives the gold answer, in whatever clothes
    wrong = "wrong"  # the response gives an answer, and it is another one
    no_answer = "no_answer"  # no answer was found in the response
    truncated = "truncated"  # the response hit its token limit, and such responses do not count
    timeout = "timeout"  # judging took longer than the limit: right or wrong is not known
    error = "error"  # judging failed (memory, a crash, gold that cannot be read): not known
    abstained = "abstained"  # a reward of one's own returned None: there is none for this row


@dataclass(frozen=True)
class Question:
    """A response to be judged against the gold answer (`truncated`: it stopped for its length).

    `gold` may stand for several answers, any of which is right (`icpo_core.grading.golds`).
    """

    gold: str
    response: str
    truncated: bool = False
    row: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """What else is known of the problem, as JSON holds it; for verifiers of one's own."""


@dataclass(frozen=True)
class Verdict:
    """The status, the answer that was judged, the reward (1.0 if correct, else 0.0, where no
    verifier of one's own gives another), the seconds that comparing took (0.0 where a rule on the
    text or an earlier verdict decided) and how it was decided. `extracted` and `detail` are valid
    Unicode; `detail` is the same on every repetition.
    """

    status: VerdictStatus
    extracted: str | None = None
    reward: float = 0.0
    seconds: float = 0.0
    detail: str = ""
    parts: Mapping[str, float | None] = field(default_factory=dict, hash=False)
    """What the reward is made of, by name; None: this part abstained."""


_EVALUATED = (
    "An answer must be worked out as far as the gold answer is: 12 * 13 is wrong for 156, and "
    "right where the gold itself is a product. On for training."
)


class GradingRules(BaseModel):
    """What counts as an answer, and as the right one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    extraction: Mode = Field(
        default="boxed",
        description="`boxed`: only a \\boxed or \\fbox answer counts (training: the format is part "
        "of the task). `boxed_or_last`: without a box, what follows the last 'answer is', else a "
        "one-line response, else the last formula or number (evaluation of models that do not "
        "box). `choice`: the letter of a multiple choice.",
    )
    accept_truncated: bool = Field(
        default=False,
        description="Judge a response that hit its token limit, if it holds an answer.",
    )
    thinking_end_tag: str = Field(
        default="</think>",
        description="The answer is looked for after the last such tag; a response that opens the "
        "thinking part (the tag without its slash) and never closes it has no answer. Empty: the "
        "whole response counts.",
    )
    max_answer_chars: int = Field(
        default=2000,
        ge=16,
        le=100_000,
        description="A longer answer counts only where it is the gold answer letter for letter; "
        "it is never parsed.",
    )
    significant_digits: int = Field(
        default=4,
        ge=2,
        le=15,
        description="A decimal approximation of a gold answer that no finite decimal can express "
        "(1/3, sqrt(2)) counts from this many correct significant digits on.",
    )
    evaluated: Annotated[bool, Since(False)] = Field(default=False, description=_EVALUATED)


class TrainingRules(GradingRules):
    """The same where a policy learns from the verdicts: what pays is found."""

    evaluated: Annotated[bool, Since(False)] = Field(default=True, description=_EVALUATED)


@dataclass(frozen=True)
class Pair:
    """A gold answer (or several) and candidates, short enough to parse, that text rules left
    undecided."""

    gold: str
    answers: tuple[str, ...]
    row: str = ""
    """`Question.row` as JSON, where a verifier reads it."""

    @property
    def length(self) -> int:
        """Characters in all."""
        return len(self.gold) + len(self.row) + sum(map(len, self.answers))


@dataclass(frozen=True)
class Finding:
    """Whether a pair is equal, and by which rule; `answer`: what was judged, where only comparing
    tells; `reward`: where it does not follow from the status; `parts`: what it is made of."""

    status: VerdictStatus
    detail: str
    answer: str | None = None
    reward: float | None = None
    parts: Mapping[str, float | None] = field(default_factory=dict, hash=False)

    def wire(self) -> list[Any]:
        """The values of its fields, in their order, as JSON and valid Unicode."""
        texts = (
            text and text.encode("utf-8", "replace").decode() for text in (self.detail, self.answer)
        )
        return [self.status, *texts, self.reward, dict(self.parts)]


def grade(question: Question, rules: GradingRules) -> Verdict:
    """Return the verdict on `question`. Runs in this process: nothing limits its time or memory."""
    extracted, finding = prejudge(question, rules)
    if isinstance(finding, Finding):
        return verdict(extracted, finding, 0.0)
    started = time.perf_counter()
    finding = compare(finding, rules)
    return verdict(extracted, finding, time.perf_counter() - started)


def prejudge(question: Question, rules: GradingRules) -> tuple[str | None, Finding | Pair]:
    """Decide what the text alone decides, in microseconds; else return the pair to be compared.

    The comparison proper starts with the same rules, so that both ways give one verdict.
    """
    if question.truncated and not rules.accept_truncated:
        return None, Finding(VerdictStatus.truncated, "the response hit its token limit")
    found = extract(question.response, rules.extraction, rules.thinking_end_tag)
    answer = found.answer
    if answer is None:
        if question.truncated:
            return None, Finding(VerdictStatus.truncated, "cut off before an answer")
        return None, Finding(VerdictStatus.no_answer, "no answer found")
    undecided: list[str] = []
    wrong = None
    for gold in acceptable(question.gold):
        decided = _by_text(gold, answer, rules)
        if decided is None:
            undecided.append(gold)
        elif decided.status is VerdictStatus.correct:
            return answer, decided
        else:
            wrong = wrong or decided
    if not undecided:
        assert wrong is not None
        return _shortened(answer, rules), wrong
    answers: tuple[str, ...] = (answer,)
    if len(found.boxes) > 1:
        joined = ", ".join(dict.fromkeys(found.boxes))
        if joined != answer and len(joined) <= rules.max_answer_chars:
            answers = (answer, joined)
    return answer, Pair(together(undecided), answers)


def _by_text(gold: str, answer: str, rules: GradingRules) -> Finding | None:
    """What the texts alone say of one gold answer; None: they are to be compared."""
    if rules.extraction == "choice":
        same = choice_letter(answer) == (choice_letter(gold) or gold)
        return _decided(same, "letter")
    if answer == gold:
        return _decided(True, "identical")
    if len(gold) > rules.max_answer_chars:
        detail = f"gold answer of {len(gold)} characters is not parsed"
        return Finding(VerdictStatus.error, detail)
    if len(answer) > rules.max_answer_chars:
        return _decided(False, f"answer of {len(answer)} characters is not parsed")
    same_exactly = exactly_equal(gold, answer)
    return None if same_exactly is None else _decided(same_exactly, "exact")


def compare(pair: Pair, rules: GradingRules) -> Finding:
    """Compare what the text left undecided. Nothing limits the time or the memory it takes."""
    # math-verify and sympy take seconds to import, and only comparing needs them.
    from icpo_core.grading.answers.equivalence import Comparison
    from icpo_core.grading.answers.evaluated import unevaluated

    comparison = Comparison(rules.significant_digits)
    why = "another answer"
    for gold, answer in product(acceptable(pair.gold), pair.answers):
        # First, since it takes microseconds whatever the answer, and comparing may take for ever.
        left = unevaluated(gold, answer) if rules.evaluated else []
        if left:
            why = f"not worked out: {', '.join(left)}"
            continue
        how = comparison.judge(gold, answer)
        if how:
            return _decided(True, how)
    return _decided(False, why)


def verdict(extracted: str | None, finding: Finding, seconds: float) -> Verdict:
    """Return the verdict that `finding` makes of the answer `extracted`."""
    reward = finding.reward
    if reward is None:
        reward = 1.0 if finding.status is VerdictStatus.correct else 0.0
    answer = finding.answer if extracted is None else extracted
    return Verdict(finding.status, answer, reward, seconds, finding.detail, finding.parts)


def _decided(equal: bool, detail: str) -> Finding:
    return Finding(VerdictStatus.correct if equal else VerdictStatus.wrong, detail)


def _shortened(answer: str, rules: GradingRules) -> str:
    return (
        answer
        if len(answer) <= rules.max_answer_chars
        else (answer[: rules.max_answer_chars] + "…")
    )
