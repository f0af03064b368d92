"""Samples in the files of other packages: ours for their viewers, theirs for our judges.

lighteval  details_TASK_DATE.parquet: columns doc, metric, model_response, a row a problem
           (v0.13, `EvaluationTracker.save`; v0.9 and before: predictions, gold, metrics)
lm-eval    samples_TASK_DATE.jsonl: a line a problem and filter (v0.4, `SampleResult`)
inspect    DATE_TASK_ID.json: an evaluation log in JSON (version 2), a sample a problem and epoch
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from icpo_core.common.files import atomic_path, read_json
from icpo_core.evaluation.benchmarks import LETTERS, Benchmark, gold_of
from icpo_core.evaluation.evaluator import Evaluation
from icpo_core.evaluation.registry import Kind
from icpo_core.evaluation.samples import judge_samples
from icpo_core.grading.golds import acceptable, together
from icpo_core.grading.rewards import Judging
from icpo_core.store import tables

FORMATS = ("lighteval", "lm-eval", "inspect")
UNLIKE = (
    KeyError, TypeError, IndexError, AttributeError, ValueError, OverflowError, RecursionError,
    pa.ArrowException,
)  # fmt: skip
"""What comes of a file that has another shape."""
METRIC = "icpo"
"""Name of our verdict in their files."""


@dataclass(frozen=True)
class Answered:
    """One problem with its responses."""

    id: str
    prompt: str
    gold: str
    responses: tuple[str, ...]
    cut: tuple[bool, ...]
    """Whether each stopped for its length, where that is told."""
    scores: Mapping[str, float]
    """What was said of the responses, by metric; the mean where there are several."""


# --- ours for them --------------------------------------------------------------------------------


def require(kinds: Sequence[str], benchmark: Benchmark) -> None:
    """Raises ValueError for an unknown format, or a benchmark whose text is not published."""
    for kind in kinds:
        if kind not in FORMATS:
            raise ValueError(f"--write {kind}: choose of {', '.join(FORMATS)}")
    if kinds and benchmark.private:
        raise ValueError(
            f"--write: the authors of {benchmark.name} ask not to publish its text; leave it out "
            "of --bench"
        )


def write(kind: str, done: Evaluation, questions: pa.Table, folder: Path) -> Path:
    """The samples of an evaluation as a file of another package, in `folder`.

    questions: table `questions` of what was asked.
    """
    asked = {row["prompt_id"]: row for row in questions.to_pylist()}
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in done.ids}
    for row in done.read(*tables.TABLES["samples"].names).to_pylist():
        rows[row["prompt_id"]].append(row)
    for mine in rows.values():
        mine.sort(key=lambda row: row["sample_index"])
    problems = [(asked[name], mine) for name, mine in rows.items()]
    date = datetime.fromtimestamp(done.manifest.started, UTC)
    stamp = date.isoformat(timespec="microseconds").replace("+00:00", "")
    name = f"{done.benchmark}|{max(len(row['demo_ids']) for row, _ in problems)}"
    if kind == "lighteval":
        path = folder / f"details_{name}_{stamp.replace(':', '-')}.parquet"
        table = pa.Table.from_pylist([_detail(name, done, *one) for one in problems])
        with atomic_path(path) as temporary:
            pq.write_table(table, temporary)
        return path
    if kind == "lm-eval":
        path = folder / f"samples_{done.benchmark}_{stamp.replace(':', '-')}.jsonl"
        text = "".join(
            json.dumps(_line(at, done, *one), ensure_ascii=False) + "\n"
            for at, one in enumerate(problems)
        )
    else:
        label = done.manifest.fingerprint[:22]
        path = folder / f"{date.strftime('%Y-%m-%dT%H-%M-%S+00-00')}_{done.benchmark}_{label}.json"
        text = json.dumps(_log(done, problems, date), ensure_ascii=False)
    with atomic_path(path) as temporary:
        temporary.write_text(text, "utf-8")
    return path


def _mean(rows: Sequence[Mapping[str, Any]]) -> float:
    return sum(float(row["reward"]) for row in rows) / len(rows)


def _detail(
    name: str, done: Evaluation, asked: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    sampling = done.manifest.config["sampling"]
    return {
        "doc": {
            "query": asked["prompt"],
            "choices": list(acceptable(asked["gold"])),
            "gold_index": list(range(len(acceptable(asked["gold"])))),
            "instruction": None,
            "images": None,
            "specific": {"seeds": [row["seed"] for row in rows]},
            "unconditioned_query": None,
            "original_query": None,
            "id": asked["prompt_id"],
            "task_name": name,
            "fewshot_samples": [],
            "sampling_methods": [],
            "fewshot_sorting_class": None,
            "generation_size": sampling["max_tokens"],
            "stop_sequences": [],
            "use_logits": False,
            "num_samples": len(rows),
            "generation_grammar": None,
        },
        "metric": {METRIC: _mean(rows)},
        "model_response": {
            "input": asked["prompt"],
            "input_tokens": asked["prompt_ids"],
            "text": [row["response"] for row in rows],
            "output_tokens": [row["response_ids"] for row in rows],
            "text_post_processed": None,
            "reasonings": [],
            "logprobs": [],
            "argmax_logits_eq_gold": [],
            "logits": None,
            "unconditioned_logprobs": None,
            "truncated_tokens_count": 0,
            "padded_tokens_count": 0,
        },
    }


def _line(
    at: int, done: Evaluation, asked: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    sampling = done.manifest.config["sampling"]
    doc = {"id": asked["prompt_id"], "problem": asked["prompt"], "answer": asked["gold"]}
    responses = [row["response"] for row in rows]
    settings = {
        "until": [], "do_sample": sampling["temperature"] > 0,
        "temperature": sampling["temperature"], "max_gen_toks": sampling["max_tokens"],
    }  # fmt: skip
    return {
        "doc_id": at,
        "doc": doc,
        "target": asked["gold"],
        "arguments": {"gen_args_0": {"arg_0": asked["prompt"], "arg_1": settings}},
        "resps": [responses],
        "filtered_resps": [responses],
        "filter": "none",
        "metrics": [METRIC],
        "doc_hash": _hash(json.dumps(doc, indent=2, ensure_ascii=False)),
        "prompt_hash": _hash(asked["prompt"]),
        "target_hash": _hash(asked["gold"]),
        METRIC: _mean(rows),
        "finish_reasons": [row["finish_reason"] for row in rows],
        "seeds": [row["seed"] for row in rows],
    }


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _log(
    done: Evaluation,
    problems: Sequence[tuple[dict[str, Any], list[dict[str, Any]]]],
    date: datetime,
) -> dict[str, Any]:
    figures, record = done.figures, done.manifest
    sampling, when = record.config["sampling"], date.isoformat(timespec="seconds")
    settings = {key: sampling[key] for key in ("temperature", "top_p", "max_tokens")}
    samples = [_sample(done, asked, row) for asked, rows in problems for row in rows]
    name, label = done.benchmark, record.fingerprint[:22]
    metrics = {"accuracy": figures["accuracy"], "stderr": figures["standard_error"]}
    score = {
        "name": METRIC, "scorer": METRIC, "params": {},
        "metrics": {key: {"name": key, "value": one, "params": {}} for key, one in metrics.items()},
    }  # fmt: skip
    usage = {
        key: sum(one["output"]["usage"][key] for one in samples)
        for key in ("input_tokens", "output_tokens", "total_tokens")
    }
    return {
        "version": 2,
        "status": "success",
        "eval": {
            "eval_id": label, "run_id": label, "created": when, "task": name, "task_id": label,
            "task_version": 0, "task_attribs": {}, "task_args": {},
            "dataset": {
                "name": name, "samples": len(problems), "sample_ids": done.ids, "shuffled": False,
            },
            "model": done.target, "model_generate_config": settings, "model_args": {},
            "config": {"epochs": figures["k"]}, "packages": record.libraries,
            "metadata": {"policy_version": record.policy_version, "interval": figures["interval"]},
        },
        "plan": {"name": "plan", "steps": [], "config": settings},
        "results": {
            "total_samples": len(samples), "completed_samples": len(samples), "scores": [score],
        },
        "stats": {"started_at": when, "completed_at": when, "model_usage": {done.target: usage}},
        "samples": samples,
    }  # fmt: skip


def _sample(done: Evaluation, asked: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": row["response"], "source": "generate"}
    stopped = "max_tokens" if row["finish_reason"] == "length" else "stop"
    counts = (len(asked["prompt_ids"]), len(row["response_ids"]))
    usage = {
        "input_tokens": counts[0], "output_tokens": counts[1], "total_tokens": sum(counts),
    }  # fmt: skip
    score = {
        "value": "C" if row["reward"] > 0 else "I", "answer": row["extracted"],
        "explanation": row["status"],
    }  # fmt: skip
    return {
        "id": row["prompt_id"],
        "epoch": row["sample_index"] + 1,
        "input": asked["prompt"],
        "target": list(acceptable(asked["gold"])),
        "messages": [{"role": "user", "content": asked["prompt"]}, message],
        "output": {
            "model": done.target,
            "choices": [{"message": message, "stop_reason": stopped}],
            "usage": usage,
        },
        "scores": {METRIC: score},
        "metadata": {"seed": row["seed"], "subject": asked["subject"], "level": asked["level"]},
        "model_usage": {done.target: usage},
    }


# --- theirs for us --------------------------------------------------------------------------------


def read(path: Path) -> tuple[str, list[Answered]]:
    """The format of a file of another package, and its problems with their responses.

    Raises ValueError with one line for anything else.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    if path.suffix == ".eval":
        raise ValueError(
            f"{path}: a packed inspect log; `inspect log convert --to json` writes one to read"
        )
    try:
        if path.suffix == ".parquet":
            return "lighteval", [_of_detail(row) for row in pq.read_table(path).to_pylist()]
        if path.suffix == ".jsonl":
            rows = [json.loads(text) for text in path.read_text("utf-8").splitlines() if text]
            return "lm-eval", list(_of_lines(rows))
        return "inspect", list(_of_samples(read_json(path)["samples"]))
    except UNLIKE as error:
        raise ValueError(
            f"{path}: is no lighteval details (.parquet), lm-eval samples (.jsonl) or inspect log "
            f"(.json) that can be read ({type(error).__name__}: {error})"
        ) from error


