"""A first run without a configuration: `icpo train gsm8k --model Qwen/Qwen3-0.6B`.

The data set is prepared, a part of it held out, and the configuration that this stands for is
written into the run (`start/icpo.toml` below its folder), to be read, edited and kept.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from icpo.data.benchmarks import fetch
from icpo.data.preparation import Order, prepare
from icpo.data.recipes import RECIPES
from icpo_core.common.files import atomic_path, read_json
from icpo_core.common.seeds import generator
from icpo_core.config import PromptsSection
from icpo_core.evaluation.benchmarks import read
from icpo_core.evaluation.registry import ENTRIES
from icpo_core.method.problems import read_problems
from icpo_core.method.templates import Template
from icpo_core.models.folder import load_tokenizer, resolve
from icpo_core.run.run import Run
from icpo_core.store import tables
from icpo_core.workers import devices

FOLDER = "start"
HELD_OUT, SHARE = 200, 0.1
"""Problems that are held out at most, and of few the share."""
LEAST, STEP = 64, 64
"""Tokens of a response at least; limits are multiples of the step."""


def names_data(text: str) -> bool:
    """Whether the words of `icpo train` name a data set rather than a configuration or a run."""
    path = Path(text)
    if path.suffix == ".toml" or text in ("", "."):
        return False
    return text in RECIPES or path.is_file() or (path.is_dir() and _has_data(path))


def is_data(text: str) -> bool:
    """Whether they can name nothing else."""
    path = Path(text)
    return text in RECIPES or (path.is_file() and path.suffix in (".parquet", ".jsonl", ".csv"))


def _has_data(folder: Path) -> bool:
    return not (folder / "config.json").is_file() and any(folder.glob("*.parquet"))


def configuration(data: str, model: str, root: Path, say: Callable[[str], None]) -> Path:
    """Write the TOML file of a first run into `root`, with the data set beside it; its path.

    What lies there of an attempt that did not come to a run is made again. Raises ValueError, in
    one line, for a data set or a model that cannot serve.
    """
    folder = root / FOLDER
    file = folder / "icpo.toml"
    tokenizer = load_tokenizer(resolve(model))
    folder.mkdir(parents=True, exist_ok=True)
    heldout = folder / "heldout.parquet"
    tested = [str(_tested(data, folder))] if data in ENTRIES else []
    order = Order(
        source=None if data in RECIPES else data,
        recipe=data if data in RECIPES else "columns",
        evaluations=tuple(tested),
        language="any",
    )
    prepared = prepare(order, folder / "prepared.parquet", say=say)
    problems = read_problems(str(prepared.problems))
    if tested:
        test = read_problems(tested[0])
        chosen = generator(0, "held out").permutation(test.num_rows)[:HELD_OUT]
        held, rest = test.take(np.sort(chosen)), problems
    else:
        count = min(HELD_OUT, math.ceil(SHARE * problems.num_rows))
        order_N = generator(0, "held out").permutation(problems.num_rows)
        held, rest = (
            problems.take(np.sort(order_N[:count])),
            problems.take(np.sort(order_N[count:])),
        )
    if rest.num_rows < 2:
        raise ValueError(f"{data}: {problems.num_rows} problems are too few to train and to test")
    tables.write("problems", held, heldout)
    tables.write("problems", rest, folder / "train.parquet")
    solved = rest.filter(rest["solution"].is_valid())
    if solved.num_rows:
        tables.write("problems", solved, folder / "demonstrations.parquet")
    chat = bool(getattr(tokenizer, "chat_template", None))
    text = _text(data, model, root.name, rest, solved, tokenizer, chat)
    with atomic_path(file) as temporary:
        temporary.write_text(text, "utf-8")
    said = f"{rest.num_rows} problems, {solved.num_rows} with a solution, {held.num_rows} held out"
    say(f"{file}: {said}")
    if not solved.num_rows:
        say(f"{data}: has no solutions to show, so this is GRPO; with a column solution it is ICPO")
    return file


def _tested(name: str, folder: Path) -> Path:
    """The test problems that the hub has of a benchmark, which have columns of their own, as a
    problem set in `folder`."""
    found = read(name, str(fetch(name, folder)))
    rows = [
        {"id": one.id, "problem": one.text, "answer": one.answer, "solution": one.solution}
        for one in found.problems
    ]
    table = pa.Table.from_pylist(
        [row | {"source": name} for row in rows], tables.TABLES["problems"]
    )
    tables.write("problems", table, folder / "test.parquet")
    return folder / "test.parquet"


def require_same(run: Run, data: str, model: str) -> None:
    """Raises ValueError if a run that is there was begun with another data set or model."""
    name = f"{run.paths.root}: is a run"
    fix = "give this one another --run NAME"
    held = run.config.model.path
    if held != _place(model):
        raise ValueError(f"{name} of model {held}; {fix}")
    manifest = run.paths.root / FOLDER / "prepared.manifest.json"
    order = read_json(manifest)["order"] if manifest.is_file() else {}
    begun_with = order.get("recipe") if data in RECIPES else order.get("source")
    if begun_with != data:
        raise ValueError(f"{name} of data set {begun_with or run.config.prompts.problems}; {fix}")


def _place(model: str) -> str:
    """A folder by its whole path, since the configuration lies elsewhere; a hub id as it is."""
    return str(Path(model).resolve()) if Path(model).exists() else model


def _text(
    data: str,
    model: str,
    name: str,
    problems: pa.Table,
    solved: pa.Table,
    tokenizer: Any,
    chat: bool,
) -> str:
    """The configuration, with the lengths of this data set under this tokenizer."""
    large = devices.visible()
    shape: Literal["chat", "raw"] = "chat" if chat else "raw"
    template = Template(tokenizer, PromptsSection(problems="-", format=shape))
    some = problems.take(pa.array(range(min(500, problems.num_rows)), pa.int64()))
    bare = [len(one) for one in template.tokenize([template.render(t) for t in _texts(some)])]
    texts: list[str] = solved["solution"].to_pylist()[:500]
    lengths = (
        [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
        if texts
        else [256]
    )
    long = float(np.percentile(lengths, 95))
    response = _rounded(max(LEAST, (4 if large else 1.5) * long))
    prompt = _rounded(2 * max(bare) + (long if texts else 0) + STEP)
    dtype = "bfloat16" if large else "float32"
    batch = min(128 if large else 8, max(1, problems.num_rows // 2))
    preset = "icpo" if texts else "grpo"
    shown = 'demonstrations = "./demonstrations.parquet"\n' if texts else ""
    limit = "" if large else ", limit = 64"
    path = json.dumps(_place(model))
    return f"""\
