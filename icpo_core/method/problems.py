"""Problem sets on disk: training problems, demonstration pools and benchmarks."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from icpo_core.method import gym
from icpo_core.method.near_duplicates import spelled
from icpo_core.store import tables
from icpo_core.store.tables import EXTRA

ID_DIGITS = 16
_COLUMNS = tables.TABLES["problems"].names
SCORE = "score"
_PART = re.compile(
    r"[\u3400-\u9fff]|[^\W\d_\u3400-\u9fff]+'*|\d+(?:\.\d+)?|!=|[-+*/=<>^!|%(){}\[\]]"
)


def read_problems(path: str) -> pa.Table:
    """Read a problem set from Parquet, JSONL (or a JSON array) or CSV.

    Returns table "problems" (`id`, `problem`, `answer`, `solution`, `source`) in the file's order,
    followed by `score` (float64, nullable) where the file has such a column: by it demonstrations
    are called better or worse; and by `extra` (JSON, nullable), which is for verifiers. Other
    columns are left out. An absent `id` is made of the problem's text (`problem_id`), an absent
    `source` is the file's name; an answer that is a number becomes its text.

    `reasoning-gym:FAMILY?size=1000&seed=1` is a problem set, too: its rows are made anew, a problem
    that is made twice stands once.

    Raises ValueError with one line that names the mend: no such file, damaged or cut short, a
    missing column, a missing value, a duplicate id, no rows.
    """
    if path.startswith(gym.PREFIX):
        return _from_gym(path)
    file = Path(path)
    if file.is_dir():
        raise ValueError(f"{path}: is a folder; name one Parquet, JSONL or CSV file in it")
    if not file.is_file():
        raise ValueError(
            f"{path}: no such file; check the path, or make it from a hub data set or another file "
            "with `icpo data prepare`"
        )
    rows = list(_rows(read_rows(file, (*_COLUMNS, SCORE, EXTRA)), file))
    if not rows:
        raise ValueError(f"{path}: has no rows; name another file")
    first: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        if row["id"] in first:
            raise ValueError(
                f"{path}: rows {first[row['id']]} and {number} have the same id {row['id']!r}; ids "
                "must differ (`icpo data prepare` removes duplicates)"
            )
        first[row["id"]] = number
    schema = tables.TABLES["problems"]
    scores = [row.pop(SCORE, None) for row in rows]
    extras = [row.pop(EXTRA, None) for row in rows]
    problems = tables.check("problems", pa.Table.from_pylist(rows, schema=schema), path)
    if any(score is not None for score in scores):
        problems = problems.append_column(SCORE, pa.array(scores, pa.float64()))
    if any(one is not None for one in extras):
        problems = problems.append_column(EXTRA, pa.array(extras, pa.string()))
    return problems


def _from_gym(name: str) -> pa.Table:
    """Table "problems" with `extra`, of generated problems; without an answer."""
    made = {row["problem"]: row["extra"] for row in reversed(gym.problems(name))}
    source = name.removeprefix(gym.PREFIX).partition("?")[0]
    rows = [
        {"id": problem_id(text), "problem": text, "answer": "", "source": source}
        for text in reversed(made)
    ]
    table = tables.check(
        "problems", pa.Table.from_pylist(rows, schema=tables.TABLES["problems"]), name
    )
    extras = [as_json(entry) for entry in reversed(made.values())]
    return table.append_column(EXTRA, pa.array(extras, pa.string()))


def as_json(value: Any) -> str | None:
    """A value of column `extra` as JSON; a text is taken as JSON if it is some."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError, RecursionError):  # it is a text
            value = json.loads(value)
    return None if value is None else json.dumps(value, sort_keys=True, default=str)


def normal_text(problem: str) -> str:
    """Normal form for duplicate tests: two texts with the same one put the same problem.

    Case, white space, punctuation and LaTeX that only changes a formula's looks are dropped and
    spellings of one operator are made one; words, numbers, operators and grouping stay.
    """
    parts = _PART.findall(spelled(problem))
    # In 2^{n} braces say nothing, in 2^{n+1} they do.
    kept: list[str] = []
    for at, part in enumerate(parts):
        if part == "{" and parts[at + 2 : at + 3] == ["}"]:
            continue
        if part == "}" and at >= 2 and parts[at - 2] == "{":
            continue
        if part[0].isdigit() and kept and kept[-1][-1].isdigit():
            kept.append(" ")  # 1 23 is not 12 3
        kept.append("(" if part in "{[" else ")" if part in "}]" else part)
    return "".join(kept)


def problem_id(problem: str) -> str:
    """First 16 hex digits of the SHA-256 of the problem's text."""
    return hashlib.sha256(problem.encode()).hexdigest()[:ID_DIGITS]


