"""A benchmark's problems as prompts: what the engine is asked, and the gold answers."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from icpo_core.config import PromptsSection
from icpo_core.evaluation.benchmarks import Benchmark
from icpo_core.method.prompts import PromptMaker
from icpo_core.method.templates import Template
from icpo_core.store import tables


def questions(
    benchmark: Benchmark,
    tokenizer: Any,
    settings: PromptsSection,
    pool: pa.Table | None = None,
    seed: int = 0,
) -> pa.Table:
    """Table `questions`, one row a problem in the benchmark's order.

    pool: demonstrations (table "problems") of which `settings.k` are shown with each problem,
    fewer where `settings.max_tokens` leaves no room; None: the bare prompt.

    Raises ValueError with one line, without a problem's text, if a bare prompt is longer than
    `settings.max_tokens` or the pool cannot serve.
    """
    template = Template(tokenizer, settings)
    prompts = [template.render(one.text) for one in benchmark.problems]
    ids = template.tokenize(prompts)
    _require_short(benchmark, ids, settings.max_tokens)
    shown: list[list[str]] = [[] for _ in prompts]
    if pool is not None and settings.k:
        prompts, ids, shown = _with_examples(
            benchmark, tokenizer, settings, pool, seed, prompts, ids
        )
    rows = [
        {
            "benchmark": benchmark.name,
            "prompt_id": one.id,
            "prompt": prompt,
            "prompt_ids": prompt_ids,
            "gold": one.answer,
            "subject": one.subject,
            "level": one.level,
            "demo_ids": demo_ids,
        }
        for one, prompt, prompt_ids, demo_ids in zip(
            benchmark.problems, prompts, ids, shown, strict=True
        )
    ]
    return tables.table("questions", rows)


def _with_examples(
    benchmark: Benchmark,
    tokenizer: Any,
    settings: PromptsSection,
    pool: pa.Table,
    seed: int,
    bare: list[str],
    bare_ids: list[list[int]],
) -> tuple[list[str], list[list[int]], list[list[str]]]:
    """The expert prompts of training, made of the benchmark's problems in one batch."""
    problems = tables.table(
        "problems",
        [
            {
                "id": one.id,
                "problem": one.text,
                "answer": one.answer,
                "solution": one.solution,
                "source": benchmark.name,
            }
            for one in benchmark.problems
        ],
    )
    whole = settings.model_copy(update={"batch_size": len(benchmark.problems)})
    batch = PromptMaker(problems, pool, [], tokenizer, whole, seed).batch(1).to_pylist()
    made = {row["prompt_id"]: row for row in batch}
    rows = [made[one.id] for one in benchmark.problems]
    return (
        [row["expert_prompt"] or text for row, text in zip(rows, bare, strict=True)],
        [row["expert_prompt_ids"] or ids for row, ids in zip(rows, bare_ids, strict=True)],
        [row["demo_ids"] for row in rows],
    )


def _require_short(benchmark: Benchmark, ids: list[list[int]], limit: int) -> None:
    lengths = [len(one) for one in ids]
    over = [at for at, length in enumerate(lengths) if length > limit]
    if over:
        at = max(over, key=lambda one: lengths[one])
        raise ValueError(
            f"{benchmark.name}: {len(over)} of {len(ids)} prompts are longer than the {limit} "
            f"tokens that are left for them (problem {benchmark.problems[at].id!r}: "
            f"{lengths[at]}): raise engine.max_model_len or lower max_tokens"
        )
