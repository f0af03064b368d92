"""Runs as they lie on disk, whose figures are drawn at random."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nasty
import numpy as np
import pyarrow as pa

from icpo_core.common.files import write_json
from icpo_core.config import load
from icpo_core.evaluation.scores import scores
from icpo_core.run import metrics
from icpo_core.run.perform import perform
from icpo_core.run.run import Run
from icpo_core.run.session import Session
from icpo_core.store import tables as schemas
from icpo_core.store.work import Work
from icpo_core.views.rollouts import tokenizer_of

NASTY = " ".join(nasty.TEXTS[:-1])


def make_run(
    root: Path,
    folder: Path,
    name: str,
    iterations: int,
    stored: list[int],
    expert: int = 1,
    filler: str = "",
    changes: Sequence[str] = (),
) -> Path:
    """A run as it lies on disk: figures of every iteration, tables of the `stored` ones, and an
    evaluation of every tenth. Prompts, verdicts and batches are made by their own stages."""
    given = [
        f"run.iterations={iterations}", f"run.directory={folder}", "run.trackers=[]",
        "prompts.batch_size=6", f"rollout.expert={expert}", f"rollout.on_policy={8 - expert}",
    ]  # fmt: skip
    config = load(root / "configs" / "demo.toml", [*given, *changes], name)
    rng = np.random.default_rng(len(name))
    with Session(Run.of(config)) as session:
        run = session.run
        session.keep_config()
        for number in stored:
            perform(session, "prompts", number)
            put(run, "rollout", number, rollouts(run, number, expert, filler, rng))
            perform(session, "verify", number)
            perform(session, "select", number)
            tokens = {"expert_tokens.parquet": expert_tokens(run, number, rng)} if expert else {}
            put(run, "update", number, tokens, policy_version=f"{name} {number}")
        for number in range(0, iterations + 1, max(1, iterations // 10)):
            evaluated(run, number, 0.25 + 0.7 * number / iterations * (expert > 0), rng)
        plain = metrics.row(run, stored[0])
        rows = []
        for number in range(iterations + 1):
            noise = {key: value * (1 + rng.normal() / 10) for key, value in plain.items()}
            rows.append({**noise, "entropy": 1 / (1 + number), "kl": number / 1e4, "loss": -0.1})
            rows[-1] |= {f"seconds/{stage}": 0.5 for stage in ("rollout", "update")}
            rows[-1] |= {f"figure/{at}": float(rng.normal()) for at in range(20)}
            rows[-1]["iteration"] = float(number)
        metrics.write(run.paths, rows)
    return run.paths.root


def put(run: Run, stage: str, number: int, tables: dict[str, Any], **facts: Any) -> None:
    """A stage of which only the files matter here."""
    work = Work(stage=stage, iteration=number, version=1, inputs={}, config={}, seed=None)
    folder = run.store.begin(work)
    for name, content in tables.items():
        if isinstance(content, pa.Table):
            known = {"part-00000-of-00001.parquet": "rollout"}
            kind = known.get(name, name.removesuffix(".parquet"))
            schemas.write(kind, content, folder / name, work.fingerprint)
        else:
            write_json(folder / name, content)
    run.store.commit(work, 0.0, 0.1, facts.pop("facts", {"tokens": 1, "probe_gap": 0.0}), **facts)


def expert_tokens(run: Run, number: int, rng: Any) -> pa.Table:
    """What an update leaves: of each expert rollout of the batch, a logprob a token."""
    batch = run.store.table("select", number, "batch").to_pylist()
    rows = [
        {
            **{key: row[key] for key in ("prompt_id", "sample_index", "origin")},
            "logprobs": (-rng.exponential(3, len(row["response_ids"]))).tolist(),
        }
        for row in batch
        if row["origin"] == "expert"
    ]
    return schemas.table("expert_tokens", rows)


def rollouts(run: Run, number: int, expert: int, filler: str, rng: Any) -> dict[str, pa.Table]:
    rows, run_tokens = [], tokenizer_of(run)
    assert run_tokens is not None
    for prompt in run.store.table("prompts", number, "prompts").to_pylist():
        for at in range(8):
            steered = at >= 8 - expert
            ids = run_tokens.encode(f"<unk>12+3={at}").ids if steered else [1, 2, 3]
            answer = prompt["answer"] if steered or rng.random() < 0.3 else "x"
            rows.append(
                {
                    "prompt_id": prompt["prompt_id"],
                    "sample_index": at,
                    "origin": "expert" if steered else "on_policy",
                    "response": f"{NASTY} {filler}\\boxed{{{answer}}}",
                    "response_ids": ids,
                    "logprobs": [-0.1] * len(ids),
                    "finish_reason": "stop",
                    "seed": at,
                    "policy_version": "v",
                }
            )
    return {"part-00000-of-00001.parquet": schemas.table("rollout", rows)}


def evaluated(run: Run, number: int, accuracy: float, rng: Any) -> None:
    right = rng.random(60) < accuracy
    rows = [
        {
            "benchmark": "heldout",
            "prompt_id": f"p{at}",
            "sample_index": 0,
            "response": r"\boxed{1}",
            "response_ids": [1, 2],
            "finish_reason": "stop",
            "seed": 0,
            "policy_version": "v",
            "reward": float(one),
            "status": "correct" if one else "wrong",
            "extracted": "1" if one else "2",
            "gold": "1",
            "seconds": 0.0,
        }
        for at, one in enumerate(right)
    ]
    table = schemas.table("samples", rows)
    found = scores(table)
    facts = {"accuracy/heldout": found["heldout"]["accuracy"]}
    put(run, "evaluate", number, {"samples.parquet": table, "scores.json": found}, facts=facts)