def _of_detail(row: Mapping[str, Any]) -> Answered:
    if "model_response" in row:
        doc, said, scores = row["doc"], row["model_response"], row["metric"]
        places = doc["gold_index"] if isinstance(doc["gold_index"], list) else [doc["gold_index"]]
        golds, prompt, name = [doc["choices"][at] for at in places], doc["query"], doc["id"]
        responses = said["text"]
    else:
        golds, prompt, name = row["gold"], row["full_prompt"], ""
        responses, scores = row["predictions"], row["metrics"]
    return _answered(name or _hash(prompt)[:16], prompt, golds, responses, (), scores)


def _of_lines(rows: Sequence[Mapping[str, Any]]) -> Iterator[Answered]:
    """A line each filter of a problem: the responses are the same, the scores are not."""
    by_problem: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_problem.setdefault(row["doc_id"], []).append(row)
    for number, mine in by_problem.items():
        first = mine[0]
        doc = first["doc"]
        scores = {
            f"{metric},{row['filter']}" if len(mine) > 1 else metric: row[metric]
            for row in mine
            for metric in row["metrics"]
        }
        ends = [one == "length" for one in first.get("finish_reasons", ())]
        yield _answered(
            str(doc["id"]) if doc.get("id") is not None else str(number),
            first["arguments"]["gen_args_0"]["arg_0"],
            [first["target"]],
            first["resps"][0],
            ends,
            scores,
        )


