"""Files as people have them: packed or not, in whatever encoding, told by what is in them.

Parquet and Arrow are read by pyarrow. Text is unpacked and decoded first (UTF-8, UTF-16 and UTF-32
by their mark, else Windows-1252), then read as JSON or as a table, whatever its ending says.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from icpo_core.method.problems import csv_rows, distinct, json_object
from icpo_core.store.tables import read_bytes

Rows = list[dict[str, Any]]

TABLES = (".csv", ".tsv", ".tab", ".psv")
LINES = (".json", ".jsonl", ".ndjson", ".jsonlines")
PACKED: Mapping[bytes, tuple[str, Callable[[bytes], bytes]]] = {
    b"\x1f\x8b": ("gzip", gzip.decompress),
    b"\x28\xb5\x2f\xfd": ("zstd", lambda data: _zstd(data)),
    b"BZh": ("bzip2", bz2.decompress),
    b"\xfd7zXZ\x00": ("xz", lzma.decompress),
}
PACKED_ENDINGS = (".gz", ".zst", ".bz2", ".xz")
ENDINGS = (".parquet", ".arrow", *LINES, *TABLES)
"""Endings of files that hold rows, packed or not."""
_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig", "UTF-8 with a byte order mark"),
    (b"\xff\xfe\x00\x00", "utf-32", "UTF-32"),
    (b"\x00\x00\xfe\xff", "utf-32", "UTF-32"),
    (b"\xff\xfe", "utf-16", "UTF-16"),
    (b"\xfe\xff", "utf-16", "UTF-16"),
)
_REFUSED = (
    (b"\xd0\xcf\x11\xe0", "is an Excel workbook (.xls); save the sheet as CSV UTF-8"),
    (b"SQLite format 3", "is an SQLite database; export the table as CSV"),
    (b"version https://git-lfs", "is a Git LFS pointer and not the data; run git lfs pull"),
    (b"%PDF", "is a PDF; give the data as JSONL or CSV"),
    (b"\x80\x04\x95", "is a Python pickle; save the rows as JSONL or Parquet"),
)
_SHEETS = (".xlsx", ".xlsm", ".ods")
_PAGE = re.compile(r"\s*<(?:!doctype html|html|head|\?xml)", re.I)
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_SAMPLE_LINES = 50


def read_file(file: Path) -> tuple[Rows, str]:
    """The rows of a file, and in a few words what it was taken for.

    Raises ValueError with one line that names the file, the place and the fix.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror or error})") from error
    about: list[str] = []
    ending = file.suffix.lower()
    for mark, (kind, unpack) in PACKED.items():
        if data.startswith(mark):
            about, ending = [kind], Path(file.stem).suffix.lower()
            try:
                data = unpack(data)
            except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise ValueError(
                    f"{file}: not a whole {kind} file ({reason}); make it again"
                ) from None
            break
    if not about and ending in PACKED_ENDINGS and data:
        raise ValueError(f"{file}: is not packed as {ending} says; rename it, or make it again")
    _refuse(data, file)
    if data.startswith(b"PAR1") or ending == ".parquet":
        return _parquet(data, file), ", ".join(["Parquet", *about])
    if data.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return _arrow(data, file), ", ".join(["Arrow", *about])
    text, encoding = _decoded(data, file)
    rows, shape = _rows(text, ending, file)
    return rows, ", ".join([shape, *about, *encoding])


def _zstd(data: bytes) -> bytes:
    with pa.CompressedInputStream(pa.BufferReader(data), "zstd") as stream:
        found: bytes = stream.read()
    return found


def _refuse(data: bytes, file: Path) -> None:
    for mark, why in _REFUSED:
        if data.startswith(mark):
            raise ValueError(f"{file}: {why}")
    if data.startswith(b"PK\x03\x04"):
        if file.suffix.lower() in _SHEETS or b"xl/" in data[:4096]:
            raise ValueError(f"{file}: is an Excel workbook; save the sheet as CSV UTF-8")
        raise ValueError(f"{file}: is a zip archive; unpack it and name the file in it")
    if data[257:262] == b"ustar":
        raise ValueError(f"{file}: is a tar archive; unpack it and name the file in it")