# What this stands for: icpo train {data} --model {model}
# Lengths are of this data set under this tokenizer, sizes for a {"GPU" if large else "CPU"}.
preset = "{preset}"

[run]
name = "{name}"
iterations = {200 if large else 20}

[model]
path = {path}

[prompts]
problems = "./train.parquet"
{shown}exclude = ["./heldout.parquet"]
batch_size = {batch}
format = "{shape}"{"" if chat else "  # the tokenizer has no chat template"}
max_tokens = {prompt}

[rollout]
max_tokens = {response}

[rollout.engine]
dtype = "{dtype}"
max_model_len = {prompt + response}
{"" if large else "cpu_kv_cache_gib = 2" + chr(10)}
[update]
dtype = "{dtype}"
learning_rate = {"1e-6" if large else "1e-5"}
{"" if large else "token_budget = 4096" + chr(10)}
[evaluate]
every = {20 if large else 10}
max_tokens = {response}
benchmarks = [{{ name = "heldout", problems = "./heldout.parquet"{limit} }}]

[checkpoint]
state_every = 10
"""


def _texts(table: pa.Table) -> list[str]:
    texts: list[str] = table["problem"].to_pylist()
    return texts


def _rounded(tokens: float) -> int:
    return STEP * math.ceil(tokens / STEP)