def _of_samples(samples: Sequence[Mapping[str, Any]]) -> Iterator[Answered]:
    by_problem: dict[str, list[Mapping[str, Any]]] = {}
    for one in samples:
        by_problem.setdefault(str(one["id"]), []).append(one)
    for name, mine in by_problem.items():
        target, asked = mine[0]["target"], mine[0]["input"]
        choices = [one["output"]["choices"][0] for one in mine]
        values: dict[str, list[float]] = {}
        for one in mine:
            for metric, score in (one.get("scores") or {}).items():
                values.setdefault(metric, []).append(_value(score["value"]))
        yield _answered(
            name,
            asked if isinstance(asked, str) else "\n".join(_text(one["content"]) for one in asked),
            target if isinstance(target, list) else [target],
            [_text(one["message"]["content"]) for one in choices],
            [one.get("stop_reason") in ("max_tokens", "model_length") for one in choices],
            {metric: sum(found) / len(found) for metric, found in values.items()},
        )


def _value(value: Any) -> float:
    """Of a score: inspect writes C, P (half), I and N for right, partly, wrong and no answer."""
    if isinstance(value, str):
        return {"C": 1.0, "P": 0.5}.get(value, 0.0)
    return float(value)


def _text(content: Any) -> str:
    """Of a message: text, or parts of which the texts count."""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part.get("type") == "text")


def _answered(
    name: str,
    prompt: str,
    golds: Sequence[str],
    responses: Sequence[str],
    cut: Sequence[bool],
    scores: Mapping[str, Any],
) -> Answered:
    numbers = {key: float(one) for key, one in scores.items() if isinstance(one, int | float)}
    gold = together([gold_of(str(one)) for one in golds])
    ends = tuple(cut) or (False,) * len(responses)
    return Answered(name, prompt, gold, tuple(map(str, responses)), ends, numbers)


def judged(name: str, problems: Sequence[Answered], judges: Judging) -> tuple[pa.Table, pa.Table]:
    """Tables `samples` and `questions` of somebody else's responses, with our verdicts.

    Tokens are not told by every format, so none are given (`response_ids` is empty).
    """
    questions = tables.table(
        "questions",
        [
            {
                "benchmark": name, "prompt_id": one.id, "prompt": one.prompt, "prompt_ids": [],
                "gold": one.gold, "subject": None, "level": None, "demo_ids": [],
            }
            for one in problems
        ],
    )  # fmt: skip
    generations = tables.table(
        "generations",
        [
            {
                "benchmark": name, "prompt_id": one.id, "sample_index": at, "response": text,
                "response_ids": [], "finish_reason": "length" if cut else "stop", "seed": 0,
                "policy_version": "",
            }
            for one in problems
            for at, (text, cut) in enumerate(zip(one.responses, one.cut, strict=True))
        ],
    )  # fmt: skip
    return judge_samples(generations, questions, judges, {}), questions


def kind_of(problems: Sequence[Answered]) -> Kind:
    """Multiple choice where every gold answer is a letter."""
    letters = all(len(one.gold) == 1 and one.gold in LETTERS for one in problems)
    return "choice" if letters else "math"
