"""Several rewards of one response, added up by weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from icpo_core.common.closing import Closing
from icpo_core.grading.grade import Question, Verdict, VerdictStatus
from icpo_core.grading.own import total
from icpo_core.grading.pool import Judges, Progress

UNKNOWN = (VerdictStatus.timeout, VerdictStatus.error)


class Judging(Protocol):
    """Gives verdicts: `Judges`, or several of them."""

    def judge(
        self, questions: Sequence[Question], on_progress: Progress | None = None
    ) -> list[Verdict]: ...

    def interrupt(self) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Reward:
    """One of several: its name, its weight, and who judges."""

    name: str
    weight: float
    judges: Judges


class Rewards(Closing):
    """A context manager: all rewards of a response as one verdict."""

    def __init__(self, rewards: Sequence[Reward]) -> None:
        self.rewards = tuple(rewards)

    def judge(
        self, questions: Sequence[Question], on_progress: Progress | None = None
    ) -> list[Verdict]:
        """The verdict on each question, in order; `combined` says how they become one."""
        found: dict[str, list[Verdict]] = {}
        for reward in self.rewards:
            found[reward.name] = reward.judges.judge(questions, on_progress)
        weights = {reward.name: reward.weight for reward in self.rewards}
        return [
            combined({name: verdicts[index] for name, verdicts in found.items()}, weights)
            for index in range(len(questions))
        ]

    def interrupt(self) -> None:
        for reward in self.rewards:
            reward.judges.interrupt()

    def close(self) -> None:
        for reward in self.rewards:
            reward.judges.close()


def combined(verdicts: Mapping[str, Verdict], weights: Mapping[str, float]) -> Verdict:
    """One verdict of several, by name: the weighted sum of those that do not abstain.

    Status, answer and detail are those of the first that does not abstain: whether a response is
    right is for that one to say. If one has no verdict, there is none.
    """
    parts: dict[str, float | None] = {}
    for name, one in verdicts.items():
        known = one.status not in (*UNKNOWN, VerdictStatus.abstained)
        parts[name] = one.reward if known else None
        parts |= {f"{name}/{part}": value for part, value in one.parts.items()}
    seconds = sum(one.seconds for one in verdicts.values())
    for name, one in verdicts.items():
        if one.status in UNKNOWN:
            return Verdict(one.status, one.extracted, 0.0, seconds, f"{name}: {one.detail}", parts)
    given = {n: one for n, one in verdicts.items() if one.status is not VerdictStatus.abstained}
    if not given:
        return Verdict(VerdictStatus.abstained, None, 0.0, seconds, "all abstain", parts)
    reward = total(weights[name] * one.reward for name, one in given.items())
    return replace(next(iter(given.values())), reward=reward, seconds=seconds, parts=parts)
