"""Stage `prompts`: the problems of an iteration, bare and with worked examples (IEF)."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from icpo_core.common.seeds import generator
from icpo_core.config import PromptsSection
from icpo_core.method.demonstrations import Demonstrations
from icpo_core.method.templates import Example, Template
from icpo_core.store import tables
from icpo_core.store.tables import BATCH, EXTRA, TRIES

JOINT_TOKENS = 2
"""Tokens that an example may lose where it is joined to the next text."""


class PromptMaker:
    """Makes the prompts of any iteration; built once a run, since it reads all texts.

    problems: the training set, table "problems". pool: demonstrations, or None for none.
    excluded: problem sets that are never shown as demonstrations. tokenizer: the policy's.
    seed: the run's. traces: fill column `trace` with the data set's own solutions (LUFFY).
    tries: expert prompts a problem, each with other examples.

    `left_out` counts the pool's rows that are never shown, by reason.

    Raises ValueError with one line that names the mend: a batch larger than the set, a problem
    whose bare prompt is longer than `settings.max_tokens`, a pool that cannot serve, a template
    that the tokenizer cannot fill, a missing trace.
    """

    def __init__(
        self,
        problems: pa.Table,
        pool: pa.Table | None,
        excluded: Sequence[pa.Table],
        tokenizer: Any,
        settings: PromptsSection,
        seed: int,
        traces: bool = False,
        tries: int = 1,
    ) -> None:
        if settings.batch_size > problems.num_rows:
            raise ValueError(
                f"prompts.batch_size = {settings.batch_size} is more than the "
                f"{problems.num_rows} training problems: lower it, or give more problems"
            )
        self._settings = settings
        self._seed = seed
        self._rows: list[dict[str, Any]] = problems.to_pylist()
        self._has_extra = EXTRA in problems.column_names
        self._traces, self._tries = traces, tries
        if traces:
            _require_traces(self._rows)
        self._template = Template(tokenizer, settings)
        self._require_short()
        self._epochs: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()  # the next batch is made while another thread may ask
        self._lengths: list[int] | None = None
        self._demonstrations: Demonstrations | None = None
        self._texts, self._pool, self._excluded = problems, pool, excluded
        self._grown: dict[int, int] | None = None
        """Where the pool grows: row of `_demonstrations` of each problem of the batch."""
        self.left_out: dict[str, int] = {}
        if pool is not None and settings.k:
            shown = Demonstrations(pool, problems, excluded, settings.selection, seed)
            if settings.k > len(shown):
                raise ValueError(
                    f"prompts.k = {settings.k} is more than the {len(shown)} demonstrations that "
                    "can be shown: lower it, or give a larger pool"
                )
            self._demonstrations = shown
            self.left_out = shown.left_out

    def batch(
        self, iteration: int, cursor: int | None = None, grown: pa.Table | None = None
    ) -> pa.Table:
        """Table "prompts" of an iteration, counted from 1: a function of seed, iteration, cursor.

        `cursor`: batches that earlier iterations took; None: one each. With `settings.fill` all
        batches that the iteration may come to are there, told apart by column `batch`. `grown`:
        what joined the pool, table "problems" (`icpo_core.method.grown_pool`).

        Batches are consecutive parts of an endless stream of epochs, each a seeded permutation of
        the set. No problem stands twice in a batch, also where it reaches over an epoch's end.

        If the first choice of k examples makes a prompt longer than `max_tokens`, shorter ones are
        drawn; if no k fit, fewer; if not even one fits, `expert_prompt` is null and `demo_ids`
        empty. Nothing is cut.
        """
        assert iteration >= 1, iteration
        with self._lock:
            return self._batch(iteration, iteration - 1 if cursor is None else cursor, grown)

    def _grow(self, grown: pa.Table, chosen: list[int]) -> None:
        """Let the pool be the fixed one and what joined, for the problems of a batch."""
        assert self._pool is not None
        columns = self._pool.column_names
        whole = pa.concat_tables([self._pool, grown.select(
            [name for name in columns if name in grown.column_names]
        )], promote_options="default")  # fmt: skip
        mine = self._texts.take(chosen)
        settings = self._settings
        self._demonstrations = Demonstrations(
            whole, mine, self._excluded, settings.selection, self._seed
        )
        self._grown = {place: row for row, place in enumerate(chosen)}
        self._lengths = None

    def _batch(self, iteration: int, cursor: int, grown: pa.Table | None) -> pa.Table:
        # Where batches reach over an epoch's end a problem may be in two: the first has it.
        batches: dict[int, int] = {}
        for number in range(self._settings.fill + 1):
            for place in self.places(cursor + 1 + number):
                batches.setdefault(place, number)
        chosen = list(batches)
        if grown is not None and self._pool is not None:
            self._grow(grown, chosen)
        bare = [self._template.render(self._rows[place]["problem"]) for place in chosen]
        bare_ids = self._template.tokenize(bare)
        shown, expert, expert_ids = self._with_examples(chosen, iteration, 0)
        rows = []
        for order, place in enumerate(chosen):
            row = self._rows[place]
            examples = self._demonstrations.ids if self._demonstrations else []
            rows.append(
                {
                    "prompt_id": row["id"],
                    "problem": row["problem"],
                    "answer": row["answer"],
                    "source": row["source"],
                    "policy_prompt": bare[order],
                    "policy_prompt_ids": bare_ids[order],
                    "expert_prompt": expert[order],
                    "expert_prompt_ids": expert_ids[order],
                    "demo_ids": [examples[example] for example in shown[order]],
                    "trace": row["solution"] if self._traces else None,
                }
            )
        made = tables.table("prompts", rows)
        if self._has_extra:
            extras = [self._rows[place].get(EXTRA) for place in chosen]
            made = made.append_column(EXTRA, pa.array(extras, pa.string()))
        if self._settings.fill:
            made = made.append_column(BATCH, pa.array(list(batches.values()), pa.int32()))
        if self._tries > 1:
            made = made.append_column(TRIES, self._further(chosen, iteration))
        return made

    def _further(self, chosen: list[int], iteration: int) -> pa.Array:
        """Column `tries`: the expert prompts after the first, as long as there are examples."""
        tries: list[list[dict[str, Any]]] = [[] for _ in chosen]
        for attempt in range(1, self._tries):
            found = zip(tries, *self._with_examples(chosen, iteration, attempt), strict=True)
            for row, shown, text, ids in found:
                if ids is not None and len(row) == attempt - 1:
                    assert self._demonstrations is not None
                    names = [self._demonstrations.ids[example] for example in shown]
                    row.append({"expert_prompt": text, "expert_prompt_ids": ids, "demo_ids": names})
        return pa.array(tries, tables.MORE["prompts"][TRIES].type)

    def lessons(self, prompts: pa.Table, iteration: int, context: str) -> pa.Table:
        """Table "lessons" of an iteration's prompts: what the teacher of self-distillation is shown
        with each (`loss.distill.context`). Left out: problems for which nothing fits the limit.

        `demonstrations`: those of its expert prompt. `solution`: the problem with its own.
        """
        names: list[str] = prompts["prompt_id"].to_pylist()
        mine = {row["id"]: place for place, row in enumerate(self._rows)}
        chosen = [mine[name] for name in names]
        with self._lock:
            if context == "demonstrations" and prompts["expert_prompt"].null_count < len(names):
                texts = prompts["expert_prompt"].to_pylist()
                ids = prompts["expert_prompt_ids"].to_pylist()
            elif context == "demonstrations":  # there are no expert rollouts
                _, texts, ids = self._with_examples(chosen, iteration, 0)
            else:
                texts, ids = self._with_solutions(chosen)
        rows = [
            {"prompt_id": name, "prompt": text, "prompt_ids": row}
            for name, text, row in zip(names, texts, ids, strict=True)
            if row is not None
        ]
        return tables.table("lessons", rows)

    def _with_solutions(self, chosen: list[int]) -> tuple[list[str | None], list[list[int] | None]]:
        """Prompts that show each problem's own solution before it, and their token ids."""
        texts: list[str | None] = [
            None
            if self._rows[place]["solution"] is None
            else self._template.render(
                self._rows[place]["problem"],
                [Example(self._rows[place]["problem"], self._rows[place]["solution"])],
            )
            for place in chosen
        ]
        found = iter(self._template.tokenize([t for t in texts if t is not None], expert=True))
        ids = [None if text is None else next(found) for text in texts]
        return texts, [
            row if row is not None and len(row) <= self._settings.max_tokens else None
            for row in ids
        ]

    def places(self, number: int) -> list[int]:
        """Rows of the training set that make up a batch, counted from 1."""
        size, total = self._settings.batch_size, len(self._rows)
        start = (number - 1) * size
        epoch, offset = divmod(start, total)
        first = self._epoch(epoch)[offset : offset + size]
        rest = self._epoch(epoch + 1)[: size - len(first)] if len(first) < size else first[:0]
        return [*first.tolist(), *rest.tolist()]

    def _epoch(self, epoch: int) -> np.ndarray:
        """Order of an epoch, (problems,) int64.

        Its beginning shares a batch with the end of the epoch before, so the problems of that end
        are moved behind that batch.
        """
        if epoch not in self._epochs:
            size, total = self._settings.batch_size, len(self._rows)
            if total >= 2 * size:
                # An epoch's end is as drawn: only places of its first batch were moved.
                before = self._drawn(epoch - 1) if epoch else None
                self._epochs[epoch] = self._moved(epoch, before)
            else:
                for next_ in range(len(self._epochs), epoch + 1):
                    self._epochs[next_] = self._moved(next_, self._epochs.get(next_ - 1))
        return self._epochs[epoch]

    def _drawn(self, epoch: int) -> np.ndarray:
        return generator(self._seed, "epoch", epoch).permutation(len(self._rows))

    def _moved(self, epoch: int, before: np.ndarray | None) -> np.ndarray:
        order, size = self._drawn(epoch), self._settings.batch_size
        overhang = (epoch * len(self._rows)) % size  # rows of the shared batch in the epoch before
        if before is None or not overhang:
            return order
        own = np.flatnonzero(~np.isin(order, before[-overhang:]))[: size - overhang]
        return np.concatenate([order[own], np.delete(order, own)])

    def _with_examples(
        self, chosen: list[int], iteration: int, attempt: int
    ) -> tuple[list[list[int]], list[str | None], list[list[int] | None]]:
        """Examples shown, expert prompts and their token ids, one a chosen problem.

        Further attempts show the examples that come next in the order.
        """
        shown: list[list[int]] = [[] for _ in chosen]
        texts: list[str | None] = [None] * len(chosen)
        ids: list[list[int] | None] = [None] * len(chosen)
        pool, limit = self._demonstrations, self._settings.max_tokens
        if pool is None:
            return shown, texts, ids
        counts = [self._settings.k + at * self._settings.k_growth for at in range(attempt + 1)]
        *before, count = counts
        rows = chosen if self._grown is None else [self._grown[place] for place in chosen]
        orders = [pool.choices(row, iteration)[sum(before) :] for row in rows]
        shown = [order[:count].tolist() for order in orders]
        waiting = [at for at in range(len(chosen)) if shown[at]]
        room: dict[int, int] = {}  # tokens for examples, where the first choice was too long
        while waiting:
            drawn = [self._expert(chosen[at], shown[at]) for at in waiting]
            over = []
            drawn_ids = self._template.tokenize(drawn, expert=True)
            for at, text, row in zip(waiting, drawn, drawn_ids, strict=True):
                if len(row) <= limit:
                    texts[at], ids[at] = text, row
                    continue
                # Examples joined can be some tokens shorter than examples apart, so the room is
                # first guessed with that much to spare and then taken in.
                sizes = self._sizes()
                joints = JOINT_TOKENS * len(shown[at])
                left = sum(sizes[one] for one in shown[at]) + joints - (len(row) - limit)
                room[at] = min(left, room[at] - 1) if at in room else left
                shown[at] = self._fitting(orders[at], room[at], count)
                if shown[at]:
                    over.append(at)
            waiting = over
        return shown, texts, ids

    def _expert(self, place: int, examples: list[int]) -> str:
        """The expert prompt's text. The first choice stands last, next to the question."""
        assert self._demonstrations is not None
        pool = self._demonstrations.examples
        return self._template.render(
            self._rows[place]["problem"], [pool[example] for example in reversed(examples)]
        )

    def _fitting(self, order: np.ndarray, room: int, most: int) -> list[int]:
        """The first choices of at most `room` tokens together: `most`, or fewer, or none.

        The longest is given up for the next choice that is shorter, until they fit.
        """
        sizes = self._sizes()
        for count in range(min(most, len(order)), 0, -1):
            held: list[int] = order[:count].tolist()
            total = sum(sizes[one] for one in held)
            for spare in order[count:].tolist():
                if total <= room:
                    break
                longest = max(held, key=sizes.__getitem__)
                if sizes[spare] < sizes[longest]:
                    held.remove(longest)
                    held.append(spare)
                    total += sizes[spare] - sizes[longest]
            if total <= room:
                return held
        return []

    def _sizes(self) -> list[int]:
        """Tokens of each example's text; counted when the first prompt is too long."""
        if self._lengths is None:
            assert self._demonstrations is not None
            texts = [self._template.example(one) for one in self._demonstrations.examples]
            self._lengths = [len(row) for row in self._template.tokenize(texts, expert=True)]
        return self._lengths

    def _require_short(self) -> None:
        limit = self._settings.max_tokens
        # A token covers at least a byte, so only long texts need counting.
        around = len(self._template.render("").encode()) + 1
        sizes = [len(row["problem"].encode()) + around for row in self._rows]
        long = [place for place, size in enumerate(sizes) if size > limit]
        texts = [self._template.render(self._rows[place]["problem"]) for place in long]
        counts = [len(row) for row in self._template.tokenize(texts)]
        over = [(place, count) for place, count in zip(long, counts, strict=True) if count > limit]
        if over:
            place, count = max(over, key=lambda item: item[1])
            raise ValueError(
                f"{len(over)} of {len(self._rows)} training problems are longer than "
                f"prompts.max_tokens = {limit} as bare prompts (id {self._rows[place]['id']!r}: "
                f"{count} tokens): drop them with `icpo data prepare`, or raise prompts.max_tokens"
            )


def shortfall(prompts: pa.Table, settings: PromptsSection) -> tuple[float, str]:
    """The share of an iteration's prompts that show fewer than k examples, and a line that says so;
    it is empty where there are none."""
    shown = [len(ids) for ids in prompts.column("demo_ids").to_pylist()]
    fewer = sum(count < settings.k for count in shown)
    if not fewer:
        return 0.0, ""
    return fewer / len(shown), (
        f"prompts.k = {settings.k}: {fewer} of {len(shown)} prompts have room for fewer examples "
        f"({sum(shown) / len(shown):.1f} a prompt) in prompts.max_tokens = {settings.max_tokens}: "
        "raise that, or lower prompts.k"
    )


def _require_traces(rows: list[dict[str, Any]]) -> None:
    bare = [row["id"] for row in rows if row["solution"] is None]
    if bare:
        raise ValueError(
            f"rollout.expert_source = traces needs a solution of every training problem, and "
            f"{len(bare)} of {len(rows)} have none (id {bare[0]!r} first): use a set with expert "
            "traces, or in_context"
        )
