"""What became of each prompt of an iteration: every rollout with its verdict and its advantage, or
why it takes no part. The stages' tables joined, for people to read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from icpo_core.run.run import Run
from icpo_core.store import tables
from icpo_core.store.tables import BATCH, BEGUN, REWARD, ROUND, TRIES

Key = tuple[str, int, str]
"""prompt_id, sample_index and origin, which name a rollout within its iteration."""
KEY = ["prompt_id", "sample_index", "origin"]


@dataclass(frozen=True)
class Spoken:
    """One rollout. What a stage that is not finished would say is None."""

    sample_index: int
    origin: str
    response: str
    spoken: str
    """The response with its special tokens, as its end; as stored where the tokenizer is away."""
    tokens: int
    finish_reason: str
    status: str | None
    extracted: str | None
    detail: str | None
    """How the verdict was reached."""
    reward: float | None
    rewards: dict[str, float | None]
    """What the reward is made of, if it is made of parts; None: this one abstained."""
    bonus: float | None
    advantage: float | None
    """None where it is no part of the batch."""
    reason: str | None
    """Why it is no part of the batch."""
    round: int | None = None
    """Which round sampled it, from 0, where an iteration comes in rounds."""


@dataclass(frozen=True)
class Group:
    """A prompt and its rollouts."""

    number: int
    """Place in the iteration's batch, from 1."""
    prompt_id: str
    problem: str
    answer: str
    source: str
    policy_prompt: str
    expert_prompt: str | None
    demo_ids: list[str]
    rollouts: list[Spoken]
    tries: list[dict[str, Any]] = field(default_factory=list)
    """Expert prompts of further tries: `expert_prompt` and `demo_ids`."""

    def right(self, origin: str) -> tuple[int, int]:
        """Right rollouts and all rollouts of an origin."""
        mine = [one for one in self.rollouts if one.origin == origin]
        return sum(one.status == "correct" for one in mine), len(mine)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def read(run: Run, iteration: int, prompt: str | None = None, texts: bool = True) -> list[Group]:
    """The groups of an iteration, in the batch's order, or the one that `prompt` names: a number
    from 1, or the beginning of an id.

    texts: whether to read what was said; without, `response` and `spoken` are empty.
    Raises ValueError if it has no rollouts yet, a file of it is damaged, or no prompt or more than
    one is named so.
    """
    store, decode = run.store, _decoder(run) if texts else lambda ids, stored: ""
    files = store.table_files("rollout", iteration, "rollout")
    prompts = store.table("prompts", iteration, "prompts")
    names = all_ = prompts["prompt_id"].to_pylist()
    if {BATCH, BEGUN} & set(prompts.column_names):  # some are not needed, or go on
        sampled = store.table("rollout", iteration, "rollout", ["prompt_id"])["prompt_id"]
        there = set(sampled.unique().to_pylist())
        names = [name for name in names if name in there]
    wanted = names if prompt is None else [all_[_place(all_, names, prompt)]]

    def keyed(stage: str, table: str, *columns: str) -> dict[Key, dict[str, Any]]:
        if store.finished(stage, iteration) is None:
            return {}
        some = [*KEY, *columns] if columns else None
        return {
            _key(row): row for row in store.table(stage, iteration, table, some, wanted).to_pylist()
        }

    verdicts = keyed("verify", "verdicts")
    batch = keyed("select", "batch", "bonus", "advantage")
    rejects = keyed("select", "rejects", "reason")
    columns = [*KEY, "finish_reason", "response_ids", ROUND, *(["response"] if texts else [])]
    rollouts: dict[str, list[Spoken]] = {}
    for path in files:
        part = tables.read("rollout", path, columns)
        part = part.filter(pc.is_in(part["prompt_id"], pa.array(wanted, pa.string())))
        lengths = pc.list_value_length(part["response_ids"]).to_pylist()
        if not texts:
            part = part.drop_columns(["response_ids"])
        for row, tokens in zip(part.to_pylist(), lengths, strict=True):
            key = _key(row)
            verdict, kept = verdicts.get(key, {}), batch.get(key, {})
            spoken = Spoken(
                sample_index=row["sample_index"],
                origin=row["origin"],
                response=row.get("response", ""),
                spoken=decode(row.get("response_ids", []), row.get("response", "")),
                tokens=tokens,
                finish_reason=row["finish_reason"],
                status=verdict.get("status"),
                extracted=verdict.get("extracted"),
                detail=verdict.get("detail"),
                reward=verdict.get("reward"),
                rewards=parts(verdict),
                bonus=kept.get("bonus"),
                advantage=kept.get("advantage"),
                reason=rejects.get(key, {}).get("reason"),
                round=row.get(ROUND),
            )
            rollouts.setdefault(row["prompt_id"], []).append(spoken)
    fields = [
        "prompt_id", "problem", "answer", "source", "policy_prompt", "expert_prompt", "demo_ids",
    ]  # fmt: skip
    further = prompts[TRIES].to_pylist() if TRIES in prompts.column_names else []
    for one in (one for some in further for one in some):
        del one["expert_prompt_ids"]
    shown = set(wanted)
    return [
        Group(
            **row,
            number=number,
            rollouts=sorted(rollouts.get(row["prompt_id"], []), key=lambda one: one.sample_index),
            tries=further[number - 1] if further else [],
        )
        for number, row in enumerate(prompts.select(fields).to_pylist(), 1)
        if row["prompt_id"] in shown
    ]


