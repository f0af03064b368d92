"""A data set of any shape becomes Parquet that can be trained or tested on.

Writes OUT.parquet (table "problems"), OUT.removed.parquet (every row that went, and why) and
OUT.manifest.json, from which `again` makes the same rows once more.
"""

from __future__ import annotations

import difflib
import glob
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from icpo.data import gym
from icpo.data.cleaning import (
    Check,
    Reason,
    clean,
    contradicted,
    damaged,
    faulty,
    foreign,
    incomplete,
    repeated,
    too_long,
    unreadable,
)
from icpo.data.columns import SAMPLE
from icpo.data.contamination import contaminated
from icpo.data.files import ENDINGS, PACKED_ENDINGS
from icpo.data.language import LANGUAGES
from icpo.data.recipes import RECIPES, Row
from icpo.data.sources import Source, from_hub, from_path
from icpo_core.common import limits
from icpo_core.common.files import (
    atomic_path,
    read_json,
    require_place,
    sha256_file,
    write_json,
)
from icpo_core.config import PromptsSection
from icpo_core.grading.golds import acceptable
from icpo_core.grading.grade import GradingRules
from icpo_core.grading.pool import Judges
from icpo_core.method import near_duplicates
from icpo_core.method.problems import as_json, read_problems
from icpo_core.method.templates import Template
from icpo_core.models.folder import load_tokenizer
from icpo_core.store import tables

MANIFEST_VERSION = 1
ANY_LANGUAGE = "any"
GOLD_SECONDS = 5.0
GOLD_MEMORY_MB = 1024
Purpose = Literal["training", "demonstrations", "evaluation"]