def read_rows(file: Path, columns: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The rows of a Parquet, JSONL, JSON or CSV file, told by its ending.

    Values of a CSV file are texts, an empty one is None. Of a Parquet file only `columns` are read
    if any are given; a text file's other columns are there all the same. Raises ValueError with one
    line.
    """
    ending = file.suffix.lower()
    try:
        if ending == ".parquet":
            return _parquet_rows(file, columns)
        if ending == ".jsonl":
            return _json_lines(file)
        if ending == ".json":
            return _json_rows(file)
        if ending == ".csv":
            return csv_rows(file.read_text("utf-8-sig"), file)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror or error})") from error
    raise ValueError(f"{file}: must end in .parquet, .jsonl, .json or .csv; rename or convert it")


def text_of(value: Any) -> str | None:
    """A text or a number as text; None for what is absent or blank. Raises TypeError otherwise."""
    if isinstance(value, str):
        return value if value.strip() else None
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # columns of whole numbers with gaps come as floats
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return str(value)
    raise TypeError(f"a text or a number is needed, not {type(value).__name__}")


def _rows(rows: Iterable[Mapping[str, Any]], file: Path) -> Iterator[dict[str, Any]]:
    """Rows of the contract; `score` and `extra` only where the file has them."""
    for number, raw in enumerate(rows, 1):
        needed = ["problem"] if raw.get(EXTRA) is not None else ["problem", "answer"]
        for column in needed:
            if column not in raw:
                known = ", ".join(map(str, list(raw)[:12])) or "none"
                raise ValueError(
                    f"{file}: column {column!r} is missing (row {number} has {known}); rename it, "
                    "or name your columns to `icpo data prepare`"
                )
        row: dict[str, Any] = {}
        for column in _COLUMNS:
            try:
                row[column] = text_of(raw.get(column))
            except TypeError as error:
                raise ValueError(f"{file}: row {number}, column {column!r}: {error}") from None
            if row[column] is None and column in needed:
                raise ValueError(f"{file}: row {number} has no {column}; fill it or drop the row")
        row["answer"] = row["answer"] or ""  # what is right is said by column `extra`
        row["id"] = row["id"] or problem_id(row["problem"])
        row["source"] = row["source"] or file.stem
        if raw.get(EXTRA) is not None:
            row[EXTRA] = as_json(raw[EXTRA])
        try:
            score = text_of(raw.get(SCORE))
            if score is not None:
                row[SCORE] = float(score)
        except (TypeError, ValueError):
            raise ValueError(
                f"{file}: row {number}, column {SCORE!r}: {raw[SCORE]!r} is no number"
            ) from None
        yield row


def _parquet_rows(file: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    try:
        names = pq.read_schema(file).names
        wanted = [name for name in columns if name in names]
        # Where a needed column is missing, all are read, so that the complaint can list them.
        whole = not columns or not {"problem", "answer"} <= set(wanted)
        table = pq.read_table(file, columns=None if whole else wanted, partitioning=None)
        rows: list[dict[str, Any]] = table.to_pylist()
        return rows
    except (pa.ArrowException, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{file}: not a whole Parquet file ({reason}); make it again") from error


def _json_lines(file: Path) -> list[dict[str, Any]]:
    with file.open(encoding="utf-8-sig") as lines:
        return [
            json_object(line, f"{file}: line {number}")
            for number, line in enumerate(lines, 1)
            if line.strip()
        ]


def json_object(text: str, where: str) -> dict[str, Any]:
    """A line of JSON as a row. Raises ValueError with one line that begins with `where`."""
    try:
        value = json.loads(text, object_pairs_hook=distinct)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{where} is not valid JSON ({error.msg} at column {error.colno}); "
            "is the file cut short?"
        ) from None
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, brackets without end
        raise ValueError(f"{where} cannot be read as JSON ({error}); mend or drop it") from None
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be a JSON object with problem and answer")
    return value


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, for `object_pairs_hook`. Raises ValueError for a key that stands twice:
    the other value would be lost without a word."""
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice")
    return made


def _json_rows(file: Path) -> list[dict[str, Any]]:
    text = file.read_text("utf-8-sig")
    if not text.lstrip().startswith("["):
        return _json_lines(file)
    try:
        rows: list[dict[str, Any]] = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{file}: line {error.lineno} is not valid JSON ({error.msg}); is the file cut short?"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: cannot be read as JSON ({error}); mend it") from None
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{file}: every element must be a JSON object with problem and answer")
    return rows


def csv_rows(
    text: str, file: Path, delimiter: str = ",", quoted: bool = True
) -> list[dict[str, Any]]:
    """The rows of a table in text, with a header; an empty value is None. `quoted`: a field may
    stand in double quotes. Raises ValueError with one line that names the line."""
    # A field may be as long as the file: worked solutions pass csv's default of 128 KiB.
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    lines = csv.reader(
        io.StringIO(text, newline=""),
        strict=True,
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
    )
    rows: list[dict[str, Any]] = []
    try:
        header = [name.strip() for name in next(lines, [])]
        while header and not header[-1]:
            header.pop()  # a spreadsheet ends its lines in empty fields
        named = [name for name in header if name]
        if len(set(named)) < len(named):
            twice = next(name for name in named if named.count(name) > 1)
            raise ValueError(f"{file}: two columns are called {twice!r}; rename or drop one")
        for fields in lines:
            if not any(fields):
                continue  # a blank line
            if any(fields[len(header) :]) or len(fields) < len(header):
                raise ValueError(
                    f"{file}: line {lines.line_num} has {len(fields)} fields, the header "
                    f"{len(header)}; is the file cut short, or a {_named(delimiter)} unquoted?"
                )
            rows.append({name: field or None for name, field in zip(header, fields, strict=False)})
    except csv.Error as error:
        raise ValueError(
            f"{file}: line {lines.line_num} is not valid CSV ({error}); is the file cut short?"
        ) from None
    return rows


def _named(delimiter: str) -> str:
    return {",": "comma", ";": "semicolon", "\t": "tab"}.get(delimiter, delimiter)