def tokenizer_of(run: Run) -> Any | None:
    """The run's tokenizer (`tokenizers.Tokenizer`); None where it is away. Not by transformers,
    which takes seconds to import."""
    try:
        file = run.base_model / "tokenizer.json"
    except ValueError:
        return None
    if not file.is_file():
        return None
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(file))


def _decoder(run: Run) -> Callable[[list[int], str], str]:
    """From ids and the stored text to the text with its special tokens; the stored text where the
    tokenizer is away or is another one."""
    tokenizer = tokenizer_of(run)
    if tokenizer is None:
        return lambda ids, stored: stored

    def decode(ids: list[int], stored: str) -> str:
        if tokenizer.decode(ids, skip_special_tokens=True) != stored:
            return stored
        return str(tokenizer.decode(ids, skip_special_tokens=False))

    return decode


def parts(verdict: dict[str, Any]) -> dict[str, float | None]:
    """What the reward of a row of `verdicts` is made of, by name."""
    return {
        name.removeprefix(REWARD): value
        for name, value in verdict.items()
        if name.startswith(REWARD)
    }


def _place(names: list[str], there: list[str], wanted: str) -> int:
    """Place of the prompt of a number (from 1) or of the beginning of its id, if it is there."""
    numbered = wanted.isdigit() and 1 <= int(wanted) <= len(names)
    found = [int(wanted) - 1] if numbered else []
    found = found or [
        at for at, one in enumerate(names) if wanted != "0" and one.startswith(wanted)
    ]
    if len(found) != 1:
        raise ValueError(
            f"--prompt {wanted}: {len(found) or 'no'} prompts of this iteration have an id that "
            f"begins so; give a number from 1 to {len(names)} or more of the id"
        )
    if names[found[0]] not in there:
        raise ValueError(
            f"--prompt {wanted}: no rollouts of it are in this iteration: it was not needed, or "
            "goes on in a later one; `icpo show` without --prompt lists those that are"
        )
    return found[0]


def newest(run: Run) -> int:
    """The newest iteration that has rollouts. Raises ValueError if there is none."""
    for number in reversed(run.paths.iterations()):
        if run.store.finished("rollout", number) is not None:
            return number
    raise ValueError(f"{run.paths.root}: no iteration has rollouts yet")


def _key(row: dict[str, Any]) -> Key:
    return row["prompt_id"], row["sample_index"], row["origin"]