class Order(BaseModel):
    """What to prepare, and how: all that the result depends on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str | None = None  # a file, a folder or a hub id; None: the recipe's own hub id
    recipe: str = "columns"
    columns: dict[str, str] = {}
    purpose: Purpose = "training"
    evaluations: tuple[str, ...] = ()
    language: str = "en"
    solutions: bool = False  # only rows with a solution (demonstrations always)
    tokenizer: str | None = None  # folder or hub id; None: prompts are not counted
    prompts: PromptsSection = PromptsSection()
    config: str | None = None  # of the hub data set
    split: str | None = None
    revision: str | None = None
    streaming: bool | None = None
    limit: int | None = None


class Prepared(BaseModel):
    """What came out: the files, and the manifest as it was written."""

    problems: Path
    removed: Path
    manifest_file: Path
    manifest: dict[str, Any]


def prepare(
    order: Order,
    out: Path,
    workers: int = 0,
    expected: dict[str, Any] | None = None,
    say: Callable[[str], None] | None = None,
) -> Prepared:
    """Read, clean and write. `workers`: judge processes; 0: one a core. `say` is told, a line at a
    time and before anything is judged, what the source and its columns are taken for.

    For `training` and `demonstrations` all checks run. An evaluation set is changed as little as
    can be: with rows removed it would be another benchmark, so only rows without problem or answer
    go. `expected`: an earlier manifest; nothing is written unless the same rows come out.

    Raises ValueError with one line.
    """
    started = time.perf_counter()
    if out.suffix != ".parquet":
        raise ValueError(f"--out {out}: must end in .parquet")
    require_place(out)
    if order.recipe not in RECIPES:
        raise ValueError(f"--recipe {order.recipe}: choose one of {', '.join(RECIPES)}")
    if order.language not in (*LANGUAGES, ANY_LANGUAGE):
        raise ValueError(
            f"--language {order.language}: choose one of {', '.join(LANGUAGES)} or {ANY_LANGUAGE}"
        )
    recipe = RECIPES[order.recipe].with_columns(order.columns)
    evaluations = {path: read_problems(path) for path in order.evaluations}
    source = _open(order)
    raw = iter(source.rows)
    sample = list(islice(raw, SAMPLE))
    if not sample:
        raise ValueError(f"{source.name}: has no rows; check the source and the split")
    recipe, lines = recipe.fitted(sample, source.name)
    if say is not None:
        for line in (*source.about, *(f"  {line}" for line in lines)):
            say(line)
    rows = []
    for row in recipe.rows(chain(sample, raw), source.name, source.place):
        rows.append(row)
        if len(rows) == order.limit:
            break
    unjudged: list[str] = []
    with Judges(workers or limits.cores(), GOLD_SECONDS, GOLD_MEMORY_MB, GradingRules()) as at:
        needs_solutions = order.purpose == "demonstrations" or order.solutions or recipe.traces
        checks: list[Check] = [faulty]
        answers = not (recipe.programs and order.purpose == "demonstrations")
        checks.append(incomplete(needs_solutions and order.purpose != "evaluation", answers))
        if order.purpose != "evaluation":
            checks.append(damaged)
            if order.language != ANY_LANGUAGE:
                checks.append(foreign(order.language))
            checks += [repeated(at), contaminated(evaluations)]
        if order.tokenizer and order.purpose == "training":
            checks.append(too_long(_template(order), order.prompts.max_tokens))
        if order.purpose == "training":
            checks.append(unreadable(at))
        if order.purpose != "evaluation":
            checks.append(contradicted(at, unjudged))
        kept, removed = clean(rows, checks)
    if not kept:
        if all(row.fault for row in rows):
            raise ValueError(f"{rows[0].fault}; name another column with --column FIELD=NAME")
        reason, _ = max(_counts(removed), key=lambda item: item[1])
        removed_file = out.with_suffix(".removed.parquet")
        _write(removed, removed_file)
        raise ValueError(
            f"{source.name}: no row of {len(rows)} is left (most common reason: {reason}; all are "
            f"in {removed_file}); check --column, --language, --evaluation and the limit of prompt "
            "tokens"
        )
    if not answers:
        for row in kept:  # without a gold answer a row needs to say what it has instead
            row.extra = row.extra or as_json({"program": True})
    problems = _table(kept)
    removed_file = out.with_suffix(".removed.parquet")
    outputs = {out.name: _content(problems), removed_file.name: _content(removed)}
    if expected and list(outputs.values()) != list(expected["outputs"].values()):
        made_with = ", ".join(f"{name} {it}" for name, it in expected["libraries"].items())
        raise ValueError(
            f"{source.name}: {len(kept)} rows come out, and not those of the manifest "
            f"({expected['rows']['kept']}, made with {made_with}); nothing was written"
        )
    _write(problems, out)
    _write(removed, removed_file)
    manifest = {
        "version": MANIFEST_VERSION,
        "order": order.model_dump(mode="json"),
        "source": source.origin,
        "evaluations": [
            {
                "file": str(Path(path).resolve()),
                "sha256": sha256_file(Path(path)),
                "rows": len(table),
            }
            for path, table in evaluations.items()
        ],
        "overlap": {
            "gram": near_duplicates.GRAM,
            "min_shared": near_duplicates.MIN_SHARED,
            "share": near_duplicates.SHARE,
        },
        "rows": {"read": len(rows), "kept": len(kept), "removed": dict(_counts(removed))},
        "mended": dict(Counter(what for row in rows for what in row.mended).most_common()),
        "several_answers": sum(len(acceptable(row.answer or "")) > 1 for row in kept),
        "solutions_without_an_answer": len(unjudged),
        "taken_for": lines,
        "outputs": outputs,
        "libraries": {
            name: version(name) for name in ("datasets", "math-verify", "pyarrow", "transformers")
        },
        "seconds": round(time.perf_counter() - started, 2),
    }
    manifest_file = write_json(out.with_suffix(".manifest.json"), manifest)
    return Prepared(
        problems=out, removed=removed_file, manifest_file=manifest_file, manifest=manifest
    )


def again(manifest_file: Path, out: Path | None, workers: int = 0) -> Prepared:
    """Prepare once more what a manifest describes.

    Raises ValueError, with nothing written, if an input has changed or other rows come out.
    """
    manifest = read_json(manifest_file)
    try:
        order = Order.model_validate(manifest["order"])
        sources = manifest["source"].get("files", [manifest["source"]])
        files = [entry for entry in (*sources, *manifest["evaluations"]) if "file" in entry]
        name = next(iter(manifest["outputs"]))
    except (KeyError, TypeError, ValidationError, StopIteration):
        raise ValueError(
            f"{manifest_file}: not a manifest of `icpo data prepare` of this version"
        ) from None
    for entry in files:
        path = Path(entry["file"])
        if not path.is_file() or sha256_file(path) != entry["sha256"]:
            raise ValueError(
                f"{path}: is not what {manifest_file.name} was made from; put the file of sha256 "
                f"{entry['sha256'][:12]}… back, or prepare anew without --again"
            )
    if "gym" in manifest["source"]:
        order = order.model_copy(update={"source": manifest["source"]["gym"]})
    elif "hub" in manifest["source"]:
        order = order.model_copy(update={"revision": manifest["source"]["revision"]})
    else:
        source = manifest["source"]
        order = order.model_copy(update={"source": source.get("path") or source["file"]})
    evaluations = tuple(entry["file"] for entry in manifest["evaluations"])
    order = order.model_copy(update={"evaluations": evaluations})
    return prepare(order, out or manifest_file.with_name(name), workers, expected=manifest)


def _open(order: Order) -> Source:
    recipe = RECIPES[order.recipe]
    name = order.source or recipe.hub
    if name is None:
        raise ValueError("name a file or a hub id, or choose a --recipe that has one")
    if name.startswith(gym.PREFIX):
        return gym.from_gym(name)
    # A hub id is NAME or OWNER/NAME without an ending; anything else was meant as a file.
    packed = any(name.endswith(ending) for ending in PACKED_ENDINGS)
    if Path(name).exists() or packed or Path(name).suffix in ENDINGS or glob.has_magic(name):
        return from_path(name, order.split)
    # Hub ids without an owner are of long ago: here it is more likely a recipe.
    if near := difflib.get_close_matches(name, RECIPES.keys() - {"columns"}, 1, 0.8):
        raise ValueError(f"{name}: is no file; a recipe is named by --recipe {near[0]}")
    own = order.source is None or order.source == recipe.hub
    streaming = recipe.streaming and own if order.streaming is None else order.streaming
    return from_hub(
        name,
        order.config or (recipe.config if own else None),
        order.split or (recipe.split if own else None),
        order.revision,
        streaming,
    )


def _template(order: Order) -> Template:
    assert order.tokenizer
    try:
        tokenizer = load_tokenizer(order.tokenizer)
    except (OSError, ValueError) as error:
        first = (str(error).splitlines() or [""])[0].rstrip(".")
        raise ValueError(
            f"--tokenizer {order.tokenizer}: cannot be loaded ({first}); give a model's folder or "
            "hub id"
        ) from error
    return Template(tokenizer, order.prompts)


def _table(rows: list[Row]) -> pa.Table:
    """Rows as table "problems", with `score` where there are any; ids are made to differ."""
    seen: dict[str, int] = {}
    ids = []
    for row in rows:
        seen[row.id] = seen.get(row.id, 0) + 1
        ids.append(row.id if seen[row.id] == 1 else f"{row.id}-{seen[row.id]}")
    columns = {
        "id": ids,
        "problem": [row.problem for row in rows],
        "answer": [row.answer or "" for row in rows],
        "solution": [row.solution for row in rows],
        "source": [row.source for row in rows],
    }
    table = pa.table(columns, schema=tables.TABLES["problems"])
    scores = [row.score for row in rows]
    if any(score is not None for score in scores):
        table = table.append_column("score", pa.array(scores, pa.float64()))
    extras = [row.extra for row in rows]
    if any(extra is not None for extra in extras):
        table = table.append_column(tables.EXTRA, pa.array(extras, pa.string()))
    return table


def _write(table: pa.Table, path: Path) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def _content(table: pa.Table) -> dict[str, Any]:
    """Rows, and a digest of them that does not hang on how Parquet lays them out."""
    digest = hashlib.sha256()
    for batch in table.to_batches(max_chunksize=10_000):
        for row in batch.to_pylist():
            digest.update(json.dumps(row, sort_keys=True).encode())
    return {"rows": table.num_rows, "content": digest.hexdigest()}


def _counts(removed: pa.Table) -> list[tuple[str, int]]:
    """Rows a reason, in the order of the checks."""
    counts = Counter(removed.column("reason").to_pylist())
    return [(str(reason), counts[reason]) for reason in Reason if reason in counts]
