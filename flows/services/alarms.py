"""Signs that a run has gone wrong, as Prefect events that automations listen to.

icpo.reward.collapsed    the policy answers far worse than it did
icpo.verifier.failing    the verifier times out or fails on too many rollouts
icpo.answers.unlike      rewarded answers no longer look like gold answers
icpo.evaluation.fell     a checkpoint is worse than an earlier one, by more than chance

And one good sign, on which an evaluation may start:

icpo.checkpoint.published    a checkpoint that stays is whole
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from prefect.events import emit_event
from prefect.logging import get_run_logger

from icpo_core.common.text import line
from icpo_core.grading.grade import VerdictStatus
from icpo_core.method import likeness
from icpo_core.run.run import Run

COLLAPSED = "icpo.reward.collapsed"
FAILING = "icpo.verifier.failing"
UNLIKE = "icpo.answers.unlike"
FELL = "icpo.evaluation.fell"
PUBLISHED = "icpo.checkpoint.published"

WINDOW = 5
"""Iterations whose mean reward is compared."""
COLLAPSE_SHARE = 0.5
"""Share of the best window's reward under which the newest window has collapsed."""
LEAST_REWARD = 0.1
"""Best reward of a window under which there is nothing to collapse."""
FAILURE_RATE = 0.01
"""Share of timeouts and errors past which the verifier is failing. Past `verify.max_failure_rate`
the run stops by itself."""


def collapsed(rewards: Sequence[float]) -> bool:
    """Whether the last `WINDOW` of an on-policy reward an iteration is far under the best one."""
    windows = [fmean(rewards[at : at + WINDOW]) for at in range(0, len(rewards) - WINDOW + 1)]
    best = max(windows[:-1], default=0.0)
    return best >= LEAST_REWARD and windows[-1] < COLLAPSE_SHARE * best


def failure_rate(figures: Mapping[str, float]) -> float:
    """Share of an iteration's verdicts that were timeouts or errors."""
    failures = (VerdictStatus.timeout, VerdictStatus.error)
    return sum(figures.get(f"status/{status}", 0.0) for status in failures)


class Alarms:
    """Looks at every finished iteration of a run."""

    def __init__(self, run: Run, rows: Sequence[Mapping[str, float]]) -> None:
        """`rows`: of the iterations that are done (`icpo_core.run.metrics.read`)."""
        self._run, self._name, self._store = run, run.config.run.name, run.store
        self._rewards = [row["reward/on_policy"] for row in rows if "reward/on_policy" in row]
        self._collapsed = False
        self._answers = likeness.Watch(rows)

    def look(self, iteration: int, figures: Mapping[str, float]) -> None:
        """Raise what alarm there is; a collapse once, until the reward has come back."""
        if "reward/on_policy" in figures:
            self._rewards.append(figures["reward/on_policy"])
            before, self._collapsed = self._collapsed, collapsed(self._rewards)
            if self._collapsed and not before:
                recent = fmean(self._rewards[-WINDOW:])
                self._raise(
                    COLLAPSED,
                    iteration,
                    f"on-policy reward fell to {recent:.2f} over the last {WINDOW} iterations",
                    recent,
                )
        rate = failure_rate(figures)
        if rate > FAILURE_RATE:
            self._raise(
                FAILING, iteration, f"{rate:.1%} of the verdicts were timeouts or errors", rate
            )
        if (words := self._answers.look(figures)) is not None:
            self._raise(UNLIKE, iteration, words, figures[likeness.FORMS])
        evaluated = self._store.finished("evaluate", iteration)
        for name, words in (evaluated.facts.get("fallen", {}) if evaluated else {}).items():
            self._raise(FELL, iteration, words, figures[f"accuracy/{name}"])
        if stays(self._run, iteration):
            tell_published(self._run, iteration)

    def _raise(self, event: str, iteration: int, words: str, value: float) -> None:
        raise_alarm(event, self._name, iteration, words, value)


def raise_alarm(event: str, run: str, iteration: int, words: str, value: float) -> None:
    """A warning in the log of the flow run, and an event of the run of this name."""
    words = line(words)
    get_run_logger().warning("iteration %d: %s", iteration, words)
    emit_event(
        event,
        resource={"prefect.resource.id": f"icpo.run.{run}", "prefect.resource.name": run},
        payload={"iteration": iteration, "message": words, "value": value},
    )


def stays(run: Run, iteration: int) -> bool:
    """Whether the checkpoint of an iteration is kept for good: by `checkpoint.keep_every`, or as
    the run's last."""
    every = run.config.checkpoint.keep_every
    return iteration == run.config.run.iterations or bool(every and iteration % every == 0)


def tell_published(run: Run, iteration: int) -> None:
    """An event for automations: where the run lies, and which checkpoint of it is whole."""
    root = run.paths.root.resolve()
    emit_event(
        PUBLISHED,
        resource={"prefect.resource.id": f"icpo.run.{run.config.run.name}",
                  "prefect.resource.name": run.config.run.name},
        payload={"runs": str(root.parent), "name": root.name, "iteration": iteration,
                 "message": f"checkpoint {iteration} is published"},
    )  # fmt: skip