def _parquet(data: bytes, file: Path) -> Rows:
    try:
        table = read_bytes(data)
        return _listed(table, file)
    except (pa.ArrowException, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{file}: not a whole Parquet file ({reason}); make it again") from error


def _arrow(data: bytes, file: Path) -> Rows:
    # On one thread, for the reason that read_bytes has.
    one = pa.ipc.IpcReadOptions(use_threads=False)
    kind = pa.ipc.open_file if data.startswith(b"ARROW1") else pa.ipc.open_stream
    try:
        return _listed(kind(pa.BufferReader(data), options=one).read_all(), file)
    except (pa.ArrowException, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{file}: not a whole Arrow file ({reason}); make it again") from error


def _listed(table: pa.Table, file: Path) -> Rows:
    names = table.column_names
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{file}: two columns are called {twice!r}; rename or drop one")
    rows: Rows = table.to_pylist()
    return rows


def _decoded(data: bytes, file: Path) -> tuple[str, list[str]]:
    """The text, and its encoding where it is not plain UTF-8."""
    for mark, codec, name in _MARKS:
        if data.startswith(mark):
            try:
                return data.decode(codec).removeprefix("\ufeff"), [name]
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{file}: not UTF-8 text, and not {name} as its first bytes say "
                    f"({error.reason} at byte {error.start}); save it as UTF-8"
                ) from None
    head = data[:400]
    if len(head) >= 4 and head.count(0) > len(head) // 3:  # ASCII in UTF-16 has every other byte 0
        for codec, zeros in (("utf-16-le", head[1::2]), ("utf-16-be", head[::2])):
            if zeros.count(0) > 0.9 * len(zeros):
                try:
                    return data.decode(codec), ["UTF-16 without a mark"]
                except UnicodeDecodeError:
                    break
    if b"\0" in data[:100_000]:
        at = data.index(b"\0")
        raise ValueError(
            f"{file}: holds binary data (byte {at} is 0) and no Parquet, Arrow or text; "
            "save it as Parquet, JSONL or CSV"
        )
    try:
        return data.decode("utf-8"), []
    except UnicodeDecodeError as error:
        return _western(data, error, file)


def _western(data: bytes, error: UnicodeDecodeError, file: Path) -> tuple[str, list[str]]:
    """Text that is not UTF-8, if it can be taken for Windows-1252.

    There an accent or a sign stands among letters, each a byte. Runs of such bytes are another
    script; whole UTF-8 characters beside broken ones are a damaged file.
    """
    line = data.count(b"\n", 0, error.start) + 1
    where = f"{file}: line {line} is not UTF-8 text ({error.reason} at byte {error.start})"
    replaced = data.decode("utf-8", "replace")
    broken = replaced.count("\ufffd")
    whole = sum(map(len, re.findall(r"[^\x00-\x7f\ufffd]+", replaced)))
    runs = [len(run) for run in re.findall(rb"[\x80-\xff]+", data)]
    script = sum(length for length in runs if length > 2) > sum(runs) // 5
    if whole > (broken if script else broken // 10):
        raise ValueError(f"{where}, and the rest is; mend that line")
    if script:
        raise ValueError(f"{where}, and no western text either; save it as UTF-8")
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError:
        raise ValueError(f"{where}, nor Windows-1252; save it as UTF-8") from None
    first = data[error.start : error.start + 1].decode("cp1252")
    return text, [f"Windows-1252, as {first!r} in line {line}: save it as UTF-8 if that is wrong"]


def _rows(text: str, ending: str, file: Path) -> tuple[Rows, str]:
    if _PAGE.match(text):
        raise ValueError(f"{file}: is a web page and not data; download the raw file")
    if ending in TABLES and not _is_json(text):
        return _table(text, ending, file)
    if ending in LINES or _is_json(text):
        return _json(text, ending, file)
    if any(delimiter in text.partition("\n")[0] for delimiter in (",", ";", "\t")):
        return _table(text, ending, file)
    raise ValueError(
        f"{file}: must end in .parquet, .jsonl, .json, .csv or .tsv; rename or convert it"
    )


def _is_json(text: str) -> bool:
    start = text[:1000].lstrip()
    return re.match(r'\{\s*"|\[\s*\{|\{\s*\}', start) is not None


def _table(text: str, ending: str, file: Path) -> tuple[Rows, str]:
    told = re.match(r"sep=(.)\r?\n", text)  # Excel's own line
    if told:
        text = text[told.end() :]
    delimiter = told[1] if told else _delimiter(text, ending)
    shape = f"a table with {_DELIMITERS.get(delimiter, repr(delimiter))}"
    try:
        rows = csv_rows(text, file, delimiter)
    except ValueError:
        if delimiter != "\t":
            raise
        rows = csv_rows(text, file, delimiter, quoted=False)  # in TSV a quote is often a quote
    if not rows and text.strip():
        raise ValueError(f"{file}: has a header and no rows; check how it was saved")
    return rows, shape


def _delimiter(text: str, ending: str) -> str:
    """What parts the header into most fields, of those that part the lines below it alike."""
    best, most = ("\t" if ending in (".tsv", ".tab") else ","), (False, 1)
    for delimiter in _DELIMITERS:
        try:
            stream = io.StringIO(text, newline="")
            found = [
                len(fields)
                for fields, _ in zip(
                    csv.reader(stream, delimiter=delimiter), range(_SAMPLE_LINES), strict=False
                )
                if fields
            ]
        except csv.Error:
            continue
        score = (len(set(found)) == 1 and found[0] > 1, found[0] if found else 0)
        if score[1] > 1 and score > most:
            best, most = delimiter, score
    return best


def _json(text: str, ending: str, file: Path) -> tuple[Rows, str]:
    start = text.lstrip()[:1]
    if start == "[":
        try:
            value = json.loads(text, object_pairs_hook=distinct)
            if all(isinstance(row, dict) for row in value):
                return value, "a JSON array"
        except json.JSONDecodeError as error:
            if ending == ".json" or "\n" not in text.strip():
                raise ValueError(
                    f"{file}: line {error.lineno} is not valid JSON ({error.msg}); "
                    "is the file cut short?"
                ) from None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file}: cannot be read as JSON ({error}); mend it") from None
    try:
        rows = [
            json_object(line, f"{file}: line {number}")
            for number, line in enumerate(io.StringIO(text, newline=None), 1)
            if line.strip()
        ]
        shape = "JSON lines"
    except ValueError:
        found = _objects(text)
        if found is None:
            raise
        rows, shape = found, "JSON objects, one after another"
    if len(rows) == 1:
        return _opened(rows[0], shape)
    return rows, shape


def _objects(text: str) -> Rows | None:
    """Objects that are spread over several lines; None if the text is not made of such."""
    decoder, at, rows = json.JSONDecoder(object_pairs_hook=distinct), 0, []
    space = re.compile(r"[\s,]*")
    while (at := space.match(text, at).end()) < len(text):  # type: ignore[union-attr]
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            return None
        if not isinstance(value, dict):
            return None
        rows.append(value)
    return rows


def _opened(one: dict[str, Any], shape: str) -> tuple[Rows, str]:
    """The rows of a single object: a list in it, or columns of the same length; else itself."""
    lists = {
        name: value
        for name, value in one.items()
        if isinstance(value, list) and value and all(isinstance(row, dict) for row in value)
    }
    texts = any(isinstance(value, str) for value in one.values())
    if len(lists) == 1 and not {"problem", "question", "prompt"} & one.keys():
        ((name, rows),) = lists.items()
        if "role" not in rows[0]:
            return rows, f"a JSON object, the list {name!r} in it"
    columns = list(one.values())
    if len(columns) > 1 and not texts:
        if all(isinstance(column, list) for column in columns):
            lengths = {len(column) for column in columns}
            if len(lengths) == 1 and lengths != {1}:
                rows = [dict(zip(one, row, strict=True)) for row in zip(*columns, strict=True)]
                return rows, "a JSON object of columns"
        if all(isinstance(column, dict) for column in columns):
            keys = list(columns[0])
            if all(list(column) == keys for column in columns):
                rows = [{name: one[name][key] for name in one} for key in keys]
                return rows, "a JSON object of columns, as pandas writes it"
    return [one], shape
