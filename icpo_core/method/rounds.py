"""Which rollouts of an iteration are sampled next, where that depends on verdicts.

Two settings ask for it. Steering on demand (`rollout.steer = "failed"`): bare rollouts first, then
expert rollouts for the groups that the bare prompt does not solve, try after try, each with other
demonstrations, until one is accepted. Dynamic sampling (`prompts.fill`, DAPO): the next batch of
problems while too few groups carry signal. Both are functions of the prompts and of what was
sampled and judged so far, so that a run that was killed comes to the same rounds again.

`steer_share` is the probability that a group may be steered at all (CBRL anneals it); it may
hang on the running pass rate of the problem.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from icpo_core.common.annealing import gamma
from icpo_core.common.seeds import generator
from icpo_core.config import Config
from icpo_core.method.rows import join
from icpo_core.method.selection import delta, signal
from icpo_core.store.tables import BATCH, BEGUN, TRIES


@dataclass(frozen=True)
class Round:
    """What is sampled together. Groups are rows of the iteration's prompts."""

    number: int
    groups: list[int]
    on_policy: int
    """Bare rollouts of each group."""
    steered: list[int]
    """Groups that get expert rollouts."""
    attempt: int = 0
    """Which of their expert prompts: 0, or a further try."""
    first: int = 0
    """`sample_index` of a group's first rollout in this round."""


def share(config: Config, iteration: int) -> float:
    """Probability that a group of an iteration, counted from 1, may be steered, if its problem was
    never solved."""
    rollout = config.rollout
    schedule = rollout.steer_schedule
    if schedule == "constant" or schedule == "pass_rate":
        return rollout.steer_share
    return rollout.steer_share * gamma(schedule, iteration - 1, rollout.steer_horizon, 0.0)


@dataclass
class Rounds:
    """The rounds of one iteration, as they come.

    prompts: its table, all batches. Ask `first`, then `following` with everything that was sampled.
    """

    config: Config
    prompts: pa.Table
    iteration: int
    rates: Mapping[str, float] = field(default_factory=dict)
    """Running pass rates of problems, with `steer_schedule = "pass_rate"`."""
    done: list[Round] = field(default_factory=list)

    @property
    def batches(self) -> int:
        """Batches of problems that were asked for: so far the cursor has moved."""
        asked = {group for one in self.done for group in one.groups}
        return 1 + max((self._batch_of(group) for group in asked), default=0)

    def facts(self) -> dict[str, int]:
        """For the manifest: rounds, batches and groups that were sampled, and groups of them that
        were steered."""
        return {
            "rounds": len(self.done),
            "batches": self.batches,
            "groups": len({group for one in self.done for group in one.groups}),
            "steered": len({group for one in self.done for group in one.steered}),
        }

    def first(self) -> Round:
        return self._asked(self._bare(0))

    def following(self, outlines: pa.Table, verdicts: pa.Table) -> Round | None:
        """The next round; None if the iteration is sampled.

        outlines, verdicts: of the rollouts of all rounds so far. Raises ValueError as
        `rows.join`.
        """
        config = self.config
        if config.rollout.steer == "failed" and (again := self._failed(outlines, verdicts)):
            return self._asked(again)
        if self.batches > config.prompts.fill or not self._rows_of(self.batches):
            return None
        carries_G = signal(
            self.prompts, outlines, verdicts, config.select, self.iteration, config.run.seed
        )
        if carries_G.sum() >= config.prompts.batch_size:
            return None
        return self._asked(self._bare(self.batches))

    def _asked(self, one: Round) -> Round:
        self.done.append(one)
        return one

    def _batch_of(self, group: int) -> int:
        return self.prompts[BATCH][group].as_py() if BATCH in self.prompts.column_names else 0

    def _rows_of(self, batch: int) -> list[int]:
        if BATCH not in self.prompts.column_names:
            return list(range(self.prompts.num_rows)) if batch == 0 else []
        rows: list[int] = np.flatnonzero(self.prompts[BATCH].to_numpy() == batch).tolist()
        return rows

    def _bare(self, batch: int) -> Round:
        """The first round of a batch."""
        rollout, groups = self.config.rollout, self._rows_of(batch)
        steered = list(self._may(groups)) if rollout.steer == "always" else []
        return Round(len(self.done), groups, rollout.on_policy, steered)

    def _may(self, groups: list[int]) -> Iterator[int]:
        """Those that may be steered."""
        if not self.config.rollout.expert:
            return
        for group in groups:
            name = self.prompts["prompt_id"][group].as_py()
            begun = self._begun(group)
            draw = generator(self.config.run.seed, "steer", begun, name).random()
            chance = share(self.config, begun)
            if draw < chance * (1.0 - self.rates.get(name, 0.0)):
                yield group

    def _begun(self, group: int) -> int:
        """Iteration in which a group was begun: with partial rollouts, maybe an earlier one."""
        there = BEGUN in self.prompts.column_names
        begun: int = self.prompts[BEGUN][group].as_py() if there else self.iteration
        return begun

    def _failed(self, outlines: pa.Table, verdicts: pa.Table) -> Round | None:
        """Expert rollouts for the groups of the last batch that need them and have a try left."""
        rollout = self.config.rollout
        last = self._rows_of(self.batches - 1)
        tried = [one for one in self.done if one.steered and set(one.groups) <= set(last)]
        attempt = len(tried)
        if attempt >= rollout.expert_tries:
            return None
        rows = join(self.prompts, outlines, verdicts)
        known_N = rows.known & ~rows.empty
        count = self.prompts.num_rows

        def per_group(mask_N: np.ndarray) -> np.ndarray:
            return np.bincount(rows.group[mask_N], minlength=count)

        judged_G = per_group(known_N & rows.policy)
        right_G = per_group(known_N & rows.policy & rows.correct)
        accepted_N = known_N & ~rows.policy & (rows.reward >= delta(self.config.select))
        open_G = (judged_G > 0) & (right_G <= rollout.steer_below * judged_G)
        open_G &= per_group(accepted_N) == 0
        groups = [one for one in self._may(last) if open_G[one] and self._has(one, attempt)]
        if not groups:
            return None
        first = rollout.on_policy + attempt * rollout.expert
        return Round(len(self.done), groups, 0, groups, attempt, first)

    def _has(self, group: int, attempt: int) -> bool:
        """Whether there is an expert prompt, or a trace, of a try."""
        if self.config.rollout.expert_source == "traces":
            return bool(self.prompts["trace"][group].is_valid)
        if attempt == 0:
            return bool(self.prompts["expert_prompt_ids"][group].is_valid)
        return len(self.prompts[TRIES][group]) >= attempt
